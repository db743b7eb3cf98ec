//! What the catalog that is replaced still knows, if it can be read and is of this store: an older copy has the details
//! of the points that it has, and its actions are true.

use super::super::catalog::AgentRow;
use super::super::half_restored::HalfRestored;
use super::super::layout::Layout;
use super::super::open_catalog;
use crate::io::storage::Storage;
use crate::model::action::Action;
use crate::model::ids::{PointId, StoreId};
use crate::model::point::{Disk, Point};
use std::collections::HashMap;

/// Rows of the old catalog; empty where it cannot be used.
#[derive(Debug, Default)]
pub struct Old {
    pub points: HashMap<PointId, Point>,
    pub agents: Vec<AgentRow>,
    pub disks: Vec<Disk>,
    pub actions: Vec<Action>,
    pub half_restored: Vec<HalfRestored>,
}

pub fn read(storage: &Storage, layout: &Layout, store: StoreId) -> Old {
    // Damage of any kind only means that nothing is known: the files are what counts.
    try_read(storage, layout, store).unwrap_or_default()
}

fn try_read(storage: &Storage, layout: &Layout, store: StoreId) -> Option<Old> {
    let db = open_catalog(storage, layout, store).ok()?;
    let points: Vec<Point> = db.all().ok()?;
    Some(Old {
        points: points.into_iter().map(|point| (point.id, point)).collect(),
        agents: db.all().ok()?,
        disks: db.all().ok()?,
        actions: db.all().ok()?,
        half_restored: db.all().ok()?,
    })
}
