//! One index over the deltas of a point: which extent of which delta is seen where.

use super::{DeltaFiles, StoredFile, ViewError};
use crate::format::delta::{ENTRY_BYTES, IndexReader};
use crate::format::header::FileKind;
use crate::format::overlay::{Run, flatten};
use crate::io::storage::Storage;
use crate::model::units::GranuleSize;

/// Most runs of one view, 24 bytes each. Consolidation keeps chains far below; until then a restore of a
/// fragmented disk must not fail for its memory first.
pub const MAX_RUNS: usize = 1 << 26;
/// Runs are laid over each other when so many were gathered, so that what is hidden takes no memory for long.
const GATHERED_RUNS: usize = 1 << 20;
/// Entries read at once.
const PIECE_BYTES: usize = 4096 * ENTRY_BYTES;

/// The merged index of a chain of deltas: sorted, disjoint runs. Layer `n` is the delta at position `n`.
pub fn merged(storage: &Storage, deltas: &[DeltaFiles], granule: GranuleSize) -> Result<Vec<Run>, ViewError> {
    let mut runs = Vec::new();
    let mut visible = 0;
    for (layer, delta) in (0..).zip(deltas) {
        let stored = StoredFile::open(storage, &delta.path, FileKind::Delta, &delta.root)?;
        if stored.header.granule != granule {
            return Err(ViewError::Foreign { path: delta.path.clone() });
        }
        load(&stored, layer, &mut runs)?;
        if runs.len() > 2 * visible + GATHERED_RUNS {
            runs = flatten(runs);
            visible = runs.len();
        }
        if runs.len() > MAX_RUNS {
            return Err(ViewError::TooManyRuns(runs.len()));
        }
    }
    Ok(flatten(runs))
}

/// Appends the entries of a delta's index, proven, as runs of `layer`.
pub fn load(stored: &StoredFile, layer: u32, runs: &mut Vec<Run>) -> Result<(), ViewError> {
    let mut reader = reader(stored)?;
    pieces(stored, |at, piece| reader.feed(piece, layer, runs).map_err(|e| stored.format(at, e)))
}

/// Calls `f` with successive entries of a delta's index, as runs of layer 0, in bounded memory. The index is proven
/// before the first.
pub fn each<E: From<ViewError>>(
    stored: &StoredFile,
    mut f: impl FnMut(&[Run]) -> Result<(), E>,
) -> Result<(), E> {
    pieces(stored, |_, _| Ok::<(), E>(()))?;
    let mut reader = reader(stored)?;
    let mut runs = Vec::new();
    pieces(stored, |at, piece| {
        runs.clear();
        reader.feed(piece, 0, &mut runs).map_err(|e| stored.format(at, e))?;
        f(&runs)
    })
}

fn reader(stored: &StoredFile) -> Result<IndexReader, ViewError> {
    let trailer = &stored.trailer;
    IndexReader::new(trailer, stored.header.granule, stored.header.disk_bytes)
        .map_err(|e| stored.format(trailer.index_at(), e))
}

/// Calls `f` with successive pieces of a delta's index and where they are; at the end, what was read is proven.
fn pieces<E: From<ViewError>>(
    stored: &StoredFile,
    mut f: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let trailer = &stored.trailer;
    let mut hasher = blake3::Hasher::new();
    let mut piece = Vec::new();
    let mut done = 0;
    while done < trailer.index_bytes {
        let left = usize::try_from(trailer.index_bytes - done).unwrap_or(usize::MAX);
        piece.resize(left.min(PIECE_BYTES), 0);
        let at = trailer.index_at() + done;
        stored.file.read_at(&mut piece, at).map_err(ViewError::from)?;
        hasher.update(&piece);
        f(at, &piece)?;
        done += piece.len() as u64;
    }
    if *hasher.finalize().as_bytes() == trailer.index_digest {
        Ok(())
    } else {
        let part = "the delta's index";
        Err(stored.format(trailer.index_at(), crate::format::FormatError::Checksum { part }).into())
    }
}
