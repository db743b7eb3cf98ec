//! Files that no point is made of any more: they go when no view that may use them is open.

use super::catalog::{Garbage, GarbageFile, Generation, generation_key};
use super::layout::PART;
use super::{Store, StoreError};
use crate::io::db::{Record, Transaction};
use crate::model::ids::{DiskId, GenerationId};
use crate::model::point::{Point, PointDigests};
use crate::view::ViewPlace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What was cleared away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub files: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Files that have to stay, because a view that may use them is open.
    pub in_use: u64,
}

impl Store {
    /// Deletes the files that nobody needs any more. Those that an open view may use stay for a later call.
    pub fn collect(&self) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let mut collected = Collected::default();
        let mut families: BTreeMap<(DiskId, GenerationId), Vec<Garbage>> = BTreeMap::new();
        for row in self.db().all::<Garbage>()? {
            families.entry((row.disk, row.generation)).or_default().push(row);
        }
        for ((disk, generation), rows) in families {
            let views = self.views(generation)?;
            let (used, free): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|row| views.iter().any(|view| row.is_used_by(view)));
            collected.in_use += used.len() as u64;
            self.delete(&free, &mut collected)?;
            let is_gone = self.db().get::<Generation>(&generation_key(disk, generation))?.is_none();
            if is_gone && used.is_empty() {
                self.delete_folders(disk, generation)?;
            }
            self.db().write::<_, StoreError>(|tx| {
                free.iter().try_for_each(|row| tx.remove::<Garbage>(&row.key())).map_err(StoreError::from)
            })?;
        }
        Ok(collected)
    }

    fn delete(&self, rows: &[Garbage], collected: &mut Collected) -> Result<(), StoreError> {
        let mut directories = BTreeSet::new();
        for path in rows.iter().flat_map(|row| self.garbage_paths(row)) {
            if let Some(bytes) = self.storage().allocated(&path)? {
                self.storage().remove(&path)?;
                directories.extend(path.parent().map(ToOwned::to_owned));
                (collected.files, collected.bytes) = (collected.files + 1, collected.bytes + bytes);
            }
        }
        // Durable before the rows go: without one, a file is a stranger.
        directories.iter().try_for_each(|directory| self.storage().sync_dir(directory))?;
        Ok(())
    }

    /// What a generation leaves that has no point and no file any more.
    fn delete_folders(&self, disk: DiskId, generation: GenerationId) -> Result<(), StoreError> {
        self.storage().remove(&self.layout().lease(generation))?;
        self.remove_indexes(generation)?;
        let folder = self.layout().deltas(disk, generation);
        if self.storage().length(&folder)?.is_none() {
            return Ok(());
        }
        match self.storage().remove_dir(&folder) {
            // Somebody put something there: the next start sets it aside.
            Err(e) if e.source.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => Ok(removed.and_then(|()| self.storage().sync_dir(&self.layout().disk_deltas(disk)))?),
        }
    }

    /// The file, and what a fold that was given up has begun of it.
    fn garbage_paths(&self, row: &Garbage) -> Vec<PathBuf> {
        let path = self.garbage_path(row);
        match row.file {
            GarbageFile::Sidecar { .. } => vec![path.with_added_extension(PART), path],
            GarbageFile::Image | GarbageFile::Delta { .. } | GarbageFile::Changes { .. } => vec![path],
        }
    }

    pub(super) fn garbage_path(&self, row: &Garbage) -> PathBuf {
        let (disk, generation) = (row.disk, row.generation);
        match row.file {
            GarbageFile::Image => self.layout().image(disk, generation).published,
            GarbageFile::Sidecar { edition } => self.layout().sidecar(disk, generation, edition).published,
            GarbageFile::Delta { point, edition } => {
                self.layout().delta(disk, generation, point, edition).published
            }
            GarbageFile::Changes { point, edition } => {
                self.layout().changes(disk, generation, point, edition).published
            }
        }
    }
}

impl Garbage {
    fn is_used_by(&self, view: &ViewPlace) -> bool {
        view.revision < self.revision && view.sequence >= self.sequence
    }
}

/// Marks the files of a point's delta as garbage: from `revision` on its generation does without them.
pub(super) fn discard_delta(tx: &Transaction<'_>, point: &Point, revision: u32) -> Result<(), StoreError> {
    if let PointDigests::Delta { .. } = point.digests {
        let (id, edition) = (point.id, point.edition);
        for file in [GarbageFile::Delta { point: id, edition }, GarbageFile::Changes { point: id, edition }] {
            let (disk, generation, sequence) = (point.disk, point.generation, point.sequence);
            tx.put(&Garbage { disk, generation, revision, sequence, file })?;
        }
    }
    Ok(())
}
