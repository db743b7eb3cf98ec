//! The inventory of real loop devices, partitioned, stacked and mounted. Needs root.

mod support;

use anyhow::{Context, Result, bail, ensure};
use blxrep::io::host::{HostError, HostOptions, inventory, resolve, whole_disks_under};
use blxrep::model::host::HostDisk;
use blxrep::model::ids::DiskIdentity;
use blxrep::wire::hello::KeptDisk;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::disk::{Disk, LoopDisk};
use support::fixture::sh;
use support::mount::{Filesystem, Mount};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB with an MBR (signature c0ffee01) and one partition from 1 MiB to 33 MiB.
fn partitioned() -> Result<LoopDisk> {
    let disk = LoopDisk::new(64 * MIB)?;
    let mut sector = [0u8; 512];
    sector[440..444].copy_from_slice(&0xc0ff_ee01_u32.to_le_bytes());
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    sector[458..462].copy_from_slice(&65536_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = OpenOptions::new().write(true).open(disk.path())?;
    file.write_all_at(&sector, 0)?;
    file.sync_all()?;
    Ok(disk)
}

/// The kernel's partitions of a disk, which the kernel here does not read by itself.
struct Partitions<'a>(&'a LoopDisk);

impl<'a> Partitions<'a> {
    fn of(disk: &'a LoopDisk) -> Result<Self> {
        sh("partx", &["-a", &disk.name()])?;
        Ok(Self(disk))
    }

    fn first(&self) -> PathBuf {
        format!("{}p1", self.0.name()).into()
    }
}

impl Drop for Partitions<'_> {
    fn drop(&mut self) {
        if let Err(error) = sh("partx", &["-d", &self.0.name()]) {
            eprintln!("partitions of {} left behind: {error:#}", self.0.name());
        }
    }
}

fn described(disk: &LoopDisk, options: &HostOptions) -> Result<HostDisk> {
    let found = inventory(options)?.footprint.disks;
    found.into_iter().find(|found| found.device == disk.name()).context("the disk is not in the inventory")
}

fn is_among(disk: &LoopDisk, kept: &[KeptDisk]) -> Result<bool> {
    let own = resolve(disk.path())?;
    Ok(kept.iter().any(|kept| (kept.major, kept.minor) == (own.major, own.minor)))
}

#[test]
fn a_partition_is_described_with_and_without_the_kernels_help() -> Result<()> {
    require_root!();
    let disk = partitioned()?;
    let unseen = described(&disk, &HostOptions::default())?;
    assert_eq!((unseen.bytes, unseen.filesystem.as_ref()), (64 * MIB, None));
    assert_eq!(unseen.identity, Some(DiskIdentity::Mbr("c0ffee01".to_owned())));
    ensure!(unseen.diskseq.is_some());
    let [from_table] = &unseen.partitions[..] else { bail!("{:?}", unseen.partitions) };
    assert_eq!((from_table.number, from_table.first_sector, from_table.sectors), (1, 2048, 65536));

    let partitions = Partitions::of(&disk)?;
    Filesystem::Ext4.make(&partitions.first())?;
    let mount = Mount::new("ext4", &partitions.first(), "rw")?;
    let seen = described(&disk, &HostOptions::default())?;
    let [partition] = &seen.partitions[..] else { bail!("{:?}", seen.partitions) };
    assert_eq!((partition.number, partition.first_sector, partition.sectors), (1, 2048, 65536));
    assert_eq!(partition.kind, "0x83");
    let filesystem = partition.filesystem.as_ref().context("no filesystem was found")?;
    assert_eq!(filesystem.kind, "ext4");
    let node = partitions.first().to_string_lossy().into_owned();
    assert_eq!(filesystem.uuid, sh("blkid", &["-p", "-s", "UUID", "-o", "value", &node])?.trim());
    assert_eq!(filesystem.mount_points, [mount.path().to_string_lossy()]);
    Ok(())
}

#[test]
fn a_partition_names_its_disk() -> Result<()> {
    require_root!();
    let disk = partitioned()?;
    let partitions = Partitions::of(&disk)?;
    match resolve(&partitions.first()) {
        Err(HostError::Partition { parent, .. }) => assert_eq!(parent, disk.name()),
        other => bail!("{other:?}"),
    }
    Ok(())
}

#[test]
fn everything_between_a_directory_and_the_metal_is_found() -> Result<()> {
    require_root!();
    // A file on a partition of a disk backs another disk, which holds the directory.
    let lower = partitioned()?;
    let partitions = Partitions::of(&lower)?;
    Filesystem::Ext4.make(&partitions.first())?;
    let lower_mount = Mount::new("ext4", &partitions.first(), "rw")?;
    let backing = lower_mount.path().join("image");
    File::create(&backing)?.set_len(16 * MIB)?;
    let upper = LoopDisk::over(backing)?;
    Filesystem::Ext4.make(upper.path())?;
    let upper_mount = Mount::new("ext4", upper.path(), "rw")?;
    let data = upper_mount.path().join("deep/data");
    fs::create_dir_all(&data)?;

    let under = whole_disks_under(&data)?;
    ensure!(is_among(&upper, &under)? && is_among(&lower, &under)?, "{under:?}");
    ensure!(under.iter().any(|kept| kept.identity == "mbr:c0ffee01"), "{under:?}");
    let under = whole_disks_under(lower_mount.path())?;
    ensure!(!is_among(&upper, &under)? && is_among(&lower, &under)?, "{under:?}");
    Ok(())
}

#[test]
fn all_devices_of_a_btrfs_are_found() -> Result<()> {
    require_root!();
    let disks = [LoopDisk::new(128 * MIB)?, LoopDisk::new(128 * MIB)?];
    sh("mkfs.btrfs", &["-q", "-f", &disks[0].name(), &disks[1].name()])?;
    let mount = Mount::new("btrfs", disks[0].path(), "rw")?;
    let under = whole_disks_under(mount.path())?;
    ensure!(is_among(&disks[0], &under)? && is_among(&disks[1], &under)?, "{under:?}");
    let seen =
        described(&disks[0], &HostOptions::default())?.filesystem.context("no filesystem was found")?;
    assert_eq!(
        (seen.kind.as_str(), seen.mount_points),
        ("btrfs", vec![mount.path().to_string_lossy().into_owned()])
    );
    Ok(())
}

#[test]
fn a_name_and_a_link_lead_to_the_disk() -> Result<()> {
    require_root!();
    let disk = LoopDisk::new(8 * MIB)?;
    assert_eq!(described(&disk, &HostOptions::default())?.identity, None);
    let dir = tempfile::tempdir()?;
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(disk.path(), &link)?;
    assert_eq!(resolve(&link)?.device, disk.name());
    let gone = (Path::new("/dev/nonesuch").to_owned(), "gone".to_owned());
    let named = HostOptions { names: vec![gone, (link, "data".to_owned())] };
    assert_eq!(described(&disk, &named)?.identity, Some(DiskIdentity::Named("data".to_owned())));
    Ok(())
}
