//! The last net: what a crashed agent and its guard left frozen is thawed by whoever comes next.

use super::charge::{calm_after, thaw_after};
use super::mounts::Mounts;
use super::record::{Record, State, now};
use super::{FreezeError, HARD_CAP, LEFT_FROZEN, OVERDUE};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where records are kept: the first whose parent is a filesystem in memory, which no freeze of a disk can reach.
const FOLDERS: [&str; 2] = ["/run/blxrep", "/dev/shm/blxrep"];
/// `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58F6;
/// How long a guard that was killed is waited for while the kernel still freezes for it. A stopped unit has 90 s.
const DYING_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at a record whose guard still lives.
const PAUSE: Duration = Duration::from_millis(50);

/// A filesystem that somebody left frozen, and whether it could be thawed.
#[derive(Debug)]
pub struct Leftover {
    pub filesystem: String,
    pub result: Result<(), String>,
}

/// The folder for records, made if it is absent.
pub fn folder() -> Result<PathBuf, FreezeError> {
    for folder in FOLDERS.map(PathBuf::from) {
        if folder.parent().is_some_and(in_memory) {
            let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
            let made =
                made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) });
            made.and_then(|()| check_owner(&folder))
                .map_err(|source| FreezeError::Record { path: folder.clone(), source })?;
            return Ok(folder);
        }
    }
    Err(FreezeError::NoMemoryFolder { folders: FOLDERS.join(" and ") })
}

fn in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|stat| matches!(u64::try_from(stat.f_type), Ok(TMPFS_MAGIC | RAMFS_MAGIC)))
}

/// A record is believed: nobody else may be able to write one.
fn check_owner(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = std::fs::File::from(rustix::fs::open(folder, flags, Mode::empty())?).metadata()?;
    if stat.uid() == rustix::process::geteuid().as_raw() && stat.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(io::Error::other("somebody else can write to it; remove it"))
    }
}

/// Thaws what crashed predecessors left, and removes their records. Waits for a guard that is still at work, at most
/// until its deadline, and for one that the kernel does not let go, for a while.
pub fn thaw_leftovers(folder: &Path) -> Result<Vec<Leftover>, FreezeError> {
    let mut found = Vec::new();
    for record in Record::list(folder) {
        match record {
            Ok(record) => found.extend(thaw_record(&record)?),
            // One of another version, perhaps: what it says can only be found out by a person.
            Err(error) => {
                let advice = format!("{error}; look for frozen filesystems, thaw them, and remove it");
                found.push(Leftover { filesystem: "something".to_owned(), result: Err(advice) });
            }
        }
    }
    Ok(found)
}

fn thaw_record(record: &Record) -> Result<Vec<Leftover>, FreezeError> {
    let mut owner = owner(record);
    let mut found = Vec::new();
    if matches!(owner, Owner::Overdue) {
        found.extend(thaw(record, &[State::Frozen])?);
        // What it is freezing right now it thaws itself, unless it was killed: then it ends.
        let end = Instant::now() + DYING_LIMIT;
        while record.is_open() && Instant::now() < end && matches!(owner, Owner::Overdue) {
            std::thread::sleep(PAUSE);
            if record.is_orphaned() {
                owner = Owner::Gone;
            }
        }
    }
    if matches!(owner, Owner::Gone) {
        found.extend(thaw(record, &LEFT_FROZEN)?);
    }
    if !matches!(owner, Owner::AtWork) && !record.is_open() {
        calm_after(record);
        // One that stays does no harm: it says that nothing is frozen.
        let _ = record.remove();
    }
    Ok(found)
}

fn thaw(record: &Record, states: &[State]) -> Result<Vec<Leftover>, FreezeError> {
    if !record.is_open() {
        return Ok(Vec::new());
    }
    let mounts = Mounts::read()?;
    let results = thaw_after(record, states, |index| mounts.open(record.number(index)));
    let leftover = |(index, result)| {
        let (major, minor) = record.number(index);
        let place = mounts.all().find(|mount| mount.number == (major, minor));
        let place = place.map(|m| m.mount_point.display().to_string()).unwrap_or_default();
        Leftover { filesystem: format!("{place} ({major}:{minor})"), result }
    };
    Ok(results.into_iter().map(leftover).collect())
}

enum Owner {
    Gone,
    /// It lives, and has not thawed in time: it is stopped, or stuck.
    Overdue,
    AtWork,
}

fn owner(record: &Record) -> Owner {
    let end = Instant::now() + HARD_CAP + Duration::from_nanos(OVERDUE);
    loop {
        if record.is_orphaned() {
            return Owner::Gone;
        }
        let overdue = record.deadline().is_some_and(|deadline| now() > deadline + OVERDUE);
        match (record.is_open(), overdue) {
            (true, true) => return Owner::Overdue,
            (true, false) if Instant::now() < end => std::thread::sleep(PAUSE),
            _ => return Owner::AtWork,
        }
    }
}
