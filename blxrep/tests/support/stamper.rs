//! Writers whose every write can be recognised afterwards: the input of the order checker.
//!
//! Several threads write stamped granules with `O_DIRECT` to one or more disks, under one clock and one counter.
//! A lock per granule keeps writes of a granule apart in time; locks are taken in rising order.

use super::content::{Aligned, open_direct};
use super::order::{self, GRANULE, Write};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Log entries of one writer: 48 bytes each, so 192 MiB; four times what two minutes at full speed need.
const MAX_LOGGED: usize = 4 << 20;

/// Where the writes go.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// Anywhere on the disk.
    Uniform,
    /// Only the first granules, over and over.
    Hot(u64),
}

/// How the writers behave.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Writers per disk: the queue depth.
    pub writers: u32,
    /// Writes per second of all writers together; `None` for as fast as it goes.
    pub rate: Option<u32>,
    pub pattern: Pattern,
    /// Each write has 1 to this many granules.
    pub max_granules: u32,
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { writers: 4, rate: Some(2000), pattern: Pattern::Uniform, max_granules: 8, seed: 1 }
    }
}

/// Running writers. Dropping it stops them.
#[derive(Debug)]
pub struct Stamper {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Result<Vec<Write>>>>,
    started: SystemTime,
}

/// When the writers started, on the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: SystemTime,
}

impl Clock {
    /// A time of the wall clock on the clock of the log; 0 for before the start.
    pub fn at(&self, time: SystemTime) -> u64 {
        let since = time.duration_since(self.started).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    epoch: Instant,
    stop: AtomicBool,
    sequence: AtomicU64,
    slots: AtomicU64,
    completed: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One disk with its locks; shared by its writers.
#[derive(Debug)]
struct Target {
    file: File,
    path: PathBuf,
    disk: u32,
    locks: Vec<Mutex<()>>,
}

impl Stamper {
    /// Starts writing to `disks`, which must be empty (zeroes) and are used in whole granules.
    pub fn start(disks: &[impl AsRef<Path>], plan: Plan) -> Result<Self> {
        ensure!(
            plan.max_granules > 0 && plan.writers > 0,
            "a plan needs at least one writer and one granule"
        );
        let shared = Arc::new(Shared {
            plan,
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
            sequence: AtomicU64::new(1),
            slots: AtomicU64::new(0),
            completed: AtomicU64::new(0),
        });
        let mut stamper = Self { shared, writers: Vec::new(), started: SystemTime::now() };
        for (disk, path) in (0..).zip(disks) {
            let target = Arc::new(Target::open(path.as_ref(), disk, &plan)?);
            for writer in 0..plan.writers {
                let (shared, target) = (Arc::clone(&stamper.shared), Arc::clone(&target));
                let number = disk * plan.writers + writer;
                stamper.writers.push(std::thread::spawn(move || Writer::new(&shared, &target, number).run()));
            }
        }
        Ok(stamper)
    }

    /// Now, on the clock of the log.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Turns times of the wall clock into times of the log, also after the writers have stopped.
    pub fn clock(&self) -> Clock {
        Clock { started: self.started }
    }

    /// Writes completed so far.
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes have completed.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.completed() + more;
        while self.completed() < goal {
            ensure!(!self.writers.iter().all(JoinHandle::is_finished), "all writers have ended");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Stops the writers, lets writes in flight complete, and returns the log.
    pub fn stop(mut self) -> Result<Vec<Write>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut log = Vec::new();
        for writer in self.writers.drain(..) {
            log.extend(writer.join().map_err(|_| anyhow::anyhow!("a stamping writer panicked"))??);
        }
        Ok(log)
    }
}

impl Drop for Stamper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            drop(writer.join());
        }
    }
}

impl Target {
    fn open(path: &Path, disk: u32, plan: &Plan) -> Result<Self> {
        let file = open_direct(path)?;
        let bytes = super::device_bytes(&file).with_context(|| format!("{}: size", path.display()))?;
        let all = bytes / GRANULE as u64;
        let used = match plan.pattern {
            Pattern::Uniform => all,
            Pattern::Hot(granules) => granules.min(all),
        };
        ensure!(
            used >= u64::from(plan.max_granules),
            "{}: {used} granules are fewer than one write",
            path.display()
        );
        let locks = (0..used).map(|_| Mutex::new(())).collect();
        Ok(Self { file, path: path.to_owned(), disk, locks })
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    target: &'a Target,
    number: u32,
    random: Random,
    buffer: Aligned,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, target: &'a Target, number: u32) -> Self {
        let buffer = Aligned::new(shared.plan.max_granules as usize * GRANULE);
        let random = Random(shared.plan.seed.wrapping_add(u64::from(number) << 32));
        Self { shared, target, number, random, buffer }
    }

    fn run(mut self) -> Result<Vec<Write>> {
        let mut log = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            ensure!(log.len() < MAX_LOGGED, "the log of a stamping writer is full: use a lower rate");
            self.wait_for_slot();
            log.push(self.write_once()?);
            self.shared.completed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(log)
    }

    /// Keeps the rate; all writers draw from one row of slots.
    fn wait_for_slot(&self) {
        let Some(rate) = self.shared.plan.rate else { return };
        let slot = self.shared.slots.fetch_add(1, Ordering::Relaxed);
        let due = Duration::from_secs_f64(slot as f64 / f64::from(rate));
        while let Some(left) = due.checked_sub(self.shared.epoch.elapsed()) {
            if left.is_zero() || self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn write_once(&mut self) -> Result<Write> {
        let granules = 1 + self.random.below(u64::from(self.shared.plan.max_granules));
        let granule = self.random.below(self.target.locks.len() as u64 - granules + 1);
        let range = usize::try_from(granule)?..usize::try_from(granule + granules)?;
        let held: Vec<_> = self.target.locks[range]
            .iter()
            .map(|l| l.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed);
        let block = &mut self.buffer.bytes()[..usize::try_from(granules)? * GRANULE];
        order::fill(block, self.target.disk, granule, self.number, sequence);
        let issued = self.shared.now();
        self.target
            .file
            .write_all_at(block, granule * GRANULE as u64)
            .with_context(|| format!("{}: stamped write at granule {granule}", self.target.path.display()))?;
        let completed = self.shared.now();
        drop(held);
        Ok(Write {
            sequence,
            writer: self.number,
            disk: self.target.disk,
            granule,
            granules: u32::try_from(granules)?,
            issued,
            completed,
        })
    }
}

/// SplitMix64: the same writes for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }
}
