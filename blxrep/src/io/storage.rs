//! Files and directories of the store, and of restores. Every operation goes through [`Storage`], so that a test
//! can make any of them fail and see them all: a witness is asked before each and told afterwards.

use super::buffer::ALIGN;
use super::range_lock;
use super::trouble::{Trouble, Watch, is_no_room};
use super::witness::{Change, Gate, Witness};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Backups hold everything that their disks hold: only their owner reads them.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Zeroes are written in pieces of this length where a filesystem cannot punch holes.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What could not be done, to what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct StorageError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl StorageError {
    /// Whether there is no room for it.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        is_no_room(&self.source)
    }

    /// Whether the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

type Result<T> = std::result::Result<T, StorageError>;

/// Handle to the filesystem.
#[derive(Clone, Default)]
pub struct Storage {
    witness: Option<Arc<dyn Witness>>,
    watch: Option<Arc<Watch>>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("witnessed", &self.witness.is_some()).finish()
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Read once and in large pieces: past the page cache, whose pages cost more than the read.
    Stream,
    /// Read and write what is there.
    Write,
    /// Read and write; must not be there yet.
    Create,
    /// Read and write; an earlier one is emptied.
    Replace,
    /// Read and write; made if it is not there, kept if it is.
    Keep,
    /// Read and write a block device that nothing else uses.
    Device,
}

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: OsString,
    pub is_dir: bool,
}

impl Storage {
    /// A handle that asks `gate` before each operation and fails it with the gate's error. A write that fails
    /// this way is torn: half of it reaches the file.
    #[must_use]
    pub fn gated(gate: impl Fn(&'static str, &Path) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::witnessed(Arc::new(Gate(gate)))
    }

    /// A handle that asks `witness` before each operation and tells it of each change.
    #[must_use]
    pub fn witnessed(witness: Arc<dyn Witness>) -> Self {
        Self { witness: Some(witness), watch: None }
    }

    /// A handle that remembers when writes below `root` do not work: see [`Self::trouble`].
    #[must_use]
    pub fn watching(self, root: &Path) -> Self {
        Self { watch: Some(Arc::new(Watch::new(root))), ..self }
    }

    /// What kept the last write from working that failed, until [`Self::settle`].
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.watch.as_ref()?.last()
    }

    /// Writes work again.
    pub fn settle(&self) {
        if let Some(watch) = &self.watch {
            watch.settle();
        }
    }

    /// Makes an error of what the system said, and takes note of trouble.
    fn failed(&self, action: &'static str, path: &Path, source: io::Error) -> StorageError {
        let error = StorageError { action, path: path.to_owned(), source };
        if let Some(watch) = &self.watch {
            watch.note(&error);
        }
        error
    }

    fn pass(&self, action: &'static str, path: &Path) -> io::Result<()> {
        self.witness.as_ref().map_or(Ok(()), |witness| witness.permit(action, path))
    }

    fn tell(&self, change: Change<'_>) {
        if let Some(witness) = &self.witness {
            witness.saw(change);
        }
    }

    fn run<T>(&self, action: &'static str, path: &Path, f: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.pass(action, path).and_then(|()| f()).map_err(|source| self.failed(action, path, source))
    }

    /// Opens a file. With [`Access::Write`] and the like, aligned writes bypass the page cache where the
    /// filesystem allows it: a write through it and an fsync cost eight times the CPU.
    pub fn open(&self, path: &Path, access: Access) -> Result<DataFile> {
        let action = match access {
            Access::Read | Access::Stream => "open",
            Access::Create | Access::Replace | Access::Keep => "create",
            Access::Write | Access::Device => "open for writing",
        };
        let mut was_there = true;
        let (file, direct) = self.run(action, path, || {
            was_there = self.witness.is_none() || path.exists();
            let mut options = OpenOptions::new();
            options.read(true).mode(FILE_MODE);
            match access {
                Access::Read | Access::Stream => {}
                Access::Write => drop(options.write(true)),
                Access::Create => drop(options.write(true).create_new(true)),
                Access::Replace => drop(options.write(true).create(true).truncate(true)),
                Access::Keep => drop(options.write(true).create(true).truncate(false)),
                Access::Device => drop(options.write(true).custom_flags(flag(OFlags::EXCL))),
            }
            let file = options.open(path)?;
            let direct = match access {
                Access::Read => None,
                Access::Stream => open_direct(path, false)?,
                _ => open_direct(path, true)?,
            };
            Ok((file, direct))
        })?;
        let file = DataFile {
            storage: self.clone(),
            path: path.to_owned(),
            file,
            direct,
            refused: AtomicBool::new(false),
        };
        if !matches!(access, Access::Read | Access::Stream) {
            let emptied = access == Access::Replace;
            file.tell(|file| Change::Opened { path, file, made: !was_there, emptied });
        }
        Ok(file)
    }

    /// A file without a name, for reading and writing: gone when it is closed. On the filesystem of `folder`, or of
    /// temporary files where that is not there or not to be written to.
    pub fn unnamed(&self, folder: &Path) -> Result<DataFile> {
        let elsewhere = std::env::temp_dir();
        let (file, path) = match self.run("make a file in", folder, || make_unnamed(folder)) {
            Ok(file) => (file, folder),
            Err(_) => (self.run("make a file in", &elsewhere, || make_unnamed(&elsewhere))?, &*elsewhere),
        };
        let (path, refused) = (path.join("(without a name)"), AtomicBool::new(false));
        Ok(DataFile { storage: self.clone(), path, file, direct: None, refused })
    }

    /// Length in bytes, or `None` if there is no such file.
    pub fn length(&self, path: &Path) -> Result<Option<u64>> {
        self.run("look at", path, || match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// Bytes that a file takes on its filesystem, or `None` if there is no such file.
    pub fn allocated(&self, path: &Path) -> Result<Option<u64>> {
        self.run("look at", path, || match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(meta.blocks() * crate::model::units::SECTOR_BYTES)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// Names in a directory, sorted; none if there is no such directory.
    pub fn list(&self, directory: &Path) -> Result<Vec<Entry>> {
        self.run("list", directory, || {
            let entries = match std::fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(e),
            };
            let mut out = Vec::new();
            for entry in entries {
                let entry = entry?;
                out.push(Entry { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() });
            }
            out.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(out)
        })
    }

    /// Makes a directory below one that exists, durably. One that is there already is left as it is.
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        let made = self.run("create directory", path, || {
            match std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
                Err(e) => Err(e),
            }
        })?;
        if made {
            self.tell(Change::DirectoryMade { path });
        }
        match path.parent() {
            Some(parent) if made => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    /// Renames within a filesystem, over what has the new name. Durable after [`Self::sync_dir`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.run("rename", from, || std::fs::rename(from, to))?;
        self.tell(Change::Renamed { from, to });
        Ok(())
    }

    /// Renames within a filesystem unless the new name is taken.
    pub fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        self.run("rename", from, || {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags) {
                // Network filesystems cannot do both at once.
                Err(rustix::io::Errno::INVAL) if !to.try_exists()? => std::fs::rename(from, to),
                Err(rustix::io::Errno::INVAL) => Err(rustix::io::Errno::EXIST.into()),
                done => Ok(done?),
            }
        })?;
        self.tell(Change::Renamed { from, to });
        Ok(())
    }

    /// Removes a file; one that is not there is no error.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.run("remove", path, || match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })?;
        self.tell(Change::Removed { path });
        Ok(())
    }

    /// Removes an empty directory; one that is not there is no error.
    pub fn remove_dir(&self, path: &Path) -> Result<()> {
        self.run("remove directory", path, || match std::fs::remove_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        })?;
        self.tell(Change::DirectoryRemoved { path });
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.run("fsync directory", path, || File::open(path)?.sync_all())?;
        self.tell(Change::DirectorySynced { path });
        Ok(())
    }
}

fn make_unnamed(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(FILE_MODE).custom_flags(flag(OFlags::TMPFILE)).open(folder)
}

/// `None` where the filesystem knows no direct transfers (EINVAL).
fn open_direct(path: &Path, write: bool) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(write).custom_flags(flag(OFlags::DIRECT)).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if is_invalid(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// How filesystems say that they do not do this.
fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error())
}

/// An open flag as the standard library wants it.
fn flag(flags: OFlags) -> i32 {
    i32::from_ne_bytes(flags.bits().to_ne_bytes())
}

/// An open file. Offsets and lengths are bytes; methods take `&self`, as the system calls do.
#[derive(Debug)]
pub struct DataFile {
    storage: Storage,
    path: PathBuf,
    file: File,
    direct: Option<File>,
    /// A direct write was refused: the filesystem opened the file for them but cannot do them.
    refused: AtomicBool,
}

impl AsFd for DataFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DataFile {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn run<T>(&self, action: &'static str, f: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.storage.run(action, &self.path, f)
    }

    fn tell<'a>(&self, change: impl FnOnce(u64) -> Change<'a>) {
        if self.storage.witness.is_some() {
            self.storage.tell(change(self.file.metadata().map_or(0, |meta| meta.ino())));
        }
    }

    /// Fills `out` from `offset`; the end of the file within it is an error.
    pub fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.run("read", || self.file.read_exact_at(out, offset))
    }

    /// As [`Self::read_at`], from the device and not from the page cache, where that is possible.
    pub fn read_direct_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.run("read", || {
            let (aligned, tail) = out.split_at_mut(self.direct_length(out, offset));
            if let (Some(direct), false) = (&self.direct, aligned.is_empty()) {
                match direct.read_exact_at(aligned, offset) {
                    Err(e) if is_invalid(&e) => self.file.read_exact_at(aligned, offset)?,
                    done => done?,
                }
            }
            self.file.read_exact_at(tail, offset + aligned.len() as u64)
        })
    }

    /// Writes all of `bytes` at `offset`, past the page cache as far as memory and offset are aligned.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if let Err(source) = self.storage.pass("write", &self.path) {
            // What a crash leaves behind: the error stands whether or not the half arrives.
            let _ = self.file.write_all_at(&bytes[..bytes.len() / 2], offset);
            return Err(self.storage.failed("write", &self.path, source));
        }
        let result = self.write_split(bytes, offset);
        result.map_err(|source| self.storage.failed("write", &self.path, source))?;
        self.tell(|file| Change::Written { file, offset, bytes });
        Ok(())
    }

    fn write_split(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (aligned, tail) = bytes.split_at(self.direct_length(bytes, offset));
        let mut done = 0;
        if let (Some(direct), false) = (&self.direct, aligned.is_empty()) {
            match direct.write_all_at(aligned, offset) {
                Ok(()) => done = aligned.len(),
                Err(e) if is_invalid(&e) => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Err(e) => return Err(e),
            }
        }
        if done == 0 {
            self.file.write_all_at(bytes, offset)
        } else {
            self.file.write_all_at(tail, offset + done as u64)
        }
    }

    /// How much of `bytes` can go directly.
    fn direct_length(&self, bytes: &[u8], offset: u64) -> usize {
        let aligned = bytes.as_ptr().addr().is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64);
        let possible = self.direct.is_some() && !self.refused.load(Ordering::Relaxed);
        if aligned && possible { bytes.len() / ALIGN * ALIGN } else { 0 }
    }

    /// Makes a range read as zeroes and gives its blocks back; the file must be that long already.
    pub fn punch(&self, range: Range<u64>) -> Result<()> {
        self.zero(range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }

    /// Makes a range of a device read as zeroes, and gives its blocks back where the device can promise both.
    pub fn clear_device(&self, range: Range<u64>) -> Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, how, range.start, range.end - range.start) {
            Ok(()) => {
                self.tell(|file| Change::zeroed(file, &range));
                Ok(())
            }
            Err(_) => self.zero_device(range),
        }
    }

    /// Number of a block device; `None` for what is none.
    pub fn device_number(&self) -> Result<Option<(u32, u32)>> {
        self.run("look at", || {
            let meta = self.file.metadata()?;
            let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            Ok(meta.file_type().is_block_device().then_some(number))
        })
    }

    /// Makes a range of a device zero.
    pub fn zero_device(&self, range: Range<u64>) -> Result<()> {
        self.zero(range, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)
    }

    fn zero(&self, range: Range<u64>, how: FallocateFlags) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.run("write zeroes to", || {
            match rustix::fs::fallocate(&self.file, how, range.start, range.end - range.start) {
                Ok(()) => Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                    self.write_zeroes(range.clone())
                }
                Err(e) => Err(e.into()),
            }
        })?;
        self.tell(|file| Change::zeroed(file, &range));
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let n = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(ZEROES.len());
            self.file.write_all_at(&ZEROES[..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    pub fn set_len(&self, bytes: u64) -> Result<()> {
        self.run("set the length of", || self.file.set_len(bytes))?;
        self.tell(|file| Change::Resized { file, bytes });
        Ok(())
    }

    /// Allocates the blocks of a range, which may lie behind the file's end; its length stays. `false` where the
    /// filesystem cannot do that.
    pub fn preallocate(&self, range: Range<u64>) -> Result<bool> {
        self.run("keep room for", || {
            let how = FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&self.file, how, range.start, range.end - range.start) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    Ok(false)
                }
                Err(e) => Err(e.into()),
            }
        })
    }

    /// Length of a file or block device.
    pub fn length(&self) -> Result<u64> {
        self.run("measure", || {
            if self.file.metadata()?.file_type().is_block_device() {
                Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
            } else {
                Ok(self.file.metadata()?.len())
            }
        })
    }

    /// Bytes that the file takes on its filesystem.
    pub fn allocated(&self) -> Result<u64> {
        self.run("measure", || Ok(self.file.metadata()?.blocks() * crate::model::units::SECTOR_BYTES))
    }

    /// Waits until everything written is on stable storage.
    pub fn sync(&self) -> Result<()> {
        self.run("fsync", || self.file.sync_all())?;
        self.tell(|file| Change::Synced { file });
        Ok(())
    }

    /// Whether the byte at `from` is in a hole, and where that or the data ends (at most at `end`).
    pub fn extent_at(&self, from: u64, end: u64) -> Result<(bool, u64)> {
        self.run("look for holes in", || match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Err(rustix::io::Errno::NXIO) => Ok((true, end)),
            Err(rustix::io::Errno::INVAL) => Ok((false, end)),
            Err(e) => Err(e.into()),
            Ok(data) if data > from => Ok((true, data.min(end))),
            Ok(_) => Ok((false, rustix::fs::seek(&self.file, SeekFrom::Hole(from))?.min(end))),
        })
    }

    /// Lets the kernel read a range that will be wanted. Only a wish.
    pub fn expect(&self, range: Range<u64>) {
        let length = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
        let _ = rustix::fs::fadvise(&self.file, range.start, length, rustix::fs::Advice::WillNeed);
    }

    /// Drops the file's clean pages, so that the next read comes from the disk. Only a wish.
    pub fn forget_cache(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    /// Takes the file's lock until it is closed; `false` if another process has it.
    pub fn try_lock(&self) -> Result<bool> {
        self.run("lock", || match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(e.into()),
        })
    }

    /// Holds the byte at `at` against those who ask for it with [`Self::held_bytes`], in this process and others,
    /// until the file is closed, by whatever end.
    pub fn hold_byte(&self, at: u64) -> Result<()> {
        self.run("lock", || range_lock::share(&self.file, at))
    }

    /// The bytes that others hold, once each.
    pub fn held_bytes(&self) -> Result<Vec<u64>> {
        self.run("look for locks of", || range_lock::shared(&self.file))
    }

    /// The process that has locked the file, as far as `/proc/locks` tells.
    #[must_use]
    pub fn lock_holder(&self) -> Option<u32> {
        let inode = format!(":{}", self.file.metadata().ok()?.ino());
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields.as_slice() {
                [_, "FLOCK", _, _, pid, place, ..] if place.ends_with(&inode) => pid.parse().ok(),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::AlignedBuffer;

    #[test]
    fn aligned_and_unaligned_writes_read_back_together() {
        let dir = tempfile::tempdir().unwrap();
        let file = Storage::default().open(&dir.path().join("f"), Access::Create).unwrap();
        let mut buffer = AlignedBuffer::new(16384);
        let content: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(buffer.append(&content), 10_000);
        file.write_at(buffer.as_slice(), 4096).unwrap();
        file.write_at(&[9; 100], 0).unwrap();
        file.sync().unwrap();
        assert_eq!(file.length().unwrap(), 14_096);
        let mut out = vec![0; 10_000];
        file.read_at(&mut out, 4096).unwrap();
        assert_eq!(out, content);
        buffer.fill(10_000).fill(0);
        file.read_direct_at(buffer.fill(10_000), 4096).unwrap();
        assert_eq!(buffer.as_slice(), content);
        assert!(file.read_at(&mut out, 5000).is_err(), "the end of the file");
    }

    #[test]
    fn a_punched_range_is_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let file = Storage::default().open(&dir.path().join("f"), Access::Create).unwrap();
        file.write_at(&[1; 1 << 16], 0).unwrap();
        file.punch(8192..32768).unwrap();
        file.sync().unwrap();
        assert_eq!(file.extent_at(0, 1 << 16).unwrap(), (false, 8192));
        assert_eq!(file.extent_at(8192, 1 << 16).unwrap(), (true, 32768));
        assert_eq!(file.extent_at(32768, 1 << 16).unwrap(), (false, 1 << 16));
        let mut out = [7; 4096];
        file.read_at(&mut out, 8192).unwrap();
        assert_eq!(out, [0; 4096]);
    }

    #[test]
    fn a_second_lock_is_refused_and_its_holder_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = Storage::default().open(&path, Access::Keep).unwrap();
        let second = Storage::default().open(&path, Access::Keep).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        assert_eq!(second.lock_holder(), Some(std::process::id()));
        drop(first);
        assert!(second.try_lock().unwrap());
    }

    #[test]
    fn the_gate_fails_an_operation_and_tears_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let storage =
            Storage::gated(
                |action, _| {
                    if action == "write" { Err(io::Error::other("injected")) } else { Ok(()) }
                },
            );
        let file = storage.open(&path, Access::Create).unwrap();
        let error = file.write_at(&[1; 100], 0).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: injected", path.display()));
        assert_eq!(file.length().unwrap(), 50);
    }
}
