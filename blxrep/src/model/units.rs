//! Sectors, bytes and granules, and the only place where one is turned into another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// A sector is 512 bytes, always, whatever the device's logical block size.
pub const SECTOR_BYTES: u64 = 512;
/// The finest granule: 4 KiB.
pub const MIN_GRANULE_SHIFT: u32 = 12;
/// The coarsest granule: 1 MiB, the length of one read.
pub const MAX_GRANULE_SHIFT: u32 = 20;

/// Index of a granule on its disk. 2^32 granules of 4 KiB are 16 TiB; larger disks get a coarser granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GranuleIndex(pub u32);

/// The unit of tracking: a power of two from 4 KiB to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GranuleSize {
    shift: u32,
}

impl Default for GranuleSize {
    fn default() -> Self {
        Self { shift: MIN_GRANULE_SHIFT }
    }
}

impl GranuleSize {
    /// A granule of `1 << shift` bytes; `None` outside 4 KiB to 1 MiB.
    #[must_use]
    pub const fn from_shift(shift: u32) -> Option<Self> {
        if shift >= MIN_GRANULE_SHIFT && shift <= MAX_GRANULE_SHIFT { Some(Self { shift }) } else { None }
    }

    /// log2 of the granule's bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// log2 of the granule's sectors, as the eBPF programs want it.
    #[must_use]
    pub const fn sector_shift(self) -> u32 {
        self.shift - 9
    }

    /// Bytes of a full granule (the disk's last one may be shorter).
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Granules that cover a disk of `bytes`.
    #[must_use]
    pub const fn count(self, bytes: u64) -> u64 {
        bytes.div_ceil(1 << self.shift)
    }

    /// The half-open byte range of granules, cut at the end of the disk.
    #[must_use]
    pub fn byte_range(self, granules: Range<u32>, disk_bytes: u64) -> Range<u64> {
        let start = u64::from(granules.start) << self.shift;
        let end = (u64::from(granules.end) << self.shift).min(disk_bytes);
        start.min(end)..end
    }

    /// The granules that a half-open byte range touches.
    #[must_use]
    pub fn touched(self, bytes: Range<u64>) -> Range<u32> {
        let start = u32::try_from(bytes.start >> self.shift).unwrap_or(u32::MAX);
        let end = u32::try_from(bytes.end.div_ceil(self.bytes())).unwrap_or(u32::MAX);
        start..end.max(start)
    }

    /// The finest granule with which a disk of `disk_bytes` has at most 2^32 - 1 granules and its three bitmaps
    /// stay within `max_map_bytes`.
    #[must_use]
    pub fn for_disk(disk_bytes: u64, max_map_bytes: u64) -> Self {
        let mut shift = MIN_GRANULE_SHIFT;
        while shift < MAX_GRANULE_SHIFT {
            let granules = disk_bytes.div_ceil(1 << shift);
            if granules < u64::from(u32::MAX) && 3 * granules / 8 <= max_map_bytes {
                break;
            }
            shift += 1;
        }
        Self { shift }
    }
}

/// Bytes, shown with binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 {
            write!(f, "{} B", self.0)
        } else if value < 10.0 {
            write!(f, "{value:.2} {}", UNITS[unit])
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_granule_ends_with_the_disk() {
        let g = GranuleSize::default();
        assert_eq!(g.count(4096 * 3 + 512), 4);
        assert_eq!(g.byte_range(3..4, 4096 * 3 + 512), 12288..12800);
        assert_eq!(g.touched(4095..4097), 0..2);
    }

    #[test]
    fn a_huge_disk_gets_a_coarser_granule() {
        assert_eq!(GranuleSize::for_disk(1 << 40, 100 << 20).shift(), 12);
        assert_eq!(GranuleSize::for_disk(1 << 40, 50 << 20).shift(), 13);
        assert_eq!(GranuleSize::for_disk(64 << 40, u64::MAX).shift(), 15);
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(ByteCount(1023).to_string(), "1023 B");
        assert_eq!(ByteCount(1536).to_string(), "1.50 KiB");
        assert_eq!(ByteCount(1 << 40).to_string(), "1.00 TiB");
    }
}
