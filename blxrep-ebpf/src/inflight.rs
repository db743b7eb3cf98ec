//! The table of requests in flight: places of one bucket, claimed with compare-and-swap.

use crate::{INFLIGHT, atomic};
use blxrep_ebpf::{BUCKET_ENTRIES, InflightBucket, InflightEntry, bucket};
use core::arch::asm;

#[unsafe(no_mangle)]
static BUCKETS: u32 = 1;

/// The bucket in which `key` is, if it is anywhere.
#[inline(always)]
pub fn home(key: u64) -> Option<*mut InflightBucket> {
    // SAFETY: a static that the loader has replaced, hence volatile.
    let buckets = unsafe { (&raw const BUCKETS).read_volatile() };
    INFLIGHT.get_ptr_mut(bucket(low_half(key), buckets))
}

/// The low half of an address, as a number. Copying half of a register is the one step from pointer to number that the
/// verifier allows (with `CAP_PERFMON`).
#[inline(always)]
fn low_half(key: u64) -> u32 {
    let low;
    // SAFETY: copies a register.
    unsafe { asm!("{d} = {s}", d = out(wreg) low, s = in(wreg) key as u32, options(pure, nomem)) }
    low
}

/// A place that holds a key.
#[derive(Clone, Copy)]
pub struct Place {
    key: *mut u64,
    entry: *mut InflightEntry,
}

impl Place {
    #[inline(always)]
    unsafe fn at(bucket: *mut InflightBucket, index: usize) -> Self {
        // SAFETY: the caller keeps `index` below `BUCKET_ENTRIES`.
        unsafe {
            Self {
                key: (&raw mut (*bucket).keys).cast::<u64>().add(index),
                entry: (&raw mut (*bucket).entries).cast::<InflightEntry>().add(index),
            }
        }
    }

    #[inline(always)]
    pub fn sector(self) -> u64 {
        // SAFETY: map memory; only the owner of the key writes it.
        unsafe { (&raw const (*self.entry).sector).read_volatile() }
    }

    #[inline(always)]
    pub fn meta(self) -> u64 {
        // SAFETY: as in `sector`.
        unsafe { (&raw const (*self.entry).meta).read_volatile() }
    }

    /// Stores a range, in the order that [`InflightEntry`] promises to readers.
    #[inline(always)]
    pub fn fill(self, sector: u64, word: u64) {
        // SAFETY: as in `sector`.
        unsafe {
            (&raw mut (*self.entry).meta).write_volatile(0);
            let generation = (&raw const (*self.entry).generation).read_volatile();
            (&raw mut (*self.entry).generation).write_volatile(generation + 1);
            (&raw mut (*self.entry).sector).write_volatile(sector);
            (&raw mut (*self.entry).meta).write_volatile(word);
        }
    }

    /// Adds a flag to a filled entry.
    #[inline(always)]
    pub fn flag(self, flag: u64) {
        // SAFETY: as in `sector`.
        unsafe { (&raw mut (*self.entry).meta).write_volatile(self.meta() | flag) }
    }

    /// Frees the place.
    #[inline(always)]
    pub fn clear(self) {
        // SAFETY: as in `sector`.
        unsafe {
            (&raw mut (*self.entry).meta).write_volatile(0);
            self.key.write_volatile(0);
        }
    }
}

/// The place of `key`.
#[inline(always)]
pub fn find(bucket: *mut InflightBucket, key: u64) -> Option<Place> {
    for index in 0..BUCKET_ENTRIES {
        // SAFETY: `index` is in range.
        let place = unsafe { Place::at(bucket, index) };
        // SAFETY: map memory, written by other CPUs.
        if unsafe { place.key.read_volatile() } == key {
            return Some(place);
        }
    }
    None
}

/// Claims a free place for `key`; `None` if there is none.
#[inline(always)]
pub fn claim(bucket: *mut InflightBucket, key: u64) -> Option<Place> {
    for index in 0..BUCKET_ENTRIES {
        // SAFETY: `index` is in range.
        let place = unsafe { Place::at(bucket, index) };
        // SAFETY: map memory, written by other CPUs.
        if unsafe { place.key.read_volatile() == 0 && atomic::compare_swap(place.key, 0, key) == 0 } {
            return Some(place);
        }
    }
    None
}
