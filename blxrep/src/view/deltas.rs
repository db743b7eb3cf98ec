//! The deltas of a chain, opened as they are needed.

use super::extent::ExtentFile;
use super::{DeltaFiles, StoredFile, ViewError};
use crate::format::header::FileKind;
use crate::io::storage::Storage;

/// Deltas that are held open at once: a chain may be longer than a process may have files.
const MAX_OPEN: usize = 32;

/// A chain of deltas, oldest first.
#[derive(Debug)]
pub struct Deltas {
    storage: Storage,
    files: Vec<DeltaFiles>,
    /// The one used last is at the end.
    open: Vec<(u32, StoredFile)>,
}

impl Deltas {
    #[must_use]
    pub fn new(storage: &Storage, files: &[DeltaFiles]) -> Self {
        Self { storage: storage.clone(), files: files.to_vec(), open: Vec::new() }
    }

    /// The extents of the delta at position `layer`.
    pub fn extents(&mut self, layer: u32) -> Result<ExtentFile<'_>, ViewError> {
        let entry = match self.open.iter().position(|(open, _)| *open == layer) {
            Some(place) => self.open.remove(place),
            None => {
                let files = &self.files[usize::try_from(layer).unwrap_or(usize::MAX)];
                let stored = StoredFile::open(&self.storage, &files.path, FileKind::Delta, &files.root)?;
                if self.open.len() >= MAX_OPEN {
                    self.open.remove(0);
                }
                (layer, stored)
            }
        };
        self.open.push(entry);
        Ok(ExtentFile::of(&self.open[self.open.len() - 1].1))
    }
}
