//! Which points go, and what is done for that.

use crate::model::ids::{AgentId, DiskId, PointId};
use crate::model::point::Consistency;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api/v1/consolidations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsolidateBody {
    /// One agent; all without it.
    #[serde(default)]
    pub agent: Option<String>,
    /// One disk; all of the agent's without it.
    #[serde(default)]
    pub disk: Option<String>,
}

/// `GET /api/v1/consolidations/plan`: what a consolidation would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsolidationPlan {
    /// Every point, disk after disk, oldest first.
    pub points: Vec<PointFate>,
    /// In the order in which they would be carried out. More may follow when these are done.
    pub steps: Vec<PlannedStep>,
}

/// Whether a point is kept, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointFate {
    pub agent: AgentId,
    pub disk: DiskId,
    pub device: String,
    pub point: PointId,
    pub cut: Timestamp,
    pub published: Timestamp,
    pub consistency: Consistency,
    /// Bytes that its files take in the store.
    pub stored: u64,
    pub keep: bool,
    pub reason: String,
}

/// Something that is done with the files of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    pub disk: DiskId,
    pub what: String,
    /// Bytes that it reads.
    pub bytes: u64,
}
