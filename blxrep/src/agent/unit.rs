//! One protected disk as the agent's tasks share it: what tracks it, what reads it, what is known of it.

use crate::engine::audit::Verdict;
use crate::engine::cut::Witnesses;
use crate::io::source::DiskSource;
use crate::io::tracker::DiskTracker;
use crate::model::bitmap::Bitmap;
use crate::model::granules::GranuleSet;
use crate::model::ids::{DiskIdentity, Epoch, PointId};
use crate::model::units::GranuleSize;
use std::sync::{Arc, Mutex, PoisonError};

/// A tracked disk.
#[derive(Debug)]
pub struct Unit {
    pub identity: DiskIdentity,
    pub source: Arc<DiskSource>,
    tracker: Arc<DiskTracker>,
    /// Why the next point must carry the whole disk. The maps remember that too (every granule is pending); this
    /// is the reason that the point will show.
    lost: Mutex<Option<String>>,
}
