//! What a freeze of a set of disks means on this host, and the two commands around it that nobody types.

use crate::engine::freeze_plan::{self, Selection};
use crate::io::freeze::guard::{Guard, Options, Target};
use crate::io::freeze::survey::Survey;
use crate::io::freeze::{FreezeError, leftovers};
use crate::model::stack::{DeviceNumber, Obstacle};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// This program, also after it was replaced or removed.
const THIS_PROGRAM: &str = "/proc/self/exe";

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
        Ok(Self { targets: targets.into(), obstacles, swaps, disks: disks.to_vec(), selection })
    }

    /// Whether a freeze of all targets would make the disks still, as far as filesystems go.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// Starts a guard for the targets.
    pub fn guard(&self) -> Result<Guard, FreezeError> {
        let options = Options { program: THIS_PROGRAM.into(), records: leftovers::folder()? };
        Guard::spawn(Arc::clone(&self.targets), &options)
    }

    /// Looks again, after the thaw: what was mounted or stacked since the plan was made was not frozen.
    pub fn still_holds(&self) -> Result<bool, FreezeError> {
        let now = freeze_plan::select(&self.disks, &Survey::take()?.stack);
        let known = now.order.iter().all(|number| self.selection.order.contains(number));
        Ok(known && now.obstacles.len() <= self.selection.obstacles.len())
    }
}

/// Thaws what crashed agents and their guards left frozen, and says so in the log.
pub fn thaw_leftovers(records: Option<&Path>) -> Result<(), FreezeError> {
    let records = records.map_or_else(leftovers::folder, |given| Ok(PathBuf::from(given)))?;
    let mut failed = None;
    for leftover in leftovers::thaw_leftovers(&records)? {
        match leftover.result {
            Ok(()) => {
                tracing::warn!(filesystem = %leftover.filesystem, "thawed what a crashed agent left frozen")
            }
            Err(reason) => {
                tracing::error!(filesystem = %leftover.filesystem, %reason, "left frozen, and cannot be thawed");
                failed = Some(FreezeError::StillFrozen { place: leftover.filesystem, reason });
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
