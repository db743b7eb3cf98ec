//! Whatever breaks the thread between a disk and its newest point is recognised, named, and costs a rescan.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::process::Process;
use crate::support::site::{AgentHome, PointRow, Site};
use crate::{MIB, PATIENCE, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: u64 = 48 * MIB;
/// What changes between two points, and what a rescan may find beyond that.
const CHANGED: u64 = 40;
const SLACK: u64 = 64 << 10;

/// Where the maps of the agent's only disk are pinned.
fn pinned_disk(folder: &Path) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("disk-")) {
                return Ok(path);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    anyhow::bail!("{}: no disk is pinned", folder.display())
}

/// The pinned record, as its words.
fn record(home: &AgentHome) -> Result<Array<MapData, u64>> {
    let path = pinned_disk(home.pins().path())?.join("record");
    Ok(Array::try_from(Map::Array(MapData::from_pin(path)?))?)
}

/// A disk with its agent, and what was seen of it.
struct Patient<'a> {
    site: &'a Site,
    disk: &'a LoopDisk,
    seen: usize,
}

impl Patient<'_> {
    fn gaps(&self) -> Result<Vec<PointRow>> {
        let points = self.site.points("thread")?;
        Ok(points.into_iter().filter(|point| point.coverage != "proven").collect())
    }

    /// One more gap was found, is called so, and cost no more than what differs; the last point is the disk.
    fn is_healed(&mut self, why: &str, at_most: u64) -> Result<()> {
        let gaps = wait_for("a point that names the gap", PATIENCE, || {
            // It may be found by the next one only, and a sync that meets it fails.
            drop(self.site.cli(&["sync", "thread", "--wait"])?);
            let gaps = self.gaps()?;
            let named = gaps.iter().skip(self.seen).any(|point| point.coverage.contains(why));
            Ok(named.then_some(gaps))
        })?;
        let last = self.site.sync_one("thread")?;
        let sent: u64 = gaps.iter().skip(self.seen).map(|point| point.bytes).sum();
        self.seen = gaps.len();
        println!("{why}: {} KiB of {} MiB", sent >> 10, BYTES / MIB);
        ensure!(sent <= at_most, "{sent} bytes were sent, at most {at_most} differ: {gaps:?}");
        let restored = self.site.restore(&last)?;
        ensure_identical(self.disk.path(), &restored)?;
        Ok(fs::remove_file(restored)?)
    }

    fn change(&self, seed: u64) -> Result<()> {
        change_granules(self.disk.path(), seed, CHANGED)
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        File::options().write(true).open(self.disk.backing())?.set_len(bytes)?;
        sh("losetup", &["--set-capacity", &self.disk.name()]).map(drop)
    }
}

/// The same agent after a boot: its pins are there still, and of another boot.
fn start_after_boot(site: &Site, home: &AgentHome) -> Result<Process> {
    let boot_id = site.path("boot_id");
    fs::write(&boot_id, "00000000-0000-4000-8000-000000000001\n")?;
    let script = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", boot_id.display());
    let agent = home.command(site, &[])?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(agent.get_program()).args(agent.get_args());
    Process::spawn("agent-after-boot", &mut command, &site.logs())
}

#[test]
fn whatever_breaks_the_thread_is_named_and_costs_a_rescan() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    fill_device(disk.path(), 8, |_| Content::Incompressible)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("thread", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("thread", 1, 1, PATIENCE)?;
    let mut patient = Patient { site: &site, disk: &disk, seen: 0 };
    let most = CHANGED * 4096 + SLACK;

    // Somebody removes the pins under the running agent: nothing is tracked, until it notices.
    for entry in fs::read_dir(home.pins().path())? {
        fs::remove_dir_all(entry?.path())?;
    }
    patient.change(1)?;
    patient.is_healed("the pins were removed", most).with_context(|| agent.tail())?;

    // The machine is set back: content and record are those of an earlier point.
    let earlier = site.path("earlier");
    site.sync_one("thread")?;
    fs::copy(patient.disk.backing(), &earlier)?;
    let words: Vec<u64> = record(&home)?.iter().collect::<Result<_, _>>()?;
    patient.change(2)?;
    site.sync_one("thread")?;
    agent.kill()?;
    fs::copy(&earlier, patient.disk.backing())?;
    let mut pinned = record(&home)?;
    for (index, word) in (0..).zip(words) {
        pinned.set(index, word, 0)?;
    }
    drop(pinned);
    let mut agent = home.start(&site, &[])?;
    patient.is_healed("one of the two was set back", most).with_context(|| agent.tail())?;

    // The machine boots.
    agent.kill()?;
    patient.change(3)?;
    let mut agent = start_after_boot(&site, &home)?;
    patient.is_healed("the host was rebooted", most).with_context(|| agent.tail())?;
    agent.kill()?;
    let agent = home.start(&site, &[])?;
    patient.is_healed("the host was rebooted", SLACK).with_context(|| agent.tail())?;

    // The disk grows by a size that is no whole granule, and shrinks again.
    let grown = BYTES + 8 * MIB + 512 * 3;
    patient.resize(grown)?;
    patient.change(4)?;
    patient.is_healed("size was", most + 8 * MIB + 4096).with_context(|| agent.tail())?;
    patient.resize(BYTES - 4 * MIB - 512)?;
    patient.is_healed("size was", SLACK).with_context(|| agent.tail())?;

    summarize(&site.points("thread")?)?;
    site.done();
    Ok(())
}
