//! Real disks that vanish: loop devices over files in memory (request-based) and zram (bio-based).

use super::fixture::{memory_dir, remove, sh, unique, wait_for};
use anyhow::{Context, Result, bail};
use rustix::ioctl::{IntegerSetter, ioctl};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `LOOP_CTL_ADD` and `LOOP_CTL_REMOVE` of `linux/loop.h`.
const LOOP_CTL_ADD: u32 = 0x4C80;
const LOOP_CTL_REMOVE: u32 = 0x4C81;
/// The kernel makes 8 loop devices at start, which belong to everybody: ours come after them.
const FIRST_OWN: usize = 8;
/// Minor numbers have 20 bits, in two parts; from 256 on both are used.
pub const BEYOND_ONE_BYTE: usize = 300;
/// Device numbers tried before giving up.
const MAX_TRIED: usize = 1000;
/// A device may stay busy for a moment after its last close.
const RELEASE: Duration = Duration::from_secs(10);

/// Anything that is a disk for the time of a test.
pub trait Disk {
    /// Node under `/dev`.
    fn path(&self) -> &Path;

    fn name(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }
}

/// Size of a file or block device.
pub fn device_bytes(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// A loop device over a sparse file in memory. Made for its owner: number and node vanish with it.
#[derive(Debug)]
pub struct LoopDisk {
    number: usize,
    node: PathBuf,
    backing: PathBuf,
}

impl LoopDisk {
    pub fn new(bytes: u64) -> Result<Self> {
        Self::numbered_from(FIRST_OWN, bytes)
    }

    /// A loop device whose minor number is at least `first`.
    pub fn numbered_from(first: usize, bytes: u64) -> Result<Self> {
        let backing = memory_dir().join(unique() + ".img");
        File::create_new(&backing)
            .and_then(|file| file.set_len(bytes))
            .with_context(|| format!("{}: making a backing file", backing.display()))?;
        let result = Self::attach(first, backing.clone());
        if result.is_err() {
            drop(fs::remove_file(&backing));
        }
        result
    }

    /// A loop device over an existing file, which is removed with it.
    pub fn over(backing: PathBuf) -> Result<Self> {
        Self::attach(FIRST_OWN, backing)
    }

    fn attach(first: usize, backing: PathBuf) -> Result<Self> {
        let control = control()?;
        for number in first..first + MAX_TRIED {
            // SAFETY: LOOP_CTL_ADD takes a plain number.
            let added = unsafe { ioctl(&control, IntegerSetter::<LOOP_CTL_ADD>::new_usize(number)) };
            match added {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => continue,
                Err(error) => return Err(error).with_context(|| format!("making loop device {number}")),
            }
            let disk = Self { number, node: format!("/dev/loop{number}").into(), backing: backing.clone() };
            match sh("losetup", &[&disk.name(), &backing.to_string_lossy()]) {
                Ok(_) => {
                    disk.forget_btrfs();
                    return Ok(disk);
                }
                // Somebody's `losetup --find` was faster. It is theirs now: neither detach nor remove it.
                Err(error) if format!("{error:#}").contains("busy") => std::mem::forget(disk),
                Err(error) => return Err(error),
            }
        }
        bail!("{MAX_TRIED} loop devices from number {first} on are taken")
    }

    /// The kernel remembers which btrfs a device was part of, by its number, also when both are gone; a twin of a mounted
    /// btrfs on another device of that number is then refused ("File exists").
    fn forget_btrfs(&self) {
        // One that was never part of any, or is mounted, is an error.
        let _ = sh("btrfs", &["device", "scan", "--forget", &self.name()]);
    }

    /// The file behind the device. Writes to it are seen by no tracker.
    pub fn backing(&self) -> &Path {
        &self.backing
    }
}

impl Disk for LoopDisk {
    fn path(&self) -> &Path {
        &self.node
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        self.forget_btrfs();
        if let Err(error) = sh("losetup", &["--detach", &self.name()]) {
            eprintln!("{}: left behind: {error:#}", self.name());
        }
        let removed = remove("removing a loop device", RELEASE, || {
            // SAFETY: LOOP_CTL_REMOVE takes a plain number.
            unsafe { ioctl(control()?, IntegerSetter::<LOOP_CTL_REMOVE>::new_usize(self.number)) }?;
            Ok(())
        });
        if let Err(error) = removed {
            eprintln!("{}: left behind: {error:#}", self.name());
        }
        if let Err(error) = fs::remove_file(&self.backing) {
            eprintln!("{}: left behind: {error}", self.backing.display());
        }
    }
}

/// A stretch of another disk as a device of its own: what a partition is where the kernel reads no partition tables.
/// What is written to it goes through the other disk, past the page cache of both.
#[derive(Debug)]
pub struct Slice(PathBuf);

impl Slice {
    pub fn of(disk: &impl Disk, start: u64, bytes: u64) -> Result<Self> {
        let (start, bytes) = (start.to_string(), bytes.to_string());
        let args = ["--find", "--show", "--direct-io=on", "--offset", &start, "--sizelimit", &bytes];
        let name = disk.name();
        let node = wait_for("a free loop device", RELEASE, || {
            // Somebody else may have taken the one that was found.
            sh("losetup", &[&args[..], &[&name]].concat()).map(Some)
        })?;
        Ok(Self(node.trim().into()))
    }
}

impl Disk for Slice {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        if let Err(error) = sh("losetup", &["--detach", &self.name()]) {
            eprintln!("{}: left behind: {error:#}", self.name());
        }
    }
}

fn control() -> Result<File> {
    let path = "/dev/loop-control";
    OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("{path}: opening"))
}

/// A compressed disk in memory, made by hot_add: the bio-based device of the tests.
#[derive(Debug)]
pub struct ZramDisk {
    number: u32,
    node: PathBuf,
}

impl ZramDisk {
    pub fn new(bytes: u64) -> Result<Self> {
        let hot_add = "/sys/class/zram-control/hot_add";
        let number = fs::read_to_string(hot_add)
            .with_context(|| format!("{hot_add}: adding a zram disk (module zram loaded?)"))?
            .trim()
            .parse()?;
        let disk = Self { number, node: format!("/dev/zram{number}").into() };
        fs::write(disk.attribute("disksize"), bytes.to_string())
            .with_context(|| format!("{}: setting its size", disk.name()))?;
        Ok(disk)
    }

    /// From now on the device fails whatever needs more memory than it has, as one with bad sectors does: an I/O error.
    /// Bytes that do not shrink always do.
    pub fn fail_writes(&self) -> Result<()> {
        let statistics = fs::read_to_string(self.attribute("mm_stat"))?;
        let used = statistics.split_whitespace().nth(2).context("mm_stat: no third field")?;
        Ok(fs::write(self.attribute("mem_limit"), used)?)
    }

    /// It takes everything again.
    pub fn heal(&self) -> Result<()> {
        Ok(fs::write(self.attribute("mem_limit"), "0")?)
    }

    fn attribute(&self, name: &str) -> PathBuf {
        format!("/sys/block/zram{}/{name}", self.number).into()
    }
}

impl Disk for ZramDisk {
    fn path(&self) -> &Path {
        &self.node
    }
}

impl Drop for ZramDisk {
    fn drop(&mut self) {
        let removed = remove("removing a zram disk", RELEASE, || {
            fs::write(self.attribute("reset"), "1")?;
            fs::write("/sys/class/zram-control/hot_remove", self.number.to_string())?;
            Ok(())
        });
        if let Err(error) = removed {
            eprintln!("{}: left behind: {error:#}", self.name());
        }
    }
}
