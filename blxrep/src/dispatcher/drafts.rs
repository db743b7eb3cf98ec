//! Points whose connection broke before they were whole. What was received of each is kept for a while, so that its agent
//! goes on behind it; see `agent/live.rs`. Nothing of it survives the dispatcher.

use crate::model::ids::DiskId;
use crate::store::delta::DeltaWriter;
use crate::wire::chain::Chain;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An agent that did not come back for so long may not come back at all, and what it has sent takes room.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// An open delta, and the frames that it was made of.
#[derive(Debug)]
pub struct Draft {
    pub writer: DeltaWriter,
    pub chain: Chain,
}

/// At most one per disk. Whoever opens a point or an image of a disk, and so holds its lock, takes it first.
#[derive(Clone, Debug, Default)]
pub struct Drafts {
    kept: Arc<Mutex<BTreeMap<DiskId, (Draft, Instant)>>>,
}

impl Drafts {
    pub fn keep(&self, disk: DiskId, draft: Draft) {
        self.lock().insert(disk, (draft, Instant::now()));
    }

    /// Who does not want it drops it, and its file goes.
    pub fn take(&self, disk: DiskId) -> Option<Draft> {
        self.lock().remove(&disk).map(|(draft, _)| draft)
    }

    /// Drops those that nobody came back for.
    pub fn drop_old(&self) {
        self.lock().retain(|_, (_, since)| since.elapsed() <= KEPT_FOR);
    }

    /// Drops all: what they take is needed for more than hopes.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DiskId, (Draft, Instant)>> {
        // The map is whole after every call.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
