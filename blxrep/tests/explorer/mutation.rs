//! Simplifications that look harmless. Each is a variant of the agent that the explorer must prove wrong.

use crate::world::World;
use blxrep::engine::cut::Step;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Completed is swept before issued.
    SweepsSwapped,
    /// Issued is not looked at again after it was swept.
    NoSecondLook,
    /// The table is not walked.
    NoTable,
    /// The table is walked after completed was swept.
    TableAfterCompleted,
    /// Each disk is swept at one go, one after the other.
    DiskByDisk,
    /// What was overwritten while it was read is taken as it is.
    NoValidation,
    /// Issued is looked at before the reads have ended.
    ValidationBeforeReads,
    /// The look at issued after the reads clears what it sees.
    ValidationClears,
    /// What is contaminated is read again without a new cut.
    ContaminatedAlone,
    /// A sweep clears a bit before it is in pending.
    ClearBeforeOr,
    /// An acknowledgement is heard by an agent that did not send the point.
    OldAcknowledgement,
    /// The sweep of a cut that was dropped goes on by itself, while the next point is formed.
    SweepOutlivesItsCut,
    /// An acknowledgement clears what is in flight, too.
    AcknowledgeInFlight,
    /// A shortfall counts as written off when it is measured, whatever becomes of the point.
    WrittenOffWhenMeasured,
    /// A shortfall is written off when it is measured, and the audit is asked again.
    WrittenOffAndAskedAgain,
    /// The audit is not asked.
    NoAudit,
    /// Only completions count: issued is neither swept nor looked at.
    IssueIgnored,
    /// Only issues count: completed is not swept.
    CompletionIgnored,
    /// The dirty set is read first and swept after.
    ReadBeforeSweep,
    /// Somebody else sweeps before a point goes on after a break.
    SweptBeforeItGoesOn,
}

/// The steps of a sweep in their order, one granule at a time.
pub fn schedule(world: &World, mutations: &[Mutation]) -> Vec<(Step, usize)> {
    let steps = steps(mutations);
    let granules = |step: Step, of: Range<usize>| of.map(move |granule| (step, granule));
    if mutations.contains(&Mutation::DiskByDisk) {
        let disk = |disk: usize| world.first(disk)..world.first(disk) + world.disks[disk];
        let sweep = |d: usize| steps.iter().flat_map(move |step| granules(*step, disk(d)));
        return (0..world.disks.len()).flat_map(sweep).collect();
    }
    steps.iter().flat_map(|step| granules(*step, 0..world.granules())).collect()
}

fn steps(mutations: &[Mutation]) -> Vec<Step> {
    let has = |mutation| mutations.contains(&mutation);
    let mut steps = Step::ORDER.to_vec();
    if has(Mutation::SweepsSwapped) {
        steps = vec![Step::Completed, Step::Issued, Step::Again, Step::InFlight];
    }
    if has(Mutation::TableAfterCompleted) {
        steps = vec![Step::Issued, Step::Again, Step::Completed, Step::InFlight];
    }
    steps.retain(|step| match step {
        Step::Issued => !has(Mutation::IssueIgnored),
        Step::Again => !has(Mutation::NoSecondLook) && !has(Mutation::IssueIgnored),
        Step::InFlight => !has(Mutation::NoTable),
        Step::Completed => true,
    });
    steps
}
