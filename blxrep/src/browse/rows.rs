//! Partitions and files as the API shows them, and paths within a point.

use crate::api::browse::{FileRow, PartitionRow};
use crate::api::error::ApiError;
use crate::archive::walk::kind_of;
use crate::archive::{Kind, Name, selection, shown};
use crate::model::byte_text::ByteText;
use crate::model::contents::{Access, Part};
use crate::model::part_id::PartId;
use jiff::Timestamp;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat};
use std::io;

pub fn partition(part: &Part) -> PartitionRow {
    let note = match &part.access {
        Access::Mount(_) => String::new(),
        Access::Never(why) => why.clone(),
    };
    PartitionRow {
        partition: part.id.clone(),
        start: part.extents.find(0).map_or(0, |place| place.start),
        bytes: part.bytes,
        kind: part.kind.clone(),
        label: part.label.clone(),
        uuid: part.uuid.clone(),
        type_code: part.type_code.clone(),
        name: part.name.clone(),
        browsable: part.mounting().is_some(),
        note,
    }
}

/// One name of a folder, which `above` leads to.
pub fn file(
    partition: &PartId,
    folder: BorrowedFd<'_>,
    above: &[Name],
    name: &Name,
) -> Result<FileRow, io::Error> {
    let stat: Stat = rustix::fs::statat(folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = kind_of(folder, name, &stat, true)?;
    let names: Vec<Name> = above.iter().chain([name]).cloned().collect();
    let raw = raw_path(&names);
    Ok(FileRow {
        partition: partition.clone(),
        name: shown(name.as_bytes()),
        path: shown(raw.as_bytes()),
        raw,
        kind: kind.kind(),
        mode: format!("{:04o}", stat.st_mode & 0o7777),
        uid: stat.st_uid,
        gid: stat.st_gid,
        bytes: stat.st_size.unsigned_abs(),
        modified: instant(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        target: if let Kind::Symlink { target } = kind { Some(shown(&target)) } else { None },
    })
}

fn instant(seconds: i64, nanos: u32) -> String {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    Timestamp::new(seconds, nanos).map_or_else(|_| format!("{seconds}"), |instant| instant.to_string())
}

/// A path from the root.
pub fn raw_path(names: &[Name]) -> ByteText {
    let mut bytes = Vec::new();
    for name in names {
        bytes.push(b'/');
        bytes.extend(name.as_bytes());
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    bytes.into()
}

/// The components of a path that somebody asked for.
pub fn components(path: &ByteText) -> Result<Vec<Name>, ApiError> {
    selection::path(path.as_bytes()).ok_or_else(|| {
        let why = "it has `..`, a NUL or a name longer than 255 bytes in it";
        ApiError::invalid(format!("`{}` is no path of a point: {why}", shown(path.as_bytes())))
    })
}

/// A folder below a root; links are not followed.
pub fn open_below(root: BorrowedFd<'_>, path: &[Name]) -> Result<OwnedFd, ApiError> {
    let mut folder = root.try_clone_to_owned().map_err(|e| failed(path, &e))?;
    for name in path {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let below = rustix::fs::openat2(&folder, name.as_bytes(), flags, Mode::empty(), resolve);
        folder = below.map_err(|e| failed(path, &e.into()))?;
    }
    Ok(folder)
}

/// The folder that a path names, or, if it is none, the one that it is in, and its name.
pub fn enter(root: BorrowedFd<'_>, path: &[Name]) -> Result<(OwnedFd, Option<Name>), ApiError> {
    let Some((last, above)) = path.split_last() else { return Ok((open_below(root, path)?, None)) };
    let folder = open_below(root, above)?;
    let stat = rustix::fs::statat(folder.as_fd(), last.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed(path, &e.into()))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => Ok((open_below(root, path)?, None)),
        _ => Ok((folder, Some(last.clone()))),
    }
}

/// What went wrong at a path that somebody asked for.
pub fn failed(path: &[Name], error: &io::Error) -> ApiError {
    let path = shown(raw_path(path).as_bytes());
    match error.raw_os_error() {
        Some(libc::ENOENT) => ApiError::not_found(format!("the point has no {path}")),
        Some(libc::ELOOP | libc::ENOTDIR) => ApiError::refused(format!(
            "{path} leads through something that is no folder; of a symbolic link, name the path behind it"
        )),
        _ => ApiError::failed(format!("cannot read {path}: {error}")),
    }
}
