//! `/ws/snapshot`: one disk's full image, then rounds over what changed meanwhile, until a cut passes. Or a comparison
//! of the disk with its newest point, by digests.
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
//!
//! ```text
//! agent                              dispatcher
//! Compare                    ->
//!                            <-      Against { point, bytes, key } | Hold | Refuse
//! Blocks, ascending          ->
//!                            <-      Differs (for each block that does), Judged
//! Compared { count, digest } ->
//!                            <-      Settled { count, digest }
//! Found                      ->
//!                            <-      Noted
//! ```
//!
//! At most [`MAX_UNJUDGED`] messages of blocks are not judged yet: that is the agent's credit. `Compared` ends the blocks
//! and `Settled` the verdicts, each with how many there were and a digest of them in order.

use crate::model::comparison::Digest;
use crate::model::ids::{ActionId, DiskIdentity, Epoch, PointId};
use crate::model::point::CutSummary;
use crate::model::tracking::Imaged;
use serde::{Deserialize, Serialize};

/// Blocks of one message: 16 MiB of the disk.
pub const MAX_BLOCKS: usize = 64;
/// Messages of blocks that may be under way or waiting to be judged. The agent keeps the digests of their granules.
pub const MAX_UNJUDGED: usize = 8;
/// Ranges that a comparison names one by one; what is more is summed up.
pub const MAX_FOUND: usize = 256;

/// What a comparison is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Coverage was lost, for this reason: what is equal need not be sent. `asked` says that a person waits for it.
    Rescan { reason: String, asked: bool },
    /// A person wants to know whether the newest point is what the disk holds.
    Verify { action: ActionId },
}

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
        /// The image that was begun last, if everything that was written since is still marked.
        imaged: Option<Imaged>,
    },
    /// The last round passed (or is published as fuzzy): this is what the image stands for.
    Seal(CutSummary),
    /// Given up; what was stored stays for a later `Begin`.
    Abort { reason: String },
    /// Asks for the newest point of the disk, to compare it with what the disk holds now.
    Compare { purpose: Purpose, disk: DiskIdentity, device: String, bytes: u64, granule_shift: u32 },
    /// Digests of blocks that follow each other; at most [`MAX_BLOCKS`].
    Blocks { first: u32, digests: Vec<Digest> },
    /// All blocks were sent on this connection: so many, with this digest of theirs.
    Compared { count: u64, digest: [u8; 32] },
    /// What came of it: granules that differ, and where the first of them are.
    Found { granules: u64, ranges: Vec<(u32, u32)> },
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
    /// Compare with this point of a disk of `bytes`; digests are keyed.
    Against {
        point: PointId,
        bytes: u64,
        key: [u8; 32],
    },
    /// Not now: a person paused or cancelled it. Also ends a comparison that is under way.
    Hold {
        reason: String,
    },
    /// A block whose digest is another here, with the digests of its granules.
    Differs {
        block: u32,
        granules: Vec<Digest>,
    },
    /// All blocks below this one are judged.
    Judged {
        through: u32,
    },
    /// All were judged: so many, and this is the digest of what was said of them.
    Settled {
        count: u64,
        digest: [u8; 32],
    },
    Noted,
}
