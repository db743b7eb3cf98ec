//! Wall time, CPU seconds and bytes on the loopback of one thing done.

use crate::support::content::{Aligned, open_direct};
use crate::support::fixture::check_interrupted;
use crate::support::process::{Process, usage};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Length of one raw read or write, the longest that blxrep uses.
const BLOCK: usize = 1 << 20;
/// Raw reads and writes in flight: more made no difference on two cores.
const THREADS: u64 = 2;

/// What something cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
    /// Bytes that crossed the loopback, headers included.
    pub wire: u64,
}

/// Measures `work`, with the CPU time that `processes` use meanwhile.
pub fn cost_of<T>(processes: &[&Process], work: impl FnOnce() -> Result<T>) -> Result<(T, Cost)> {
    let cpu = || processes.iter().map(|p| Ok(p.usage()?.cpu_seconds)).sum::<Result<f64>>();
    let (cpu_before, wire_before, start) = (cpu()?, loopback_bytes()?, Instant::now());
    let result = work()?;
    let wall = start.elapsed().as_secs_f64();
    Ok((result, Cost { wall, cpu: cpu()? - cpu_before, wire: loopback_bytes()? - wire_before }))
}

/// Runs a command to its success; its CPU time includes that of its children.
pub fn cost_of_command(command: &mut Command) -> Result<Cost> {
    let (wire_before, start) = (loopback_bytes()?, Instant::now());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    // Ended, but not yet reaped: /proc still knows what it used.
    let ended = waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let wall = start.elapsed().as_secs_f64();
    let cpu = usage(child.id()).map(|u| u.cpu_seconds);
    let status = child.wait()?;
    ended.with_context(|| format!("waiting for {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    check_interrupted()?;
    Ok(Cost { wall, cpu: cpu?, wire: loopback_bytes()? - wire_before })
}

fn loopback_bytes() -> Result<u64> {
    let path = "/sys/class/net/lo/statistics/tx_bytes";
    // /sys may belong to another network namespace; /proc/net always is this one's.
    let table =
        fs::read_to_string("/proc/thread-self/net/dev").context("/proc/thread-self/net/dev: reading")?;
    let lo = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).context(path)?;
    lo.split_whitespace().nth(8).and_then(|n| n.parse().ok()).context("the loopback's sent bytes")
}

/// What is done with each block of a raw copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    Read,
    /// Only blocks that are not zero; then fsync.
    Write,
    /// Both, then fsync.
    Copy,
}

/// The raw limit: O_DIRECT reads of the disk, writes of a file, or both.
pub fn raw(kind: Raw, source: &Path, target: &Path) -> Result<Cost> {
    let input = open_direct(source)?;
    let size = crate::support::device_bytes(&input)?;
    let output = create_direct(target)?;
    output.set_len(size)?;
    let own = std::process::id();
    let (cpu_before, start) = (usage(own)?.cpu_seconds, Instant::now());
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..THREADS)
            .map(|lane| {
                scope.spawn({
                    let (i, o) = (&input, &output);
                    move || raw_lane(kind, i, o, lane, size)
                })
            })
            .collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join().map_err(|_| anyhow::anyhow!("a thread of a raw measurement panicked"))?
        })
    })?;
    if kind != Raw::Read {
        output.sync_all()?;
    }
    let wall = start.elapsed().as_secs_f64();
    Ok(Cost { wall, cpu: usage(own)?.cpu_seconds - cpu_before, wire: 0 })
}

fn raw_lane(kind: Raw, input: &File, output: &File, lane: u64, size: u64) -> Result<()> {
    let mut buffer = Aligned::new(BLOCK);
    // Writes alone write one incompressible block over and over: the disk below may compress.
    let mut random = crate::support::stamper::Random(lane);
    crate::support::content::Content::Incompressible.fill(buffer.bytes(), &mut random);
    for number in (lane..size / BLOCK as u64).step_by(usize::try_from(THREADS)?) {
        check_interrupted()?;
        let offset = number * BLOCK as u64;
        let block = buffer.bytes();
        if kind != Raw::Write {
            input.read_exact_at(block, offset)?;
        }
        let zero = match kind {
            Raw::Read => true,
            Raw::Write => super::transfer::content_of(number) == crate::support::content::Content::Zero,
            Raw::Copy => block.iter().all(|b| *b == 0),
        };
        if !zero {
            output.write_all_at(block, offset)?;
        }
    }
    Ok(())
}

fn create_direct(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits())?)
        .open(path)
        .with_context(|| format!("{}: creating for direct I/O", path.display()))
}
