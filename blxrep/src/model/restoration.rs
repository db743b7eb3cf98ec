//! Restores to agents: what is asked of one, and what it says before anything is written.

use super::ids::{DiskIdentity, PointId};
use serde::{Deserialize, Serialize};

/// What an agent is asked to restore. Whether it may is for its own configuration to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoration {
    pub point: PointId,
    pub target: Target,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Device(DeviceTarget),
    Files(FilesTarget),
}

/// The content of a disk or partition goes onto a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTarget {
    /// Path of the device on the agent's host, as a person gave it.
    pub device: String,
    /// Bytes that are written, from the device's first on.
    pub bytes: u64,
    /// They are those of a whole disk: its partition table is read anew afterwards.
    pub whole: bool,
    /// Everything is written, without comparing first.
    pub full: bool,
}

/// Files go below a folder. Which files they are, only the dispatcher needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesTarget {
    /// Absolute path of a folder on the agent's host.
    pub folder: String,
    pub conflict: Conflict,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What is done where something is in the way of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// What exists stays as it is.
    #[default]
    Skip,
    /// It is replaced; folders are never removed.
    Overwrite,
    /// What is restored gets another name.
    Rename,
}

/// The restore is possible, and this is what it would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// The target, what it holds now, and what would be done to it: a sentence each.
    pub findings: Vec<String>,
    /// What would be gone afterwards, as a sentence; `None` if nothing would.
    pub overwrites: Option<String>,
    /// The target is, or lies on, this disk, which the agent keeps in sync.
    pub protects: Option<DiskIdentity>,
}

/// Whether a point of the target is made before it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Not wanted, or the target is not kept in sync.
    None,
    /// It has to be published before anything is written.
    Due,
    /// This point is the target as it was.
    Made(PointId),
}

impl Target {
    /// Path on the agent's host.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Device(target) => &target.device,
            Self::Files(target) => &target.folder,
        }
    }
}
