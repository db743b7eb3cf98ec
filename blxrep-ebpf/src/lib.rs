//! What the eBPF programs and user space agree on: map names, layouts, and the arithmetic of granules.
//!
//! Any change of a layout, a map name or a meaning raises [`ABI_VERSION`]; pinned maps of another version are
//! never adopted. A change of the programs that must reach running systems raises it too: pinned programs of the
//! same version are kept.
#![no_std]

/// Version of everything in this file and of the programs; part of the pinned path.
pub const ABI_VERSION: u32 = 1;
/// Disks that one agent can track.
pub const MAX_DISKS: u32 = 64;
/// Granules of one coarse bit: a range that spans whole groups is recorded by one bit per group, so that a
/// request of 4 GiB (the kernel's limit: `__data_len` and `bi_size` are 32 bits) is marked by a bounded loop.
pub const GROUP_GRANULES: u64 = 4096;
/// Words of the fine bitmap that one coarse bit stands for.
pub const GROUP_WORDS: u64 = GROUP_GRANULES / 64;
/// Coarse words that one request can touch: 4 GiB of 4 KiB granules are 256 groups, which start anywhere in a word.
pub const MAX_COARSE_WORDS: u64 = 5;
/// Sectors of the longest request: 4 GiB.
pub const MAX_REQUEST_SECTORS: u64 = 1 << 23;

/// Names of the maps inside the object; pins use the same names.
pub mod maps {
    /// Hash: `u64` device key (see [`super::device_key`]) to [`super::DiskRef`].
    pub const DISKS: &str = "DISKS";
    /// Mmapable array of [`super::DiskSlot`].
    pub const SLOTS: &str = "SLOTS";
    /// Array of maps: slot to the mmapable array of [`super::BitmapGroup`] of issued bits.
    pub const ISSUED: &str = "ISSUED";
    /// Array of maps: slot to the mmapable array of [`super::BitmapGroup`] of completed bits.
    pub const COMPLETED: &str = "COMPLETED";
    /// Mmapable array of [`super::InflightBucket`]: the table of requests in flight.
    pub const INFLIGHT: &str = "INFLIGHT";
    /// Mmapable array of one [`super::Control`].
    pub const CONTROL: &str = "CONTROL";
    /// All of them, in the order in which they are pinned.
    pub const ALL: [&str; 6] = [DISKS, SLOTS, ISSUED, COMPLETED, INFLIGHT, CONTROL];
}

/// Names of the read-only globals that user space fills in before loading.
pub mod globals {
    /// [`super::KernelLayout`].
    pub const LAYOUT: &str = "LAYOUT";
    /// `u32`: buckets of [`super::maps::INFLIGHT`].
    pub const BUCKETS: &str = "BUCKETS";
}

/// The programs, each named after the tracepoint it belongs to.
pub mod programs {
    /// For disks of [`super::mode::REQUEST`].
    pub const REQUEST: [&str; 3] = ["block_rq_issue", "block_rq_requeue", "block_rq_complete"];
    /// For disks of [`super::mode::BIO`].
    pub const BIO: [&str; 2] = ["block_bio_queue", "block_bio_complete"];
}

/// Where the running kernel keeps what the programs read: byte offsets, taken from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLayout {
    /// Position of the request or bio among the arguments of each tracepoint: 0 for `(rq)`, 1 for the older
    /// `(q, rq)`.
    pub issue_arg: u64,
    pub requeue_arg: u64,
    pub complete_arg: u64,
    pub queue_arg: u64,
    pub bio_complete_arg: u64,
    /// Value of `REQ_OP_DISCARD`, the one operation that the kernel accounts as a discard.
    pub op_discard: u64,
    pub request_q: u64,
    pub request_cmd_flags: u64,
    pub request_data_len: u64,
    pub request_sector: u64,
    pub request_bio: u64,
    pub queue_disk: u64,
    pub disk_major: u64,
    pub disk_first_minor: u64,
    pub bio_next: u64,
    pub bio_bdev: u64,
    pub bio_opf: u64,
    pub bio_sector: u64,
    pub bio_size: u64,
    pub bdev_disk: u64,
}

impl KernelLayout {
    /// What the object holds before the loader fills it in.
    pub const UNKNOWN: Self = Self {
        issue_arg: 0,
        requeue_arg: 0,
        complete_arg: 0,
        queue_arg: 0,
        bio_complete_arg: 0,
        op_discard: 0,
        request_q: 0,
        request_cmd_flags: 0,
        request_data_len: 0,
        request_sector: 0,
        request_bio: 0,
        queue_disk: 0,
        disk_major: 0,
        disk_first_minor: 0,
        bio_next: 0,
        bio_bdev: 0,
        bio_opf: 0,
        bio_sector: 0,
        bio_size: 0,
        bdev_disk: 0,
    };
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

/// Where a device's tracking is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRef {
    /// Index into [`maps::SLOTS`], [`maps::ISSUED`] and [`maps::COMPLETED`]; below [`MAX_DISKS`].
    pub slot: u32,
    /// One of [`mode`].
    pub mode: u32,
}

/// What the programs know of one disk, and what they count for it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSlot {
    pub counters: Counters,
    /// A granule is `1 << shift` sectors of 512 bytes; 3 is 4 KiB.
    pub shift: u64,
    /// Number of granules of the disk; 0 while the slot is free.
    pub granules: u64,
}

/// Words that tell the programs what to look for besides changes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Not 0 while a canary is out: only then are reads of sector 0 looked at.
    pub canaries: u64,
}

/// 64 words of a bitmap: one lookup finds the bits of [`GROUP_GRANULES`] granules.
pub type BitmapGroup = [u64; GROUP_WORDS as usize];

/// Classes that the kernel accounts separately in `/sys/block/*/stat`.
pub mod class {
    /// Everything that changes but a discard: write, write-zeroes, secure erase, zone append.
    pub const WRITE: usize = 0;
    /// `REQ_OP_DISCARD` alone, as the kernel's `op_stat_group` has it.
    pub const DISCARD: usize = 1;
    /// Number of classes.
    pub const COUNT: usize = 2;
}

/// Monotonic counters of one disk, only ever added to, atomically. What is counted is already marked: bits are set
/// and the table is written *before* the counter.
///
/// The three groups lie in cache lines of their own, because issue and completion run on different CPUs.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changing requests (of at least one sector) that entered the in-flight table; requeues are not counted again.
    pub entered_requests: u64,
    /// Sectors of requests that entered the table.
    pub entered_sectors: [u64; class::COUNT],
    pad_issue: [u64; 5],

    /// Requests that left the table: at their last completion, or as leftovers.
    pub settled_requests: u64,
    /// Sectors of requests that left the table.
    pub settled_sectors: [u64; class::COUNT],
    pad_complete: [u64; 5],

    /// Completions that had no entry in the table: lost issues, or in flight at attach. On bio-based disks also the
    /// pieces of split bios, which complete under addresses of their own.
    pub orphan_requests: u64,
    /// Their sectors.
    pub orphan_sectors: [u64; class::COUNT],
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

    /// Reads of sector 0 seen at issue while a canary was out.
    pub canary_issue: u64,
    /// Reads of sector 0 seen at completion while a canary was out.
    pub canary_complete: u64,
    pad_canary: [u64; 6],
}

/// Requests of one bucket: wide enough that a bucket overflows practically never. With 2048 buckets and 4096 writes
/// in flight a request finds its bucket full with probability 4e-10 (Poisson, mean 2).
pub const BUCKET_ENTRIES: usize = 16;

/// Buckets of the largest table: as many as the hash tells apart.
pub const MAX_BUCKETS: u32 = 1 << 16;

/// Sixteen places of the in-flight table. A request may live in the bucket that its address hashes to, and only
/// there. The keys lie together: a lookup reads two cache lines.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InflightBucket {
    /// Address of the kernel's `struct request` or `struct bio`; 0 when the place is free. Claimed with
    /// compare-and-swap.
    pub keys: [u64; BUCKET_ENTRIES],
    /// What each place holds.
    pub entries: [InflightEntry; BUCKET_ENTRIES],
}

/// One request in flight.
///
/// Written by the program that owns the key, in this order: `meta` = 0, `generation` + 1, `sector`, `meta`. Taken out
/// as `meta` = 0, key = 0. A reader that finds the same key and the same generation before and after, and `meta` not
/// 0, has read one request's range.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InflightEntry {
    /// How often this place was filled.
    pub generation: u64,
    /// First sector of the range.
    pub sector: u64,
    /// Sectors, slot and flags, see [`meta`]; 0 while the entry is being filled.
    pub meta: u64,
}

/// [`InflightEntry::meta`]: sectors in the low 32 bits, slot in the next 16, flags above.
pub mod meta {
    /// The request was requeued: its next issue is the same request.
    pub const REQUEUED: u64 = 1 << 48;
    /// Counted in [`super::class::DISCARD`].
    pub const DISCARD: u64 = 1 << 49;
    /// A discard of several ranges that were merged into one request: `sectors` is their sum, and each range has an
    /// entry of its own.
    pub const SCATTERED: u64 = 1 << 50;
    /// One of those ranges, under the address of its bio; not counted as a request.
    pub const PART: u64 = 1 << 51;

    /// The word for a range of `sectors` of the disk in `slot`.
    #[must_use]
    pub const fn new(sectors: u64, slot: u32, flags: u64) -> u64 {
        (sectors & 0xffff_ffff) | ((slot as u64 & 0xffff) << 32) | flags
    }

    /// Sectors of the range; not 0 for a filled entry.
    #[must_use]
    pub const fn sectors(meta: u64) -> u64 {
        meta & 0xffff_ffff
    }

    /// Slot of the disk.
    #[must_use]
    pub const fn slot(meta: u64) -> u32 {
        ((meta >> 32) & 0xffff) as u32
    }
}

/// Bucket of a request in a table of `buckets` (1 to [`MAX_BUCKETS`]), from the low half of its address: the verifier
/// allows no arithmetic on a whole one. Requests lie at multiples of some hundred bytes; the multiplication spreads them
/// (Fibonacci hashing).
#[must_use]
pub const fn bucket(low: u32, buckets: u32) -> u32 {
    let hash = low.wrapping_mul(0x9e37_79b1) >> 16;
    hash.wrapping_mul(buckets) >> 16
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

/// Words of a disk's bitmap: fine words, then coarse words.
#[must_use]
pub const fn bitmap_words(granules: u64) -> u64 {
    fine_words(granules) + coarse_words(granules)
}

/// Entries ([`BitmapGroup`]s) of a disk's bitmap map.
#[must_use]
pub const fn bitmap_groups(granules: u64) -> u64 {
    bitmap_words(granules).div_ceil(GROUP_WORDS)
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
        let bytes = bitmap_groups((1u64 << 40) / 4096) * GROUP_WORDS * 8;
        assert!(3 * bytes <= 100 << 20, "{bytes} bytes");
    }

    #[test]
    fn the_longest_request_fits_the_coarse_loop() {
        let (first, last) = (63, 63 + (MAX_REQUEST_SECTORS >> 3) / GROUP_GRANULES - 1);
        assert!(last / 64 - first / 64 < MAX_COARSE_WORDS);
    }

    #[test]
    fn layouts_are_what_the_programs_were_built_for() {
        assert_eq!(size_of::<Counters>(), 256);
        assert_eq!(size_of::<InflightBucket>(), 512);
        assert_eq!(size_of::<DiskSlot>(), 320);
        assert_eq!(size_of::<BitmapGroup>(), 512);
    }

    #[test]
    fn an_entry_keeps_range_slot_and_flags_apart() {
        let word = meta::new(MAX_REQUEST_SECTORS, 63, meta::DISCARD);
        assert_eq!((meta::sectors(word), meta::slot(word)), (MAX_REQUEST_SECTORS, 63));
        assert_eq!(word & (meta::REQUEUED | meta::DISCARD | meta::SCATTERED | meta::PART), meta::DISCARD);
    }

    #[test]
    fn neighbouring_requests_spread_over_the_buckets() {
        extern crate std;
        let mut load = std::vec![0u32; 2048];
        for tag in 0..4096u32 {
            load[bucket(0x1234_0000 + tag * 320, 2048) as usize] += 1;
        }
        assert!(load.iter().all(|n| *n <= 8), "{:?}", load.iter().max());
    }
}
