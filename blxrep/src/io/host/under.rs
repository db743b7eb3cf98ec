//! Which disks lie under a directory: through filesystems, partitions, dm, md and loop devices; and under a device.
//!
//! An agent must not protect a disk that the dispatcher on the same machine writes to: every round would store
//! what the last one wrote. A disk that stands anywhere between the directory and the metal counts.

use super::mounts::{Mount, Mounts};
use super::probe::Probe;
use super::{HostError, identity, resolve, sysfs};
use crate::model::partition_table;
use crate::model::units::SECTOR_BYTES;
use crate::wire::hello::{KeptDisk, MAX_KEPT};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Layers between a directory and the metal; a loop on a filesystem on a loop may go on, a sane host does not.
const MAX_DEPTH: usize = 16;

/// The whole disks under `path`, leaves and everything stacked on them; none for a filesystem in memory or on
/// the network.
pub fn whole_disks_under(path: &Path) -> Result<Vec<KeptDisk>, HostError> {
    let mut search = Search { mounts: Mounts::read()?, disks: BTreeSet::new() };
    search.path(path, 0)?;
    Ok(search.disks.iter().take(MAX_KEPT).map(|(major, minor)| kept(*major, *minor)).collect())
}

struct Search {
    mounts: Mounts,
    disks: BTreeSet<(u32, u32)>,
}

impl Search {
    /// Everything under the filesystem that holds a file or directory.
    fn path(&mut self, path: &Path, depth: usize) -> Result<(), HostError> {
        let read = |source| HostError::Read { path: path.to_owned(), source };
        let path = path.canonicalize().map_err(read)?;
        let device = std::fs::metadata(&path).map_err(read)?.dev();
        let number = (rustix::fs::major(device), rustix::fs::minor(device));
        if number.0 != 0 {
            self.device(number, depth);
            return Ok(());
        }
        // A number of the filesystem's own: btrfs, overlay, tmpfs, a network.
        let Some(mount) = self.mounts.holding(&path).cloned() else {
            return Ok(());
        };
        match mount.kind.as_str() {
            "btrfs" => btrfs_devices(&mount).into_iter().for_each(|number| self.device(number, depth + 1)),
            "overlay" if depth < MAX_DEPTH => {
                if let Some(upper) = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="))
                {
                    // Seen from another mount namespace it may have no path: then nothing more is known.
                    let _ = self.path(Path::new(upper), depth + 1);
                }
            }
            _ => self.mount(&mount, depth + 1),
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount, depth: usize) {
        if let Some(number) = mount.device() {
            self.device(number, depth);
        }
    }

    /// A block device, the disk it is a partition of, and what it is made of.
    fn device(&mut self, number: (u32, u32), depth: usize) {
        let Ok(dir) = sysfs::block_dir(number.0, number.1) else {
            return;
        };
        let dir = whole(dir);
        let Some(number) = sysfs::device_number(&dir) else {
            return;
        };
        if depth > MAX_DEPTH || !self.disks.insert(number) {
            return;
        }
        for slave in sysfs::names(&dir.join("slaves")) {
            if let Some(number) = sysfs::device_number(&dir.join("slaves").join(slave)) {
                self.device(number, depth + 1);
            }
        }
        if let Some(file) = sysfs::text(&dir, "loop/backing_file") {
            // A deleted backing file has no path; its filesystem is not known then.
            let _ = self.path(Path::new(&file), depth + 1);
        }
    }
}

/// The disk that a device is, or lies on: folders in sysfs.
pub(super) fn whole(dir: PathBuf) -> PathBuf {
    match (sysfs::text(&dir, "partition"), dir.parent()) {
        (Some(_), Some(disk)) => disk.to_owned(),
        _ => dir,
    }
}

/// The whole disks that a disk of dm or md is made of, on all layers below it: folders in sysfs. What a loop device keeps its
/// content in is none: it is a file.
pub(super) fn disks_below(disk: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut rest = vec![disk.to_owned()];
    while let Some(above) = rest.pop() {
        let slaves = above.join("slaves");
        for slave in sysfs::names(&slaves) {
            // One that is gone meanwhile has no folder.
            let Ok(below) = slaves.join(slave).canonicalize().map(whole) else { continue };
            if !found.contains(&below) {
                found.push(below.clone());
                rest.push(below);
            }
        }
    }
    found
}

/// All devices of a btrfs, of which a mount names one.
fn btrfs_devices(mount: &Mount) -> Vec<(u32, u32)> {
    let mut devices: Vec<(u32, u32)> = mount.device().into_iter().collect();
    let filesystems = PathBuf::from("/sys/fs/btrfs");
    for uuid in sysfs::names(&filesystems) {
        let dir = filesystems.join(uuid).join("devices");
        let members: Vec<_> =
            sysfs::names(&dir).iter().filter_map(|name| sysfs::device_number(&dir.join(name))).collect();
        if members.iter().any(|member| devices.contains(member)) {
            devices.extend(members);
        }
    }
    devices
}

fn kept(major: u32, minor: u32) -> KeptDisk {
    let identity = sysfs::block_dir(major, minor).ok().and_then(|dir| {
        let bytes = sysfs::number::<u64>(&dir, "size")?.checked_mul(SECTOR_BYTES)?;
        let block = sysfs::number(&dir, "queue/logical_block_size").unwrap_or(512);
        let probe = Probe::open(Path::new(&resolve::node(&dir)), bytes).ok();
        let table = probe.and_then(|p| partition_table::parse(&mut |at, len| p.read(at, len), bytes, block));
        identity::of(&dir, table.as_ref().map(|table| &table.id), None)
    });
    KeptDisk { major, minor, identity: identity.map(|identity| identity.to_string()).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    /// A volume on an array of two partitions, one of them of a disk that the volume lies on directly, too.
    #[test]
    fn all_layers_below_a_device_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path().canonicalize().unwrap();
        for disk in ["sda", "sdb", "sdc", "md0", "dm-0"] {
            create_dir_all(sys.join(disk).join("slaves")).unwrap();
        }
        for (disk, partition) in [("sda", "sda1"), ("sdb", "sdb2")] {
            create_dir_all(sys.join(disk).join(partition)).unwrap();
            write(sys.join(disk).join(partition).join("partition"), "1").unwrap();
        }
        let slave = |above: &str, below: &str| {
            let name = Path::new(below).file_name().unwrap();
            symlink(sys.join(below), sys.join(above).join("slaves").join(name)).unwrap();
        };
        slave("md0", "sda/sda1");
        slave("md0", "sdb/sdb2");
        slave("dm-0", "md0");
        slave("dm-0", "sda");
        symlink(sys.join("gone"), sys.join("dm-0/slaves/gone")).unwrap();
        let below = |disk: &str| {
            let mut found = disks_below(&sys.join(disk));
            found.sort();
            found
        };
        let disks = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(|name| sys.join(name)).collect() };
        assert_eq!(below("dm-0"), disks(&["md0", "sda", "sdb"]));
        assert_eq!(below("md0"), disks(&["sda", "sdb"]));
        assert_eq!(below("sda"), disks(&[]));
        // No kernel makes a ring; one would end.
        slave("sda", "dm-0");
        assert_eq!(below("dm-0"), disks(&["dm-0", "md0", "sda", "sdb"]));
    }
}
