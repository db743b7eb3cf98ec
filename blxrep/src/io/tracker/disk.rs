//! A handle to the maps of one tracked disk.

use super::TrackerError;
use super::inflight::{Entry, Inflight, Table};
use super::maps::Words;
use super::object::{self, Hooks};
use super::stat::StatFiles;
use super::store::RecordStore;
use crate::model::bitmap::Bitmap;
use crate::model::granules::GranuleSet;
use crate::model::tracking::{EpochRecord, KernelStat, PerClass, Reporting, Sample, Witness};
use crate::model::units::GranuleSize;
use blxrep_ebpf::{Counters, DiskSlot, class, meta};
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an entry must have been in the table, with the kernel's in-flight count at 0, before it is called stale.
/// A request is in the table for some microseconds before the kernel counts it, and one that was requeued for as long
/// as the driver is busy; this is a thousand times as long.
pub const STALE_AFTER: Duration = Duration::from_millis(100);

/// The same for an entry that was requeued: its driver may keep it back for as long as a path is down.
pub const STALE_REQUEUED_AFTER: Duration = Duration::from_secs(60);

/// Maps that all disks share.
#[derive(Debug)]
pub struct Shared {
    pub slots: Words,
    pub table: Words,
    pub control: Words,
    pub programs: Vec<OwnedFd>,
    /// Zero of the clock in samples.
    pub started: Instant,
}

/// One [`DiskSlot`] in the shared map.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    words: &'a [std::sync::atomic::AtomicU64],
}

/// Word of a field of [`Counters`], which come first in a slot.
macro_rules! at {
    ($field:ident) => {
        offset_of!(Counters, $field) / 8
    };
}

impl<'a> Slot<'a> {
    pub fn new(shared: &'a Shared, slot: u32) -> Self {
        const WORDS: usize = size_of::<DiskSlot>() / 8;
        let start = slot as usize * WORDS;
        Self { words: &shared.slots.get()[start..start + WORDS] }
    }

    fn load(self, word: usize) -> u64 {
        self.words[word].load(Ordering::SeqCst)
    }

    fn per_class(self, word: usize) -> PerClass {
        [self.load(word + class::WRITE), self.load(word + class::DISCARD)]
    }

    /// Tells the programs the disk's geometry and forgets what a former disk in this slot has counted.
    pub fn reset(self, granule: GranuleSize, granules: u32) {
        self.words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        self.words[offset_of!(DiskSlot, shift) / 8]
            .store(u64::from(granule.sector_shift()), Ordering::SeqCst);
        self.words[offset_of!(DiskSlot, granules) / 8].store(u64::from(granules), Ordering::SeqCst);
    }

    /// Reads of sector 0 seen at issue and at completion while a canary was out.
    pub fn canaries(self) -> (u64, u64) {
        (self.load(at!(canary_issue)), self.load(at!(canary_complete)))
    }

    /// Settled is read first: the table never seems to hold less than it does.
    fn witness(self) -> Witness {
        Witness {
            settled_requests: self.load(at!(settled_requests)),
            settled_sectors: self.per_class(at!(settled_sectors)),
            entered_requests: self.load(at!(entered_requests)),
            entered_sectors: self.per_class(at!(entered_sectors)),
            orphan_requests: self.load(at!(orphan_requests)),
            orphan_sectors: self.per_class(at!(orphan_sectors)),
            leftovers: self.load(at!(leftovers)),
            requeues: self.load(at!(requeues)),
            unlocatable: self.load(at!(unlocatable)),
            table_full: self.load(at!(table_full)),
            beyond_end: self.load(at!(beyond_end)),
        }
    }

    fn add(self, word: usize, value: u64) {
        self.words[word].fetch_add(value, Ordering::SeqCst);
    }
}

/// One look at both witnesses; `Sample` says in which order.
pub fn sample(files: &StatFiles, slot: &Slot<'_>, clock: Instant) -> io::Result<Sample> {
    let disk_bytes = files.bytes()?;
    let before = slot.witness();
    let first = files.stat()?;
    let inflight = files.inflight()?;
    let second = files.stat()?;
    let after = slot.witness();
    let at = u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { at, before, stat: [first, second], inflight, after, disk_bytes })
}

/// One tracked disk. Every method is a few atomic reads, or a pass over a map.
#[derive(Debug)]
pub struct DiskTracker {
    pub(super) slot: u32,
    pub(super) granule: GranuleSize,
    pub(super) granules: u32,
    pub(super) reporting: Reporting,
    pub(super) shared: Arc<Shared>,
    pub(super) hooks: Hooks,
    pub(super) issued: Words,
    pub(super) completed: Words,
    pub(super) pending: Words,
    pub(super) files: StatFiles,
    pub(super) record: RecordStore,
    pub(super) suspects: Mutex<Option<(Instant, Vec<Entry>)>>,
}

impl DiskTracker {
    #[must_use]
    pub fn granule(&self) -> GranuleSize {
        self.granule
    }

    #[must_use]
    pub fn granules(&self) -> u32 {
        self.granules
    }

    /// Size of the disk when tracking began; a sample has the size now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.record.get().disk_bytes
    }

    #[must_use]
    pub fn reporting(&self) -> Reporting {
        self.reporting
    }

    /// Set by the programs when a changing request is issued.
    #[must_use]
    pub fn issued(&self) -> Bitmap<'_> {
        self.bitmap(&self.issued)
    }

    /// Set by the programs when it completes.
    #[must_use]
    pub fn completed(&self) -> Bitmap<'_> {
        self.bitmap(&self.completed)
    }

    /// Swept, but not yet durable at the dispatcher. Written by user space alone.
    #[must_use]
    pub fn pending(&self) -> Bitmap<'_> {
        self.bitmap(&self.pending)
    }

    #[expect(clippy::expect_used, reason = "each was mapped with the words that this many granules need")]
    fn bitmap<'a>(&self, words: &'a Words) -> Bitmap<'a> {
        Bitmap::new(words.get(), self.granules).expect("a bitmap is mapped whole")
    }

    /// What is in flight now: one pass over the table.
    #[must_use]
    pub fn inflight(&self) -> Inflight {
        Table(self.shared.table.get()).walk(self.slot, self.granule, self.granules)
    }

    /// Whether the hooks that mark in these maps are attached still: somebody may have removed their pins. Cheap.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.hooks.are_attached()
    }

    /// What the programs have counted.
    #[must_use]
    pub fn counters(&self) -> Witness {
        self.counts().witness()
    }

    /// The kernel's own account.
    pub fn kernel_stat(&self) -> io::Result<KernelStat> {
        self.files.stat()
    }

    /// One look at both witnesses, in microseconds. Fails when the disk is gone.
    pub fn audit_sample(&self) -> io::Result<Sample> {
        sample(&self.files, &self.counts(), self.shared.started)
    }

    /// Retires entries whose completion was lost and whose key has not been used again. To be called at every audit;
    /// needs two calls at least [`STALE_AFTER`] apart between which nothing was in flight. Returns how many were
    /// retired.
    ///
    /// Each is marked completed before it is taken out, so a request that was alive after all loses nothing.
    pub fn retire_stale(&self) -> io::Result<usize> {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = self.audit_sample()?;
        let now = Table(self.shared.table.get()).entries(self.slot);
        if !sample.stood_still() || sample.inflight != 0 || now.is_empty() {
            *suspects = None;
            return Ok(0);
        }
        let since = match suspects.as_ref() {
            Some((since, then)) if *then == now => *since,
            _ => {
                *suspects = Some((Instant::now(), now));
                return Ok(0);
            }
        };
        let age = since.elapsed();
        let limit = |entry: &&Entry| match entry.meta & meta::REQUEUED {
            0 => age >= STALE_AFTER,
            _ => age >= STALE_REQUEUED_AFTER,
        };
        let retired = now.iter().filter(limit).filter(|entry| self.retire(entry)).count();
        if retired > 0 {
            *suspects = None;
        }
        Ok(retired)
    }

    fn retire(&self, entry: &Entry) -> bool {
        let mut range = GranuleSet::new();
        range.insert_range(entry.granules(self.granule));
        self.completed().mark(&range);
        let taken = Table(self.shared.table.get()).take(entry);
        if taken && entry.is_request() {
            let slot = self.counts();
            slot.add(at!(leftovers), 1);
            slot.add(at!(settled_sectors) + entry.class(), meta::sectors(entry.meta));
            slot.add(at!(settled_requests), 1);
        }
        taken
    }

    /// Events that the kernel skipped because a program was already running on that CPU, of all disks.
    pub fn recursion_misses(&self) -> Result<u64, TrackerError> {
        object::recursion_misses(&self.shared.programs)
    }

    /// The record as it is pinned.
    #[must_use]
    pub fn record(&self) -> EpochRecord {
        self.record.get()
    }

    /// Replaces the pinned record; a SIGKILL meanwhile leaves the old one.
    pub fn store_record(&self, record: &EpochRecord) -> Result<(), TrackerError> {
        self.record.replace(record)
    }

    fn counts(&self) -> Slot<'_> {
        Slot::new(&self.shared, self.slot)
    }
}
