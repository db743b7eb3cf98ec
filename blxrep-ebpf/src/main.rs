//! The programs: a changing request is marked at issue and again at completion, and is in the in-flight table between.
//!
//! The order is the contract. At issue: issued bits, table, counter. At completion: completed bits, table, counter. So
//! at every instant a change that may be under way is in a bitmap or in the table, and what is counted is marked.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod bitmap;
mod inflight;
mod kernel;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use bitmap::Which;
use blxrep_ebpf::{BitmapGroup, Control, DiskRef, DiskSlot, InflightBucket, MAX_DISKS, class, meta, mode};
use kernel::{Bio, Op, Request};

/// `BPF_F_MMAPABLE`: user space maps these and reads them as memory.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_INNER_MAP`: inner maps of different sizes, one per disk.
const INNER_MAP: usize = 1 << 12;

type Bitmaps = ArrayOfMaps<Array<BitmapGroup, 1, { MMAPABLE | INNER_MAP }>, { MAX_DISKS as usize }>;

#[btf_map]
static DISKS: HashMap<u64, DiskRef, { MAX_DISKS as usize }> = HashMap::new();
#[btf_map]
static SLOTS: Array<DiskSlot, { MAX_DISKS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static ISSUED: Bitmaps = ArrayOfMaps::new();
#[btf_map]
static COMPLETED: Bitmaps = ArrayOfMaps::new();
#[btf_map]
static INFLIGHT: Array<InflightBucket, 2048, MMAPABLE> = Array::new();
#[btf_map]
static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

/// A range of a tracked disk, under the address of the request or bio that changes it.
#[derive(Clone, Copy)]
struct Change {
    key: u64,
    slot: u32,
    class: usize,
    sector: u64,
    sectors: u64,
}

#[btf_tracepoint(function = "block_rq_issue")]
fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let request = Request::at_issue(&ctx);
    let op = request.op();
    if let Some(slot) = concerned(op, || request.device(), mode::REQUEST) {
        issue(op, slot, request.0, request.sector(), request.bytes());
    }
    0
}

#[btf_tracepoint(function = "block_rq_requeue")]
fn block_rq_requeue(ctx: BtfTracePointContext) -> i32 {
    let request = Request::at_requeue(&ctx);
    let op = request.op();
    if op.is_change() {
        if let Some(slot) = concerned(op, || request.device(), mode::REQUEST) {
            requeue(slot, request.0);
        }
    }
    0
}

#[btf_tracepoint(function = "block_rq_complete")]
fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let request = Request::at_completion(&ctx);
    let op = request.op();
    if let Some(slot) = concerned(op, || request.device(), mode::REQUEST) {
        let bytes = u64::from(ctx.arg::<u32>(2));
        complete(op, slot, request.0, request.sector(), bytes, bytes >= request.bytes());
    }
    0
}

#[btf_tracepoint(function = "block_bio_queue")]
fn block_bio_queue(ctx: BtfTracePointContext) -> i32 {
    let bio = Bio::at_queue(&ctx);
    let op = bio.op();
    if let Some(slot) = concerned(op, || bio.device(), mode::BIO) {
        issue(op, slot, bio.0, bio.sector(), bio.bytes());
    }
    0
}

#[btf_tracepoint(function = "block_bio_complete")]
fn block_bio_complete(ctx: BtfTracePointContext) -> i32 {
    let bio = Bio::at_completion(&ctx);
    let op = bio.op();
    if let Some(slot) = concerned(op, || bio.device(), mode::BIO) {
        complete(op, slot, bio.0, bio.sector(), bio.bytes(), true);
    }
    0
}

/// The slot of the disk, if the operation is one to look at and the disk is tracked through this kind of event. Reads
/// are looked at only while a canary is out, before anything is looked up.
#[inline(always)]
fn concerned(op: Op, device: impl Fn() -> u64, mode: u32) -> Option<u32> {
    if !op.is_change() && !canary_is_out() {
        return None;
    }
    // SAFETY: an entry that user space replaces is read as the old or the new one; both fields are one word.
    let disk = unsafe { DISKS.get(device()) }?;
    if disk.mode == mode { Some(disk.slot) } else { None }
}

#[inline(always)]
fn canary_is_out() -> bool {
    // SAFETY: map memory that user space writes.
    CONTROL.get_ptr(0).is_some_and(|control| unsafe { (&raw const (*control).canaries).read_volatile() } != 0)
}

/// What is kept for the disk in slot `index`.
#[inline(always)]
fn slot(index: u32) -> Option<*mut DiskSlot> {
    SLOTS.get_ptr_mut(index)
}

/// Adds to a counter of a slot.
macro_rules! count {
    ($slot:expr, $counter:ident $([$class:expr])?, $value:expr) => {
        // SAFETY: a word of map memory.
        unsafe { atomic::add((&raw mut (*$slot).counters.$counter).cast::<u64>() $(.add($class))?, $value) }
    };
}

#[inline(always)]
fn issue(op: Op, index: u32, key: u64, sector: u64, bytes: u64) {
    let Some(disk) = slot(index) else { return };
    if !op.is_change() {
        if sector == 0 {
            count!(disk, canary_issue, 1);
        }
        return;
    }
    if op.is_passthrough() {
        count!(disk, unlocatable, 1);
        return;
    }
    let sectors = bytes.div_ceil(512);
    if sectors == 0 {
        return;
    }
    if !bitmap::mark(Which::Issued, disk, index, sector, sectors) {
        count!(disk, beyond_end, 1);
    }
    enter(disk, &Change { key, slot: index, class: op.class(), sector, sectors });
}

/// Puts a request into the table. One that is there already was requeued, or its completion was lost.
#[inline(always)]
fn enter(disk: *mut DiskSlot, change: &Change) {
    let Some(bucket) = inflight::home(change.key) else { return };
    let flags = if change.class == class::DISCARD { meta::DISCARD } else { 0 };
    let word = meta::new(change.sectors, change.slot, flags);
    let place = match inflight::find(bucket, change.key) {
        Some(place) if place.meta() & meta::REQUEUED != 0 => {
            reissue(disk, place, change, flags);
            return;
        }
        Some(place) => {
            settle_leftover(place);
            place
        }
        None => match inflight::claim(bucket, change.key) {
            Some(place) => place,
            None => {
                count!(disk, table_full, 1);
                return;
            }
        },
    };
    place.fill(change.sector, word);
    count!(disk, entered_sectors[change.class], change.sectors);
    count!(disk, entered_requests, 1);
}

/// The same request again: after a partial completion what remains of it, or with others merged into it meanwhile.
/// The entry keeps the union, and only growth is counted.
#[inline(always)]
fn reissue(disk: *mut DiskSlot, place: inflight::Place, change: &Change, flags: u64) {
    let (old, had) = (place.sector(), meta::sectors(place.meta()));
    let start = if change.sector < old { change.sector } else { old };
    let (end, old_end) = (change.sector + change.sectors, old + had);
    let sectors = if end > old_end { end } else { old_end } - start;
    place.fill(start, meta::new(sectors, change.slot, flags));
    if sectors > had {
        count!(disk, entered_sectors[change.class], sectors - had);
    }
}

/// The completion of what `place` holds was lost: mark it now, in the bitmap of the disk it belongs to. (The address
/// of a bio may have been used for another disk since.)
#[inline(always)]
fn settle_leftover(place: inflight::Place) {
    let (sector, word) = (place.sector(), place.meta());
    let index = meta::slot(word);
    let Some(disk) = slot(index) else { return };
    bitmap::mark(Which::Completed, disk, index, sector, meta::sectors(word));
    count!(disk, leftovers, 1);
    settle(disk, word);
}

#[inline(always)]
fn settle(disk: *mut DiskSlot, word: u64) {
    let class = if word & meta::DISCARD != 0 { class::DISCARD } else { class::WRITE };
    count!(disk, settled_sectors[class], meta::sectors(word));
    count!(disk, settled_requests, 1);
}

#[inline(always)]
fn requeue(index: u32, key: u64) {
    let (Some(disk), Some(bucket)) = (slot(index), inflight::home(key)) else { return };
    if let Some(place) = inflight::find(bucket, key) {
        place.flag(meta::REQUEUED);
        count!(disk, requeues, 1);
    }
}

#[inline(always)]
fn complete(op: Op, index: u32, key: u64, sector: u64, bytes: u64, last: bool) {
    let Some(disk) = slot(index) else { return };
    if !op.is_change() {
        // A bio may report the sector behind its end: the canary is 4 KiB.
        if sector == 0 || sector == 8 {
            count!(disk, canary_complete, 1);
        }
        return;
    }
    if op.is_passthrough() {
        return;
    }
    let sectors = bytes.div_ceil(512);
    if !last {
        bitmap::mark(Which::Completed, disk, index, sector, sectors);
        return;
    }
    let Some(place) = inflight::home(key).and_then(|bucket| inflight::find(bucket, key)) else {
        if sectors != 0 {
            bitmap::mark(Which::Completed, disk, index, sector, sectors);
            count!(disk, orphan_sectors[op.class()], sectors);
            count!(disk, orphan_requests, 1);
        }
        return;
    };
    let (start, word) = (place.sector(), place.meta());
    bitmap::mark(Which::Completed, disk, index, start, meta::sectors(word));
    if sector < start || sector + sectors > start + meta::sectors(word) {
        bitmap::mark(Which::Completed, disk, index, sector, sectors);
    }
    place.clear();
    settle(disk, word);
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
