//! A disk goes over from the programs of one version to those of another, and at no instant is a change unseen.
//!
//! The new programs see every request before the old ones are asked for anything, and the old ones go on until the new
//! ones have all that they knew: dirty granules of every map, requests in flight, and how far their counts and the
//! kernel's agree. The old maps are only looked at. So a SIGKILL anywhere leaves the old version whole, or the new one,
//! or both.

use super::disk::{DiskTracker, Slot, sample};
use super::error::TrackerError;
use super::object::recursion_misses;
use super::{BASELINE_WAIT, SAMPLE_PAUSE};
use crate::model::bitmap::Bitmap;
use crate::model::tracking::{Baseline, EpochRecord, HandoverSearch, SKIPPED_WORD};
use std::path::Path;
use std::time::Instant;

/// Everything that the old maps hold goes into the new map of pending. To be called when the new programs see the
/// disk: what is issued from then on is marked in their own maps.
pub fn carry(former: &DiskTracker, pending: &Bitmap<'_>) {
    // In this order: a request moves from in flight to completed, never back.
    pending.mark(&former.issued().peek());
    pending.mark(&former.inflight().ranges);
    pending.mark(&former.completed().peek());
    pending.mark(&former.pending().peek());
}

/// The record under the new programs: the same epoch, for every change since its last point is still known.
pub fn record(
    former: &DiskTracker,
    now: &Slot<'_>,
    programs: &[std::os::fd::OwnedFd],
    node: &Path,
) -> Result<EpochRecord, TrackerError> {
    let mut record = former.record();
    record.baseline = baseline(former, &record.baseline, now, node)?;
    // Events that were skipped since the last proof stay so many.
    let unproven = former.recursion_misses()?.wrapping_sub(record.agent_words[SKIPPED_WORD]);
    record.agent_words[SKIPPED_WORD] = recursion_misses(programs)?.wrapping_sub(unproven);
    Ok(record)
}

/// Waits for an instant at which both versions have the same requests in flight, so that what one has counted can be
/// said in the counts of the other.
fn baseline(
    former: &DiskTracker,
    old: &Baseline,
    now: &Slot<'_>,
    node: &Path,
) -> Result<Baseline, TrackerError> {
    let (clock, deadline) = (Instant::now(), Instant::now() + BASELINE_WAIT);
    let mut search = HandoverSearch::default();
    while Instant::now() < deadline {
        let failed = TrackerError::io("read the statistics of", node);
        let before = former.counters();
        let sample = sample(&former.files, now, clock).map_err(failed)?;
        let after = former.counters();
        if let Some(baseline) = search.offer(old, [before, after], &sample) {
            return Ok(baseline);
        }
        // An entry whose completion the old programs have lost would be in their table for ever.
        former.retire_stale().map_err(TrackerError::io("read the statistics of", node))?;
        std::thread::sleep(SAMPLE_PAUSE);
    }
    Err(TrackerError::NeverSettled { node: node.to_path_buf() })
}
