//! A logical volume that lies in three pieces on two physical ones: its files and its bytes come out of a point as they
//! were. The disk is one that Debian's lvm2 made (`tests/disks`); nothing of LVM is needed on this host.

use crate::everything::{self, ensure_same};
use crate::support::compare::ensure_identical;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, FAILED, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const AGENT: &str = "volumes";
const DISK: &[u8] = include_bytes!("../disks/lvm-ring.img.zst");
const DISK_BYTES: u64 = 64 * MIB;
const VOLUME: &str = "vg--0-root";
/// Where the volume's pieces are on the disk, and their length, in KiB: extents of 1 MiB, from 64 KiB of each physical
/// volume on.
const PIECES: [(u64, u64); 3] =
    [(1024 + 64, 3 * 1024), (22 * 1024 + 64, 4 * 1024), (1024 + 64 + 7 * 1024, 1024)];

/// Puts what a volume has to be into its pieces.
fn scatter(volume: &Path, disk: &LoopDisk) -> Result<()> {
    let (from, to) = (File::open(volume)?, File::options().write(true).open(disk.path())?);
    let mut at = 0;
    for (start, length) in PIECES {
        let mut bytes = vec![0; usize::try_from(length << 10)?];
        from.read_exact_at(&mut bytes, at)?;
        to.write_all_at(&bytes, start << 10)?;
        at += length << 10;
    }
    Ok(to.sync_all()?)
}

#[test]
fn a_logical_volume_comes_back_as_it_was() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(DISK_BYTES)?;
    let packed = zstd::bulk::decompress(DISK, usize::try_from(DISK_BYTES)?)?;
    let device = File::options().write(true).open(disk.path())?;
    device.write_all_at(&packed, 0)?;
    device.sync_all()?;
    let volume = LoopDisk::new(8 * MIB)?;
    Filesystem::Ext4.make(volume.path())?;
    scatter(volume.path(), &disk)?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent(AGENT, &[(&disk, "lvm")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points(AGENT, 1, 1, PATIENCE)?;
    let mount = Mount::new("ext4", volume.path(), "defaults")?;
    everything::make(mount.path())?;
    // As it is while it is mounted: its journal has to be replayed.
    let image = site.path("volume.img");
    fs::copy(volume.backing(), &image)?;
    scatter(&image, &disk)?;
    let point = site.sync_one(AGENT)?;
    bytes(&site, &point, &image)?;
    files(&site, &point, mount.path(), &image)?;
    let none = ["restore", &point, "--partition", "vg--0-gap", "--to", "/tmp/none"];
    site.cli(&none)?.expect(FAILED, &["has no volume vg--0-gap, only 1, 2, 3, vg--0-root"])?;
    mount.unmount()?;
    site.done();
    drop((agent, dispatcher));
    drop(home.pins().clear());
    Ok(())
}

/// Restored and exported, it is what it was.
fn bytes(site: &Site, point: &str, image: &Path) -> Result<()> {
    for command in ["restore", "export"] {
        let target = site.path(&format!("{command}.img"));
        let args = [command, point, "--partition", VOLUME, "--to", &target.to_string_lossy()];
        site.cli(&args)?.expect(DONE, &[])?;
        ensure_identical(image, &target)?;
    }
    Ok(())
}

/// Its files are listed, found, mounted and restored.
fn files(site: &Site, point: &str, original: &Path, image: &Path) -> Result<()> {
    site.cli(&["ls", point])?.expect(DONE, &[VOLUME, "of the group vg-0"])?;
    site.cli(&["find", point, &format!("{VOLUME}:third-name")])?.expect(DONE, &[VOLUME, "/a/third-name"])?;
    let disk = LoopDisk::new(64 * MIB)?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    let target = mount.path().join("restored");
    let path = format!("{VOLUME}:/");
    let args = ["restore", point, "--path", &path, "--target", &target.to_string_lossy()];
    site.cli(&args)?.expect(DONE, &[])?;
    ensure_same(original, &target)?;
    let shown = site.path("shown");
    fs::create_dir(&shown)?;
    let dir = shown.to_string_lossy();
    site.cli(&["mount", point, &dir])?.expect(DONE, &[VOLUME])?;
    let compared = ensure_same(original, &shown.join("files").join(VOLUME))
        .and_then(|()| ensure_identical(image, &shown.join(format!("partitions/{VOLUME}.img"))));
    site.cli(&["umount", &dir])?.expect(DONE, &[])?;
    ensure!(compared? == 8 * MIB, "the volume has another size");
    Ok(())
}
