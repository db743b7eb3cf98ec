//! A point onto a device of another agent: all of it, and what differs, against raw writes of all of it.

use super::Options;
use super::measure::{Cost, Raw, cost_of, raw};
use super::table::Table;
use super::transfer::content_of;
use crate::support::compare::ensure_identical;
use crate::support::content::{change_granules, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::process::Process;
use crate::support::site::{DONE, Site};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// A base of a GiB on a machine that does something else besides.
const IMAGE: Duration = Duration::from_secs(300);
const SOURCE: &str = "bench-source";
const TARGET: &str = "bench-target";

/// Two agents and their dispatcher.
struct Run<'a> {
    site: &'a Site,
    target: &'a LoopDisk,
    point: String,
    processes: [&'a Process; 2],
}

pub fn measure(options: &Options, program: &Path, table: &mut Table) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let site = Site::under(&parent, program, "24h")?;
    let bytes = options.disk_bytes() / 4;
    let (source, target, own) = (LoopDisk::new(bytes)?, LoopDisk::new(bytes)?, LoopDisk::new(4 << 20)?);
    fill_device(source.path(), 5, content_of)?;
    let dispatcher = site.dispatcher()?;
    // Its pins go with its home, so that has to stay as long as the agent.
    let source_home = site.agent(SOURCE, &[(&source, "source")])?;
    let _source = source_home.start(&site, &[])?;
    let home = site.agent(TARGET, &[(&own, "own")])?;
    home.add_to_config(&format!("  restore: {{devices: [{}]}}\n", target.name()))?;
    let agent = home.start(&site, &[])?;
    let point = site.wait_for_points(SOURCE, 1, 1, IMAGE)?.remove(0).id;
    site.wait_for_points(TARGET, 1, 1, IMAGE)?;
    let run = Run { site: &site, target: &target, point, processes: [&agent, &dispatcher] };

    let written = raw(Raw::Copy, source.path(), &site.path("restored/raw"))?;
    show(table, "O_DIRECT read + write + fsync of a quarter of the disk", written, None);
    let full = run.restore(&["--full"])?;
    show(table, "restore --device --full of the same to an agent", full, Some(written.wall / full.wall));
    change_granules(target.path(), 6, bytes / 4096 / 100)?;
    let delta = run.restore(&[])?;
    show(table, "restore --device where 1 % differs", delta, Some(delta.wall / full.wall));
    let moved = format!("{:.3} of all", delta.wire as f64 / full.wire as f64);
    table.add("  bytes on the wire", format!("{:.1} MB", delta.wire as f64 / 1e6), moved, "");
    ensure_identical(source.path(), target.path())?;
    site.done();
    Ok(())
}

impl Run<'_> {
    /// Verified, as every restore.
    fn restore(&self, extra: &[&str]) -> Result<Cost> {
        let (point, device) = (self.point.as_str(), self.target.name());
        let asked = [&["restore", point, "--agent", TARGET, "--device", &device, "--yes"], extra].concat();
        let (reply, cost) = cost_of(&self.processes, || self.site.cli(&asked))?;
        reply.expect(DONE, &[])?;
        Ok(cost)
    }
}

fn show(table: &mut Table, what: &str, cost: Cost, ratio: Option<f64>) {
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    table.add(what, format!("{:.2} s, {:.2} CPU-s", cost.wall, cost.cpu), ratio, "");
}
