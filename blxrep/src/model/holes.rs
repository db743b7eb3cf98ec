//! Holes: sectors of a disk that could not be read.

use super::units::SECTOR_BYTES;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// Ranges that a point may name. A disk with more is failing, and no point of it is made.
pub const MAX_HOLES: usize = 1024;
/// Sectors of all of them: 64 MiB. A disk that is gone answers every read with an error.
pub const MAX_HOLE_SECTORS: u64 = 128 << 10;
/// Ranges that a sentence names.
const NAMED: usize = 4;

/// Sorted ranges of sectors that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Holes(Vec<Range<u64>>);

impl Holes {
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in sectors.
    pub fn sectors(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// The ranges, in bytes.
    pub fn bytes(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|r| r.start.saturating_mul(SECTOR_BYTES)..r.end.saturating_mul(SECTOR_BYTES))
    }

    /// Sectors of all ranges.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end.saturating_sub(range.start)).sum()
    }

    /// Whether a point can name them.
    #[must_use]
    pub fn fit(&self) -> bool {
        self.0.len() <= MAX_HOLES && self.count() <= MAX_HOLE_SECTORS
    }

    /// Whether somebody else's ranges are what these must be, on a disk of this size.
    #[must_use]
    pub fn are_sound(&self, disk_bytes: u64) -> bool {
        let end = disk_bytes / SECTOR_BYTES;
        let ascending = self.0.windows(2).all(|pair| pair[0].end < pair[1].start);
        self.fit() && ascending && self.0.iter().all(|range| range.start < range.end && range.end <= end)
    }

    /// Adds a range of sectors.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|hole| hole.end < range.start);
        let last = self.0.partition_point(|hole| hole.start <= range.end);
        let touched = &self.0[first..last.max(first)];
        let start = touched.first().map_or(range.start, |hole| hole.start.min(range.start));
        let end = touched.last().map_or(range.end, |hole| hole.end.max(range.end));
        self.0.splice(first..last.max(first), std::iter::once(start..end));
    }

    pub fn add_all(&mut self, other: &Self) {
        other.sectors().for_each(|range| self.add(range));
    }

    /// Takes a range of bytes out: it has been read.
    pub fn close(&mut self, bytes: &Range<u64>) {
        let (start, end) = (bytes.start / SECTOR_BYTES, bytes.end.div_ceil(SECTOR_BYTES));
        let first = self.0.partition_point(|hole| hole.end <= start);
        let last = self.0.partition_point(|hole| hole.start < end);
        if first >= last || start >= end {
            return;
        }
        let (before, after) = (self.0[first].start..start, end..self.0[last - 1].end);
        self.0.splice(first..last, [before, after].into_iter().filter(|rest| rest.start < rest.end));
    }

    /// The first hole within a range of bytes, in bytes.
    #[must_use]
    pub fn within(&self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let (start, end) = (bytes.start / SECTOR_BYTES, bytes.end.div_ceil(SECTOR_BYTES));
        let at = self.0.partition_point(|hole| hole.end <= start);
        let hole = self.0.get(at).filter(|hole| hole.start < end)?;
        Some(hole.start * SECTOR_BYTES..hole.end * SECTOR_BYTES)
    }
}

impl fmt::Display for Holes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> =
            self.0.iter().take(NAMED).map(|hole| format!("{}..{}", hole.start, hole.end)).collect();
        let more = if self.0.len() > NAMED { " and more" } else { "" };
        write!(f, "{} sectors could not be read: {}{more}", self.count(), named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of sectors.
        #[test]
        fn ranges_are_a_set_of_sectors(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..40)) {
            let (mut holes, mut sectors) = (Holes::new(), [false; 80]);
            for (adds, start, length) in steps {
                if adds {
                    holes.add(start..start + length);
                } else {
                    holes.close(&(start * 512..(start + length) * 512));
                }
                sectors[start as usize..(start + length) as usize].fill(adds);
            }
            let listed: Vec<u64> = holes.sectors().flatten().collect();
            let expected: Vec<u64> = (0..80).filter(|sector| sectors[*sector as usize]).collect();
            prop_assert_eq!(holes.count(), expected.len() as u64);
            prop_assert_eq!(listed, expected);
            prop_assert!(holes.are_sound(80 * 512));
            for start in 0..79u64 {
                let found = holes.within(&(start * 512 + 100..start * 512 + 700));
                prop_assert_eq!(found.is_some(), sectors[start as usize] || sectors[start as usize + 1]);
            }
        }
    }

    #[test]
    fn ranges_that_cannot_be_are_found() {
        let holes = |ranges: &[Range<u64>]| Holes(ranges.to_vec());
        assert!(holes(&[1..2, 3..4]).are_sound(4 * 512));
        let bad: [&[Range<u64>]; 4] =
            [&[1..2, 2..3], &[3..4, 1..2], &[Range { start: 2, end: 2 }], &[1..2, 3..5]];
        assert!(bad.iter().all(|ranges| !holes(ranges).are_sound(4 * 512)));
        assert_eq!(holes(&[1..2, 8..16]).to_string(), "9 sectors could not be read: 1..2, 8..16");
    }
}
