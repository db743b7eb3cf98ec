//! Every point made while writers go on is a state that the group of disks had: the order checker says so.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::pause;
use crate::support::load::bpftrace_loop;
use crate::support::order::{History, Window};
use crate::support::site::{PointRow, Site};
use crate::support::stamper::{Clock, Pattern, Plan, Stamper};
use crate::{MIB, PATIENCE, load_time, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime};

const BYTES: u64 = 64 * MIB;
/// Between the wall clock of the program and that of the writers, both rounded.
const CLOCK_SLACK: Duration = Duration::from_millis(5);

/// What a sync that was asked for promises, by its cut.
type Promises = BTreeMap<String, Window>;

/// Writers stamp two disks of one agent; every point is restored and judged.
fn ordered(plan: Plan, interfere: bool) -> Result<()> {
    let site = Site::new(program(), "2s")?;
    let disks = [LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?];
    let _dispatcher = site.dispatcher()?;
    let mut tracing = interfere.then(|| bpftrace_loop(&site.logs()));
    let writers = Stamper::start(&[disks[0].path(), disks[1].path()], plan)?;
    let clock = writers.clock();
    let home = site.agent("order", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("order", 2, 1, PATIENCE)?;
    let mut promises = Promises::new();
    let end = Instant::now() + load_time()?;
    while Instant::now() < end {
        promise(&site, &writers, &mut promises)?;
        pause(Duration::from_millis(700))?;
    }
    let log = writers.stop().with_context(|| agent.tail())?;
    if let Some(tracing) = &mut tracing {
        ensure!(tracing.stop()? > 0, "bpftrace was never attached");
    }
    println!("{} stamped writes", log.len());
    let history = History::new(&log, disks.len())?;
    let devices: Vec<_> = disks.iter().map(LoopDisk::name).collect();
    let points = site.points("order")?;
    summarize(&points)?;
    let quiet = judge_all(&site, &history, &points, &devices, clock, &promises)?;
    ensure!(quiet > 0, "no point was quiet");
    site.done();
    Ok(())
}

/// Syncs, and notes between which times the points must lie.
fn promise(site: &Site, writers: &Stamper, promises: &mut Promises) -> Result<()> {
    let from = writers.now();
    let rows = site.sync("order")?;
    promises.insert(rows[0].cut_id.clone(), Window { from, until: writers.now() });
    Ok(())
}

/// Restores and judges the points cut by cut. Returns how many cuts were proven; a fuzzy one is only reported.
fn judge_all(
    site: &Site,
    history: &History,
    points: &[PointRow],
    devices: &[String],
    clock: Clock,
    promises: &Promises,
) -> Result<usize> {
    let mut cuts: BTreeMap<&str, Vec<&PointRow>> = BTreeMap::new();
    points.iter().for_each(|p| cuts.entry(&p.cut_id).or_default().push(p));
    let mut proven = 0;
    for (cut, group) in cuts {
        let mut images = Vec::new();
        let mut window = promises.get(cut).copied().unwrap_or(Window::ANY);
        for point in &group {
            let disk = devices.iter().position(|d| *d == point.device);
            let disk = disk.with_context(|| format!("a point of no disk of ours: {point:?}"))?;
            let path = site.restore(&point.id)?;
            images.push((u32::try_from(disk)?, File::open(&path)?));
            std::fs::remove_file(path)?;
            let at = |text: &str| -> Result<SystemTime> { Ok(text.parse::<jiff::Timestamp>()?.into()) };
            window.from = window.from.max(clock.at(at(&point.cut)? - CLOCK_SLACK));
            window.until = window.until.min(clock.at(at(&point.published)? + CLOCK_SLACK));
        }
        let verdict = history.check(&mut images, window)?;
        println!("cut {cut}: {} disks, {}: {verdict}", group.len(), group[0].consistency);
        if group.iter().all(|p| p.consistency != "fuzzy") {
            proven += 1;
            ensure!(
                verdict.is_legal(),
                "cut {cut} is labelled {} and wrong: {verdict}",
                group[0].consistency
            );
        }
    }
    Ok(proven)
}

#[test]
fn random_writers_on_two_disks() -> Result<()> {
    require_root!();
    ordered(Plan::default(), false)
}

#[test]
fn slow_writers_on_two_disks() -> Result<()> {
    require_root!();
    ordered(Plan { rate: Some(200), writers: 1, ..Plan::default() }, false)
}

/// A granule that is always being written can make points fuzzy, but never wrong ones that say quiet.
#[test]
fn a_hot_spot_on_two_disks() -> Result<()> {
    require_root!();
    let pattern = Pattern::Hot(4);
    ordered(Plan { pattern, max_granules: 1, rate: Some(500), ..Plan::default() }, false)
}

#[test]
fn random_writers_while_another_tracer_interferes() -> Result<()> {
    require_root!();
    ordered(Plan { seed: 2, ..Plan::default() }, true)
}
