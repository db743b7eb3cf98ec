//! Points for which filesystems were frozen, and the operator's hooks around them.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, sh};
use crate::support::load::{Ground, Load};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, FAILED, Site, SyncRow};
use crate::ward::{RULES, Volume, Ward};
use crate::{MIB, PATIENCE, is_soak, load_time, program, require_root, spread, summarize};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::time::{Duration, Instant};

const BYTES: u64 = 384 * MIB;

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

/// ext4 under load, with hooks.
fn guarded(hooks: &str) -> Result<Ward<Load>> {
    let volume = Volume::new(Filesystem::Ext4, RULES)?;
    let load = volume.busy()?;
    volume.protect(load, hooks)
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
    let ward = guarded(&hooks)?;
    fs::write(&log, "")?;
    let point = ward.sync("frozen")?;
    ensure!(point.consistency == "frozen", "{point:?}");
    let stages: Vec<&str> = point.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    // On a busy machine, a freeze in which too much is left to read is given up and tried again.
    let [first, tries @ .., last] = &stages[..] else { bail!("{point:?}") };
    ensure!(*first == "pre" && *last == "post" && !tries.is_empty(), "{point:?}");
    ensure!(tries.chunks(2).all(|pair| pair == ["freeze", "thaw"]), "{point:?}");
    ensure!(point.hooks.iter().all(|hook| hook.output == "said name:disk\n"), "{point:?}");
    let ran = fs::read_to_string(&log)?;
    ensure!(
        ran.lines().all(|line| line.ends_with(&point.cut_id)) && ran.lines().count() == stages.len(),
        "{ran}"
    );
    let quiet = ward.sync("quiet")?;
    let stages: Vec<&str> = quiet.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    ensure!(stages == ["pre", "post"], "nothing is frozen for a quiet point: {quiet:?}");
    ward.end(Load::stop)
}

/// A hook that hangs is killed; what it was to prepare is undone, nothing stays frozen, and the point says so.
#[test]
fn a_hook_that_hangs_leaves_everything_thawed() -> Result<()> {
    require_root!();
    let hooks = "  hooks:\n    freeze: {command: [/bin/sh, -c, 'echo waiting; sleep 600'], timeout: 1s}\n    \
                 thaw: {command: [/bin/true]}\n";
    let ward = guarded(hooks)?;
    let point = ward.sync("frozen")?;
    ensure!(point.consistency != "frozen", "{point:?}");
    ensure!(point.notes.iter().any(|note| note.contains("freeze hook")), "{point:?}");
    let stages: Vec<&str> = point.hooks.iter().map(|hook| hook.stage.as_str()).collect();
    ensure!(stages == ["freeze", "thaw"], "what a hook began is ended: {point:?}");
    fs::write(ward.volume.mount.path().join("after"), "thawed").context("writing after the hook")?;
    ward.end(Load::stop)
}

/// How long a freeze takes in which there are 10 MiB to read, under a load: the freeze hook writes them, after the last
/// round and before the freeze. Only the label is judged; the figures are printed.
#[test]
fn freezes_with_a_rest_to_read() -> Result<()> {
    require_root!();
    let volume = Volume::new(Filesystem::Ext4, RULES)?;
    let rest = volume.mount.path().join("rest");
    let write = format!("dd if=/dev/urandom of={} bs=1M count=10 oflag=direct conv=notrunc", rest.display());
    sh("sh", &["-c", &write])?;
    let load = volume.busy()?;
    let ward =
        volume.protect(load, &format!("  hooks:\n    freeze: {{command: [/bin/sh, -c, '{write}']}}\n"))?;
    let wanted = if is_soak() { 500 } else { 5 };
    let (mut bytes, mut millis, mut others) = (Vec::new(), Vec::new(), 0);
    while millis.len() < wanted {
        let point = ward.sync("frozen")?;
        if point.consistency != "frozen" {
            others += 1;
            ensure!(others <= wanted, "hardly any point is frozen: {point:?}");
            continue;
        }
        let last = point.each_round.last().with_context(|| format!("no round: {point:?}"))?;
        ensure!(last.bytes >= 10 * MIB, "what the hook wrote was not read under the freeze: {point:?}");
        bytes.push(last.bytes);
        millis.push(point.freeze_ms.with_context(|| format!("it does not say for how long: {point:?}"))?);
    }
    println!(
        "ext4 under fio, 10 MiB and more to read: {wanted} freezes, ms p50/p99/max {}; bytes read under them {}; \
         {others} points were not frozen",
        spread(&mut millis),
        spread(&mut bytes)
    );
    ward.end(Load::stop)
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
    let load = Load::start(Ground::Folder(mount.path().to_owned()), &site.logs())?;
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
