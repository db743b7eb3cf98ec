//! What a restore would do, without doing it.

use super::conflict::{Decision, Existing, Policy, decide};
use super::root::Root;
use super::staging::STAGING;
use super::{ArchiveError, Entry, Kind, Meta, Name, Sink, Want, shown};
use crate::model::restored::Step;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// A plan: every step is told as it is found.
pub struct Plan<'a> {
    policy: Policy,
    /// Open folders with their names, the target first; `None` for those that do not exist.
    levels: Vec<(Option<OwnedFd>, Vec<u8>)>,
    tell: &'a mut dyn FnMut(Step) -> Result<(), ArchiveError>,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("policy", &self.policy)
            .field("levels", &self.levels)
            .finish_non_exhaustive()
    }
}

impl<'a> Plan<'a> {
    /// A plan for a folder; `None` if it does not exist.
    pub fn new(
        root: Option<Root>,
        policy: Policy,
        tell: &'a mut dyn FnMut(Step) -> Result<(), ArchiveError>,
    ) -> Self {
        Self { policy, levels: vec![(root.map(|root| root.fd), Vec::new())], tell }
    }

    fn path(&self, name: &[u8]) -> String {
        let folders = self.levels.iter().skip(1).map(|(_, name)| name.as_slice());
        shown(&folders.chain([name]).collect::<Vec<_>>().join(&b'/'))
    }

    fn existing(&self, name: &[u8]) -> Option<Existing> {
        let (folder, _) = self.levels.last()?;
        let stat = rustix::fs::statat(folder.as_ref()?, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Some(if folder { Existing::Folder } else { Existing::Other })
    }

    fn enter(&mut self, name: &[u8], exists: bool) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.levels.last().and_then(|(fd, _)| fd.as_ref()).filter(|_| exists);
        let below = parent.and_then(|parent| {
            rustix::fs::openat2(parent, name, flags, Mode::empty(), ResolveFlags::BENEATH).ok()
        });
        self.levels.push((below, name.to_vec()));
    }
}

impl Sink for Plan<'_> {
    fn top(&mut self, _: &Meta) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        let name = entry.name.as_bytes();
        let existing = self.existing(name);
        let reserved = self.levels.len() == 1 && name == STAGING.as_bytes();
        let decision = match reserved {
            true => Decision::Refuse("this name is what a restore itself uses"),
            false => decide(self.policy, &entry.kind, existing),
        };
        let (action, why, goes_on) = match decision {
            Decision::Create => ("create", "", true),
            Decision::Enter => ("", "", true),
            Decision::Replace => ("replace", "it exists", true),
            Decision::OtherName => ("rename", "it exists, so it gets another name", true),
            Decision::Skip => ("skip", "it exists", false),
            Decision::Refuse(why) => ("refuse", why, false),
        };
        if !action.is_empty() {
            let bytes = if let Kind::File { bytes } = entry.kind { bytes } else { 0 };
            let (kind, action, why) = (entry.kind.word().to_owned(), action.to_owned(), why.to_owned());
            let path = self.path(name);
            (self.tell)(Step { path, kind, action, bytes, why })?;
        }
        if !goes_on || !matches!(entry.kind, Kind::Folder { .. }) {
            return Ok(Want::Nothing);
        }
        self.enter(name, decision == Decision::Enter);
        Ok(Want::Content)
    }

    fn data(&mut self, _: u64, _: &[u8]) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.levels.pop();
        Ok(())
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        let path = self.path(name.map(Name::as_bytes).unwrap_or_default());
        let (kind, action) = (String::new(), "fail".to_owned());
        (self.tell)(Step { path, kind, action, bytes: 0, why: why.to_owned() })
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }
}
