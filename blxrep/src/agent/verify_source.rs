//! Whether the newest point of a disk is what the disk holds: compared by digests, beside the cuts of the disk, counting
//! as different only what did not change meanwhile.

use super::compare::{CompareError, Comparison};
use super::dialer::Dialer;
use super::pace::Pace;
use super::round::on_thread;
use super::unit::Unit;
use crate::model::comparison::Compared;
use crate::model::ids::ActionId;
use crate::wire::snapshot::{MAX_FOUND, Purpose};
use std::sync::Arc;

/// Ends the watch, also when the comparison breaks off: what points carry would be gathered for nobody.
struct Watch(Arc<Unit>, ActionId);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.forget_watch(self.1);
    }
}

/// Compares, and tells the dispatcher what differs although nothing changed it.
///
/// The watch begins before the dispatcher is asked for its newest point: what is published before that is the point, or
/// older; what is published later is watched.
pub async fn run(
    unit: Arc<Unit>,
    dialer: Dialer,
    pace: Pace,
    readers: usize,
    action: ActionId,
) -> Result<(), CompareError> {
    if let Some(reason) = unit.gap() {
        return Err(CompareError::Refused(format!(
            "what changed on the disk is not known ({reason}): the next point has to be published first"
        )));
    }
    unit.watch(action);
    let _watch = Watch(Arc::clone(&unit), action);
    let mut comparison = Comparison::ask(&unit, &dialer, pace.clone(), Purpose::Verify { action }).await?;
    let mut compared = Compared::new(comparison.point, &comparison.grid, unit.granules());
    comparison.run(&unit, &pace, readers, &mut compared).await?;
    let watched = Arc::clone(&unit);
    let changed = on_thread((), move || watched.unwatch(action)).await;
    let changed = changed.map_err(|e| CompareError::Record(e.to_string()))?;
    let lost = |reason| CompareError::Unknown(format!("coverage was lost meanwhile ({reason})"));
    let changed = changed.map_err(lost)?;
    if let Some(reason) = unit.gap() {
        return Err(lost(reason));
    }
    let mut differing = compared.differing;
    differing.subtract(&changed);
    let ranges: Vec<_> = differing.runs().map(|run| (run.start, run.end)).take(MAX_FOUND).collect();
    comparison.found(differing.len(), ranges.into_iter()).await
}
