//! `/ws/snapshot`: one disk's full image, then rounds over what changed meanwhile, until a cut passes.
//!
//! ```text
//! agent                              dispatcher
//! Begin                      ->
//!                            <-      Start { point, offset } | Refuse
//! data frames, ascending     ->
//!                            <-      Received, Durable (from time to time)
//! data frames of rounds      ->
//! Seal, End                  ->
//!                            <-      Published | Failed
//! ```

use crate::model::ids::{ActionId, DiskIdentity, Epoch, PointId};
use crate::model::point::CutSummary;
use serde::{Deserialize, Serialize};

/// Agent to dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDispatcher {
    Begin {
        action: ActionId,
        disk: DiskIdentity,
        device: String,
        bytes: u64,
        granule_shift: u32,
        epoch: Epoch,
    },
    /// The last round passed (or is published as fuzzy): this is what the image stands for.
    Seal(CutSummary),
    /// Given up; what was stored stays for a later `Begin`.
    Abort { reason: String },
}

/// Dispatcher to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Send from `offset` on; everything below it is durable from an earlier attempt under the same epoch.
    Start {
        point: PointId,
        offset: u64,
    },
    /// Nothing of this can be stored; says why and what to do.
    Refuse {
        reason: String,
    },
    /// Payload bytes of data frames taken off this connection since it began: the sender's credit.
    Received {
        bytes: u64,
    },
    /// The image below this offset is on stable storage.
    Durable {
        offset: u64,
    },
    Published {
        point: PointId,
    },
    Failed {
        reason: String,
    },
}
