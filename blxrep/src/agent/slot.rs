//! A disk in the group that is kept in sync, between its cuts.

use super::live::{Draft, LiveMember};
use super::unit::Unit;
use crate::engine::backoff::Backoff;
use crate::model::ids::ActionId;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::AbortHandle;

/// What the cutter knows of a disk.
#[derive(Debug)]
pub struct Slot {
    pub unit: Arc<Unit>,
    pub action: ActionId,
    pub paused: bool,
    /// The newest point is: the next one may be better, also without a change.
    pub fuzzy: bool,
    /// The dispatcher at the other end of this link has taken a point: its newest is the one that is known here. Before
    /// that it may have been set back, and a disk on which nothing changed may lack everything.
    pub confirmed: bool,
    /// The disk is being compared with its newest point; no cut holds it.
    pub pass: Option<AbortOnDrop>,
    /// Why none begins, until a person says so.
    pub held: Option<String>,
    /// None begins before.
    pub pass_after: Instant,
    pub backoff: Backoff,
    /// Passes since the last point.
    pub passes: u32,
    /// `None` until the first cut, after an error, and while a cut has it.
    pub member: Option<LiveMember>,
    /// The point that was open when a link broke: the next cut goes on with it.
    pub draft: Option<Draft>,
}

impl Slot {
    pub fn new(unit: Arc<Unit>, action: ActionId, paused: bool) -> Self {
        Self {
            unit,
            action,
            paused,
            fuzzy: false,
            confirmed: false,
            pass: None,
            held: None,
            pass_after: Instant::now(),
            backoff: Backoff::default(),
            passes: 0,
            member: None,
            draft: None,
        }
    }

    /// Why the disk is not in a cut of the others, for their points.
    pub fn why_missing(&self) -> String {
        let disk = &self.unit.identity;
        match (self.unit.lost_coverage(), &self.held) {
            _ if self.paused => format!("{disk} is not in this cut: it is paused"),
            (Some(reason), None) => {
                format!("{disk} is not in this cut: it is being compared with its newest point ({reason})")
            }
            (Some(reason), Some(held)) => format!("{disk} is not in this cut: {reason}, and {held}"),
            (None, _) => format!("{disk} is not in this cut: it was just compared with its newest point"),
        }
    }

    /// Whether no cut can have the disk before a pass has ended.
    pub fn is_lost(&self) -> bool {
        self.pass.is_some() || self.unit.lost_coverage().is_some()
    }
}

/// Ends a pass when nobody wants it any more.
#[derive(Debug)]
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
