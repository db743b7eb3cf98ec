//! The dispatcher's catalog is lost, made anew from the files, and its agent goes on as if nothing had been.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::wait_for;
use crate::support::process::Process;
use crate::support::site::{ActionRow, DONE, FAILED, REFUSED, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

const CHANGED: u64 = 100;

#[test]
fn an_agent_goes_on_after_the_catalog_was_made_anew() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    site.add_to_policy("verify: {every: 1s, sample: 50%}\n")?;
    let disks = [LoopDisk::new(24 * MIB)?, LoopDisk::new(16 * MIB)?];
    for (seed, disk) in (1..).zip(&disks) {
        fill_device(disk.path(), seed, |_| Content::Incompressible)?;
    }
    let mut dispatcher = site.dispatcher()?;
    let home = site.agent("anew", &[(&disks[0], "first"), (&disks[1], "second")])?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("anew", 2, 1, PATIENCE)?;
    change_granules(disks[0].path(), 3, CHANGED)?;
    site.sync("anew")?;
    let before = site.points("anew")?;
    let data = site.path("data").to_string_lossy().into_owned();
    site.cli(&["catalog", "rebuild"])?.expect(REFUSED, &["is in use by process"])?;
    let mut second = Process::spawn(
        "second",
        &mut site.dispatcher_command(&site.path("data"), "127.0.0.1:0"),
        &site.logs(),
    )?;
    ensure!(!second.wait(PATIENCE)?.success(), "two dispatchers share one directory");
    ensure!(second.output().contains("is in use by process"), "{}", second.tail());
    ensure!(dispatcher.terminate(PATIENCE)?.success(), "{}", dispatcher.tail());

    fs::remove_file(site.path("data/blxrep.redb"))?;
    let mut refused = Process::spawn(
        "refused",
        &mut site.dispatcher_command(&site.path("data"), &site.address()?),
        &site.logs(),
    )?;
    ensure!(!refused.wait(PATIENCE)?.success(), "it started without its catalog: {}", refused.tail());
    ensure!(refused.output().contains("`blxrep catalog rebuild`"), "no remedy: {}", refused.tail());
    let report: serde_json::Value = site.cli(&["catalog", "rebuild"])?.parse()?;
    ensure!(report["points"] == before.len() && report["left_out"] == serde_json::json!([]), "{report}");

    // Nobody is there to hear of it.
    change_granules(disks[1].path(), 4, CHANGED)?;
    let dispatcher = site.dispatcher()?;
    wait_for("a sync after the rebuild", PATIENCE, || {
        let done = site.cli(&["sync", "anew", "--wait"])?.code == DONE;
        Ok(done.then_some(()))
    })
    .with_context(|| format!("{}\n{}\n{data}", agent.tail(), dispatcher.tail()))?;
    let after = site.points("anew")?;
    for point in &before {
        let now =
            after.iter().find(|now| now.id == point.id).with_context(|| format!("{point:?} is gone"))?;
        ensure!(
            (&now.cut, &now.kind, &now.coverage) == (&point.cut, &point.kind, &point.coverage),
            "{now:?}"
        );
        ensure!(now.notes.iter().any(|note| note.contains("rebuilt from files")), "{now:?}");
    }
    let added: Vec<_> =
        after.iter().filter(|point| before.iter().all(|known| known.id != point.id)).collect();
    ensure!(added.len() >= 2, "no points were added: {after:?}");
    let bytes: u64 = added.iter().map(|point| point.bytes).sum();
    ensure!(added.iter().all(|point| point.kind == "delta" && point.coverage == "proven"), "{added:?}");
    ensure!(bytes <= CHANGED * 4096, "{bytes} bytes for {CHANGED} granules: {added:?}");
    for disk in &disks {
        let newest =
            added.iter().rfind(|point| point.device == disk.name()).context("a disk without a new point")?;
        ensure_identical(disk.path(), &site.restore(&newest.id)?)?;
    }
    wait_for("a verification by policy", PATIENCE, || {
        let done = |a: &ActionRow| a.kind == "verify" && a.state == "succeeded";
        Ok(site.actions()?.iter().any(done).then_some(()))
    })?;
    rot_is_shown(&site)?;
    site.done();
    Ok(())
}

/// A byte of an image rots: a verification says so and fails, the points show it, and one that finds it healed takes it
/// back.
fn rot_is_shown(site: &Site) -> Result<()> {
    site.cli(&["verify"])?.expect(DONE, &[])?;
    let folder = fs::read_dir(site.path("data/snapshot"))?.next().context("no disk")??.path();
    let mut images = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let image = images.find(|path| path.extension().is_some_and(|e| e == "img")).context("no image")?;
    let flip = || -> Result<()> {
        let file = File::options().read(true).write(true).open(&image)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 5 * MIB)?;
        Ok(file.write_all_at(&[byte[0] ^ 1], 5 * MIB)?)
    };
    let damaged = || -> Result<usize> {
        let points: Vec<serde_json::Value> = site.cli(&["points"])?.parse()?;
        Ok(points.iter().filter(|point| point["damage"] != serde_json::json!([])).count())
    };
    ensure!(damaged()? == 0, "points are called damaged that are not");
    flip()?;
    site.cli(&["verify", "--agent", "anew"])?.expect(FAILED, &["sectors 10240..10248"])?;
    ensure!(damaged()? > 0, "the damage is not shown with the points");
    flip()?;
    // One that the policy asked for may have read the bad byte a moment ago.
    wait_for("the damage being found healed", PATIENCE, || {
        let clean = site.cli(&["verify"])?.code == DONE;
        Ok((clean && damaged()? == 0).then_some(()))
    })
}
