//! Under every kind of write, the last point of a quiesced disk is the disk, byte by byte.

use crate::support::compare::ensure_identical;
use crate::support::content::Content;
use crate::support::disk::{Disk, LoopDisk, ZramDisk};
use crate::support::fixture::pause;
use crate::support::load::{Ground, Load, bpftrace_loop};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, Site};
use crate::support::stamper::Random;
use crate::{MIB, PATIENCE, load_time, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// xfs wants 300 MiB at least.
const BYTES: u64 = 384 * MIB;

const COARSE_BYTES: u64 = 64 * MIB;

/// Whether another tracer comes and goes on the same tracepoints.
#[derive(Clone, Copy, PartialEq)]
enum Tracer {
    Absent,
    Interfering,
}

fn exact(disk: &dyn Disk, filesystem: Option<Filesystem>, tracer: Tracer) -> Result<()> {
    let site = Site::new(program(), "2s")?;
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
    let mut tracing = (tracer == Tracer::Interfering).then(|| bpftrace_loop(&site.logs()));
    let load = Load::start(ground, &site.logs())?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("exact", &[(disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("exact", 1, 1, PATIENCE)?;
    pause(load_time()?)?;
    site.wait_for_points("exact", 1, 3, PATIENCE)?;
    load.stop()?;
    if let Some(mount) = mount {
        mount.unmount()?;
    }
    let last = site.sync_one("exact")?;
    if let Some(tracing) = &mut tracing {
        ensure!(tracing.stop()? > 0, "bpftrace was never attached");
    }
    ensure!(agent.is_running()?, "the agent has ended\n{}", agent.tail());
    let restored = site.restore(&last)?;
    ensure_identical(disk.path(), &restored)?;
    summarize(&site.points("exact")?)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    site.done();
    Ok(())
}

/// Data that begins and ends, and long zeroes that begin and end, anywhere within granules.
fn ragged(disk: &LoopDisk, seed: u64) -> Result<()> {
    let file = File::options().write(true).open(disk.path())?;
    let mut random = Random(seed);
    let mut bytes = vec![0; 200 << 10];
    for at in (0..COARSE_BYTES - MIB).step_by(512 << 10) {
        Content::Incompressible.fill(&mut bytes, &mut random);
        let from = usize::try_from(random.below(20))? * 4096;
        bytes[from..from + (72 << 10)].fill(0);
        file.write_all_at(&bytes, at + random.below(60) * 4096)?;
    }
    Ok(file.sync_all()?)
}

/// As disks of many TiB have them.
#[test]
fn coarse_granules() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(COARSE_BYTES)?;
    ragged(&disk, 1)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("coarse", &[(&disk, "disk")])?;
    home.add_to_config("  max_map_memory: 1KiB\n")?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("coarse", 1, 1, PATIENCE).with_context(|| agent.tail())?;
    for seed in 2..5 {
        ragged(&disk, seed)?;
        let last = site.sync_one("coarse").with_context(|| agent.tail())?;
        ensure_identical(disk.path(), &site.restore(&last)?)?;
    }
    summarize(&site.points("coarse")?)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    site.done();
    Ok(())
}

#[test]
fn ext4() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, Some(Filesystem::Ext4), Tracer::Absent)
}

#[test]
fn xfs() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, Some(Filesystem::Xfs), Tracer::Absent)
}

#[test]
fn btrfs() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, Some(Filesystem::Btrfs), Tracer::Absent)
}

#[test]
fn raw() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, None, Tracer::Absent)
}

#[test]
fn raw_on_zram() -> Result<()> {
    require_root!();
    exact(&ZramDisk::new(BYTES)?, None, Tracer::Absent)
}

#[test]
fn ext4_while_another_tracer_interferes() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, Some(Filesystem::Ext4), Tracer::Interfering)
}

#[test]
fn raw_while_another_tracer_interferes() -> Result<()> {
    require_root!();
    exact(&LoopDisk::new(BYTES)?, None, Tracer::Interfering)
}
