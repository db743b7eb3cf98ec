//! What differs between two trees. Contents are compared byte by byte: equal times prove nothing.

use super::entry::FileKind;
use super::staging::equal;
use super::walk::kind_of;
use super::{ArchiveError, Kind, MAX_DEPTH, Name, xattr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use utoipa::ToSchema;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How two trees differ in one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Below the two folders, without a slash in front.
    pub path: Vec<u8>,
    /// `None` where it could not be told.
    pub kind: Option<FileKind>,
    pub change: How,
    /// Of `metadata`: which of `mode`, `owner`, `mtime`, `xattrs`. Of `failed`: why.
    pub what: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Only the second tree has it, with all that is in it.
    Added,
    /// Only the first tree has it, with all that is in it.
    Removed,
    /// It is something else, or has other content.
    Changed,
    /// Only what is said of it differs.
    Metadata,
    /// It could not be compared.
    Failed,
}

impl How {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Metadata => "metadata",
            Self::Failed => "failed",
        }
    }
}

/// Who is told what differs. An error ends the comparison.
pub trait Listener {
    fn change(&mut self, change: Change) -> Result<(), ArchiveError>;

    /// Comes with every name, whether it differs or not.
    fn name(&mut self) -> Result<(), ArchiveError>;
}

/// Tells every difference between what two folders have in them.
pub fn diff(
    before: BorrowedFd<'_>,
    after: BorrowedFd<'_>,
    listener: &mut dyn Listener,
) -> Result<(), ArchiveError> {
    let mut diff = Diff { listener, path: Vec::new() };
    diff.metadata(before, after, b".", FileKind::Folder)?;
    diff.folders(before, after)
}

/// Tells how two entries of one name differ, which may be missing on one side.
pub fn diff_entry(
    before: BorrowedFd<'_>,
    after: BorrowedFd<'_>,
    name: &Name,
    listener: &mut dyn Listener,
) -> Result<(), ArchiveError> {
    Diff { listener, path: Vec::new() }.entry(before, after, name)
}

struct Diff<'a> {
    listener: &'a mut dyn Listener,
    path: Vec<Name>,
}

impl Diff<'_> {
    fn tell(
        &mut self,
        name: &[u8],
        kind: Option<FileKind>,
        change: How,
        what: Vec<String>,
    ) -> Result<(), ArchiveError> {
        let parts = self.path.iter().map(Name::as_bytes).chain([name]);
        let path = parts.filter(|part| *part != b".").collect::<Vec<_>>().join(&b'/');
        self.listener.change(Change { path, kind, change, what })
    }

    fn failed(&mut self, name: &[u8], why: impl ToString) -> Result<(), ArchiveError> {
        self.tell(name, None, How::Failed, vec![why.to_string()])
    }

    fn folders(&mut self, before: BorrowedFd<'_>, after: BorrowedFd<'_>) -> Result<(), ArchiveError> {
        if self.path.len() >= MAX_DEPTH {
            return self.failed(b".", format!("folders are nested more than {MAX_DEPTH} deep"));
        }
        self.each(before, |diff, name| diff.entry(before, after, name))?;
        self.each(after, |diff, name| match look(before, name) {
            // What both have was compared.
            Ok(Some(_)) => Ok(()),
            Ok(None) => diff.entry(before, after, name),
            Err(error) => diff.failed(name.as_bytes(), error),
        })
    }

    fn each(
        &mut self,
        folder: BorrowedFd<'_>,
        mut visit: impl FnMut(&mut Self, &Name) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let dir = match Dir::read_from(folder) {
            Ok(dir) => dir,
            Err(error) => return self.failed(b".", error),
        };
        for found in dir {
            match found {
                Ok(found) => {
                    if let Some(name) = Name::new(found.file_name().to_bytes()) {
                        visit(self, &name)?;
                    }
                }
                Err(error) => return self.failed(b".", error),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        before: BorrowedFd<'_>,
        after: BorrowedFd<'_>,
        name: &Name,
    ) -> Result<(), ArchiveError> {
        self.listener.name()?;
        let bytes = name.as_bytes();
        let (old, new) = match (look(before, name), look(after, name)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return self.failed(bytes, error),
        };
        match (old, new) {
            (None, None) => Ok(()),
            (Some((kind, _)), None) => self.tell(bytes, Some(kind.kind()), How::Removed, Vec::new()),
            (None, Some((kind, _))) => self.tell(bytes, Some(kind.kind()), How::Added, Vec::new()),
            (Some((old, _)), Some((new, _))) => match same_content(before, after, name, &old, &new) {
                Err(error) => self.failed(bytes, error),
                Ok(false) => self.tell(bytes, Some(new.kind()), How::Changed, Vec::new()),
                Ok(true) => {
                    self.metadata(before, after, bytes, new.kind())?;
                    self.below(before, after, name, &new)
                }
            },
        }
    }

    fn below(
        &mut self,
        before: BorrowedFd<'_>,
        after: BorrowedFd<'_>,
        name: &Name,
        kind: &Kind,
    ) -> Result<(), ArchiveError> {
        if !matches!(kind, Kind::Folder { .. }) {
            return Ok(());
        }
        match (open(before, name, FOLDER), open(after, name, FOLDER)) {
            (Ok(before), Ok(after)) => {
                self.path.push(name.clone());
                let done = self.folders(before.as_fd(), after.as_fd());
                self.path.pop();
                done
            }
            (Err(error), _) | (_, Err(error)) => self.failed(name.as_bytes(), error),
        }
    }

    fn metadata(
        &mut self,
        before: BorrowedFd<'_>,
        after: BorrowedFd<'_>,
        name: &[u8],
        kind: FileKind,
    ) -> Result<(), ArchiveError> {
        match metadata(before, after, name) {
            Ok(what) if what.is_empty() => Ok(()),
            Ok(what) => self.tell(name, Some(kind), How::Metadata, what),
            Err(error) => self.failed(name, error),
        }
    }
}

fn open(folder: BorrowedFd<'_>, name: &Name, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name.as_bytes(), flags, Mode::empty())
}

/// What a name is; `None` if there is nothing.
fn look(folder: BorrowedFd<'_>, name: &Name) -> io::Result<Option<(Kind, Stat)>> {
    match rustix::fs::statat(folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((kind_of(folder, name, &stat, true)?, stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn same_content(
    before: BorrowedFd<'_>,
    after: BorrowedFd<'_>,
    name: &Name,
    old: &Kind,
    new: &Kind,
) -> io::Result<bool> {
    if old != new {
        return Ok(false);
    }
    if !matches!(new, Kind::File { .. }) {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    equal(&File::from(open(before, name, flags)?), &File::from(open(after, name, flags)?))
}

fn metadata(before: BorrowedFd<'_>, after: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<String>> {
    let stat = |folder| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let (old, new) = (stat(before)?, stat(after)?);
    let differs = [
        ("mode", old.st_mode != new.st_mode),
        ("owner", (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid)),
        ("mtime", (old.st_mtime, old.st_mtime_nsec) != (new.st_mtime, new.st_mtime_nsec)),
        ("xattrs", xattr::read(before, name)? != xattr::read(after, name)?),
    ];
    Ok(differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what.to_owned()).collect())
}
