//! The policies in force, and whom they are for.

use crate::model::ids::{AgentId, DiskId};
use crate::model::percent::Percent;
use crate::model::policy::{EffectivePolicy, Goal, Grouping, VerifyRule};
use crate::model::retention::Retention;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// `GET /api/v1/policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyList {
    /// Folder of the policy files.
    pub dir: String,
    /// In the order in which they are asked: an agent gets the first that names it.
    pub items: Vec<PolicyRow>,
    /// Why the files could not be read when they were looked at last; what was in force before stays. `null` if they
    /// could.
    pub trouble: Option<String>,
}

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyRow {
    pub name: String,
    pub description: String,
    pub file: String,
    pub targets: Vec<PolicyTarget>,
    /// Values in force, defaults among them.
    pub values: PolicyValues,
    /// Keys that the file sets; the others have their defaults.
    pub set: Vec<String>,
    /// Keys of the file that come into force in a later version.
    pub not_in_force: Vec<String>,
    /// Agents that have been here and get this policy.
    pub agents: Vec<AgentId>,
    /// Disks of theirs that it protects.
    pub disks: Vec<DiskId>,
    /// Disks of theirs that it leaves out.
    pub disks_excluded: Vec<DiskId>,
}

/// Agents that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyTarget {
    pub pattern: String,
    /// Devices, names or identities.
    pub disks_excluded: Vec<String>,
}

/// What a policy asks for. Times are seconds where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyValues {
    /// Between scheduled points.
    pub live_sync_seconds: u64,
    /// Bytes per second of one agent; `null` is no limit.
    pub bandwidth_limit: Option<u64>,
    pub consistency: Goal,
    /// Milliseconds.
    pub max_freeze_ms: u64,
    pub max_rounds: u32,
    /// Whether a point that is not what was asked for is left out, instead of published with its true label.
    pub skip_unmet: bool,
    /// Which disks share a cut: `all`, `each`, or `lists`.
    pub group: String,
    /// Of `lists`: disks that share a cut.
    pub group_lists: Vec<Vec<String>>,
    /// Every point is kept for so long, then one of each minute, hour, day and week.
    pub keep_all_seconds: u64,
    pub keep_minutely_seconds: u64,
    pub keep_hourly_seconds: u64,
    pub keep_daily_seconds: u64,
    pub keep_weekly_seconds: u64,
    /// Points that are so old go, whatever else is said. `null` where nothing is said.
    pub delete_after_seconds: Option<u64>,
    /// Points of one disk.
    pub keep_points: u64,
    /// Between verifications of what is stored; `null` where there are none.
    pub verify_seconds: Option<u64>,
    /// How much of it is read each time; all if it is `null`.
    pub verify_sample: Option<Percent>,
}

impl PolicyValues {
    #[must_use]
    pub fn new(policy: &EffectivePolicy, kept: &Retention, verify: Option<&VerifyRule>) -> Self {
        let seconds = |time: Duration| time.as_secs();
        let (group, group_lists) = match &policy.group {
            Grouping::All => ("all", Vec::new()),
            Grouping::Each => ("each", Vec::new()),
            Grouping::Lists(lists) => ("lists", lists.clone()),
        };
        Self {
            live_sync_seconds: seconds(policy.live_sync),
            bandwidth_limit: policy.bandwidth_limit,
            consistency: policy.cut.goal,
            max_freeze_ms: u64::try_from(policy.cut.max_freeze.as_millis()).unwrap_or(u64::MAX),
            max_rounds: policy.cut.max_rounds,
            skip_unmet: policy.cut.skip_unmet,
            group: group.to_owned(),
            group_lists,
            keep_all_seconds: seconds(kept.all),
            keep_minutely_seconds: seconds(kept.minutely),
            keep_hourly_seconds: seconds(kept.hourly),
            keep_daily_seconds: seconds(kept.daily),
            keep_weekly_seconds: seconds(kept.weekly),
            delete_after_seconds: kept.delete_after.map(seconds),
            keep_points: u64::try_from(kept.max_points).unwrap_or(u64::MAX),
            verify_seconds: verify.map(|rule| seconds(rule.every)),
            verify_sample: verify.and_then(|rule| rule.sample),
        }
    }
}
