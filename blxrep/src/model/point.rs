//! Recovery points: what one stands for and what was proven of it.

use super::holes::Holes;
use super::hook::HookResult;
use super::ids::{ActionId, AgentId, CutId, DiskId, DiskIdentity, Epoch, GenerationId, PointId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What a point is proven to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Filesystems were frozen at the cut.
    Frozen,
    /// Proven crash-consistent without a freeze.
    Quiet,
    /// Neither; the point says why.
    Fuzzy,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frozen => "frozen",
            Self::Quiet => "quiet",
            Self::Fuzzy => "fuzzy",
        })
    }
}

/// Whether the dirty set behind a point is known to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coverage {
    Proven,
    /// It was not, for this reason; the point was formed by reading the whole disk again.
    Unknown(String),
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven => f.write_str("proven"),
            Self::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

/// A point is the base of its generation or a delta on its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PointKind {
    Base,
    Delta,
}

impl fmt::Display for PointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Delta => "delta",
        })
    }
}

/// One pass of a cut: what was swept and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Round {
    /// Granules read in this round.
    pub granules: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Granules that may have been overwritten while they were read.
    pub contaminated: u64,
    /// Microseconds from the sweep to the end of the reads.
    pub micros: u64,
}

/// What the agent says of a cut; stored with the point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutSummary {
    pub cut: CutId,
    /// The instant the point stands for: the start of the last round's sweep.
    pub at: Timestamp,
    pub consistency: Consistency,
    pub coverage: Coverage,
    /// Why the point is not `quiet`, and what the audit said, in a sentence each. Empty when all is proven.
    pub notes: Vec<String>,
    pub rounds: Vec<Round>,
    /// Milliseconds that filesystems were frozen; `None` without a freeze.
    pub freeze_ms: Option<u32>,
    /// What came of the hooks around the cut, in the order in which they ran.
    pub hooks: Vec<HookResult>,
    /// Disks that share the cut, by identity.
    pub group: Vec<DiskIdentity>,
    /// What could not be read of this disk: zeroes stand for it, and a view gives an error there.
    pub holes: Holes,
}

/// One published recovery point, as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub id: PointId,
    pub disk: DiskId,
    pub generation: GenerationId,
    pub kind: PointKind,
    /// The point that its delta stands on; `None` for a base.
    pub parent: Option<PointId>,
    /// Position in the generation, counted from its first point. Stays as it is when points before it go.
    pub sequence: u64,
    /// Position among all points of the disk, in the order of publication.
    pub number: u64,
    pub epoch: Epoch,
    pub summary: CutSummary,
    pub published: Timestamp,
    /// Bytes of the disk whose content the point carries.
    pub bytes: u64,
    /// Bytes that its files take in the store.
    pub stored: u64,
    /// Size of the disk at the cut.
    pub disk_bytes: u64,
    /// Digests of the files: the sidecar's root for a base, else the delta and the change set.
    pub digests: PointDigests,
    /// Part of the names of its files: 0 as they were received, else a number that consolidation gave them.
    pub edition: u32,
    /// This restore onto the disk was unfinished at the cut.
    pub half_restored: Option<ActionId>,
}

/// What to think of a point that was cut while a restore onto its disk was unfinished.
#[must_use]
pub fn mixture(restore: ActionId) -> String {
    format!(
        "restore {restore} onto its disk was unfinished when it was cut: it is a mixture of two states of the disk"
    )
}

/// BLAKE3 digests that tie files to their catalog row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointDigests {
    Base { sidecar: [u8; 32] },
    Delta { delta: [u8; 32], changes: [u8; 32] },
}

/// One protected disk of one agent, as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub id: DiskId,
    pub agent: AgentId,
    pub identity: DiskIdentity,
    /// Where the agent saw it last, as `/dev/nvme0n1`. Not a name of the disk: it changes.
    pub device: String,
    pub bytes: u64,
    /// log2 of the granule's bytes.
    pub granule_shift: u32,
    pub first_seen: Timestamp,
}
