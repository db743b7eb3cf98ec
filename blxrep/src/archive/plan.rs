//! What a restore would do, without doing it.

use super::conflict::{Decision, Existing, Policy, decide};
use super::root::Root;
use super::staging::{CONFINED, FOLDER, STAGING};
use super::{ArchiveError, Entry, Kind, MAX_LINKS, Meta, Name, Sink, Want, shown};
use crate::model::restored::Step;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use std::collections::HashMap;

/// A plan: every step is told as it is found.
pub struct Plan<'a> {
    policy: Policy,
    /// Open folders with their names, the target first; `None` for those that do not exist.
    levels: Vec<(Option<OwnedFd>, Vec<u8>)>,
    /// Whether the first name of a file with several would be made.
    links: HashMap<u64, bool>,
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
        Self { policy, levels: vec![(root.map(|root| root.fd), Vec::new())], links: HashMap::new(), tell }
    }

    fn path(&self, name: &[u8]) -> String {
        let folders = self.levels.iter().skip(1).map(|(_, name)| name.as_slice());
        shown(&folders.chain([name]).collect::<Vec<_>>().join(&b'/'))
    }

    /// What has the name now.
    fn existing(&self, name: &[u8]) -> Result<Option<Existing>, Errno> {
        let Some((Some(folder), _)) = self.levels.last() else { return Ok(None) };
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Ok(Some(Existing::Folder))
            }
            Ok(_) => Ok(Some(Existing::Other)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on in a folder, as the restore would.
    fn enter(&mut self, name: &[u8], exists: bool) -> Result<(), Errno> {
        let parent = self.levels.last().and_then(|(fd, _)| fd.as_ref()).filter(|_| exists);
        let below = parent.map(|parent| rustix::fs::openat2(parent, name, FOLDER, Mode::empty(), CONFINED));
        self.levels.push((below.transpose()?, name.to_vec()));
        Ok(())
    }

    fn step(&mut self, entry: &Entry, action: &str, why: &str) -> Result<(), ArchiveError> {
        let bytes = if let Kind::File { bytes } = entry.kind { bytes } else { 0 };
        let (kind, action, why) = (entry.kind.word().to_owned(), action.to_owned(), why.to_owned());
        let path = self.path(entry.name.as_bytes());
        (self.tell)(Step { path, kind, action, bytes, why })
    }

    /// What becomes of one more name of a file whose first one is not made.
    fn of_first(&self, entry: &Entry) -> Option<(&'static str, &'static str)> {
        let Kind::Link { of } = entry.kind else { return None };
        match self.links.get(&of) {
            Some(true) => None,
            Some(false) => Some((
                "create",
                "if the name of the same file that exists has the same content; else it fails",
            )),
            None => Some(("fail", "the file that it is another name of is not restored")),
        }
    }
}

impl Sink for Plan<'_> {
    fn top(&mut self, _: &Meta) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        let name = entry.name.as_bytes();
        let existing = match self.existing(name) {
            Ok(existing) => existing,
            Err(error) => {
                self.step(entry, "fail", &format!("look for it: {error}"))?;
                return Ok(Want::Nothing);
            }
        };
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
        let compared = decision == Decision::Skip && existing == Some(Existing::Other);
        if let Some(number) = entry.link
            && (goes_on || compared)
            && self.links.len() < MAX_LINKS
        {
            self.links.insert(number, goes_on);
        }
        let (action, why) = self.of_first(entry).filter(|_| goes_on).unwrap_or((action, why));
        if !action.is_empty() {
            self.step(entry, action, why)?;
        }
        if !goes_on || !matches!(entry.kind, Kind::Folder { .. }) {
            return Ok(Want::Nothing);
        }
        if let Err(error) = self.enter(name, decision == Decision::Enter) {
            self.step(entry, "fail", &format!("enter the folder: {error}"))?;
            return Ok(Want::Nothing);
        }
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
        let why = format!("it could not be read: {why}");
        (self.tell)(Step { path, kind, action, bytes: 0, why })
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Time;
    use std::fs;

    fn entry(name: &str, kind: Kind, link: Option<u64>) -> Entry {
        let time = Time { seconds: 0, nanos: 0 };
        let meta = Meta { mode: 0o640, uid: 0, gid: 0, mtime: time, atime: time, xattrs: Vec::new() };
        Entry { name: Name::new(name.as_bytes()).unwrap(), kind, meta, link }
    }

    #[test]
    fn further_names_follow_what_becomes_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there"), "mine").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let planned = |policy| {
            let mut steps = Vec::new();
            let mut tell = |step: Step| {
                steps.push(format!("{} {}", step.action, step.path));
                Ok(())
            };
            let mut plan = Plan::new(Root::find(dir.path()).unwrap(), policy, &mut tell);
            for (number, name) in (1..).zip(["there", "new", "folder"]) {
                plan.entry(&entry(name, Kind::File { bytes: 1 }, Some(number))).unwrap();
                plan.entry(&entry(&format!("{name}-2"), Kind::Link { of: number }, None)).unwrap();
            }
            plan.entry(&entry("lost", Kind::Link { of: 9 }, None)).unwrap();
            drop(plan);
            steps.join(", ")
        };
        assert_eq!(
            planned(Policy::Overwrite),
            "replace there, create there-2, create new, create new-2, refuse folder, fail folder-2, fail lost"
        );
        assert_eq!(
            planned(Policy::Skip),
            "skip there, create there-2, create new, create new-2, skip folder, fail folder-2, fail lost"
        );
    }

    /// Dry and wet say the same of what cannot be looked at.
    #[test]
    fn what_cannot_be_looked_at_is_no_new_file() {
        // A file in place of the folder whose entries are looked for.
        let file = Root { fd: fs::File::open("/dev/null").unwrap().into(), made: false };
        let mut steps = Vec::new();
        let mut tell = |step: Step| {
            steps.push((step.action, step.why));
            Ok(())
        };
        let mut plan = Plan::new(Some(file), Policy::Skip, &mut tell);
        plan.entry(&entry("x", Kind::File { bytes: 1 }, None)).unwrap();
        drop(plan);
        assert!(steps[0].0 == "fail" && steps[0].1.starts_with("look for it"), "{steps:?}");
    }
}
