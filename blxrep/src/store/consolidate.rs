//! Carrying out what retention has planned: points go, and the files of those that stay are made anew without them.
//!
//! Every step checks again what it was planned on. Each changes the catalog in one transaction (a fold in two), moves
//! the revision of its generation on there, and leaves the files that are not needed any more to `garbage.rs`.
//! Killed anywhere and called again, every point that is left reads the same.

use super::catalog::{
    Garbage, GarbageFile, Generation, GenerationState, Moment, Work, generation_key, key, newest_in,
};
use super::garbage::discard_delta;
use super::restorations::RestorationRow;
use super::restore::Progress;
use super::{Right, Store, StoreError};
use crate::io::db::{Record, Transaction};
use crate::model::ids::{DiskId, PointId};
use crate::model::point::Point;
use crate::model::retention::Step;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Views are open that would see it; it goes on when they are closed.
    InUse,
    /// The deltas are in too many pieces to be merged.
    TooFragmented,
    /// The points are others than when the step was planned.
    Stale,
}

impl Store {
    /// Ends what an earlier call began and did not end, for one disk.
    pub fn resume_work(&self, disk: DiskId, progress: Progress<'_>) -> Result<Outcome, StoreError> {
        let _claim = self.claim(Right::Replace, disk)?;
        self.check_writable()?;
        let mut outcome = Outcome::Done;
        for generation in self.generations(disk)? {
            match generation.work {
                None => {}
                Some(Work::Merge { .. }) => self.drop_merge(&generation)?,
                Some(Work::Fold { .. }) => {
                    let folded = self.continue_fold(&generation, progress)?;
                    outcome = if folded == Outcome::InUse { folded } else { outcome };
                }
            }
        }
        Ok(outcome)
    }

    /// Carries out one step for a disk.
    pub fn carry_out(
        &self,
        disk: DiskId,
        step: &Step,
        progress: Progress<'_>,
    ) -> Result<Outcome, StoreError> {
        let _claim = self.claim(Right::Replace, disk)?;
        self.check_writable()?;
        let generation = self.generation(disk, step.generation())?;
        match (generation.work, step) {
            // One that cannot be ended, because files are damaged, must not keep its generation for ever.
            (None, _) | (Some(Work::Fold { .. }), Step::Expire { .. }) => {}
            (Some(_), _) => return Ok(Outcome::InUse),
        }
        let points = self.points_of(disk, generation.id)?;
        match step {
            Step::Expire { .. } => self.expire(&generation, &points).map(|()| Outcome::Done),
            Step::Trim { points: last, .. } => self.trim(&generation, &points, last).map(|()| Outcome::Done),
            Step::Merge { points: dropped, into, .. } => match neighbours(&points, dropped, *into) {
                Some(members) => self.merge(&generation, members, progress),
                None => Ok(Outcome::Stale),
            },
            Step::Fold { base, into, .. } => {
                let first = points.first().filter(|first| first.id == *base && generation.base == *base);
                let second = points.get(1).filter(|second| second.id == *into);
                let (Some(base), Some(into)) = (first, second) else { return Ok(Outcome::Stale) };
                self.begin_fold(&generation, base, into, progress)
            }
        }
    }

    /// Refuses to delete anything while it is not known what the catalog will say when it is opened again.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        if !self.is_lost() {
            return Ok(());
        }
        let reason = "an earlier transaction could not be completed; restart the dispatcher".to_owned();
        Err(StoreError::Catalog { path: self.layout().catalog(), reason })
    }

    /// Deletes a generation whose points are all given up.
    fn expire(&self, generation: &Generation, points: &[Point]) -> Result<(), StoreError> {
        let GenerationState::Published { edition, .. } = generation.state else {
            return Err(StoreError::Refused(format!("generation {} is being made", generation.id)));
        };
        let revision = generation.revision + 1;
        let mut files = vec![GarbageFile::Image, GarbageFile::Sidecar { edition }];
        if let Some(Work::Fold { edition, .. }) = generation.work {
            files.push(GarbageFile::Sidecar { edition });
        }
        self.db().write(|tx| {
            check_revision(tx, generation)?;
            drop_points(tx, generation.disk, points)?;
            points.iter().try_for_each(|point| discard_delta(tx, point, revision))?;
            let (disk, generation) = (generation.disk, generation.id);
            for file in files {
                tx.put(&Garbage { disk, generation, revision, sequence: 0, file })?;
            }
            Ok(tx.remove::<Generation>(&generation_key(disk, generation))?)
        })
    }

    /// Deletes the last points of a generation.
    fn trim(&self, generation: &Generation, points: &[Point], last: &[PointId]) -> Result<(), StoreError> {
        let tail = &points[points.len().saturating_sub(last.len())..];
        let agrees = tail.iter().map(|point| point.id).eq(last.iter().copied());
        if !agrees || tail.iter().any(|point| point.id == generation.base) {
            return Err(StoreError::Refused(format!(
                "the points of generation {} are others now",
                generation.id
            )));
        }
        let revision = generation.revision + 1;
        self.db().write(|tx| {
            check_revision(tx, generation)?;
            drop_points(tx, generation.disk, tail)?;
            tail.iter().try_for_each(|point| discard_delta(tx, point, revision))?;
            Ok(tx.put(&Generation { revision, ..generation.clone() })?)
        })
    }
}

/// `dropped` and `into`, if they follow each other so; the base cannot be among them.
fn neighbours<'a>(points: &'a [Point], dropped: &[PointId], into: PointId) -> Option<&'a [Point]> {
    let start =
        points.iter().position(|point| Some(&point.id) == dropped.first()).filter(|start| *start > 0)?;
    let members = points.get(start..start + dropped.len() + 1)?;
    let wanted = dropped.iter().copied().chain([into]);
    members.iter().map(|point| point.id).eq(wanted).then_some(members)
}

/// Refuses a generation whose files were replaced since `seen`.
pub(super) fn check_revision(tx: &Transaction<'_>, seen: &Generation) -> Result<(), StoreError> {
    let now = tx.get::<Generation>(&seen.key())?;
    if now.as_ref() == Some(seen) {
        return Ok(());
    }
    Err(StoreError::Refused(format!("generation {} has changed meanwhile", seen.id)))
}

/// Removes points; refuses the newest of the disk, which its agent counts from, and those that open restores need.
pub(super) fn drop_points(tx: &Transaction<'_>, disk: DiskId, points: &[Point]) -> Result<(), StoreError> {
    let (_, newest) = newest_in(tx, disk)?;
    let restores = tx.all::<RestorationRow>()?;
    for point in points {
        if let Some(open) = restores.iter().find(|row| row.points().any(|needed| needed == point.id)) {
            return Err(StoreError::Refused(format!(
                "the restore of action {} needs point {}: it stays until that has ended",
                open.action, point.id
            )));
        }
        if newest == Some(point.id) {
            return Err(StoreError::Refused(format!(
                "point {} is the newest of disk {disk}: it stays until there is a newer one",
                point.id
            )));
        }
        tx.remove::<Point>(&key(point.id.0))?;
        tx.remove::<Moment>(&[key(disk.0), key(point.number)].concat())?;
    }
    Ok(())
}

/// The generation after a change of its files.
pub(super) fn moved_on(generation: &Generation, work: Option<Work>) -> Generation {
    Generation { revision: generation.revision + 1, work, ..generation.clone() }
}
