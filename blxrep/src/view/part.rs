//! A part of a point as a range of its own: one partition, or all of the disk.

use super::ViewError;
use super::reader::{Content, PointReader};
use crate::model::units::GranuleSize;
use std::ops::Range;

/// Reads the part at positions that count from its first byte.
#[derive(Debug)]
pub struct PartReader {
    reader: PointReader,
    /// Bytes of the disk.
    range: Range<u64>,
}

impl PartReader {
    /// `range` lies within the disk.
    #[must_use]
    pub const fn new(reader: PointReader, range: Range<u64>) -> Self {
        Self { reader, range }
    }

    #[must_use]
    pub const fn whole(reader: PointReader) -> Self {
        let bytes = reader.disk_bytes();
        Self { reader, range: 0..bytes }
    }

    /// The same part once more, to be read at the same time.
    pub fn another(&self) -> Result<Self, ViewError> {
        let mut reader = self.reader.another()?;
        if self.reader.holes().is_empty() {
            reader.fill_holes();
        }
        Ok(Self { reader, range: self.range.clone() })
    }

    /// Prepares for reads from front to back.
    pub fn stream(&mut self) {
        self.reader.stream();
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    #[must_use]
    pub const fn granule(&self) -> GranuleSize {
        self.reader.granule()
    }

    /// Fills `out` with the bytes from `at` on. They lie within the part.
    pub fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<(), ViewError> {
        self.reader.read_at(self.range.start + at, out)
    }

    /// What the bytes from `at` on are, and up to where. `None` at the end.
    pub fn next_stretch(&mut self, at: u64) -> Result<Option<(Range<u64>, Content)>, ViewError> {
        if at >= self.bytes() {
            return Ok(None);
        }
        let start = self.range.start;
        let found = self.reader.next_stretch(start + at)?;
        Ok(found.map(|(range, content)| (at..range.end.min(self.range.end) - start, content)))
    }
}
