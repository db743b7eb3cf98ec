//! Disks that a restore has begun to write to and not finished. What they hold is a mixture of two states, and so are
//! their points: those say so.
//!
//! ```text
//! touched --> points are marked --> over --> gone
//! ```
//!
//! A row is there before the first byte is sent, and every point that is sealed while it is there is marked. It is over
//! when a restore that covers it has succeeded, or when a person has a new image made. It goes when the next point is begun,
//! not before: the cut of a point that is open meanwhile may be older.

use super::catalog::key;
use super::restorations::RestorationRow;
use super::{Store, StoreError};
use crate::io::db::{DbError, Record};
use crate::model::ids::{ActionId, AgentId, DiskIdentity};
use crate::model::point::Disk;
use crate::model::restoration::{DiskMark, Target};
use crate::model::units::SECTOR_BYTES;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a restore may have written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfRestored {
    pub agent: AgentId,
    pub identity: DiskIdentity,
    /// The restore.
    pub action: ActionId,
    /// Bytes of the disk that it writes.
    pub bytes: Range<u64>,
    /// The disk is whole again.
    pub over: bool,
}

impl Record for HalfRestored {
    const TABLE: &'static str = "half_restored";
    fn key(&self) -> Vec<u8> {
        // Neither has a zero byte.
        let disk = format!("{}\0{}\0", self.agent, self.identity);
        [disk.as_bytes(), &key(self.action.0)].concat()
    }
}

impl HalfRestored {
    fn is_of(&self, disk: &Disk) -> bool {
        self.agent == disk.agent && self.identity == disk.identity
    }

    /// Whether all of the other is written by this one, too.
    fn covers(&self, other: &Self) -> bool {
        (&self.agent, &self.identity) == (&other.agent, &other.identity)
            && self.bytes.start <= other.bytes.start
            && other.bytes.end <= self.bytes.end
    }
}

impl RestorationRow {
    /// What this restore writes to; `None` for files, and for a disk of which nothing but its place is known.
    pub(super) fn writes_to(&self) -> Option<HalfRestored> {
        let (Target::Device(target), Some(agreed)) = (&self.restoration.target, &self.restoration.agreed)
        else {
            return None;
        };
        let identity = match (&agreed.protects, &agreed.device.disk) {
            (Some(identity), _) | (None, DiskMark::Hardware(identity)) => identity.clone(),
            (None, DiskMark::Seat { .. }) => return None,
        };
        let start = agreed.device.start.saturating_mul(SECTOR_BYTES);
        let bytes = start..start.saturating_add(target.bytes);
        Some(HalfRestored { agent: self.agent.clone(), identity, action: self.action, bytes, over: false })
    }
}

impl Store {
    /// The restore that a point of this disk which is sealed now is a mixture by.
    pub(super) fn half_restored(&self, disk: &Disk) -> Result<Option<ActionId>, StoreError> {
        let rows: Vec<HalfRestored> = self.db().all()?;
        Ok(rows.into_iter().rfind(|row| row.is_of(disk)).map(|row| row.action))
    }

    /// A point of this disk is begun, and its cut is still to come: what is over by now does not concern it.
    pub(super) fn forget_half_restored(&self, disk: &Disk) -> Result<(), StoreError> {
        let mut gone: Vec<HalfRestored> = self.db().all()?;
        gone.retain(|row| row.over && row.is_of(disk));
        if gone.is_empty() {
            return Ok(());
        }
        self.db().write::<_, DbError>(|tx| {
            gone.iter().try_for_each(|row| tx.remove::<HalfRestored>(&row.key()))
        })?;
        Ok(())
    }

    /// A restore has succeeded: what it has written all of is over.
    pub fn end_half_restored(&self, restored: &RestorationRow) -> Result<(), StoreError> {
        let Some(written) = restored.writes_to() else { return Ok(()) };
        self.end_where(|row| written.covers(row))
    }

    /// A person takes a disk for what it is. Restores that have not ended still write to it.
    pub fn accept_half_restored(
        &self,
        disk: &Disk,
        is_open: impl Fn(ActionId) -> bool,
    ) -> Result<(), StoreError> {
        self.end_where(|row| row.is_of(disk) && !is_open(row.action))
    }

    fn end_where(&self, is_over: impl Fn(&HalfRestored) -> bool) -> Result<(), StoreError> {
        self.db().write_in_reserve(|tx| {
            let rows: Vec<HalfRestored> = tx.all()?;
            let mut ended = rows.into_iter().filter(|row| !row.over && is_over(row));
            ended.try_for_each(|row| Ok(tx.put(&HalfRestored { over: true, ..row })?))
        })
    }
}
