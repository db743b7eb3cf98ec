//! Comparing a disk with a point without moving either: both sides hash the same blocks, and where two blocks differ,
//! their granules.
//!
//! A block's digest is the digest of its granules' digests, so that the second level costs no second pass over the
//! data. Digests are keyed with a random key of each comparison: whoever can write to the disk cannot prepare two
//! contents that look the same.

use super::granules::GranuleSet;
use super::ids::PointId;
use super::units::GranuleSize;
use std::ops::Range;

/// Bytes of a block; a granule that is larger is a block of its own.
pub const BLOCK_BYTES: u64 = 256 << 10;
/// 128 bits of a keyed BLAKE3: that two contents which differ have the same is less likely than a bit that flips
/// unseen in memory, and who does not know the key cannot search for it.
pub type Digest = [u8; 16];

/// What stands for a granule that its side cannot read: its granule is not equal to anything.
pub const UNREADABLE: Digest = [0; 16];

/// A block, and a bit for each of its granules that is wanted.
pub type Wanted = (u32, u64);

/// The key of one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// Digest of the content of a granule.
    #[must_use]
    pub fn granule(&self, content: &[u8]) -> Digest {
        shortened(blake3::keyed_hash(&self.0, content))
    }

    /// Digest of a block, from those of its granules.
    #[must_use]
    pub fn block(&self, granules: &[Digest]) -> Digest {
        shortened(blake3::keyed_hash(&self.0, granules.as_flattened()))
    }
}

fn shortened(hash: blake3::Hash) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&hash.as_bytes()[..size_of::<Digest>()]);
    digest
}

/// What is compared: the granules that the disk and the point both have as a whole, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    granule: GranuleSize,
    disk_bytes: u64,
    granules: u32,
}

impl Grid {
    /// For a disk of `disk_bytes` now, and a point of one that had `point_bytes`.
    #[must_use]
    pub fn new(granule: GranuleSize, disk_bytes: u64, point_bytes: u64) -> Self {
        Self { granule, disk_bytes, granules: common_granules(granule, disk_bytes, point_bytes) }
    }

    /// Granules that are compared, from the first on. The others are taken to differ.
    #[must_use]
    pub const fn granules(&self) -> u32 {
        self.granules
    }

    #[must_use]
    pub const fn granule(&self) -> GranuleSize {
        self.granule
    }

    /// Granules of a full block.
    #[must_use]
    pub const fn block_granules(&self) -> u32 {
        let granules = BLOCK_BYTES >> self.granule.shift();
        #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
        if granules == 0 { 1 } else { granules as u32 }
    }

    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.granules.div_ceil(self.block_granules())
    }

    /// The granules of a block.
    #[must_use]
    pub fn granules_of(&self, block: u32) -> Range<u32> {
        let first = block.saturating_mul(self.block_granules()).min(self.granules);
        first..first.saturating_add(self.block_granules()).min(self.granules)
    }

    /// The bytes of some blocks.
    #[must_use]
    pub fn bytes_of(&self, blocks: Range<u32>) -> Range<u64> {
        if blocks.is_empty() {
            return 0..0;
        }
        let granules = self.granules_of(blocks.start).start..self.granules_of(blocks.end - 1).end;
        self.granule.byte_range(granules, self.disk_bytes)
    }

    /// The bytes of some granules of some blocks that ascend, in ranges that are as long as they can be. `None` if there
    /// are no such granules, or no such blocks.
    #[must_use]
    pub fn ranges_of(&self, wanted: &[Wanted]) -> Option<Vec<Range<u64>>> {
        let ascend = wanted.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if wanted.is_empty() || !ascend {
            return None;
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (block, granules) in wanted {
            let of_block = self.granules_of(*block);
            if *granules == 0 || u64::from(64 - granules.leading_zeros()) > of_block.len() as u64 {
                return None;
            }
            for granule in of_block.clone().filter(|granule| granules >> (granule - of_block.start) & 1 == 1)
            {
                let bytes = self.granule.byte_range(granule..granule + 1, self.disk_bytes);
                match ranges.last_mut() {
                    Some(last) if last.end == bytes.start => last.end = bytes.end,
                    _ => ranges.push(bytes),
                }
            }
        }
        Some(ranges)
    }

    /// All granules of a block.
    #[must_use]
    pub fn whole(&self, block: u32) -> Wanted {
        let count = self.granules_of(block).len();
        (block, if count >= 64 { u64::MAX } else { (1 << count) - 1 })
    }

    /// Bytes below a block.
    #[must_use]
    pub fn bytes_below(&self, block: u32) -> u64 {
        self.bytes_of(0..block.min(self.blocks())).end
    }

    /// Bytes that are compared.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_below(self.blocks())
    }
}

/// Granules that a disk has as a whole in both of two sizes: all of them if it did not change, else without the one that
/// is cut off by the smaller size.
#[must_use]
pub fn common_granules(granule: GranuleSize, now: u64, then: u64) -> u32 {
    let common = if now == then { granule.count(now) } else { now.min(then) >> granule.shift() };
    u32::try_from(common).unwrap_or(u32::MAX)
}

/// How far a comparison is, and what it has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    pub point: PointId,
    /// The first block that is not judged.
    pub next: u32,
    /// Granules that differed when they were read, or could not be compared.
    pub differing: GranuleSet,
}

impl Compared {
    /// Nothing is judged; what only one of the two has differs.
    #[must_use]
    pub fn new(point: PointId, grid: &Grid, granules: u32) -> Self {
        let mut differing = GranuleSet::new();
        differing.insert_range(grid.granules().min(granules)..granules);
        Self { point, next: 0, differing }
    }

    /// Takes in what the other side has for a block whose digests differ. `false` if the answer does not fit.
    pub fn judge(&mut self, granules: Range<u32>, ours: &[Digest], theirs: &[Digest]) -> bool {
        if ours.len() != granules.len() || theirs.len() != granules.len() {
            return false;
        }
        let same = |(a, b): (&Digest, &Digest)| a == b && *a != UNREADABLE;
        for (granule, pair) in granules.zip(ours.iter().zip(theirs)) {
            if !same(pair) {
                self.differing.insert(granule);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: Key = Key([7; 32]);

    fn granule(shift: u32) -> GranuleSize {
        GranuleSize::from_shift(shift).unwrap()
    }

    #[test]
    fn blocks_cover_every_granule_once() {
        for (shift, bytes) in [(12, 1 << 20), (12, (1 << 20) + 512), (16, 3 << 20), (20, (5 << 20) + 4096)] {
            let grid = Grid::new(granule(shift), bytes, bytes);
            let all: Vec<u32> = (0..grid.blocks()).flat_map(|block| grid.granules_of(block)).collect();
            assert_eq!(all, (0..grid.granules()).collect::<Vec<_>>());
            assert_eq!(grid.bytes(), bytes);
        }
    }

    #[test]
    fn what_is_wanted_becomes_the_longest_ranges() {
        let bytes = (3 << 18) + 4096 + 512;
        let grid = Grid::new(granule(12), bytes, bytes);
        assert_eq!(grid.ranges_of(&[(0, 0b1101)]), Some(vec![0..4096, 8192..16384]));
        let one = |range: Range<u64>| Some(std::iter::once(range).collect::<Vec<_>>());
        assert_eq!(grid.ranges_of(&[(0, 1 << 63), (1, 1)]), one((1 << 18) - 4096..(1 << 18) + 4096));
        assert_eq!(grid.ranges_of(&[(3, 0b11)]), one(3 << 18..bytes));
        let all: Vec<Wanted> = (0..grid.blocks()).map(|block| grid.whole(block)).collect();
        assert_eq!(grid.ranges_of(&all), one(0..bytes));
        for wrong in [&[][..], &[(0, 0)], &[(3, 0b100)], &[(4, 1)], &[(1, 1), (0, 1)], &[(1, 1), (1, 2)]] {
            assert_eq!(grid.ranges_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_a_resize_cuts_through_is_not_compared() {
        let grid = |now, then| Grid::new(granule(12), now, then);
        assert_eq!(grid(8192, 8192 + 512).granules(), 2);
        assert_eq!(grid(8192 + 512, 8192 + 1024).granules(), 2);
        assert_eq!(grid(8192 + 512, 8192 + 512).granules(), 3);
        let compared = Compared::new(PointId(1), &grid(5 * 4096, 8192 + 512), 5);
        assert_eq!(compared.differing.runs().collect::<Vec<_>>(), vec![2..5]);
        assert_eq!(grid(4096, 0).blocks(), 0);
        assert_eq!(grid(4096, 0).bytes(), 0);
    }

    #[test]
    fn an_unreadable_granule_equals_nothing() {
        let mut compared = Compared::new(PointId(1), &Grid::new(granule(12), 8192, 8192), 2);
        let same = KEY.granule(b"same");
        assert!(compared.judge(0..2, &[UNREADABLE, same], &[UNREADABLE, same]));
        assert_eq!(compared.differing.runs().collect::<Vec<_>>(), vec![0..1]);
        assert!(!compared.judge(0..2, &[same], &[same, same]));
    }

    #[test]
    fn another_key_gives_other_digests() {
        assert_ne!(KEY.granule(&[0; 4096]), Key([8; 32]).granule(&[0; 4096]));
    }

    proptest! {
        /// Two levels find exactly the granules whose content differs.
        #[test]
        fn exactly_what_differs_is_found(changed in prop::collection::btree_set(0u32..200, 0..20)) {
            let grid = Grid::new(granule(12), 200 << 12, 200 << 12);
            let content = |at: u32, new: bool| KEY.granule(&[u8::from(new), at.to_le_bytes()[0]]);
            let mut compared = Compared::new(PointId(1), &grid, 200);
            for block in 0..grid.blocks() {
                let of = |new: bool| -> Vec<Digest> {
                    grid.granules_of(block).map(|at| content(at, new && changed.contains(&at))).collect()
                };
                let (ours, theirs) = (of(true), of(false));
                if KEY.block(&ours) != KEY.block(&theirs) {
                    prop_assert!(compared.judge(grid.granules_of(block), &ours, &theirs));
                }
            }
            prop_assert_eq!(compared.differing.iter().collect::<Vec<_>>(), changed.into_iter().collect::<Vec<_>>());
        }
    }
}
