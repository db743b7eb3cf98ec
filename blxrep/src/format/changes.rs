//! `.cst`: the change set of a point, as sorted half-open ranges of sectors.

use super::FormatError;
use super::bytes::Cursor;
use crate::model::granules::GranuleSet;
use crate::model::units::{GranuleSize, SECTOR_BYTES};
use std::ops::Range;

/// Bytes of one range.
pub const RANGE_BYTES: usize = 16;
/// Most ranges of one change set: every second granule of the largest disk.
pub const MAX_RANGES: u64 = 1 << 31;
const PART: &str = "the change set";

/// Appends a range of sectors.
pub fn put_range(out: &mut Vec<u8>, sectors: &Range<u64>) {
    out.extend_from_slice(&sectors.start.to_le_bytes());
    out.extend_from_slice(&sectors.end.to_le_bytes());
}

/// The sectors of a run of granules on a disk of `disk_bytes`.
#[must_use]
pub fn sectors_of(granule: GranuleSize, granules: Range<u32>, disk_bytes: u64) -> Range<u64> {
    let bytes = granule.byte_range(granules, disk_bytes);
    bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES)
}

/// Reads ranges from successive pieces of the body and checks their order across pieces.
#[derive(Debug)]
pub struct RangeReader {
    granule: GranuleSize,
    disk_sectors: u64,
    entries: u64,
    end: u64,
}

impl RangeReader {
    #[must_use]
    pub fn new(granule: GranuleSize, disk_bytes: u64) -> Self {
        Self { granule, disk_sectors: disk_bytes.div_ceil(SECTOR_BYTES), entries: 0, end: 0 }
    }

    /// Adds the granules of the ranges in `piece`, which is a whole number of them, to `set`.
    pub fn feed(&mut self, piece: &[u8], set: &mut GranuleSet) -> Result<(), FormatError> {
        for range in piece.chunks(RANGE_BYTES) {
            let mut c = Cursor::new(PART, range);
            let (start, end) = (c.u64()?, c.u64()?);
            // Touching ranges would have been written as one.
            let in_order = self.entries == 0 || start > self.end;
            if !in_order || start >= end || end > self.disk_sectors || !self.aligned(start, end) {
                return Err(FormatError::Order { part: PART, entry: self.entries });
            }
            set.insert_range(self.granule.touched(start * SECTOR_BYTES..end * SECTOR_BYTES));
            self.entries += 1;
            self.end = end;
        }
        Ok(())
    }

    fn aligned(&self, start: u64, end: u64) -> bool {
        let sectors = self.granule.bytes() / SECTOR_BYTES;
        start.is_multiple_of(sectors) && (end.is_multiple_of(sectors) || end == self.disk_sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], disk_bytes: u64) -> Result<GranuleSet, FormatError> {
        let mut set = GranuleSet::new();
        RangeReader::new(GranuleSize::default(), disk_bytes).feed(bytes, &mut set)?;
        Ok(set)
    }

    #[test]
    fn ranges_out_of_order_or_off_the_disk_are_refused() {
        let encode = |ranges: &[Range<u64>]| {
            let mut out = Vec::new();
            for range in ranges {
                put_range(&mut out, range);
            }
            out
        };
        let disk = 4096 * 10 + 512;
        assert_eq!(read(&encode(&[0..8, 16..24, 72..81]), disk).unwrap().len(), 4);
        assert!(read(&encode(&[8..16, 0..8]), disk).is_err(), "descending");
        assert!(read(&encode(&[0..8, 8..16]), disk).is_err(), "touching");
        for (start, end) in [(8, 8), (1, 8), (80, 88), (0, 7)] {
            assert!(read(&encode(std::slice::from_ref(&(start..end))), disk).is_err(), "{start}..{end}");
        }
        assert!(read(&[0; 15], disk).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), disk in any::<u64>()) {
            let _ = read(&bytes, disk);
        }

        #[test]
        fn ranges_give_the_set_back(items in proptest::collection::btree_set(0u32..300, 0..100)) {
            let set: GranuleSet = items.into_iter().collect();
            let disk = 300 * 4096 - 3584;
            let mut out = Vec::new();
            for run in set.runs() {
                put_range(&mut out, &sectors_of(GranuleSize::default(), run, disk));
            }
            prop_assert_eq!(read(&out, disk), Ok(set));
        }
    }
}
