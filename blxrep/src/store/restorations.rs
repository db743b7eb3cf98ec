//! Restores to agents that have not ended, so that they go on after a crash of either side. Where one stands is its
//! action's business.

use super::catalog::key;
use super::{Store, StoreError};
use crate::io::db::Record;
use crate::model::ids::{ActionId, AgentId, PointId};
use crate::model::part_id::PartId;
use crate::model::point::Point;
use crate::model::restoration::{Restoration, Undo};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A restore to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorationRow {
    pub action: ActionId,
    /// Who writes it.
    pub agent: AgentId,
    pub restoration: Restoration,
    /// One partition or volume of the point; the whole disk without it.
    pub partition: Option<PartId>,
    /// Of files: which, `[PARTITION:]PATH` each.
    pub paths: Vec<Vec<u8>>,
    /// Zeroes are written for what the point lacks.
    pub allow_holes: bool,
    pub undo: Undo,
    /// Something may have been written: the target is neither what it was nor what it shall be.
    pub touched: bool,
    /// Blocks from the first on that are as the point has them, as far as is known.
    pub durable_blocks: u32,
}

impl RestorationRow {
    /// The points that it needs until it has ended.
    pub fn points(&self) -> impl Iterator<Item = PointId> + use<> {
        let undo = match self.undo {
            Undo::Made(point) => Some(point),
            Undo::Due | Undo::None => None,
        };
        undo.into_iter().chain([self.restoration.point])
    }
}

impl Record for RestorationRow {
    const TABLE: &'static str = "restorations";
    fn key(&self) -> Vec<u8> {
        key(self.action.0).to_vec()
    }
}

impl Store {
    /// Restores to agents that have not ended.
    pub fn restorations(&self) -> Result<Vec<RestorationRow>, StoreError> {
        Ok(self.db().all()?)
    }

    /// Takes up a restore. Its point stays from now on until [`Self::forget_restoration`].
    pub fn begin_restoration(&self, row: &RestorationRow) -> Result<(), StoreError> {
        let point = row.restoration.point;
        self.db().write_in_reserve(|tx| match tx.get::<Point>(&key(point.0))? {
            Some(_) => Ok(tx.put(row)?),
            None => {
                Err(StoreError::NotFound(format!("point {point} is gone: retention let it go this moment")))
            }
        })
    }

    /// The points that restores which have not ended need: what they restore, and what was there before.
    pub fn points_in_use(&self) -> Result<BTreeSet<PointId>, StoreError> {
        Ok(self.restorations()?.iter().flat_map(RestorationRow::points).collect())
    }

    /// Keeps how far a restore is. What it may have written to is kept with it.
    pub fn put_restoration(&self, row: &RestorationRow) -> Result<(), StoreError> {
        self.db().write_in_reserve(|tx| {
            tx.put(row)?;
            row.writes_to().filter(|_| row.touched).map_or(Ok(()), |row| Ok(tx.put(&row)?))
        })
    }

    /// It has ended.
    pub fn forget_restoration(&self, action: ActionId) -> Result<(), StoreError> {
        self.db().write_in_reserve(|tx| Ok(tx.remove::<RestorationRow>(&key(action.0))?))
    }
}
