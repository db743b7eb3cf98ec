//! How long points are kept, and what is done to keep no more.

use super::ids::{GenerationId, PointId};
use std::fmt;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// Which points of a disk are kept. Spans count back from the newest point of the agent, so that what a disk has does
/// not thin out while nothing new comes. The newest point is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every point for so long.
    pub all: Duration,
    /// One point of each minute, hour, day, week.
    pub minutely: Duration,
    pub hourly: Duration,
    pub daily: Duration,
    pub weekly: Duration,
    /// Points that are so old by the clock go, whatever else is said.
    pub delete_after: Option<Duration>,
    /// Of what is left, the newest so many of each disk.
    pub max_points: usize,
}

impl Default for Retention {
    /// At most 850 points of a disk, also with a point every second.
    fn default() -> Self {
        Self {
            all: Duration::from_secs(600),
            minutely: Duration::from_secs(2 * 3600),
            hourly: 2 * DAY,
            daily: 30 * DAY,
            weekly: 364 * DAY,
            delete_after: None,
            max_points: 1000,
        }
    }
}

/// One thing to be done with the files of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing of it is kept: image and deltas are deleted.
    Expire { generation: GenerationId },
    /// Its last points go. Only where a newer generation has the newest point.
    Trim { generation: GenerationId, points: Vec<PointId> },
    /// These neighbouring points go: their deltas and that of `into`, the next one, become one.
    Merge { generation: GenerationId, points: Vec<PointId>, into: PointId },
    /// The base goes: the delta of `into`, the next point, goes into its image.
    Fold { generation: GenerationId, base: PointId, into: PointId },
}

impl Step {
    #[must_use]
    pub const fn generation(&self) -> GenerationId {
        match self {
            Self::Expire { generation }
            | Self::Trim { generation, .. }
            | Self::Merge { generation, .. }
            | Self::Fold { generation, .. } => *generation,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expire { generation } => write!(f, "delete generation {generation}"),
            Self::Trim { points, .. } => write!(f, "delete the last {} points", points.len()),
            Self::Merge { points, into, .. } => write!(f, "merge {} points into {into}", points.len()),
            Self::Fold { base, into, .. } => write!(f, "fold {into} into the image of {base}"),
        }
    }
}
