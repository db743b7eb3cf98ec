//! A filesystem that remembers what a power cut would leave: a tape of all changes, from which the state after any of
//! them is made, with a random part of what was not synced lost.
//!
//! What is promised is what POSIX promises and no more. Content of a file is safe after its fsync, names in a directory
//! after the directory's. Of the rest any part may be there, in any order, and a write may be torn.

use blxrep::io::witness::{Change, Witness};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// One change, as it is kept.
#[derive(Clone, Debug)]
enum Op {
    /// A file under a name it did not have.
    Make {
        path: PathBuf,
        file: u64,
    },
    Edit {
        file: u64,
        edit: Edit,
    },
    Sync {
        file: u64,
    },
    MakeDir {
        path: PathBuf,
    },
    RemoveDir {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
}

/// A change of a file's content.
#[derive(Clone, Debug)]
enum Edit {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { start: u64, end: u64 },
    Resize { bytes: u64 },
}

/// Records changes below one directory. Files get numbers of their own, for inodes are used again.
#[derive(Debug, Default)]
pub struct Tape {
    inner: Mutex<Record>,
    /// Syncs of files whose names contained this when they were made, or of such directories, are not believed.
    forgets: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Record {
    ops: Vec<Op>,
    files: HashMap<u64, u64>,
    /// Numbers of files whose fsyncs are forgotten.
    forgotten: HashSet<u64>,
    next: u64,
    /// What was there before the tape began, durably.
    start: Vec<(PathBuf, Option<Vec<u8>>)>,
}

impl Tape {
    /// A tape of changes below a directory, with what is there now taken for durable.
    pub fn of(root: &Path) -> Arc<Self> {
        let mut record = Record::default();
        if root.exists() {
            take_in(root, &mut record);
        }
        Arc::new(Self { inner: Mutex::new(record), forgets: None })
    }

    /// A tape of a program that forgets some of its fsyncs.
    pub fn forgetting(part_of_name: &'static str) -> Arc<Self> {
        Arc::new(Self { forgets: Some(part_of_name), ..Self::default() })
    }

    fn is_forgotten(&self, path: &Path) -> bool {
        let name = path.to_string_lossy();
        self.forgets.is_some_and(|part| name.contains(part))
    }

    /// Changes so far.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap().ops.len()
    }

    /// Puts into `target` what is left of `root` when the power is cut after `count` changes.
    pub fn cut(&self, count: usize, root: &Path, target: &Path, luck: &mut Luck) {
        self.replay().cut(count, root, target, luck);
    }

    /// Plays the tape from its start.
    pub fn replay(&self) -> Replay {
        let record = self.inner.lock().unwrap();
        let mut disk = Disk::default();
        for (number, (path, content)) in (0..).zip(&record.start) {
            // Numbers of files that were there before; those of others go on from them.
            match content {
                None => drop(disk.names.insert(path.clone(), Node::Directory)),
                Some(content) => {
                    disk.names.insert(path.clone(), Node::File(number));
                    disk.files.insert(number, FileState { durable: content.clone(), pending: Vec::new() });
                }
            }
        }
        Replay { ops: record.ops.clone(), done: 0, disk }
    }
}

/// A tape that is played once, with cuts on the way.
#[derive(Debug)]
pub struct Replay {
    ops: Vec<Op>,
    done: usize,
    disk: Disk,
}

impl Replay {
    /// As [`Tape::cut`]; `count` never goes back.
    pub fn cut(&mut self, count: usize, root: &Path, target: &Path, luck: &mut Luck) {
        self.ops[self.done..count].iter().for_each(|op| self.disk.carry_out(op));
        self.done = count;
        self.disk.clone().fall(luck).write(root, target);
    }
}

fn take_in(path: &Path, record: &mut Record) {
    use std::os::unix::fs::MetadataExt;
    let meta = path.symlink_metadata().unwrap();
    let number = record.start.len() as u64;
    record.next = number + 1;
    if meta.is_dir() {
        record.start.push((path.to_owned(), None));
        let mut entries: Vec<_> =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| take_in(entry, record));
    } else if meta.is_file() {
        record.files.insert(meta.ino(), number);
        record.start.push((path.to_owned(), Some(std::fs::read(path).unwrap())));
    }
}

impl Witness for Tape {
    fn permit(&self, _: &'static str, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn saw(&self, change: Change<'_>) {
        let mut record = self.inner.lock().unwrap();
        let record = &mut *record;
        let of = |file: u64| record.files.get(&file).copied();
        let edit = |file: u64, edit: Edit| of(file).map(|file| Op::Edit { file, edit });
        let op = match change {
            Change::Opened { path, file, made: true, .. } => {
                let number = record.next;
                record.next += 1;
                record.files.insert(file, number);
                if self.is_forgotten(path) {
                    record.forgotten.insert(number);
                }
                Some(Op::Make { path: path.to_owned(), file: number })
            }
            Change::Opened { file, emptied: true, .. } => edit(file, Edit::Resize { bytes: 0 }),
            Change::Opened { .. } => None,
            Change::Written { file, offset, bytes } => {
                edit(file, Edit::Write { offset, bytes: bytes.to_vec() })
            }
            Change::Zeroed { file, start, end } => edit(file, Edit::Zero { start, end }),
            Change::Resized { file, bytes } => edit(file, Edit::Resize { bytes }),
            Change::Synced { file } => {
                of(file).filter(|file| !record.forgotten.contains(file)).map(|file| Op::Sync { file })
            }
            Change::DirectoryMade { path } => Some(Op::MakeDir { path: path.to_owned() }),
            Change::DirectoryRemoved { path } => Some(Op::RemoveDir { path: path.to_owned() }),
            Change::DirectorySynced { path } if self.is_forgotten(path) => None,
            Change::DirectorySynced { path } => Some(Op::SyncDir { path: path.to_owned() }),
            Change::Renamed { from, to } => Some(Op::Rename { from: from.to_owned(), to: to.to_owned() }),
            Change::Removed { path } => Some(Op::Remove { path: path.to_owned() }),
        };
        record.ops.extend(op);
    }
}

/// What is lost, by chance.
#[derive(Clone, Debug)]
pub struct Luck {
    state: u64,
    /// Of 256, how much of what is not synced survives.
    survives: u64,
}

impl Luck {
    /// Every seed is another luck: some lose everything, some nothing, most a part.
    pub fn new(seed: u64) -> Self {
        let mut luck = Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, survives: 0 };
        luck.survives = [0, 256, 128, 32, 224][luck.next() as usize % 5];
        luck
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 11
    }

    fn keeps(&mut self) -> bool {
        self.next() % 256 < self.survives
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(u64),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    durable: Vec<u8>,
    pending: Vec<Edit>,
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
struct NameChange {
    /// The directory whose fsync makes it durable.
    directory: PathBuf,
    gone: Option<PathBuf>,
    come: Option<(PathBuf, Node)>,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    /// Durable names, and what is not durable yet.
    names: BTreeMap<PathBuf, Node>,
    pending: Vec<NameChange>,
    files: HashMap<u64, FileState>,
}

impl Disk {
    /// What a name stands for now, durable or not.
    fn now(&self, path: &Path) -> Option<Node> {
        let mut node = self.names.get(path).copied();
        for change in &self.pending {
            if change.gone.as_deref() == Some(path) {
                node = None;
            }
            if let Some((come, to)) = &change.come
                && come == path
            {
                node = Some(*to);
            }
        }
        node
    }

    fn change_names(&mut self, gone: Option<&Path>, come: Option<(&Path, Node)>) {
        let at = come.map(|(path, _)| path).or(gone).unwrap();
        let directory = at.parent().unwrap().to_owned();
        let come = come.map(|(path, node)| (path.to_owned(), node));
        self.pending.push(NameChange { directory, gone: gone.map(Path::to_owned), come });
    }

    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Make { path, file } => {
                self.files.insert(*file, FileState::default());
                self.change_names(None, Some((path, Node::File(*file))));
            }
            Op::MakeDir { path } => self.change_names(None, Some((path, Node::Directory))),
            Op::Remove { path } | Op::RemoveDir { path } => {
                if self.now(path).is_some() {
                    self.change_names(Some(path), None);
                }
            }
            Op::Rename { from, to } => {
                let node = self.now(from).unwrap();
                self.change_names(Some(from), Some((to, node)));
            }
            Op::SyncDir { path } => {
                let pending = std::mem::take(&mut self.pending);
                for change in pending {
                    // Out of another directory, too: a name is never at both places.
                    if change.directory == *path {
                        self.settle(&change);
                    } else {
                        self.pending.push(change);
                    }
                }
            }
            Op::Edit { file, edit } => self.files.get_mut(file).unwrap().pending.push(edit.clone()),
            Op::Sync { file } => {
                let file = self.files.get_mut(file).unwrap();
                let pending = std::mem::take(&mut file.pending);
                pending.iter().for_each(|edit| file.apply(edit));
            }
        }
    }

    fn settle(&mut self, change: &NameChange) {
        if let Some(gone) = &change.gone {
            self.names.remove(gone);
        }
        if let Some((path, node)) = &change.come {
            self.names.insert(path.clone(), *node);
        }
    }

    /// The power is cut.
    fn fall(mut self, luck: &mut Luck) -> Self {
        for change in std::mem::take(&mut self.pending) {
            if luck.keeps() {
                self.settle(&change);
            }
        }
        let mut numbers: Vec<u64> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let file = self.files.get_mut(&number).unwrap();
            for edit in std::mem::take(&mut file.pending) {
                match &edit {
                    _ if luck.keeps() => file.apply(&edit),
                    // Torn within: a part of the sectors.
                    Edit::Write { offset, bytes } if luck.keeps() => {
                        let half = bytes[..bytes.len() / 2].to_vec();
                        file.apply(&Edit::Write { offset: *offset, bytes: half });
                    }
                    _ => {}
                }
            }
        }
        self
    }

    /// Makes what is left a real directory. Names whose directory did not survive are gone with it.
    fn write(&self, root: &Path, target: &Path) {
        for (path, node) in &self.names {
            let place = target.join(path.strip_prefix(root).unwrap());
            match node {
                Node::Directory if !place.exists() && place.parent().is_some_and(Path::exists) => {
                    std::fs::create_dir(&place).unwrap();
                }
                Node::File(number) if place.parent().is_some_and(Path::exists) => {
                    std::fs::write(&place, &self.files[number].durable).unwrap();
                }
                _ => {}
            }
        }
    }
}

impl FileState {
    fn apply(&mut self, edit: &Edit) {
        let content = &mut self.durable;
        let at = |byte: u64| usize::try_from(byte).unwrap();
        match edit {
            Edit::Write { offset, bytes } => {
                let (start, end) = (at(*offset), at(*offset) + bytes.len());
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(bytes);
            }
            Edit::Zero { start, end } => {
                // The length stays.
                let end = at(*end).min(content.len());
                if at(*start) < end {
                    content[at(*start)..end].fill(0);
                }
            }
            Edit::Resize { bytes } => content.resize(at(*bytes), 0),
        }
    }
}

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    use blxrep::io::storage::{Access, Storage};
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("old"), b"old").unwrap();
    let tape = Tape::of(&root);
    let storage = Storage::witnessed(tape.clone());
    let file = storage.open(&root.join("a.part"), Access::Create).unwrap();
    file.write_at(b"synced", 0).unwrap();
    file.sync().unwrap();
    file.write_at(b"XX", 0).unwrap();
    storage.rename(&root.join("a.part"), &root.join("a")).unwrap();
    storage.remove(&root.join("old")).unwrap();
    let renamed = tape.len();
    storage.sync_dir(&root).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        for count in [renamed, tape.len()] {
            let target = dir.path().join("target");
            tape.cut(count, &root, &target, &mut Luck::new(seed));
            let read = |name: &str| std::fs::read(target.join(name)).ok();
            let (old, part, a) = (read("old"), read("a.part"), read("a"));
            for found in [&part, &a].into_iter().flatten() {
                assert!(found == b"synced" || found == b"XXnced" || found == b"Xynced", "{found:?}");
            }
            if count > renamed {
                assert!(old.is_none() && part.is_none() && a.is_some());
            }
            seen.insert((count, old.is_some(), part.is_some(), a));
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
    assert!(seen.len() > 10, "chance has not found what may happen: {seen:?}");
}
