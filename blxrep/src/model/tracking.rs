//! What tracking knows of a disk: one look at the two witnesses, the baseline they are judged against, and the record
//! that is pinned with the maps.

use super::ids::{DiskIdentity, Epoch, PointId};
use super::units::GranuleSize;
use blxrep_ebpf::class;

/// Sectors per class that the kernel accounts separately; indexes are `blxrep_ebpf::class`.
pub type PerClass = [u64; class::COUNT];

/// How a disk reports its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// blk-mq: every completion carries the address of its issue.
    Requests,
    /// Bio-based: pieces of a split bio complete under addresses of their own, so a completion without an issue means
    /// nothing.
    Bios,
}

/// What the programs have counted, as one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    pub entered_requests: u64,
    pub entered_sectors: PerClass,
    pub settled_requests: u64,
    pub settled_sectors: PerClass,
    pub orphan_requests: u64,
    pub orphan_sectors: PerClass,
    pub leftovers: u64,
    pub requeues: u64,
    pub unlocatable: u64,
    pub table_full: u64,
    pub beyond_end: u64,
}

impl Witness {
    /// Requests in the in-flight table. (Settled may be read ahead of entered by a moment.)
    #[must_use]
    pub fn in_table(&self) -> u64 {
        self.entered_requests.saturating_sub(self.settled_requests)
    }
}

/// The kernel's own account, from `/sys/block/<disk>/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStat {
    /// Requests: writes (flushes included), discards.
    pub requests: PerClass,
    /// Their sectors.
    pub sectors: PerClass,
}

/// One look at both witnesses: `before`, `stat[0]`, `inflight`, `stat[1]`, `after`, read in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of a monotonic clock.
    pub at: u64,
    pub before: Witness,
    pub stat: [KernelStat; 2],
    /// Changing requests that the kernel has in flight.
    pub inflight: u64,
    pub after: Witness,
    /// The size of the disk now.
    pub disk_bytes: u64,
}

impl Sample {
    /// Whether nothing moved while the sample was taken.
    #[must_use]
    pub fn stood_still(&self) -> bool {
        self.before == self.after && self.stat[0] == self.stat[1]
    }

    /// Whether nothing moved and the table holds at least what the kernel has in flight.
    #[must_use]
    pub fn qualifies(&self) -> bool {
        self.stood_still() && self.before.in_table() >= self.inflight
    }

    /// Whether nothing moved and nothing is in flight, by both witnesses.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.stood_still() && self.inflight == 0 && self.before.in_table() == 0
    }

    /// The kernel's sectors of a class minus the settled ones (wrapping).
    #[must_use]
    pub fn offset(&self, class: usize) -> u64 {
        self.stat[1].sectors[class].wrapping_sub(self.after.settled_sectors[class])
    }
}

/// Samples that must agree, see above. Three independent coincidences of a microsecond each within a millisecond are
/// rarer than an undetected bit flip in memory.
pub const AGREEING: u32 = 3;
/// Least distance between two agreeing samples: many times what a request takes from completed to accounted.
pub const SPACING_NS: u64 = 300_000;
/// Whether the kernel accounts a class of requests for this disk at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accounting {
    #[default]
    Accounted,
    /// Learned: sectors settled while the kernel's count never moved.
    NotAccounted,
}

/// Against what a sample is judged. Pinned, so that what happens while the agent is down is audited too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Kernel's sectors minus settled sectors (wrapping) at an instant when the witnesses agreed.
    pub offset: PerClass,
    /// Kernel's sectors at that instant.
    pub stat_sectors: PerClass,
    pub orphan_requests: u64,
    pub orphan_sectors: PerClass,
    pub unlocatable: u64,
    pub table_full: u64,
    pub beyond_end: u64,
    pub accounting: [Accounting; class::COUNT],
    pub disk_bytes: u64,
}

/// Finds the baseline at a fresh attach: the offset that [`AGREEING`] samples agree on.
#[derive(Clone, Debug, Default)]
pub struct BaselineSearch {
    seen: Spaced<PerClass>,
}

impl BaselineSearch {
    /// `None` asks for another sample.
    pub fn offer(&mut self, sample: &Sample) -> Option<Baseline> {
        if !sample.qualifies() {
            return None;
        }
        let offsets = [sample.offset(class::WRITE), sample.offset(class::DISCARD)];
        (self.seen.count(sample.at, offsets) >= AGREEING).then(|| Baseline {
            offset: offsets,
            stat_sectors: sample.stat[1].sectors,
            orphan_requests: sample.after.orphan_requests,
            orphan_sectors: sample.after.orphan_sectors,
            unlocatable: sample.after.unlocatable,
            table_full: sample.after.table_full,
            beyond_end: sample.after.beyond_end,
            accounting: [Accounting::Accounted; class::COUNT],
            disk_bytes: sample.disk_bytes,
        })
    }
}

/// Counts samples that say the same, at least [`SPACING_NS`] apart; one that says something else starts again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spaced<T> {
    last: Option<(u64, T)>,
    count: u32,
}

impl<T: PartialEq> Spaced<T> {
    pub fn count(&mut self, at: u64, what: T) -> u32 {
        match &self.last {
            Some((last, same)) if *same == what => {
                if at.saturating_sub(*last) >= SPACING_NS {
                    self.count += 1;
                    self.last = Some((at, what));
                }
            }
            _ => {
                self.count = 1;
                self.last = Some((at, what));
            }
        }
        self.count
    }
}

/// Pinned with the maps of a disk: what the maps mean, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    pub epoch: Epoch,
    pub identity: DiskIdentity,
    pub device: (u32, u32),
    pub disk_bytes: u64,
    pub granule: GranuleSize,
    pub boot_id: String,
    pub diskseq: Option<u64>,
    pub baseline: Baseline,
    /// The newest point that the dispatcher acknowledged under this epoch.
    pub acknowledged: Option<PointId>,
    /// The point that is being sent.
    pub open: Option<PointId>,
    /// Words that the agent may use as it likes.
    pub agent_words: [u64; AGENT_WORDS],
}

/// Free words in an [`EpochRecord`].
pub const AGENT_WORDS: usize = 8;
