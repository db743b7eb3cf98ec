//! Actions: things being done that have progress.

use super::ids::{ActionId, AgentId, DiskId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActionKind {
    /// A full image, up to the publication of the base.
    Snapshot,
    /// Continuous protection of a disk: one point after the other. Runs until cancelled.
    Live,
    /// A pass over the whole disk after coverage was lost.
    Rescan,
    Restore,
    Verify,
    Consolidate,
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Live => "live",
            Self::Rescan => "rescan",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Consolidate => "consolidate",
        })
    }
}

/// ```text
/// queued -> running -> succeeded | failed | cancelled
///    ^         |^
///    |         v|
///    +------ paused        (a lost agent puts running back to queued)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    Queued,
    Running,
    Paused,
    Succeeded,
    Failed,
    Cancelled,
}

impl ActionState {
    /// Whether nothing can change it any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for ActionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// One action, as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub id: ActionId,
    pub kind: ActionKind,
    /// `None` for what concerns the whole store.
    pub agent: Option<AgentId>,
    pub disk: Option<DiskId>,
    pub state: ActionState,
    /// Why it is in this state: what it waits for, why it failed. Empty when there is nothing to say.
    pub reason: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// Bytes of the disk done and to do; `total` is 0 when it is not known.
    pub done: u64,
    pub total: u64,
}
