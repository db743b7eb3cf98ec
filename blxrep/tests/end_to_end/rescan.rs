//! After a gap in what is known, disk and newest point are compared, and only what differs is sent.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, wait_for};
use crate::support::load::{Ground, Load};
use crate::support::mount::{Filesystem, Mount};
use crate::support::proxy::{Event, Proxy};
use crate::support::site::{ActionRow, AgentHome, DONE, FAILED, PointRow, Site, SyncRow};
use crate::{MIB, PATIENCE, is_soak, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const GRANULE: u64 = 4096;

/// Unpins everything of an agent that does not run, as a reboot does.
fn forget_pins(home: &AgentHome) -> Result<()> {
    for entry in fs::read_dir(home.pins().path())? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

fn rescans(site: &Site, disk: &LoopDisk) -> Result<Vec<ActionRow>> {
    let ours = |action: &ActionRow| action.kind == "rescan" && action.device == Some(disk.name());
    Ok(site.actions()?.into_iter().filter(ours).collect())
}

/// The points whose coverage was not proven.
fn after_gaps(site: &Site, agent: &str) -> Result<Vec<PointRow>> {
    Ok(site.points(agent)?.into_iter().filter(|point| point.coverage != "proven").collect())
}

/// Bytes of the granules in which two files of one size differ.
fn differing(left: &Path, right: &Path) -> Result<u64> {
    let (left, right) = (File::open(left)?, File::open(right)?);
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut at, mut found) = (0, 0);
    loop {
        let length = left.read_at(&mut ours, at)?;
        if length == 0 {
            return Ok(found);
        }
        right.read_exact_at(&mut theirs[..length], at)?;
        let pairs = ours[..length].chunks(4096).zip(theirs[..length].chunks(4096));
        found += pairs.filter(|(a, b)| a != b).map(|(a, _)| a.len() as u64).sum::<u64>();
        at += length as u64;
    }
}

/// Pins and boot are gone while a filesystem is written to: the next point carries what differs and nothing else.
#[test]
fn a_gap_costs_a_rescan_and_only_what_differs_is_sent() -> Result<()> {
    require_root!();
    let bytes = if is_soak() { 4096 * MIB } else { 256 * MIB };
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(bytes)?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    fill_folder(mount.path(), if is_soak() { bytes / 4 * 3 } else { bytes / 4 })?;
    let load = Load::gentle(mount.path(), &site.logs())?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("gap", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("gap", 1, 1, PATIENCE)?;
    let before = site.sync_one("gap")?;
    agent.kill()?;
    forget_pins(&home)?;
    // Every part of the load has begun by then.
    pause(Duration::from_secs(4))?;
    load.stop()?;
    mount.unmount()?;
    if is_soak() {
        change_granules(disk.path(), 77, bytes / 100 / GRANULE)?;
    }
    let restored = site.restore(&before)?;
    let changed = differing(disk.path(), &restored)?;
    fs::remove_file(&restored)?;

    let agent = home.start(&site, &[])?;
    let began = Instant::now();
    let rescan = wait_for("the end of a rescan", PATIENCE * 5, || {
        Ok(rescans(&site, &disk)?.into_iter().find(|action| action.state == "succeeded"))
    })
    .with_context(|| agent.tail())?;
    let took = began.elapsed();
    ensure!(rescan.done == bytes && rescan.total == bytes, "{rescan:?}");
    let point = wait_for("the point after it", PATIENCE, || Ok(after_gaps(&site, "gap")?.pop()))?;
    let once = read_once(disk.path())?;
    println!(
        "{} MiB, {} KiB changed, {} KiB sent; the rescan took {took:?} at most, reading the disk once {once:?}: {:.2}",
        bytes / MIB,
        changed >> 10,
        point.bytes >> 10,
        took.as_secs_f64() / once.as_secs_f64()
    );
    ensure!(point.coverage.contains("nothing was pinned"), "{point:?}");
    ensure!(point.bytes >= changed, "less was sent than differs: {point:?}");
    ensure!(point.bytes <= changed + MIB, "{} bytes were sent for {changed} that differ", point.bytes);
    ensure_identical(disk.path(), &site.restore(&point.id)?)?;
    let last = site.sync("gap")?;
    ensure!(last[0].bytes.is_some_and(|bytes| bytes <= MIB), "{last:?}");
    summarize(&site.points("gap")?)?;
    site.done();
    Ok(())
}

/// Content that a comparison has something to do with.
fn fill_folder(folder: &Path, bytes: u64) -> Result<()> {
    let path = folder.join("ballast");
    let file = File::create(&path)?;
    let mut block = vec![0; 1 << 20];
    for at in 0..bytes / MIB {
        for (index, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(
                &(at << 20 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(),
            );
        }
        file.write_all_at(&block, at * MIB)?;
    }
    Ok(file.sync_all()?)
}

/// What reading all of a disk past the page cache takes, in pieces of 1 MiB.
fn read_once(path: &Path) -> Result<Duration> {
    let began = Instant::now();
    let status = std::process::Command::new("dd")
        .arg(format!("if={}", path.display()))
        .args(["of=/dev/null", "bs=1M", "iflag=direct", "status=none"])
        .status()?;
    ensure!(status.success(), "dd: {status}");
    Ok(began.elapsed())
}

/// A rescan is paused, outlives the death of either side, and is one action; the agent's other disk is cut meanwhile. All
/// that under load.
#[test]
fn a_rescan_is_paused_and_killed_and_goes_on() -> Result<()> {
    require_root!();
    let bytes = 64 * MIB;
    let site = Site::new(program(), "1h")?;
    let disks = [LoopDisk::new(bytes)?, LoopDisk::new(8 * MIB)?];
    for (seed, disk) in disks.iter().enumerate() {
        fill_device(disk.path(), seed as u64, |_| Content::Incompressible)?;
    }
    let mut dispatcher = site.dispatcher()?;
    let home = site.agent("paused", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("paused", 2, 1, PATIENCE)?;
    site.sync("paused")?;
    agent.kill()?;
    forget_pins(&home)?;
    change_granules(disks[0].path(), 9, 100)?;
    let load = Load::start(Ground::Device(disks[0].path().to_owned()), &site.logs())?;

    let slowly = ["--bandwidth-limit", "12MiB"];
    let mut agent_again = home.start(&site, &slowly)?;
    let running = |least: u64| {
        wait_for("a rescan that runs", PATIENCE, || {
            let found = rescans(&site, &disks[0])?;
            ensure!(found.len() <= 1, "more than one rescan: {found:?}");
            Ok(found.into_iter().find(|a| a.state == "running" && a.done >= least))
        })
    };
    let action = running(1)?;
    ensure!(action.total == bytes, "{action:?}");
    site.cli(&["pause", &action.id])?.expect(DONE, &[])?;
    let rows: Vec<SyncRow> =
        serde_json::from_str(&site.cli(&["sync", "paused", "second", "--wait"])?.stdout).unwrap_or_default();
    ensure!(rows.iter().any(|row| row.point.is_some()), "the other disk is not cut: {rows:?}");
    let refused = site.cli(&["sync", "paused", "first", "--wait"])?;
    refused.expect(FAILED, &["is paused"])?;
    agent_again.kill()?;
    let mut agent = home.start(&site, &slowly)?;
    pause(Duration::from_millis(500))?;
    let still: Vec<ActionRow> = rescans(&site, &disks[0])?;
    ensure!(still.len() == 1 && still[0].state == "paused", "{still:?}");
    site.cli(&["resume", &action.id])?.expect(DONE, &[])?;

    running(16 * MIB)?;
    dispatcher.kill()?;
    let _dispatcher = site.dispatcher()?;
    running(1)?;
    agent.kill()?;
    let _agent = home.start(&site, &[])?;
    wait_for("the end of the rescan", PATIENCE, || {
        Ok(rescans(&site, &disks[0])?.iter().all(|action| action.state == "succeeded").then_some(()))
    })?;
    load.stop()?;
    let rows = site.sync("paused")?;
    for row in &rows {
        let disk =
            disks.iter().find(|disk| disk.name() == row.device).context("a point of no disk of ours")?;
        ensure_identical(disk.path(), &site.restore(row.point.as_deref().context("no point")?)?)?;
    }
    let ended = rescans(&site, &disks[0])?;
    ensure!(ended.len() == 1 && ended[0].id == action.id, "{ended:?}");
    summarize(&site.points("paused")?)?;
    site.done();
    Ok(())
}

/// What a person has cancelled does not begin again by itself, also after a restart; a sync of the disk begins it anew.
#[test]
fn a_rescan_is_cancelled_and_a_sync_begins_it_again() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(16 * MIB)?;
    fill_device(disk.path(), 6, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("cancelled", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("cancelled", 1, 1, PATIENCE)?;
    site.sync_one("cancelled")?;
    agent.kill()?;
    forget_pins(&home)?;
    change_granules(disk.path(), 4, 30)?;
    let slowly = ["--bandwidth-limit", "2MiB"];
    let mut agent = home.start(&site, &slowly)?;
    let action = wait_for("a rescan that runs", PATIENCE, || {
        Ok(rescans(&site, &disk)?.into_iter().find(|action| action.state == "running"))
    })?;
    site.cli(&["cancel", &action.id])?.expect(DONE, &[])?;
    agent.kill()?;
    let mut agent = home.start(&site, &[])?;
    pause(Duration::from_secs(2))?;
    let ended = rescans(&site, &disk)?;
    ensure!(ended.len() == 1 && ended[0].state == "cancelled", "{ended:?}");
    let last = site.sync_one("cancelled").with_context(|| agent.tail())?;
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    let both = rescans(&site, &disk)?;
    ensure!(both.len() == 2 && both.iter().any(|action| action.state == "succeeded"), "{both:?}");
    ensure!(agent.is_running()?, "{}", agent.tail());
    site.done();
    Ok(())
}

/// A snapshot that is cancelled takes nothing with it: what a rescan had found before, and what was written since, is in the
/// next point, and the disk is kept in sync again.
#[test]
fn a_snapshot_that_is_cancelled_after_a_rescan_loses_nothing() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(48 * MIB)?;
    fill_device(disk.path(), 7, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("undecided", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("undecided", 1, 1, PATIENCE)?;
    site.sync_one("undecided")?;
    agent.kill()?;
    forget_pins(&home)?;
    change_granules(disk.path(), 8, 200)?;
    // On a disk without a filesystem nothing can be frozen: the rescan succeeds, and its point is not published.
    site.add_to_policy("consistency: frozen\nskip_unmet: true\n")?;
    pause(Duration::from_secs(11))?;
    let mut agent = home.start(&site, &["--bandwidth-limit", "16MiB"])?;
    agent.wait_for_output(&["skip_unmet: true", "skip_unmet=true"], PATIENCE)?;
    let refused = site.cli(&["sync", "undecided", "--wait"])?;
    refused.expect(FAILED, &["nothing to freeze"]).with_context(|| agent.tail())?;

    change_granules(disk.path(), 10, 50)?;
    site.cli(&["snapshot", "undecided", "disk"])?.expect(DONE, &[])?;
    let snapshot = wait_for("a snapshot that runs", PATIENCE, || {
        let ours = |a: &ActionRow| a.kind == "snapshot" && a.state == "running" && a.done > 0;
        Ok(site.actions()?.into_iter().find(ours))
    })?;
    site.cli(&["cancel", &snapshot.id])?.expect(DONE, &[])?;
    change_granules(disk.path(), 11, 50)?;
    let synced = site.cli(&["sync", "undecided", "--wait", "--consistency", "quiet"])?;
    let rows: Vec<SyncRow> = synced.parse().with_context(|| agent.tail())?;
    let point = rows[0].point.as_deref().with_context(|| format!("no point: {rows:?}"))?;
    ensure_identical(disk.path(), &site.restore(point)?)?;
    summarize(&site.points("undecided")?)?;
    site.done();
    Ok(())
}

/// What was sent of an image before it was cancelled is older than what points have brought since.
#[test]
fn a_snapshot_that_is_begun_again_after_points_is_a_state_of_the_disk() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(48 * MIB)?;
    fill_device(disk.path(), 7, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let proxy = Proxy::start(&site.address()?)?;
    let mut home = site.agent("again", &[(&disk, "disk")])?;
    home.connect_via(&proxy);
    let agent = home.start(&site, &["--bandwidth-limit", "16MiB"])?;
    site.wait_for_points("again", 1, 1, PATIENCE)?;
    let image_of = |bytes: u64| {
        site.cli(&["snapshot", "again", "disk"])?.expect(DONE, &[])?;
        wait_for("a part of an image", PATIENCE, || {
            let ours = |a: &ActionRow| a.kind == "snapshot" && a.state == "running" && a.done > bytes;
            Ok(site.actions()?.into_iter().find(ours))
        })
    };
    let snapshot = image_of(30 * MIB)?;
    site.cli(&["cancel", &snapshot.id])?.expect(DONE, &[])?;
    change_granules(disk.path(), 9, 2000)?;
    site.sync_one("again").with_context(|| agent.tail())?;
    // Begun from the start, and broken before it has come to where the first one was.
    image_of(8 * MIB)?;
    proxy.happen(Event::Reset);
    let base = wait_for("the second base", PATIENCE, || {
        Ok(site.points("again")?.into_iter().filter(|point| point.kind == "base").nth(1))
    })?;
    ensure_identical(disk.path(), &site.restore(&base.id)?)?;
    site.done();
    Ok(())
}

/// A comparison of a disk with its newest point finds what changed unseen, and nothing that was seen.
#[test]
fn a_verify_of_the_source_finds_what_nobody_saw_change() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1s")?;
    let disk = LoopDisk::new(96 * MIB)?;
    fill_device(disk.path(), 5, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("source", &[(&disk, "disk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("source", 1, 1, PATIENCE)?;
    let load = Load::start(Ground::Device(disk.path().to_owned()), &site.logs())?;
    site.wait_for_points("source", 1, 2, PATIENCE)?;
    for _ in 0..3 {
        let clean = site.cli(&["verify", "--source", "source"])?;
        clean.expect(DONE, &[]).with_context(|| agent.tail())?;
    }
    load.stop()?;
    site.sync_one("source")?;
    // Behind the back of the device: no hook sees it.
    let place = 40 * MIB + 8192;
    File::options().write(true).open(disk.backing())?.write_all_at(&[0x5a; 4096], place)?;
    let found = site.cli(&["verify", "--source", "source", "--disk", "disk"])?;
    found.expect(FAILED, &[&format!("bytes {place}..{}", place + 4096)])?;
    let actions = site.actions()?;
    let verify = actions.iter().rfind(|action| action.kind == "verify").context("no action")?;
    ensure!(verify.state == "failed" && verify.done == verify.total, "{verify:?}");
    site.done();
    Ok(())
}
