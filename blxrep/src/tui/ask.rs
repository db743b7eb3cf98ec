//! What is asked of the dispatcher, and what comes back.

use super::model::Data;
use crate::api::browse::{ChangeRow, DiffQuery, FileRow, FilesQuery, FindQuery, Findings, PartitionRow};
use crate::api::client::ClientError;
use crate::api::error::ErrorCode;
use crate::api::exports::{ExportBody, ExportRow};
use crate::api::mounts::{MountBody, MountRow};
use crate::api::policies::PolicyList;
use crate::api::types::{
    ActionRow, AgentDetail, Control, FilesReport, PointRow, RestoreBody, SyncBody, SyncRow, VerifyReport,
};
use crate::model::ids::{ActionId, AgentId, DiskId, PointId};
use std::fmt;

/// Names one question, so that its answer finds who asked, or nobody if they have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The dispatcher, its agents and disks, and what it does.
    Overview,
    /// Only the newest so many points of a disk.
    Points {
        disk: DiskId,
        newest: u32,
    },
    Agent(AgentId),
    /// Pause, resume or cancel.
    Control(ActionId, Control),
    Sync(SyncBody),
    /// Read a point and what it depends on, and compare it with its digests.
    Verify(PointId),
    /// What lies on a point's disk.
    Partitions(PointId),
    /// One page of a folder.
    Files {
        point: PointId,
        query: FilesQuery,
    },
    /// One page of what fits a name.
    Find {
        point: PointId,
        query: FindQuery,
    },
    /// One page of how two points differ.
    Diff {
        point: PointId,
        query: DiffQuery,
    },
    /// What a restore of files would do. Ends when that is known.
    TryFiles(Box<RestoreBody>),
    Restore(Box<RestoreBody>),
    /// What became of the files of a restore.
    Restored(ActionId),
    /// What a verification found.
    Report(ActionId),
    Policies,
    /// What is mounted and served on the dispatcher's host.
    Shown,
    Mount(MountBody),
    /// By its folder.
    Unmount(String),
    Export(ExportBody),
    /// By its URI.
    StopExport(String),
}

impl Ask {
    /// The same question about what comes behind a page. What comes in one page has nothing behind it.
    #[must_use]
    pub fn behind(mut self, page: Option<String>) -> Self {
        match &mut self {
            Self::Files { query, .. } => query.after = page,
            Self::Find { query, .. } => query.after = page,
            Self::Diff { query, .. } => query.after = page,
            _ => {}
        }
        self
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Overview(Box<Data>),
    Points {
        disk: DiskId,
        rows: Vec<PointRow>,
    },
    Agent(Box<AgentDetail>),
    Synced(Vec<SyncRow>),
    /// An action was begun, or is in another state.
    Action(ActionRow),
    Report(Box<VerifyReport>),
    Restored(Box<FilesReport>),
    Partitions(Findings<PartitionRow>),
    Files(Findings<FileRow>),
    Changes(Findings<ChangeRow>),
    Policies(Box<PolicyList>),
    Shown(Vec<Shown>),
    Mounted(MountRow),
    Exported(ExportRow),
    /// What was shown is so no longer.
    Ended(Way),
}

/// How a point is shown on the dispatcher's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Mount(MountRow),
    Export(ExportRow),
}

impl Way {
    /// Id of the point.
    #[must_use]
    pub fn point(&self) -> &str {
        match self {
            Self::Mount(row) => &row.point,
            Self::Export(row) => &row.point,
        }
    }
}

/// A point that is shown, and what is known of it; nothing if the store has let it go, which a mount outlives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub way: Way,
    pub point: Option<Box<PointRow>>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub text: String,
    /// What kind of refusal it is; `None` if the dispatcher could not be asked.
    pub code: Option<ErrorCode>,
    /// What is to be agreed to; goes back with the order.
    pub about: Option<String>,
}

impl Failure {
    /// One that no dispatcher has said.
    #[must_use]
    pub fn of(text: String) -> Self {
        Self { text, code: None, about: None }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            ClientError::Api(api) => Self { text, code: Some(api.code), about: api.about },
            _ => Self::of(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One or the other.
pub type Reply = Result<Answer, Failure>;
