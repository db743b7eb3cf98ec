//! Requests and bios as the running kernel lays them out.
//!
//! The offsets are read-only globals: the verifier knows their values, so a load through a BTF-typed pointer at such
//! an offset is checked and compiled as a plain load at a constant offset.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::{EbpfContext, programs::BtfTracePointContext};
use blxrep_ebpf::{KernelLayout, class, device_key};
use core::arch::asm;
use core::ffi::c_void;

/// Operations from here on are passthrough: `REQ_OP_SCSI_IN` was 32 and `REQ_OP_DRV_IN` is 34, everything that has a
/// range is below.
const FIRST_PASSTHROUGH: u64 = 32;

#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout::UNKNOWN;

/// One field of [`LAYOUT`].
macro_rules! layout {
    ($field:ident) => {
        // SAFETY: a field of a static; volatile, because the loader has replaced the value that the compiler sees.
        unsafe { (&raw const LAYOUT.$field).read_volatile() }
    };
}

/// `*(u64 *)(base + offset)` with the addition kept apart from the load, as the verifier wants it.
#[inline(always)]
fn load64(base: u64, offset: u64) -> u64 {
    let value;
    // SAFETY: the verifier checks the access against the kernel's own types.
    unsafe {
        asm!("{p} += {o}", "{v} = *(u64 *)({p} + 0)", p = inout(reg) base => _, o = in(reg) offset, v = out(reg) value,
             options(readonly));
    }
    value
}

/// As [`load64`], for 32 bits.
#[inline(always)]
fn load32(base: u64, offset: u64) -> u64 {
    let value;
    // SAFETY: as in `load64`.
    unsafe {
        asm!("{p} += {o}", "{v} = *(u32 *)({p} + 0)", p = inout(reg) base => _, o = in(reg) offset, v = out(reg) value,
             options(readonly));
    }
    value
}

/// Argument 0 or 1 of a tracepoint. The position is a global, so the verifier drops the other branch.
#[inline(always)]
fn argument(ctx: &BtfTracePointContext, position: u64) -> u64 {
    let context = ctx.as_ptr();
    let value;
    // SAFETY: both loads are at constant offsets from the context, as the verifier demands.
    unsafe {
        if position == 0 {
            asm!("{v} = *(u64 *)({c} + 0)", c = in(reg) context, v = out(reg) value, options(readonly));
        } else {
            asm!("{v} = *(u64 *)({c} + 8)", c = in(reg) context, v = out(reg) value, options(readonly));
        }
    }
    value
}

/// The operation of a request or bio: the low 8 bits of its flags.
#[derive(Clone, Copy)]
pub struct Op(u64);

impl Op {
    /// Every operation that is not a read has the lowest bit set (`op_is_write`).
    #[inline(always)]
    pub fn is_change(self) -> bool {
        self.0 & 1 != 0
    }

    /// The one operation that the kernel accounts as a discard, and that may have several ranges.
    #[inline(always)]
    pub fn is_discard(self) -> bool {
        self.0 & 0xff == layout!(op_discard)
    }

    /// One of [`class`].
    #[inline(always)]
    pub fn class(self) -> usize {
        if self.is_discard() { class::DISCARD } else { class::WRITE }
    }

    /// A command of the driver's own: it has no range that could be marked.
    #[inline(always)]
    pub fn is_passthrough(self) -> bool {
        self.0 & 0xff >= FIRST_PASSTHROUGH
    }
}

/// Key of the disk that `gendisk` is.
#[inline(always)]
fn device_of(gendisk: u64) -> u64 {
    device_key(load32(gendisk, layout!(disk_major)) as u32, load32(gendisk, layout!(disk_first_minor)) as u32)
}

/// A `struct request`.
#[derive(Clone, Copy)]
pub struct Request(pub u64);

impl Request {
    #[inline(always)]
    pub fn at_issue(ctx: &BtfTracePointContext) -> Self {
        Self(argument(ctx, layout!(issue_arg)))
    }

    #[inline(always)]
    pub fn at_requeue(ctx: &BtfTracePointContext) -> Self {
        Self(argument(ctx, layout!(requeue_arg)))
    }

    #[inline(always)]
    pub fn at_completion(ctx: &BtfTracePointContext) -> Self {
        Self(argument(ctx, layout!(complete_arg)))
    }

    #[inline(always)]
    pub fn op(self) -> Op {
        Op(load32(self.0, layout!(request_cmd_flags)))
    }

    #[inline(always)]
    pub fn device(self) -> u64 {
        device_of(load64(load64(self.0, layout!(request_q)), layout!(queue_disk)))
    }

    #[inline(always)]
    pub fn sector(self) -> u64 {
        load64(self.0, layout!(request_sector))
    }

    #[inline(always)]
    pub fn bytes(self) -> u64 {
        load32(self.0, layout!(request_data_len))
    }

    /// The first of the bios that were merged into this request.
    #[inline(always)]
    pub fn first_bio(self) -> Bio {
        Bio(load64(self.0, layout!(request_bio)))
    }

    /// The same as a number.
    #[inline(always)]
    pub fn read_first_bio(self) -> ReadBio {
        ReadBio(read(self.0, layout!(request_bio)))
    }
}

/// Reads kernel memory at an address that is a mere number. The helper itself stores 0 where there is none: a branch
/// here would double the paths that the verifier follows, for each read in a loop.
#[inline(always)]
fn read<T: Default>(base: u64, offset: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (base + offset) as *const c_void,
        )
    };
    value
}

/// A `struct bio` whose address is a mere number. Slower than [`Bio`], but can be handed to a global function and used
/// as a key there.
#[derive(Clone, Copy)]
pub struct ReadBio(u64);

impl ReadBio {
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub fn sector(self) -> u64 {
        read(self.0, layout!(bio_sector))
    }

    #[inline(always)]
    pub fn sectors(self) -> u64 {
        u64::from(read::<u32>(self.0, layout!(bio_size))).div_ceil(512)
    }

    #[inline(always)]
    pub fn next(self) -> Self {
        Self(read(self.0, layout!(bio_next)))
    }
}

/// A `struct bio`.
#[derive(Clone, Copy)]
pub struct Bio(pub u64);

impl Bio {
    #[inline(always)]
    pub fn at_queue(ctx: &BtfTracePointContext) -> Self {
        Self(argument(ctx, layout!(queue_arg)))
    }

    #[inline(always)]
    pub fn at_completion(ctx: &BtfTracePointContext) -> Self {
        Self(argument(ctx, layout!(bio_complete_arg)))
    }

    #[inline(always)]
    pub fn op(self) -> Op {
        Op(load32(self.0, layout!(bio_opf)))
    }

    #[inline(always)]
    pub fn device(self) -> u64 {
        device_of(load64(load64(self.0, layout!(bio_bdev)), layout!(bdev_disk)))
    }

    #[inline(always)]
    pub fn sector(self) -> u64 {
        load64(self.0, layout!(bio_sector))
    }

    #[inline(always)]
    pub fn bytes(self) -> u64 {
        load32(self.0, layout!(bio_size))
    }

    #[inline(always)]
    pub fn next(self) -> Bio {
        Bio(load64(self.0, layout!(bio_next)))
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}
