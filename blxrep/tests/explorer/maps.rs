//! The engine's view of a state: maps, open points and audits, made from it and put back.

use crate::kernel;
use crate::state::{Agent, Base, Counts, State};
use crate::world::{Mask, World};
use blxrep::engine::audit::{Audit, MAX_PROOF_NS, Proof, Verdict};
use blxrep::engine::cut::{OpenPoint, Swept, Witnesses};
use blxrep::model::bitmap::Bitmap;
use blxrep::model::granules::GranuleSet;
use blxrep::model::tracking::{
    AGREEING, Accounting, Baseline, BaselineSearch, KernelStat, Reporting, SPACING_NS, Sample, Witness,
};
use blxrep_ebpf::{GROUP_WORDS, class};
use std::sync::atomic::{AtomicU64, Ordering};

/// One group of fine words and one coarse word: what the smallest disk has.
const WORDS: usize = GROUP_WORDS as usize + 1;

pub fn set_of(mask: Mask) -> GranuleSet {
    (0..8u32).filter(|granule| mask >> granule & 1 != 0).collect()
}

pub fn mask_of(set: &GranuleSet) -> Mask {
    set.iter().fold(0, |mask, granule| mask | 1 << granule)
}

/// Some granules of the group, as a disk of their own.
///
/// The engine works through a bitmap word by word, and anything may happen between two words. Handing it one granule
/// at a time explores just that: every granule is a word of its own.
pub struct Lane {
    issued: [AtomicU64; WORDS],
    completed: [AtomicU64; WORDS],
    pending: [AtomicU64; WORDS],
    in_flight: Mask,
    granules: u32,
}

fn words(bits: Mask) -> [AtomicU64; WORDS] {
    std::array::from_fn(|word| AtomicU64::new(if word == 0 { u64::from(bits) } else { 0 }))
}

fn bits(words: &[AtomicU64; WORDS]) -> Mask {
    Mask::try_from(words[0].load(Ordering::SeqCst)).unwrap()
}

impl Lane {
    /// Lets the engine work on the granules `lane`, of which it finds `in_flight` in the table, and puts back what it
    /// changed.
    pub fn with<T>(
        world: &World,
        state: &mut State,
        lane: Mask,
        in_flight: Mask,
        work: impl FnOnce(&Self) -> T,
    ) -> T {
        let this = Self {
            issued: words(state.issued & lane),
            completed: words(state.completed & lane),
            pending: words(state.pending & lane),
            in_flight: in_flight & lane,
            granules: u32::try_from(world.granules()).unwrap(),
        };
        let done = work(&this);
        state.issued = state.issued & !lane | bits(&this.issued);
        state.completed = state.completed & !lane | bits(&this.completed);
        state.pending = state.pending & !lane | bits(&this.pending);
        done
    }
}

impl Witnesses for Lane {
    fn issued(&self) -> Bitmap<'_> {
        Bitmap::new(&self.issued, self.granules).unwrap()
    }

    fn completed(&self) -> Bitmap<'_> {
        Bitmap::new(&self.completed, self.granules).unwrap()
    }

    fn pending(&self) -> Bitmap<'_> {
        Bitmap::new(&self.pending, self.granules).unwrap()
    }

    fn in_flight(&self) -> GranuleSet {
        set_of(self.in_flight)
    }
}

/// What the agent's sweep has found so far on one disk.
pub fn swept_on(agent: &Agent, disk: Mask) -> Swept {
    Swept {
        issued: set_of(agent.issued & disk),
        again: set_of(agent.again & disk),
        in_flight: set_of(agent.in_flight & disk),
        completed: set_of(agent.completed & disk),
        pending: set_of(agent.pending & disk),
    }
}

/// The open point of one disk.
pub fn open_point(agent: &Agent, disk: Mask) -> OpenPoint {
    let mut point = OpenPoint::new();
    point.form(&Swept { pending: set_of(agent.carried & disk), ..Swept::default() });
    point.validate(&Swept::default(), &set_of(agent.valid & disk), &GranuleSet::new());
    point
}

/// Puts the open point of one disk back.
pub fn keep_point(agent: &mut Agent, disk: Mask, point: &OpenPoint) {
    let carried = mask_of(point.carried());
    agent.carried = agent.carried & !disk | carried & disk;
    agent.valid = agent.valid & !disk | carried & !mask_of(&point.missing()) & disk;
}

/// A sample that tells the truth about a disk, as it is at one instant.
pub fn sample(world: &World, state: &State, disk: usize) -> Sample {
    sample_of(&state.counts[disk], kernel::in_flight(world, state, disk))
}

fn sample_of(counts: &Counts, inflight: u64) -> Sample {
    let witness = Witness {
        entered_requests: u64::from(counts.entered),
        settled_requests: u64::from(counts.settled),
        settled_sectors: [u64::from(counts.settled_sectors), 0],
        orphan_requests: u64::from(counts.orphans),
        orphan_sectors: [u64::from(counts.orphan_sectors), 0],
        ..Witness::default()
    };
    let stat = KernelStat { sectors: [u64::from(counts.stat_sectors), 0], ..KernelStat::default() };
    Sample { before: witness, after: witness, stat: [stat; 2], inflight, ..Sample::default() }
}

pub fn audit_of(base: &Base) -> Audit {
    let baseline = Baseline {
        offset: [u64::from(base.offset), 0],
        orphan_requests: u64::from(base.orphans),
        orphan_sectors: [u64::from(base.orphan_sectors), 0],
        stat_sectors: [0; class::COUNT],
        unlocatable: 0,
        table_full: 0,
        beyond_end: 0,
        accounting: [Accounting::Accounted; class::COUNT],
        disk_bytes: 0,
    };
    Audit::new(baseline, Reporting::Requests)
}

fn base_of(baseline: &Baseline) -> Base {
    let byte = |value: u64| u8::try_from(value).unwrap();
    Base {
        offset: byte(baseline.offset[class::WRITE]),
        orphans: byte(baseline.orphan_requests),
        orphan_sectors: byte(baseline.orphan_sectors[class::WRITE]),
    }
}

/// Offers the same sample until the proof is over: the disk stands still meanwhile, which is the weakest evidence
/// that a proof accepts.
pub fn prove(audit: &mut Audit, sample: &Sample) -> Verdict {
    let mut proof = Proof::new();
    let times = (0..u64::from(AGREEING)).map(|n| n * SPACING_NS).chain([MAX_PROOF_NS]);
    times.map(|at| Sample { at, ..*sample }).find_map(|sample| proof.offer(audit, &sample)).unwrap()
}

/// The baseline once the shortfall that `counts` showed is written off; `None` if they show none.
pub fn written_off(base: &Base, counts: &Counts) -> Option<Base> {
    let mut audit = audit_of(base);
    prove(&mut audit, &sample_of(counts, 0));
    audit.published();
    audit.take_changed().then(|| base_of(audit.baseline()))
}

/// The baseline that is found after a gap.
pub fn rebased(sample: &Sample) -> Option<Base> {
    let mut search = BaselineSearch::default();
    let times = (0..u64::from(AGREEING)).map(|n| n * SPACING_NS);
    times
        .map(|at| Sample { at, ..*sample })
        .find_map(|sample| search.offer(&sample))
        .map(|baseline| base_of(&baseline))
}
