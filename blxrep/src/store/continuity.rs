//! Whether an agent's maps know every change since the newest point of a disk.

use super::{Store, StoreError};
use crate::model::ids::{DiskId, Epoch, PointId};
use crate::model::point::Point;

/// What the next delta of a disk may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// Only what changed since `parent`.
    Continue { parent: PointId },
    /// What differs from the newest point, if there is one: the disk has to be compared with it first.
    Discontinuous { reason: String },
    /// Nothing: there is no point yet.
    NoPoint,
}

impl Store {
    /// Judges the pinned record of an agent.
    pub fn continuity(&self, disk: DiskId, known: &Known) -> Result<Continuity, StoreError> {
        Ok(judge(self.newest_point(disk)?.as_ref(), known))
    }
}

/// What an agent's maps count from, by its pinned record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub epoch: Epoch,
    /// The point that was acknowledged last under this epoch.
    pub acked: Option<PointId>,
    /// Sealed, its acknowledgement perhaps lost.
    pub open: Option<PointId>,
    /// The point that the disk was compared with under this epoch, if no other was acknowledged since.
    pub matched: Option<PointId>,
}

/// Says what the next delta on the newest point may hold.
#[must_use]
pub fn judge(newest: Option<&Point>, known: &Known) -> Continuity {
    let Some(newest) = newest else { return Continuity::NoPoint };
    let Known { epoch, acked, open, matched } = *known;
    // Whatever it was made under: what differed from it was found out, and what changed since is tracked.
    if matched == Some(newest.id) {
        return Continuity::Continue { parent: newest.id };
    }
    let broken = |reason: String| Continuity::Discontinuous { reason };
    if newest.epoch != epoch {
        return broken(format!("tracking began anew since point {}", newest.id));
    }
    if acked == Some(newest.id) || open == Some(newest.id) {
        return Continuity::Continue { parent: newest.id };
    }
    match acked {
        None => broken(format!("the agent knows of no point, the newest here is {}", newest.id)),
        Some(acked) => broken(format!(
            "the agent's changes count from point {acked}, the newest here is {}: one of the two was set back",
            newest.id
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::delta::tests::point;

    const EPOCH: Epoch = Epoch(7);

    fn newest() -> Point {
        Point { epoch: EPOCH, id: PointId(5), ..point() }
    }

    #[test]
    fn only_the_newest_point_under_the_same_epoch_is_continued() {
        let newest = newest();
        let matched_with = |epoch, acked: Option<u64>, open: Option<u64>, matched: Option<u64>| {
            let [acked, open, matched] = [acked, open, matched].map(|id| id.map(PointId));
            judge(Some(&newest), &Known { epoch, acked, open, matched })
                == Continuity::Continue { parent: PointId(5) }
        };
        let goes_on = |epoch, acked, open| matched_with(epoch, acked, open, None);
        assert!(goes_on(EPOCH, Some(5), None));
        assert!(goes_on(EPOCH, Some(4), Some(5)), "a lost acknowledgement");
        assert!(goes_on(EPOCH, Some(5), Some(6)));
        assert!(!goes_on(Epoch(8), Some(5), None), "pins removed");
        assert!(!goes_on(EPOCH, Some(6), Some(7)), "dispatcher restored from an older copy");
        assert!(!goes_on(EPOCH, Some(3), Some(4)), "virtual machine set back");
        assert!(!goes_on(EPOCH, None, None));
        assert!(matched_with(Epoch(8), Some(5), None, Some(5)), "compared with it");
        assert!(!matched_with(Epoch(8), Some(4), None, Some(4)), "a point came after it");
    }

    #[test]
    fn without_a_point_there_is_nothing_to_continue() {
        let known = Known { epoch: EPOCH, acked: Some(PointId(1)), open: None, matched: None };
        assert_eq!(judge(None, &known), Continuity::NoPoint);
    }
}
