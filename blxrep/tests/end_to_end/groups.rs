//! Disks that share a cut: together or not at all, and what happens to the others when one falls out.

use crate::support::compare::ensure_identical;
use crate::support::content::change_granules;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::wait_for;
use crate::support::site::{AgentHome, PointRow, Site, SyncRow};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const BYTES: u64 = 64 * MIB;

/// The pinned maps of one of the agent's disks.
fn pinned_disk(folder: &Path) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == "disk-1") {
                return Ok(path);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    anyhow::bail!("{}: no second disk is pinned", folder.display())
}

fn of_cut<'a>(points: &'a [PointRow], cut: &str) -> Vec<&'a PointRow> {
    points.iter().filter(|point| point.cut_id == cut).collect()
}

/// The maps of one of two disks are lost while the agent is down. The other's points go on and say that it is missing;
/// it is compared with its newest point by itself, and then both are cut together again.
#[test]
fn a_disk_whose_coverage_is_lost_leaves_the_cut_and_joins_again() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disks = [LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?];
    let _dispatcher = site.dispatcher()?;
    let home: AgentHome = site.agent("group", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("group", 2, 1, PATIENCE)?;
    let both = site.sync("group")?;
    ensure!(of_cut(&site.points("group")?, &both[0].cut_id).len() == 2, "the disks do not share a cut");

    agent.kill()?;
    fs::remove_dir_all(pinned_disk(home.pins().path())?).context("removing the maps of a disk")?;
    for (seed, disk) in disks.iter().enumerate() {
        change_granules(disk.path(), seed as u64, 50)?;
    }
    // Slowly, so that the comparison is not over before the other disk is cut.
    let _agent = home.start(&site, &["--bandwidth-limit", "4MiB"])?;
    let rows = wait_for("a cut of the disk that is left", PATIENCE, || {
        let reply = site.cli(&["sync", "group", "--wait"])?;
        let rows: Vec<SyncRow> = serde_json::from_str(&reply.stdout).unwrap_or_default();
        Ok(rows.iter().any(|row| row.point.is_some()).then_some(rows))
    })?;
    let points = wait_for("a point of the other", PATIENCE, || {
        let points = site.points("group")?;
        Ok(points.iter().any(|point| point.coverage != "proven").then_some(points))
    })?;
    let compared = points.iter().find(|point| point.coverage != "proven").context("no point")?;
    ensure!(compared.bytes == 50 * 4096 && compared.kind == "delta", "{compared:?}");
    let apart: Vec<_> =
        points.iter().filter(|p| p.notes.iter().any(|n| n.contains("not in this cut"))).collect();
    ensure!(!apart.is_empty(), "no point says that a disk is missing: {rows:?} {points:#?}");
    ensure!(apart.iter().all(|p| p.disk != compared.disk), "{apart:#?}");

    let last = wait_for("both in one cut again", PATIENCE, || {
        let rows = site.sync("group")?;
        Ok((rows.len() == 2).then_some(rows))
    })?;
    let names: BTreeSet<&str> = last.iter().map(|row| row.device.as_str()).collect();
    ensure!(names.len() == 2, "{last:?}");
    for row in &last {
        let disk =
            disks.iter().find(|disk| disk.name() == row.device).context("a point of no disk of ours")?;
        ensure_identical(disk.path(), &site.restore(row.point.as_deref().context("no point")?)?)?;
    }
    site.done();
    Ok(())
}

/// A paused disk is left out, and the points of the others say so.
#[test]
fn a_paused_disk_is_missing_from_the_cut() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disks = [LoopDisk::new(16 * MIB)?, LoopDisk::new(16 * MIB)?];
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("group", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let _agent = home.start(&site, &[])?;
    site.wait_for_points("group", 2, 1, PATIENCE)?;
    let live = wait_for("live actions of both", PATIENCE, || {
        let running = |a: &crate::support::site::ActionRow| a.kind == "live" && a.state == "running";
        let live: Vec<_> = site.actions()?.into_iter().filter(running).collect();
        Ok((live.len() == 2).then_some(live))
    })?;
    site.cli(&["pause", &live[0].id])?.expect(crate::support::site::DONE, &[])?;
    wait_for("one of them paused", PATIENCE, || {
        Ok(site.actions()?.iter().any(|a| a.id == live[0].id && a.state == "paused").then_some(()))
    })?;
    let rows = site.sync("group")?;
    ensure!(rows.len() == 1, "{rows:?}");
    let points = site.points("group")?;
    let point = points.iter().find(|p| p.cut_id == rows[0].cut_id).context("no point")?;
    ensure!(point.notes.iter().any(|note| note.contains("it is paused")), "{point:?}");
    site.cli(&["resume", &live[0].id])?.expect(crate::support::site::DONE, &[])?;
    wait_for("both in one cut again", PATIENCE, || Ok((site.sync("group")?.len() == 2).then_some(())))?;
    site.done();
    Ok(())
}

/// Where the policy says so, each disk is cut by itself; a sync of one leaves the other alone.
#[test]
fn disks_are_cut_apart_where_the_policy_says_so() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    site.add_to_policy("group: each\n")?;
    let disks = [LoopDisk::new(16 * MIB)?, LoopDisk::new(16 * MIB)?];
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("group", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let _agent = home.start(&site, &[])?;
    site.wait_for_points("group", 2, 1, PATIENCE)?;
    let rows = wait_for("points of both", PATIENCE, || {
        let rows: Vec<SyncRow> = site.cli(&["sync", "group", "--wait"])?.parse()?;
        Ok((rows.len() == 2).then_some(rows))
    })?;
    ensure!(rows.iter().all(|row| row.point.is_some()) && rows[0].cut_id != rows[1].cut_id, "{rows:?}");
    let rows: Vec<SyncRow> = site.cli(&["sync", "group", "second", "--wait"])?.parse()?;
    ensure!(rows.len() == 1 && rows[0].device == disks[1].name(), "{rows:?}");
    site.done();
    Ok(())
}
