//! What tracking costs the writers: IOPS with and without it in alternating pairs, and nanoseconds per write.

use super::Options;
use super::table::Table;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{run, wait_for};
use crate::support::process::Process;
use crate::support::site::{AgentHome, Site};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DISK: u64 = 256 << 20;
const AGENT: &str = "tracked";
/// One half of a pair. Longer halves did not narrow the spread between pairs.
const SECONDS: u32 = 4;
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Switches the kernel's BPF statistics on, and back to what they were.
struct Statistics(String);

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("{STATISTICS}: reading"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("{STATISTICS}: switching on"))?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, &self.0) {
            eprintln!("{STATISTICS}: not set back to {}: {error}", self.0.trim());
        }
    }
}

pub fn measure(options: &Options, program: &Path, table: &mut Table) -> Result<()> {
    let site = Site::new(program, "24h")?;
    let disk = LoopDisk::new(DISK)?;
    let _dispatcher = site.dispatcher()?;
    let home = site.agent(AGENT, &[(&disk, "tracked-disk")])?;
    let mut ratios = Vec::new();
    for pair in 0..options.pairs() {
        // The order within a pair alternates, too: a machine that slows down favours neither.
        let (with, without) = if pair % 2 == 0 {
            let with = tracked(&site, &home, &disk)?;
            (with, iops(&disk)?)
        } else {
            let without = iops(&disk)?;
            (tracked(&site, &home, &disk)?, without)
        };
        println!("pair {pair}: {with:.0} IOPS with tracking, {without:.0} without: {:.3}", with / without);
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let (low, median, high) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
    table.add(
        "4k randwrite QD32, tracked : not tracked",
        format!("{} pairs, {low:.3} to {high:.3}", ratios.len()),
        format!("{median:.3}"),
        ">= 0.97 (stretch 0.98)",
    );
    per_write(&site, &home, &disk, table)?;
    site.done();
    Ok(())
}

/// An agent that tracks the disk and has nothing else to do.
fn track(site: &Site, home: &AgentHome) -> Result<Process> {
    let agent = home.start(site, &[])?;
    site.wait_for_points(AGENT, 1, 1, Duration::from_secs(60))?;
    wait_for("a sync after the start", Duration::from_secs(60), || site.sync(AGENT).map(Some))?;
    Ok(agent)
}

/// IOPS while tracked; afterwards nothing is attached any more.
fn tracked(site: &Site, home: &AgentHome, disk: &LoopDisk) -> Result<f64> {
    let mut agent = track(site, home)?;
    let result = iops(disk);
    agent.kill()?;
    home.pins().clear()?;
    result
}

/// Nanoseconds of all programs together per write, by the kernel's own clock.
fn per_write(site: &Site, home: &AgentHome, disk: &LoopDisk, table: &mut Table) -> Result<()> {
    let mut agent = track(site, home)?;
    let statistics = Statistics::on()?;
    let before = program_statistics(&agent)?;
    let writes_before = writes(disk)?;
    iops(disk)?;
    let (after, writes) = (program_statistics(&agent)?, writes(disk)? - writes_before);
    drop(statistics);
    agent.kill()?;
    home.pins().clear()?;
    let (nanoseconds, events) = (after.0 - before.0, after.1 - before.1);
    ensure!(events > 0 && writes > 0, "no BPF program of the agent ran: {events} events, {writes} writes");
    table.add(
        "all hooks together, per write",
        format!("{:.0} ns", nanoseconds as f64 / writes as f64),
        String::new(),
        "<= 500 ns (stretch 300)",
    );
    table.add("  per event", format!("{:.0} ns", nanoseconds as f64 / events as f64), String::new(), "");
    Ok(())
}

/// Run time and runs of the BPF programs that a process holds.
fn program_statistics(agent: &Process) -> Result<(u64, u64)> {
    let (mut time, mut runs) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", agent.pid()))? {
        // Other files of the agent may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        time += value("run_time_ns:");
        runs += value("run_cnt:");
    }
    Ok((time, runs))
}

/// Writes that the kernel counted on the disk.
fn writes(disk: &LoopDisk) -> Result<u64> {
    let path = format!("/sys/block/{}/stat", disk.name().trim_start_matches("/dev/"));
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: reading"))?;
    stat.split_whitespace()
        .nth(4)
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("{path}: no writes in it"))
}

fn iops(disk: &LoopDisk) -> Result<f64> {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=tracked",
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=32",
    ]);
    fio.args(["--time_based", &format!("--runtime={SECONDS}"), "--output-format=json"]);
    let text = run(fio.arg(format!("--filename={}", disk.name())))?;
    let report: Value = serde_json::from_str(&text).context("fio's report")?;
    report["jobs"][0]["write"]["iops"].as_f64().filter(|iops| *iops > 0.0).context("no IOPS in fio's report")
}
