//! After coverage was lost: what a disk has in common with its newest point is found out, so that only the rest is
//! dirty. Why that is right is in `docs/decisions/0012-digest-rescan.md`.
//!
//! ```text
//! everything is pending ── sweep ── read and compare ── acknowledge what was equal ── name the point in the record
//! ```
//!
//! Killed anywhere before the end, everything is still pending and coverage still lost.

use super::compare::{CompareError, Comparison};
use super::dialer::Dialer;
use super::pace::Pace;
use super::round::on_thread;
use super::unit::Unit;
use crate::model::comparison::Compared;
use crate::wire::snapshot::Purpose;
use std::sync::Arc;

/// One attempt; a later one goes on where this one was. `asked` says that a person waits for it.
pub async fn attempt(
    unit: Arc<Unit>,
    dialer: Dialer,
    pace: Pace,
    readers: usize,
    asked: bool,
) -> Result<(), CompareError> {
    let lease = unit.lease().await;
    let Some(reason) = unit.lost_coverage() else { return Ok(()) };
    let purpose = Purpose::Rescan { reason, asked };
    let mut comparison = Comparison::ask(&unit, &dialer, pace.clone(), purpose).await?;
    let compared = match unit.take_compared(comparison.point) {
        Some(compared) => compared,
        None => {
            let armed = Arc::clone(&unit);
            on_thread(Arc::clone(&lease), move || armed.arm()).await.map_err(stopped)?;
            Compared::new(comparison.point, &comparison.grid, unit.granules())
        }
    };
    let mut kept = Kept { unit: Arc::clone(&unit), compared: Some(compared) };
    let Some(compared) = &mut kept.compared else { return Ok(()) };
    if let Err(error) = comparison.run(&unit, &pace, readers, compared).await {
        if matches!(error, CompareError::Garbled(_)) {
            // None of the verdicts is believed any more.
            kept.compared = None;
        }
        return Err(error);
    }
    let Some(compared) = kept.compared.take() else { return Ok(()) };
    let differing = compared.differing.clone();
    let narrowed = Arc::clone(&unit);
    let work = move || narrowed.narrow(&compared);
    on_thread(lease, work).await.map_err(stopped)?.map_err(CompareError::Record)?;
    tracing::info!(disk = %unit.identity, point = %comparison.point, granules = differing.len(), of = unit.granules(),
        "compared: what differs is dirty, every change is known again");
    // What is narrowed stays narrowed: that the dispatcher could not be told changes nothing.
    if let Err(error) = comparison.found(differing.len(), std::iter::empty()).await {
        tracing::debug!(%error, "the dispatcher was not told how the rescan ended");
    }
    Ok(())
}

/// Hands back what was found so far, also when the attempt is dropped.
struct Kept {
    unit: Arc<Unit>,
    compared: Option<Compared>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(compared) = self.compared.take() {
            self.unit.keep_compared(compared);
        }
    }
}

fn stopped(error: super::round::CutError) -> CompareError {
    CompareError::Record(error.to_string())
}
