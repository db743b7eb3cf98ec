//! Merged indexes as files: written once, opened without being read, read in blocks that are proven one by one.

use super::ViewError;
use crate::format::FormatError;
use crate::format::merged::{
    BLOCK_BYTES, BLOCK_RUNS, FENCE_BYTES, Fence, HEAD_BYTES, Head, MAX_RUNS, RUN_BYTES, fences, put_fence,
    put_run, read_block,
};
use crate::format::overlay::Run;
use crate::format::trailer::Digest;
use crate::io::storage::{Access, DataFile, Storage};
use crate::model::units::GranuleSize;
use std::ops::Range;
use std::path::Path;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 64 * BLOCK_BYTES;
/// Files up to this length are read ahead when they are opened: most are, and are then never waited for.
const AHEAD_BYTES: u64 = 4 << 20;

/// An open merged index.
#[derive(Debug)]
pub struct IndexFile {
    file: DataFile,
    head: Head,
    fences: Vec<Fence>,
    /// Layers below this are no longer part of the chain: they were folded into its base.
    gone: u32,
}

impl IndexFile {
    /// Opens the index that was made of the deltas with these roots, oldest first. It may have been made when there
    /// were older ones: their runs are left out.
    pub fn open(
        storage: &Storage,
        path: &Path,
        granule: GranuleSize,
        roots: &[Digest],
    ) -> Result<Self, ViewError> {
        let file = storage.open(path, Access::Read)?;
        let index = Self::read(file)?;
        let (head, stored) = index;
        let foreign = || ViewError::Foreign { path: path.to_owned() };
        let stale = stored.roots.len().checked_sub(roots.len()).ok_or_else(foreign)?;
        if head.granule != granule || stored.roots[stale..] != *roots {
            return Err(foreign());
        }
        if head.end() <= AHEAD_BYTES {
            stored.file.expect(0..head.end());
        }
        let gone = u32::try_from(stale).unwrap_or(u32::MAX);
        Ok(Self { file: stored.file, head, fences: stored.fences, gone })
    }

    fn read(file: DataFile) -> Result<(Head, Stored), ViewError> {
        let format = |source| ViewError::Format { path: file.path().to_owned(), offset: 0, source };
        let length = file.length()?;
        let need = HEAD_BYTES as u64;
        if length < need {
            return Err(format(FormatError::Short { part: "the merged index", need, have: length }));
        }
        let mut bytes = [0; HEAD_BYTES];
        file.read_at(&mut bytes, 0)?;
        let head = Head::parse(&bytes, length).map_err(format)?;
        let mut roots = vec![0; usize::try_from(head.roots_bytes()).unwrap_or(0)];
        file.read_at(&mut roots, need)?;
        let mut fence_bytes = vec![0; usize::try_from(head.end() - head.fences_at()).unwrap_or(0)];
        file.read_at(&mut fence_bytes, head.fences_at())?;
        head.prove(&bytes, &roots, &fence_bytes).map_err(format)?;
        let fences = fences(&fence_bytes).map_err(format)?;
        let roots = roots.as_chunks().0.to_vec();
        Ok((head, Stored { file, roots, fences }))
    }

    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.head.blocks()
    }

    /// Appends the runs of a block; layers count from the first delta that is still there.
    pub fn block(&self, block: u64, out: &mut Vec<Run>) -> Result<(), ViewError> {
        let mut bytes = [0; BLOCK_BYTES];
        let bytes = &mut bytes[..self.head.runs_of(block) * RUN_BYTES];
        let at = self.head.runs_at() + block * BLOCK_BYTES as u64;
        self.file.read_at(bytes, at)?;
        let fence = usize::try_from(block).ok().and_then(|block| self.fences.get(block));
        let fence = fence.copied().unwrap_or(Fence { start: u32::MAX, crc: 0 });
        let from = out.len();
        read_block(bytes, &fence, self.head.layers, out).map_err(|source| ViewError::Format {
            path: self.file.path().to_owned(),
            offset: at,
            source,
        })?;
        if self.gone > 0 {
            let mut kept = from;
            for n in from..out.len() {
                if let Some(layer) = out[n].layer.checked_sub(self.gone) {
                    out[kept] = Run { layer, ..out[n] };
                    kept += 1;
                }
            }
            out.truncate(kept);
        }
        Ok(())
    }

    /// Appends the runs that touch `granules`. Returns a granule behind them before which no other run begins.
    pub fn within(&self, granules: &Range<u32>, out: &mut Vec<Run>) -> Result<u32, ViewError> {
        // The run before the first block that begins inside may reach into it.
        let first = self.fences.partition_point(|fence| fence.start <= granules.start).saturating_sub(1);
        let mut block = first as u64;
        while block < self.blocks() {
            let begins = self.fences[usize::try_from(block).unwrap_or(usize::MAX)].start;
            if begins >= granules.end {
                return Ok(begins);
            }
            let from = out.len();
            self.block(block, out)?;
            let next = keep_touching(out, from, granules);
            if let Some(next) = next {
                return Ok(next);
            }
            block += 1;
        }
        Ok(u32::MAX)
    }
}

/// What is in a file besides its runs.
struct Stored {
    file: DataFile,
    roots: Vec<Digest>,
    fences: Vec<Fence>,
}

/// Of the sorted runs from position `from` on, keeps those that touch `granules`. Returns where the first run behind
/// them begins, if there is one.
pub fn keep_touching(runs: &mut Vec<Run>, from: usize, granules: &Range<u32>) -> Option<u32> {
    let first = from + runs[from..].partition_point(|run| run.end <= granules.start);
    let last = from + runs[from..].partition_point(|run| run.start < granules.end);
    let next = runs.get(last).map(|run| run.start);
    runs.truncate(last);
    runs.drain(from..first.min(last));
    next
}

/// Writes a merged index from sorted, disjoint runs.
#[derive(Debug)]
pub struct IndexWriter {
    file: DataFile,
    roots: Vec<Digest>,
    granule: GranuleSize,
    runs: u64,
    /// Runs that are not yet in the file, as bytes: whole blocks but for the last.
    buffer: Vec<u8>,
    flushed: u64,
    fences: Vec<u8>,
}

impl IndexWriter {
    /// Begins an index in an empty file.
    #[must_use]
    pub fn new(file: DataFile, granule: GranuleSize, roots: Vec<Digest>) -> Self {
        let flushed = (HEAD_BYTES + roots.as_flattened().len()) as u64;
        let buffer = Vec::with_capacity(WRITE_BYTES);
        Self { file, roots, granule, runs: 0, buffer, flushed, fences: Vec::new() }
    }

    pub fn put(&mut self, run: &Run) -> Result<(), ViewError> {
        if self.runs >= MAX_RUNS {
            return Err(ViewError::TooManyRuns);
        }
        put_run(&mut self.buffer, run);
        self.runs += 1;
        if self.runs.is_multiple_of(BLOCK_RUNS as u64) {
            put_fence(&mut self.fences, &self.buffer[self.buffer.len() - BLOCK_BYTES..]);
        }
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ViewError> {
        self.file.write_at(&self.buffer, self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Completes the file; the header comes last, so that one that was cut off has none.
    pub fn finish(mut self) -> Result<DataFile, ViewError> {
        let rest = usize::try_from(self.runs % BLOCK_RUNS as u64).unwrap_or(0) * RUN_BYTES;
        if rest > 0 {
            put_fence(&mut self.fences, &self.buffer[self.buffer.len() - rest..]);
        }
        self.flush()?;
        self.file.write_at(&self.fences, self.flushed)?;
        let layers = u32::try_from(self.roots.len()).unwrap_or(u32::MAX);
        let head = Head { granule: self.granule, layers, runs: self.runs };
        debug_assert_eq!(self.fences.len() as u64, head.blocks() * FENCE_BYTES as u64);
        self.file.write_at(self.roots.as_flattened(), HEAD_BYTES as u64)?;
        self.file.write_at(&head.encode(&self.roots, &self.fences), 0)?;
        Ok(self.file)
    }

    /// Completes the file and opens it.
    pub fn open(self) -> Result<IndexFile, ViewError> {
        let (head, stored) = IndexFile::read(self.finish()?)?;
        Ok(IndexFile { file: stored.file, head, fences: stored.fences, gone: 0 })
    }
}
