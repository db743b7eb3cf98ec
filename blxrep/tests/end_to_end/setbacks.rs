//! What an operator's life brings: a full disk under the store, one that fails, and a store that is put back from a copy.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk, ZramDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{ActionRow, DONE, Site};
use crate::{MIB, PATIENCE, is_soak, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Granules that change before and while the room is gone.
const CHANGED: u64 = 200;

/// A file that takes all the room that there is.
struct Ballast(PathBuf);

impl Ballast {
    /// Writes until there is no room left.
    fn grow(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.0)?;
        let block = vec![0x5a; 64 << 10];
        while file.write_all(&block).is_ok() {}
        // What is left is less than a block.
        while file.write_all(&block[..512]).is_ok() {}
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        Ok(fs::remove_file(&self.0)?)
    }
}

/// The reason of a live action that is paused for want of room.
fn halted(site: &Site) -> Result<Option<String>> {
    paused(site, "no room in ")
}

/// The reason of a live action that is paused for one like this.
fn paused(site: &Site, reason: &str) -> Result<Option<String>> {
    let halted = |a: &ActionRow| a.kind == "live" && a.state == "paused" && a.reason.contains(reason);
    Ok(site.actions()?.into_iter().find(halted).map(|action| action.reason))
}

/// The disk under the store fills up to the last byte again and again while points are made: the action says that it is
/// paused and why, the same dispatcher goes on by itself when there is room, and no point is damaged.
#[test]
fn the_store_s_disk_is_full_again_and_again() -> Result<()> {
    require_root!();
    let shelf = LoopDisk::new(300 * MIB)?;
    Filesystem::Ext4.make(shelf.path())?;
    let mount = Mount::new("ext4", shelf.path(), "defaults")?;
    let site = Site::under(mount.path(), program(), "1s")?;
    let disk = LoopDisk::new(24 * MIB)?;
    fill_device(disk.path(), 1, |_| Content::Incompressible)?;
    let mut dispatcher = site.dispatcher()?;
    let home = site.agent("full", &[(&disk, "disk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("full", 1, 1, PATIENCE)?;
    let good = site.sync_one("full")?;
    let before = disk.backing().with_extension("before");
    fs::copy(disk.backing(), &before)?;

    let ballast = Ballast(mount.path().join("ballast"));
    let rounds = if is_soak() { 50 } else { 3 };
    let mut goes_on = Vec::new();
    for round in 0..rounds {
        // Points are on their way while the room gets less.
        change_granules(disk.path(), 2 * round + 2, CHANGED)?;
        ballast.grow()?;
        change_granules(disk.path(), 2 * round + 3, CHANGED)?;
        let reason = wait_for("the action saying that there is no room", PATIENCE, || {
            // What was given up by the dispatcher is taken too.
            ballast.grow()?;
            halted(&site)
        })
        .with_context(|| format!("round {round}: {}", agent.tail()))?;
        ensure!(reason.contains(" free; it goes on by itself"), "round {round}: {reason}");
        let known = site.points("full")?.len();
        ballast.remove()?;
        let since = Instant::now();
        wait_for("a point after there was room", PATIENCE, || {
            Ok((site.points("full")?.len() > known && halted(&site)?.is_none()).then_some(()))
        })
        .with_context(|| format!("round {round}: {}", agent.tail()))?;
        goes_on.push(since.elapsed().as_millis());
        ensure!(dispatcher.is_running()?, "round {round}: it ended: {}", dispatcher.tail());
    }
    println!("full {rounds} times; milliseconds until the next point after there was room: {goes_on:?}");
    let last =
        wait_for("a sync", PATIENCE, || Ok(site.sync_one("full").ok())).with_context(|| agent.tail())?;
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    fs::remove_file(site.path("restored").join(format!("{last}.img")))?;
    ensure_identical(&before, &site.restore(&good)?)?;
    fs::remove_file(before)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    crate::summarize(&site.points("full")?)?;
    site.done();
    drop((agent, dispatcher, home, site));
    mount.unmount()
}

/// The device under the deltas answers writes with I/O errors for a while: the action says so, the points that are there
/// can be restored, and everything goes on by itself when the device works again.
#[test]
fn the_store_s_device_fails_for_a_while() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1s")?;
    let (shelf, deltas) = (ZramDisk::new(128 * MIB)?, site.path("data/incremental"));
    // Without a journal: a failed write of one would turn the filesystem read-only, which is its business.
    sh("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &shelf.name()])?;
    fs::create_dir(&deltas)?;
    let deltas = deltas.to_string_lossy().into_owned();
    sh("mount", &[&shelf.name(), &deltas])?;
    let result = with_a_failing_device(&site, &shelf, &deltas);
    wait_for("unmounting", PATIENCE, || sh("umount", &[&deltas]).map(Some))?;
    result?;
    site.done();
    Ok(())
}

fn with_a_failing_device(site: &Site, shelf: &ZramDisk, deltas: &str) -> Result<()> {
    fs::remove_dir(format!("{deltas}/lost+found"))?;
    let disk = LoopDisk::new(24 * MIB)?;
    fill_device(disk.path(), 1, |_| Content::Incompressible)?;
    let mut dispatcher = site.dispatcher()?;
    let home = site.agent("failing", &[(&disk, "disk")])?;
    let agent = home.start(site, &[])?;
    site.wait_for_points("failing", 1, 1, PATIENCE)?;
    change_granules(disk.path(), 2, CHANGED)?;
    let good = site.sync_one("failing")?;
    let before = disk.backing().with_extension("before");
    fs::copy(disk.backing(), &before)?;

    shelf.fail_writes()?;
    change_granules(disk.path(), 3, CHANGED)?;
    let reason = wait_for("the action saying what fails", PATIENCE, || paused(site, "cannot be written"))
        .with_context(|| agent.tail())?;
    ensure!(reason.contains("Input/output error") && reason.contains("goes on by itself"), "{reason}");
    ensure_identical(&before, &site.restore(&good)?)?;
    fs::remove_file(&before)?;
    let known = site.points("failing")?.len();
    shelf.heal()?;
    wait_for("a point after the device works again", PATIENCE, || {
        Ok((site.points("failing")?.len() > known && paused(site, "")?.is_none()).then_some(()))
    })
    .with_context(|| agent.tail())?;
    ensure!(dispatcher.is_running()?, "it ended: {}", dispatcher.tail());
    let last = wait_for("a sync", PATIENCE, || Ok(site.sync_one("failing").ok()))?;
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    crate::summarize(&site.points("failing")?)
}

/// The store is put back from a copy while nothing changes on the disk any more: it lacks a point, the agent's maps say
/// that all is clean, and the next scheduled cut finds out all the same.
#[test]
fn a_store_that_was_put_back_gets_what_it_lacks() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "2s")?;
    let disk = LoopDisk::new(32 * MIB)?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("back", &[(&disk, "disk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("back", 1, 2, PATIENCE)?;
    let stop = |mut dispatcher: crate::support::process::Process| -> Result<()> {
        ensure!(dispatcher.terminate(PATIENCE)?.success(), "{}", dispatcher.tail());
        Ok(())
    };
    stop(dispatcher)?;
    let (data, copy) = (site.path("data"), site.path("copy"));
    let [data, copy] = [data.to_string_lossy(), copy.to_string_lossy()];
    sh("cp", &["-a", &data, &copy])?;

    let dispatcher = site.dispatcher()?;
    change_granules(disk.path(), 5, 200)?;
    let known = site.points("back")?.len();
    wait_for("a point with the change", PATIENCE, || {
        Ok(site.points("back")?.iter().skip(known).any(|point| point.bytes > 0).then_some(()))
    })?;
    stop(dispatcher)?;
    fs::remove_dir_all(&*data)?;
    sh("cp", &["-a", &copy, &data])?;

    let _dispatcher = site.dispatcher()?;
    let compared = wait_for("a point after a rescan", PATIENCE, || {
        Ok(site.points("back")?.into_iter().find(|point| point.coverage != "proven"))
    })
    .with_context(|| agent.tail())?;
    ensure!(compared.bytes == 200 * 4096, "more was sent than differs: {compared:?}");
    ensure_identical(disk.path(), &site.restore(&compared.id)?)?;
    site.done();
    Ok(())
}
