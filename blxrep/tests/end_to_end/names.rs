//! Names that look alike, devices with large numbers, and partitions beside each other stay apart.

use crate::support::compare::ensure_identical;
use crate::support::content::{Content, fill_device};
use crate::support::disk::{BEYOND_ONE_BYTE, Disk, LoopDisk};
use crate::support::fixture::{run, sh};
use crate::support::site::Site;
use crate::{MIB, PATIENCE, program, require_root, summarize};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: u64 = 16 * MIB;

/// Four agents whose names are easily taken for each other, each with a disk of the same name; all at once.
#[test]
fn agents_that_sound_alike() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let _dispatcher = site.dispatcher()?;
    let mut running = Vec::new();
    for (seed, id) in (10..).zip(["web1", "web10", "a_b", "a-b"]) {
        let disks = [LoopDisk::new(BYTES)?, LoopDisk::new(BYTES)?];
        for (disk, offset) in disks.iter().zip([0, 100]) {
            fill_device(disk.path(), seed + offset, |_| Content::Incompressible)?;
        }
        let home = site.agent(id, &[(&disks[0], "data-1"), (&disks[1], "data_1")])?;
        let agent = home.start(&site, &[])?;
        running.push((home, disks, agent));
    }
    for (home, disks, _) in &running {
        site.wait_for_points(&home.id, 2, 1, PATIENCE)?;
        for row in site.sync(&home.id)? {
            let disk = disks.iter().find(|d| d.name() == row.device);
            let disk =
                disk.with_context(|| format!("{}: a point of no disk of its own: {row:?}", home.id))?;
            let restored = site.restore(&row.point.context("no point")?)?;
            ensure_identical(disk.path(), &restored)?;
            fs::remove_file(restored)?;
        }
        summarize(&site.points(&home.id)?)?;
    }
    // The folders come after their agents: pins and devices are free by then.
    for (_, _, agent) in &mut running {
        agent.kill()?;
    }
    site.done();
    Ok(())
}

#[test]
fn a_minor_number_beyond_one_byte() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::numbered_from(BEYOND_ONE_BYTE, BYTES)?;
    // Minor 300 is 44 in one byte: what happens there must not matter.
    fill_device(disk.path(), 20, |_| Content::Text)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("high", &[(&disk, "disk")])?;
    let _agent = home.start(&site, &[])?;
    site.wait_for_points("high", 1, 1, PATIENCE)?;
    fill_device(disk.path(), 21, |_| Content::Incompressible)?;
    let restored = site.restore(&site.sync_one("high")?)?;
    ensure_identical(disk.path(), &restored)?;
    site.done();
    Ok(())
}

/// Partitions of a disk that the kernel was told about; forgotten at the end.
pub struct Partitions<'a>(&'a LoopDisk);

impl<'a> Partitions<'a> {
    /// Two partitions without a gap between them.
    pub fn make(disk: &'a LoopDisk) -> Result<Self> {
        let script = "label: gpt\nstart=2048, size=8192\nstart=10240, size=8192\n";
        let table = std::env::temp_dir().join(crate::support::fixture::unique() + ".sfdisk");
        fs::write(&table, script)?;
        let result = run(Command::new("sh").arg("-c").arg(format!(
            "sfdisk --quiet --no-reread --no-tell-kernel {} < {}",
            disk.name(),
            table.display()
        )));
        fs::remove_file(&table)?;
        result?;
        Self::of(disk)
    }

    /// Those of the table that is there.
    pub fn of(disk: &'a LoopDisk) -> Result<Self> {
        sh("partx", &["--add", &disk.name()])?;
        Ok(Self(disk))
    }

    pub fn path(&self, number: u32) -> PathBuf {
        Path::new(&format!("{}p{number}", self.0.name())).to_owned()
    }
}

impl Drop for Partitions<'_> {
    fn drop(&mut self) {
        if let Err(error) = sh("partx", &["--delete", &self.0.name()]) {
            eprintln!("{}: partitions left behind: {error:#}", self.0.name());
        }
    }
}

/// Writes through either partition are changes of the one disk, and a partition named as a disk leads to its parent.
#[test]
fn partitions_side_by_side() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(BYTES)?;
    let partitions = Partitions::make(&disk)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent("parts", &[(&disk, "disk")])?;
    let mut agent = home.start(&site, &[])?;
    site.wait_for_points("parts", 1, 1, PATIENCE)?;
    for (number, content) in [(1, Content::Text), (2, Content::Incompressible)] {
        fill_device(&partitions.path(number), u64::from(number), |_| content)?;
        let restored = site.restore(&site.sync_one("parts")?)?;
        ensure_identical(disk.path(), &restored)?;
    }
    agent.kill()?;
    let mut command = home.command(&site, &["--disk", &partitions.path(1).to_string_lossy()])?;
    let mut second =
        crate::support::process::Process::spawn("agent-on-a-partition", &mut command, &site.logs())?;
    second.wait_for_output(&[&disk.name()], PATIENCE)?;
    second.kill()?;
    let points = site.points("parts")?;
    ensure!(points.iter().all(|p| p.device == disk.name()), "a point of a partition: {points:#?}");
    site.done();
    Ok(())
}
