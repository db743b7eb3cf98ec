//! What differs between two trees. Contents are compared byte by byte: equal times prove nothing.

use super::staging::equal;
use super::walk::kind_of;
use super::{ArchiveError, Kind, MAX_DEPTH, Name, shown, xattr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How two trees differ in one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub path: String,
    pub kind: &'static str,
    pub change: How,
    /// Of `metadata`: which of `mode`, `owner`, `mtime`, `xattrs`. Of `failed`: why.
    pub what: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

/// Tells every difference between what two folders have below `path`.
pub fn diff(
    before: BorrowedFd<'_>,
    after: BorrowedFd<'_>,
    tell: &mut dyn FnMut(Change) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut diff = Diff { tell, path: Vec::new() };
    diff.metadata(before, after, b".", "folder")?;
    diff.folders(before, after)
}

/// Tells how two entries of one name differ, which may be missing on one side.
pub fn diff_entry(
    before: BorrowedFd<'_>,
    after: BorrowedFd<'_>,
    name: &Name,
    tell: &mut dyn FnMut(Change) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    Diff { tell, path: Vec::new() }.entry(before, after, name)
}

struct Diff<'a> {
    tell: &'a mut dyn FnMut(Change) -> Result<(), ArchiveError>,
    path: Vec<Name>,
}

impl Diff<'_> {
    fn tell(
        &mut self,
        name: &[u8],
        kind: &'static str,
        change: How,
        what: Vec<String>,
    ) -> Result<(), ArchiveError> {
        let parts = self.path.iter().map(Name::as_bytes).chain([name]);
        let path = shown(&parts.filter(|part| *part != b".").collect::<Vec<_>>().join(&b'/'));
        (self.tell)(Change { path, kind, change, what })
    }

    fn failed(&mut self, name: &[u8], why: impl ToString) -> Result<(), ArchiveError> {
        self.tell(name, "", How::Failed, vec![why.to_string()])
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
        let bytes = name.as_bytes();
        let (old, new) = match (look(before, name), look(after, name)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return self.failed(bytes, error),
        };
        match (old, new) {
            (None, None) => Ok(()),
            (Some((kind, _)), None) => self.tell(bytes, kind.word(), How::Removed, Vec::new()),
            (None, Some((kind, _))) => self.tell(bytes, kind.word(), How::Added, Vec::new()),
            (Some((old, _)), Some((new, _))) => match same_content(before, after, name, &old, &new) {
                Err(error) => self.failed(bytes, error),
                Ok(false) => self.tell(bytes, new.word(), How::Changed, Vec::new()),
                Ok(true) => {
                    self.metadata(before, after, bytes, new.word())?;
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
        kind: &'static str,
    ) -> Result<(), ArchiveError> {
        match metadata(before, after, name) {
            Ok(what) if what.is_empty() => Ok(()),
            Ok(what) => self.tell(name, kind, How::Metadata, what),
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
