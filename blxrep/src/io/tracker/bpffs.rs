//! Pins: where programs, maps and links outlive the agent.
//!
//! A directory is filled under a temporary name and then renamed, so one that has its final name is whole. bpffs
//! refuses dots in names.

use super::TrackerError;
use rustix::fs::{FlockOperation, statfs};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a directory has behind its name until it is whole.
const HALF_MADE: &str = "-new";
/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// Mounts bpffs where it belongs if it is not there. Under systemd it always is.
pub fn mount_if_absent() -> Result<(), TrackerError> {
    if is_bpffs(Path::new(BPFFS)) {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=0700")
        .map_err(|e| TrackerError::io("mount bpffs at", Path::new(BPFFS))(e.into()))
}

/// Whether `path`, or the nearest directory above it that exists, is on bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    path.ancestors().find(|p| p.exists()).is_some_and(|p| statfs(p).is_ok_and(|s| s.f_type == BPFFS_MAGIC))
}

/// A name that bpffs accepts: agent ids may have dots, file names there may not.
pub fn file_name(name: &str) -> String {
    name.replace('.', "~")
}

/// The directory with everything that one agent has pinned, locked while in use.
#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    lock: File,
}

impl PinDir {
    /// Makes the directory if need be and locks it.
    pub fn open(path: &Path) -> Result<Self, TrackerError> {
        fs::create_dir_all(path).map_err(TrackerError::io("make the pin directory", path))?;
        if !is_bpffs(path) {
            return Err(TrackerError::Bpf {
                action: format!("pin anything under {}", path.display()),
                reason: "it is not on a BPF file system".into(),
            });
        }
        let lock = File::open(path).map_err(TrackerError::io("open", path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_path_buf(), lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(TrackerError::InUse { path: path.to_path_buf() }),
            Err(e) => Err(TrackerError::io("lock", path)(e.into())),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still is the directory that was locked.
    pub fn is_there(&self) -> bool {
        let ours = rustix::fs::fstat(&self.lock).map(|s| s.st_ino);
        let there = rustix::fs::stat(&self.path).map(|s| s.st_ino);
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }

    /// Gives the lock up, to take it again.
    pub fn unlock(&self) {
        // What cannot be unlocked is said when it is locked.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Fills a directory under a temporary name and then gives it its own.
pub fn make_whole<T>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, TrackerError>,
) -> Result<T, TrackerError> {
    let half_made = half_made(path);
    remove(&half_made)?;
    fs::create_dir(&half_made).map_err(TrackerError::io("make", &half_made))?;
    let filled = fill(&half_made).and_then(|value| {
        fs::rename(&half_made, path).map_err(TrackerError::io("rename to", path))?;
        Ok(value)
    });
    if filled.is_err() {
        // The first error is the one to report; what is left over is removed at the next start.
        let _ = remove(&half_made);
    }
    filled
}

fn half_made(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(HALF_MADE);
    name.into()
}

/// The name that a half-made directory would have got.
pub fn half_made_name(name: &str) -> Option<&str> {
    name.strip_suffix(HALF_MADE)
}

/// Removes a directory with everything in it: unpinned links detach, unpinned maps go when nobody maps them.
pub fn remove(path: &Path) -> Result<(), TrackerError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(TrackerError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Names in a directory, sorted; none if it does not exist.
pub fn names(path: &Path) -> Result<Vec<String>, TrackerError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrackerError::io("list", path)(e)),
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_dots_stay_apart() {
        assert_eq!(file_name("db.example.com"), "db~example~com");
        assert_ne!(file_name("a.b"), file_name("a_b"));
    }

    #[test]
    fn an_ordinary_directory_is_no_place_for_pins() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_bpffs(&folder.path().join("not/there")));
        assert!(PinDir::open(folder.path()).unwrap_err().to_string().contains("not on a BPF file system"));
    }
}
