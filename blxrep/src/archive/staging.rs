//! Where restored things are made: a folder in the target that only this user can enter.

use super::ArchiveError;
use super::xattr::{self, Maker};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Its name; below the target, so that a rename is enough.
pub const STAGING: &str = ".blxrep-restore";
/// Compared at once.
const COMPARED_BYTES: usize = 256 << 10;
/// No filesystem loses less at once.
const TORN_BYTES: usize = 512;
/// How everything below the target is opened: no link leads out of it.
pub(super) const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// How folders are opened.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Renames unless the name is taken.
pub(super) fn rename_new(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    new: &[u8],
) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Network filesystems cannot do both at once.
        Err(Errno::INVAL) => match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
            Err(error) => Err(error),
        },
        done => done,
    }
}

/// Opens the staging folder, empty, for this restore alone; and the times that the target had before, which an
/// interrupted restore may have kept there.
pub(super) fn open_staging(root: &OwnedFd) -> Result<(OwnedFd, Timestamps), ArchiveError> {
    let before = rustix::fs::fstat(root).map_err(ArchiveError::errno("look at", "the target"))?;
    let staging = make(root)?;
    let times = xattr::kept_times(&staging).unwrap_or_else(|| {
        let time = |tv_sec, nanos| Timespec { tv_sec, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
        let times = Timestamps {
            last_access: time(before.st_atime, before.st_atime_nsec),
            last_modification: time(before.st_mtime, before.st_mtime_nsec),
        };
        xattr::keep_times(&staging, Some(&times));
        times
    });
    Ok((staging, times))
}

/// The staging folder, locked and empty: made, or taken over from a restore that was interrupted.
fn make(root: &OwnedFd) -> Result<OwnedFd, ArchiveError> {
    if let Some(staging) = make_new(root)? {
        return Ok(staging);
    }
    let staging = open(root)?;
    let refuse = |why: String| {
        let remedy = "remove it, or choose another target";
        Err(ArchiveError::Refused(format!("{STAGING} in the target folder {why}; {remedy}")))
    };
    let stat = rustix::fs::fstat(&staging).map_err(ArchiveError::errno("look at", STAGING))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse(format!("belongs to user {}", stat.st_uid));
    }
    lock(&staging)?;
    match xattr::maker(&staging) {
        Maker::Restore => {
            rustix::fs::fchmod(&staging, Mode::RWXU)
                .map_err(ArchiveError::errno("close to others", STAGING))?;
            empty(staging.as_fd());
            return Ok(staging);
        }
        // That of a restore was never open to others.
        Maker::Unknown if stat.st_mode & 0o7777 == 0o700 => empty(staging.as_fd()),
        // Nothing of somebody else's is removed, but the bare folder: a restore may have died before it could mark it.
        Maker::Unknown | Maker::Another => {}
    }
    // Whoever prepared it, or has it open, has another one than this restore.
    match rustix::fs::unlinkat(root, STAGING, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::NOTEMPTY | Errno::EXIST) => return refuse("was not made by a restore".to_owned()),
        Err(error) => return Err(ArchiveError::errno("remove", STAGING)(error)),
    }
    make_new(root)?.ok_or_else(busy)
}

/// Makes it, unless there is one.
fn make_new(root: &OwnedFd) -> Result<Option<OwnedFd>, ArchiveError> {
    match rustix::fs::mkdirat(root, STAGING, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(None),
        Err(error) => return Err(ArchiveError::errno("make", STAGING)(error)),
    }
    let staging = open(root)?;
    lock(&staging)?;
    rustix::fs::fchmod(&staging, Mode::RWXU).map_err(ArchiveError::errno("close to others", STAGING))?;
    xattr::mark_staging(&staging);
    Ok(Some(staging))
}

fn open(root: &OwnedFd) -> Result<OwnedFd, ArchiveError> {
    rustix::fs::openat2(root, STAGING, FOLDER, Mode::empty(), CONFINED)
        .map_err(ArchiveError::errno("open", STAGING))
}

fn lock(staging: &OwnedFd) -> Result<(), ArchiveError> {
    match rustix::fs::flock(staging, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(busy()),
        Err(error) => Err(ArchiveError::errno("lock", STAGING)(error)),
    }
}

fn busy() -> ArchiveError {
    ArchiveError::Refused("another restore to this folder is going on; wait for its end".to_owned())
}

/// Removes what an interrupted restore left in its staging folder: files, and folders without anything in them.
pub(super) fn empty(staging: BorrowedFd<'_>) {
    let Ok(dir) = Dir::read_from(staging) else { return };
    for entry in dir.flatten() {
        let name = entry.file_name();
        if rustix::fs::unlinkat(staging, name, AtFlags::empty()).is_err() {
            let _ = rustix::fs::unlinkat(staging, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Whether two files of the same length hold the same.
pub fn equal(a: &File, b: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    let mut at = 0;
    loop {
        let n = read_full(a, &mut left, at)?;
        if read_full(b, &mut right, at)? != n || left[..n] != right[..n] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
        at += n as u64;
    }
}

/// Whether another file of the same length differs only in what was never written: a power cut between a file's name and
/// its content leaves zeroes.
pub(super) fn is_torn(whole: &File, other: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    let mut at = 0;
    loop {
        let n = read_full(whole, &mut left, at)?;
        if read_full(other, &mut right, at)? != n {
            return Ok(false);
        }
        let mut blocks = left[..n].chunks(TORN_BYTES).zip(right[..n].chunks(TORN_BYTES));
        if !blocks.all(|(whole, other)| whole == other || other.iter().all(|byte| *byte == 0)) {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
        at += n as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
