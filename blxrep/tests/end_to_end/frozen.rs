//! Points for which filesystems were frozen, and the operator's hooks around them.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, sh};
use crate::support::load::{Ground, Load};
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::site::{AgentHome, DONE, FAILED, PointRow, Site, SyncRow};
use crate::{MIB, PATIENCE, load_time, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const BYTES: u64 = 384 * MIB;
/// What a freeze may take on a machine that is busy with other tests: only the label depends on it.
const RULES: &str = "max_freeze_ms: 5000\n";

/// A mounted disk with a base and, for as long as this lives, writers.
struct Ward {
    site: Site,
    disk: LoopDisk,
    mount: Mount,
    load: Load,
    _dispatcher: Process,
    agent: Process,
    /// Its pins are what keeps the disk tracked.
    _home: AgentHome,
}

impl Ward {
    fn new(filesystem: Filesystem, rules: &str, hooks: &str) -> Result<Self> {
        let site = Site::new(program(), "1h")?;
        site.add_to_policy(rules)?;
        let disk = LoopDisk::new(BYTES)?;
        filesystem.make(disk.path())?;
        let mount = Mount::new(filesystem.name(), disk.path(), "defaults")?;
        let load = Load::start_gently(Ground::Folder(mount.path().to_owned()), &site.logs())?;
        let dispatcher = site.dispatcher()?;
        let home: AgentHome = site.agent("frozen", &[(&disk, "disk")])?;
        home.add_to_config(hooks)?;
        let agent = home.start(&site, &[])?;
        site.wait_for_points("frozen", 1, 1, PATIENCE)?;
        Ok(Self { site, disk, mount, load, _dispatcher: dispatcher, agent, _home: home })
    }

    /// A sync, and the row of the point that it made.
    fn sync(&self, consistency: &str) -> Result<PointRow> {
        let rows: Vec<SyncRow> =
            self.site.cli(&["sync", "frozen", "--wait", "--consistency", consistency])?.parse()?;
        let point = rows[0].point.clone().with_context(|| format!("{rows:?}\n{}", self.agent.tail()))?;
        let points = self.site.points("frozen")?;
        points.into_iter().find(|row| row.id == point).context("the point is not listed")
    }

    fn end(self) -> Result<()> {
        self.load.stop()?;
        self.mount.unmount()?;
        summarize(&self.site.points("frozen")?)?;
        drop(self.disk);
        self.site.done();
        Ok(())
    }
}

/// Frozen points under load: each is labelled so, is clean as it was cut, and writers go on after it.
fn frozen_points(filesystem: Filesystem, check: impl Fn(&str) -> Result<()>) -> Result<()> {
    let ward = Ward::new(filesystem, RULES, "")?;
    let (mut freezes, mut missed, end) = (Vec::new(), 0, Instant::now() + load_time()? / 2);
    while freezes.len() < 3 || Instant::now() < end {
        let point = ward.sync("frozen")?;
        if point.consistency != "frozen" {
            // A trim of all that is free can leave more to read than fits into a freeze.
            ensure!(point.notes.iter().any(|note| note.contains("freeze")), "it does not say why: {point:?}");
            missed += 1;
            ensure!(missed < 20 + freezes.len(), "hardly any point is frozen: {point:?}");
            continue;
        }
        let millis = point.freeze_ms.context("a frozen point says how long that took")?;
        ensure!(millis <= 4 * 5000, "filesystems were frozen for {millis} ms: {point:?}");
        freezes.push(millis);
        let copy = LoopDisk::over(ward.site.restore(&point.id)?)?;
        check(&copy.name()).with_context(|| format!("{point:?}"))?;
        fs::write(ward.mount.path().join("after"), point.id).context("writing after the thaw")?;
    }
    freezes.sort_unstable();
    println!(
        "{}: {} freezes ({missed} times there was too much to read), median {} ms, longest {} ms",
        filesystem.name(),
        freezes.len(),
        freezes[freezes.len() / 2],
        freezes[freezes.len() - 1]
    );
    ward.end()
}

#[test]
fn ext4_points_are_clean_without_replay() -> Result<()> {
    require_root!();
    frozen_points(Filesystem::Ext4, |device| {
        let features = sh("dumpe2fs", &["-h", device])?;
        ensure!(!features.contains("needs_recovery"), "the journal is not empty");
        sh("e2fsck", &["-f", "-n", device]).map(drop)
    })
}

#[test]
fn btrfs_points_are_clean_without_replay() -> Result<()> {
    require_root!();
    frozen_points(Filesystem::Btrfs, |device| sh("btrfs", &["check", "--readonly", device]).map(drop))
}

#[test]
fn xfs_points_are_clean_after_replay() -> Result<()> {
    require_root!();
    frozen_points(Filesystem::Xfs, |device| {
        // The original has the same UUID and may be mounted.
        Mount::new("xfs", Path::new(device), "nouuid")?.unmount()?;
        sh("xfs_repair", &["-n", device]).map(drop)
    })
}

/// A disk without a filesystem has nothing to freeze: the point says so and is quiet all the same, or is not made where
/// the policy wants nothing less.
#[test]
fn without_a_filesystem_there_is_nothing_to_freeze() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(16 * MIB)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("frozen", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("frozen", 1, 1, PATIENCE)?;
    let rows: Vec<SyncRow> = site.cli(&["sync", "frozen", "--wait", "--consistency", "frozen"])?.parse()?;
    let points = site.points("frozen")?;
    let row = points.iter().find(|row| Some(&row.id) == rows[0].point.as_ref()).context("no point")?;
    ensure!(row.consistency == "quiet", "{row:?}");
    ensure!(row.notes.iter().any(|note| note.contains("nothing to freeze")), "{row:?}");

    site.add_to_policy("skip_unmet: true\n")?;
    agent.wait_for_output(&["skip_unmet: true", "skip_unmet=true"], PATIENCE)?;
    let refused = site.cli(&["sync", "frozen", "--wait", "--consistency", "frozen"])?;
    refused.expect(FAILED, &["nothing to freeze"])?;
    ensure!(
        site.points("frozen")?.len() == points.len(),
        "a point that the policy does not want was published"
    );
    site.cli(&["sync", "frozen", "--wait", "--consistency", "quiet"])?.expect(DONE, &[])?;
    site.done();
    Ok(())
}

/// What hooks are run, in which order, and what a point says of them.
#[test]
fn hooks_are_run_around_the_freeze_and_kept_with_the_point() -> Result<()> {
    require_root!();
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let hook = |stage: &str| {
        let script = format!("echo $BLXREP_STAGE $BLXREP_CUT >> {}; echo said $BLXREP_DISKS", log.display());
        format!("    {stage}: {{command: [/bin/sh, -c, '{script}'], timeout: 20s}}\n")
    };
    let hooks = format!("  hooks:\n{}", ["pre", "freeze", "thaw", "post"].map(hook).concat());
    let ward = Ward::new(Filesystem::Ext4, RULES, &hooks)?;
    fs::write(&log, "")?;
    let point = ward.sync("frozen")?;
    ensure!(point.consistency == "frozen", "{point:?}");
    let stages: Vec<&str> = point.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    ensure!(stages == ["pre", "freeze", "thaw", "post"], "{point:?}");
    ensure!(point.hooks.iter().all(|hook| hook.output == "said name:disk\n"), "{point:?}");
    let ran = fs::read_to_string(&log)?;
    ensure!(ran.lines().all(|line| line.ends_with(&point.cut_id)) && ran.lines().count() == 4, "{ran}");
    let quiet = ward.sync("quiet")?;
    let stages: Vec<&str> = quiet.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    ensure!(stages == ["pre", "post"], "nothing is frozen for a quiet point: {quiet:?}");
    ward.end()
}

/// A hook that hangs is killed; what it was to prepare is undone, nothing stays frozen, and the point says so.
#[test]
fn a_hook_that_hangs_leaves_everything_thawed() -> Result<()> {
    require_root!();
    let hooks = "  hooks:\n    freeze: {command: [/bin/sh, -c, 'echo waiting; sleep 600'], timeout: 1s}\n    \
                 thaw: {command: [/bin/true]}\n";
    let ward = Ward::new(Filesystem::Ext4, RULES, hooks)?;
    let point = ward.sync("frozen")?;
    ensure!(point.consistency != "frozen", "{point:?}");
    ensure!(point.notes.iter().any(|note| note.contains("freeze hook")), "{point:?}");
    let stages: Vec<&str> = point.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    ensure!(stages == ["freeze", "thaw"], "what a hook began is ended: {point:?}");
    fs::write(ward.mount.path().join("after"), "thawed").context("writing after the hook")?;
    ward.end()
}

/// The agent is killed in the middle of freezes, again and again: writers go on, and the next points are right.
#[test]
fn an_agent_killed_while_it_freezes_leaves_nothing_frozen() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1s")?;
    site.add_to_policy("max_freeze_ms: 1000\nconsistency: frozen\n")?;
    let disk = LoopDisk::new(BYTES)?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    let load = Load::start_gently(Ground::Folder(mount.path().to_owned()), &site.logs())?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("frozen", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("frozen", 1, 2, PATIENCE)?;
    let rounds = u32::try_from(load_time()?.as_secs())?.max(4);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        pause(Duration::from_millis(u64::from(300 + round * 370 % 1300)))?;
        agent.kill()?;
        let start = Instant::now();
        fs::write(mount.path().join("after"), format!("{round}"))?;
        std::fs::File::open(mount.path().join("after"))?.sync_all()?;
        longest = longest.max(start.elapsed());
        agent = home.start(&site, &[])?;
    }
    println!("after {rounds} kills, a write waited at most {longest:?} (freezes are capped at 1 s)");
    // The hard cap is 5 s; the rest is what a loaded machine may add.
    ensure!(longest < Duration::from_secs(20), "a write waited {longest:?}");
    load.stop()?;
    mount.unmount()?;
    let last = site.sync_one("frozen")?;
    crate::support::compare::ensure_identical(disk.path(), &site.restore(&last)?)?;
    summarize(&site.points("frozen")?)?;
    site.done();
    Ok(())
}
