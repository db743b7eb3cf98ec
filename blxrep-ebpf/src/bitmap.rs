//! Marking a range of sectors in a disk's bitmap.

use crate::{COMPLETED, ISSUED, atomic, slot};
use blxrep_ebpf::{DiskSlot, GROUP_GRANULES, GROUP_WORDS, MAX_COARSE_WORDS, granule_span, groups};
use core::arch::asm;

/// Which of a disk's two bitmaps.
#[derive(Clone, Copy, PartialEq)]
pub enum Which {
    Issued = 0,
    Completed = 1,
}

impl Which {
    /// From an argument of a global function.
    #[inline(always)]
    fn from_number(number: u64) -> Self {
        if number == Self::Issued as u64 { Self::Issued } else { Self::Completed }
    }
}

/// Marks every granule that the range touches. Returns `false` if the range reaches beyond the disk's end; what
/// lies before the end is marked all the same.
///
/// A range within one word, which is what random writes of 4 KiB are, costs two map lookups and one instruction.
#[inline(always)]
pub fn mark(which: Which, disk: *const DiskSlot, index: u32, sector: u64, sectors: u64) -> bool {
    // SAFETY: `disk` points into map memory.
    let (shift, granules) = unsafe { ((*disk).shift, (*disk).granules) };
    let Some((first, last)) = granule_span(sector, sectors, (shift & 63) as u32) else {
        return true;
    };
    if first >= granules {
        return false;
    }
    let end = if last >= granules { granules - 1 } else { last };
    if first / 64 == end / 64 {
        mark_word(which, index, first / GROUP_GRANULES, first / 64 % GROUP_WORDS, ones(first % 64, end % 64));
    } else {
        blxrep_mark_long(which as u64, u64::from(index), first, end);
    }
    last < granules
}

/// As [`mark`], for use in loops: a global function, see [`blxrep_mark_long`]. Returns 1 if the range reaches beyond
/// the disk's end, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn blxrep_mark(which: u64, index: u64, sector: u64, sectors: u64) -> u64 {
    let index = index as u32;
    let Some(disk) = slot(index) else { return 0 };
    u64::from(!mark(Which::from_number(which), disk, index, sector, sectors))
}

/// Bits `from` to `to`, both included and below 64.
#[inline(always)]
fn ones(from: u64, to: u64) -> u64 {
    (u64::MAX << (from & 63)) & (u64::MAX >> ((63 - to) & 63))
}

#[inline(always)]
fn mark_word(which: Which, index: u32, entry: u64, word: u64, bits: u64) {
    if let Some(group) = group(which, index, entry) {
        // SAFETY: `within` keeps the index below the length of a group.
        unsafe { atomic::or(group.add(within(word)), bits) }
    }
}

/// The words of one entry of a bitmap.
#[inline(always)]
fn group(which: Which, index: u32, entry: u64) -> Option<*mut u64> {
    let maps = if which == Which::Issued { &ISSUED } else { &COMPLETED };
    Some(maps.get(index)?.get_ptr_mut(entry as u32)?.cast())
}

/// Granules `first` to `last`: the head and the tail bit by bit, the whole groups between by their coarse bits.
///
/// A global function, hence the plain arguments: the verifier looks at it once, not once for every path that leads
/// here. Each loop is in a global function of its own that does nothing else. Otherwise every way out of one loop is
/// another way into the next, and Linux 6.1, which keeps more of them apart than later kernels, gives up.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_mark_long(which: u64, index: u64, first: u64, last: u64) -> u64 {
    let (head, tail) = (first / GROUP_GRANULES, last / GROUP_GRANULES);
    let (from, to) = (first % GROUP_GRANULES, last % GROUP_GRANULES);
    if head == tail {
        return blxrep_mark_run(which, index, head, from, to);
    }
    blxrep_mark_run(which, index, head, from, GROUP_GRANULES - 1);
    blxrep_mark_run(which, index, tail, 0, to);
    if head + 1 < tail {
        blxrep_mark_groups(which, index, head + 1, tail - 1);
    }
    0
}

/// Granules `from` to `to` of one group, both below [`GROUP_GRANULES`]: the first and the last word by their bits,
/// those between whole. A global function, see [`blxrep_mark_long`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_mark_run(which: u64, index: u64, entry: u64, from: u64, to: u64) -> u64 {
    let Some(group) = group(Which::from_number(which), index as u32, entry) else {
        return 0;
    };
    let (head, tail) = (from / 64, to / 64);
    // SAFETY: `within` keeps the index below the length of a group.
    unsafe {
        if head == tail {
            atomic::or(group.add(within(head)), ones(from % 64, to % 64));
            return 0;
        }
        atomic::or(group.add(within(head)), ones(from % 64, 63));
        atomic::or(group.add(within(tail)), ones(0, to % 64));
        for step in 1..GROUP_WORDS {
            if head + step >= tail {
                break;
            }
            atomic::or(group.add(within(head + step)), u64::MAX);
        }
    }
    0
}

/// The index, masked below [`GROUP_WORDS`] by an instruction of its own: written in Rust, the mask is replaced by what
/// the compiler knows of the loop and the verifier does not.
#[inline(always)]
fn within(index: u64) -> usize {
    const { assert!(GROUP_WORDS == 64) };
    let mut masked = index;
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{i} &= 63", i = inout(reg) masked, options(pure, nomem)) }
    masked as usize
}

/// Coarse bits `first` to `last`, in the entries that follow those of the fine bits. A global function, see
/// [`blxrep_mark_long`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn blxrep_mark_groups(which: u64, index: u64, first: u64, last: u64) -> u64 {
    let (which, index) = (Which::from_number(which), index as u32);
    let Some(disk) = slot(index) else { return 0 };
    // SAFETY: `disk` points into map memory.
    let coarse = groups(unsafe { (*disk).granules });
    let (head, tail) = (first / 64, last / 64);
    for step in 0..MAX_COARSE_WORDS {
        let word = head + step;
        if word > tail {
            break;
        }
        let low = if word == head { first % 64 } else { 0 };
        let high = if word == tail { last % 64 } else { 63 };
        mark_word(which, index, coarse + word / GROUP_WORDS, word % GROUP_WORDS, ones(low, high));
    }
    0
}
