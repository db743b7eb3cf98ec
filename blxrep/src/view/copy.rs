//! A point, or a part of one, written to a file: as it is, or as a qcow2 image.

use super::ViewError;
use super::part::PartReader;
use super::reader::Content;
use crate::format::qcow2::{CLUSTER_BYTES, CLUSTER_LENGTH, Counts, Layout, TABLE_SPAN, entry, header, table};
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{DataFile, StorageError};
use crate::model::encoding::is_zero;
use std::ops::Range;

/// Bytes that are read at once; whole clusters.
const CHUNK_LENGTH: usize = 1 << 20;
const CHUNK_BYTES: u64 = CHUNK_LENGTH as u64;

/// Why a copy is not whole.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cancelled")]
    Cancelled,
}

/// Where the bytes go.
#[derive(Debug)]
pub enum Target {
    Raw(DataFile),
    Qcow2(Box<Qcow2>),
}

impl Target {
    /// Makes an empty file a raw image of so many bytes.
    pub fn raw(file: DataFile, bytes: u64) -> Result<Self, CopyError> {
        file.set_len(bytes)?;
        Ok(Self::Raw(file))
    }

    /// Makes an empty file a qcow2 image of so many bytes.
    #[must_use]
    pub fn qcow2(file: DataFile, bytes: u64) -> Self {
        Self::Qcow2(Box::new(Qcow2::new(file, bytes)))
    }

    /// Takes bytes, front to back, of whole clusters but for the last. Zeroes may be left out.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), CopyError> {
        match self {
            Self::Raw(_) if is_zero(bytes) => Ok(()),
            Self::Raw(file) => Ok(file.write_at(bytes, at)?),
            Self::Qcow2(image) => image.put(at, bytes),
        }
    }

    /// Completes the file and waits until it is on stable storage.
    fn finish(self) -> Result<(), CopyError> {
        match self {
            Self::Raw(file) => Ok(file.sync()?),
            Self::Qcow2(image) => image.finish(),
        }
    }
}

/// Copies a part of a point. `report` is told the bytes done and says whether to go on. Returns the bytes that are not
/// known to be zero.
pub fn copy(
    part: &mut PartReader,
    mut target: Target,
    mut report: impl FnMut(u64) -> bool,
) -> Result<u64, CopyError> {
    part.stream();
    let bytes = part.bytes();
    let mut buffer = AlignedBuffer::new(CHUNK_LENGTH);
    let (mut at, mut data) = (0, 0);
    while at < bytes {
        if !report(at) {
            return Err(CopyError::Cancelled);
        }
        let (zero, until) = match part.next_stretch(at)? {
            Some((range, content)) => (content == Content::Zero, range.end),
            None => (false, bytes),
        };
        // From here on in whole chunks.
        let chunk_end = (at + CHUNK_BYTES).min(bytes);
        let skipped = until / CHUNK_BYTES * CHUNK_BYTES;
        if zero && (skipped > at || until == bytes) {
            at = if until == bytes { until } else { skipped };
            continue;
        }
        let length = usize::try_from(chunk_end - at).unwrap_or(0);
        part.read_at(at, buffer.fill(length))?;
        target.put(at, buffer.as_slice())?;
        data += chunk_end - at;
        at = chunk_end;
    }
    report(bytes);
    target.finish()?;
    Ok(data)
}

/// A qcow2 image that is written from front to back; its tables follow what they name.
#[derive(Debug)]
pub struct Qcow2 {
    file: DataFile,
    layout: Layout,
    /// The first table.
    first: Vec<u64>,
    /// The table of the second level that is being filled, and which one that is.
    second: Vec<u64>,
    number: u64,
    /// The next free cluster.
    next: u64,
}

impl Qcow2 {
    fn new(file: DataFile, bytes: u64) -> Self {
        let layout = Layout::new(bytes);
        let first = vec![0; usize::try_from(layout.first_entries).unwrap_or(0)];
        Self { file, layout, first, second: Vec::new(), number: 0, next: layout.body_at() }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), CopyError> {
        // Chunks begin at multiples of their length, so that one is within one table.
        if at / TABLE_SPAN != self.number {
            self.flush()?;
            self.number = at / TABLE_SPAN;
        }
        let first = at / CLUSTER_BYTES;
        // Neighbours that are stored are written together.
        let mut stored: Option<Range<usize>> = None;
        for (n, cluster) in bytes.chunks(CLUSTER_LENGTH).enumerate() {
            let start = n * CLUSTER_LENGTH;
            if is_zero(cluster) {
                self.write(bytes, stored.take())?;
                continue;
            }
            let behind = stored.as_ref().map_or(0, |range| (range.len() / CLUSTER_LENGTH) as u64);
            let place = self.next + behind;
            self.name(first + n as u64, place);
            let from = stored.map_or(start, |range| range.start);
            stored = Some(from..start + cluster.len());
        }
        self.write(bytes, stored)
    }

    /// Puts the cluster of the disk into its table.
    fn name(&mut self, cluster: u64, place: u64) {
        let entries = TABLE_SPAN / CLUSTER_BYTES;
        self.second.resize(usize::try_from(entries).unwrap_or(0), 0);
        self.second[usize::try_from(cluster % entries).unwrap_or(0)] = entry(place);
    }

    fn write(&mut self, bytes: &[u8], stored: Option<Range<usize>>) -> Result<(), CopyError> {
        let Some(range) = stored else { return Ok(()) };
        self.file.write_at(&bytes[range.clone()], self.next * CLUSTER_BYTES)?;
        self.next += (range.len() as u64).div_ceil(CLUSTER_BYTES);
        Ok(())
    }

    /// Writes the table that is being filled.
    fn flush(&mut self) -> Result<(), CopyError> {
        if self.second.is_empty() {
            return Ok(());
        }
        self.file.write_at(&table(&self.second), self.next * CLUSTER_BYTES)?;
        self.first[usize::try_from(self.number).unwrap_or(0)] = entry(self.next);
        self.next += 1;
        self.second.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), CopyError> {
        self.flush()?;
        let counts = Counts::new(self.next);
        self.file.write_at(&counts.table(), counts.table_at * CLUSTER_BYTES)?;
        let blocks_at = counts.end() - counts.blocks;
        for block in 0..counts.blocks {
            self.file.write_at(&counts.block(block), (blocks_at + block) * CLUSTER_BYTES)?;
        }
        self.file.write_at(&table(&self.first), CLUSTER_BYTES)?;
        self.file.write_at(&header(&self.layout, &counts), 0)?;
        Ok(self.file.sync()?)
    }
}
