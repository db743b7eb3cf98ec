//! One writer per disk: a new connection for a disk waits until the point of the one before it is settled.

use crate::model::ids::DiskId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// Held while a disk's base or delta is open, until it is published or given up.
pub type DiskGuard = OwnedMutexGuard<()>;

/// One lock per disk that was ever written in this life of the dispatcher.
#[derive(Clone, Debug, Default)]
pub struct DiskLocks {
    locks: Arc<Mutex<BTreeMap<DiskId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl DiskLocks {
    /// Waits until nobody else writes the disk.
    pub async fn lock(&self, disk: DiskId) -> DiskGuard {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(disk).or_default())
        };
        lock.lock_owned().await
    }
}
