//! What happens to a tracked disk at issue, requeue and completion.

use crate::bitmap::{self, Which};
use crate::inflight::{self, Place};
use crate::kernel::{Bio, Op, Request};
use crate::parts::Parts;
use crate::{atomic, concerned, slot};
use blxrep_ebpf::{DiskSlot, class, meta, mode};

/// Sectors of the canary: a bio may report the sector behind its end when it completes.
const CANARY_SECTORS: u64 = 8;

/// An event of a request or bio of a tracked disk.
#[derive(Clone, Copy)]
pub struct Event {
    pub op: Op,
    pub slot: u32,
    /// Address of the request or bio.
    key: u64,
    sector: u64,
    pub bytes: u64,
}

/// Adds to a counter of a slot.
macro_rules! count {
    ($disk:expr, $counter:ident $([$class:expr])?, $value:expr) => {
        // SAFETY: a word of map memory.
        unsafe { atomic::add((&raw mut (*$disk).counters.$counter).cast::<u64>() $(.add($class))?, $value) }
    };
}

pub(crate) use count;

impl Event {
    /// `None` if the disk is not tracked or the operation is of no interest.
    #[inline(always)]
    pub fn of_request(request: Request) -> Option<Self> {
        let op = request.op();
        let slot = concerned(op, || request.device(), mode::REQUEST)?;
        Some(Self { op, slot, key: request.0, sector: request.sector(), bytes: request.bytes() })
    }

    /// As [`Event::of_request`].
    #[inline(always)]
    pub fn of_bio(bio: Bio) -> Option<Self> {
        let op = bio.op();
        let slot = concerned(op, || bio.device(), mode::BIO)?;
        Some(Self { op, slot, key: bio.0, sector: bio.sector(), bytes: bio.bytes() })
    }

    /// Marks the range and enters the request. `parts` have been marked already.
    #[inline(always)]
    pub fn issue(&self, parts: Parts) {
        let Some(disk) = slot(self.slot) else { return };
        if !self.op.is_change() {
            if self.sector == 0 {
                count!(disk, canary_issue, 1);
            }
            return;
        }
        if self.op.is_passthrough() || parts == Parts::TooMany {
            count!(disk, unlocatable, 1);
            return;
        }
        let sectors = self.bytes.div_ceil(512);
        if sectors == 0 {
            return;
        }
        if parts == Parts::One && !bitmap::mark(Which::Issued, disk, self.slot, self.sector, sectors) {
            count!(disk, beyond_end, 1);
        }
        let scattered = if parts == Parts::One { 0 } else { meta::SCATTERED };
        let discard = if self.op.is_discard() { meta::DISCARD } else { 0 };
        self.enter(disk, sectors, discard | scattered);
    }

    /// Puts the request into the table. One that is there already was requeued, or its completion was lost.
    #[inline(always)]
    fn enter(&self, disk: *mut DiskSlot, sectors: u64, flags: u64) {
        let Some(bucket) = inflight::home(self.key) else {
            return;
        };
        let place = match inflight::find(bucket, self.key) {
            Some(place) if place.meta() & meta::REQUEUED != 0 => {
                self.reissue(disk, place, sectors, flags);
                return;
            }
            Some(place) => {
                settle_leftover(place);
                place
            }
            None => match inflight::claim(bucket, self.key) {
                Some(place) => place,
                None => {
                    count!(disk, table_full, 1);
                    return;
                }
            },
        };
        place.fill(self.sector, meta::new(sectors, self.slot, flags));
        count!(disk, entered_sectors[class_of(flags)], sectors);
        count!(disk, entered_requests, 1);
    }

    /// The same request again: after a partial completion what remains of it, or with others merged into it
    /// meanwhile. The entry keeps the union, and only growth is counted.
    #[inline(always)]
    fn reissue(&self, disk: *mut DiskSlot, place: Place, sectors: u64, flags: u64) {
        let (old, had) = (place.sector(), meta::sectors(place.meta()));
        let start = if self.sector < old { self.sector } else { old };
        let (end, old_end) = (self.sector + sectors, old + had);
        let union = if end > old_end { end } else { old_end } - start;
        place.fill(start, meta::new(union, self.slot, flags));
        if union > had {
            count!(disk, entered_sectors[class_of(flags)], union - had);
        }
    }

    /// The next issue of this request is no new one.
    #[inline(always)]
    pub fn requeue(&self) {
        let (Some(disk), Some(bucket)) = (slot(self.slot), inflight::home(self.key)) else {
            return;
        };
        if let Some(place) = inflight::find(bucket, self.key) {
            place.flag(meta::REQUEUED);
            count!(disk, requeues, 1);
        }
    }

    /// Marks the range and, after the last completion, takes the request out. `done` are the bytes that are completed.
    #[inline(always)]
    pub fn complete(&self, done: u64, parts: Parts) {
        let Some(disk) = slot(self.slot) else { return };
        if !self.op.is_change() {
            if self.sector == 0 || self.sector == CANARY_SECTORS {
                count!(disk, canary_complete, 1);
            }
            return;
        }
        if self.op.is_passthrough() {
            return;
        }
        let sectors = done.div_ceil(512);
        if done < self.bytes {
            self.mark_completed(disk, sectors, parts);
            return;
        }
        let Some(place) = inflight::home(self.key).and_then(|bucket| inflight::find(bucket, self.key)) else {
            if sectors != 0 {
                self.mark_completed(disk, sectors, parts);
                count!(disk, orphan_sectors[self.op.class()], sectors);
                count!(disk, orphan_requests, 1);
            }
            return;
        };
        let (start, word) = (place.sector(), place.meta());
        let had = meta::sectors(word);
        if word & meta::SCATTERED == 0 {
            bitmap::mark(Which::Completed, disk, self.slot, start, had);
        }
        if self.sector < start || self.sector + sectors > start + had {
            self.mark_completed(disk, sectors, parts);
        }
        place.clear();
        settle(disk, word);
    }

    /// Marks what an event reports, unless its parts were marked already.
    #[inline(always)]
    fn mark_completed(&self, disk: *mut DiskSlot, sectors: u64, parts: Parts) {
        if parts == Parts::One {
            bitmap::mark(Which::Completed, disk, self.slot, self.sector, sectors);
        }
    }
}

#[inline(always)]
fn class_of(flags: u64) -> usize {
    if flags & meta::DISCARD != 0 { class::DISCARD } else { class::WRITE }
}

/// The completion of what `place` holds was lost: mark it now, in the bitmap of the disk it belongs to. (The address
/// of a bio may have been used for another disk since.)
#[inline(always)]
pub fn settle_leftover(place: Place) {
    let (sector, word) = (place.sector(), place.meta());
    let index = meta::slot(word);
    let Some(disk) = slot(index) else { return };
    if word & meta::SCATTERED == 0 {
        bitmap::mark(Which::Completed, disk, index, sector, meta::sectors(word));
    }
    if word & meta::PART == 0 {
        count!(disk, leftovers, 1);
        settle(disk, word);
    }
}

/// Counts a request that has left the table.
#[inline(always)]
fn settle(disk: *mut DiskSlot, word: u64) {
    count!(disk, settled_sectors[class_of(word)], meta::sectors(word));
    count!(disk, settled_requests, 1);
}
