//! A bad network costs time and little else: no second full image, no lost change, no bytes moved twice without need.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, wait_for};
use crate::support::load::{Ground, Load};
use crate::support::process::Process;
use crate::support::proxy::{Event, Proxy, Schedule, Step, Weather, schedule};
use crate::support::site::{AgentHome, PointRow, Site};
use crate::{MIB, PATIENCE, ensure_covered, is_soak, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const BYTES: u64 = 96 * MIB;
/// What may be moved a second time: 5 % of the whole, or 8 MiB.
const TWICE: u64 = if BYTES / 20 > 8 * MIB { BYTES / 20 } else { 8 * MIB };
/// Random schedules of one run that is no soak.
const SCHEDULES: u64 = 3;

/// A site whose only agent reaches its dispatcher through a proxy. The fields are in the order in which they have to go.
struct Far {
    agent: Process,
    proxy: Proxy,
    _dispatcher: Process,
    _home: AgentHome,
    disk: LoopDisk,
    site: Site,
}

impl Far {
    /// Starts everything; the disk holds nothing that could be compressed.
    fn start(live_sync: &str, extra: &[&str]) -> Result<Self> {
        let site = Site::new(program(), live_sync)?;
        let disk = LoopDisk::new(BYTES)?;
        fill_device(disk.path(), 60, |_| Content::Incompressible)?;
        let dispatcher = site.dispatcher()?;
        let proxy = Proxy::start(&site.address()?)?;
        let mut home = site.agent("far", &[(&disk, "disk")])?;
        home.connect_via(&proxy);
        let agent = home.start(&site, extra)?;
        Ok(Self { agent, proxy, _dispatcher: dispatcher, _home: home, disk, site })
    }

    fn base(&self) -> Result<Vec<PointRow>> {
        self.site.wait_for_points("far", 1, 1, PATIENCE)
    }

    fn is_online(&self) -> Result<bool> {
        Ok(self.site.agents()?.iter().any(|agent| agent.id == "far" && agent.online))
    }

    /// A sync, once the network allows one.
    fn sync(&self) -> Result<String> {
        wait_for("a sync after the outage", PATIENCE, || self.site.sync_one("far").map(Some))
    }

    /// A last sync is exact, there is one base, coverage was never lost, and nothing is said to run that does not.
    fn finish(self) -> Result<()> {
        let last = self.sync()?;
        ensure_identical(self.disk.path(), &self.site.restore(&last)?).with_context(|| self.agent.tail())?;
        let points = self.site.points("far")?;
        summarize(&points)?;
        ensure_covered(&points)?;
        self.site.done();
        Ok(())
    }
}

/// What was written during an outage is moved once when it is over.
#[test]
fn what_was_written_during_an_outage_is_moved_once() -> Result<()> {
    require_root!();
    let far = Far::start("1h", &[])?;
    far.base()?;
    far.sync()?;
    let before = far.proxy.sent_by_clients();
    far.proxy.set(Weather::Refuse);
    far.proxy.happen(Event::Reset);
    let (length, start) = (Duration::from_secs(if is_soak() { 60 } else { 8 }), Instant::now());
    change_granules(far.disk.path(), 61, 20 * MIB / 4096)?;
    wait_for("the dispatcher to miss the agent", PATIENCE, || Ok((!far.is_online()?).then_some(())))?;
    pause(length.saturating_sub(start.elapsed()))?;
    far.proxy.set(Weather::Clear);
    let point = far.sync()?;
    let moved = far.proxy.sent_by_clients() - before;
    println!(
        "{:.1} MiB moved for 20 MiB written in {} s of outage",
        moved as f64 / MIB as f64,
        length.as_secs()
    );
    ensure!(moved < 30 * MIB, "{moved} bytes were moved for 20 MiB");
    ensure_identical(far.disk.path(), &far.site.restore(&point)?)?;
    far.finish()
}

/// An image whose connections are reset again and again goes on where it was.
#[test]
fn an_image_is_moved_once_however_often_it_breaks_off() -> Result<()> {
    require_root!();
    let far = Far::start("1h", &["--bandwidth-limit", "24MiB"])?;
    let mut cuts = 0;
    while far.site.points("far")?.is_empty() && cuts < 6 {
        // Whole frames, and parts of one.
        far.proxy.happen(Event::ResetAfter(5 * MIB + 333_333 * cuts));
        cuts += 1;
        pause(Duration::from_millis(900))?;
    }
    far.base()?;
    let moved = far.proxy.sent_by_clients();
    println!(
        "{:.1} MiB moved for an image of {} MiB that was cut {cuts} times",
        moved as f64 / MIB as f64,
        BYTES / MIB
    );
    ensure!(moved < BYTES + TWICE, "{moved} bytes were moved for an image of {BYTES}");
    far.finish()
}

/// The first point after a long outage is large; over a connection that is reset again and again it goes on where it was,
/// although writes go on.
#[test]
fn a_large_point_is_moved_once_however_often_it_breaks_off() -> Result<()> {
    require_root!();
    const WRITTEN: u64 = 64 * MIB;
    let far = Far::start("1h", &["--bandwidth-limit", "24MiB"])?;
    far.base()?;
    far.sync()?;
    fill_device(far.disk.path(), 62, |mebibyte| match mebibyte < WRITTEN / MIB {
        true => Content::Incompressible,
        false => Content::Zero,
    })?;
    let (before, known) = (far.proxy.sent_by_clients(), far.site.points("far")?.len());
    let connections = far.proxy.accepted();
    let mut cuts = 0;
    while far.site.points("far")?.len() == known && cuts < 8 {
        // What is asked for begins at once, or is under way, or waits for the next attempt.
        drop(far.site.cli(&["sync", "far", "--no-wait"])?);
        far.proxy.happen(Event::ResetAfter(5 * MIB + 333_333 * cuts));
        cuts += 1;
        pause(Duration::from_millis(1200))?;
    }
    wait_for("the point", PATIENCE, || {
        drop(far.sync()?);
        Ok((far.site.points("far")?.len() > known).then_some(()))
    })?;
    let (moved, breaks) = (far.proxy.sent_by_clients() - before, far.proxy.accepted() - connections);
    println!(
        "{:.1} MiB moved for a point of {} MiB whose connection broke {breaks} times",
        moved as f64 / MIB as f64,
        WRITTEN / MIB
    );
    ensure!(breaks > 0, "it never broke");
    ensure!(moved < WRITTEN + TWICE, "{moved} bytes were moved for a point of {WRITTEN}");
    far.finish()
}

/// Peers that vanish without a word are missed on both sides, and what they held is let go.
#[test]
fn half_open_connections_are_found_on_both_sides() -> Result<()> {
    require_root!();
    let far = Far::start("1s", &[])?;
    far.base()?;
    let load = Load::start(Ground::Device(far.disk.path().to_owned()), &far.site.logs())?;
    far.site.wait_for_points("far", 1, 3, PATIENCE)?;
    let start = Instant::now();
    far.proxy.happen(Event::Forget);
    wait_for("the dispatcher to miss the agent", PATIENCE, || {
        // An agent that was faster has come back: its new session takes the place of the old one.
        let missed = !far.is_online()? || far.proxy.accepted() > 2;
        Ok(missed.then_some(()))
    })?;
    let points = far.site.points("far")?.len();
    wait_for("points to go on", PATIENCE, || Ok((far.site.points("far")?.len() > points + 1).then_some(())))?;
    println!("points went on {:.1} s after all connections were forgotten", start.elapsed().as_secs_f64());
    load.stop()?;
    far.finish()
}

/// Image and points under a load, in random weather.
fn in_random_weather(seed: u64, length: Duration) -> Result<()> {
    let far = Far::start("1s", &["--bandwidth-limit", "64MiB"])?;
    let load = Load::start(Ground::Device(far.disk.path().to_owned()), &far.site.logs())?;
    let steps: Schedule = schedule(seed, length, is_soak());
    far.proxy.play(&steps);
    far.base()?;
    let resets = steps.iter().filter(|(_, step)| matches!(step, Step::Event(_))).count();
    println!(
        "seed {seed}: {} steps, {resets} of them breaks; {} connections",
        steps.len(),
        far.proxy.accepted()
    );
    load.stop()?;
    far.finish()
}

#[test]
fn random_weather_never_makes_a_point_wrong() -> Result<()> {
    require_root!();
    let (count, length) = if is_soak() { (100, 8) } else { (SCHEDULES, 4) };
    for seed in 0..count {
        in_random_weather(seed, Duration::from_secs(length)).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
