//! What an operator's life brings: a full disk under the store, and a store that is put back from a copy.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Writes until there is no room left.
fn fill_up(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    let block = vec![0x5a; 64 << 10];
    while file.write_all(&block).is_ok() {}
    // What is left is less than a block.
    while file.write_all(&block[..512]).is_ok() {}
    Ok(())
}

/// The disk under the store fills up while points are made: nothing wrong is published, and with room again, and a new
/// start where the catalog met the end of it, all goes on from the last good point.
#[test]
fn the_store_s_disk_is_full_for_a_while() -> Result<()> {
    require_root!();
    let shelf = LoopDisk::new(256 * MIB)?;
    Filesystem::Ext4.make(shelf.path())?;
    let mount = Mount::new("ext4", shelf.path(), "defaults")?;
    let site = Site::under(mount.path(), program(), "1h")?;
    let disk = LoopDisk::new(48 * MIB)?;
    fill_device(disk.path(), 1, |_| Content::Incompressible)?;
    let mut dispatcher = site.dispatcher()?;
    let home = site.agent("full", &[(&disk, "disk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("full", 1, 1, PATIENCE)?;
    let good = site.sync_one("full")?;
    let before = disk.backing().with_extension("before");
    fs::copy(disk.backing(), &before)?;

    let ballast = mount.path().join("ballast");
    fill_up(&ballast)?;
    fill_device(disk.path(), 2, |_| Content::Incompressible)?;
    let failed = site.cli(&["sync", "full", "--wait"])?;
    ensure!(failed.code != DONE, "a point was published on a full disk: {failed:?}");
    fs::remove_file(&ballast)?;
    if !dispatcher.is_running()? || site.cli(&["sync", "full", "--wait"])?.code != DONE {
        // It ends by itself where its catalog cannot be written any more.
        wait_for("the dispatcher ending, or working again", PATIENCE, || {
            let ended = !dispatcher.is_running()?;
            Ok((ended || site.cli(&["sync", "full", "--wait"])?.code == DONE).then_some(()))
        })?;
        if !dispatcher.is_running()? {
            ensure!(
                dispatcher.output().contains("make room"),
                "it does not say what to do\n{}",
                dispatcher.tail()
            );
            dispatcher = site.dispatcher()?;
        }
    }
    let last = wait_for("a point after there was room", PATIENCE, || Ok(site.sync_one("full").ok()))
        .with_context(|| agent.tail())?;
    let restored = site.restore(&good)?;
    ensure_identical(&before, &restored)?;
    fs::remove_file(restored)?;
    fs::remove_file(before)?;
    ensure_identical(disk.path(), &site.restore(&last)?)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    ensure!(dispatcher.is_running()?, "{}", dispatcher.tail());
    site.done();
    drop((agent, dispatcher, home, site));
    mount.unmount()
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
