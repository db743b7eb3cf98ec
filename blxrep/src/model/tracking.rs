//! What tracking knows of a disk: one look at the two witnesses, the baseline they are judged against, and the record
//! that is pinned with the maps.

use super::ids::{DiskIdentity, Epoch, PointId};
use super::units::GranuleSize;
use blxrep_ebpf::class;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// Finds the baseline under which programs that take a disk over go on with the account of those before them: what
/// the old ones have lost, and no audit has found yet, is found by the next one all the same.
#[derive(Clone, Debug, Default)]
pub struct HandoverSearch {
    seen: Spaced<Baseline>,
}

impl HandoverSearch {
    /// `former` is what the old programs had counted before and after the sample of the new ones was taken, and `old`
    /// their baseline. `None` asks for another sample.
    ///
    /// Only an instant at which nothing moves and both have as many requests in flight will do: a request that one of
    /// them had seen issued and the other not would be settled by one of them alone.
    pub fn offer(&mut self, old: &Baseline, former: [Witness; 2], sample: &Sample) -> Option<Baseline> {
        let [before, after] = former;
        if !sample.qualifies() || before != after || after.in_table() != sample.after.in_table() {
            return None;
        }
        let baseline = continued(old, &after, &sample.after);
        (self.seen.count(sample.at, baseline) >= AGREEING).then_some(baseline)
    }
}

/// `old` in the counts of other programs, which have counted `now` when the old ones had counted `then`: every
/// difference against it stays what it was.
fn continued(old: &Baseline, then: &Witness, now: &Witness) -> Baseline {
    let moved = |base: u64, then: u64, now: u64| now.wrapping_sub(then.wrapping_sub(base));
    let per_class = |base: &PerClass, then: &PerClass, now: &PerClass| {
        std::array::from_fn(|c| moved(base[c], then[c], now[c]))
    };
    Baseline {
        // The kernel's sectors minus the settled ones: the settled ones begin anew.
        offset: std::array::from_fn(|c| {
            old.offset[c].wrapping_add(then.settled_sectors[c]).wrapping_sub(now.settled_sectors[c])
        }),
        stat_sectors: old.stat_sectors,
        orphan_requests: moved(old.orphan_requests, then.orphan_requests, now.orphan_requests),
        orphan_sectors: per_class(&old.orphan_sectors, &then.orphan_sectors, &now.orphan_sectors),
        unlocatable: moved(old.unlocatable, then.unlocatable, now.unlocatable),
        table_full: moved(old.table_full, then.table_full, now.table_full),
        beyond_end: moved(old.beyond_end, then.beyond_end, now.beyond_end),
        accounting: old.accounting,
        disk_bytes: old.disk_bytes,
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
    /// Sealed, so that it may be published without anybody here having heard of it.
    pub open: Option<PointId>,
    /// Words that the agent may use as it likes.
    pub agent_words: [u64; AGENT_WORDS],
    /// Why the maps do not know every change since the newest point: coverage was lost, and no point was acknowledged
    /// since.
    pub gap: Option<String>,
    /// The point that the disk was compared with after that: what differed from it is marked.
    pub matched: Option<PointId>,
}

/// An image of a disk that was begun, with every change since still marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imaged {
    /// The point that it becomes.
    pub image: PointId,
    /// How far it may have been sent: `u64::MAX` once anything may have been sent again.
    pub sent: u64,
}

impl Imaged {
    /// How far `image` may have been sent: nothing of one that is another.
    #[must_use]
    pub fn sent_of(imaged: Option<Self>, image: PointId) -> u64 {
        imaged.filter(|known| known.image == image).map_or(0, |known| known.sent)
    }
}

/// Free words in an [`EpochRecord`].
pub const AGENT_WORDS: usize = 8;
/// The one of them that keeps the events that the kernel had skipped when the last proof was made.
pub const SKIPPED_WORD: usize = 0;
/// In it, the point of the image that was begun last.
pub const IMAGE_WORD: usize = 1;
/// In it, how far that image may have been sent: nothing from there on was. `u64::MAX` once anything may have been sent
/// again.
pub const SENT_WORD: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        Baseline {
            offset: [100, 7],
            stat_sectors: [5000, 70],
            orphan_requests: 2,
            orphan_sectors: [16, 0],
            unlocatable: 1,
            table_full: 0,
            beyond_end: 3,
            accounting: [Accounting::Accounted, Accounting::NotAccounted],
            disk_bytes: 1 << 30,
        }
    }

    /// A sample of new programs that have settled `settled` sectors of writes, with `in_flight` requests.
    fn sample(at: u64, stat: u64, settled: u64, in_flight: u64) -> Sample {
        let witness = Witness {
            entered_requests: 40 + in_flight,
            settled_requests: 40,
            settled_sectors: [settled, 0],
            orphan_requests: 9,
            orphan_sectors: [72, 0],
            ..Witness::default()
        };
        let stat = KernelStat { requests: [0; 2], sectors: [stat, 70] };
        let (stat, disk_bytes) = ([stat; 2], 1 << 30);
        Sample { at, before: witness, stat, inflight: in_flight, after: witness, disk_bytes }
    }

    fn former(settled: u64, in_flight: u64) -> Witness {
        Witness {
            entered_requests: 900 + in_flight,
            settled_requests: 900,
            settled_sectors: [settled, 63],
            orphan_requests: 3,
            orphan_sectors: [24, 0],
            unlocatable: 1,
            beyond_end: 3,
            ..Witness::default()
        }
    }

    #[test]
    fn a_handover_keeps_every_difference_that_the_old_audit_would_have_found() {
        let (old, then) = (baseline(), former(8_000, 2));
        // The kernel says 8 sectors more than were settled: a loss that no audit has seen yet.
        let (stat, mut search, mut found) = (8_000 + 100 + 8, HandoverSearch::default(), None);
        for turn in 0..u64::from(AGREEING) {
            assert_eq!(found, None);
            found = search.offer(&old, [then, then], &sample(turn * SPACING_NS, stat, 300, 2));
        }
        let new = found.unwrap();
        let deficit = |offset: u64, stat: u64, settled: u64| stat.wrapping_sub(settled).wrapping_sub(offset);
        assert_eq!(deficit(new.offset[0], stat, 300), deficit(old.offset[0], stat, 8_000));
        assert_eq!(deficit(new.offset[0], stat, 300), 8);
        // One completion without an issue since the old baseline stays one, whatever both have counted.
        assert_eq!(9u64.wrapping_sub(new.orphan_requests), then.orphan_requests - old.orphan_requests);
        assert_eq!(0u64.wrapping_sub(new.unlocatable), 0, "none was new");
        assert_eq!((new.stat_sectors, new.accounting), (old.stat_sectors, old.accounting));
    }

    #[test]
    fn a_handover_waits_until_both_have_the_same_in_flight_and_nothing_moves() {
        let old = baseline();
        let take = |former: [Witness; 2], change: fn(&mut Sample)| {
            let mut search = HandoverSearch::default();
            (0..10).find_map(|turn| {
                let mut sample = sample(turn * SPACING_NS, 9_000, 300, 1);
                change(&mut sample);
                search.offer(&old, former, &sample)
            })
        };
        let then = former(8_000, 1);
        assert!(take([then, then], |_| {}).is_some());
        assert!(take([former(8_000, 2); 2], |_| {}).is_none(), "issued before the new programs were there");
        assert!(take([then, former(8_008, 1)], |_| {}).is_none(), "something completed meanwhile");
        assert!(take([then, then], |s| s.after.settled_sectors[0] += 8).is_none());
        assert!(take([then, then], |s| s.inflight = 2).is_none(), "the kernel has more in flight");
    }
}
