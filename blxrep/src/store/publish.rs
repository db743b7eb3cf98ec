//! Publication: files get their final names, directories are synced once, and one transaction makes the points.

use super::catalog::{Generation, GenerationState, Moment, key, newest_in};
use super::layout::Names;
use super::{Claim, Store, StoreError};
use crate::io::db::{DbError, Transaction};
use crate::io::storage::Storage;
use crate::model::ids::DiskId;
use crate::model::point::{Point, PointDigests};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A point whose files are complete and on stable storage, under temporary names. Dropped, a delta is gone and a
/// base is open again.
#[derive(Debug)]
pub struct ReadyPoint {
    point: Point,
    files: [Names; 2],
    step: Step,
    claim: Claim,
}

/// What the publication of a point changes beside its own row.
#[derive(Debug)]
pub(super) enum Step {
    /// The generation gets its base.
    Base(Generation),
    /// These files are kept.
    Delta(Parts),
}

impl ReadyPoint {
    pub(super) fn new(point: Point, files: [Names; 2], step: Step, claim: Claim) -> Self {
        Self { point, files, step, claim }
    }

    /// The point as it will be, but for the time of its publication.
    #[must_use]
    pub const fn point(&self) -> &Point {
        &self.point
    }

    fn keep_files(&mut self) {
        if let Step::Delta(parts) = &mut self.step {
            parts.paths.clear();
        }
    }
}

/// Temporary files that vanish with their owner.
#[derive(Debug)]
pub(super) struct Parts {
    storage: Storage,
    paths: Vec<PathBuf>,
}

impl Parts {
    pub fn new<'a>(storage: &Storage, paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self { storage: storage.clone(), paths: paths.into_iter().cloned().collect() }
    }

    pub fn add(&mut self, path: &Path) {
        self.paths.push(path.to_owned());
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for path in &self.paths {
            // What stays is removed at the next start.
            let _ = self.storage.remove(path);
        }
    }
}

impl Store {
    /// Makes points visible, all or none. They are on stable storage when this returns.
    pub fn publish(&self, mut ready: Vec<ReadyPoint>, now: Timestamp) -> Result<Vec<Point>, StoreError> {
        for point in &mut ready {
            point.point.published = now;
        }
        let mut renamed = Vec::new();
        let result = self
            .rename_all(&ready, &mut renamed)
            .and_then(|()| self.db().write(|tx| ready.iter().try_for_each(|point| commit(tx, point))));
        match result {
            Ok(()) => ready.iter_mut().for_each(ReadyPoint::keep_files),
            // The rows may be there: only the next start can tell, and it finds the files either way.
            Err(StoreError::Db(DbError::Commit { .. })) => ready.iter_mut().for_each(ReadyPoint::keep_files),
            Err(_) => self.undo(&renamed),
        }
        result?;
        self.0.publications.fetch_add(ready.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(ready.into_iter().map(|point| point.point).collect())
    }

    fn rename_all<'a>(
        &self,
        ready: &'a [ReadyPoint],
        renamed: &mut Vec<&'a Names>,
    ) -> Result<(), StoreError> {
        let mut directories = BTreeSet::new();
        for names in ready.iter().flat_map(|point| &point.files) {
            // A published file never changes, whatever went wrong with an id.
            self.storage().rename_new(&names.part, &names.published)?;
            renamed.push(names);
            directories.extend(names.published.parent());
        }
        for directory in directories {
            self.storage().sync_dir(directory)?;
        }
        Ok(())
    }

    /// Gives files their temporary names back. Where that fails, the next start finds files without a row.
    fn undo(&self, renamed: &[&Names]) {
        for names in renamed {
            let _ = self.storage().rename(&names.published, &names.part);
        }
    }
}

fn commit(tx: &Transaction<'_>, ready: &ReadyPoint) -> Result<(), StoreError> {
    let point = &ready.point;
    let refuse = |why: &str| {
        let (id, device) = (point.id, point.disk);
        Err(StoreError::Refused(format!("point {id} of disk {device} cannot be published: {why}")))
    };
    let (number, newest) = newest_in(tx, point.disk)?;
    if tx.get::<Point>(&key(point.id.0))?.is_some() {
        return refuse("it is published already");
    }
    if point.parent.is_some() && newest != point.parent {
        return refuse("its parent is not the newest point any more");
    }
    if point.number != number {
        return refuse("another point was published meanwhile");
    }
    if let (Step::Base(row), PointDigests::Base { sidecar }) = (&ready.step, point.digests) {
        let state = GenerationState::Published { sidecar, edition: point.edition };
        tx.put(&Generation { state, ..row.clone() })?;
    }
    let disk: DiskId = ready.claim.disk;
    tx.put(point)?;
    tx.put(&Moment { disk, number, point: point.id })?;
    Ok(())
}
