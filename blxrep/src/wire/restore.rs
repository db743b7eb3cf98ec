//! `/ws/restore`: one restore to an agent, which was told of it on `/ws/config`. The agent dials, because it never
//! listens, and because what it writes is its own decision.
//!
//! ```text
//! agent                              dispatcher
//! Begin { action }           ->
//!                            <-      Device | Files | Hold | Refuse
//! ```
//!
//! Onto a device, in passes over all of it:
//!
//! ```text
//! Blocks, ascending          ->                                     (not in the first pass of a full restore)
//!                            <-      Differs (for each block that does), Judged
//! Want [block, granules]     ->
//!                            <-      data frames, end
//! Received (credit)          ->
//! Durable { block, .. }      ->
//! Compared { count, digest } ->                                     (ends a pass)
//!                            <-      Settled { count, digest }
//! Verified                   ->                                     (after a pass that wanted nothing)
//!                            <-      Noted
//! ```
//!
//! Files below a folder:
//!
//! ```text
//!                            <-      data frames of one stream of bytes, end
//! Received (credit)          ->
//! Progress                   ->                                     (from time to time)
//! Outcome, in pieces         ->                                     (after the end)
//! Restored                   ->
//!                            <-      Noted
//! ```
//!
//! The stream is a tree as bytes ([`crate::archive::stream`]) for each partition, one after the other. The offset of a
//! frame is its place in it. Frames are whole sectors: zeroes fill up the last one, behind the end of the last tree.
//!
//! The messages of a comparison are those of `/ws/snapshot`, with the same limits. `Want` comes when nothing is
//! unjudged; data of one `Want` are under way at a time, and at most [`CREDIT`] bytes that the agent has not taken.

use crate::model::comparison::{Digest, Wanted};
use crate::model::ids::ActionId;
use crate::model::restored::Outcome;
use serde::{Deserialize, Serialize};

/// Bytes of data frames, headers included, that may be on their way without the agent having taken them.
pub const CREDIT: u64 = 8 << 20;
/// The agent says what it has taken after each further so many bytes.
pub const CREDIT_STEP: u64 = 1 << 20;
/// Blocks of one [`ToDispatcher::Want`]: what is made durable together, 64 MiB of the disk.
pub const MAX_WANTED: usize = 256;

/// Agent to dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDispatcher {
    /// Asks for what the restore with this action writes.
    Begin { action: ActionId },
    /// Bytes of data frames taken off this connection since it began: the dispatcher's credit.
    Received { bytes: u64 },
    /// Digests of blocks of the target that follow each other.
    Blocks { first: u32, digests: Vec<Digest> },
    /// The content of these granules; blocks ascend. At most [`MAX_WANTED`].
    Want(Vec<Wanted>),
    /// All below this block is on stable storage as the point has it; so many bytes were written on this connection.
    Durable { block: u32, written: u64 },
    /// The pass has come to its end: so many blocks were sent in it, with this digest of theirs.
    Compared { count: u64, digest: [u8; 32] },
    /// A whole pass over the target found nothing that differs from the point.
    Verified { written: u64 },
    /// Files and bytes of files that were written on this connection.
    Progress { files: u64, bytes: u64 },
    /// A piece of what came of a restore of files.
    Outcome(Outcome),
    /// All files came, and are on stable storage; what came of them was said.
    Restored,
    /// Given up for good; says why, and what became of the target.
    Failed { reason: String },
}

/// Dispatcher to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// The target's first `bytes` are to become those of the point; the pass begins at block `from`. Digests are keyed.
    Device { granule_shift: u32, bytes: u64, key: [u8; 32], from: u32, full: bool },
    /// Files follow, of so many partitions. `again`: an earlier connection may have carried a part of them.
    Files { partitions: u32, again: bool },
    /// It cannot be done; says why and what to do.
    Refuse { reason: String },
    /// Not now: a person paused or cancelled it. Also ends a restore that is under way.
    Hold { reason: String },
    /// A block whose digest is another in the point, with the digests of its granules.
    Differs { block: u32, granules: Vec<Digest> },
    /// All blocks below this one are judged.
    Judged { through: u32 },
    /// All blocks of the pass were judged: so many verdicts, and this is their digest.
    Settled { count: u64, digest: [u8; 32] },
    /// The end is kept: the restore has succeeded.
    Noted,
}
