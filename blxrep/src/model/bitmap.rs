//! The bitmaps that the kernel marks, read and moved from user space.
//!
//! A bitmap is a slice of atomic words: first one bit per granule, then one bit per group of 4096 granules
//! (`blxrep_ebpf::GROUP_GRANULES`), set for ranges too long to be marked one by one. Nothing here knows where the
//! words live: the agent hands in maps of the kernel, tests hand in vectors.
//!
//! Invariant: at no instant is a dirty bit in none of issued, completed and pending. A bit moves by OR-ing into
//! pending first and clearing it where it was second, so a SIGKILL between any two instructions loses nothing.

use super::granules::GranuleSet;
use blxrep_ebpf::{GROUP_GRANULES, GROUP_WORDS, bitmap_words, fine_words, groups};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bitmap of a disk with `granules` granules over words that the kernel may mark at any time.
#[derive(Clone, Copy, Debug)]
pub struct Bitmap<'a> {
    words: &'a [AtomicU64],
    granules: u32,
}

impl<'a> Bitmap<'a> {
    /// `None` if there are fewer words than the granules need.
    #[must_use]
    pub fn new(words: &'a [AtomicU64], granules: u32) -> Option<Self> {
        let needed = usize::try_from(bitmap_words(u64::from(granules))).ok()?;
        (words.len() >= needed).then(|| Self { words: &words[..needed], granules })
    }

    fn fine(&self) -> &'a [AtomicU64] {
        let n = usize::try_from(fine_words(u64::from(self.granules))).unwrap_or(usize::MAX);
        &self.words[..n.min(self.words.len())]
    }

    fn coarse(&self) -> &'a [AtomicU64] {
        &self.words[self.fine().len()..]
    }

    /// What is set, without changing anything.
    #[must_use]
    pub fn peek(&self) -> GranuleSet {
        let mut set = GranuleSet::new();
        for (index, word) in self.coarse().iter().enumerate() {
            for_each_run(word.load(Ordering::SeqCst), |bits| self.insert_groups(&mut set, index, bits));
        }
        for (index, word) in self.fine().iter().enumerate() {
            let value = word.load(Ordering::Relaxed);
            if value != 0 {
                for_each_run(word.load(Ordering::SeqCst), |bits| self.insert_fine(&mut set, index, bits));
            }
        }
        set
    }

    /// Moves everything that is set into `pending` and returns it.
    pub fn sweep_into(&self, pending: &Bitmap<'_>) -> GranuleSet {
        let mut set = GranuleSet::new();
        for (index, word) in self.coarse().iter().enumerate() {
            let taken = word.load(Ordering::SeqCst);
            if taken == 0 {
                continue;
            }
            for_each_run(taken, |bits| {
                pending.mark_groups(index, bits.clone());
                self.insert_groups(&mut set, index, bits);
            });
            word.fetch_and(!taken, Ordering::SeqCst);
        }
        for (index, (word, held)) in self.fine().iter().zip(pending.fine()).enumerate() {
            let taken = word.load(Ordering::SeqCst);
            if taken == 0 {
                continue;
            }
            held.fetch_or(taken, Ordering::SeqCst);
            word.fetch_and(!taken, Ordering::SeqCst);
            for_each_run(taken, |bits| self.insert_fine(&mut set, index, bits));
        }
        set
    }

    /// Sets the bits of `set`.
    pub fn mark(&self, set: &GranuleSet) {
        self.by_word(set, |word, bits| {
            word.fetch_or(bits, Ordering::SeqCst);
        });
    }

    /// Clears the bits of `set`. Coarse bits are left alone: user space never sets them, and `sweep_into` is the
    /// only one that takes them.
    pub fn clear(&self, set: &GranuleSet) {
        self.by_word(set, |word, bits| {
            word.fetch_and(!bits, Ordering::SeqCst);
        });
    }

    fn by_word(&self, set: &GranuleSet, apply: impl Fn(&AtomicU64, u64)) {
        for run in set.runs() {
            let mut at = run.start;
            while at < run.end.min(self.granules) {
                let word_end = (at / 64 + 1).saturating_mul(64).min(run.end).min(self.granules);
                let bits = mask(at % 64, word_end - at);
                if let Some(word) = self.fine().get(at as usize / 64) {
                    apply(word, bits);
                }
                at = word_end;
            }
        }
    }

    fn insert_fine(&self, set: &mut GranuleSet, word: usize, bits: std::ops::Range<u32>) {
        let base = u32::try_from(word * 64).unwrap_or(u32::MAX);
        set.insert_range(
            base.saturating_add(bits.start).min(self.granules)
                ..base.saturating_add(bits.end).min(self.granules),
        );
    }

    fn insert_groups(&self, set: &mut GranuleSet, word: usize, bits: std::ops::Range<u32>) {
        let edge = |bit: u32| {
            let granule = (word as u64 * 64 + u64::from(bit)) * GROUP_GRANULES;
            u32::try_from(granule).unwrap_or(u32::MAX).min(self.granules)
        };
        set.insert_range(edge(bits.start)..edge(bits.end));
    }

    /// Marks every granule of the groups `word * 64 + bits` in the fine words.
    fn mark_groups(&self, word: usize, bits: std::ops::Range<u32>) {
        let total = groups(u64::from(self.granules));
        let first = word as u64 * 64 + u64::from(bits.start);
        let end = (word as u64 * 64 + u64::from(bits.end)).min(total);
        let to_word = |group: u64| usize::try_from(group * GROUP_WORDS).unwrap_or(usize::MAX);
        let fine = self.fine();
        for w in &fine[to_word(first).min(fine.len())..to_word(end).min(fine.len())] {
            w.store(u64::MAX, Ordering::SeqCst);
        }
    }
}

/// `len` ones starting at bit `from`.
fn mask(from: u32, len: u32) -> u64 {
    let ones = if len >= 64 { u64::MAX } else { (1u64 << len) - 1 };
    ones << from
}

/// Calls `f` with each maximal run of set bits.
fn for_each_run(mut word: u64, mut f: impl FnMut(std::ops::Range<u32>)) {
    let mut offset = 0;
    while word != 0 {
        let skip = word.trailing_zeros();
        let ones = (word >> skip).trailing_ones();
        let start = offset + skip;
        f(start..start + ones);
        offset = start + ones;
        word = if skip + ones >= 64 { 0 } else { word >> (skip + ones) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(granules: u32) -> Vec<AtomicU64> {
        (0..bitmap_words(u64::from(granules))).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_sweep_moves_bits_and_never_drops_one() {
        let (a, b) = (words(10_000), words(10_000));
        let (from, pending) = (Bitmap::new(&a, 10_000).unwrap(), Bitmap::new(&b, 10_000).unwrap());
        let set: GranuleSet = [0, 63, 64, 9_999].into_iter().collect();
        from.mark(&set);
        assert_eq!(from.sweep_into(&pending), set);
        assert!(from.peek().is_empty());
        assert_eq!(pending.peek(), set);
        pending.clear(&[63u32].into_iter().collect());
        assert_eq!(pending.peek().iter().collect::<Vec<_>>(), vec![0, 64, 9_999]);
    }

    #[test]
    fn a_coarse_bit_stands_for_its_whole_group_and_ends_with_the_disk() {
        let granules = 3 * 4096 - 100;
        let (a, b) = (words(granules), words(granules));
        let (from, pending) = (Bitmap::new(&a, granules).unwrap(), Bitmap::new(&b, granules).unwrap());
        a[usize::try_from(fine_words(u64::from(granules))).unwrap()].store(0b110, Ordering::SeqCst);
        let mut expected = GranuleSet::new();
        expected.insert_range(4096..granules);
        assert_eq!(from.peek(), expected);
        assert_eq!(from.sweep_into(&pending), expected);
        assert!(from.peek().is_empty());
        assert_eq!(pending.peek(), expected);
    }

    #[test]
    fn too_few_words_are_refused() {
        assert!(Bitmap::new(&words(4096)[1..], 4096).is_none());
    }

    proptest! {
        #[test]
        fn mark_and_peek_agree(items in proptest::collection::btree_set(0u32..9000, 0..300)) {
            let w = words(9000);
            let map = Bitmap::new(&w, 9000).unwrap();
            let set: GranuleSet = items.into_iter().collect();
            map.mark(&set);
            prop_assert_eq!(map.peek(), set.clone());
            map.clear(&set);
            prop_assert!(map.peek().is_empty());
        }
    }
}
