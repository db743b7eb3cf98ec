//! Every mount that some process sees, in whichever mount namespace, and how to get hold of one.
//!
//! A container's volume may be mounted nowhere else. Other namespaces are entered through `/proc/PID/root`, without
//! following what a hostile container may have put in the way: links, or a filesystem that answers when it likes.

use super::FreezeError;
use crate::io::host::mounts::{Mount, parse};
use crate::io::host::sysfs;
use crate::model::stack::{DeviceNumber, Obstacle};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Mount namespaces that are looked into; a host with a thousand containers has a thousand.
const MAX_NAMESPACES: usize = 4096;
/// Kinds whose look-ups wait for a server or a process: no path through them is followed.
const SLOW: [&str; 8] = ["9p", "afs", "autofs", "ceph", "cifs", "fuse", "nfs", "smb"];

/// The mounts of one namespace, as one process in it sees them.
#[derive(Debug)]
struct Namespace {
    /// The process's root, under `/proc`.
    root: PathBuf,
    mounts: Vec<Mount>,
}

/// The mounts of every namespace; this process's own come first.
#[derive(Debug)]
pub(super) struct Mounts {
    namespaces: Vec<Namespace>,
    /// A process whose mounts may not be looked at.
    hidden: Option<String>,
}

impl Mounts {
    pub(super) fn read() -> Result<Self, FreezeError> {
        let mut namespaces = vec![Namespace::read("self").map_err(FreezeError::Mounts)?];
        let mut hidden = None;
        let mut seen: BTreeSet<(PathBuf, PathBuf)> = Namespace::key("self").into_iter().collect();
        let processes = sysfs::names(Path::new("/proc"))
            .into_iter()
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        for pid in processes {
            match Namespace::key(&pid) {
                Ok(key) => {
                    if seen.insert(key) {
                        namespaces.extend(Namespace::read(&pid));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden = Some(pid),
                // It has ended while it was looked at.
                Err(_) => {}
            }
            if namespaces.len() > MAX_NAMESPACES {
                return Err(FreezeError::TooMany { what: "mount namespaces", limit: MAX_NAMESPACES });
            }
        }
        Ok(Self { namespaces, hidden })
    }

    /// Why there may be mounts that are not known.
    pub(super) fn blind_spot(&self) -> Option<Obstacle> {
        let reason = "what it has mounted may not be looked at; the agent needs CAP_SYS_PTRACE".to_owned();
        self.hidden.as_ref().map(|pid| Obstacle { what: format!("process {pid}"), reason })
    }

    /// All of them; one that several namespaces share shows up in each.
    pub(super) fn all(&self) -> impl Iterator<Item = &Mount> {
        self.namespaces.iter().flat_map(|namespace| &namespace.mounts)
    }

    /// The mount that this process sees a path in, if it leads to that very inode.
    pub(super) fn of_path(&self, path: &Path, device: DeviceNumber, inode: u64) -> Option<&Mount> {
        let flags = StatxFlags::MNT_ID | StatxFlags::INO;
        let stat = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), flags).ok()?;
        let same = (stat.stx_dev_major, stat.stx_dev_minor) == device && stat.stx_ino == inode;
        self.namespaces.first()?.mounts.iter().find(|mount| same && mount.id == stat.stx_mnt_id)
    }

    /// Opens a file or folder of a filesystem, through any mount that can be reached.
    pub(super) fn open(&self, filesystem: DeviceNumber) -> Result<OwnedFd, String> {
        let mut failure = "it is mounted where no process can see it".to_owned();
        for namespace in &self.namespaces {
            for mount in namespace.mounts.iter().filter(|mount| mount.number == filesystem) {
                match namespace.open(mount) {
                    Ok(file) => return Ok(file),
                    Err(reason) => failure = format!("{}: {reason}", mount.mount_point.display()),
                }
            }
        }
        Err(failure)
    }
}

impl Namespace {
    /// What tells apart what processes see: their namespace, and their root in it.
    fn key(pid: &str) -> io::Result<(PathBuf, PathBuf)> {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}"));
        Ok((link("ns/mnt")?, link("root")?))
    }

    fn read(pid: &str) -> Result<Self, crate::io::host::HostError> {
        let text = sysfs::proc_file(&format!("/proc/{pid}/mountinfo"))?;
        Ok(Self {
            root: format!("/proc/{pid}/root").into(),
            mounts: text.lines().filter_map(parse).collect(),
        })
    }

    /// Opens the mount itself, not what may be mounted over it.
    fn open(&self, mount: &Mount) -> Result<OwnedFd, String> {
        if let Some(slow) = self.slow_above(&mount.mount_point) {
            return Err(format!("its path leads through a {} filesystem, which may never answer", slow.kind));
        }
        let root = File::open(&self.root).map_err(|e| format!("{}: {e}", self.root.display()))?;
        let relative = mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let place =
            rustix::fs::openat2(&root, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
                .map_err(|e| e.to_string())?;
        let flags = StatxFlags::MNT_ID | StatxFlags::TYPE;
        let stat = rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, flags).map_err(|e| e.to_string())?;
        if stat.stx_mnt_id != mount.id {
            return Err("something else is mounted over it".to_owned());
        }
        // A bind mount of a device or a pipe would be opened as what it stands for.
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory | FileType::RegularFile => reopen(&place).map_err(|e| e.to_string()),
            _ => Err("only a device, socket or pipe of it is mounted there".to_owned()),
        }
    }

    fn slow_above(&self, path: &Path) -> Option<&Mount> {
        let slow = |kind: &str| SLOW.iter().any(|slow| kind.starts_with(slow)) && kind != "fuseblk";
        self.mounts
            .iter()
            .find(|m| m.mount_point != path && path.starts_with(&m.mount_point) && slow(&m.kind))
    }
}

/// Opens for reading what an `O_PATH` descriptor stands for: ioctls want that.
fn reopen(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}
