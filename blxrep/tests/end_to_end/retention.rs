//! Points go as the policy says, their space is freed, and protection goes on as if nothing had been.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::wait_for;
use crate::support::site::{DONE, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Result, ensure};
use std::fs;
use std::path::PathBuf;

const BYTES: u64 = 32 * MIB;

/// Files of the store with this ending.
fn files(site: &Site, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![site.path("data")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[test]
fn what_the_policy_does_not_keep_is_merged_and_folded() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 1, |mib| if mib % 2 == 0 { Content::Incompressible } else { Content::Text })?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("thin", &[(&disk, "disk")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("thin", 1, 1, PATIENCE)?;
    let mut states = Vec::new();
    for number in 1..6 {
        change_granules(disk.path(), number, 60)?;
        let copy = site.path(&format!("state-{number}"));
        fs::copy(disk.backing(), &copy)?;
        states.push((copy, site.sync_one("thin")?));
    }
    let kept = site.cli(&["consolidate", "--dry-run"])?;
    kept.expect(DONE, &["young enough for all to be kept", "the newest of its disk"])?;
    site.cli(&["consolidate"])?.expect(DONE, &[])?;
    ensure!(site.points("thin")?.len() == 6, "points went that were to be kept");

    site.rewrite_policy("keep_all: 0\nkeep_minutely: 0\nkeep_hourly: 0\nkeep_daily: 0\nkeep_weekly: 0\n")?;
    wait_for("the policy to be read", PATIENCE, || {
        let planned = site.cli(&["consolidate", "thin", "--dry-run"])?;
        Ok(planned.expect(DONE, &["others stand for its time"]).is_ok().then_some(()))
    })?;
    site.cli(&["consolidate", "thin"])?.expect(DONE, &["succeeded"])?;
    let left = site.points("thin")?;
    ensure!(left.len() == 1, "points are left: {left:?}");
    let (copy, newest) = &states[4];
    ensure_identical(copy, &site.restore(newest)?)?;
    ensure!(files(&site, "bak")?.is_empty(), "deltas are left: {:?}", files(&site, "bak")?);
    let images = files(&site, "img")?;
    ensure!(images.len() == 1, "{images:?}");
    ensure_identical(copy, &images[0])?;
    site.cli(&["restore", &states[0].1, "--to", "/nonexistent/x"])?.expect(3, &["no point"])?;
    site.cli(&["verify"])?.expect(DONE, &[])?;

    // The agent counts its changes from a point that is the base now.
    change_granules(disk.path(), 9, 10)?;
    let next = site.sync_one("thin")?;
    let rows = site.points("thin")?;
    ensure!(rows.len() == 2 && rows[1].bytes < BYTES / 4, "the whole disk was read again: {rows:?}");
    ensure_identical(disk.path(), &site.restore(&next)?)?;
    site.cli(&["verify"])?.expect(DONE, &[])?;
    site.done();
    drop((agent, dispatcher));
    Ok(())
}
