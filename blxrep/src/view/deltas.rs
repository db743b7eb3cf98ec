//! The deltas of a chain, opened as they are needed.

use super::extent::ExtentFile;
use super::recent::Recent;
use super::{DeltaFiles, StoredFile, ViewError};
use crate::format::header::FileKind;
use crate::io::limits::open_files;
use crate::io::storage::Storage;
use std::sync::Arc;

/// Deltas that are held open at once: a chain may be longer than a process may have files. Opening one again costs as
/// much as reading a block of it, so it is not few.
const MAX_OPEN: usize = 1024;
/// The part of the files that a process may have open that one view takes.
const OPEN_PART: usize = 16;
/// At least so many all the same.
const MIN_OPEN: usize = 32;

/// A chain of deltas, oldest first.
#[derive(Debug)]
pub struct Deltas {
    storage: Storage,
    files: Arc<[DeltaFiles]>,
    open: Recent<u32, StoredFile>,
}

impl Deltas {
    #[must_use]
    pub fn new(storage: &Storage, files: &[DeltaFiles]) -> Self {
        Self::of(storage.clone(), files.into())
    }

    fn of(storage: Storage, files: Arc<[DeltaFiles]>) -> Self {
        let bound = (open_files() / OPEN_PART).clamp(MIN_OPEN, MAX_OPEN);
        Self { storage, files, open: Recent::new(bound) }
    }

    /// The same deltas, to be read at the same time.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(self.storage.clone(), Arc::clone(&self.files))
    }

    /// The extents of the delta at position `layer`.
    pub fn extents(&mut self, layer: u32) -> Result<ExtentFile<'_>, ViewError> {
        let (storage, files) = (&self.storage, &self.files);
        let stored = self.open.get_or_put(layer, || {
            let files = &files[usize::try_from(layer).unwrap_or(usize::MAX)];
            StoredFile::open(storage, &files.path, FileKind::Delta, &files.root).map(|stored| (stored, 1))
        })?;
        Ok(ExtentFile::of(stored))
    }
}
