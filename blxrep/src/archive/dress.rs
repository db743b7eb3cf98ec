//! What a restored thing gets besides its content: owner, attributes, permissions, times. And what can go wrong with one.

use super::{Entry, Kind, Meta, Time, shown, xattr};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::io;

/// What did not work of one entry.
#[derive(Debug)]
pub(super) struct Failure {
    pub what: &'static str,
    pub source: io::Error,
}

impl Failure {
    pub fn of(what: &'static str, error: Errno) -> Self {
        Self { what, source: error.into() }
    }

    pub fn of_errno(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |error| Self::of(what, error)
    }

    pub fn of_xattr((name, source): (Vec<u8>, io::Error)) -> Self {
        let text = format!("{}: {source}", shown(&name));
        // The number is what tells a full disk from a filesystem that knows no attributes.
        let source = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EIO) => source,
            _ => io::Error::other(text),
        };
        Self { what: "set its extended attribute", source }
    }
}

fn owner(meta: &Meta) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(meta.uid)), Some(rustix::fs::Gid::from_raw(meta.gid)))
}

fn times(meta: &Meta) -> Timestamps {
    let time = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) }
}

/// The same for a folder, and its mark goes: last, for that does not change its times.
pub(super) fn dress_folder(fd: &OwnedFd, meta: &Meta) -> Result<(), Failure> {
    let (uid, gid) = owner(meta);
    rustix::fs::fchown(fd, uid, gid).map_err(Failure::of_errno("set its owner"))?;
    xattr::write(fd, b".", &meta.xattrs).map_err(Failure::of_xattr)?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode))
        .map_err(Failure::of_errno("set its permissions"))?;
    rustix::fs::futimens(fd, &times(meta)).map_err(Failure::of_errno("set its times"))?;
    xattr::mark(fd, false);
    Ok(())
}

/// Owner, attributes, permissions and times of something in the staging folder. In this order: each of the first
/// three may take away what the ones before gave.
pub(super) fn dress(staging: &OwnedFd, temporary: &str, entry: &Entry) -> Result<(), Failure> {
    let (meta, name) = (&entry.meta, temporary.as_bytes());
    let (uid, gid) = owner(meta);
    rustix::fs::chownat(staging, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Failure::of_errno("set its owner"))?;
    xattr::write(staging, name, &meta.xattrs).map_err(Failure::of_xattr)?;
    if !matches!(entry.kind, Kind::Symlink { .. }) {
        rustix::fs::chmodat(staging, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
            .map_err(Failure::of_errno("set its permissions"))?;
    }
    rustix::fs::utimensat(staging, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(Failure::of_errno("set its times"))
}

/// Of a folder that is bare, where marks cannot be kept. It is not dressed: what a person has closed to others is not
/// opened to them.
pub(super) const UNMARKED: &str = "an earlier attempt may have made this folder, and its filesystem keeps no `trusted.*` \
                                   attributes that would tell: its owner, permissions and times stay; set them, or restore \
                                   with overwrite";

/// Whether a folder is as a restore makes it, before it is dressed.
pub(super) fn is_bare(folder: &OwnedFd, meta: &Meta) -> bool {
    let own = rustix::process::geteuid().as_raw();
    rustix::fs::fstat(folder).is_ok_and(|stat| {
        let is_dressed = (0o700, own, meta.mtime.seconds) == (meta.mode & 0o7777, meta.uid, stat.st_mtime);
        stat.st_mode & 0o7777 == 0o700 && stat.st_uid == own && !is_dressed
    })
}
