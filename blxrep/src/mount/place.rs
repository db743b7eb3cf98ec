//! Mounted points on this host: found in the kernel's own list, and unmounted.

use super::MountError;
use crate::io::host::mounts::{self, Mount};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The type by which a mounted point is known in `mountinfo`.
pub const KIND: &str = "fuse.blxrep";
const MOUNTINFO: &str = "/proc/self/mountinfo";
/// The server ends at once when its mount is gone; its exit may wait for the last disk read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Users of a busy mount that are named.
const MAX_USERS: usize = 5;

/// A mounted point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub point: String,
    /// The process that serves it.
    pub server: u32,
    pub dir: PathBuf,
    /// What is mounted below it, in the order in which it was mounted.
    pub below: Vec<PathBuf>,
}

/// What the kernel shows as the source of a mounted point.
#[must_use]
pub fn source(point: &str, server: u32) -> String {
    format!("blxrep:{point}:{server}")
}

/// All points that are mounted, as this process sees them.
pub fn all() -> Result<Vec<Place>, MountError> {
    let text = std::fs::read(MOUNTINFO).map_err(MountError::path("read", Path::new(MOUNTINFO)))?;
    // The kernel escapes blanks, nothing else: a path may hold any other bytes.
    let mounts: Vec<Mount> = String::from_utf8_lossy(&text).lines().filter_map(mounts::parse).collect();
    Ok(places(&mounts))
}

fn places(mounts: &[Mount]) -> Vec<Place> {
    let place = |mount: &Mount| {
        if mount.kind != KIND {
            return None;
        }
        let source = mount.source.to_str()?;
        let (point, server) = source.strip_prefix("blxrep:")?.split_once(':')?;
        let below = mounts.iter().map(|m| &m.mount_point);
        let below =
            below.filter(|point| **point != mount.mount_point && point.starts_with(&mount.mount_point));
        Some(Place {
            point: point.to_owned(),
            server: server.parse().ok()?,
            dir: mount.mount_point.clone(),
            below: below.cloned().collect(),
        })
    };
    mounts.iter().filter_map(place).collect()
}

impl Place {
    /// When it was mounted, which its server says; `None` if that does not answer any more.
    #[must_use]
    pub fn served_since(&self) -> Option<SystemTime> {
        // The attributes of the root are not asked for again for a long time; of this file they always are.
        std::fs::symlink_metadata(self.dir.join("errors.txt")).ok()?.modified().ok()
    }

    /// Unmounts all of it and waits for its server to end.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.served_since().is_some() {
            self.refuse_busy()?;
            for path in self.below.iter().rev().chain([&self.dir]) {
                self.unmount_one(path)?;
            }
        } else {
            // Nothing can be read any more; who has it open may keep what is left of it.
            rustix::mount::unmount(&self.dir, UnmountFlags::DETACH)
                .map_err(MountError::errno("unmount", &self.dir))?;
        }
        self.await_end();
        Ok(())
    }

    /// Names who uses any of it, before a part of it is gone.
    fn refuse_busy(&self) -> Result<(), MountError> {
        // Only where this process was started.
        let _ = rustix::process::chdir("/");
        match users_of(&self.dir) {
            users if users.is_empty() => Ok(()),
            users => Err(in_use(&self.dir, &users)),
        }
    }

    fn unmount_one(&self, path: &Path) -> Result<(), MountError> {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(Errno::BUSY) => Err(in_use(path, &users_of(path))),
            Err(error) => Err(MountError::errno("unmount", path)(error)),
        }
    }

    /// Waits until the server is gone, and with it the lease on the point's files.
    fn await_end(&self) {
        let process = PathBuf::from(format!("/proc/{}/cmdline", self.server));
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let line = std::fs::read(&process).unwrap_or_default();
            if !contains(&line, super::session::COMMAND.as_bytes()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn in_use(path: &Path, users: &[String]) -> MountError {
    let who = if users.is_empty() { "something".to_owned() } else { users.join(", ") };
    MountError::Refused(format!("{} is in use by {who}; end that and try again", path.display()))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Takes a mounted point and all that is mounted on it out of the tree of names, whoever uses it.
pub fn detach(dir: &Path) {
    // It may be gone already: what matters is that it is.
    let _ = rustix::mount::unmount(dir, UnmountFlags::DETACH);
}

/// The point that is mounted exactly on a folder.
pub fn find(dir: &Path) -> Result<Place, MountError> {
    // The folder of a point whose server has died cannot be looked at, so only what is above it is resolved.
    let absolute = std::path::absolute(dir).map_err(MountError::path("find", dir))?;
    let resolved = match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute.clone(),
    };
    // A link to the folder can be followed while its server lives.
    let followed = absolute.canonicalize().unwrap_or_else(|_| resolved.clone());
    let mut places = all()?;
    places.retain(|place| [&absolute, &resolved, &followed].contains(&&place.dir));
    // Of several mounts on one folder the last one is on top.
    places.pop().ok_or_else(|| {
        MountError::NotFound(format!("no point is mounted on {}; see `blxrep mounts`", dir.display()))
    })
}

/// Processes that use something below a folder, as far as `/proc` tells.
fn users_of(dir: &Path) -> Vec<String> {
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if is_process && uses(&entry.path(), dir) {
            let command = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            users.push(format!("{} (process {})", command.trim(), name.to_string_lossy()));
        }
        if users.len() >= MAX_USERS {
            break;
        }
    }
    users
}

fn uses(process: &Path, dir: &Path) -> bool {
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let links = files.map(|file| file.path()).chain(["cwd", "root", "exe"].map(|name| process.join(name)));
    links.into_iter().any(|link| std::fs::read_link(link).is_ok_and(|target| target.starts_with(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_and_what_is_mounted_on_it_are_found() {
        let list = "30 1 0:50 / / rw - ext4 /dev/root rw\n\
                    31 30 0:51 / /mnt/a\\040b rw,nosuid - fuse.blxrep blxrep:00ab:42 rw,user_id=0\n\
                    32 31 7:9 / /mnt/a\\040b/files/1 ro - ext4 /dev/loop9 ro\n\
                    33 31 7:8 / /mnt/a\\040b/files/2 ro - xfs /dev/loop8 ro\n\
                    34 30 7:8 / /mnt/a\\040bc ro - xfs /dev/loop8 ro\n\
                    35 30 0:52 / /mnt/other rw - fuse.sshfs host: rw\n";
        let mounts: Vec<Mount> = list.lines().filter_map(mounts::parse).collect();
        let found = places(&mounts);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].point.as_str(), found[0].server), ("00ab", 42));
        assert_eq!(found[0].dir, Path::new("/mnt/a b"));
        assert_eq!(found[0].below, [Path::new("/mnt/a b/files/1"), Path::new("/mnt/a b/files/2")]);
        assert_eq!(source("00ab", 42), "blxrep:00ab:42");
    }
}
