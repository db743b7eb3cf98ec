//! Which points are kept, which go, why, and what has to be done for that. Pure.
//!
//! Spans count back from the newest point of the agent, not from the clock: what nobody adds to does not thin out, and a
//! clock that jumps ahead deletes nothing. Of the points of a minute, hour, day or week one is kept: a proven one before
//! a fuzzy one, then one that more disks of the agent share, then the oldest. As weeks hold whole days, and those whole
//! hours, the point that a week keeps is the one that its day and hour kept, and disks that share their cuts keep the same
//! ones.

use crate::model::ids::{CutId, DiskId, GenerationId, PointId};
use crate::model::retention::{Retention, Step};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

/// Deltas that are merged at a time: their indexes are in memory together.
pub const MERGE_AT_ONCE: usize = 256;
/// From the epoch, a Thursday, back to a Monday.
const MONDAY: i64 = 3 * 86_400;

/// What a plan goes by, of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub point: PointId,
    pub disk: DiskId,
    pub generation: GenerationId,
    pub sequence: u64,
    /// Position among the points of the disk, in the order of publication: clocks may be set back.
    pub number: u64,
    pub cut: CutId,
    /// By the dispatcher's clock; the same for all points of a cut.
    pub published: Timestamp,
    pub is_base: bool,
    pub is_fuzzy: bool,
    /// A view of it is open.
    pub is_viewed: bool,
    /// A restore that has not ended needs it.
    pub is_restored: bool,
    /// Bytes that its files take.
    pub stored: u64,
    /// Bytes of the disk that it holds.
    pub held: u64,
}

/// Of which span one point is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    Minute,
    Hour,
    Day,
    Week,
}

impl Bucket {
    const ALL: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Week];

    fn of(self, at: Timestamp) -> i64 {
        let second = at.as_second();
        match self {
            Self::Minute => second.div_euclid(60),
            Self::Hour => second.div_euclid(3600),
            Self::Day => second.div_euclid(86_400),
            Self::Week => (second + MONDAY).div_euclid(7 * 86_400),
        }
    }

    const fn span(self, rules: &Retention) -> Duration {
        match self {
            Self::Minute => rules.minutely,
            Self::Hour => rules.hourly,
            Self::Day => rules.daily,
            Self::Week => rules.weekly,
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
        })
    }
}

/// Why a point is kept or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Newest,
    Viewed,
    Restored,
    Recent,
    OneOf(Bucket),
    /// Another point of each of its spans is kept, or it is older than all of them.
    NotNeeded,
    /// Older than points are kept at all.
    Expired,
    /// There are more of the disk than are kept.
    TooMany,
}

impl Reason {
    #[must_use]
    pub const fn keeps(self) -> bool {
        matches!(self, Self::Newest | Self::Viewed | Self::Restored | Self::Recent | Self::OneOf(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest of its disk"),
            Self::Viewed => f.write_str("a view of it is open"),
            Self::Restored => f.write_str("a restore that has not ended needs it"),
            Self::Recent => f.write_str("young enough for all to be kept"),
            Self::OneOf(bucket) => write!(f, "the one of its {bucket}"),
            Self::NotNeeded => f.write_str("others stand for its time"),
            Self::Expired => f.write_str("older than points are kept"),
            Self::TooMany => f.write_str("more than the number that is kept"),
        }
    }
}

/// What becomes of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub point: PointId,
    pub disk: DiskId,
    pub reason: Reason,
    pub stored: u64,
}

/// One step for one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub disk: DiskId,
    pub step: Step,
    /// Bytes of the files that it reads.
    pub bytes: u64,
    /// Bytes that it may take before it gives any back.
    pub room: u64,
}

/// What becomes of the points of one agent, and what is done for that. When all steps are done there may be more to do:
/// then the next plan says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the candidates.
    pub verdicts: Vec<Verdict>,
    pub steps: Vec<Planned>,
}

impl Plan {
    /// Points that go.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.verdicts.iter().filter(|verdict| !verdict.reason.keeps()).count()
    }
}

/// Plans for all points of one agent. No step takes more than `room` bytes before it gives any back.
#[must_use]
pub fn plan(now: Timestamp, rules: &Retention, points: &[Candidate], room: u64) -> Plan {
    let reasons = judge(now, rules, points);
    let verdict = |(point, reason): (&Candidate, &Reason)| Verdict {
        point: point.point,
        disk: point.disk,
        reason: *reason,
        stored: point.stored,
    };
    let verdicts = points.iter().zip(&reasons).map(verdict).collect();
    let mut families: BTreeMap<(DiskId, GenerationId), Vec<(Candidate, bool)>> = BTreeMap::new();
    for (point, reason) in points.iter().zip(&reasons) {
        families.entry((point.disk, point.generation)).or_default().push((*point, reason.keeps()));
    }
    let mut steps = Vec::new();
    for family in families.values_mut() {
        family.sort_by_key(|(point, _)| point.sequence);
        steps_of(family, room, &mut steps);
    }
    // What frees space at once comes first.
    steps.sort_by_key(|planned| match planned.step {
        Step::Expire { .. } | Step::Trim { .. } => 0,
        Step::Merge { .. } => 1,
        Step::Fold { .. } => 2,
    });
    Plan { verdicts, steps }
}

fn judge(now: Timestamp, rules: &Retention, points: &[Candidate]) -> Vec<Reason> {
    let reference = points.iter().map(|p| p.published).max().map_or(now, |newest| newest.min(now));
    let newest = newest_of_each(points);
    let buckets = best_of_each(reference, rules, points);
    let mut reasons: Vec<Reason> = points
        .iter()
        .map(|point| {
            let is_expired = rules.delete_after.is_some_and(|after| is_older(now, point.published, after));
            if newest.contains(&point.point) {
                Reason::Newest
            } else if point.is_viewed {
                Reason::Viewed
            } else if point.is_restored {
                Reason::Restored
            } else if is_expired {
                Reason::Expired
            } else if !is_older(reference, point.published, rules.all) {
                Reason::Recent
            } else {
                buckets.get(&point.point).map_or(Reason::NotNeeded, |bucket| Reason::OneOf(*bucket))
            }
        })
        .collect();
    cap(rules.max_points, points, &mut reasons);
    reasons
}

fn is_older(reference: Timestamp, at: Timestamp, span: Duration) -> bool {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    reference.duration_since(at) > span
}

fn newest_of_each(points: &[Candidate]) -> BTreeSet<PointId> {
    let mut newest: BTreeMap<DiskId, &Candidate> = BTreeMap::new();
    for point in points {
        let known = newest.entry(point.disk).or_insert(point);
        if point.number > known.number {
            *known = point;
        }
    }
    newest.values().map(|point| point.point).collect()
}

/// The points that stand for a span, each with its longest one.
fn best_of_each(reference: Timestamp, rules: &Retention, points: &[Candidate]) -> HashMap<PointId, Bucket> {
    let mut cuts: HashMap<CutId, (usize, bool)> = HashMap::new();
    for point in points {
        let cut = cuts.entry(point.cut).or_default();
        *cut = (cut.0 + 1, cut.1 || point.is_fuzzy);
    }
    let rank = |point: &Candidate| {
        let (disks, fuzzy) = cuts.get(&point.cut).copied().unwrap_or_default();
        (fuzzy, std::cmp::Reverse(disks), point.published, point.sequence, point.point)
    };
    let mut kept = HashMap::new();
    for bucket in Bucket::ALL {
        let mut best: HashMap<(DiskId, i64), &Candidate> = HashMap::new();
        let young = |point: &&Candidate| !is_older(reference, point.published, bucket.span(rules));
        for point in points.iter().filter(young) {
            let known = best.entry((point.disk, bucket.of(point.published))).or_insert(point);
            if rank(point) < rank(known) {
                *known = point;
            }
        }
        kept.extend(best.values().map(|point| (point.point, bucket)));
    }
    kept
}

/// Lets the oldest go of those that are kept beyond the number.
fn cap(most: usize, points: &[Candidate], reasons: &mut [Reason]) {
    let mut order: Vec<usize> = (0..points.len()).filter(|i| reasons[*i].keeps()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(points[*i].number));
    let mut counts: HashMap<DiskId, usize> = HashMap::new();
    for i in order {
        let count = counts.entry(points[i].disk).or_default();
        *count += 1;
        if *count > most && !matches!(reasons[i], Reason::Newest | Reason::Viewed | Reason::Restored) {
            reasons[i] = Reason::TooMany;
        }
    }
}

/// The steps for one generation, whose points are given in their order, each with whether it is kept.
fn steps_of(family: &[(Candidate, bool)], room: u64, steps: &mut Vec<Planned>) {
    let Some((first, _)) = family.first() else { return };
    let (disk, generation) = (first.disk, first.generation);
    let mut add = |step: Step, bytes, room| steps.push(Planned { disk, step, bytes, room });
    let Some(last) = family.iter().rposition(|(_, kept)| *kept) else {
        return add(Step::Expire { generation }, 0, 0);
    };
    if !first.is_base {
        // A fold is under way and waits for a view, or cannot be ended: only the end of the generation comes before it.
        return;
    }
    let ids = |part: &[(Candidate, bool)]| part.iter().map(|(point, _)| point.point).collect::<Vec<_>>();
    if last + 1 < family.len() {
        add(Step::Trim { generation, points: ids(&family[last + 1..]) }, 0, 0);
    }
    // Where a run of points that go begins; the base is no delta and is folded.
    let mut start = 1;
    let mut bytes = 0;
    for at in 1..=last {
        let (point, kept) = family[at];
        bytes += point.stored;
        // What is merged is at most as large as its parts, which go after that.
        let goes_on = family.get(at + 1).is_some_and(|(next, _)| bytes + next.stored <= room);
        if !kept && at - start + 1 < MERGE_AT_ONCE && goes_on {
            continue;
        }
        if at > start && bytes <= room {
            let points = ids(&family[start..at]);
            add(Step::Merge { generation, points, into: point.point }, bytes, bytes);
        }
        (start, bytes) = (at + 1, 0);
    }
    if !family[0].1 {
        // If points between the base and the first that is kept go, too, they are merged first; all but one merge
        // before it leave more to be merged, and the base waits for a later plan.
        let next = family[1..=last].iter().position(|(_, kept)| *kept).map_or(last, |at| at + 1);
        let (into, _) = family[next];
        let of = |bytes: fn(&Candidate) -> u64| {
            family[1..=next].iter().map(|(point, _)| bytes(point)).sum::<u64>()
        };
        let is_next = next == 1 || next <= MERGE_AT_ONCE && of(|point| point.stored) <= room;
        // The image has no room yet for what was zero in it.
        let held = of(|point| point.held);
        if is_next && held <= room {
            let step = Step::Fold { generation, base: family[0].0.point, into: into.point };
            add(step, into.stored, held);
        }
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
