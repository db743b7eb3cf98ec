//! Leases of views: while one is held, the files that the viewed point is made of stay where they are, and what the
//! view takes from the base image does not change.
//!
//! A lease is a lock on one byte of a file per generation. It belongs to the open file, so it needs no dispatcher, counts
//! between processes, and is gone with the process that held it, however that ended. The byte's position says
//! which point is viewed and how often files of the generation had been replaced when it was opened:
//! `revision * 2^32 + sequence`.
//!
//! Who opens a view takes the lease first and asks for the chain again then ([`Store::chain`]). Who replaces files
//! moves the revision on in the same transaction and looks for leases afterwards. So a view either finds the new
//! revision when it asks again, or its lease is found.

use super::catalog::{Generation, generation_key};
use super::layout::Layout;
use super::{MAX_MOVES, Store, StoreError};
use crate::io::storage::{Access, DataFile, Storage};
use crate::model::ids::{DiskId, GenerationId};
use crate::view::ViewPlace;
use std::path::Path;

/// Bits of a position that are the sequence: 136 years of points every second. The others are the revision.
const SEQUENCE_BITS: u32 = 32;

/// The right of a view to find its files where its chain says. Given up when dropped, and when the process ends.
#[derive(Debug)]
pub struct ViewLease {
    place: ViewPlace,
    /// Holds the lock.
    _file: DataFile,
}

impl ViewLease {
    /// Takes a lease in a process of its own, which knows of the store no more than where it is.
    pub fn take_in(data_dir: &Path, place: ViewPlace) -> Result<Self, StoreError> {
        Self::take(&Storage::default(), &Layout::new(data_dir), place)
    }

    pub(super) fn take(storage: &Storage, layout: &Layout, place: ViewPlace) -> Result<Self, StoreError> {
        let file = storage.open(&layout.lease(place.generation), Access::Keep)?;
        file.hold_byte(position(place)?)?;
        Ok(Self { place, _file: file })
    }

    #[must_use]
    pub const fn place(&self) -> ViewPlace {
        self.place
    }
}

/// Keeps all files of a generation, and its image, as they are.
#[derive(Debug)]
pub(super) struct Hold {
    _leases: [ViewLease; 2],
}

impl Store {
    /// Holds all files of a generation in the state that the returned row tells of; `None` if it is there no more.
    pub(super) fn hold(
        &self,
        disk: DiskId,
        id: GenerationId,
    ) -> Result<Option<(Generation, Hold)>, StoreError> {
        let row = || self.db().get::<Generation>(&generation_key(disk, id));
        for _ in 0..MAX_MOVES {
            let Some(before) = row()? else { return Ok(None) };
            // As views of its oldest and of its newest point: the one keeps folds from beginning, the other keeps files.
            let lease = |sequence| {
                let place = ViewPlace { generation: id, revision: before.revision, sequence };
                ViewLease::take(self.storage(), self.layout(), place)
            };
            let hold = Hold { _leases: [lease(0)?, lease((1 << SEQUENCE_BITS) - 1)?] };
            if row()?.is_some_and(|now| now.revision == before.revision) {
                return Ok(Some((before, hold)));
            }
        }
        Err(StoreError::Moving(format!("generation {id} changed {MAX_MOVES} times")))
    }

    /// The places at which views of a generation are open now, each once.
    pub fn views(&self, generation: GenerationId) -> Result<Vec<ViewPlace>, StoreError> {
        let file = match self.storage().open(&self.layout().lease(generation), Access::Read) {
            Err(e) if e.is_not_found() => return Ok(Vec::new()),
            opened => opened?,
        };
        let held = file.held_bytes()?;
        Ok(held.into_iter().map(|position| place_of(generation, position)).collect())
    }
}

fn position(place: ViewPlace) -> Result<u64, StoreError> {
    // The last bit is the kernel's: positions are signed.
    if place.sequence >> SEQUENCE_BITS != 0 || place.revision >> 31 != 0 {
        return Err(StoreError::Refused(format!(
            "position {} or revision {} of generation {} is out of range: take a new snapshot",
            place.sequence, place.revision, place.generation
        )));
    }
    Ok(u64::from(place.revision) << SEQUENCE_BITS | place.sequence)
}

fn place_of(generation: GenerationId, position: u64) -> ViewPlace {
    ViewPlace {
        generation,
        revision: u32::try_from(position >> SEQUENCE_BITS).unwrap_or(u32::MAX),
        sequence: position & ((1 << SEQUENCE_BITS) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_place() {
        let generation = GenerationId(5);
        for (revision, sequence) in [(0, 0), (0, 7), (3, 0), (0x7fff_ffff, 0xffff_ffff)] {
            let place = ViewPlace { generation, revision, sequence };
            assert_eq!(place_of(generation, position(place).unwrap()), place);
        }
        assert!(position(ViewPlace { generation, revision: 1 << 31, sequence: 0 }).is_err());
        assert!(position(ViewPlace { generation, revision: 0, sequence: 1 << 32 }).is_err());
    }
}
