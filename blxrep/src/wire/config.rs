//! `/ws/config`: who the agent is, what it offers, what it shall do, and how that goes.

use crate::model::action::ActionState;
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, CutId, DiskIdentity, PointId};
use crate::model::point::{Consistency, Coverage};
use crate::model::policy::{EffectivePolicy, Goal};
use crate::model::restoration::{Preflight, Restoration};
use serde::{Deserialize, Serialize};

/// A disk of the agent's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub identity: DiskIdentity,
    pub device: String,
    pub bytes: u64,
    /// Why the disk cannot be protected, and what to do about it.
    pub problem: Option<String>,
}

/// Where the protection of one disk stands; sent when it changes and at least every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub identity: DiskIdentity,
    pub coverage: Coverage,
    /// What the audit cannot see on this disk, in words.
    pub notes: Vec<String>,
}

/// How a requested sync ended for one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncOutcome {
    pub identity: DiskIdentity,
    pub result: Result<SyncedPoint, String>,
}

/// The point that a sync published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedPoint {
    pub point: PointId,
    pub consistency: Consistency,
    pub bytes: u64,
    pub rounds: u32,
}

/// What an agent is told to do to an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    Pause,
    Resume,
    Cancel,
    /// The policy leaves the disk out now: leave it alone. The action stays, queued.
    Release,
}

/// Agent to dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDispatcher {
    /// First message of a session, and again when the host changed.
    Inventory { footprint: Footprint, offers: Vec<Offer> },
    /// An action entered this state, or has something to say about the one it is in. How far it is, the dispatcher
    /// knows from what it stored.
    Action { action: ActionId, state: ActionState, reason: String },
    /// Current state of the disks that are protected.
    Status(Vec<DiskStatus>),
    /// The cut that was asked for has ended.
    Synced { request: CutId, outcomes: Vec<SyncOutcome> },
    /// Answer to [`ToAgent::Ping`].
    Pong(u64),
    /// Answer to [`ToAgent::Preflight`]: what would be done, or why it is refused and what to do about it.
    Preflighted { request: u64, verdict: Result<Preflight, String> },
}

/// Dispatcher to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Policy in force; also sent when it changes.
    Policy(EffectivePolicy),
    /// Take a full image of a disk and publish it as a base (or go on with the one that was begun).
    Snapshot {
        action: ActionId,
        disk: DiskIdentity,
    },
    /// Keep a disk with a published base in sync. `paused` is how it starts.
    Live {
        action: ActionId,
        disk: DiskIdentity,
        paused: bool,
    },
    /// Cut now. `disk` names one member of the group to cut; `None` is all of the agent's disks.
    /// `goal` goes before the policy's for this cut.
    Sync {
        request: CutId,
        disk: Option<DiskIdentity>,
        goal: Option<Goal>,
    },
    Control {
        action: ActionId,
        control: Control,
    },
    Ping(u64),
    /// Compare a disk with its newest point and say what differs although nothing changed it.
    VerifySource {
        action: ActionId,
        disk: DiskIdentity,
    },
    /// Say what this restore would do, and whether it may be done. Nothing is written.
    Preflight {
        request: u64,
        restoration: Restoration,
    },
    /// Restore: fetch what to write over `/ws/restore`. Said again after every reconnect until it has ended. `touched`:
    /// something may have been written already.
    Restore {
        action: ActionId,
        restoration: Restoration,
        touched: bool,
    },
}
