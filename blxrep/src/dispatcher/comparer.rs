//! The dispatcher's side of a comparison: a thread that reads a point and judges the digests of the disk's blocks.
//!
//! The sidecar's words cannot stand for the content: they are 32 bits that anybody can forge. What it is good for is that
//! a hole of the image is known to be zero without reading it.

use crate::model::comparison::{Digest, Grid, Key, UNREADABLE};
use crate::model::encoding::is_zero;
use crate::view::part::PartReader;
use crate::view::reader::Content;
use std::ops::Range;
use tokio::sync::mpsc;

/// Digests of blocks that follow each other.
#[derive(Debug)]
pub struct Blocks {
    pub first: u32,
    pub digests: Vec<Digest>,
}

/// What came of them.
#[derive(Debug)]
pub struct Judgement {
    /// Blocks that differ, with the digests of their granules in the point.
    pub differing: Vec<(u32, Vec<Digest>)>,
    /// All below this block are judged.
    pub through: u32,
    /// So many were, this time.
    pub count: u32,
}

/// A point, as digests.
pub struct Comparer {
    reader: PartReader,
    grid: Grid,
    key: Key,
    /// Digests of a granule of zeroes, and of a block of them.
    zero: (Digest, Digest),
    content: Vec<u8>,
    /// Damage of the store that was met; the first is told.
    pub damaged: u64,
}

impl Comparer {
    pub fn new(mut reader: PartReader, grid: Grid, key: Key) -> Self {
        reader.stream();
        let length = usize::try_from(grid.granule().bytes()).unwrap_or(0);
        let zero = key.granule(&vec![0; length]);
        let granules = usize::try_from(grid.block_granules()).unwrap_or(1);
        let zero = (zero, key.block(&vec![zero; granules]));
        Self { reader, grid, key, zero, content: Vec::new(), damaged: 0 }
    }

    /// Judges until nothing more comes, or nobody listens.
    pub fn run(mut self, mut queue: mpsc::Receiver<Blocks>, verdicts: &mpsc::Sender<Judgement>) -> u64 {
        while let Some(blocks) = queue.blocking_recv() {
            if verdicts.blocking_send(self.judge(&blocks)).is_err() {
                break;
            }
        }
        self.damaged
    }

    fn judge(&mut self, blocks: &Blocks) -> Judgement {
        let mut differing = Vec::new();
        for (block, theirs) in (blocks.first..).zip(&blocks.digests) {
            if self.is_zero(block) {
                if *theirs != self.zero.1 {
                    let granules = self.grid.granules_of(block).len();
                    differing.push((block, vec![self.zero.0; granules]));
                }
                continue;
            }
            let ours = self.granules(block);
            // A granule that cannot be read makes its block differ: it is sent again.
            if self.key.block(&ours) != *theirs || ours.contains(&UNREADABLE) {
                differing.push((block, ours));
            }
        }
        let count = u32::try_from(blocks.digests.len()).unwrap_or(u32::MAX);
        Judgement { differing, through: blocks.first.saturating_add(count), count }
    }

    /// Whether all of a full block is known to be zero without reading it.
    fn is_zero(&mut self, block: u32) -> bool {
        let bytes = self.grid.bytes_of(block..block + 1);
        let whole = u64::from(self.grid.block_granules()) * self.grid.granule().bytes();
        bytes.end - bytes.start == whole
            && matches!(self.reader.next_stretch(bytes.start),
                Ok(Some((range, Content::Zero))) if range.end >= bytes.end)
    }

    /// Digests of a block's granules in the point.
    fn granules(&mut self, block: u32) -> Vec<Digest> {
        let bytes = self.grid.bytes_of(block..block + 1);
        let mut content = std::mem::take(&mut self.content);
        content.resize(usize::try_from(bytes.end - bytes.start).unwrap_or(0), 0);
        let step = usize::try_from(self.grid.granule().bytes()).unwrap_or(content.len());
        let whole = self.reader.read_at(bytes.start, &mut content).is_ok();
        let mut at = bytes.start;
        let mut digests = Vec::with_capacity(self.grid.granules_of(block).len());
        for granule in content.chunks_mut(step) {
            let range = at..at + granule.len() as u64;
            at = range.end;
            let read = whole || self.read(&range, granule);
            digests.push(if read { self.digest(granule) } else { UNREADABLE });
        }
        self.content = content;
        digests
    }

    fn digest(&self, granule: &[u8]) -> Digest {
        let full = granule.len() as u64 == self.grid.granule().bytes();
        if full && is_zero(granule) { self.zero.0 } else { self.key.granule(granule) }
    }

    /// Reads a granule alone.
    fn read(&mut self, range: &Range<u64>, out: &mut [u8]) -> bool {
        let Err(error) = self.reader.read_at(range.start, out) else { return true };
        if self.damaged == 0 {
            tracing::error!(%error, "the point is damaged: run `blxrep verify`; what cannot be read is sent again");
        }
        self.damaged += 1;
        false
    }
}
