//! The fixtures themselves: real disks under real load that leave nothing behind.

mod support;

use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use support::compare::ensure_identical;
use support::disk::{BEYOND_ONE_BYTE, Disk, LoopDisk, ZramDisk};
use support::load::{Ground, Load, bpftrace_loop};
use support::mount::{Filesystem, Mount, PinDir};
use support::order::{History, Window};
use support::stamper::{Pattern, Plan, Stamper};

const MIB: u64 = 1 << 20;

#[test]
fn loop_disks_vanish_with_their_files() -> Result<()> {
    require_root!();
    let low = LoopDisk::new(16 * MIB)?;
    let high = LoopDisk::numbered_from(BEYOND_ONE_BYTE, 16 * MIB)?;
    let minor: usize = high.name().trim_start_matches("/dev/loop").parse()?;
    ensure!(minor >= BEYOND_ONE_BYTE && low.name() != high.name());
    let paths = [low.path(), low.backing(), high.path(), high.backing()].map(Path::to_owned);
    ensure!(paths.iter().all(|p| p.exists()), "{paths:?}");
    drop((low, high));
    ensure!(!paths.iter().any(|p| p.exists()), "left behind: {paths:?}");
    Ok(())
}

#[test]
fn zram_disks_vanish() -> Result<()> {
    require_root!();
    let disk = ZramDisk::new(16 * MIB)?;
    let path = disk.path().to_owned();
    ensure_identical(&path, &path)?;
    drop(disk);
    ensure!(!path.exists(), "{}: left behind", path.display());
    Ok(())
}

#[test]
fn pins_vanish() -> Result<()> {
    require_root!();
    let pins = PinDir::new()?;
    fs::create_dir_all(pins.path().join("disk-1"))?;
    let path = pins.path().to_owned();
    drop(pins);
    ensure!(!path.exists(), "{}: left behind", path.display());
    Ok(())
}

/// Load on one ground writes in every way, and ends with the same bytes in the device and in its backing file.
fn load_reaches_the_disk(filesystem: Option<Filesystem>) -> Result<()> {
    let logs = tempfile::tempdir()?;
    let disk = LoopDisk::new(320 * MIB)?;
    let mount = match filesystem {
        Some(filesystem) => {
            filesystem.make(disk.path())?;
            Some(Mount::new(filesystem.name(), disk.path(), "defaults")?)
        }
        None => None,
    };
    let ground = match &mount {
        Some(mount) => Ground::Folder(mount.path().to_owned()),
        None => Ground::Device(disk.path().to_owned()),
    };
    let load = Load::start(ground, logs.path())?;
    std::thread::sleep(Duration::from_secs(3));
    load.stop()?;
    if let Some(mount) = mount {
        mount.unmount()?;
    }
    ensure_identical(disk.path(), disk.backing())?;
    let stat = fs::read_to_string(format!("/sys/block/{}/stat", &disk.name()[5..]))?;
    let fields: Vec<u64> = stat.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(fields[4] > 100 && fields[11] > 0, "too few writes or discards reached the disk: {stat}");
    Ok(())
}

#[test]
fn load_on_ext4_reaches_the_disk() -> Result<()> {
    require_root!();
    load_reaches_the_disk(Some(Filesystem::Ext4))
}

#[test]
fn load_on_xfs_reaches_the_disk() -> Result<()> {
    require_root!();
    load_reaches_the_disk(Some(Filesystem::Xfs))
}

#[test]
fn load_on_btrfs_reaches_the_disk() -> Result<()> {
    require_root!();
    load_reaches_the_disk(Some(Filesystem::Btrfs))
}

#[test]
fn load_on_a_raw_device_reaches_the_disk() -> Result<()> {
    require_root!();
    load_reaches_the_disk(None)
}

/// Stamped writes to two loop disks, all over and on a hot spot, end in a state that the disks had.
#[test]
fn stamped_writes_end_as_they_were_logged() -> Result<()> {
    require_root!();
    for pattern in [Pattern::Uniform, Pattern::Hot(8)] {
        let disks = [LoopDisk::new(16 * MIB)?, LoopDisk::new(16 * MIB)?];
        let paths = [disks[0].path(), disks[1].path()];
        let writers = Stamper::start(&paths, Plan { pattern, ..Plan::default() })?;
        std::thread::sleep(Duration::from_secs(1));
        let end = writers.now();
        let log = writers.stop()?;
        ensure!(log.len() > 1000, "only {} writes in a second at a rate of 2000", log.len());
        let history = History::new(&log, disks.len())?;
        let mut images = [(0, fs::File::open(disks[0].backing())?), (1, fs::File::open(disks[1].backing())?)];
        let verdict = history.check(&mut images, Window { from: end, until: u64::MAX })?;
        ensure!(verdict.is_legal() && verdict.torn_granules == 0, "{pattern:?}: {verdict}");
    }
    Ok(())
}

#[test]
fn another_tracer_comes_and_goes() -> Result<()> {
    require_root!();
    let logs = tempfile::tempdir()?;
    let disk = LoopDisk::new(16 * MIB)?;
    let writers = Stamper::start(&[disk.path()], Plan::default())?;
    let mut tracer = bpftrace_loop(logs.path());
    std::thread::sleep(Duration::from_secs(4));
    writers.stop()?;
    ensure!(tracer.stop()? >= 1, "bpftrace was never attached");
    let said = fs::read_to_string(logs.path().join("bpftrace.log"))?;
    ensure!(said.contains("@issued:"), "bpftrace saw no write: {said}");
    Ok(())
}
