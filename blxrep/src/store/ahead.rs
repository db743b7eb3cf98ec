//! Whether the catalog is older than the files beside it. If it is, opening the store would set points aside that were
//! acknowledged, so it is refused before anything is touched.
//!
//! A publication that was cut off leaves files of one point per disk without a row, with the next number of the disk. A
//! file with a higher number, or of a disk that the catalog does not know, was published under a newer catalog, and so was
//! one with an edition that the catalog has not given out. What a removal that was cut off leaves has a number that was
//! given long ago.

use super::catalog::Generation;
use super::{Store, StoreError};
use crate::format::header::FileKind;
use crate::model::ids::DiskId;
use crate::view::StoredFile;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

impl Store {
    /// Refuses a catalog that lacks published points. `named` are the files of those that it has.
    pub(super) fn refuse_older_catalog(
        &self,
        named: &HashSet<PathBuf>,
        generations: &[Generation],
    ) -> Result<(), StoreError> {
        let mut next: HashMap<DiskId, u64> = HashMap::new();
        for disk in self.disks()? {
            next.insert(disk.id, self.next_number(disk.id)?);
        }
        let mut newer = Vec::new();
        for folder in [self.layout().snapshots(), self.layout().incrementals()] {
            self.look_for_newer(&folder, named, &mut |path, stored| {
                let header = &stored.header;
                if header.store != self.id() || header.cut.is_none() {
                    return;
                }
                let generation =
                    generations.iter().find(|g| (g.disk, g.id) == (header.disk, header.generation));
                // The row of a generation is there before its first file.
                let most = next.get(&header.disk).map(|next| next + u64::from(generation.is_some()));
                let is_late = generation.is_some_and(|generation| header.edition > generation.revision);
                if is_late || most.is_none_or(|most| header.number >= most) {
                    newer.push(path.to_owned());
                }
            })?;
        }
        match newer.first() {
            None => Ok(()),
            Some(first) => Err(StoreError::Catalog {
                path: self.layout().catalog(),
                reason: format!(
                    "it is older than the files: {} of them are of points that it does not know, {} among them",
                    newer.len(),
                    first.display()
                ),
            }),
        }
    }

    /// Calls `visit` with the complete sidecars and deltas below a folder that no row may name.
    fn look_for_newer(
        &self,
        folder: &Path,
        named: &HashSet<PathBuf>,
        visit: &mut dyn FnMut(&Path, &StoredFile),
    ) -> Result<(), StoreError> {
        for entry in self.storage().list(folder)? {
            let path: PathBuf = folder.join(&entry.name);
            if entry.is_dir {
                self.look_for_newer(&path, named, visit)?;
            } else if path.extension().is_some_and(|e| e == "sum" || e == "bak")
                && !named.contains(&path)
                // Damaged, foreign or half: no evidence.
                && let Ok((stored, _)) = StoredFile::look(self.storage(), &path)
                && stored.header.kind != FileKind::Changes
            {
                visit(&path, &stored);
            }
        }
        Ok(())
    }
}
