//! SIGKILLs of either side at random moments of image, cut, publication, upgrade, consolidation and restore, while
//! stamped writes go on: every point that was ever shown stays, unless the policy lets it go, and is a state that the
//! disks had.
//!
//! A run is a new site with [`KILLS`] kills of each side; a soak makes as many runs as give 200.

use crate::order::{Place, Promises, judge_all};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, wait_for};
use crate::support::order::{History, Write};
use crate::support::process::Process;
use crate::support::site::{ActionRow, AgentHome, PointRow, Site};
use crate::support::stamper::{Clock, Plan, Random, Stamper};
use crate::{MIB, PATIENCE, ensure_covered, is_soak, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

const BYTES: u64 = 24 * MIB;
/// Of each side, in one run.
const KILLS: u64 = 4;
/// Of those, as many of each side fall into the image.
const IN_THE_IMAGE: u64 = 1;
/// Runs of a soak.
const RUNS: u64 = 50;
/// An image of both disks takes some seconds.
const SLOWLY: [&str; 2] = ["--bandwidth-limit", "16MiB"];
/// Points of a disk that every other run keeps, so that there is something to consolidate.
const KEPT: usize = 5;
/// Cuts that are restored and judged in a run that is no soak.
const JUDGED: usize = 5;

/// Disk and cut of points.
type Seen = BTreeMap<String, (String, String)>;

/// Both processes, their site, and what has been seen of it.
struct Victims<'a> {
    site: &'a Site,
    home: &'a AgentHome,
    dispatcher: Process,
    agent: Process,
    random: Random,
    /// Points that were shown, and so acknowledged or about to be: disk and cut of each.
    seen: Seen,
    restores: Vec<Process>,
    upgrades: u32,
}

impl Victims<'_> {
    /// A random moment: anywhere, or just after something that ends in a publication was asked for.
    fn wait(&mut self) -> Result<()> {
        match self.random.below(4) {
            0 => pause(Duration::from_millis(self.random.below(1200))),
            1 => {
                // It may find no session.
                drop(self.site.cli(&["sync", "killed"])?);
                pause(Duration::from_millis(self.random.below(300)))
            }
            2 => {
                drop(self.site.cli(&["consolidate", "--no-wait"])?);
                pause(Duration::from_millis(self.random.below(200)))
            }
            _ => {
                self.start_restore()?;
                pause(Duration::from_millis(self.random.below(300)))
            }
        }
    }

    /// Restores a point in the background, to a file of its own.
    fn start_restore(&mut self) -> Result<()> {
        let Some(point) = self.site.points("killed")?.pop() else { return Ok(()) };
        let number = self.restores.len();
        let target = self.site.path("restored").join(format!("cut-short-{number}.img"));
        let mut command = Command::new(self.site.program());
        command.args(["restore", &point.id, "--yes", "--to"]).arg(target);
        command.arg("--data-dir").arg(self.site.path("data"));
        self.restores.push(Process::spawn(&format!("restore-{number}"), &mut command, &self.site.logs())?);
        Ok(())
    }

    fn kill_dispatcher(&mut self) -> Result<()> {
        self.wait()?;
        self.seen.extend(self.site.points("killed")?.into_iter().map(|p| (p.id, (p.disk, p.cut))));
        self.dispatcher.kill()?;
        self.dispatcher = self.site.dispatcher()?;
        nothing_lost(&self.seen, &self.site.points("killed")?)?;
        // Nothing that the dead one did goes on, so nothing is said to.
        let actions = self.site.actions()?;
        let running = |a: &&ActionRow| {
            a.state == "running" && ["restore", "verify", "consolidate"].contains(&a.kind.as_str())
        };
        ensure!(!actions.iter().any(|a| running(&a)), "said to run after a restart: {actions:#?}");
        Ok(())
    }

    /// The new agent may be one of another version, which takes the disks over; that one may be killed at it, too.
    fn kill_agent(&mut self) -> Result<()> {
        self.wait()?;
        self.agent.kill()?;
        if self.random.below(2) == 0 && rename_pins(self.home)? {
            self.upgrades += 1;
            self.agent = self.home.launch(self.site, &SLOWLY)?;
            pause(Duration::from_millis(self.random.below(400)))?;
            self.agent.kill()?;
        }
        self.agent = self.home.start(self.site, &SLOWLY)?;
        Ok(())
    }

    fn kill_both(&mut self) -> Result<()> {
        if self.random.below(2) == 0 {
            self.kill_agent()?;
            self.kill_dispatcher()
        } else {
            self.kill_dispatcher()?;
            self.kill_agent()
        }
    }
}

/// A point that is gone was let go: it is older than all that are left of its disk, and enough are left.
fn nothing_lost(seen: &Seen, now: &[PointRow]) -> Result<()> {
    for (id, (disk, cut)) in seen.iter().filter(|(id, _)| now.iter().all(|p| p.id != **id)) {
        let left: Vec<_> = now.iter().filter(|p| p.disk == *disk).collect();
        let let_go = left.len() >= KEPT && left.iter().all(|p| p.cut > *cut);
        ensure!(let_go, "point {id} of disk {disk} was published and is gone: {left:#?}");
    }
    Ok(())
}

/// Makes the pins look as if programs of another version had made them. False if there are such already: an upgrade was
/// cut short before.
fn rename_pins(home: &AgentHome) -> Result<bool> {
    let folder = home.pins().path().join(&home.id);
    let (now, before) = (folder.join(format!("v{}", blxrep_ebpf::ABI_VERSION)), folder.join("v0"));
    if before.exists() || !now.exists() {
        return Ok(false);
    }
    fs::rename(&now, &before).with_context(|| format!("{}: renaming", now.display()))?;
    Ok(true)
}

fn run(seed: u64) -> Result<()> {
    let site = Site::new(program(), "1s")?;
    if seed.is_multiple_of(2) {
        site.rewrite_policy(&format!("keep_all: 30d\nkeep_points: {KEPT}\n"))?;
    }
    let disks = [LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?];
    let plan = Plan { writers: 2, rate: Some(400), seed, ..Plan::default() };
    let writers = Stamper::start(&[disks[0].path(), disks[1].path()], plan)?;
    let clock = writers.clock();
    // The whole of it travels.
    writers.wait_for(200)?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("killed", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let agent = home.start(&site, &SLOWLY)?;
    let mut victims = Victims {
        site: &site,
        home: &home,
        dispatcher,
        agent,
        random: Random(seed ^ 0x6b69_6c6c),
        seen: Seen::new(),
        restores: Vec::new(),
        upgrades: 0,
    };
    for _ in 0..IN_THE_IMAGE {
        victims.kill_both()?;
    }
    site.wait_for_points("killed", 2, 1, PATIENCE).with_context(|| victims.agent.tail())?;
    for _ in IN_THE_IMAGE..KILLS {
        victims.kill_both()?;
    }
    wait_for("a sync after the kills", PATIENCE, || site.sync("killed").map(Some))
        .with_context(|| victims.agent.tail())?;
    let log = writers.stop()?;
    wait_for("a last sync", PATIENCE, || site.sync("killed").map(Some))?;
    println!("seed {seed}: {} restores begun, {} upgrades", victims.restores.len(), victims.upgrades);
    victims.restores.iter_mut().try_for_each(|restore| restore.wait(PATIENCE).map(drop))?;
    judge(&site, &log, &disks, clock, &victims.seen)?;
    true_states(&site, victims.agent)?;
    for (index, disk) in disks.iter().enumerate() {
        let newest = newest(&site, &disk.name())?;
        crate::support::compare::ensure_identical(disk.path(), &site.restore(&newest.id)?)
            .with_context(|| format!("disk {index}"))?;
    }
    site.done();
    Ok(())
}

fn newest(site: &Site, device: &str) -> Result<PointRow> {
    let points = site.points("killed")?;
    points.into_iter().rfind(|p| p.device == device).with_context(|| format!("{device} has no point"))
}

/// One base each, nothing lost, groups whole, every proven point a state of the disks.
fn judge(site: &Site, log: &[Write], disks: &[LoopDisk; 2], clock: Clock, seen: &Seen) -> Result<()> {
    // What a kill cut short is finished, so that the disks of a cut keep the same points again.
    site.cli(&["consolidate"])?.expect(crate::support::site::DONE, &[])?;
    let points = site.points("killed")?;
    summarize(&points)?;
    ensure_covered(&points)?;
    nothing_lost(seen, &points)?;
    let deltas: Vec<_> = points.iter().filter(|p| p.kind == "delta").collect();
    // A disk is cut alone for as long as the image of the other one takes.
    let alike = |point: &PointRow| points.iter().filter(|p| p.cut_id == point.cut_id).count();
    let together = deltas.iter().filter(|p| alike(p) == 2).map(|p| &p.cut).min().context("no cut of both")?;
    for point in deltas.iter().filter(|p| p.cut >= *together) {
        let alike = alike(point);
        ensure!(alike == 2, "cut {} has {alike} points instead of one of each disk", point.cut_id);
    }
    // Points that were made by a sync that ended in a kill are as good as any.
    let mut cuts: Vec<_> = deltas.iter().map(|p| p.cut_id.clone()).collect();
    cuts.dedup();
    let skipped = if is_soak() { 0 } else { cuts.len().saturating_sub(JUDGED) };
    let judged: Vec<PointRow> =
        points.iter().filter(|p| !cuts[..skipped].contains(&p.cut_id)).cloned().collect();
    let devices: Vec<_> = disks.iter().map(LoopDisk::name).collect();
    let history = History::new(log, disks.len())?;
    let proven = judge_all(site, &history, &judged, &devices, Place::Raw, clock, &Promises::new())?;
    ensure!(proven > 0, "no point was proven");
    // What was restored while its dispatcher was killed is whole, or not there.
    for entry in fs::read_dir(site.path("restored"))?.flatten() {
        let bytes = entry.metadata()?.len();
        ensure!(bytes == BYTES, "{}: {bytes} bytes of a restore that was cut short", entry.path().display());
        fs::remove_file(entry.path())?;
    }
    site.cli(&["verify"])?.expect(crate::support::site::DONE, &[])
}

/// What is said to run runs; without its agent it waits.
fn true_states(site: &Site, mut agent: Process) -> Result<()> {
    let states = || -> Result<Vec<(String, String)>> {
        Ok(site.actions()?.into_iter().map(|a| (a.kind, a.state)).collect())
    };
    let of = |kind: &str, state: &str, all: &[(String, String)]| {
        all.iter().filter(|(k, s)| k == kind && s == state).count()
    };
    let now = states()?;
    ensure!(of("live", "running", &now) == 2, "two disks are kept in sync: {now:?}");
    ensure!(of("snapshot", "succeeded", &now) == 2, "two images were made: {now:?}");
    let open = ["queued", "running", "paused"].map(|state| {
        ["snapshot", "restore", "consolidate"].iter().map(|kind| of(kind, state, &now)).sum::<usize>()
    });
    ensure!(open == [0; 3], "something is said to go on: {now:?}");
    agent.kill()?;
    wait_for("actions that wait for the agent", PATIENCE, || {
        Ok((of("live", "queued", &states()?) == 2).then_some(()))
    })
}

#[test]
fn random_kills_of_either_side() -> Result<()> {
    require_root!();
    let runs = if is_soak() { RUNS } else { 1 };
    for seed in 0..runs {
        run(seed).with_context(|| format!("seed {seed}"))?;
    }
    println!("{} kills of each side, and of agents that were being upgraded", runs * KILLS);
    Ok(())
}
