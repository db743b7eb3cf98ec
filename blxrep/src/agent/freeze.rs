//! What a freeze of a set of disks means on this host.
//!
//! A cut calls, from threads that may block:
//!
//! ```text
//! Freeze::prepare(disks, _)   looks at the host and starts the guard; nothing is frozen
//!   .write_back()             as often as it likes; then reads what that made dirty
//!   .begin(budget) -> Still   frozen: sweep, read into memory, sweep again. No log line, no file, no network
//! Still::end() -> Freezing    thawed: send, and label the point
//! ```
//!
//! Dropping either thaws. Numbers of disks are those of [`device_number`], options those of [`Options::usual`].

use crate::engine::freeze_plan::{self, Selection};
use crate::io::freeze::guard::{Frozen, FrozenFilesystem, Guard, Options, Target};
use crate::io::freeze::survey::Survey;
use crate::io::freeze::{FreezeError, leftovers};
use crate::model::stack::{DeviceNumber, Obstacle};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The number of the disk that a node under `/dev` stands for.
pub fn device_number(node: &Path) -> std::io::Result<DeviceNumber> {
    let device = std::fs::metadata(node)?.rdev();
    Ok((rustix::fs::major(device), rustix::fs::minor(device)))
}

/// Every filesystem on a set of disks and on what is stacked on them, open and in the order of freezing.
///
/// While it exists the filesystems cannot be unmounted: make it shortly before the freeze, and drop it after.
#[derive(Debug)]
pub struct FreezePlan {
    pub targets: Arc<[Target]>,
    /// Why the disks will not be still although all targets are frozen: the point will not be `frozen`.
    pub obstacles: Vec<Obstacle>,
    /// Active swap on the disks: left out, and the point says so.
    pub swaps: Vec<String>,
    /// Why there may be mounts that are not known. Of most kinds a filesystem in use is known nevertheless, and a write
    /// by any other contaminates what was read, as every write does.
    pub blind_spot: Option<Obstacle>,
    disks: Vec<DeviceNumber>,
    selection: Selection,
}

impl FreezePlan {
    /// Looks at the host. Blocks.
    pub fn for_disks(disks: &[DeviceNumber]) -> Result<Self, FreezeError> {
        let survey = Survey::take()?;
        let selection = freeze_plan::select(disks, &survey.stack);
        let mut obstacles = selection.obstacles.clone();
        let mut targets = Vec::with_capacity(selection.order.len());
        for number in selection.order.iter().copied() {
            let place = survey.place(number);
            match survey.open(number) {
                Ok(file) => targets.push(Target { file, number, place }),
                Err(reason) => obstacles.push(Obstacle { what: place, reason }),
            }
        }
        let swaps = selection.swaps.clone();
        let blind_spot = survey.blind_spot();
        Ok(Self { targets: targets.into(), obstacles, swaps, blind_spot, disks: disks.to_vec(), selection })
    }

    /// Whether a freeze of all targets would make the disks still, as far as filesystems go.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// Looks again, after the thaw: what was mounted or stacked since the plan was made was not frozen.
    pub fn still_holds(&self) -> Result<bool, FreezeError> {
        let now = freeze_plan::select(&self.disks, &Survey::take()?.stack);
        let known = now.order.iter().all(|number| self.selection.order.contains(number));
        Ok(known && now.obstacles.len() <= self.selection.obstacles.len())
    }
}

/// A freeze that can begin at any time.
#[derive(Debug)]
pub struct Freeze {
    pub plan: FreezePlan,
    guard: Guard,
}

impl Freeze {
    /// Finds and opens what is to be frozen and starts the guard, which takes some 15 ms. Nothing is frozen.
    ///
    /// Obstacles are no error: they are in the plan, and whoever wants nothing but a `frozen` point looks there first.
    pub fn prepare(disks: &[DeviceNumber], options: &Options) -> Result<Self, FreezeError> {
        let plan = FreezePlan::for_disks(disks)?;
        let guard = Guard::spawn(Arc::clone(&plan.targets), options)?;
        Ok(Self { plan, guard })
    }

    /// Writes back what is dirty: read after that, it need not be read under the freeze.
    pub fn write_back(&self) {
        for target in self.plan.targets.iter() {
            // Not judged here: what is wrong with a filesystem shows when it is frozen.
            let _ = rustix::fs::syncfs(&target.file);
        }
    }

    /// Freezes, for at most `budget`. An error has left nothing frozen.
    pub fn begin(self, budget: Duration) -> Result<Still, FreezeError> {
        Ok(Still { frozen: self.guard.freeze(budget)?, plan: self.plan })
    }
}

/// Everything is frozen that could be, until this is ended or dropped, or its time is over.
#[derive(Debug)]
pub struct Still {
    frozen: Frozen,
    plan: FreezePlan,
}

impl Still {
    /// Thaws, and says how it went. An error is a filesystem that cannot be thawed.
    pub fn end(self) -> Result<Freezing, FreezeError> {
        let refused = self.frozen.refused.clone();
        let report = self.frozen.thaw()?;
        let mut doubts: Vec<String> =
            self.plan.obstacles.iter().chain(&refused).map(Obstacle::to_string).collect();
        if refused.is_empty() {
            doubts.extend(report.why_not_held());
        }
        if self.plan.targets.is_empty() {
            doubts.push("no filesystem is mounted from the disks: there was nothing to freeze".to_owned());
        }
        match self.plan.still_holds() {
            Ok(true) => {}
            Ok(false) => doubts.push("a filesystem was mounted while the others were frozen".to_owned()),
            Err(error) => doubts.push(error.to_string()),
        }
        let swap = |swap| format!("swap on {swap} was in use and is not part of this point");
        let mut notes: Vec<String> = self.plan.swaps.iter().map(swap).collect();
        notes.extend(self.plan.blind_spot.as_ref().map(Obstacle::to_string));
        Ok(Freezing { lasted: report.frozen, filesystems: report.filesystems, doubts, notes })
    }
}

/// How a freeze went.
#[derive(Clone, Debug)]
pub struct Freezing {
    /// From the first freeze to the last thaw.
    pub lasted: Duration,
    pub filesystems: Vec<FrozenFilesystem>,
    /// Why the point is not `frozen`, in a sentence each; it is if there are none.
    pub doubts: Vec<String>,
    /// What the point says besides.
    pub notes: Vec<String>,
}

/// Thaws what crashed agents and their guards left frozen, and says so in the log. An error is what is left.
pub fn thaw_leftovers(records: Option<&Path>) -> Result<(), FreezeError> {
    let records = records.map_or_else(leftovers::folder, |given| Ok(PathBuf::from(given)))?;
    let (mut places, mut reasons) = (Vec::new(), Vec::new());
    for leftover in leftovers::thaw_leftovers(&records)? {
        match leftover.result {
            Ok(()) => {
                tracing::warn!(filesystem = %leftover.filesystem, "thawed what a crashed agent left frozen");
            }
            Err(reason) => {
                places.push(leftover.filesystem);
                reasons.push(reason);
            }
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    Err(FreezeError::StillFrozen { place: places.join(", "), reason: reasons.join(", ") })
}
