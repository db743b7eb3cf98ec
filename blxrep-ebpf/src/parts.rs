//! Discards of several ranges in one request.
//!
//! Devices that take a list of ranges (NVMe, virtio-blk) let the block layer merge discards that do not touch each
//! other: the request then says where the first begins and how long all are together, and only its bios know the rest.
//! Each bio is then marked, and is in the in-flight table, under its own address. The request's entry is flagged
//! [`meta::SCATTERED`]: it counts, but has no range.

use crate::bitmap::{Which, blxrep_mark};
use crate::inflight::{self, Place};
use crate::kernel::{ReadBio, Request};
use crate::{atomic, event, slot};
use blxrep_ebpf::meta;

/// Longest list that is walked: NVMe takes 256 ranges, and no driver takes more.
const MAX_PARTS: u32 = 256;

/// What the bios of a discard say.
#[derive(Clone, Copy, PartialEq)]
pub enum Parts {
    /// One range, the request's own.
    One,
    /// Several, all of them taken care of.
    Scattered,
    /// More than can be walked.
    TooMany,
}

/// At issue, marks and enters the parts of a discard, if there are several; at completion marks them and takes them out.
#[inline(always)]
pub fn handle(which: Which, slot: u32, request: Request) -> Parts {
    let bio = request.first_bio();
    if bio.is_none() || bio.next().is_none() {
        return Parts::One;
    }
    let first = request.read_first_bio().address();
    if blxrep_is_scattered(first, request.sector()) == 0 {
        Parts::One
    } else if blxrep_parts(which as u64, u64::from(slot), first) == 0 {
        Parts::Scattered
    } else {
        Parts::TooMany
    }
}

// Global functions, which the verifier looks at once each (see `bitmap::blxrep_mark_long`). They cannot be given a typed
// pointer: so the bios are read, not followed.

/// 1 if any of the ranges does not begin where the one before ends, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_is_scattered(first: u64, sector: u64) -> u64 {
    let (mut bio, mut end) = (ReadBio::at(first), sector);
    for _ in 0..MAX_PARTS {
        if bio.address() == 0 {
            return 0;
        }
        if bio.sector() != end {
            return 1;
        }
        end += bio.sectors();
        bio = bio.next();
    }
    1
}

/// Takes care of each part. Returns 1 if there are more than can be walked, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_parts(which: u64, slot: u64, first: u64) -> u64 {
    let mut bio = ReadBio::at(first);
    for _ in 0..MAX_PARTS {
        if bio.address() == 0 {
            return 0;
        }
        blxrep_part(which, slot, bio.address(), bio.sector(), bio.sectors());
        bio = bio.next();
    }
    u64::from(bio.address() != 0)
}

/// Marks one part, then enters it or takes it out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_part(which: u64, index: u64, key: u64, sector: u64, sectors: u64) -> u64 {
    let Some(disk) = slot(index as u32) else { return 0 };
    if blxrep_mark(which, index, sector, sectors) != 0 {
        event::count!(disk, beyond_end, 1);
    }
    let Some(bucket) = inflight::home(key) else { return 0 };
    let found = inflight::find(bucket, key);
    if which == Which::Completed as u64 {
        found.map(Place::clear);
        return 0;
    }
    if let Some(place) = found {
        event::settle_leftover(place);
    }
    match found.or_else(|| inflight::claim(bucket, key)) {
        Some(place) => place.fill(sector, meta::new(sectors, index as u32, meta::DISCARD | meta::PART)),
        None => event::count!(disk, table_full, 1),
    }
    0
}
