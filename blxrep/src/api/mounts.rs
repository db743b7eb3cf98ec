//! Points that are mounted on the dispatcher's host.

use crate::mount::place::Place;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::{IntoParams, ToSchema};

/// A mounted point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountRow {
    /// Id of the point.
    pub point: String,
    pub directory: String,
    /// The process that serves it.
    pub process: u32,
    pub state: MountState,
    /// When it was mounted; `null` where that cannot be told.
    pub since: Option<Timestamp>,
    /// Folders with the files of its partitions.
    pub files: Vec<String>,
}

impl MountRow {
    /// A mount as it is now.
    #[must_use]
    pub fn of(place: &Place) -> Self {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let served = place.served_since();
        Self {
            point: place.point.clone(),
            directory: text(&place.dir),
            process: place.server,
            state: if served.is_some() { MountState::Served } else { MountState::Dead },
            since: served.and_then(|at| Timestamp::try_from(at).ok()),
            files: place.below.iter().map(text).collect(),
        }
    }
}

/// Whether a mount can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    Served,
    /// Its process has died: it can only be unmounted.
    Dead,
    /// It was unmounted just now.
    Unmounted,
}

impl MountState {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Dead => "dead",
            Self::Unmounted => "unmounted",
        }
    }
}

/// `POST /api/v1/mounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountBody {
    pub point: String,
    /// Absolute path of an empty folder on the dispatcher's host.
    pub directory: String,
}

/// The query of `DELETE /api/v1/mounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UnmountQuery {
    pub directory: String,
}
