//! The programs: a changing request is marked at issue and again at completion, and is in the in-flight table between.
//!
//! The order is the contract. At issue: issued bits, table, counter. At completion: completed bits, table, counter. So
//! at every instant a change that may be under way is in a bitmap or in the table, and what is counted is marked.
//! What cannot be recorded is counted, and user space then knows that coverage is lost.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod bitmap;
mod event;
mod inflight;
mod kernel;
mod parts;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap};
use aya_ebpf::macros::{btf_map, btf_tracepoint};
use aya_ebpf::programs::BtfTracePointContext;
use bitmap::Which;
use blxrep_ebpf::{BitmapGroup, Control, DiskRef, DiskSlot, InflightBucket, MAX_DISKS};
use event::Event;
use kernel::{Bio, Op, Request};
use parts::Parts;

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
/// User space sets the size before it loads the object.
#[btf_map]
static INFLIGHT: Array<InflightBucket, 1, MMAPABLE> = Array::new();
#[btf_map]
static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();

#[btf_tracepoint(function = "block_rq_issue")]
fn block_rq_issue(ctx: BtfTracePointContext) -> i32 {
    let request = Request::at_issue(&ctx);
    if let Some(event) = Event::of_request(request) {
        event.issue(parts(&event, Which::Issued, request));
    }
    0
}

#[btf_tracepoint(function = "block_rq_requeue")]
fn block_rq_requeue(ctx: BtfTracePointContext) -> i32 {
    if let Some(event) = Event::of_request(Request::at_requeue(&ctx)) {
        event.requeue();
    }
    0
}

#[btf_tracepoint(function = "block_rq_complete")]
fn block_rq_complete(ctx: BtfTracePointContext) -> i32 {
    let request = Request::at_completion(&ctx);
    if let Some(event) = Event::of_request(request) {
        let done = u64::from(ctx.arg::<u32>(2));
        // Until all of a discard is completed, all of its parts are in flight.
        let parts = if done < event.bytes { Parts::One } else { parts(&event, Which::Completed, request) };
        event.complete(done, parts);
    }
    0
}

#[btf_tracepoint(function = "block_bio_queue")]
fn block_bio_queue(ctx: BtfTracePointContext) -> i32 {
    if let Some(event) = Event::of_bio(Bio::at_queue(&ctx)) {
        event.issue(Parts::One);
    }
    0
}

#[btf_tracepoint(function = "block_bio_complete")]
fn block_bio_complete(ctx: BtfTracePointContext) -> i32 {
    if let Some(event) = Event::of_bio(Bio::at_completion(&ctx)) {
        event.complete(event.bytes, Parts::One);
    }
    0
}

/// The parts of a discard; everything else has one.
#[inline(always)]
fn parts(event: &Event, which: Which, request: Request) -> Parts {
    if event.op.is_discard() { parts::handle(which, event.slot, request) } else { Parts::One }
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

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
