//! What the API says and hears, as JSON. Stable: fields are added, never renamed or given another meaning.
//!
//! Ids are hex digits, times RFC 3339, sizes bytes. What is not known is `null`.

use crate::model::action::{ActionKind, ActionState};
use crate::model::byte_text::ByteText;
use crate::model::holes::Holes;
use crate::model::hook::HookResult;
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, AgentId, CutId, DiskId, GenerationId, PointId, StoreId};
use crate::model::part_id::PartId;
use crate::model::percent::Percent;
use crate::model::point::{Consistency, Coverage, PointKind, Round};
use crate::model::policy::Goal;
use crate::model::restoration::Conflict;
use crate::model::restored::Outcome;
use crate::model::units::ByteCount;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::{IntoParams, ToSchema};

/// The dispatcher itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DispatcherStatus {
    pub version: String,
    pub store: StoreId,
    pub data_dir: String,
    /// Address that agents connect to.
    pub listen: String,
    pub started: Timestamp,
    pub uptime_seconds: u64,
    pub agents: u64,
    pub agents_online: u64,
    pub disks: u64,
    pub points: u64,
    /// Bytes free on the filesystem of the data directory.
    pub free_bytes: Option<u64>,
    /// Bytes that the files of all points take; what a consolidation has let go is in it until that has ended.
    pub stored_bytes: Option<u64>,
    /// Bytes that points of the last 24 hours added to that and that are still there. `null` during the first day.
    pub growth_bytes_per_day: Option<u64>,
    /// Days until the free bytes are used up at that growth; `null` where there is none.
    pub days_to_full: Option<u64>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentRow {
    pub id: AgentId,
    pub hostname: String,
    pub distribution: String,
    pub kernel: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub online: bool,
    pub last_seen: Option<Timestamp>,
    /// Where it connects from.
    pub address: Option<String>,
    /// Disks that the catalog knows of it.
    pub disks: u32,
}

/// One agent and all that it said of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentDetail {
    #[serde(flatten)]
    pub row: AgentRow,
    /// `None` if it never connected.
    pub footprint: Option<Footprint>,
}

/// What is being done for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// The agent could protect it, nobody asked for it.
    Offered,
    /// Its base is being made.
    Imaging,
    /// It has a base and points are cut.
    Protected,
    /// A person has paused its snapshot or its points; changes go on being tracked.
    Paused,
    /// The policy leaves it out.
    Excluded,
    /// It should be protected and is not; `problem` says why and what to do.
    Problem,
    /// Known from earlier; its agent does not offer it now or is not connected.
    Absent,
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offered => "offered",
            Self::Imaging => "imaging",
            Self::Protected => "protected",
            Self::Paused => "paused",
            Self::Excluded => "excluded",
            Self::Problem => "problem",
            Self::Absent => "absent",
        })
    }
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskRow {
    pub id: DiskId,
    pub agent: AgentId,
    /// Where the agent saw it last, as `/dev/sda`.
    pub device: String,
    /// `wwn:...`, `serial:...`, `gpt:...`, `mbr:...` or `name:...`.
    pub identity: String,
    pub bytes: u64,
    pub state: DiskState,
    /// `proven`, or `unknown: REASON`: whether every change since the point before is known.
    #[serde(with = "coverage_text")]
    #[schema(value_type = String, example = "proven")]
    pub coverage: Coverage,
    /// Age of the newest published point.
    pub lag_seconds: Option<u64>,
    /// Bytes dirty and not yet published.
    pub backlog: Option<u64>,
    pub newest_point: Option<PointId>,
    pub newest_cut: Option<Timestamp>,
    pub points: u64,
    /// Name of the policy that its agent gets; `null` if none names the agent.
    #[serde(default)]
    pub policy: Option<String>,
    /// What the audit cannot see on this disk.
    pub notes: Vec<String>,
    pub problem: Option<String>,
}

/// Sectors of 512 bytes: the first one, and the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SectorRange {
    pub start: u64,
    pub end: u64,
}

/// One recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointRow {
    pub id: PointId,
    pub agent: AgentId,
    pub disk: DiskId,
    /// Where the agent saw the disk last.
    pub device: String,
    pub identity: String,
    pub generation: GenerationId,
    pub kind: PointKind,
    pub parent: Option<PointId>,
    /// Position in the generation, from 0. Stays when points before it go.
    pub sequence: u64,
    /// The points of one cut share it.
    pub cut_id: CutId,
    /// The instant that the point stands for.
    pub cut: Timestamp,
    pub published: Timestamp,
    pub consistency: Consistency,
    /// `proven`, or `unknown: REASON`: whether every change since the point before is known.
    #[serde(with = "coverage_text")]
    #[schema(value_type = String, example = "proven")]
    pub coverage: Coverage,
    /// Bytes of the disk whose content the point carries.
    pub bytes: u64,
    /// Bytes that its files take in the store.
    pub stored: u64,
    /// Size of the disk at the cut.
    pub disk_bytes: u64,
    pub rounds: u32,
    /// Granules that had to be read again because they may have changed under the reader, all rounds together.
    pub contaminated: u64,
    /// Milliseconds that filesystems were frozen.
    pub freeze_ms: Option<u32>,
    /// What each round read, and how long that took.
    pub each_round: Vec<Round>,
    /// What came of the agent's hooks.
    pub hooks: Vec<HookResult>,
    /// Identities of the disks that were cut together.
    pub group: Vec<String>,
    /// Why it is not `quiet`, and what the audit said.
    pub notes: Vec<String>,
    /// Ranges of sectors that could not be read of the disk: what they held is not known, and the point is incomplete.
    #[serde(default)]
    #[schema(value_type = Vec<SectorRange>)]
    pub holes: Holes,
    /// The restore onto the disk that was unfinished at the cut: the point is a mixture of two states.
    #[serde(default)]
    pub half_restored: Option<ActionId>,
    /// What verifications found wrong with its files and did not find healed since.
    #[serde(default)]
    pub damage: Vec<String>,
}

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionRow {
    pub id: ActionId,
    pub kind: ActionKind,
    /// `None` for what concerns the whole store.
    pub agent: Option<AgentId>,
    pub disk: Option<DiskId>,
    pub device: Option<String>,
    pub state: ActionState,
    /// Why it is in this state. Empty when there is nothing to say.
    pub reason: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// Bytes done and to do; `total` is 0 when it is not known.
    pub done: u64,
    pub total: u64,
}

/// How a sync went for one disk. Without `wait` only the disk and `cut_id` are filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncRow {
    pub agent: AgentId,
    pub disk: DiskId,
    pub device: String,
    pub identity: String,
    /// The same in every row of one sync.
    pub cut_id: CutId,
    pub point: Option<PointId>,
    pub consistency: Option<Consistency>,
    pub bytes: Option<u64>,
    pub rounds: Option<u32>,
    pub published: Option<Timestamp>,
    pub error: Option<String>,
}

/// What a verify found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    pub action: ActionId,
    /// Points, files and bytes that were read and compared with their digests.
    pub points: u64,
    pub files: u64,
    pub bytes: u64,
    /// Bytes that there are to read; with a sample more than were.
    #[serde(default)]
    pub of_bytes: u64,
    /// How much of them was to be read, and the number that chose which.
    #[serde(default)]
    pub sample: Option<Percent>,
    #[serde(default)]
    pub seed: Option<u64>,
    /// Empty when everything is as it was stored.
    pub problems: Vec<VerifyProblem>,
    /// Points that lack sectors which could not be read: stored as they were sent, and not the whole disk.
    #[serde(default)]
    pub incomplete: Vec<String>,
}

/// Something in the store that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyProblem {
    pub point: Option<PointId>,
    pub file: String,
    /// What is wrong with it, and which points depend on it.
    pub what: String,
    /// Byte of the file.
    #[serde(default)]
    pub offset: Option<u64>,
    /// The first sector of the disk whose content is lost, and the one behind the last.
    #[serde(default)]
    pub sectors: Option<[u64; 2]>,
    /// All points that are affected.
    #[serde(default)]
    pub points: Vec<PointId>,
}

/// What can be done to an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Pause,
    Resume,
    Cancel,
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        })
    }
}

/// `POST /api/v1/snapshots`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotBody {
    pub agent: String,
    pub disk: String,
}

/// `POST /api/v1/syncs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncBody {
    pub agent: String,
    /// One disk; all of the agent's disks without it.
    #[serde(default)]
    pub disk: Option<String>,
    /// What the points shall be; what the policy says without it.
    #[serde(default)]
    pub consistency: Option<Goal>,
    /// Answer when the points are published, or could not be.
    #[serde(default)]
    pub wait: bool,
}

/// What came of a restore of files, or would come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FilesReport {
    pub action: ActionId,
    pub point: PointId,
    /// On whose host; `None` is the dispatcher's.
    pub agent: Option<AgentId>,
    /// The folder.
    pub target: String,
    /// `restored` or, of a dry run, `planned`.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl FilesReport {
    /// How its action ended, in a sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let (target, from) = (&self.target, self.agent.as_ref().map(|agent| format!(" of {agent}")));
        let place = format!("{target}{}", from.unwrap_or_default());
        match &self.outcome {
            Outcome::Planned(plan) => {
                let steps = plan.more.saturating_add(plan.steps.len() as u64);
                format!(
                    "dry run, nothing was written: {steps} steps would be taken in {place}, {} would fail",
                    plan.failed
                )
            }
            Outcome::Restored(report) => format!(
                "{} files ({}) were restored to {place}; {} skipped, {} already there, {} failed",
                report.files,
                ByteCount(report.bytes),
                report.skipped,
                report.same,
                report.failed
            ),
        }
    }

    /// Whether its action has failed, and not just some entries were skipped.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.outcome.failed() > 0
    }
}

/// `POST /api/v1/restores`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBody {
    pub point: String,
    /// One partition or volume; the whole disk without it.
    #[serde(default)]
    pub partition: Option<PartId>,
    /// Absolute path of a file or a whole block device on the dispatcher's host. Either this or `agent` and `device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The agent on whose host it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Absolute path of a block device there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Write everything to the device, without comparing first.
    #[serde(default)]
    pub full: bool,
    /// Do not make a point of the device first. Without it one is made, if the device is kept in sync.
    #[serde(default)]
    pub no_undo: bool,
    /// Files and folders, `[PARTITION:]PATH` each, instead of a disk or a part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<ByteText>,
    /// Absolute path of the folder that they go to: the agent's, or without one the dispatcher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What to do where something exists there already.
    #[serde(default)]
    pub conflict: Conflict,
    /// Only say what would be done. Of a device the answer is an action that has ended, with that as its reason; of files
    /// the action's report says it.
    #[serde(default)]
    pub dry_run: bool,
    /// Overwrite what is there.
    #[serde(default)]
    pub yes: bool,
    /// With `yes`, of a device: the `about` of the error `unconfirmed` that is agreed to. If it is not so any more, the
    /// answer is that error again; without it, whatever is there is overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<String>,
    /// Write zeroes for what the point lacks because it could not be read.
    #[serde(default)]
    pub allow_holes: bool,
}

/// `POST /api/v1/verifications`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// One point and what it depends on; the whole store without it.
    #[serde(default)]
    pub point: Option<String>,
    /// All disks of one agent; not together with a point.
    #[serde(default)]
    pub agent: Option<String>,
    /// Read only so much, chosen at random.
    #[serde(default)]
    pub sample: Option<Percent>,
}

/// `POST /api/v1/verifications/source`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceBody {
    pub agent: String,
    /// Device, identity or id; may be left out where the agent has one disk with points.
    #[serde(default)]
    pub disk: Option<String>,
}

/// The query of `GET /api/v1/disks`, `/points` and `/actions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    #[serde(default)]
    pub agent: Option<String>,
    #[serde(default)]
    pub disk: Option<String>,
    /// Only this many, the newest ones.
    #[serde(default)]
    pub newest: Option<u32>,
    /// Items of the answer: 1 to 1000, 200 without it.
    #[serde(default)]
    pub limit: Option<u32>,
    /// What an answer had as its `next`.
    #[serde(default)]
    pub after: Option<String>,
}

/// Coverage as the text that people read: `proven` or `unknown: REASON`.
mod coverage_text {
    use crate::model::point::Coverage;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(coverage: &Coverage, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(coverage)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Coverage, D::Error> {
        let text = String::deserialize(d)?;
        match text.strip_prefix("unknown: ") {
            Some(reason) => Ok(Coverage::Unknown(reason.to_owned())),
            None if text == "proven" => Ok(Coverage::Proven),
            None => Err(D::Error::custom(format!(
                "`{text}` is no coverage: expected `proven` or `unknown: REASON`"
            ))),
        }
    }
}
