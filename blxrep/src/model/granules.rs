//! Sets of granules: what is dirty, swept, contaminated or held by a point.

use roaring::RoaringBitmap;
use std::ops::{BitAnd, BitOr, Range, Sub};

/// A set of granule indexes of one disk. Memory follows the number of runs, not the size of the disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GranuleSet(RoaringBitmap);

impl GranuleSet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All granules of a disk that has `count` of them.
    #[must_use]
    pub fn full(count: u32) -> Self {
        let mut set = Self::new();
        set.insert_range(0..count);
        set
    }

    pub fn insert(&mut self, granule: u32) {
        self.0.insert(granule);
    }

    pub fn insert_range(&mut self, range: Range<u32>) {
        self.0.insert_range(range);
    }

    pub fn remove_range(&mut self, range: Range<u32>) {
        self.0.remove_range(range);
    }

    #[must_use]
    pub fn contains(&self, granule: u32) -> bool {
        self.0.contains(granule)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of granules.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn union_with(&mut self, other: &Self) {
        self.0 |= &other.0;
    }

    pub fn subtract(&mut self, other: &Self) {
        self.0 -= &other.0;
    }

    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }

    /// Maximal runs, ascending, half-open.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut iter = self.0.iter();
        std::iter::from_fn(move || iter.next_range().map(|r| *r.start()..r.end().saturating_add(1)))
    }

    /// Runs cut into pieces of at most `max` granules, each within one aligned block of `max` granules, so that
    /// the same granules are cut the same way in every round.
    pub fn pieces(&self, max: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        self.runs().flat_map(move |run| {
            let mut at = run.start;
            std::iter::from_fn(move || {
                (at < run.end).then(|| {
                    let end = (at / max).saturating_add(1).saturating_mul(max).min(run.end);
                    let piece = at..end;
                    at = end;
                    piece
                })
            })
        })
    }
}

impl GranuleSet {
    /// The same as [`Self::pieces`], without a list of them in memory.
    pub fn into_pieces(self, max: u32) -> impl Iterator<Item = Range<u32>> {
        let mut rest = self.0.into_iter();
        let mut run = 0..0;
        std::iter::from_fn(move || {
            if run.is_empty() {
                let found = rest.next_range()?;
                run = *found.start()..found.end().saturating_add(1);
            }
            let end = (run.start / max).saturating_add(1).saturating_mul(max).min(run.end);
            let piece = run.start..end;
            run.start = end;
            Some(piece)
        })
    }
}

impl FromIterator<u32> for GranuleSet {
    fn from_iter<I: IntoIterator<Item = u32>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl BitOr for &GranuleSet {
    type Output = GranuleSet;
    fn bitor(self, other: Self) -> GranuleSet {
        GranuleSet(&self.0 | &other.0)
    }
}

impl BitAnd for &GranuleSet {
    type Output = GranuleSet;
    fn bitand(self, other: Self) -> GranuleSet {
        GranuleSet(&self.0 & &other.0)
    }
}

impl Sub for &GranuleSet {
    type Output = GranuleSet;
    fn sub(self, other: Self) -> GranuleSet {
        GranuleSet(&self.0 - &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_end_at_aligned_blocks() {
        let mut set = GranuleSet::new();
        set.insert_range(30..70);
        set.insert(100);
        assert_eq!(set.pieces(32).collect::<Vec<_>>(), vec![30..32, 32..64, 64..70, 100..101]);
    }

    proptest! {
        #[test]
        fn runs_and_pieces_cover_exactly_the_set(items in proptest::collection::btree_set(0u32..5000, 0..400), max in 1u32..70) {
            let set: GranuleSet = items.iter().copied().collect();
            let from_runs: Vec<u32> = set.runs().flatten().collect();
            let from_pieces: Vec<u32> = set.pieces(max).flatten().collect();
            let expected: Vec<u32> = items.into_iter().collect();
            prop_assert_eq!(&from_runs, &expected);
            prop_assert_eq!(&from_pieces, &expected);
            prop_assert!(set.pieces(max).eq(set.clone().into_pieces(max)));
            prop_assert!(set.pieces(max).all(|p| p.end - p.start <= max));
        }
    }
}
