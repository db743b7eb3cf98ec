//! A tree written into a folder that nothing leaves.
//!
//! - Folders are opened one by one with `openat2` (`RESOLVE_BENEATH`, no links of any kind), and everything is done
//!   relative to them: whatever somebody does to the folders meanwhile, nothing outside the target is touched.
//! - Everything is made, filled, and given its owner, attributes and times in a staging folder of its own, which only
//!   this user can enter, and gets its name in one rename: nobody sees half a file, and an interrupted restore that is
//!   run again finds whole files or none.
//! - A folder that was made gets its owner and times when it is left. Until then it carries a mark, by which a second
//!   run knows that it has to finish it.

use super::conflict::{Decision, Existing, Policy, decide, other_names};
use super::dress::{Failure, UNMARKED, dress, dress_folder, is_bare};
use super::links::{Links, Placed};
use super::root::Root;
use super::staging::{CONFINED, FOLDER, STAGING, empty, equal, is_torn, open_staging, rename_new};
use super::{ArchiveError, Entry, Kind, Meta, Name, Sink, Want, shown, xattr};
use crate::model::restored::Report;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// An open target.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    staging: OwnedFd,
    /// The staging folder is gone. One by its name is another restore's.
    cleared: bool,
    policy: Policy,
    /// What exists may be the work of an earlier attempt.
    again: bool,
    /// The root was made by this restore, or by one that was interrupted.
    fresh: bool,
    /// The filesystem keeps marks. Without them, what an earlier attempt has not finished is not known.
    marks: bool,
    /// The times of the root from before, as long as nothing was put into it: the staging folder is no change.
    times: Option<Timestamps>,
    top: Option<Meta>,
    levels: Vec<Level>,
    file: Option<Open>,
    links: Links,
    made: u64,
    report: Report,
}

/// A folder that is open, below the root.
#[derive(Debug)]
struct Level {
    fd: OwnedFd,
    name: Vec<u8>,
    /// What it gets when it is left.
    meta: Option<Meta>,
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    temporary: String,
    entry: Entry,
    place: Place,
}

/// How something gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing has it.
    New,
    /// What has it goes.
    Over,
    /// What has it stays: this gets another one, unless it is the same.
    Other,
    /// What has it stays; whether it is the same counts for its other names.
    Compare,
}

/// What something that is there is to what was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    Same,
    /// The same but for content that it lacks. An earlier attempt made it, and a power cut took the content.
    Torn,
    /// The same but for its content.
    Altered,
    Other,
}

impl Target {
    /// Writes below this folder. `again`: an earlier attempt at the same restore has begun here; what it made counts as
    /// being there as it should be.
    pub fn new(root: Root, policy: Policy, again: bool) -> Result<Self, ArchiveError> {
        let Root { fd: root, made } = root;
        if made {
            xattr::mark(&root, true);
        }
        let (staging, times) = open_staging(&root)?;
        let marks = xattr::maker(&staging) == xattr::Maker::Restore;
        Ok(Self {
            fresh: made || xattr::is_marked(&root),
            root,
            staging,
            cleared: false,
            policy,
            again,
            marks,
            times: Some(times),
            top: None,
            levels: Vec::new(),
            file: None,
            links: Links::default(),
            made: 0,
            report: Report::default(),
        })
    }

    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What was done, after the end.
    #[must_use]
    pub fn into_report(mut self) -> Report {
        std::mem::take(&mut self.report)
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.levels.last().map_or(self.root.as_fd(), |level| level.fd.as_fd())
    }

    /// Path of a name in the open folder, relative to the root.
    fn path(&self, name: &[u8]) -> Vec<u8> {
        let folders = self.levels.iter().map(|level| level.name.as_slice());
        folders.chain([name]).collect::<Vec<_>>().join(&b'/')
    }

    /// What did not work of one entry is told; what will not work for any is an end.
    fn tried<T>(&mut self, name: &[u8], tried: Result<T, Failure>) -> Result<Option<T>, ArchiveError> {
        match tried {
            Ok(done) => Ok(Some(done)),
            Err(Failure { what, source }) => {
                let fatal = [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO];
                if source.raw_os_error().is_some_and(|errno| fatal.contains(&errno)) {
                    let what = format!("{} ({what})", shown(&self.path(name)));
                    return Err(ArchiveError::Io { action: "write", what, source });
                }
                let path = self.path(name);
                self.report.problem(&shown(&path), &format!("{what}: {source}"), true);
                Ok(None)
            }
        }
    }

    fn existing(&self, name: &[u8]) -> Result<Option<Existing>, Failure> {
        match rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Ok(Some(Existing::Folder))
            }
            Ok(_) => Ok(Some(Existing::Other)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Failure::of("look for it", error)),
        }
    }

    /// A name in the staging folder that nothing has.
    fn temporary(&mut self) -> String {
        self.made += 1;
        self.made.to_string()
    }

    fn make(&mut self, entry: &Entry, place: Place) -> Result<Want, ArchiveError> {
        let name = entry.name.as_bytes();
        let made = match &entry.kind {
            Kind::Folder { .. } => self.make_folder(entry, place),
            Kind::File { bytes } => {
                let opened = self.make_file(entry, *bytes, place);
                return Ok(self.tried(name, opened)?.map_or(Want::Nothing, |()| Want::Content));
            }
            Kind::Link { of } => self.make_link(entry, *of, place).map(|()| Want::Content),
            _ => self.make_other(entry, place).map(|()| Want::Content),
        };
        Ok(self.tried(name, made)?.unwrap_or(Want::Nothing))
    }

    fn make_folder(&mut self, entry: &Entry, place: Place) -> Result<Want, Failure> {
        if self.again && place == Place::Other {
            // The one that the earlier attempt made.
            for other in other_names(entry.name.as_bytes()) {
                match self.existing(&other)? {
                    Some(Existing::Folder) => return self.enter(entry, &other),
                    Some(Existing::Other) => {}
                    None => break,
                }
            }
        }
        let temporary = self.temporary();
        rustix::fs::mkdirat(&self.staging, &temporary, Mode::RWXU)
            .map_err(Failure::of_errno("make the folder"))?;
        let fd = open_folder(self.staging.as_fd(), temporary.as_bytes())?;
        xattr::mark(&fd, true);
        let name = entry.name.as_bytes();
        if place == Place::Over {
            // Only something that is no folder is replaced.
            rustix::fs::unlinkat(self.parent(), name, AtFlags::empty())
                .map_err(Failure::of_errno("replace it"))?;
        }
        let place = if place == Place::Over { Place::New } else { place };
        match self.settle(&temporary, name, place) {
            Ok(name) => {
                self.report.folders += 1;
                self.levels.push(Level { fd, name, meta: Some(entry.meta.clone()) });
                Ok(Want::Content)
            }
            Err(failure) => {
                let _ = rustix::fs::unlinkat(&self.staging, &temporary, AtFlags::REMOVEDIR);
                Err(failure)
            }
        }
    }

    fn make_file(&mut self, entry: &Entry, bytes: u64, place: Place) -> Result<(), Failure> {
        let temporary = self.temporary();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.staging, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Failure::of_errno("make the file"))?;
        let file = File::from(file);
        file.set_len(bytes).map_err(|source| Failure { what: "set its length", source })?;
        self.file = Some(Open { file, temporary, entry: entry.clone(), place });
        Ok(())
    }

    fn make_link(&mut self, entry: &Entry, of: u64, place: Place) -> Result<(), Failure> {
        let refuse = |why: String| Failure { what: "link it", source: io::Error::other(why) };
        let first = self.links.find(of).map_err(refuse)?;
        let path = shown(&first.path);
        let identity = first.identity.ok_or_else(|| {
            refuse(format!(
                "it is another name of {path}, which exists and is another file; overwrite or rename it"
            ))
        })?;
        // Only a handle: the kind of file does not matter, and no link is followed.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat2(&self.root, first.path.as_slice(), flags, Mode::empty(), CONFINED)
            .map_err(Failure::of_errno("find its other name"))?;
        let stat = rustix::fs::fstat(&handle).map_err(Failure::of_errno("look at its other name"))?;
        if (stat.st_dev, stat.st_ino) != identity {
            return Err(refuse(format!("somebody has replaced {path} meanwhile")));
        }
        let temporary = self.temporary();
        rustix::fs::linkat(&handle, c"", &self.staging, &temporary, AtFlags::EMPTY_PATH)
            .map_err(Failure::of_errno("link it"))?;
        self.settle_dressed(&temporary, entry, place)?;
        Ok(())
    }

    fn make_other(&mut self, entry: &Entry, place: Place) -> Result<(), Failure> {
        let temporary = self.temporary();
        let staging = self.staging.as_fd();
        let node =
            |kind, device| rustix::fs::mknodat(staging, &temporary, kind, Mode::RUSR | Mode::WUSR, device);
        let made = match &entry.kind {
            Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), staging, &temporary),
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Socket => node(FileType::Socket, 0),
            Kind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            Kind::Folder { .. } | Kind::File { .. } | Kind::Link { .. } => Err(Errno::INVAL),
        };
        made.map_err(Failure::of_errno("make it"))?;
        dress(&self.staging, &temporary, entry).inspect_err(|_| self.discard(&temporary))?;
        self.settle_dressed(&temporary, entry, place)?;
        Ok(())
    }

    /// Gives something that is ready its name, and counts it.
    fn settle_dressed(&mut self, temporary: &str, entry: &Entry, place: Place) -> Result<(), Failure> {
        let name = entry.name.as_bytes();
        let stat = self.stat_staged(temporary)?;
        let identity = (stat.st_dev, stat.st_ino);
        let (twin, likeness) = self.twin(temporary, entry, place)?;
        if likeness == Likeness::Same {
            self.discard(temporary);
            let there = rustix::fs::statat(self.parent(), twin.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Failure::of_errno("look at it"))?;
            self.report.same += 1;
            self.remember(entry, &twin, Some((there.st_dev, there.st_ino)));
            return Ok(());
        }
        let (name, place) = match likeness {
            Likeness::Torn => (&twin[..], Place::Over),
            _ => (name, place),
        };
        if place == Place::Compare {
            self.discard(temporary);
            let path = self.path(name);
            // Whoever changed the content would have changed the time.
            let altered = self.again && likeness == Likeness::Altered;
            let why = match altered {
                true => {
                    "it exists and differs in nothing but its content; look at it, and restore it with overwrite"
                }
                false => "it exists",
            };
            self.report.problem(&shown(&path), why, altered);
            self.remember(entry, name, None);
            return Ok(());
        }
        let settled = self.settle(temporary, name, place).inspect_err(|_| self.discard(temporary))?;
        // Renaming one of two names of a file over the other does nothing.
        self.discard(temporary);
        match &entry.kind {
            Kind::Folder { .. } => {}
            Kind::File { .. } => self.report.files += 1,
            Kind::Link { .. } => self.report.links += 1,
            Kind::Symlink { .. } => self.report.symlinks += 1,
            Kind::Fifo | Kind::Socket | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.report.special += 1;
            }
        }
        self.remember(entry, &settled, Some(identity));
        Ok(())
    }

    fn stat_staged(&self, temporary: &str) -> Result<Stat, Failure> {
        rustix::fs::statat(&self.staging, temporary, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(Failure::of_errno("look at what was made"))
    }

    fn remember(&mut self, entry: &Entry, name: &[u8], identity: Option<(u64, u64)>) {
        if let Some(number) = entry.link {
            let path = self.path(name);
            self.links.add(number, Placed { path, identity });
        }
    }

    /// Renames out of the staging folder; the name that it got.
    fn settle(&mut self, temporary: &str, name: &[u8], place: Place) -> Result<Vec<u8>, Failure> {
        if self.levels.is_empty() && self.times.take().is_some() {
            xattr::keep_times(&self.staging, None);
        }
        let to = |name: &[u8]| rename_new(self.staging.as_fd(), temporary, self.parent(), name);
        match place {
            Place::New | Place::Compare => to(name).map_err(Failure::of_errno("give it its name"))?,
            Place::Over => rustix::fs::renameat(&self.staging, temporary, self.parent(), name)
                .map_err(Failure::of_errno("replace what is there"))?,
            Place::Other => {
                for other in other_names(name) {
                    match to(&other) {
                        Ok(()) => return Ok(other),
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(Failure::of("give it another name", error)),
                    }
                }
                return Err(Failure::of("give it another name", Errno::EXIST));
            }
        }
        Ok(name.to_vec())
    }

    fn discard(&self, temporary: &str) {
        // Gone already, as a rule.
        let _ = rustix::fs::unlinkat(&self.staging, temporary, AtFlags::empty());
    }

    /// The name by which what was made is there already, whole or torn; else what is there by its own name.
    fn twin(&self, temporary: &str, entry: &Entry, place: Place) -> Result<(Vec<u8>, Likeness), Failure> {
        let name = entry.name.as_bytes();
        let exists = |name: &Vec<u8>| self.existing(name).is_ok_and(|found| found.is_some());
        let others = match place {
            Place::Other => other_names(name).take_while(exists).collect(),
            Place::Compare => Vec::new(),
            Place::New | Place::Over => return Ok((name.to_vec(), Likeness::Other)),
        };
        let mut first = None;
        for name in [name.to_vec()].into_iter().chain(others) {
            let likeness = self.likeness(temporary, &name, entry)?;
            if matches!(likeness, Likeness::Same | Likeness::Torn) {
                return Ok((name, likeness));
            }
            first.get_or_insert(likeness);
        }
        Ok((name.to_vec(), first.unwrap_or(Likeness::Other)))
    }

    /// What has the name, compared with what was made.
    fn likeness(&self, temporary: &str, name: &[u8], entry: &Entry) -> Result<Likeness, Failure> {
        let failed = |source| Failure { what: "compare it with what is there", source };
        let ours = self.stat_staged(temporary)?;
        let Ok(theirs) = rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(Likeness::Other);
        };
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
            return Ok(Likeness::Same);
        }
        let of = |stat: &Stat| {
            (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec)
        };
        let is_file = FileType::from_raw_mode(ours.st_mode) == FileType::RegularFile;
        let emptied = self.again && is_file && theirs.st_size == 0;
        if of(&ours) != of(&theirs) || (ours.st_size != theirs.st_size && !emptied) {
            return Ok(Likeness::Other);
        }
        let xattrs = xattr::read(&self.staging, temporary.as_bytes()).map_err(failed)?;
        if xattrs != xattr::read(self.parent(), name).map_err(failed)? {
            return Ok(Likeness::Other);
        }
        match &entry.kind {
            Kind::File { .. } | Kind::Link { .. } if is_file => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let open = |folder: BorrowedFd<'_>, name: &[u8]| {
                    rustix::fs::openat2(folder, name, flags, Mode::empty(), CONFINED).map(File::from)
                };
                let ours = open(self.staging.as_fd(), temporary.as_bytes()).map_err(|e| failed(e.into()))?;
                let theirs = open(self.parent(), name).map_err(|e| failed(e.into()))?;
                let is_link = matches!(entry.kind, Kind::Link { .. });
                Ok(match (emptied, equal(&ours, &theirs).map_err(failed)?) {
                    // Of two files with the same content, neither is another name of the other.
                    (_, true) if is_link => Likeness::Other,
                    (_, true) => Likeness::Same,
                    (true, false) => Likeness::Torn,
                    (false, false) if self.again && is_torn(&ours, &theirs).map_err(failed)? => {
                        Likeness::Torn
                    }
                    (false, false) if is_link => Likeness::Other,
                    (false, false) => Likeness::Altered,
                })
            }
            Kind::Link { .. } => Ok(Likeness::Other),
            Kind::Symlink { target } => {
                let theirs = rustix::fs::readlinkat(self.parent(), name, Vec::new());
                Ok(match theirs.map_err(|e| failed(e.into()))?.as_bytes() == target {
                    true => Likeness::Same,
                    false => Likeness::Other,
                })
            }
            _ => Ok(Likeness::Same),
        }
    }

    /// Goes on in a folder that is there, by the entry's name or another one.
    fn enter(&mut self, entry: &Entry, name: &[u8]) -> Result<Want, Failure> {
        let fd = open_folder(self.parent(), name)?;
        let selected = matches!(entry.kind, Kind::Folder { selected: true });
        let dressed = xattr::is_marked(&fd) || (selected && self.policy == Policy::Overwrite);
        let meta = dressed.then(|| entry.meta.clone());
        if meta.is_none() && self.may_be_unfinished(&fd, &entry.meta) {
            let path = self.path(name);
            self.report.problem(&shown(&path), UNMARKED, true);
        }
        self.levels.push(Level { fd, name: name.to_vec(), meta });
        Ok(Want::Content)
    }

    /// Whether an earlier attempt may have made a folder and not finished it, on a filesystem that cannot tell.
    fn may_be_unfinished(&self, folder: &OwnedFd, meta: &Meta) -> bool {
        self.again && !self.marks && is_bare(folder, meta)
    }

    /// Takes the staging folder away, once.
    fn clear(&mut self) {
        if std::mem::replace(&mut self.cleared, true) {
            return;
        }
        empty(self.staging.as_fd());
        let _ = rustix::fs::unlinkat(&self.root, STAGING, AtFlags::REMOVEDIR);
        if let Some(times) = self.times.take() {
            // Where that is not possible, its time is that of the restore.
            let _ = rustix::fs::futimens(&self.root, &times);
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Sink for Target {
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError> {
        if self.fresh || self.policy == Policy::Overwrite {
            self.top = Some(meta.clone());
        } else if self.may_be_unfinished(&self.root, meta) {
            self.report.problem(".", UNMARKED, true);
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        let name = entry.name.as_bytes();
        if self.levels.is_empty() && name == STAGING.as_bytes() {
            let path = self.path(name);
            self.report.problem(&shown(&path), "this name is what a restore itself uses", true);
            return Ok(Want::Nothing);
        }
        let existing = self.existing(name);
        let Some(existing) = self.tried(name, existing)? else { return Ok(Want::Nothing) };
        // Whether a file with several names is the one that exists has to be known for its other names.
        let compared = entry.link.is_some() || matches!(entry.kind, Kind::Link { .. });
        // And what an earlier attempt made is not told as being in the way.
        let compared = compared || (self.again && !matches!(entry.kind, Kind::Folder { .. }));
        match decide(self.policy, &entry.kind, existing) {
            Decision::Create => self.make(entry, Place::New),
            Decision::Replace => self.make(entry, Place::Over),
            Decision::OtherName => self.make(entry, Place::Other),
            Decision::Enter => {
                let entered = self.enter(entry, name);
                Ok(self.tried(name, entered)?.unwrap_or(Want::Nothing))
            }
            Decision::Skip if compared && existing == Some(Existing::Other) => {
                self.make(entry, Place::Compare)
            }
            Decision::Skip => {
                let path = self.path(name);
                self.report.problem(&shown(&path), "it exists", false);
                Ok(Want::Nothing)
            }
            Decision::Refuse(why) => {
                let path = self.path(name);
                self.report.problem(&shown(&path), why, true);
                Ok(Want::Nothing)
            }
        }
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        // A file that could not be finished is not open any more.
        let Some(open) = &self.file else { return Ok(()) };
        match open.file.write_all_at(bytes, offset) {
            Ok(()) => self.report.bytes += bytes.len() as u64,
            Err(source) => {
                let (temporary, name) = (open.temporary.clone(), open.entry.name.clone());
                self.file = None;
                self.discard(&temporary);
                self.tried::<()>(name.as_bytes(), Err(Failure { what: "write its data", source }))?;
            }
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        let Some(Open { temporary, entry, place, .. }) = self.file.take() else { return Ok(()) };
        let done = dress(&self.staging, &temporary, &entry).inspect_err(|_| self.discard(&temporary));
        let done = done.and_then(|()| self.settle_dressed(&temporary, &entry, place));
        self.tried(entry.name.as_bytes(), done).map(drop)
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        let Some(Level { fd, name, meta }) = self.levels.pop() else { return Ok(()) };
        match meta {
            Some(meta) => {
                let done = dress_folder(&fd, &meta);
                self.tried(&name, done).map(drop)
            }
            None => Ok(()),
        }
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        let path = match (name, self.file.take()) {
            (Some(name), _) => self.path(name.as_bytes()),
            (None, Some(open)) => {
                self.discard(&open.temporary);
                self.path(open.entry.name.as_bytes())
            }
            (None, None) => self.path(b""),
        };
        self.report.problem(&shown(&path), &format!("it could not be read: {why}"), true);
        Ok(())
    }

    /// What was restored is on stable storage afterwards.
    fn end(&mut self) -> Result<(), ArchiveError> {
        self.clear();
        if let Some(meta) = self.top.take() {
            let done = dress_folder(&self.root, &meta);
            self.tried(b".", done)?;
        } else if self.fresh {
            xattr::mark(&self.root, false);
        }
        rustix::fs::syncfs(&self.root)
            .map_err(ArchiveError::errno("write out", "the filesystem of the target"))
    }
}

/// Opens a folder by its name in another one, and nothing else.
fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Failure> {
    rustix::fs::openat2(parent, name, FOLDER, Mode::empty(), CONFINED)
        .map_err(Failure::of_errno("enter the folder"))
}

#[cfg(test)]
mod tests;
