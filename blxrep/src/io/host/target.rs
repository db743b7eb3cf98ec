//! A block device of this host that is about to be overwritten: what it is, what is on it, and whether it is in use.

use super::mounts::Mounts;
use super::names::{NamedDevice, name_device};
use super::under::{disks_below, whole};
use super::{HostError, HostOptions, boot_id, disks, identity, sysfs};
use crate::model::host::HostDisk;
use crate::model::restoration::{DeviceMark, DiskMark};
use crate::model::units::SECTOR_BYTES;
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// What is known of it.
#[derive(Clone, Debug)]
pub struct TargetFacts {
    pub device: NamedDevice,
    /// Its number, if it is a partition.
    pub partition: Option<u32>,
    /// Which device it is.
    pub mark: DeviceMark,
    pub bytes: u64,
    pub logical_block_bytes: u32,
    pub read_only: bool,
    /// The disk that it is, or lies on.
    pub disk: Option<HostDisk>,
    /// The disks that this one is made of, on all layers: what is written to it is written to them.
    pub below: Vec<HostDisk>,
    /// Why it cannot be written to now, and what to do.
    pub in_use: Option<String>,
}

/// Looks at a device. Nothing is written, and it is not opened for writing: that alone makes udev look at it again.
pub fn target_facts(path: &Path, options: &HostOptions, links: &[PathBuf]) -> Result<TargetFacts, HostError> {
    let device = name_device(path, options, links)?;
    let number = (device.major, device.minor);
    let dir = sysfs::block_dir(number.0, number.1)?;
    let partition = sysfs::number(&dir, "partition");
    let whole = whole(dir.clone());
    let known: Vec<HostDisk> = disks::candidates(options)?.into_iter().map(|found| found.disk).collect();
    let find = |dir: &Path| {
        let number = sysfs::device_number(dir)?;
        known.iter().find(|disk| (disk.major, disk.minor) == number).cloned()
    };
    let disk = find(&whole);
    let below = disks_below(&whole).iter().filter_map(|dir| find(dir)).collect();
    let bytes = sysfs::number::<u64>(&dir, "size").unwrap_or(0).saturating_mul(SECTOR_BYTES);
    let start = partition.and_then(|_| sysfs::number(&dir, "start")).unwrap_or(0);
    Ok(TargetFacts {
        partition,
        mark: DeviceMark { disk: disk_mark(&whole)?, partition, start, bytes },
        bytes,
        logical_block_bytes: sysfs::number(&whole, "queue/logical_block_size").unwrap_or(512),
        read_only: sysfs::flag(&dir, "ro") || sysfs::flag(&whole, "ro"),
        disk,
        below,
        in_use: in_use(&dir, &device.names.node)?,
        device,
    })
}

/// Not by its partition table, which is about to become another, nor by a name from the configuration, which is that of a
/// path.
fn disk_mark(whole: &Path) -> Result<DiskMark, HostError> {
    if let Some(identity) = identity::of(whole, None, None) {
        return Ok(DiskMark::Hardware(identity));
    }
    let number = sysfs::device_number(whole).unwrap_or_default();
    Ok(DiskMark::Seat { boot: boot_id()?, number, sequence: sysfs::number(whole, "diskseq") })
}

/// The device's own uses, and those of its partitions.
fn in_use(dir: &Path, node: &str) -> Result<Option<String>, HostError> {
    let uses = Mounts::read()?.by_device();
    let parts = sysfs::names(dir).into_iter().map(|name| dir.join(name));
    let parts = parts.filter(|part| part.join("partition").exists());
    for own in std::iter::once(dir.to_owned()).chain(parts) {
        let name = sysfs::node(&own.file_name().unwrap_or_default().to_string_lossy());
        if let Some(used) = sysfs::device_number(&own).and_then(|number| uses.get(&number)) {
            let place = used.points.first().map_or("", String::as_str);
            return Ok(Some(match used.kind.as_str() {
                "swap" => format!("{name} is a swap area in use: `swapoff {name}` first"),
                kind => format!("{name} is mounted on {place} ({kind}): unmount it first"),
            }));
        }
        if let Some(upper) = backs(&name) {
            return Ok(Some(format!("{name} is below {upper}: `losetup --detach {upper}` first")));
        }
        if let Some(holder) = sysfs::names(&own.join("holders")).first() {
            return Ok(Some(format!(
                "{name} is a part of {holder} (LVM, RAID or encryption): release it first"
            )));
        }
    }
    Ok(exclusive(Path::new(node)))
}

/// The loop device that keeps its content on a device.
fn backs(node: &str) -> Option<String> {
    let block = Path::new("/sys/block");
    let loops = sysfs::names(block).into_iter().filter(|name| name.starts_with("loop"));
    let mut above =
        loops.filter(|name| sysfs::text(&block.join(name), "loop/backing_file").as_deref() == Some(node));
    above.next().map(|name| sysfs::node(&name))
}

/// What the lists above cannot see, an exclusive open refuses: mounts of other namespaces, a RAID that is being put
/// together.
fn exclusive(node: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    let error = rustix::fs::open(node, flags, Mode::empty()).err()?;
    let shown = node.display();
    Some(match error {
        rustix::io::Errno::BUSY => format!(
            "{shown} or a partition of it is in use (mounted elsewhere, swap, LVM, RAID): release it first"
        ),
        error => format!("{shown} cannot be opened: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_no_target() {
        for path in ["/dev/null", "/", "/nonexistent"] {
            assert!(target_facts(Path::new(path), &HostOptions::default(), &[]).is_err(), "{path}");
        }
    }
}
