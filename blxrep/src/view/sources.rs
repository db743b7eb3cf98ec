//! The indexes that a chain is read through: merged ones where they are, made where they are missing.

use super::groups::{Group, MAX_LEVEL, groups};
use super::index::{each, load};
use super::merged::{IndexFile, IndexWriter};
use super::{Chain, DeltaFiles, StoredFile, ViewError};
use crate::format::header::FileKind;
use crate::format::overlay::{Overlay, Run};
use crate::format::trailer::Digest;
use crate::io::storage::{Access, Storage};
use crate::model::units::GranuleSize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Entries of a delta's own index that are kept in memory, 24 bytes each. Of more, a file is made.
const MEMORY_RUNS: u64 = 1 << 15;
/// Ending of merged indexes.
pub const INDEX: &str = "idx";

/// The runs of one or some neighbouring deltas: sorted and disjoint.
#[derive(Debug)]
pub enum Source {
    Memory(Vec<Run>),
    /// Layers in the file count from this one.
    File(IndexFile, u32),
}

impl Source {
    /// Appends the runs that touch `granules`. Returns a granule behind them before which no other run begins.
    pub fn within(&self, granules: &Range<u32>, out: &mut Vec<Run>) -> Result<u32, ViewError> {
        match self {
            Self::Memory(runs) => {
                let first = runs.partition_point(|run| run.end <= granules.start);
                let count = runs[first..].partition_point(|run| run.start < granules.end);
                out.extend_from_slice(&runs[first..first + count]);
                Ok(runs.get(first + count).map_or(u32::MAX, |run| run.start))
            }
            Self::File(file, layer) => {
                let from = out.len();
                let next = file.within(granules, out)?;
                out[from..].iter_mut().for_each(|run| run.layer += layer);
                Ok(next)
            }
        }
    }

    /// Appends the next piece of all runs, by its number; `false` behind the last.
    fn piece(&self, piece: u64, out: &mut Vec<Run>) -> Result<bool, ViewError> {
        match self {
            Self::Memory(runs) if piece == 0 => out.extend_from_slice(runs),
            Self::File(file, layer) if piece < file.blocks() => {
                let from = out.len();
                file.block(piece, out)?;
                out[from..].iter_mut().for_each(|run| run.layer += layer);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What sources are made from.
#[derive(Clone, Debug)]
pub struct Maker {
    storage: Storage,
    deltas: Vec<DeltaFiles>,
    positions: Vec<u64>,
    granule: GranuleSize,
    /// Folder of the merged indexes of the chain's generation.
    folder: PathBuf,
    /// Files are made under their names there, and not without a name.
    keeps: bool,
}

impl Maker {
    /// One that leaves nothing behind.
    #[must_use]
    pub fn new(storage: &Storage, chain: &Chain) -> Self {
        Self {
            storage: storage.clone(),
            deltas: chain.deltas.clone(),
            positions: chain.deltas.iter().map(|delta| delta.position).collect(),
            granule: chain.granule,
            folder: chain.indexes.clone(),
            keeps: false,
        }
    }

    /// One whose merged indexes stay for others.
    #[must_use]
    pub fn keeping(storage: &Storage, chain: &Chain) -> Self {
        Self { keeps: true, ..Self::new(storage, chain) }
    }

    /// The groups that the whole chain is read in, oldest first.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        groups(&self.positions, 0..self.positions.len(), MAX_LEVEL)
    }

    /// The index of a group: the one that is there, or a new one.
    pub fn source(&self, group: &Group) -> Result<Source, ViewError> {
        if group.level == 0 {
            return self.delta(group.deltas.start);
        }
        match IndexFile::open(&self.storage, &self.path(group), self.granule, &self.roots(group)) {
            Ok(file) => Ok(Source::File(file, layer(group))),
            Err(error) => {
                if error.path().is_some_and(Path::exists) {
                    tracing::debug!("making an index anew: {error}");
                }
                self.made(group)
            }
        }
    }

    /// Makes the index of a group from those below.
    pub fn made(&self, group: &Group) -> Result<Source, ViewError> {
        if group.level == 0 {
            return self.delta(group.deltas.start);
        }
        let parts = groups(&self.positions, group.deltas.clone(), group.level - 1);
        match self.merged(group, &parts, Self::source) {
            // An index below is damaged where it was not looked at before.
            Err(error) if is_index(&error) => self.merged(group, &parts, Self::made),
            done => done,
        }
    }

    fn merged(
        &self,
        group: &Group,
        parts: &[Group],
        source: fn(&Self, &Group) -> Result<Source, ViewError>,
    ) -> Result<Source, ViewError> {
        let parts = parts.iter().map(|part| source(self, part)).collect::<Result<Vec<_>, _>>()?;
        let path = self.path(group);
        let part = path.with_added_extension("part");
        let file = match self.keeps {
            true => self.storage.open(&part, Access::Replace)?,
            false => self.storage.unnamed(&self.folder)?,
        };
        let mut writer = IndexWriter::new(file, self.granule, self.roots(group));
        merge(&parts, layer(group), &mut writer)?;
        let file = writer.open()?;
        if self.keeps {
            self.storage.rename(&part, &path)?;
        }
        Ok(Source::File(file, layer(group)))
    }

    /// The index of a group, every block of it proven: the one that is there, or a new one.
    pub fn checked(&self, group: &Group) -> Result<Source, ViewError> {
        let source = self.source(group)?;
        let mut runs = Vec::new();
        let mut piece = 0;
        loop {
            runs.clear();
            match source.piece(piece, &mut runs) {
                Ok(true) => piece += 1,
                Ok(false) => return Ok(source),
                Err(_) => return self.made(group),
            }
        }
    }

    /// The index of a single delta, proven: in memory, or as a file if it is long.
    fn delta(&self, at: usize) -> Result<Source, ViewError> {
        let delta = &self.deltas[at];
        let stored = StoredFile::open(&self.storage, &delta.path, FileKind::Delta, &delta.root)?;
        if stored.header.granule != self.granule {
            return Err(ViewError::Foreign { path: delta.path.clone() });
        }
        let layer = u32::try_from(at).unwrap_or(u32::MAX);
        if stored.trailer.index_entries <= MEMORY_RUNS {
            let mut runs = Vec::new();
            load(&stored, layer, &mut runs)?;
            return Ok(Source::Memory(runs));
        }
        let file = self.storage.unnamed(&self.folder)?;
        let mut writer = IndexWriter::new(file, self.granule, vec![delta.root]);
        each(&stored, |runs| runs.iter().try_for_each(|run| writer.put(run)))?;
        Ok(Source::File(writer.open()?, layer))
    }

    fn roots(&self, group: &Group) -> Vec<Digest> {
        self.deltas[group.deltas.clone()].iter().map(|delta| delta.root).collect()
    }

    /// Where the merged index of a group is.
    #[must_use]
    pub fn path(&self, group: &Group) -> PathBuf {
        self.folder.join(format!("{}-{:016x}.{INDEX}", group.level, group.number))
    }
}

fn is_index(error: &ViewError) -> bool {
    error.path().and_then(Path::extension).is_some_and(|extension| extension == INDEX)
}

fn layer(group: &Group) -> u32 {
    u32::try_from(group.deltas.start).unwrap_or(u32::MAX)
}

/// Reads the runs of a source in order.
struct Reading<'a> {
    source: &'a Source,
    piece: u64,
    runs: Vec<Run>,
    at: usize,
}

impl Reading<'_> {
    fn next(&mut self) -> Result<Option<Run>, ViewError> {
        while self.at >= self.runs.len() {
            self.runs.clear();
            self.at = 0;
            if !self.source.piece(self.piece, &mut self.runs)? {
                return Ok(None);
            }
            self.piece += 1;
        }
        self.at += 1;
        Ok(Some(self.runs[self.at - 1]))
    }
}

/// Lays sources over each other. Layers in the result count from `first`.
fn merge(sources: &[Source], first: u32, writer: &mut IndexWriter) -> Result<(), ViewError> {
    let mut readings: Vec<Reading<'_>> =
        sources.iter().map(|source| Reading { source, piece: 0, runs: Vec::new(), at: 0 }).collect();
    // The next run of each source, by its first granule.
    let mut heads = BinaryHeap::new();
    let mut next: Vec<Option<Run>> = Vec::new();
    for (n, reading) in readings.iter_mut().enumerate() {
        let run = reading.next()?;
        heads.extend(run.map(|run| Reverse((run.start, n))));
        next.push(run);
    }
    let mut overlay = Overlay::default();
    let mut seen = Vec::new();
    while let Some(Reverse((_, n))) = heads.pop() {
        if let Some(run) = next[n].take() {
            overlay.lay(run, &mut seen);
        }
        next[n] = readings[n].next()?;
        heads.extend(next[n].map(|run| Reverse((run.start, n))));
        for run in seen.drain(..) {
            writer.put(&Run { layer: run.layer - first, ..run })?;
        }
    }
    overlay.finish(&mut seen);
    seen.iter().try_for_each(|run| writer.put(&Run { layer: run.layer - first, ..*run }))
}
