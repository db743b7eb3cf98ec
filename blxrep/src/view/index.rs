//! One index over the deltas of a point: which extent of which delta is seen where.
//!
//! Nothing is laid over each other before it is asked for: the disk is looked at in windows, and the windows that
//! were used lately are kept. So opening costs as much with many runs as with few, and memory is bounded.

use super::groups::Group;
use super::recent::Recent;
use super::sources::{Maker, Source};
use super::{Chain, StoredFile, ViewError};
use crate::format::FormatError;
use crate::format::delta::{ENTRY_BYTES, IndexReader};
use crate::format::overlay::{Run, flatten};
use crate::io::storage::Storage;
use std::ops::Range;
use std::sync::Arc;

/// Granules that are laid over each other at once. Fewer would ask every source too often, more take too long for
/// the one that is wanted.
const WINDOW_GRANULES: u32 = 1024;
/// Memory for windows.
const WINDOWS_BYTES: usize = 16 << 20;
/// What an empty window costs.
const WINDOW_BYTES: usize = 96;
/// Entries of a delta's index that are read at once.
const PIECE_BYTES: usize = 4096 * ENTRY_BYTES;

/// The merged view of a chain's indexes. Layer `n` of a run is the delta at position `n` of the chain.
#[derive(Debug)]
pub struct Index {
    maker: Arc<Maker>,
    groups: Vec<Group>,
    sources: Vec<Arc<Source>>,
    windows: Recent<u32, Window>,
    /// Granules that are known to be in no delta.
    gap: Range<u32>,
}

/// What is seen in one window: sorted, disjoint runs within it.
#[derive(Debug)]
struct Window {
    runs: Vec<Run>,
    /// No run begins between the window's end and here.
    next: u32,
}

impl Index {
    pub fn open(storage: &Storage, chain: &Chain) -> Result<Self, ViewError> {
        let maker = Maker::new(storage, chain);
        let groups = maker.groups();
        let sources = groups.iter().map(|group| maker.source(group).map(Arc::new));
        let sources = sources.collect::<Result<_, _>>()?;
        Ok(Self::of(Arc::new(maker), groups, sources))
    }

    fn of(maker: Arc<Maker>, groups: Vec<Group>, sources: Vec<Arc<Source>>) -> Self {
        Self { maker, groups, sources, windows: Recent::new(WINDOWS_BYTES), gap: 0..0 }
    }

    /// Another one for the same point, to be used at the same time.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(Arc::clone(&self.maker), self.groups.clone(), self.sources.clone())
    }

    /// The run that holds a granule, or `None` if no delta does, and a granule up to which that is so.
    pub fn place(&mut self, granule: u32) -> Result<(Option<Run>, u32), ViewError> {
        if self.gap.contains(&granule) {
            return Ok((None, self.gap.end));
        }
        let number = granule / WINDOW_GRANULES;
        let (maker, groups, sources) = (&self.maker, &self.groups, &mut self.sources);
        let window = self.windows.get_or_put(number, || {
            let window = window(number, maker, groups, sources)?;
            let weight = WINDOW_BYTES + window.runs.len() * size_of::<Run>();
            Ok::<_, ViewError>((window, weight))
        })?;
        let next = window.runs.partition_point(|run| run.end <= granule);
        Ok(match window.runs.get(next) {
            Some(run) if run.start <= granule => (Some(*run), run.end),
            Some(run) => (None, run.start),
            None => {
                self.gap = granule..window.next;
                (None, window.next)
            }
        })
    }
}

/// Lays all sources over each other within one window. A merged index that turns out to be damaged is made anew.
fn window(
    number: u32,
    maker: &Maker,
    groups: &[Group],
    sources: &mut [Arc<Source>],
) -> Result<Window, ViewError> {
    let start = number * WINDOW_GRANULES;
    let granules = start..start.saturating_add(WINDOW_GRANULES);
    let mut runs = Vec::new();
    let mut next = u32::MAX;
    for (group, source) in groups.iter().zip(sources) {
        let from = runs.len();
        let behind = match source.within(&granules, &mut runs) {
            Err(error) if group.level > 0 => {
                tracing::warn!("an index is made anew: {error}");
                runs.truncate(from);
                *source = Arc::new(maker.made(group)?);
                source.within(&granules, &mut runs)
            }
            found => found,
        };
        next = next.min(behind?);
    }
    let mut runs = flatten(runs);
    // What is behind the edges may be hidden by runs that were not looked at: several pieces may reach there.
    runs.retain_mut(|run| {
        let inside = run.start < granules.end && run.end > granules.start;
        if inside && run.start < granules.start {
            *run = run.from(granules.start);
        }
        run.end = run.end.min(granules.end);
        inside
    });
    runs.shrink_to_fit();
    Ok(Window { runs, next: next.max(granules.end) })
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
        Err(stored.format(trailer.index_at(), FormatError::Checksum { part }).into())
    }
}
