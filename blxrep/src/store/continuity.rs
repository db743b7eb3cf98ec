//! Whether an agent's maps know every change since the newest point of a disk.

use super::{Store, StoreError};
use crate::model::ids::{DiskId, Epoch, PointId};
use crate::model::point::Point;

/// What the next delta of a disk may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// Only what changed since `parent`.
    Continue { parent: PointId },
    /// The whole disk, on top of the newest point if there is one.
    Discontinuous { parent: Option<PointId>, reason: String },
}

impl Store {
    /// Judges the pinned record of an agent, which knows of changes since `acked` and of a point that was `open`
    /// (sent, its acknowledgement perhaps lost).
    pub fn continuity(
        &self,
        disk: DiskId,
        epoch: Epoch,
        acked: Option<PointId>,
        open: Option<PointId>,
    ) -> Result<Continuity, StoreError> {
        Ok(judge(self.newest_point(disk)?.as_ref(), epoch, acked, open))
    }
}

fn judge(newest: Option<&Point>, epoch: Epoch, acked: Option<PointId>, open: Option<PointId>) -> Continuity {
    let Some(newest) = newest else {
        return Continuity::Discontinuous { parent: None, reason: "the disk has no point yet".to_owned() };
    };
    let broken = |reason: String| Continuity::Discontinuous { parent: Some(newest.id), reason };
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
        let goes_on = |epoch, acked: Option<u64>, open: Option<u64>| {
            judge(Some(&newest), epoch, acked.map(PointId), open.map(PointId))
                == Continuity::Continue { parent: PointId(5) }
        };
        assert!(goes_on(EPOCH, Some(5), None));
        assert!(goes_on(EPOCH, Some(4), Some(5)), "a lost acknowledgement");
        assert!(goes_on(EPOCH, Some(5), Some(6)));
        assert!(!goes_on(Epoch(8), Some(5), None), "pins removed");
        assert!(!goes_on(EPOCH, Some(6), Some(7)), "dispatcher restored from an older copy");
        assert!(!goes_on(EPOCH, Some(3), Some(4)), "virtual machine set back");
        assert!(!goes_on(EPOCH, None, None));
    }

    #[test]
    fn without_a_point_there_is_nothing_to_continue() {
        let judged = judge(None, EPOCH, Some(PointId(1)), None);
        assert!(matches!(judged, Continuity::Discontinuous { parent: None, .. }));
    }
}
