//! What is written over a point that never changes: in a file without a name, gone when it is closed.

use crate::io::storage::{DataFile, Storage, StorageError};
use crate::model::granules::GranuleSet;
use crate::model::units::GranuleSize;
use std::ops::Range;
use std::path::Path;

/// Why something is not written.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{limit} bytes were written over the point, and more may not be: give a larger --scratch-limit")]
    Full { limit: u64 },
}

/// Where the bytes of a stretch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below: never written here.
    Point,
    Scratch,
    Zero,
}

/// A copy-on-write layer. A block is in one of two sets, or in none and then below.
#[derive(Debug)]
pub struct Scratch {
    file: DataFile,
    block: GranuleSize,
    disk_bytes: u64,
    written: GranuleSet,
    zeroed: GranuleSet,
    limit: u64,
}

impl Scratch {
    /// An empty layer over a disk, in a file of `folder`'s filesystem that takes at most `limit` bytes.
    pub fn new(storage: &Storage, folder: &Path, disk_bytes: u64, limit: u64) -> Result<Self, ScratchError> {
        let file = storage.unnamed(folder)?;
        file.set_len(disk_bytes)?;
        let block = GranuleSize::for_disk(disk_bytes, u64::MAX);
        let (written, zeroed) = (GranuleSet::new(), GranuleSet::new());
        Ok(Self { file, block, disk_bytes, written, zeroed, limit })
    }

    /// Where the bytes from `at` on are, and up to where at most `end`.
    #[must_use]
    pub fn place(&self, at: u64, end: u64) -> (Place, u64) {
        let blocks = self.block.touched(at..end);
        let place = self.place_of(blocks.start);
        let same = blocks.clone().take_while(|block| self.place_of(*block) == place).count();
        let until = blocks.start + u32::try_from(same).unwrap_or(0);
        (place, self.block.byte_range(until..until, self.disk_bytes).start.min(end).max(at))
    }

    fn place_of(&self, block: u32) -> Place {
        if self.written.contains(block) {
            Place::Scratch
        } else if self.zeroed.contains(block) {
            Place::Zero
        } else {
            Place::Point
        }
    }

    /// Fills `out` with what was written from `at` on; the caller knows that it was.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ScratchError> {
        Ok(self.file.read_at(out, at)?)
    }

    /// The edges of a range that are parts of blocks: their whole content is needed to write there.
    #[must_use]
    pub fn edges(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let blocks = self.block.touched(range.clone());
        let mut edges = Vec::new();
        for block in [blocks.start, blocks.end.saturating_sub(1)] {
            let whole = self.block.byte_range(block..block + 1, self.disk_bytes);
            let inside = range.start <= whole.start && whole.end <= range.end;
            if !inside && !edges.contains(&whole) {
                edges.push(whole);
            }
        }
        edges
    }

    /// Writes whole blocks.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ScratchError> {
        let blocks = self.block.touched(at..at + bytes.len() as u64);
        let mut more = GranuleSet::new();
        more.insert_range(blocks.clone());
        more.subtract(&self.written);
        if (self.written.len() + more.len()) << self.block.shift() > self.limit {
            return Err(ScratchError::Full { limit: self.limit });
        }
        self.file.write_at(bytes, at)?;
        self.written.union_with(&more);
        self.zeroed.remove_range(blocks);
        Ok(())
    }

    /// Makes the whole blocks within a range zero. Returns the range that they are.
    pub fn zero(&mut self, range: &Range<u64>) -> Result<Range<u64>, ScratchError> {
        let first = u32::try_from(range.start.div_ceil(self.block.bytes())).unwrap_or(u32::MAX);
        let last = match range.end == self.disk_bytes {
            true => self.block.touched(range.clone()).end,
            false => u32::try_from(range.end / self.block.bytes()).unwrap_or(u32::MAX),
        };
        if first >= last {
            return Ok(range.start..range.start);
        }
        let whole = self.block.byte_range(first..last, self.disk_bytes);
        self.file.punch(whole.clone())?;
        self.written.remove_range(first..last);
        self.zeroed.insert_range(first..last);
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: u64 = 40 * 4096 + 512;

    proptest! {
        /// The oracle is a disk in memory.
        #[test]
        fn what_is_read_is_what_was_written(
            writes in proptest::collection::vec((0u64..DISK, 1u64..20_000, any::<u8>()), 1..20)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut scratch = Scratch::new(&Storage::default(), folder.path(), DISK, u64::MAX).unwrap();
            let below = |at: u64| (at % 251) as u8;
            let mut disk: Vec<u8> = (0..DISK).map(below).collect();
            for (at, length, value) in writes {
                let range = at..(at + length).min(DISK);
                if value < 100 {
                    let zeroed = scratch.zero(&range).unwrap();
                    prop_assert!(zeroed.is_empty() || (range.start <= zeroed.start && zeroed.end <= range.end));
                    disk[zeroed.start as usize..zeroed.end as usize].fill(0);
                } else {
                    disk[range.start as usize..range.end as usize].fill(value);
                    let whole = scratch.edges(&range).iter().fold(range, |r, e| r.start.min(e.start)..r.end.max(e.end));
                    scratch.write(whole.start, &disk[whole.start as usize..whole.end as usize]).unwrap();
                }
            }
            let mut at = 0;
            while at < DISK {
                let (place, until) = scratch.place(at, DISK);
                prop_assert!(until > at);
                let mut bytes = vec![1; (until - at) as usize];
                match place {
                    Place::Scratch => scratch.read(at, &mut bytes).unwrap(),
                    Place::Zero => bytes.fill(0),
                    Place::Point => bytes = (at..until).map(below).collect(),
                }
                prop_assert_eq!(&bytes, &disk[at as usize..until as usize]);
                at = until;
            }
        }
    }

    #[test]
    fn more_than_the_limit_is_refused_and_rewriting_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new(&Storage::default(), folder.path(), DISK, 8192).unwrap();
        scratch.write(0, &[1; 8192]).unwrap();
        scratch.write(4096, &[2; 4096]).unwrap();
        assert!(matches!(scratch.write(8192, &[3; 4096]), Err(ScratchError::Full { limit: 8192 })));
        scratch.zero(&(0..4096)).unwrap();
        scratch.write(8192, &[3; 4096]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
    }
}
