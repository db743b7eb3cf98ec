//! The audit: do the programs' counts add up against the kernel's own?
//!
//! Every changing request enters the in-flight table at issue and is settled at completion. For each class, what the
//! kernel has accounted minus what was settled is constant as long as no issue is lost: the *deficit* against the
//! baseline is 0. A lost completion makes the deficit positive until its key is used again (safe: nothing is proven
//! meanwhile); a lost issue makes it positive for ever; an event counted twice makes it negative.
//!
//! A sample qualifies if nothing moved while it was taken: the programs' counts are the same before and after, and so
//! is the kernel's account. Two things can still hide in it. A request that is completed but not yet accounted (or
//! the other way round for bio-based disks) shifts the deficit by its size and could cancel a loss of the same size.
//! A request on its way from "in flight" to settled is in the table but not in the kernel's in-flight count, and
//! could stand in for one whose issue was lost and which is still in flight. Both states last about a microsecond
//! and have to recur together with the loss in every sample, so a proof asks for [`AGREEING`] samples, a good
//! while apart. The loss itself does not go away: it is found by the next proof at the latest.

use crate::model::tracking::{AGREEING, Accounting, Baseline, PerClass, Reporting, Sample, Spaced, Witness};
use blxrep_ebpf::class;

/// Samples that one proof may take: at 60,000 writes/s about one in four qualifies; on a busier disk none may, and then
/// the point is not `quiet`.
pub const MAX_ATTEMPTS: u32 = 500;
/// Nanoseconds that one proof may take.
pub const MAX_PROOF_NS: u64 = 200_000_000;

const CLASS_NAMES: [&str; class::COUNT] = ["write", "discard"];

/// What an audit has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No issue was lost.
    Proven,
    /// The issue witness may have missed something; the completion witness did not, or it is not known yet. The point is
    /// not `quiet`, and says why.
    Unproven(String),
    /// A change that neither witness saw, or that could not be recorded: coverage is lost.
    Gap(String),
}

/// A shortfall that was measured with nothing in flight: lost issues that were seen at completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    offset: PerClass,
    orphan_requests: u64,
    orphan_sectors: PerClass,
}

/// The audit of one disk from one publication to the next.
#[derive(Clone, Debug)]
pub struct Audit {
    baseline: Baseline,
    reporting: Reporting,
    shortfall: Option<Shortfall>,
    changed: bool,
}

impl Audit {
    #[must_use]
    pub fn new(baseline: Baseline, reporting: Reporting) -> Self {
        Self { baseline, reporting, shortfall: None, changed: false }
    }

    /// The baseline as it is now, to be stored in the record.
    #[must_use]
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// Whether the baseline changed since the last call: then it must be stored.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The classes that the kernel does not account for this disk.
    #[must_use]
    pub fn not_audited(&self) -> Vec<&'static str> {
        let not = |c: &usize| self.baseline.accounting[*c] == Accounting::NotAccounted;
        (0..class::COUNT).filter(not).map(|c| CLASS_NAMES[c]).collect()
    }

    /// The point that was formed with the last verdict is published: a shortfall measured for it is written off.
    pub fn published(&mut self) {
        if let Some(shortfall) = self.shortfall.take() {
            self.baseline.offset = shortfall.offset;
            self.baseline.orphan_requests = shortfall.orphan_requests;
            self.baseline.orphan_sectors = shortfall.orphan_sectors;
            self.changed = true;
        }
    }

    /// The point was abandoned: its shortfall stays, or a lost issue would be forgotten that no point has healed.
    pub fn abandoned(&mut self) {
        self.shortfall = None;
    }

    /// Kernel's sectors minus settled ones, against the baseline.
    fn deficit(&self, sample: &Sample, c: usize) -> i64 {
        sample.offset(c).wrapping_sub(self.baseline.offset[c]).cast_signed()
    }

    /// What no sample can make good: requests that were not recorded, a disk of another size.
    fn unrecorded(&self, sample: &Sample) -> Option<String> {
        let (now, then) = (&sample.after, &self.baseline);
        let lost = [
            (now.unlocatable, then.unlocatable, "passthrough commands that carry no range"),
            (now.table_full, then.table_full, "requests that found the in-flight table full"),
            (now.beyond_end, then.beyond_end, "requests beyond the size the disk had when tracking began"),
        ];
        for (now, then, what) in lost {
            if now != then {
                return Some(format!("{} {what}", now.wrapping_sub(then)));
            }
        }
        (sample.disk_bytes != then.disk_bytes)
            .then(|| format!("the disk was resized from {} to {} bytes", then.disk_bytes, sample.disk_bytes))
    }
}

/// One attempt at a verdict: samples are offered until one comes out.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    attempts: u32,
    started: Option<u64>,
    agreeing: Spaced<()>,
    idle: Spaced<(Witness, PerClass)>,
    unaccounted: [Spaced<u64>; class::COUNT],
    closest: Option<String>,
}

impl Proof {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges one more sample. `None` asks for another.
    pub fn offer(&mut self, audit: &mut Audit, sample: &Sample) -> Option<Verdict> {
        if let Some(lost) = audit.unrecorded(sample) {
            return Some(Verdict::Gap(lost));
        }
        self.attempts += 1;
        let started = *self.started.get_or_insert(sample.at);
        if sample.stood_still() {
            self.learn(audit, sample);
        }
        if sample.qualifies()
            && let Some(verdict) = self.judge(audit, sample)
        {
            return Some(verdict);
        }
        let over = self.attempts >= MAX_ATTEMPTS || sample.at.saturating_sub(started) >= MAX_PROOF_NS;
        over.then(|| {
            Verdict::Unproven(self.closest.take().unwrap_or_else(|| "the disk never stood still".into()))
        })
    }

    fn judge(&mut self, audit: &mut Audit, sample: &Sample) -> Option<Verdict> {
        if let Some(reason) = Self::disagreement(audit, sample) {
            self.closest = Some(reason);
            return self.settle_idle(audit, sample);
        }
        (self.agreeing.count(sample.at, ()) >= AGREEING).then_some(Verdict::Proven)
    }

    /// Why the issue witness does not add up in this sample.
    fn disagreement(audit: &Audit, sample: &Sample) -> Option<String> {
        if audit.baseline.accounting[class::WRITE] == Accounting::NotAccounted {
            return Some("the kernel does not account writes of this disk (see queue/iostats)".into());
        }
        let orphans = sample.after.orphan_requests.wrapping_sub(audit.baseline.orphan_requests);
        if audit.reporting == Reporting::Requests && orphans != 0 {
            return Some(format!("{orphans} writes were seen at completion only"));
        }
        (0..class::COUNT).find_map(|c| {
            let deficit = audit.deficit(sample, c);
            let audited = audit.baseline.accounting[c] == Accounting::Accounted;
            (audited && deficit != 0)
                .then(|| format!("{} sectors: the kernel's count differs by {deficit}", CLASS_NAMES[c]))
        })
    }

    /// With nothing in flight, [`AGREEING`] times over the same, a difference is a fact: too little settled is a lost
    /// issue, too much is slack in which a later loss could hide.
    fn settle_idle(&mut self, audit: &mut Audit, sample: &Sample) -> Option<Verdict> {
        if !sample.idle() {
            self.idle = Spaced::default();
            return None;
        }
        if self.idle.count(sample.at, (sample.after, sample.stat[1].sectors)) < AGREEING {
            return None;
        }
        let mut written_off = Shortfall {
            offset: audit.baseline.offset,
            orphan_requests: sample.after.orphan_requests,
            orphan_sectors: sample.after.orphan_sectors,
        };
        let mut healed = 0;
        for (c, name) in CLASS_NAMES.iter().enumerate() {
            let deficit = audit.deficit(sample, c);
            if audit.baseline.accounting[c] == Accounting::NotAccounted {
                continue;
            }
            if deficit < 0 {
                audit.baseline.offset[c] = sample.offset(c);
                audit.changed = true;
            } else if deficit > 0 {
                let seen = match audit.reporting {
                    Reporting::Requests => {
                        sample.after.orphan_sectors[c].wrapping_sub(audit.baseline.orphan_sectors[c])
                    }
                    Reporting::Bios => 0,
                };
                let missing = deficit.unsigned_abs();
                if missing > seen {
                    let unseen = missing - seen;
                    return Some(Verdict::Gap(format!("{unseen} {name} sectors were seen at neither hook")));
                }
                healed += missing;
            }
            written_off.offset[c] = sample.offset(c);
        }
        self.idle = Spaced::default();
        if healed == 0 && sample.after.orphan_requests == audit.baseline.orphan_requests {
            return None;
        }
        audit.shortfall = Some(written_off);
        Some(Verdict::Unproven(format!("{healed} sectors were seen at completion only")))
    }

    /// A class whose sectors settle while the kernel's count has never moved is not accounted; one whose count moves
    /// again is.
    fn learn(&mut self, audit: &mut Audit, sample: &Sample) {
        for c in 0..class::COUNT {
            let moved = sample.stat[1].sectors[c] != audit.baseline.stat_sectors[c];
            let learned = match audit.baseline.accounting[c] {
                Accounting::Accounted if !moved && audit.deficit(sample, c) < 0 && sample.idle() => {
                    let settled = sample.after.settled_sectors[c];
                    (self.unaccounted[c].count(sample.at, settled) >= AGREEING)
                        .then_some(Accounting::NotAccounted)
                }
                Accounting::NotAccounted if moved => Some(Accounting::Accounted),
                _ => None,
            };
            if let Some(learned) = learned {
                audit.baseline.accounting[c] = learned;
                audit.changed = true;
            }
        }
    }
}
