//! Discards of several ranges in one request.
//!
//! Devices that take a list of ranges (NVMe, virtio-blk) let the block layer merge discards that do not touch each
//! other: the request then says where the first begins and how long all are together. Only its bios know the rest.

use crate::bitmap::{Which, blxrep_mark};
use crate::kernel::Request;

/// Longest list that is walked: NVMe takes 256 ranges, and no driver takes more.
const MAX_PARTS: u32 = 256;

/// What the bios of a discard say.
#[derive(Clone, Copy, PartialEq)]
pub enum Parts {
    /// One range, the request's own.
    One,
    /// Several, and all of them are marked.
    Scattered,
    /// Several, and some of them reach beyond the disk's end.
    BeyondEnd,
    /// More than can be walked.
    TooMany,
}

/// Marks the parts of a discard one by one, if there are several.
#[inline(always)]
pub fn mark(which: Which, slot: u32, request: Request) -> Parts {
    let mut bio = request.first_bio();
    if bio.is_none() || bio.next().is_none() {
        return Parts::One;
    }
    let mut end = request.sector();
    let (mut scattered, mut beyond_end) = (false, 0);
    for _ in 0..MAX_PARTS {
        let (sector, sectors) = (bio.sector(), bio.bytes().div_ceil(512));
        beyond_end |= blxrep_mark(which as u64, u64::from(slot), sector, sectors);
        scattered |= sector != end;
        end = sector + sectors;
        bio = bio.next();
        if bio.is_none() {
            return match (beyond_end != 0, scattered) {
                (true, _) => Parts::BeyondEnd,
                (false, true) => Parts::Scattered,
                (false, false) => Parts::One,
            };
        }
    }
    Parts::TooMany
}
