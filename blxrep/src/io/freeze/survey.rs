//! What lies on what, on this host, now.

use super::mounts::Mounts;
use super::{FreezeError, ioctl};
use crate::io::host::mounts::{Mount, block_number, unescape};
use crate::io::host::sysfs;
use crate::model::stack::{
    Backing, DeviceNumber, Obstacle, Stack, StackedDevice, StackedFilesystem, SwapArea,
};
use rustix::fs::{major, minor};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The stack, and the mounts that lead to its filesystems.
#[derive(Debug)]
pub struct Survey {
    pub stack: Stack,
    mounts: Mounts,
}

impl Survey {
    /// Reads `/proc` and `/sys`. Nothing is opened but loop devices.
    pub fn take() -> Result<Self, FreezeError> {
        let mounts = Mounts::read()?;
        let stack =
            Stack { devices: devices(&mounts), filesystems: filesystems(&mounts), swaps: swaps(&mounts) };
        Ok(Self { stack, mounts })
    }

    /// Opens a filesystem of the stack for freezing.
    pub fn open(&self, filesystem: DeviceNumber) -> Result<OwnedFd, String> {
        self.mounts.open(filesystem)
    }

    /// Why there may be filesystems that are not in the stack.
    #[must_use]
    pub fn blind_spot(&self) -> Option<Obstacle> {
        self.mounts.blind_spot()
    }

    /// A mount point or device of a filesystem, for messages.
    #[must_use]
    pub fn place(&self, filesystem: DeviceNumber) -> String {
        let found = self.stack.filesystems.iter().find(|f| f.number == filesystem);
        found.map_or_else(|| format!("{}:{}", filesystem.0, filesystem.1), |f| f.place.clone())
    }
}

fn devices(mounts: &Mounts) -> Vec<StackedDevice> {
    let block = Path::new("/sys/block");
    let mut found = Vec::new();
    for name in sysfs::names(block) {
        let dir = block.join(&name);
        let Some(number) = sysfs::device_number(&dir) else { continue };
        found.push(StackedDevice { number, below: below(&dir), backing: backing(&dir, &name, mounts), name });
        let name = &found[found.len() - 1].name;
        let parts = sysfs::names(&dir).into_iter().filter(|entry| entry.starts_with(name.as_str()));
        let parts: Vec<StackedDevice> =
            parts.filter_map(|part| partition(&dir.join(&part), part, number)).collect();
        found.extend(parts);
    }
    found
}

fn partition(dir: &Path, name: String, disk: DeviceNumber) -> Option<StackedDevice> {
    sysfs::text(dir, "partition")?;
    let number = sysfs::device_number(dir)?;
    Some(StackedDevice { number, name, below: vec![disk], backing: Backing::None })
}

/// What dm and md are made of; a bcache's backing device is among its slaves, its cache is not.
fn below(dir: &Path) -> Vec<DeviceNumber> {
    let slaves = dir.join("slaves");
    let slaves = sysfs::names(&slaves).into_iter().map(|name| slaves.join(name));
    let caches = dir.join("bcache/cache");
    let caches = sysfs::names(&caches)
        .into_iter()
        .filter(|n| n.starts_with("cache"))
        .map(|n| caches.join(n).join(".."));
    slaves.chain(caches).filter_map(|dir| sysfs::device_number(&dir)).collect()
}

fn backing(dir: &Path, name: &str, mounts: &Mounts) -> Backing {
    let Some(path) = sysfs::text(dir, "loop/backing_file") else { return Backing::None };
    let status = std::fs::File::open(sysfs::node(name)).ok().and_then(|f| ioctl::loop_backing(f).ok());
    match status.and_then(|(device, inode)| holder((major(device), minor(device)), inode, &path, mounts)) {
        Some(filesystem) => Backing::On(filesystem),
        None => Backing::Unknown(path),
    }
}

/// The filesystem that holds an inode.
fn holder(device: DeviceNumber, inode: u64, path: &str, mounts: &Mounts) -> Option<DeviceNumber> {
    if device.0 != 0 {
        return Some(device);
    }
    // Without a device of its own: in memory, on the network, an overlay; or part of a btrfs, whose subvolumes each
    // have a number of their own, so that only the path leads to the mount.
    let mount = mounts.all().find(|mount| mount.number == device);
    let mount = mount.or_else(|| mounts.of_path(Path::new(path), device, inode))?;
    if mount.kind != "overlay" {
        return Some(mount.number);
    }
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="))?;
    let device = std::fs::metadata(upper).ok()?.dev();
    (major(device) != 0).then(|| (major(device), minor(device)))
}

fn filesystems(mounts: &Mounts) -> Vec<StackedFilesystem> {
    let multi = btrfs_devices();
    let mut found: BTreeMap<DeviceNumber, StackedFilesystem> = BTreeMap::new();
    for mount in mounts.all() {
        if !found.contains_key(&mount.number)
            && let Some(devices) = devices_of(mount, &multi)
        {
            let place = mount.mount_point.display().to_string();
            let (kind, number, writable) = (mount.kind.clone(), mount.number, mount.writable);
            found.insert(number, StackedFilesystem { number, kind, place, devices, writable, mounted: true });
        }
    }
    let known: BTreeSet<DeviceNumber> = found.values().flat_map(|f| f.devices.iter().copied()).collect();
    found.into_values().chain(unseen(&multi, &known)).collect()
}

/// What a mounted filesystem lies on; `None` for one that lies on no block device. Empty: that cannot be told.
fn devices_of(mount: &Mount, btrfs: &[BtrfsDevices]) -> Option<Vec<DeviceNumber>> {
    if mount.number.0 != 0 {
        let mut devices = vec![mount.number];
        let other = |o: &String| o.strip_prefix("logdev=").or(o.strip_prefix("rtdev=")).map(PathBuf::from);
        devices.extend(mount.options.iter().filter_map(other).filter_map(|path| block_number(&path)));
        return Some(devices);
    }
    match mount.kind.as_str() {
        "zfs" => Some(Vec::new()),
        "btrfs" => {
            let named = block_number(&mount.source);
            let all = btrfs.iter().find(|all| named.is_some_and(|named| all.contains(&named)));
            Some(all.cloned().unwrap_or_else(|| named.into_iter().collect()))
        }
        "bcachefs" => {
            let source = mount.source.to_string_lossy();
            Some(source.split(':').filter_map(|path| block_number(Path::new(path))).collect())
        }
        _ => None,
    }
}

type BtrfsDevices = Vec<DeviceNumber>;

/// The devices of every btrfs in use.
fn btrfs_devices() -> Vec<BtrfsDevices> {
    let all = Path::new("/sys/fs/btrfs");
    let one = |name: String| {
        let dir = all.join(name).join("devices");
        sysfs::names(&dir).iter().filter_map(|name| sysfs::device_number(&dir.join(name))).collect::<Vec<_>>()
    };
    sysfs::names(all).into_iter().map(one).filter(|devices| !devices.is_empty()).collect()
}

/// Filesystems that are in use although no process sees a mount of them: kept by an open file, or by a namespace
/// that nobody is in. Such a one may be written to.
fn unseen(btrfs: &[BtrfsDevices], known: &BTreeSet<DeviceNumber>) -> Vec<StackedFilesystem> {
    let unseen = |kind: &str, devices: Vec<DeviceNumber>, place: String| {
        let number = *devices.first()?;
        let seen = devices.iter().any(|device| known.contains(device));
        let kind = kind.to_owned();
        (!seen).then_some(StackedFilesystem { number, kind, place, devices, writable: true, mounted: false })
    };
    let mut found = Vec::new();
    for kind in ["ext4", "xfs", "f2fs"] {
        for name in sysfs::names(&Path::new("/sys/fs").join(kind)) {
            let device = sysfs::device_number(&Path::new("/sys/class/block").join(&name));
            found.extend(device.and_then(|device| unseen(kind, vec![device], sysfs::node(&name))));
        }
    }
    let place = |devices: &BtrfsDevices| {
        devices.first().map(|d| format!("btrfs on {}:{}", d.0, d.1)).unwrap_or_default()
    };
    found.extend(btrfs.iter().filter_map(|devices| unseen("btrfs", devices.clone(), place(devices))));
    found
}

fn swaps(mounts: &Mounts) -> Vec<SwapArea> {
    let text = sysfs::proc_file("/proc/swaps").unwrap_or_default();
    let area = |line: &str| {
        let path = unescape(line.split_whitespace().next()?);
        let stat = std::fs::metadata(&path).ok()?;
        let on = match block_number(&path) {
            Some(device) => device,
            None => holder((major(stat.dev()), minor(stat.dev())), stat.ino(), path.to_str()?, mounts)?,
        };
        Some(SwapArea { name: path.display().to_string(), on })
    };
    text.lines().skip(1).filter_map(area).collect()
}
