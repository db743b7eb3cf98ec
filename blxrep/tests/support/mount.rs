//! Filesystems on the test disks, and folders for pins.

use super::fixture::{remove, sh, unique};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A mounted filesystem; unmounted and its mount point removed at the end.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    mounted: bool,
}

/// Filesystems that the tests know how to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl Filesystem {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Makes the filesystem, over whatever is there.
    pub fn make(self, device: &Path) -> Result<()> {
        let device = device.to_string_lossy();
        match self {
            Self::Ext4 => sh("mkfs.ext4", &["-q", "-F", &device]),
            Self::Xfs => sh("mkfs.xfs", &["-q", "-f", &device]),
            Self::Btrfs => sh("mkfs.btrfs", &["-q", "-f", &device]),
        }
        .map(drop)
    }
}

impl Mount {
    pub fn new(filesystem: &str, source: &Path, options: &str) -> Result<Self> {
        let point = std::env::temp_dir().join(unique() + ".mnt");
        fs::create_dir(&point).with_context(|| format!("{}: making a mount point", point.display()))?;
        let mut mount = Self { point, mounted: false };
        let (source, target) = (source.to_string_lossy(), mount.point.to_string_lossy().into_owned());
        sh("mount", &["-t", filesystem, "-o", options, &source, &target])?;
        mount.mounted = true;
        Ok(mount)
    }

    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Unmounts now; what was written is on the disk afterwards.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.mounted {
            // A writer that was just killed may hold the filesystem for a moment.
            remove("unmounting", Duration::from_secs(20), || {
                sh("umount", &[&self.point.to_string_lossy()]).map(drop)
            })?;
            self.mounted = false;
        }
        fs::remove_dir(&self.point)
            .with_context(|| format!("{}: removing a mount point", self.point.display()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.point.exists()
            && let Err(error) = self.end()
        {
            eprintln!("{}: left behind: {error:#}", self.point.display());
        }
    }
}

/// A folder under bpffs that one agent pins to; everything in it is unpinned at the end.
///
/// bpffs is mounted when it is absent, as the agent does, and stays: others may pin there by then.
#[derive(Debug)]
pub struct PinDir(PathBuf);

impl PinDir {
    pub fn new() -> Result<Self> {
        let bpffs = Path::new("/sys/fs/bpf");
        if !is_bpffs(bpffs)? {
            sh("mount", &["-t", "bpf", "bpf", &bpffs.to_string_lossy()])?;
        }
        ensure!(is_bpffs(bpffs)?, "{}: bpffs is not mounted there", bpffs.display());
        Ok(Self(bpffs.join(unique())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes all pins: the kernel detaches what nobody else holds.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}: removing pins", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("left behind: {error:#}");
        }
    }
}

fn is_bpffs(path: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo: reading")?;
    let path = path.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path) && line.contains(" - bpf ")))
}
