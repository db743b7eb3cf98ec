//! Parallel reads of a disk, turned into digests in the order of its blocks. What cannot be read has no digest.
//!
//! Piece k belongs to worker k mod W, which keeps one buffer for the pass: memory is W pieces.

use super::buffer::AlignedBuf;
use super::priority;
use super::source::DiskSource;
use crate::model::comparison::{Digest, Grid, Key};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Bytes of one read, at most.
const PIECE_BYTES: u64 = 1 << 20;

/// The digests of some blocks that follow each other.
#[derive(Debug)]
pub struct Piece {
    pub blocks: Range<u32>,
    /// Of all their granules.
    pub granules: Vec<Digest>,
}

/// A pass over a disk. Dropping it stops the threads.
#[derive(Debug)]
pub struct Digester {
    outputs: Vec<mpsc::Receiver<Piece>>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Digester {
    /// Starts to read from a block on.
    pub fn start(
        disk: &Arc<DiskSource>,
        grid: Grid,
        key: Key,
        from: u32,
        workers: usize,
    ) -> std::io::Result<Self> {
        let workers = workers.max(1);
        let mut digester = Self { outputs: Vec::new(), next: 0, threads: Vec::new() };
        for index in 0..workers {
            let (give, output) = mpsc::channel(1);
            digester.outputs.push(output);
            let disk = Arc::clone(disk);
            let work = move || worker(&disk, &grid, &key, pieces(&grid, from, index, workers), &give);
            let thread = std::thread::Builder::new().name(format!("digest-{index}"));
            digester.threads.push(thread.spawn(work)?);
        }
        Ok(digester)
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Piece> {
        let output = self.outputs.get_mut(self.next)?;
        let piece = output.recv().await?;
        self.next = (self.next + 1) % self.outputs.len();
        Some(piece)
    }
}

/// The pieces of one worker.
fn pieces(grid: &Grid, from: u32, index: usize, workers: usize) -> impl Iterator<Item = Range<u32>> + use<> {
    let granule = grid.granule().bytes();
    let blocks =
        u32::try_from(PIECE_BYTES / (u64::from(grid.block_granules()) * granule)).unwrap_or(1).max(1);
    let end = grid.blocks();
    let step = usize::try_from(blocks).unwrap_or(1);
    (from..end).step_by(step).skip(index).step_by(workers).map(move |b| b..b.saturating_add(blocks).min(end))
}

fn worker(
    disk: &DiskSource,
    grid: &Grid,
    key: &Key,
    pieces: impl Iterator<Item = Range<u32>>,
    give: &mpsc::Sender<Piece>,
) {
    if disk.idle
        && let Err(error) = priority::set_idle()
    {
        tracing::debug!(%error, "reads go on at the usual priority");
    }
    let mut buffer = AlignedBuf::new(usize::try_from(PIECE_BYTES).unwrap_or(1 << 20));
    for blocks in pieces {
        let granules = digests(disk, grid, key, &blocks, &mut buffer);
        if give.blocking_send(Piece { blocks, granules }).is_err() {
            return;
        }
    }
}

/// Reads some blocks and digests their granules. Where they cannot be read together, each granule is tried alone.
fn digests(disk: &DiskSource, grid: &Grid, key: &Key, blocks: &Range<u32>, buffer: &mut [u8]) -> Vec<Digest> {
    let bytes = grid.bytes_of(blocks.clone());
    let length = usize::try_from(bytes.end - bytes.start).unwrap_or(0).min(buffer.len());
    let content = &mut buffer[..length];
    let step = usize::try_from(grid.granule().bytes()).unwrap_or(length);
    if disk.read_exact_at(content, bytes.start).is_ok() {
        return content.chunks(step).map(|granule| key.granule(granule)).collect();
    }
    let mut at = bytes.start;
    let alone = content.chunks_mut(step).map(|granule| {
        let read = disk.read_exact_at(granule, at);
        at += granule.len() as u64;
        match read {
            Ok(()) => key.granule(granule),
            Err(error) => {
                tracing::warn!(%error, "a granule cannot be compared: it stays dirty");
                crate::model::comparison::UNREADABLE
            }
        }
    });
    alone.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::GranuleSize;
    use std::io::Write;

    #[tokio::test]
    async fn pieces_come_in_order_with_the_digests_of_what_the_disk_holds() {
        let mut file = tempfile::NamedTempFile::new_in(".").unwrap();
        let content: Vec<u8> = (0..(5usize << 20) + 4096 + 512).map(|i| (i / 512 % 251) as u8).collect();
        file.write_all(&content).unwrap();
        file.flush().unwrap();
        let disk = Arc::new(DiskSource::open(file.path(), false).unwrap());
        let bytes = content.len() as u64;
        let (key, grid) = (Key([3; 32]), Grid::new(GranuleSize::default(), bytes, bytes));
        for (from, workers) in [(0, 1), (0, 3), (7, 4)] {
            let mut digester = Digester::start(&disk, grid, key, from, workers).unwrap();
            let (mut next, mut digests) = (from, Vec::new());
            while let Some(piece) = digester.next().await {
                assert_eq!(piece.blocks.start, next);
                next = piece.blocks.end;
                digests.extend(piece.granules);
            }
            let start = usize::try_from(grid.bytes_below(from)).unwrap();
            let expected: Vec<Digest> = content[start..].chunks(4096).map(|g| key.granule(g)).collect();
            assert_eq!((next, digests), (grid.blocks(), expected));
        }
    }
}
