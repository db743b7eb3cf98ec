//! What the eBPF programs and user space agree on: map names, layouts, and the arithmetic of granules.
//!
//! Any change of a layout, a map name or a meaning raises [`ABI_VERSION`]; pinned maps of another version are
//! never adopted.
#![no_std]

/// Version of everything in this file, stored in the pinned path and in every [`DiskConfig`].
pub const ABI_VERSION: u32 = 1;
/// Disks that one agent can track.
pub const MAX_DISKS: u32 = 64;
/// Granules of one coarse bit: a range that spans whole groups is recorded by one bit per group, so that a
/// request of 4 GiB (the kernel's limit: `__data_len` and `bi_size` are 32 bits) is marked by a bounded loop.
pub const GROUP_GRANULES: u64 = 4096;
/// Words of the fine bitmap that one coarse bit stands for.
pub const GROUP_WORDS: u64 = GROUP_GRANULES / 64;

/// Names of the maps inside the object; pins use the same names.
pub mod maps {
    /// Hash: `u64` device key (see [`super::device_key`]) to [`super::DiskConfig`].
    pub const DISKS: &str = "DISKS";
    /// Array of maps: slot to the mmapable `u64` array of issued bits.
    pub const ISSUED: &str = "ISSUED";
    /// Array of maps: slot to the mmapable `u64` array of completed bits.
    pub const COMPLETED: &str = "COMPLETED";
    /// Mmapable array of [`super::InflightEntry`]: the open-addressing table of requests in flight.
    pub const INFLIGHT: &str = "INFLIGHT";
    /// Mmapable array of [`super::Counters`], one per slot.
    pub const COUNTERS: &str = "COUNTERS";
}

/// Key of a disk in [`maps::DISKS`].
#[must_use]
pub const fn device_key(major: u32, minor: u32) -> u64 {
    ((major as u64) << 32) | minor as u64
}

/// How a device reports its requests.
pub mod mode {
    /// blk-mq: `block_rq_issue`, `block_rq_requeue`, `block_rq_complete`.
    pub const REQUEST: u32 = 0;
    /// Bio-based (zram, brd, dm, md): `block_bio_queue`, `block_bio_complete`.
    pub const BIO: u32 = 1;
}

/// What the programs know of one disk.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// Index into [`maps::ISSUED`], [`maps::COMPLETED`] and [`maps::COUNTERS`]; below [`MAX_DISKS`].
    pub slot: u32,
    /// A granule is `1 << shift` sectors of 512 bytes; 3 is 4 KiB.
    pub shift: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// [`ABI_VERSION`] of who wrote the entry.
    pub abi: u32,
    /// Number of granules of the disk.
    pub granules: u64,
}

/// Classes that the kernel accounts separately in `/sys/block/*/stat`.
pub mod class {
    /// Write, write-zeroes, zone append.
    pub const WRITE: usize = 0;
    /// Discard, secure erase.
    pub const DISCARD: usize = 1;
    /// Number of classes.
    pub const COUNT: usize = 2;
}

/// Monotonic counters of one disk. All are only ever added to, atomically. A bit is set and the table is
/// written *before* the counter: what is counted is marked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changing requests (of at least one sector) seen at issue; requeues are not counted again.
    pub issued_requests: [u64; class::COUNT],
    /// Their sectors.
    pub issued_sectors: [u64; class::COUNT],
    /// Changing requests seen at their last completion.
    pub completed_requests: [u64; class::COUNT],
    /// Sectors seen at completion, partial completions included.
    pub completed_sectors: [u64; class::COUNT],
    /// Sectors of completions that had no entry in the in-flight table: lost issues, or in flight at attach.
    pub orphan_sectors: [u64; class::COUNT],
    /// Completions that had no entry.
    pub orphan_requests: u64,
    /// Issues that found their key taken and were no requeue: lost completions, healed on the spot.
    pub leftovers: u64,
    /// Requeues seen.
    pub requeues: u64,
    /// Changing requests that cannot be located (passthrough): coverage is lost.
    pub unlocatable: u64,
    /// Requests that found no room in the in-flight table: coverage is lost.
    pub table_full: u64,
    /// Requests that reach beyond the configured size of the disk: it grew; coverage is lost.
    pub beyond_end: u64,
    /// Sector of the last *read* of the canary seen at issue and at completion, plus one; 0 is none.
    pub canary_issue: u64,
    /// See [`Counters::canary_issue`].
    pub canary_complete: u64,
}

/// One request in flight. `key` is the address of the kernel's `struct request` or `struct bio`, 0 when free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InflightEntry {
    /// Address of the request or bio; 0 when the entry is free. Claimed with compare-and-swap.
    pub key: u64,
    /// First sector of the range.
    pub sector: u64,
    /// `slot << 32 | flags`, see [`entry`].
    pub tag: u64,
    /// Sectors of the range; written last (0 while the entry is being filled).
    pub sectors: u64,
}

/// Flags in the low half of [`InflightEntry::tag`].
pub mod entry {
    /// The request was requeued: its next issue is the same request.
    pub const REQUEUED: u64 = 1;
    /// Counted in [`super::class::DISCARD`].
    pub const DISCARD: u64 = 2;
}

/// Words of the fine bitmap, rounded up to whole groups.
#[must_use]
pub const fn fine_words(granules: u64) -> u64 {
    groups(granules) * GROUP_WORDS
}

/// Groups of [`GROUP_GRANULES`] that cover `granules`.
#[must_use]
pub const fn groups(granules: u64) -> u64 {
    granules.div_ceil(GROUP_GRANULES)
}

/// Words of the coarse bitmap, which follows the fine one in the same map.
#[must_use]
pub const fn coarse_words(granules: u64) -> u64 {
    groups(granules).div_ceil(64)
}

/// Entries of a disk's bitmap map: fine words, then coarse words.
#[must_use]
pub const fn bitmap_words(granules: u64) -> u64 {
    fine_words(granules) + coarse_words(granules)
}

/// Granules `[first, last]` that a range of sectors touches; `None` for an empty range or one that overflows.
#[must_use]
pub const fn granule_span(sector: u64, sectors: u64, shift: u32) -> Option<(u64, u64)> {
    if sectors == 0 {
        return None;
    }
    match sector.checked_add(sectors - 1) {
        Some(end) => Some((sector >> shift, end >> shift)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_every_granule_it_overlaps() {
        assert_eq!(granule_span(0, 8, 3), Some((0, 0)));
        assert_eq!(granule_span(7, 2, 3), Some((0, 1)));
        assert_eq!(granule_span(8, 0, 3), None);
        assert_eq!(granule_span(u64::MAX, 2, 3), None);
    }

    #[test]
    fn the_maps_of_a_tebibyte_stay_within_a_hundred_mebibytes() {
        let words = bitmap_words((1u64 << 40) / 4096);
        assert!(3 * words * 8 <= 100 << 20, "{words} words");
    }
}
