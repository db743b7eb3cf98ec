//! SIGKILL of either side costs time, never data, and never a second full image.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, wait_for};
use crate::support::load::{Ground, Load};
use crate::support::process::Process;
use crate::support::proxy::{Event, Proxy, Weather};
use crate::support::site::{ActionRow, AgentHome, Site};
use crate::{MIB, PATIENCE, ensure_covered, load_time, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Large enough to be killed in the middle at this speed.
const BYTES: u64 = 192 * MIB;
const SLOWLY: [&str; 2] = ["--bandwidth-limit", "32MiB"];
/// Re-read after a kill at most: what was not yet durable (8 MiB in flight on either side, a checkpoint), and reads
/// ahead of it.
const SLACK: u64 = 64 * MIB;

/// Which process is killed.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Agent,
    Dispatcher,
}

/// Both processes, of which one may be killed and started again.
struct Running<'a> {
    site: &'a Site,
    home: &'a AgentHome,
    extra: &'a [&'a str],
    dispatcher: Process,
    agent: Process,
    /// Bytes that earlier lives of the agent read from disks.
    read_before: u64,
}

impl<'a> Running<'a> {
    fn start(site: &'a Site, home: &'a AgentHome, dispatcher: Process, extra: &'a [&'a str]) -> Result<Self> {
        let agent = home.start(site, extra)?;
        Ok(Self { site, home, extra, dispatcher, agent, read_before: 0 })
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Agent => {
                self.read_before += self.agent.usage()?.disk_read;
                self.agent.kill().map(drop)
            }
            Victim::Dispatcher => self.dispatcher.kill().map(drop),
        }
    }

    fn start_again(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Agent => self.agent = self.home.start(self.site, self.extra)?,
            Victim::Dispatcher => self.dispatcher = self.site.dispatcher()?,
        }
        Ok(())
    }

    fn disk_read(&self) -> Result<u64> {
        Ok(self.read_before + self.agent.usage()?.disk_read)
    }
}

fn imaging(site: &Site) -> Result<Option<ActionRow>> {
    Ok(site.actions()?.into_iter().find(|a| a.kind == "snapshot" && a.state == "running"))
}

/// Killed at a third of the image, with changes while it is away.
fn killed_during_the_image(victim: Victim) -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 30, |_| Content::Incompressible)?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("killed", &[(&disk, "disk")])?;
    let mut running = Running::start(&site, &home, dispatcher, &SLOWLY)?;
    wait_for("a third of the image", PATIENCE, || {
        Ok(imaging(&site)?.filter(|action| action.done > BYTES / 3))
    })?;
    running.kill(victim)?;
    change_granules(disk.path(), 31, 100)?;
    running.start_again(victim)?;
    site.wait_for_points("killed", 1, 1, PATIENCE)?;
    let read = running.disk_read()?;
    println!("{} MiB read for an image of {} MiB", read / MIB, BYTES / MIB);
    ensure!(read < BYTES + SLACK, "{read} bytes were read for an image of {BYTES}: the image began again");
    finish(&site, &disk)
}

/// A last sync is exact, there is one base, and coverage was never lost.
fn finish(site: &Site, disk: &LoopDisk) -> Result<()> {
    let last = wait_for("a sync after the restart", PATIENCE, || site.sync_one("killed").map(Some))?;
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    let points = site.points("killed")?;
    summarize(&points)?;
    ensure_covered(&points)?;
    site.done();
    Ok(())
}

/// Killed again and again between syncs every 2 s, at times that fall everywhere in a cut.
fn killed_during_live_sync(victim: Victim) -> Result<()> {
    let site = Site::new(program(), "2s")?;
    let disk = LoopDisk::new(BYTES)?;
    let load = Load::start(Ground::Device(disk.path().to_owned()), &site.logs())?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("killed", &[(&disk, "disk")])?;
    let mut running = Running::start(&site, &home, dispatcher, &[])?;
    site.wait_for_points("killed", 1, 2, PATIENCE)?;
    let rounds = u32::try_from(load_time()?.as_secs() / 2)?.max(3);
    for round in 0..rounds {
        pause(Duration::from_millis(u64::from(700 + round * 370 % 2000)))?;
        running.kill(victim)?;
        pause(Duration::from_millis(300))?;
        running.start_again(victim)?;
    }
    load.stop()?;
    finish(&site, &disk)
}

#[test]
fn agent_killed_during_the_image() -> Result<()> {
    require_root!();
    killed_during_the_image(Victim::Agent)
}

#[test]
fn dispatcher_killed_during_the_image() -> Result<()> {
    require_root!();
    killed_during_the_image(Victim::Dispatcher)
}

/// The image is published, and the agent does not hear that, because it is killed or its connections break: it goes on
/// from there.
fn not_told_of_the_base(killed: bool) -> Result<()> {
    let site = Site::new(program(), "1h")?;
    // Less than may be under way without an answer.
    let disk = LoopDisk::new(6 * MIB)?;
    fill_device(disk.path(), 32, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let proxy = Proxy::start(&site.address()?)?;
    let mut home = site.agent("killed", &[(&disk, "disk")])?;
    home.connect_via(&proxy);
    let extra = ["--bandwidth-limit", "4MiB"];
    let mut agent = home.start(&site, &extra)?;
    wait_for("an image under way", PATIENCE, || Ok(imaging(&site)?.filter(|action| action.done > 0)))?;
    proxy.set(Weather::Mute);
    site.wait_for_points("killed", 1, 1, PATIENCE).with_context(|| agent.tail())?;
    change_granules(disk.path(), 33, 100)?;
    if killed {
        agent.kill()?;
        proxy.set(Weather::Clear);
        agent = home.start(&site, &extra)?;
    } else {
        proxy.happen(Event::Reset);
        proxy.set(Weather::Clear);
    }
    finish(&site, &disk).with_context(|| agent.tail())?;
    let done: Vec<_> = site.actions()?.into_iter().map(|action| action.kind).collect();
    let count = |kind: &str| done.iter().filter(|k| *k == kind).count();
    ensure!(count("rescan") == 0, "the disk was compared although every change was known: {done:?}");
    ensure!(count("snapshot") == 1, "{done:?}");
    Ok(())
}

#[test]
fn agent_killed_before_it_hears_that_its_image_is_published() -> Result<()> {
    require_root!();
    not_told_of_the_base(true)
}

#[test]
fn connections_broken_before_the_agent_hears_that_its_image_is_published() -> Result<()> {
    require_root!();
    not_told_of_the_base(false)
}

#[test]
fn agent_killed_during_live_sync() -> Result<()> {
    require_root!();
    killed_during_live_sync(Victim::Agent)
}

#[test]
fn dispatcher_killed_during_live_sync() -> Result<()> {
    require_root!();
    killed_during_live_sync(Victim::Dispatcher)
}
