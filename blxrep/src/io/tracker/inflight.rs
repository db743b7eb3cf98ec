//! Walking the table of requests in flight, and retiring what is stale in it.

use crate::model::granules::GranuleSet;
use crate::model::tracking::PerClass;
use crate::model::units::{GranuleSize, SECTOR_BYTES};
use blxrep_ebpf::{BUCKET_ENTRIES, InflightBucket, InflightEntry, class, meta};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of a bucket, and where in it the entries begin.
const BUCKET_WORDS: usize = size_of::<InflightBucket>() / 8;
const ENTRIES_AT: usize = offset_of!(InflightBucket, entries) / 8;
const ENTRY_WORDS: usize = size_of::<InflightEntry>() / 8;
const GENERATION: usize = offset_of!(InflightEntry, generation) / 8;
const SECTOR: usize = offset_of!(InflightEntry, sector) / 8;
const META: usize = offset_of!(InflightEntry, meta) / 8;
/// How often an entry that is being filled is read again: a program fills it in nanoseconds, unless it is interrupted.
const MAX_READS: u32 = 1000;

/// What one disk has in flight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inflight {
    /// Every granule that a request in the table touches.
    pub ranges: GranuleSet,
    pub requests: u64,
    pub sectors: PerClass,
}

/// One filled place of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bucket and place in it.
    place: (usize, usize),
    key: u64,
    generation: u64,
    pub sector: u64,
    pub meta: u64,
}

impl Entry {
    /// Whether this is a request, and not one of the ranges of a scattered discard.
    pub fn is_request(&self) -> bool {
        self.meta & meta::PART == 0
    }

    /// Whether the range is the entry's own, and not in entries of its parts.
    fn has_range(&self) -> bool {
        self.meta & meta::SCATTERED == 0
    }

    pub fn class(&self) -> usize {
        if self.meta & meta::DISCARD != 0 { class::DISCARD } else { class::WRITE }
    }

    /// The granules that the range touches.
    pub fn granules(&self, size: GranuleSize) -> std::ops::Range<u32> {
        let sectors = if self.has_range() { meta::sectors(self.meta) } else { 0 };
        let start = self.sector.saturating_mul(SECTOR_BYTES);
        let end = start.saturating_add(sectors.saturating_mul(SECTOR_BYTES));
        size.touched(start..end)
    }
}

/// The table as words shared with the programs.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(pub &'a [AtomicU64]);

impl Table<'_> {
    /// The entries of the disk in `slot`.
    pub fn entries(self, slot: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (bucket, words) in self.0.chunks_exact(BUCKET_WORDS).enumerate() {
            let taken = (0..BUCKET_ENTRIES).filter(|index| words[*index].load(Ordering::Acquire) != 0);
            let filled = taken.filter_map(|index| read(words, (bucket, index)));
            entries.extend(filled.filter(|entry| meta::slot(entry.meta) == slot));
        }
        entries
    }

    /// What the disk in `slot` has in flight.
    pub fn walk(self, slot: u32, size: GranuleSize, granules: u32) -> Inflight {
        let mut inflight = Inflight::default();
        for entry in self.entries(slot) {
            let range = entry.granules(size);
            inflight.ranges.insert_range(range.start.min(granules)..range.end.min(granules));
            if entry.is_request() {
                inflight.requests += 1;
                inflight.sectors[entry.class()] += meta::sectors(entry.meta);
            }
        }
        inflight
    }

    /// Takes out an entry that was proven to be stale. Returns whether it was still there.
    ///
    /// The same key may have been issued again since the proof. Then the entry that is taken out is not the one that
    /// was meant, which its generation tells, and it is put back: a program that fills a place has finished doing so
    /// before the request is under way.
    pub fn take(self, entry: &Entry) -> bool {
        let Some(words) = self.0.chunks_exact(BUCKET_WORDS).nth(entry.place.0) else {
            return false;
        };
        let key = &words[entry.place.1];
        let swap = |from, to| key.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !swap(entry.key, 0) {
            return false;
        }
        if field(words, entry.place.1, GENERATION).load(Ordering::SeqCst) != entry.generation {
            swap(0, entry.key);
            return false;
        }
        true
    }
}

fn field(words: &[AtomicU64], index: usize, field: usize) -> &AtomicU64 {
    &words[ENTRIES_AT + index * ENTRY_WORDS + field]
}

/// Reads a place until key and generation are the same before and after. `None` if it is free, or still being filled.
///
/// A place that is being filled for [`MAX_READS`] belongs to a program that was interrupted. It may be passed over: the
/// program has set the issued bits of the whole range before it touched the place, and the request goes on only when
/// the program has ended.
fn read(words: &[AtomicU64], place: (usize, usize)) -> Option<Entry> {
    let load = |word: &AtomicU64| word.load(Ordering::SeqCst);
    for _ in 0..MAX_READS {
        let (key, generation) = (load(&words[place.1]), load(field(words, place.1, GENERATION)));
        if key == 0 {
            return None;
        }
        let (sector, meta) = (load(field(words, place.1, SECTOR)), load(field(words, place.1, META)));
        let same = load(&words[place.1]) == key && load(field(words, place.1, GENERATION)) == generation;
        if same && meta != 0 && load(field(words, place.1, META)) == meta {
            return Some(Entry { place, key, generation, sector, meta });
        }
        std::hint::spin_loop();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<AtomicU64> {
        (0..2 * BUCKET_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn fill(words: &[AtomicU64], bucket: usize, index: usize, key: u64, sector: u64, meta: u64) {
        let words = &words[bucket * BUCKET_WORDS..];
        words[index].store(key, Ordering::SeqCst);
        field(words, index, GENERATION).fetch_add(1, Ordering::SeqCst);
        field(words, index, SECTOR).store(sector, Ordering::SeqCst);
        field(words, index, META).store(meta, Ordering::SeqCst);
    }

    #[test]
    fn a_walk_finds_the_ranges_of_one_disk() {
        let words = table();
        fill(&words, 0, 15, 0x1000, 7, meta::new(2, 3, 0));
        fill(&words, 1, 0, 0x2000, 800, meta::new(16, 3, meta::DISCARD));
        fill(&words, 1, 1, 0x3000, 0, meta::new(8, 4, 0));
        let found = Table(&words).walk(3, GranuleSize::default(), 102);
        assert_eq!(found.ranges, [0, 1, 100, 101].into_iter().collect());
        assert_eq!((found.requests, found.sectors), (2, [2, 16]));
        let cut_at_the_end = Table(&words).walk(3, GranuleSize::default(), 101);
        assert_eq!(cut_at_the_end.ranges, [0, 1, 100].into_iter().collect());
    }

    #[test]
    fn an_entry_that_is_being_filled_is_passed_over() {
        let words = table();
        words[4].store(0x1000, Ordering::SeqCst);
        assert_eq!(Table(&words).walk(0, GranuleSize::default(), 10), Inflight::default());
    }

    #[test]
    fn a_scattered_discard_counts_once_and_lies_where_its_parts_are() {
        let words = table();
        fill(&words, 0, 0, 0x1000, 0, meta::new(16, 0, meta::DISCARD | meta::SCATTERED));
        fill(&words, 0, 1, 0x2000, 0, meta::new(8, 0, meta::DISCARD | meta::PART));
        fill(&words, 1, 9, 0x3000, 64, meta::new(8, 0, meta::DISCARD | meta::PART));
        let found = Table(&words).walk(0, GranuleSize::default(), 10);
        assert_eq!(found, Inflight { ranges: [0, 8].into_iter().collect(), requests: 1, sectors: [0, 16] });
    }

    #[test]
    fn only_the_very_entry_that_was_meant_is_taken() {
        let words = table();
        fill(&words, 1, 3, 0x1000, 0, meta::new(8, 0, 0));
        let stale = Table(&words).entries(0)[0];
        fill(&words, 1, 3, 0x1000, 0, meta::new(8, 0, 0));
        assert!(!Table(&words).take(&stale), "issued again under the same key");
        let fresh = Table(&words).entries(0)[0];
        assert!(Table(&words).take(&fresh));
        assert!(Table(&words).entries(0).is_empty());
        assert!(!Table(&words).take(&fresh));
    }
}
