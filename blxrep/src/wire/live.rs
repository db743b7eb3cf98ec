//! `/ws/live`: one disk's change reports, and the rounds of its recovery points.
//!
//! ```text
//! agent                              dispatcher
//! Report (any time)          ->
//! Begin                      ->
//!                            <-      Accept { parent } | Kept { parent, chain } | Refuse
//! data frames of rounds      ->
//!                            <-      Received (from time to time)
//! Seal, End                  ->
//!                            <-      Published | Failed   (all disks of the cut together)
//! ```

use super::chain::Chain;
use crate::model::ids::{CutId, DiskIdentity, Epoch, PointId};
use crate::model::point::CutSummary;
use serde::{Deserialize, Serialize};

/// Ranges of granules that one report names at most; more are summed up in `backlog`.
pub const MAX_REPORTED_RANGES: usize = 256;

/// Agent to dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDispatcher {
    /// Which disk this connection serves; its first message.
    Disk {
        disk: DiskIdentity,
        device: String,
        bytes: u64,
        granule_shift: u32,
    },
    /// What changed since the last report. Advisory: the kernel's maps are the truth.
    Report {
        backlog: u64,
        dirty: Vec<(u32, u32)>,
    },
    /// Opens a point, or goes on with one whose connection broke: then it is the same point. What the pinned record knows: the point that was acknowledged last, the one whose fate is
    /// unknown, and the one that the disk was compared with after coverage had been lost.
    Begin {
        point: PointId,
        cut: CutId,
        epoch: Epoch,
        acked: Option<PointId>,
        open: Option<PointId>,
        matched: Option<PointId>,
    },
    /// The cut passed (or is published as fuzzy): what the point stands for, and how many granules it carries.
    Seal {
        summary: CutSummary,
        granules: u64,
    },
    Abort {
        reason: String,
    },
}

/// Dispatcher to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Send; the point will stand on `parent`.
    Accept {
        point: PointId,
        parent: PointId,
    },
    /// The dispatcher's newest point is none of those: the disk must be compared with it.
    Discontinuous {
        reason: String,
    },
    /// Nothing of this can be stored; says why and what to do.
    Refuse {
        reason: String,
    },
    /// Payload bytes of data frames taken off this connection since it began: the sender's credit.
    Received {
        bytes: u64,
    },
    Published {
        point: PointId,
    },
    Failed {
        reason: String,
    },
    /// In the place of `Accept`, when the point was open before on a connection that broke: these frames of it are here,
    /// and what follows them goes behind them.
    Kept {
        point: PointId,
        parent: PointId,
        chain: Chain,
    },
}
