//! Points looked into for whoever asks the dispatcher: partitions, folders, searches, differences.
//!
//! ```text
//! dispatcher (pool)                      child, one per point or pair of points that are compared
//! -----------------                      -----
//! starts it  ------------------------->  a mount namespace of its own, the points mounted there
//!            <------ Ok, or why not ---
//! a question ----- a line of JSON ---->  a folder: read at once
//!            <---- a line of JSON -----  a search: a thread, whose finds wait for whoever asks for more
//! closes the pipe -------------------->  ends, and the mounts with it
//! ```
//!
//! The dispatcher itself mounts nothing and reads no filesystem: a driver of the kernel that hangs on a damaged one
//! holds up a child, which is killed, and nothing else. A child that is killed leaves no mount: its namespace goes with it.

mod browser;
pub mod child;
mod compare;
mod folder;
pub mod pool;
mod rows;
mod search;
mod stream;

use crate::api::backend::{DiffRequest, FilesRequest, FindRequest};
use crate::api::error::ApiError;
use crate::archive::ArchiveError;
use crate::mount::MountError;
use serde::{Deserialize, Serialize};

/// What a child is asked. It answers with `Result<Findings<_>, ApiError>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Partitions,
    Files(FilesRequest),
    Find(FindRequest),
    /// Of a child with two points.
    Diff(DiffRequest),
}

impl From<MountError> for ApiError {
    fn from(error: MountError) -> Self {
        match error {
            MountError::NotFound(text) => Self::not_found(text),
            MountError::Refused(text) => Self::refused(text),
            MountError::NotRoot => Self::refused(
                "files of a point can only be shown where points can be mounted: run the dispatcher as root",
            ),
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Refused(text) => Self::refused(text),
            other => Self::failed(other.to_string()),
        }
    }
}
