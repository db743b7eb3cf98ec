//! The place for files that are no part of the store and may be of use to a person.

use super::StoreError;
use super::layout::Layout;
use crate::io::storage::Storage;
use std::path::{Path, PathBuf};

/// Names that are tried for one file in quarantine.
const MAX_NAMES: u32 = 10_000;

/// Moves a file or folder to the quarantine, under its path with dashes.
pub(super) fn set_aside(storage: &Storage, layout: &Layout, path: &Path) -> Result<PathBuf, StoreError> {
    let relative = path.strip_prefix(layout.root()).unwrap_or(path);
    let name: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    let name = name.join("-");
    let quarantine = layout.quarantine();
    for attempt in 0..MAX_NAMES {
        let target = match attempt {
            0 => quarantine.join(&name),
            n => quarantine.join(format!("{name}.{n}")),
        };
        if storage.length(&target)?.is_none() {
            storage.rename(path, &target)?;
            storage.sync_dir(&quarantine)?;
            return Ok(target);
        }
    }
    Err(StoreError::Refused(format!(
        "{} holds {MAX_NAMES} files called {name}: look at them and remove what is not needed",
        quarantine.display()
    )))
}
