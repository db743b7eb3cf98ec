//! What the API needs of the dispatcher.

use super::browse::{ChangeRow, FileRow, Findings, PartitionRow};
use super::chain::PointChain;
use super::consolidation::ConsolidationPlan;
use super::error::Result;
use super::events::Ear;
use super::exports::ExportRow;
use super::mounts::MountRow;
use super::page::{Page, Window};
use super::policies::PolicyList;
use super::types::{
    ActionRow, AgentDetail, AgentRow, Control, DiskRow, DispatcherStatus, FilesReport, PointRow, SyncRow,
    VerifyReport,
};
use crate::model::byte_text::ByteText;
use crate::model::ids::{ActionId, AgentId, DiskId, PointId};
use crate::model::part_id::PartId;
use crate::model::percent::Percent;
use crate::model::policy::Goal;
use crate::model::restoration::Conflict;
use crate::model::verification::Scope;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Which points or actions are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub agent: Option<AgentId>,
    pub disk: Option<DiskId>,
}

/// Cut now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncRequest {
    pub agent: AgentId,
    /// One disk; all of the agent's disks without it.
    pub disk: Option<DiskId>,
    /// What the points shall be; what the policy says without it.
    pub goal: Option<Goal>,
    /// Answer when the points are published, or could not be.
    pub wait: bool,
}

/// Write a point's content somewhere on the dispatcher's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRequest {
    pub point: PointId,
    /// One partition or volume; the whole disk without it.
    pub partition: Option<PartId>,
    /// Absolute path of a file or a whole block device.
    pub to: PathBuf,
    /// Overwrite what is there. Without it, a target that exists is answered with `ApiError::unconfirmed`, whose
    /// message says what would be overwritten.
    pub yes: bool,
    /// Write zeroes for what the point lacks because it could not be read. Without it, such a point is refused.
    pub allow_holes: bool,
}

/// Write a point's content on an agent's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRestore {
    pub agent: AgentId,
    pub point: PointId,
    /// One partition or volume; the whole disk without it.
    pub partition: Option<PartId>,
    /// Path of a block device on the agent's host.
    pub device: String,
    /// Write everything, without comparing first.
    pub full: bool,
    /// Make a point of the target first, if it is kept in sync.
    pub undo: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// As of [`RestoreRequest`].
    pub yes: bool,
    /// What the answer `unconfirmed` was about; if it is no more so, that is the answer again.
    pub agreed: Option<String>,
    pub allow_holes: bool,
}

/// Write files of a point below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesRestore {
    pub point: PointId,
    /// `[PARTITION:]PATH` each, in bytes.
    pub paths: Vec<Vec<u8>>,
    /// Absolute path.
    pub target: String,
    pub conflict: Conflict,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// On whose host; the dispatcher's without it.
    pub agent: Option<AgentId>,
}

/// Read what is stored and compare it with its digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    pub scope: Scope,
    /// Only so much of it, chosen at random.
    pub sample: Option<Percent>,
}

/// Entries of a folder of a point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesRequest {
    /// May be left out where only one has files.
    pub partition: Option<PartId>,
    /// From the root; the root itself if it is empty.
    pub path: ByteText,
    /// Entries of an answer.
    pub limit: usize,
    /// Only names behind this one.
    pub after: Option<ByteText>,
}

/// Files of a point whose names or paths fit a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindRequest {
    /// All that have files without it.
    pub partition: Option<PartId>,
    pub pattern: ByteText,
    pub limit: usize,
    /// So many were told before.
    pub after: u64,
}

/// What differs between two points.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRequest {
    /// All that the first point has files on without it.
    pub partition: Option<PartId>,
    pub path: ByteText,
    pub limit: usize,
    /// So many were told before.
    pub after: u64,
}

/// Serve a point as a network block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest {
    pub point: PointId,
    /// `unix:` and an absolute path, or a loopback address and port.
    pub address: String,
    /// 0 is the whole disk.
    pub partition: PartId,
    pub writable: bool,
}

/// The dispatcher as the API sees it. The routes turn what people type into ids (`resolve`) before they call it,
/// so a method given an id of something that does not exist (any more) answers `ApiError::not_found`.
pub trait Backend: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = Result<DispatcherStatus>> + Send;

    /// Hears what happens from here on.
    fn events(&self) -> Ear;

    /// Ordered by id.
    fn agents(&self) -> impl Future<Output = Result<Vec<AgentRow>>> + Send;

    fn agent(&self, agent: AgentId) -> impl Future<Output = Result<AgentDetail>> + Send;

    /// Every disk of every agent, or of one; ordered by agent and device.
    fn disks(&self, agent: Option<AgentId>) -> impl Future<Output = Result<Vec<DiskRow>>> + Send;

    /// Disk after disk, in the order of their ids; those of a disk in the order of publication.
    fn points(&self, filter: Filter, window: Window) -> impl Future<Output = Result<Page<PointRow>>> + Send;

    /// The newest so many by their cuts, oldest cut first.
    fn newest_points(
        &self,
        filter: Filter,
        count: usize,
    ) -> impl Future<Output = Result<Vec<PointRow>>> + Send;

    fn point(&self, point: PointId) -> impl Future<Output = Result<PointRow>> + Send;

    /// The partitions of a point, in the order of its table, and the volumes on them.
    fn partitions(&self, point: PointId) -> impl Future<Output = Result<Findings<PartitionRow>>> + Send;

    /// In the order of the names' bytes.
    fn files(
        &self,
        point: PointId,
        request: FilesRequest,
    ) -> impl Future<Output = Result<Findings<FileRow>>> + Send;

    /// In the order of the folders on the disk.
    fn find(
        &self,
        point: PointId,
        request: FindRequest,
    ) -> impl Future<Output = Result<Findings<FileRow>>> + Send;

    /// What the second point has more, less or other than the first.
    fn diff(
        &self,
        before: PointId,
        after: PointId,
        request: DiffRequest,
    ) -> impl Future<Output = Result<Findings<ChangeRow>>> + Send;

    /// The files that a point is made of.
    fn chain(&self, point: PointId) -> impl Future<Output = Result<PointChain>> + Send;

    /// Oldest first.
    fn actions(&self, filter: Filter) -> impl Future<Output = Result<Vec<ActionRow>>> + Send;

    fn action(&self, action: ActionId) -> impl Future<Output = Result<ActionRow>> + Send;

    /// The policies in force.
    fn policies(&self) -> impl Future<Output = Result<PolicyList>> + Send;

    /// Points that are mounted on the dispatcher's host, as it sees them.
    fn mounts(&self) -> impl Future<Output = Result<Vec<MountRow>>> + Send;

    /// Mounts a point on an empty folder, until it is unmounted or the dispatcher's host is shut down.
    fn mount(&self, point: PointId, directory: PathBuf) -> impl Future<Output = Result<MountRow>> + Send;

    /// Unmounts what is mounted on a folder.
    fn unmount(&self, directory: PathBuf) -> impl Future<Output = Result<MountRow>> + Send;

    /// Points that the dispatcher serves as network block devices.
    fn exports(&self) -> impl Future<Output = Result<Vec<ExportRow>>> + Send;

    /// Serves a point until it is stopped, or the dispatcher is.
    fn export(&self, request: ExportRequest) -> impl Future<Output = Result<ExportRow>> + Send;

    /// Sends its clients away.
    fn stop_export(&self, uri: String) -> impl Future<Output = Result<ExportRow>> + Send;

    /// At most `limit` ids in the range, ascending: how a prefix that a person typed becomes an id.
    fn point_ids(
        &self,
        range: RangeInclusive<PointId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<PointId>>> + Send;

    /// At most `limit` ids in the range, ascending.
    fn action_ids(
        &self,
        range: RangeInclusive<ActionId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ActionId>>> + Send;

    /// Begins a full image; answers with the one that is under way if there is one.
    fn snapshot(&self, disk: DiskId) -> impl Future<Output = Result<ActionRow>> + Send;

    /// One row per disk, with a common `cut_id`.
    fn sync(&self, request: SyncRequest) -> impl Future<Output = Result<Vec<SyncRow>>> + Send;

    fn control(&self, action: ActionId, control: Control) -> impl Future<Output = Result<ActionRow>> + Send;

    fn restore(&self, request: RestoreRequest) -> impl Future<Output = Result<ActionRow>> + Send;

    /// Asks the agent first: what it refuses is refused. A dry run is an action that has ended, with what was found as
    /// its reason.
    fn restore_to_agent(&self, request: AgentRestore) -> impl Future<Output = Result<ActionRow>> + Send;

    /// What came of it is for [`Self::files_report`] to say. An agent's refusal is an error.
    fn restore_files(&self, request: FilesRestore) -> impl Future<Output = Result<ActionRow>> + Send;

    /// What came of a restore of files; `not_found` for another action, or one that has not ended.
    fn files_report(&self, action: ActionId) -> impl Future<Output = Result<FilesReport>> + Send;

    /// Headers, indexes and checksums are read as a whole even where content is sampled.
    fn verify(&self, request: VerifyRequest) -> impl Future<Output = Result<ActionRow>> + Send;

    /// What a consolidation of all points, of an agent's or of a disk's would do.
    fn consolidation_plan(&self, filter: Filter) -> impl Future<Output = Result<ConsolidationPlan>> + Send;

    /// Begins it: one action for each disk that has something to be done.
    fn consolidate(&self, filter: Filter) -> impl Future<Output = Result<Vec<ActionRow>>> + Send;

    /// Compares a disk with its newest point, counting as different only what is not known to have changed.
    fn verify_source(&self, disk: DiskId) -> impl Future<Output = Result<ActionRow>> + Send;

    /// What a verify found; `not_found` for an action that is no verify or has not ended.
    fn verify_report(&self, action: ActionId) -> impl Future<Output = Result<VerifyReport>> + Send;
}
