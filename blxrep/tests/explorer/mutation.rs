//! Simplifications that look harmless. Each is a variant of the agent that the explorer must prove wrong.

use crate::world::World;
use blxrep::engine::cut::Step;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Completed is swept before issued.
    SweepsSwapped,
    /// Issued is not looked at again after it was swept.
    NoSecondLook,
    /// The table is not walked.
    NoTable,
    /// Neither of the two.
    NoSecondLookAndNoTable,
    /// The table is walked after completed was swept.
    TableAfterCompleted,
    /// Each disk is swept at one go, one after the other.
    DiskByDisk,
    /// What was overwritten while it was read is taken as it is.
    NoValidation,
    /// Issued is looked at before the reads have ended.
    ValidationBeforeReads,
    /// The look at issued clears what it sees.
    ValidationClears,
    /// What is contaminated is read again without a new cut.
    ContaminatedAlone,
    /// A sweep clears a bit before it is in pending.
    ClearBeforeOr,
    /// An acknowledgement is heard by an agent that did not send the point.
    OldAcknowledgement,
    /// An acknowledgement clears what is in flight, too.
    AcknowledgeInFlight,
    /// A shortfall counts as written off when it is measured.
    WrittenOffWhenMeasured,
    /// The audit is not asked.
    NoAudit,
    /// Only completions count: issued is neither swept nor looked at.
    IssueIgnored,
    /// Only issues count: completed is not swept.
    CompletionIgnored,
    /// The dirty set is read first and swept after.
    ReadBeforeSweep,
}

impl Mutation {
    pub const ALL: [Self; 18] = [
        Self::SweepsSwapped,
        Self::NoSecondLook,
        Self::NoTable,
        Self::NoSecondLookAndNoTable,
        Self::TableAfterCompleted,
        Self::DiskByDisk,
        Self::NoValidation,
        Self::ValidationBeforeReads,
        Self::ValidationClears,
        Self::ContaminatedAlone,
        Self::ClearBeforeOr,
        Self::OldAcknowledgement,
        Self::AcknowledgeInFlight,
        Self::WrittenOffWhenMeasured,
        Self::NoAudit,
        Self::IssueIgnored,
        Self::CompletionIgnored,
        Self::ReadBeforeSweep,
    ];
}

/// The steps of a sweep in their order, one granule at a time.
pub fn schedule(world: &World, mutation: Option<Mutation>) -> Vec<(Step, usize)> {
    use Step::{Again, Completed, InFlight, Issued};
    let steps: &[Step] = match mutation {
        Some(Mutation::SweepsSwapped) => &[Completed, Issued, Again, InFlight],
        Some(Mutation::NoSecondLook) => &[Issued, InFlight, Completed],
        Some(Mutation::NoTable) => &[Issued, Again, Completed],
        Some(Mutation::NoSecondLookAndNoTable) => &[Issued, Completed],
        Some(Mutation::TableAfterCompleted) => &[Issued, Again, Completed, InFlight],
        Some(Mutation::IssueIgnored) => &[InFlight, Completed],
        _ => &Step::ORDER,
    };
    let all = 0..world.granules();
    if mutation == Some(Mutation::DiskByDisk) {
        let disk = move |d: usize| (world.first(d)..world.first(d) + world.disks[d]).collect::<Vec<_>>();
        return (0..world.disks.len())
            .flat_map(|d| steps.iter().flat_map(move |step| disk(d).into_iter().map(|g| (*step, g))))
            .collect();
    }
    steps.iter().flat_map(|step| all.clone().map(|granule| (*step, granule))).collect()
}
