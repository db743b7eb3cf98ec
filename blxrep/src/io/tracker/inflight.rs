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
    /// `false`: the range of at least one request is not known. Then nothing is proven, and nothing may be cleared.
    pub exact: bool,
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
    pub fn class(&self) -> usize {
        if self.meta & meta::DISCARD != 0 { class::DISCARD } else { class::WRITE }
    }

    /// The granules that the range touches.
    pub fn granules(&self, size: GranuleSize) -> std::ops::Range<u32> {
        let start = self.sector.saturating_mul(SECTOR_BYTES);
        let end = start.saturating_add(meta::sectors(self.meta).saturating_mul(SECTOR_BYTES));
        size.touched(start..end)
    }
}

/// What a place holds.
enum Place {
    Free,
    /// Still being filled: the request is not under way yet, and its issued bits are set.
    Filling,
    Filled(Entry),
}

/// The table as words shared with the programs.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(pub &'a [AtomicU64]);

impl Table<'_> {
    /// The entries of the disk in `slot`, and whether all entries could be read.
    ///
    /// An entry that is still being filled after [`MAX_READS`] belongs to a program that was interrupted in the middle. It may be
    /// of any disk. Its issued bits were set before the place was claimed, so the dirty set has them all the same.
    pub fn entries(self, slot: u32) -> (Vec<Entry>, bool) {
        let mut entries = Vec::new();
        let mut all = true;
        for (bucket, words) in self.0.chunks_exact(BUCKET_WORDS).enumerate() {
            for index in 0..BUCKET_ENTRIES {
                if words[index].load(Ordering::Acquire) == 0 {
                    continue;
                }
                match read(words, (bucket, index)) {
                    Place::Filled(entry) if meta::slot(entry.meta) == slot => entries.push(entry),
                    Place::Filled(_) | Place::Free => {}
                    Place::Filling => all = false,
                }
            }
        }
        (entries, all)
    }

    /// What the disk in `slot` has in flight.
    pub fn walk(self, slot: u32, size: GranuleSize, granules: u32) -> Inflight {
        let (entries, all) = self.entries(slot);
        let mut inflight = Inflight { exact: all, ..Inflight::default() };
        for entry in entries {
            let range = entry.granules(size);
            inflight.ranges.insert_range(range.start.min(granules)..range.end.min(granules));
            inflight.requests += 1;
            inflight.sectors[entry.class()] += meta::sectors(entry.meta);
            inflight.exact &= entry.meta & meta::SCATTERED == 0;
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

/// Reads a place until key and generation are the same before and after.
fn read(words: &[AtomicU64], place: (usize, usize)) -> Place {
    let load = |word: &AtomicU64| word.load(Ordering::SeqCst);
    for _ in 0..MAX_READS {
        let (key, generation) = (load(&words[place.1]), load(field(words, place.1, GENERATION)));
        if key == 0 {
            return Place::Free;
        }
        let (sector, meta) = (load(field(words, place.1, SECTOR)), load(field(words, place.1, META)));
        let same = load(&words[place.1]) == key && load(field(words, place.1, GENERATION)) == generation;
        if same && meta != 0 && load(field(words, place.1, META)) == meta {
            return Place::Filled(Entry { place, key, generation, sector, meta });
        }
        std::hint::spin_loop();
    }
    Place::Filling
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
        assert_eq!((found.requests, found.sectors, found.exact), (2, [2, 16], true));
        let cut_at_the_end = Table(&words).walk(3, GranuleSize::default(), 101);
        assert_eq!(cut_at_the_end.ranges, [0, 1, 100].into_iter().collect());
    }

    #[test]
    fn an_entry_that_is_being_filled_makes_the_walk_inexact() {
        let words = table();
        words[4].store(0x1000, Ordering::SeqCst);
        assert!(!Table(&words).walk(0, GranuleSize::default(), 10).exact);
    }

    #[test]
    fn scattered_discards_are_not_located_by_the_table() {
        let words = table();
        fill(&words, 0, 0, 0x1000, 0, meta::new(8, 0, meta::DISCARD | meta::SCATTERED));
        assert!(!Table(&words).walk(0, GranuleSize::default(), 10).exact);
    }

    #[test]
    fn only_the_very_entry_that_was_meant_is_taken() {
        let words = table();
        fill(&words, 1, 3, 0x1000, 0, meta::new(8, 0, 0));
        let stale = Table(&words).entries(0).0[0];
        fill(&words, 1, 3, 0x1000, 0, meta::new(8, 0, 0));
        assert!(!Table(&words).take(&stale), "issued again under the same key");
        let fresh = Table(&words).entries(0).0[0];
        assert!(Table(&words).take(&fresh));
        assert!(Table(&words).entries(0).0.is_empty());
        assert!(!Table(&words).take(&fresh));
    }
}
