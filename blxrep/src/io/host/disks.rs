//! The whole block devices of this host.

use super::mounts::{Mounts, Use};
use super::probe::Probe;
use super::{HostError, HostOptions, identity, resolve, sysfs};
use crate::model::host::{Filesystem, HostDisk, Partition};
use crate::model::partition_table::{self, Table};
use crate::model::selection::{Candidate, Facts};
use crate::model::superblock;
use crate::model::units::SECTOR_BYTES;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Disks that are described; an agent protects 64, and the inventory has to fit a message.
const MAX_DISKS: usize = 256;
/// Partitions of one disk that are described: what a usual GPT holds.
const MAX_PARTITIONS: usize = 128;
/// Never opened: these wait for a medium, or are memory that is made when it is touched.
const UNTOUCHED: [&str; 3] = ["fd", "sr", "ram"];

type Uses = HashMap<(u32, u32), Use>;

/// Every whole disk of a size above zero.
pub(super) fn candidates<'a>(options: &'a HostOptions) -> Result<Vec<Candidate>, HostError> {
    let mounts = Mounts::read()?;
    let uses = mounts.by_device();
    // A name for a device that is not there now names nothing.
    let named = |(path, name): &'a (PathBuf, String)| {
        let device = resolve(path).ok()?;
        Some(((device.major, device.minor), name.as_str()))
    };
    let names = options.names.iter().filter_map(named).collect();
    let block = Path::new("/sys/block");
    let listed =
        sysfs::names(block).into_iter().filter(|name| !UNTOUCHED.iter().any(|u| name.starts_with(u)));
    Ok(listed
        .filter_map(|name| candidate(&block.join(&name), &name, &names, &uses, &mounts))
        .take(MAX_DISKS)
        .collect())
}

fn candidate(
    dir: &Path,
    name: &str,
    names: &HashMap<(u32, u32), &str>,
    uses: &Uses,
    mounts: &Mounts,
) -> Option<Candidate> {
    let bytes = sysfs::number::<u64>(dir, "size")?.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes > 0)?;
    let number = sysfs::device_number(dir)?;
    if sysfs::flag(dir, "hidden") {
        return None;
    }
    let block = sysfs::number(dir, "queue/logical_block_size").unwrap_or(512);
    let opened = Probe::open(Path::new(&sysfs::node(name)), bytes);
    let unreadable = opened.as_ref().err().map(ToString::to_string);
    let probe = opened.ok();
    let table =
        probe.as_ref().and_then(|p| partition_table::parse(&mut |at, len| p.read(at, len), bytes, block));
    let partitions = partitions(dir, name, table.as_ref(), probe.as_ref(), uses);
    let disk = HostDisk {
        device: sysfs::node(name),
        major: number.0,
        minor: number.1,
        bytes,
        logical_block_bytes: block,
        model: model(dir),
        rotational: sysfs::flag(dir, "queue/rotational"),
        read_only: sysfs::flag(dir, "ro"),
        identity: identity::of(dir, table.as_ref().map(|table| &table.id), names.get(&number).copied()),
        diskseq: sysfs::number(dir, "diskseq"),
        filesystem: match &table {
            Some(_) => None,
            None => filesystem(probe.as_ref(), 0, bytes, uses.get(&number)),
        },
        partitions,
    };
    let facts = Facts { unreadable, ..facts(dir, name, number, mounts) };
    Some(Candidate::judge(disk, &facts))
}

fn model(dir: &Path) -> String {
    let parts = ["device/vendor", "device/model"].iter().filter_map(|name| sysfs::text(dir, name));
    // A virtio device's vendor is a bare number.
    let words: Vec<String> = parts.filter(|part| !part.starts_with("0x")).collect();
    words.join(" ")
}

fn facts(dir: &Path, name: &str, number: (u32, u32), mounts: &Mounts) -> Facts {
    let mut own = vec![number];
    own.extend(kernel_partitions(dir, name).iter().filter_map(|(_, part)| sysfs::device_number(part)));
    let multipath = sysfs::names(&dir.join("holders")).into_iter().find(|holder| {
        let uuid = sysfs::text(&Path::new("/sys/block").join(holder), "dm/uuid");
        uuid.is_some_and(|uuid| uuid.starts_with("mpath-"))
    });
    Facts {
        removable: sysfs::flag(dir, "removable"),
        zoned: sysfs::text(dir, "queue/zoned").is_some_and(|model| model != "none"),
        dax: mounts.all.iter().any(|m| m.has_dax() && m.device().is_some_and(|device| own.contains(&device))),
        multipath: multipath.map(|holder| sysfs::node(&holder)),
        unreadable: None,
    }
}

/// The partitions that the kernel knows, by number.
fn kernel_partitions(dir: &Path, name: &str) -> Vec<(u32, PathBuf)> {
    let inside = sysfs::names(dir).into_iter().filter(|entry| entry.starts_with(name));
    let mut found: Vec<_> = inside
        .filter_map(|entry| {
            let part = dir.join(entry);
            sysfs::number::<u32>(&part, "partition").map(|number| (number, part))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The kernel's partitions, with names and types from the table; the table's if the kernel shows none.
fn partitions(
    dir: &Path,
    name: &str,
    table: Option<&Table>,
    probe: Option<&Probe>,
    uses: &Uses,
) -> Vec<Partition> {
    let entries = table.map(|table| table.entries.as_slice()).unwrap_or_default();
    let described = |number, first_sector, sectors, device: Option<(u32, u32)>| {
        let entry = entries.iter().find(|entry| entry.first_sector == first_sector);
        let (start, bytes) = (first_sector * SECTOR_BYTES, sectors * SECTOR_BYTES);
        let used = device.and_then(|device| uses.get(&device));
        Partition {
            number,
            first_sector,
            sectors,
            kind: entry.map(|entry| entry.kind.clone()).unwrap_or_default(),
            name: entry.map(|entry| entry.name.clone()).unwrap_or_default(),
            filesystem: filesystem(probe, start, bytes, used),
        }
    };
    let mut found: Vec<Partition> = kernel_partitions(dir, name)
        .iter()
        .filter_map(|(number, part)| {
            let (first, sectors) = (sysfs::number(part, "start")?, sysfs::number(part, "size")?);
            Some(described(*number, first, sectors, sysfs::device_number(part)))
        })
        .take(MAX_PARTITIONS)
        .collect();
    if found.is_empty() {
        found = entries
            .iter()
            .take(MAX_PARTITIONS)
            .map(|e| described(e.number, e.first_sector, e.sectors, None))
            .collect();
    }
    found
}

/// What lies in a range of the disk: by its superblock, or, where that cannot be read, by what the kernel mounted.
fn filesystem(probe: Option<&Probe>, start: u64, bytes: u64, used: Option<&Use>) -> Option<Filesystem> {
    let mut fetch = |at: u64, length: usize| {
        let end = at.checked_add(u64::try_from(length).ok()?)?;
        (end <= bytes).then(|| probe?.read(start.checked_add(at)?, length))?
    };
    let mount_points = used.map(|used| used.points.clone()).unwrap_or_default();
    match (superblock::detect(&mut fetch, bytes), used) {
        (Some(found), _) => Some(Filesystem {
            kind: found.kind.to_owned(),
            uuid: found.uuid,
            label: found.label,
            mount_points,
        }),
        (None, Some(used)) => Some(Filesystem {
            kind: used.kind.clone(),
            uuid: String::new(),
            label: String::new(),
            mount_points,
        }),
        (None, None) => None,
    }
}
