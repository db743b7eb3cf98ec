//! Merged indexes beside the deltas: a cache that makes views of long chains open at once. Made behind publications;
//! a view makes for itself what is missing. Nothing depends on them, and they may be removed at any time.

use super::{Store, StoreError};
use crate::model::ids::{GenerationId, PointId};
use crate::model::point::Point;
use crate::view::groups::{Group, MAX_LEVEL, groups, largest_level, span};
use crate::view::sources::{Maker, Source};
use crate::view::{Chain, ViewError};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

impl Store {
    /// Makes the merged indexes that are complete with a point which was just published.
    pub fn index_published(&self, point: &Point) -> Result<(), StoreError> {
        let level = largest_level(point.sequence);
        if level == 0 {
            return Ok(());
        }
        let _indexing = self.indexing();
        let mut chain = self.chain(point.id)?;
        let oldest = point.sequence.saturating_sub(span(level));
        chain.deltas.retain(|delta| delta.position > oldest);
        self.make_indexes(point.generation, &chain, Maker::source).map(drop)
    }

    /// Proves every merged index of a point's chain, makes those that are missing or of no use, and removes what is left over. Only for
    /// the newest point of a generation.
    pub fn index_all(&self, newest: PointId) -> Result<(), StoreError> {
        let _indexing = self.indexing();
        let point = self.point(newest)?;
        let chain = self.chain(point.id)?;
        let mut wanted = self.make_indexes(point.generation, &chain, Maker::checked)?;
        let folder = self.layout().indexes(point.generation);
        for entry in self.storage().list(&folder)? {
            let path = folder.join(&entry.name);
            if !wanted.remove(&path) {
                self.storage().remove(&path)?;
            }
        }
        Ok(())
    }

    /// One makes indexes at a time: two would write the same files.
    fn indexing(&self) -> MutexGuard<'_, ()> {
        // It guards files that are checked whenever they are opened.
        self.0.indexing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the indexes of all levels, in this way. Returns where they are.
    fn make_indexes(
        &self,
        generation: GenerationId,
        chain: &Chain,
        make: fn(&Maker, &Group) -> Result<Source, ViewError>,
    ) -> Result<HashSet<PathBuf>, StoreError> {
        let positions: Vec<u64> = chain.deltas.iter().map(|delta| delta.position).collect();
        let of_level = |level| groups(&positions, 0..positions.len(), level).into_iter();
        // The small ones first: larger ones are merged of them.
        let all: Vec<Group> =
            (1..=MAX_LEVEL).flat_map(|level| of_level(level).filter(move |g| g.level == level)).collect();
        if !all.is_empty() {
            self.storage().create_dir(&self.layout().all_indexes())?;
            self.storage().create_dir(&self.layout().indexes(generation))?;
        }
        let maker = Maker::keeping(self.storage(), chain);
        for group in &all {
            make(&maker, group)?;
        }
        Ok(all.iter().map(|group| maker.path(group)).collect())
    }

    /// Removes the indexes of generations that are no more.
    pub(super) fn sweep_indexes(&self, known: &HashSet<GenerationId>) -> Result<(), StoreError> {
        let all = self.layout().all_indexes();
        let known: HashSet<PathBuf> = known.iter().map(|id| self.layout().indexes(*id)).collect();
        for entry in self.storage().list(&all)? {
            let folder = all.join(&entry.name);
            if !known.contains(&folder) && entry.is_dir {
                self.remove_folder(&folder)?;
            }
        }
        Ok(())
    }

    /// Removes the indexes of a generation that is gone.
    pub(super) fn remove_indexes(&self, generation: GenerationId) -> Result<(), StoreError> {
        let _alone = self.indexing();
        let folder = self.layout().indexes(generation);
        if self.storage().length(&folder)?.is_none() { Ok(()) } else { self.remove_folder(&folder) }
    }

    fn remove_folder(&self, folder: &Path) -> Result<(), StoreError> {
        for file in self.storage().list(folder)? {
            self.storage().remove(&folder.join(file.name))?;
        }
        Ok(self.storage().remove_dir(folder)?)
    }
}
