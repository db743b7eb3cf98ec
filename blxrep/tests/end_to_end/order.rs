//! Every point made while writers go on is a state that the group of disks had: the order checker says so.
//!
//! A soak runs each load at several rates, and prints what they cost.

use crate::support::content::{Content, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::pause;
use crate::support::load::bpftrace_loop;
use crate::support::mount::{Filesystem, Mount};
use crate::support::order::{History, Window, Write};
use crate::support::site::{PointRow, Site};
use crate::support::stamper::{Clock, Pattern, Plan, Stamper};
use crate::{MIB, PATIENCE, is_soak, load_time, program, require_root, spread, summarize};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

const BYTES: u64 = 64 * MIB;
/// Of a filesystem on such a disk, without its metadata.
const FILE_BYTES: u64 = 40 * MIB;
/// Between the wall clock of the program and that of the writers, both rounded.
const CLOCK_SLACK: Duration = Duration::from_millis(5);
/// Writes a second in a soak; `None` for as many as the machine gives.
const RATES_IN_SOAK: [Option<u32>; 3] = [Some(500), Some(5000), None];
/// A granule that is written more often than this has no moment in which a round could read it.
const CALM: u32 = 500;

/// Granules that are written over and over, as a journal does.
const HOT: Plan = Plan { writers: 4, rate: Some(CALM), pattern: Pattern::Hot(4), max_granules: 1, seed: 1 };

/// What a sync that was asked for promises, by its cut.
pub type Promises = BTreeMap<String, Window>;

/// Where the stamps are, and so what may be done for a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// On the disks themselves: nothing can be frozen, so points are asked for as quiet.
    Raw,
    /// In a file on each disk, whose blocks were all written before: points are asked for as the best there is.
    Files,
}

/// One load.
#[derive(Clone, Copy, Debug)]
struct Course {
    plan: Plan,
    place: Place,
    /// Whether another tracer comes and goes.
    interfere: bool,
}

impl Course {
    const fn raw(plan: Plan) -> Self {
        Self { plan, place: Place::Raw, interfere: false }
    }

    /// Whether there must be a proven point: not at any speed, and not where a hot granule cannot be frozen.
    fn is_provable(&self) -> bool {
        let uniform = matches!(self.plan.pattern, Pattern::Uniform);
        self.plan.rate.is_some_and(|rate| rate <= CALM || uniform || self.place == Place::Files)
    }
}

/// Two disks of one agent, with stamps on them or in a file of each. The fields are in the order in which they have to
/// go.
struct Ground {
    mounts: Vec<Mount>,
    disks: [LoopDisk; 2],
}

impl Ground {
    fn new(place: Place) -> Result<Self> {
        let mut ground = Self { mounts: Vec::new(), disks: [LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?] };
        if place == Place::Files {
            for disk in &ground.disks {
                Filesystem::Ext4.make(disk.path())?;
                ground.mounts.push(Mount::new("ext4", disk.path(), "defaults")?);
            }
            for path in ground.targets() {
                File::create(&path)?.set_len(FILE_BYTES)?;
                // Written in place from now on: no write waits for the journal to be there after a crash.
                fill_device(&path, 0, |_| Content::Zero)?;
                File::open(path)?.sync_all()?;
            }
        }
        Ok(ground)
    }

    /// What the writers write to.
    fn targets(&self) -> Vec<PathBuf> {
        if self.mounts.is_empty() {
            return self.disks.iter().map(|disk| disk.path().to_owned()).collect();
        }
        self.mounts.iter().map(stamps).collect()
    }
}

fn stamps(mount: &Mount) -> PathBuf {
    mount.path().join("stamps")
}

/// Runs a course; in a soak at every rate.
fn ordered(course: Course) -> Result<()> {
    if !is_soak() {
        return run(course);
    }
    RATES_IN_SOAK.into_iter().try_for_each(|rate| {
        let course = Course { plan: Plan { rate, ..course.plan }, ..course };
        run(course).with_context(|| format!("{course:?}"))
    })
}

/// Writers stamp two disks of one agent; every point is restored and judged.
fn run(course: Course) -> Result<()> {
    let site = Site::new(program(), "2s")?;
    let goal = if course.place == Place::Raw { "quiet" } else { "best" };
    site.add_to_policy(&format!("consistency: {goal}\nmax_freeze_ms: 5000\n"))?;
    let ground = Ground::new(course.place)?;
    let disks = &ground.disks;
    let _dispatcher = site.dispatcher()?;
    let mut tracing = course.interfere.then(|| bpftrace_loop(&site.logs()));
    let writers = Stamper::start(&ground.targets(), course.plan)?;
    let clock = writers.clock();
    pause(load_time()? / 4)?;
    let alone = 0..writers.now();
    let home = site.agent("order", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("order", 2, 1, PATIENCE)?;
    let mut promises = Promises::new();
    let (start, end) = (writers.now(), Instant::now() + load_time()?);
    while Instant::now() < end {
        promise(&site, &writers, &mut promises)?;
        pause(Duration::from_millis(700))?;
    }
    let syncing = start..writers.now();
    let log = writers.stop().with_context(|| agent.tail())?;
    if let Some(tracing) = &mut tracing {
        ensure!(tracing.stop()? > 0, "bpftrace was never attached");
    }
    let history = History::new(&log, disks.len())?;
    let devices: Vec<_> = disks.iter().map(LoopDisk::name).collect();
    let points = site.points("order")?;
    println!("\n{course:?}, goal {goal}: {} stamped writes", log.len());
    println!("writes alone: {}; with syncs: {}", latency(&log, &alone), latency(&log, &syncing));
    report(&points, Duration::from_nanos(syncing.end - syncing.start));
    summarize(&points)?;
    let proven = judge_all(&site, &history, &points, &devices, course.place, clock, &promises)?;
    ensure!(proven > 0 || !course.is_provable(), "no point was {goal}");
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

/// Points a minute by label, rounds, and freezes. Both disks of a cut have the same; one of them speaks for it.
fn report(points: &[PointRow], time: Duration) {
    let cuts: Vec<_> = points.iter().filter(|p| p.kind == "delta" && p.disk == points[0].disk).collect();
    let a_minute = |label: &str| {
        let cuts = cuts.iter().filter(|p| p.consistency == label).count();
        format!("{:.1} {label}", cuts as f64 * 60.0 / time.as_secs_f64())
    };
    let mut rounds: Vec<_> = cuts.iter().map(|p| u64::from(p.rounds)).collect();
    let mut freezes: Vec<_> = cuts.iter().filter_map(|p| p.freeze_ms).collect();
    println!(
        "cuts a minute: {}, {}, {}; rounds p50/p99/max: {}; freezes, ms: {}",
        a_minute("quiet"),
        a_minute("frozen"),
        a_minute("fuzzy"),
        spread(&mut rounds),
        spread(&mut freezes)
    );
}

/// How long the writes issued in a stretch of time took.
fn latency(log: &[Write], issued: &std::ops::Range<u64>) -> String {
    let writes = log.iter().filter(|w| issued.contains(&w.issued));
    let mut micros: Vec<_> = writes.map(|w| (w.completed - w.issued) / 1000).collect();
    format!("{} writes, us: {}", micros.len(), spread(&mut micros))
}

/// The stamps of a restored point. The fields are in the order in which they have to go.
struct Restored {
    stamps: File,
    _mounted: Option<(Mount, LoopDisk)>,
}

impl Restored {
    fn open(site: &Site, point: &PointRow, place: Place) -> Result<Self> {
        let path = site.restore(&point.id)?;
        if place == Place::Files {
            let disk = LoopDisk::over(path)?;
            let mount = Mount::new("ext4", disk.path(), "defaults")?;
            return Ok(Self { stamps: File::open(stamps(&mount))?, _mounted: Some((mount, disk)) });
        }
        let stamps = File::open(&path)?;
        std::fs::remove_file(path)?;
        Ok(Self { stamps, _mounted: None })
    }
}

/// Restores and judges the points cut by cut. Returns how many cuts were proven; a fuzzy one is only reported.
pub fn judge_all(
    site: &Site,
    history: &History,
    points: &[PointRow],
    devices: &[String],
    place: Place,
    clock: Clock,
    promises: &Promises,
) -> Result<usize> {
    let mut cuts: BTreeMap<&str, Vec<&PointRow>> = BTreeMap::new();
    points.iter().for_each(|p| cuts.entry(&p.cut_id).or_default().push(p));
    let mut proven = 0;
    for (cut, group) in cuts {
        let is_fuzzy = group.iter().any(|p| p.consistency == "fuzzy");
        if is_fuzzy && place == Place::Files {
            println!("cut {cut}: fuzzy, so its filesystem need not be one");
            continue;
        }
        let (mut images, mut restored) = (Vec::new(), Vec::new());
        let mut window = promises.get(cut).copied().unwrap_or(Window::ANY);
        for point in &group {
            let disk = devices.iter().position(|d| *d == point.device);
            let disk = disk.with_context(|| format!("a point of no disk of ours: {point:?}"))?;
            let copy = Restored::open(site, point, place)?;
            images.push((u32::try_from(disk)?, copy.stamps.try_clone()?));
            restored.push(copy);
            let at = |text: &str| -> Result<SystemTime> { Ok(text.parse::<jiff::Timestamp>()?.into()) };
            window.from = window.from.max(clock.at(at(&point.cut)? - CLOCK_SLACK));
            window.until = window.until.min(clock.at(at(&point.published)? + CLOCK_SLACK));
        }
        let verdict = history.check(&mut images, window)?;
        drop((images, restored));
        println!("cut {cut}: {} disks, {}: {verdict}", group.len(), group[0].consistency);
        if !is_fuzzy {
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
    ordered(Course::raw(Plan::default()))
}

#[test]
fn slow_writers_on_two_disks() -> Result<()> {
    require_root!();
    run(Course::raw(Plan { rate: Some(200), writers: 1, ..Plan::default() }))
}

/// A granule that is always being written can make points fuzzy, but never wrong ones that say quiet.
#[test]
fn a_hot_spot_on_two_disks() -> Result<()> {
    require_root!();
    ordered(Course::raw(HOT))
}

#[test]
fn random_writers_while_another_tracer_interferes() -> Result<()> {
    require_root!();
    let plan = Plan { seed: 2, ..Plan::default() };
    ordered(Course { interfere: true, ..Course::raw(plan) })?;
    if is_soak() { ordered(Course { interfere: true, ..Course::raw(HOT) }) } else { Ok(()) }
}

/// Where there is a filesystem, what cannot be quiet is frozen.
#[test]
fn a_hot_spot_in_files_on_two_disks() -> Result<()> {
    require_root!();
    let course = Course { place: Place::Files, ..Course::raw(Plan { rate: Some(2000), ..HOT }) };
    ordered(course)?;
    if !is_soak() {
        return Ok(());
    }
    ordered(Course { interfere: true, ..course })?;
    let uniform = Course { plan: Plan::default(), ..course };
    ordered(uniform)?;
    ordered(Course { interfere: true, ..uniform })
}
