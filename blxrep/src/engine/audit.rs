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
        if sample.stood_still()
            && let Some(verdict) = self.learn(audit, sample)
        {
            return Some(verdict);
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
        if self.agreeing.count(sample.at, ()) < AGREEING {
            return None;
        }
        // From here on it is seen whether the kernel goes on accounting.
        if audit.baseline.stat_sectors != sample.stat[1].sectors {
            (audit.baseline.stat_sectors, audit.changed) = (sample.stat[1].sectors, true);
        }
        Some(Verdict::Proven)
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

    /// A class whose sectors settle while the kernel's count has not moved since the last proof is not accounted; one
    /// whose count moves again is. Of writes that nobody counted meanwhile, nobody knows.
    fn learn(&mut self, audit: &mut Audit, sample: &Sample) -> Option<Verdict> {
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
                if (c, learned) == (class::WRITE, Accounting::Accounted) {
                    let reason =
                        "the kernel accounts writes of this disk again: what was missed before is not known";
                    return Some(Verdict::Gap(reason.to_owned()));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tracking::{BaselineSearch, SPACING_NS};
    use proptest::prelude::*;

    const WRITE: usize = class::WRITE;
    const DISCARD: usize = class::DISCARD;

    /// A disk as the kernel and the programs see it. Each event can be lost on its way to the programs.
    #[derive(Clone, Default)]
    struct Disk {
        sample: Sample,
        unaccounted: [bool; 2],
    }

    impl Disk {
        fn issue(&mut self, c: usize, sectors: u64, seen: bool) {
            self.sample.inflight += 1;
            if seen {
                self.sample.after.entered_requests += 1;
                self.sample.after.entered_sectors[c] += sectors;
            }
        }

        fn settle(&mut self, c: usize, sectors: u64) {
            self.sample.after.settled_requests += 1;
            self.sample.after.settled_sectors[c] += sectors;
        }

        fn orphan(&mut self, c: usize, sectors: u64) {
            self.sample.after.orphan_requests += 1;
            self.sample.after.orphan_sectors[c] += sectors;
        }

        fn account(&mut self, c: usize, sectors: u64) {
            self.sample.inflight -= 1;
            if !self.unaccounted[c] {
                self.sample.stat[1].sectors[c] += sectors;
                self.sample.stat[1].requests[c] += 1;
            }
        }

        fn write(&mut self, c: usize, sectors: u64, issue_seen: bool, completion_seen: bool) {
            self.issue(c, sectors, issue_seen);
            match (issue_seen, completion_seen) {
                (true, true) => self.settle(c, sectors),
                (false, true) => self.orphan(c, sectors),
                (_, false) => {}
            }
            self.account(c, sectors);
        }

        /// A sample during which nothing moves, a while after the last.
        fn still(&mut self) -> Sample {
            self.sample.at += SPACING_NS;
            Sample { before: self.sample.after, stat: [self.sample.stat[1]; 2], ..self.sample }
        }

        fn audit(&mut self, reporting: Reporting) -> Audit {
            let mut search = BaselineSearch::default();
            let baseline = (0..10).find_map(|_| search.offer(&self.still()));
            Audit::new(baseline.unwrap(), reporting)
        }

        fn prove(&mut self, audit: &mut Audit) -> Verdict {
            let mut proof = Proof::new();
            (0..=MAX_ATTEMPTS).find_map(|_| proof.offer(audit, &self.still())).unwrap()
        }
    }

    fn unproven(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Unproven(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_both_hooks_saw_is_proven() {
        let mut disk = Disk::default();
        disk.sample.stat[1].sectors = [1_000_000, 5];
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, true, true);
        disk.write(DISCARD, 4096, true, true);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        disk.issue(WRITE, 8, true);
        audit.take_changed();
        assert_eq!(disk.prove(&mut audit), Verdict::Proven, "also with a request in flight");
        assert!(!audit.take_changed());
    }

    #[test]
    fn one_sample_is_not_enough_and_neither_are_three_at_once() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        let (mut proof, sample) = (Proof::new(), disk.still());
        for _ in 0..AGREEING + 5 {
            assert_eq!(proof.offer(&mut audit, &sample), None);
        }
        let later = |by: u64| Sample { at: sample.at + by, ..sample };
        assert_eq!(proof.offer(&mut audit, &later(SPACING_NS)), None);
        assert_eq!(proof.offer(&mut audit, &later(2 * SPACING_NS - 1)), None);
        assert_eq!(proof.offer(&mut audit, &later(2 * SPACING_NS)), Some(Verdict::Proven));
    }

    #[test]
    fn a_sample_during_which_anything_moved_does_not_count() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        let still = disk.still();
        let moved: [fn(&mut Sample); 6] = [
            |s| s.before.entered_requests += 1,
            |s| s.before.settled_sectors[WRITE] += 1,
            |s| s.before.orphan_requests += 1,
            |s| s.stat[0].sectors[DISCARD] += 1,
            |s| s.stat[0].requests[WRITE] += 1,
            |s| s.inflight = 1,
        ];
        for change in moved {
            let mut proof = Proof::new();
            let verdict = (0..=MAX_ATTEMPTS).find_map(|n| {
                let mut sample = Sample { at: still.at + u64::from(n) * SPACING_NS, ..still };
                change(&mut sample);
                proof.offer(&mut audit, &sample)
            });
            unproven(&verdict.unwrap());
        }
    }

    #[test]
    fn a_proof_ends_after_its_attempts_and_after_its_time() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        let busy = |at| Sample { at, inflight: 1, ..Sample::default() };
        let mut proof = Proof::new();
        for _ in 1..MAX_ATTEMPTS {
            assert_eq!(proof.offer(&mut audit, &busy(1)), None);
        }
        assert!(unproven(&proof.offer(&mut audit, &busy(1)).unwrap()).contains("never stood still"));
        let mut proof = Proof::new();
        assert_eq!(proof.offer(&mut audit, &busy(1)), None);
        unproven(&proof.offer(&mut audit, &busy(1 + MAX_PROOF_NS)).unwrap());
    }

    #[test]
    fn a_lost_completion_is_not_proven_until_it_is_settled() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, true, false);
        assert!(unproven(&disk.prove(&mut audit)).contains("differs by 8"));
        disk.settle(WRITE, 8);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
    }

    #[test]
    fn a_lost_issue_in_flight_is_missed_by_the_table() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.issue(WRITE, 8, false);
        unproven(&disk.prove(&mut audit));
    }

    #[test]
    fn a_lost_issue_is_written_off_by_a_published_point_alone() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, false, true);
        assert!(unproven(&disk.prove(&mut audit)).contains("8 sectors were seen at completion only"));
        audit.abandoned();
        audit.published();
        unproven(&disk.prove(&mut audit));
        audit.published();
        assert!(audit.take_changed());
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        disk.write(WRITE, 8, false, true);
        unproven(&disk.prove(&mut audit));
    }

    #[test]
    fn a_lost_issue_is_not_written_off_while_anything_is_in_flight() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, false, true);
        disk.issue(WRITE, 8, true);
        unproven(&disk.prove(&mut audit));
        audit.published();
        assert!(!audit.take_changed());
        unproven(&disk.prove(&mut audit));
    }

    #[test]
    fn a_write_that_neither_hook_saw_is_a_gap() {
        for (c, name) in [(WRITE, "write"), (DISCARD, "discard")] {
            let mut disk = Disk::default();
            let mut audit = disk.audit(Reporting::Requests);
            disk.write(c, 16, false, false);
            disk.write(c, 8, false, true);
            let reason = format!("16 {name} sectors were seen at neither hook");
            assert_eq!(disk.prove(&mut audit), Verdict::Gap(reason));
        }
    }

    #[test]
    fn orphans_of_one_class_do_not_cover_a_gap_in_another() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, false, false);
        disk.write(DISCARD, 8, false, true);
        assert!(matches!(disk.prove(&mut audit), Verdict::Gap(_)));
    }

    #[test]
    fn pieces_of_split_bios_prove_nothing_and_cover_nothing() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Bios);
        disk.orphan(WRITE, 128);
        disk.write(WRITE, 256, true, true);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        disk.write(WRITE, 8, false, true);
        assert!(matches!(disk.prove(&mut audit), Verdict::Gap(_)));
    }

    #[test]
    fn slack_is_taken_away_before_a_loss_can_hide_in_it() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 800, true, true);
        // The event of a requeue was lost: the request entered and settled twice.
        disk.issue(WRITE, 8, true);
        disk.settle(WRITE, 8);
        disk.write(WRITE, 8, true, true);
        disk.sample.inflight -= 1;
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        assert!(audit.take_changed());
        disk.write(WRITE, 8, false, false);
        assert!(matches!(disk.prove(&mut audit), Verdict::Gap(_)));
    }

    #[test]
    fn what_could_not_be_recorded_is_a_gap_at_once() {
        type Change = fn(&mut Sample);
        let changes: [(Change, &str); 4] = [
            (|s| s.after.unlocatable += 1, "passthrough"),
            (|s| s.after.table_full += 1, "table full"),
            (|s| s.after.beyond_end += 1, "beyond the size"),
            (|s| s.disk_bytes += 512, "resized"),
        ];
        for (change, word) in changes {
            let mut disk = Disk::default();
            let mut audit = disk.audit(Reporting::Requests);
            change(&mut disk.sample);
            match Proof::new().offer(&mut audit, &disk.still()) {
                Some(Verdict::Gap(reason)) => assert!(reason.contains(word), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_class_that_the_kernel_does_not_account_is_learned_and_shown() {
        let mut disk = Disk { unaccounted: [false, true], ..Disk::default() };
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(DISCARD, 4096, true, true);
        disk.write(WRITE, 8, true, true);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        assert_eq!(audit.not_audited(), ["discard"]);
        disk.unaccounted = [false, false];
        disk.write(DISCARD, 8, true, true);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        assert!(audit.not_audited().is_empty(), "it accounts them after all");
    }

    #[test]
    fn writes_that_are_not_accounted_are_never_proven() {
        let mut disk = Disk { unaccounted: [true, true], ..Disk::default() };
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, true, true);
        assert!(unproven(&disk.prove(&mut audit)).contains("iostats"));
        assert_eq!(audit.not_audited(), ["write"]);
    }

    #[test]
    fn an_account_that_is_switched_off_proves_nothing_and_hides_nothing() {
        let mut disk = Disk::default();
        let mut audit = disk.audit(Reporting::Requests);
        disk.write(WRITE, 8, true, true);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
        disk.unaccounted = [true, true];
        disk.write(WRITE, 16, true, true);
        disk.write(WRITE, 8, false, false);
        assert!(unproven(&disk.prove(&mut audit)).contains("iostats"));
        assert!(unproven(&disk.prove(&mut audit)).contains("iostats"), "it stays so");
        disk.unaccounted = [false, false];
        disk.write(WRITE, 8, true, true);
        let verdict = disk.prove(&mut audit);
        assert!(matches!(&verdict, Verdict::Gap(reason) if reason.contains("again")), "{verdict:?}");
    }

    #[test]
    fn a_baseline_under_load_waits_for_samples_that_agree() {
        let mut disk = Disk::default();
        disk.issue(WRITE, 8, false);
        let mut search = BaselineSearch::default();
        for _ in 0..20 {
            assert_eq!(search.offer(&disk.still()), None, "what was in flight at attach is not in the table");
        }
        disk.orphan(WRITE, 8);
        assert_eq!(search.offer(&disk.still()), None, "completed, but still in flight for the kernel");
        disk.account(WRITE, 8);
        let baseline = (0..10).find_map(|_| search.offer(&disk.still())).unwrap();
        let mut audit = Audit::new(baseline, Reporting::Requests);
        assert_eq!(disk.prove(&mut audit), Verdict::Proven);
    }

    proptest! {
        /// Against the truth: proven only if no issue was lost since the last publication; a gap only if an event was
        /// lost at both hooks, and always then.
        #[test]
        fn verdicts_are_true(events in proptest::collection::vec((0..2usize, 1u64..64, any::<u8>()), 0..40)) {
            let mut disk = Disk::default();
            let mut audit = disk.audit(Reporting::Requests);
            let (mut lost_issue, mut lost_both) = (false, false);
            for (c, sectors, luck) in events {
                let (issue_seen, completion_seen) = (luck % 8 != 0, luck % 16 != 0);
                disk.write(c, sectors, issue_seen, completion_seen);
                lost_issue |= !issue_seen;
                lost_both |= !issue_seen && !completion_seen;
                if issue_seen && !completion_seen {
                    disk.settle(c, sectors);
                }
            }
            match disk.prove(&mut audit) {
                Verdict::Proven => prop_assert!(!lost_issue),
                Verdict::Unproven(_) => prop_assert!(lost_issue && !lost_both),
                Verdict::Gap(_) => prop_assert!(lost_both),
            }
        }
    }
}
