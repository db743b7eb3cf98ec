//! Each point restores its own state: neither what came before nor what came after.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device, open_direct};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::site::{REFUSED, Site};
use crate::{MIB, PATIENCE, program, require_root, summarize};
use anyhow::Result;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BYTES: u64 = 32 * MIB;

/// The disk as it is now, kept for later; and a point of it.
fn keep(site: &Site, disk: &LoopDisk, name: &str) -> Result<(PathBuf, String)> {
    let copy = site.path(name);
    fs::copy(disk.backing(), &copy)?;
    Ok((copy, site.sync_one("versions")?))
}

/// One granule goes A, B, A, while others change at random; four states, four points, restored last to first.
#[test]
fn a_b_a() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 1, |mib| if mib % 2 == 0 { Content::Incompressible } else { Content::Text })?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("versions", &[(&disk, "disk")])?;
    let _agent = home.start(&site, &[])?;
    site.wait_for_points("versions", 1, 1, PATIENCE)?;

    let device = open_direct(disk.path())?;
    let write = |byte: u8| {
        let mut block = crate::support::content::Aligned::new(4096);
        block.bytes().fill(byte);
        device.write_all_at(block.bytes(), 5 * MIB + 4096)
    };
    let mut states = Vec::new();
    for (number, byte) in (0..).zip(*b"ABA0") {
        write(if byte == b'0' { 0 } else { byte })?;
        if number > 0 {
            change_granules(disk.path(), number, 40)?;
        }
        states.push(keep(&site, &disk, &format!("state-{number}"))?);
    }
    for (state, point) in states.iter().rev() {
        ensure_identical(state, &site.restore(point)?)?;
    }
    summarize(&site.points("versions")?)?;
    site.done();
    Ok(())
}

/// A point goes back to a device byte by byte, unless the device is too small or in use.
#[test]
fn restore_to_a_device() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 2, |mib| if mib % 4 == 0 { Content::Zero } else { Content::Incompressible })?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("versions", &[(&disk, "disk")])?;
    let _agent = home.start(&site, &[])?;
    site.wait_for_points("versions", 1, 1, PATIENCE)?;
    let point = site.sync_one("versions")?;
    let restore = |to: &LoopDisk| site.cli(&["restore", &point, "--to", &to.name(), "--yes"]);

    let same = LoopDisk::new(BYTES)?;
    // Old bytes where the point has zeroes must go, too.
    fill_device(same.path(), 3, |_| Content::Incompressible)?;
    site.cli(&["restore", &point, "--to", &same.name()])?.expect(REFUSED, &["--yes"])?;
    restore(&same)?.expect(crate::support::site::DONE, &[])?;
    ensure_identical(disk.path(), same.path())?;

    let small = LoopDisk::new(BYTES - 4096)?;
    restore(&small)?.expect(REFUSED, &["larger device"])?;

    let typo = "/dev/blxrep-no-such-disk";
    site.cli(&["restore", &point, "--to", typo, "--yes"])?.expect(REFUSED, &["no such device"])?;
    assert!(!Path::new(typo).exists(), "a file was made in the memory that /dev is");

    let mounted = LoopDisk::new(BYTES)?;
    crate::support::mount::Filesystem::Ext4.make(mounted.path())?;
    let mount = crate::support::mount::Mount::new("ext4", mounted.path(), "defaults")?;
    restore(&mounted)?.expect(REFUSED, &["mounted", "in use", "busy"])?;
    fs::write(mount.path().join("still"), "alive")?;
    mount.unmount()?;
    site.done();
    Ok(())
}
