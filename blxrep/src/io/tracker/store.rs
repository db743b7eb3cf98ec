//! The pinned record of a disk, in a map of its own.

use super::TrackerError;
use super::maps::Words;
use super::record::{COPY_BYTES, decode, encode};
use crate::model::tracking::EpochRecord;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Words of one copy.
const COPY_WORDS: usize = COPY_BYTES / 8;
/// Words of the map: two copies.
pub const RECORD_WORDS: u64 = 2 * COPY_WORDS as u64;

/// A record and where it is kept.
#[derive(Debug)]
pub struct RecordStore {
    words: Words,
    newest: Mutex<(u64, EpochRecord)>,
}

impl RecordStore {
    /// Reads the newest whole copy; `None` if there is none.
    pub fn load(words: Words) -> Option<Self> {
        let copies = words.get().chunks_exact(COPY_WORDS).filter_map(|copy| decode(&bytes(copy)));
        let newest = copies.max_by_key(|(sequence, _)| *sequence)?;
        Some(Self { words, newest: Mutex::new(newest) })
    }

    /// Stores the first record.
    pub fn create(words: Words, record: &EpochRecord) -> Result<Self, TrackerError> {
        let store = Self { words, newest: Mutex::new((0, record.clone())) };
        store.replace(record)?;
        Ok(store)
    }

    pub fn get(&self) -> EpochRecord {
        self.lock().1.clone()
    }

    /// Overwrites the older copy.
    pub fn replace(&self, record: &EpochRecord) -> Result<(), TrackerError> {
        let mut newest = self.lock();
        let sequence = newest.0 + 1;
        let copy = encode(sequence, record).ok_or_else(|| TrackerError::Record {
            identity: record.identity.to_string(),
            reason: "a text in it is too long".into(),
        })?;
        let at = if sequence.is_multiple_of(2) { 0 } else { COPY_WORDS };
        for (word, bytes) in self.words.get()[at..].iter().zip(copy.chunks_exact(8)) {
            word.store(
                bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
                Ordering::SeqCst,
            );
        }
        *newest = (sequence, record.clone());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (u64, EpochRecord)> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(words: &[AtomicU64]) -> [u8; COPY_BYTES] {
    let mut bytes = [0; COPY_BYTES];
    for (word, at) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        at.copy_from_slice(&word.load(Ordering::SeqCst).to_le_bytes());
    }
    bytes
}
