//! What is frozen, in a few words of shared memory that outlive their writers.
//!
//! One record per freeze: a small file on a filesystem in memory, mapped by the agent and by the guard. Writing it is
//! a store, so it works while every disk is frozen, and whoever is left after the others were killed knows what is to
//! be thawed. While one of its makers lives the file is locked.
//!
//! A filesystem's states; only [`Record::claim`] leaves one that two might want to leave:
//!
//! ```text
//! Planned ── Freezing ── Frozen ── Thawing ── Thawed
//!               │                     └────── Stolen   (somebody else had thawed it)
//!               └─────── Refused               (never frozen by us: not to be thawed by us)
//! ```

use super::FreezeError;
use crate::io::random;
use crate::model::stack::DeviceNumber;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Filesystems that are frozen together. Their descriptors go to the guard in one message, and the kernel allows 253.
pub const MAX_FILESYSTEMS: usize = 250;
/// "blxfrz" and the layout's version.
const MAGIC: u64 = u64::from_le_bytes(*b"blxfrz\x01\0");
const FILE_PREFIX: &str = "freeze-";

const WORD: usize = size_of::<u64>();
const HEAD_WORDS: usize = 5;
const ENTRY_WORDS: usize = 6;
const MAX_BYTES: usize = (HEAD_WORDS + ENTRY_WORDS * MAX_FILESYSTEMS) * WORD;

// Words of the head: magic, number of filesystems, and:
const DEADLINE: usize = 2;
const CAUSE: usize = 3;
const HASTY: usize = 4;
// Words of an entry: number of the filesystem, and:
const STATE: usize = 1;
const ERRNO: usize = 2;
const BEGAN: usize = 3;
const FROZEN: usize = 4;
const THAWED: usize = 5;

/// How far one filesystem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    Planned = 0,
    Freezing = 1,
    Frozen = 2,
    Thawing = 3,
    Thawed = 4,
    Stolen = 5,
    Refused = 6,
}

/// Why everything was thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Cause {
    /// The agent was done.
    Asked = 1,
    Deadline = 2,
    /// The agent was gone.
    Hangup = 3,
    /// The guard was told to end.
    Signal = 4,
    /// The guard was gone.
    GuardDied = 5,
}

/// A moment of one filesystem, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    Began,
    Frozen,
    Thawed,
}

/// A mapped record.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    path: Option<PathBuf>,
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is only ever used as a slice of atomics and is unmapped by the only owner.
unsafe impl Send for Record {}
// SAFETY: as above.
unsafe impl Sync for Record {}

impl Record {
    /// A record of what is about to be frozen, in a folder on a filesystem in memory.
    pub(super) fn create(folder: &Path, filesystems: &[DeviceNumber]) -> Result<Self, FreezeError> {
        if filesystems.len() > MAX_FILESYSTEMS {
            return Err(FreezeError::TooMany { what: "filesystems", limit: MAX_FILESYSTEMS });
        }
        let number = random::id();
        let path = folder.join(format!("{FILE_PREFIX}{}-{number:016x}", std::process::id()));
        let failed = |source: io::Error| FreezeError::Record { path: path.clone(), source };
        // Not visible to others before it is locked and whole: a name is given last.
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let file = File::from(file);
        let words = HEAD_WORDS + ENTRY_WORDS * filesystems.len();
        file.set_len((words * WORD) as u64).map_err(failed)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| failed(e.into()))?;
        let mut record = Self::map(file, words).map_err(failed)?;
        record.word(0).store(MAGIC, Ordering::SeqCst);
        record.word(1).store(filesystems.len() as u64, Ordering::SeqCst);
        for (index, (major, minor)) in filesystems.iter().enumerate() {
            let number = u64::from(*major) << 32 | u64::from(*minor);
            record.entry(index, 0).store(number, Ordering::SeqCst);
        }
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&record.file));
        let (cwd, follow) = (rustix::fs::CWD, rustix::fs::AtFlags::SYMLINK_FOLLOW);
        rustix::fs::linkat(cwd, from, cwd, &path, follow).map_err(|e| failed(e.into()))?;
        record.path = Some(path);
        Ok(record)
    }

    /// The record that a descriptor stands for; its bytes are checked.
    pub(super) fn from_file(file: File) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "it is no record of a freeze");
        if !(HEAD_WORDS * WORD..=MAX_BYTES).contains(&bytes) {
            return Err(malformed());
        }
        let record = Self::map(file, bytes / WORD)?;
        let count = usize::try_from(record.word(1).load(Ordering::SeqCst)).unwrap_or(usize::MAX);
        let whole = count <= MAX_FILESYSTEMS && (HEAD_WORDS + ENTRY_WORDS * count) * WORD == bytes;
        if record.word(0).load(Ordering::SeqCst) == MAGIC && whole { Ok(record) } else { Err(malformed()) }
    }

    /// The records in a folder, whoever made them.
    /// The error of one that cannot be used says which.
    pub(super) fn list(folder: &Path) -> Vec<Result<Self, FreezeError>> {
        let mut found = Vec::new();
        for name in crate::io::host::sysfs::names(folder).iter().filter(|name| name.starts_with(FILE_PREFIX))
        {
            let path = folder.join(name);
            let opened = File::options().read(true).write(true).open(&path).and_then(Self::from_file);
            match opened {
                Ok(mut record) => {
                    record.path = Some(path);
                    found.push(Ok(record));
                }
                // Its owner was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => found.push(Err(FreezeError::Record { path, source })),
            }
        }
        found
    }

    fn map(file: File, words: usize) -> io::Result<Self> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; it is only used as atomics.
        let start = unsafe { mmap(std::ptr::null_mut(), words * WORD, prot, flags, &file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { file, path: None, start, words })
    }

    fn all(&self) -> &[AtomicU64] {
        // SAFETY: `words` words are mapped at `start`, page-aligned, for as long as `self` lives. The file's length is
        // checked in `from_file`, and only its makers can shorten it: they do not.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.all()[index]
    }

    fn entry(&self, index: usize, word: usize) -> &AtomicU64 {
        self.word(HEAD_WORDS + ENTRY_WORDS * index + word)
    }

    /// Number of filesystems.
    pub(super) fn len(&self) -> usize {
        (self.words - HEAD_WORDS) / ENTRY_WORDS
    }

    pub(super) fn number(&self, index: usize) -> DeviceNumber {
        let number = self.entry(index, 0).load(Ordering::SeqCst);
        let half = |n: u64| u32::try_from(n & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        (half(number >> 32), half(number))
    }

    pub(super) fn state(&self, index: usize) -> State {
        match self.entry(index, STATE).load(Ordering::SeqCst) {
            0 => State::Planned,
            1 => State::Freezing,
            3 => State::Thawing,
            4 => State::Thawed,
            5 => State::Stolen,
            6 => State::Refused,
            // What nobody wrote is thawed rather than left.
            _ => State::Frozen,
        }
    }

    pub(super) fn set_state(&self, index: usize, state: State) {
        self.entry(index, STATE).store(state as u64, Ordering::SeqCst);
    }

    /// Moves from one state to another, if nobody else was faster.
    pub(super) fn claim(&self, index: usize, from: State, to: State) -> bool {
        let (from, to) = (from as u64, to as u64);
        self.entry(index, STATE).compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn set_errno(&self, index: usize, errno: rustix::io::Errno) {
        self.entry(index, ERRNO).store(errno.raw_os_error().unsigned_abs().into(), Ordering::SeqCst);
    }

    pub(super) fn errno(&self, index: usize) -> io::Error {
        let errno = self.entry(index, ERRNO).load(Ordering::SeqCst);
        io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0))
    }

    pub(super) fn set_moment(&self, index: usize, moment: Moment, now: u64) {
        self.entry(index, moment.word()).store(now, Ordering::SeqCst);
    }

    pub(super) fn moment(&self, index: usize, moment: Moment) -> Option<u64> {
        Some(self.entry(index, moment.word()).load(Ordering::SeqCst)).filter(|nanos| *nanos != 0)
    }

    pub(super) fn set_deadline(&self, nanos: u64) {
        self.word(DEADLINE).store(nanos, Ordering::SeqCst);
    }

    /// When everything has to be thawed; `None` before the first filesystem is frozen.
    pub(super) fn deadline(&self) -> Option<u64> {
        Some(self.word(DEADLINE).load(Ordering::SeqCst)).filter(|nanos| *nanos != 0)
    }

    /// Whether the kernel was asked to hurry, and has to be told to stop.
    pub(super) fn is_hasty(&self) -> bool {
        self.word(HASTY).load(Ordering::SeqCst) != 0
    }

    pub(super) fn set_hasty(&self, hasty: bool) {
        self.word(HASTY).store(hasty.into(), Ordering::SeqCst);
    }

    /// Says why everything is thawed. The first cause stays.
    pub(super) fn set_cause(&self, cause: Cause) {
        // A cause that is there already is what is wanted.
        let _ = self.word(CAUSE).compare_exchange(0, cause as u64, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        match self.word(CAUSE).load(Ordering::SeqCst) {
            1 => Some(Cause::Asked),
            2 => Some(Cause::Deadline),
            3 => Some(Cause::Hangup),
            4 => Some(Cause::Signal),
            5 => Some(Cause::GuardDied),
            _ => None,
        }
    }

    /// Whether a filesystem may still be frozen by whoever wrote this.
    pub(super) fn is_open(&self) -> bool {
        (0..self.len()).any(|i| matches!(self.state(i), State::Freezing | State::Frozen | State::Thawing))
    }

    /// Whether none of its makers lives any more.
    pub(super) fn is_orphaned(&self) -> bool {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Removes the file; the mapping stays.
    pub(super) fn remove(&self) -> io::Result<()> {
        match &self.path {
            Some(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }
}

impl Moment {
    const fn word(self) -> usize {
        match self {
            Self::Began => BEGAN,
            Self::Frozen => FROZEN,
            Self::Thawed => THAWED,
        }
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping and nothing borrows it any more. Failure leaves some address space.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * WORD) };
    }
}

/// Nanoseconds of the monotonic clock, which all processes of a boot share.
pub(super) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    let all = seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from(all.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_record_is_found_by_others_and_orphaned_when_all_its_makers_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(folder.path(), &[(8, 1), (259, 70_000)]).unwrap();
        // A guard has it by a descriptor.
        let guard = Record::from_file(record.file.try_clone().unwrap()).unwrap();
        guard.set_state(1, State::Frozen);
        guard.set_deadline(77);
        let [Ok(found)] = &Record::list(folder.path())[..] else { panic!("not one record") };
        assert_eq!((found.len(), found.number(0), found.number(1)), (2, (8, 1), (259, 70_000)));
        assert_eq!((found.state(0), found.state(1)), (State::Planned, State::Frozen));
        assert_eq!(found.deadline(), Some(77));
        assert!(found.is_open());
        drop(record);
        assert!(!found.is_orphaned(), "the guard is still there");
        drop(guard);
        assert!(found.is_orphaned());
        found.remove().unwrap();
        assert!(Record::list(folder.path()).is_empty());
    }

    #[test]
    fn only_one_takes_a_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(folder.path(), &[(8, 1)]).unwrap();
        record.set_state(0, State::Frozen);
        assert!(record.claim(0, State::Frozen, State::Thawing));
        assert!(!record.claim(0, State::Frozen, State::Thawing));
        record.set_cause(Cause::Deadline);
        record.set_cause(Cause::Asked);
        assert_eq!(record.cause(), Some(Cause::Deadline));
    }

    #[test]
    fn what_is_no_record_is_an_error_and_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(folder.path(), &[(8, 1)]).unwrap();
        let good = fs::read(record.path.as_ref().unwrap()).unwrap();
        let mut other_version = good.clone();
        other_version[6] += 1;
        let bad = [&b""[..], &good[..8], &good[..good.len() - 8], &other_version];
        for (index, bytes) in bad.iter().enumerate() {
            fs::write(folder.path().join(format!("{FILE_PREFIX}{index}")), bytes).unwrap();
        }
        let (found, errors): (Vec<_>, Vec<_>) =
            Record::list(folder.path()).into_iter().partition(Result::is_ok);
        assert_eq!((found.len(), errors.len()), (1, bad.len()));
    }
}
