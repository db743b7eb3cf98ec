//! Busy writers: fio in every way a program can write, and what only a filesystem or a device can do besides.

use super::fixture::{check_interrupted, run, sh};
use super::process::Process;
use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is written to.
#[derive(Clone, Debug)]
pub enum Ground {
    /// Files in this folder of a mounted filesystem.
    Folder(PathBuf),
    /// The device itself.
    Device(PathBuf),
}

/// A running load. Dropping it kills it.
#[derive(Debug)]
pub struct Load {
    fio: Process,
    churn: Background,
    ground: Ground,
}

impl Load {
    /// Starts fio (direct, buffered and mapped random writes of 4 KiB to 1 MiB; discards on a device) and a thread
    /// that discards and writes zeroes. It ends when it is stopped, or after an hour.
    pub fn start(ground: Ground, logs: &Path) -> Result<Self> {
        Self::with_churn(ground, "24m", logs, churn_files)
    }

    /// The same on files, but at an eighth of the rate, and without a trim of the whole filesystem ten times a second:
    /// what is left of such writes fits into a freeze.
    pub fn gentle(folder: &Path, logs: &Path) -> Result<Self> {
        Self::with_churn(Ground::Folder(folder.to_owned()), "3m", logs, change_files)
    }

    fn with_churn(
        ground: Ground,
        rate: &str,
        logs: &Path,
        mut on_files: impl FnMut(&Path, u64) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let mut fio = Command::new("fio");
        fio.args(["--time_based", "--runtime=3600", "--randrepeat=0", "--thread", "--rw=randwrite"]);
        fio.arg(format!("--rate={rate}"));
        match &ground {
            Ground::Folder(folder) => fio.arg(format!("--directory={}", folder.display())).args(ON_FILES),
            Ground::Device(device) => fio.arg(format!("--filename={}", device.display())).args(ON_DEVICE),
        };
        let fio = Process::spawn("fio", &mut fio, logs)?;
        let churn = match &ground {
            Ground::Folder(folder) => {
                let folder = folder.clone();
                Background::start(move |round| on_files(&folder, round))
            }
            Ground::Device(device) => {
                let device = device.clone();
                Background::start(move |round| churn_device(&device, round))
            }
        };
        Ok(Self { fio, churn, ground })
    }

    /// Ends the load. What it wrote to a device through the page cache is flushed; a filesystem is left to its
    /// owner, who unmounts it.
    pub fn stop(mut self) -> Result<()> {
        ensure!(self.fio.is_running()?, "fio ended before its time\n{}", self.fio.tail());
        self.fio.signal(rustix::process::Signal::INT)?;
        self.fio.wait(Duration::from_secs(60))?;
        // Its exit code tells of the signal, not of jobs that never worked.
        let report = self.fio.output();
        let jobs = if matches!(self.ground, Ground::Folder(_)) { JOBS_ON_FILES } else { JOBS_ON_DEVICE };
        ensure!(report.matches("err= 0").count() == jobs, "not all of fio's jobs went well\n{report}");
        let rounds = self.churn.stop()?;
        ensure!(rounds > 0, "no discard and no write-zeroes was done under the load");
        if let Ground::Device(device) = &self.ground {
            sh("blockdev", &["--flushbufs", &device.to_string_lossy()])?;
        }
        Ok(())
    }
}

const JOBS_ON_FILES: usize = 3;
const ON_FILES: [&str; 14] = [
    "--name=direct",
    "--direct=1",
    "--ioengine=libaio",
    "--iodepth=8",
    "--bsrange=4k-1m",
    "--size=48m",
    "--name=buffered",
    "--bsrange=4k-1m",
    "--fsync=64",
    "--size=48m",
    "--name=mapped",
    "--ioengine=mmap",
    "--bs=4k",
    "--size=16m",
];

const JOBS_ON_DEVICE: usize = 4;
const ON_DEVICE: [&str; 17] = [
    "--name=direct",
    "--direct=1",
    "--ioengine=libaio",
    "--iodepth=8",
    "--bsrange=4k-1m",
    "--name=buffered",
    "--bsrange=4k-1m",
    "--fsync=64",
    "--name=mapped",
    "--ioengine=mmap",
    "--bs=4k",
    "--size=16m",
    "--name=discard",
    "--rw=randtrim",
    "--direct=1",
    "--bsrange=4k-1m",
    "--rate=,,16m",
];

/// Files are changed; then the filesystem discards what is free.
fn churn_files(folder: &Path, round: u64) -> Result<()> {
    change_files(folder, round)?;
    sh("fstrim", &[&folder.to_string_lossy()]).map(drop)
}

/// A file is written, punched, zeroed and truncated.
fn change_files(folder: &Path, round: u64) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let file = File::create(folder.join("churn"))?;
    let text: Vec<u8> = (0..MIB).map(|i| (i * (round + 1)) as u8).collect();
    for mib in 0..8 {
        file.write_all_at(&text, mib * MIB)?;
    }
    file.sync_all()?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, MIB + 8192, 2 * MIB)?;
    // btrfs writes the zeroes itself, others leave it to the device.
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 4 * MIB + 4096, MIB)?;
    file.sync_all()?;
    file.set_len(MIB)?;
    Ok(())
}

/// A discard and a write-zeroes on a moving part of the device.
fn churn_device(device: &Path, round: u64) -> Result<()> {
    let bytes = super::device_bytes(&File::open(device)?)?;
    let offset = |step: u64| (round * step) % (bytes / 4096 - 1024) * 4096;
    let device = device.to_string_lossy();
    let blkdiscard = |flags: &[&str], offset: u64, length: u64| {
        let place = [format!("--offset={offset}"), format!("--length={length}")];
        run(Command::new("blkdiscard").args(["--force"]).args(flags).args(place).arg(&*device))
    };
    blkdiscard(&[], offset(7919), 1 << 20)?;
    blkdiscard(&["--zeroout"], offset(104_729), 3 * 4096 + (round % 16) * 65_536).map(drop)
}

/// Something done over and over on a thread until it is stopped.
#[derive(Debug)]
pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Background {
    /// Calls `step` with 0, 1, 2, ... with a tenth of a second between.
    pub fn start(mut step: impl FnMut(u64) -> Result<()> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) && check_interrupted().is_ok() {
                step(round)?;
                round += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(round)
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it and says how often it was done.
    pub fn stop(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("a background thread panicked"))?
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.stop());
        }
    }
}

/// Another tracer on the block tracepoints, attached and detached in a loop until stopped. bpftrace wants tracefs;
/// where that is not mounted, it gets it in a mount namespace of its own.
pub fn bpftrace_loop(logs: &Path) -> Background {
    const SCRIPT: &str = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; \
                          exec bpftrace -e 'tracepoint:block:block_rq_issue { @issued = count(); } \
                          tracepoint:block:block_rq_complete { @completed = count(); }'";
    let log = logs.join("bpftrace.log");
    let logs = logs.to_owned();
    Background::start(move |_| {
        drop(fs::remove_file(&log));
        let mut unshare = Command::new("unshare");
        let mut bpftrace = Process::spawn("bpftrace", unshare.args(["--mount", "sh", "-c", SCRIPT]), &logs)?;
        bpftrace.wait_for_output(&["attaching"], Duration::from_secs(30))?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(bpftrace.is_running()?, "bpftrace ended by itself\n{}", bpftrace.tail());
        bpftrace.signal(rustix::process::Signal::INT)?;
        // On a machine that is busy enough it does not come to it; killed, it is detached all the same.
        if bpftrace.wait(Duration::from_secs(30)).is_err() {
            bpftrace.kill()?;
        }
        Ok(())
    })
}
