//! A search for names through a whole filesystem, in the order in which its folders have them.

use super::rows;
use super::stream::Teller;
use crate::api::error::ApiError;
use crate::archive::{MAX_DEPTH, Name, glob, shown};
use crate::model::part_id::PartId;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Tells every name below a root that fits a pattern. Only what fits is looked at more closely.
pub fn search(root: &OwnedFd, partition: &PartId, pattern: &[u8], teller: &Teller) -> Result<(), ApiError> {
    let mut search = Search { partition, pattern, path: Vec::new(), teller };
    let mut levels = vec![open(root.as_fd(), b".").map_err(|e| rows::failed(&[], &e.into()))?];
    while let Some(top) = levels.last_mut() {
        match top.read() {
            Some(Ok(found)) => {
                let Some(name) = Name::new(found.file_name().to_bytes()) else { continue };
                if let Some(below) = search.visit(top, name, found.file_type())? {
                    levels.push(below);
                }
            }
            end => {
                if let Some(Err(error)) = end {
                    // What else is in it cannot be listed.
                    search.unread(None, error)?;
                }
                levels.pop();
                search.path.pop();
            }
        }
    }
    Ok(())
}

fn open(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Dir, Errno> {
    Dir::new(rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)
}

struct Search<'a> {
    partition: &'a PartId,
    pattern: &'a [u8],
    /// Of the folder that is being read.
    path: Vec<Name>,
    teller: &'a Teller,
}

impl Search<'_> {
    /// The folder to go on in, if it is one.
    fn visit(&mut self, folder: &Dir, name: Name, kind: FileType) -> Result<Option<Dir>, ApiError> {
        self.teller.go_on()?;
        let folder = match folder.fd() {
            Ok(folder) => folder,
            Err(error) => return self.unread(Some(&name), error).map(|()| None),
        };
        if self.fits(&name) {
            match rows::file(self.partition, folder, &self.path, &name) {
                Ok(row) => self.teller.item(&row)?,
                Err(error) => self.unread(Some(&name), error)?,
            }
        }
        let is_folder = match kind {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW);
                stat.map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            }
            kind => Ok(kind == FileType::Directory),
        };
        let opened = match is_folder {
            Ok(false) => return Ok(None),
            Ok(true) if self.path.len() + 1 >= MAX_DEPTH => {
                let why = format!("folders are nested more than {MAX_DEPTH} deep");
                return self.unread(Some(&name), why).map(|()| None);
            }
            Ok(true) => open(folder, name.as_bytes()),
            Err(error) => Err(error),
        };
        match opened {
            Ok(below) => {
                self.path.push(name);
                Ok(Some(below))
            }
            Err(error) => self.unread(Some(&name), error).map(|()| None),
        }
    }

    fn fits(&self, name: &Name) -> bool {
        if !self.pattern.contains(&b'/') {
            return glob::matches(self.pattern, name.as_bytes());
        }
        let parts =
            [&b""[..]].into_iter().chain(self.path.iter().map(Name::as_bytes)).chain([name.as_bytes()]);
        glob::matches(self.pattern, &parts.collect::<Vec<_>>().join(&b'/'))
    }

    /// Something of the folder that is being read, or the rest of it.
    fn unread(&self, name: Option<&Name>, why: impl std::fmt::Display) -> Result<(), ApiError> {
        let names: Vec<Name> = self.path.iter().chain(name).cloned().collect();
        let path = shown(rows::raw_path(&names).as_bytes());
        self.teller.unread(format!("cannot read {}:{path}: {why}", self.partition))
    }
}
