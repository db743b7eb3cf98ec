//! Atomic read-modify-writes on map memory. `core::sync::atomic` has none for this target; the instructions exist
//! since Linux 5.12.

use core::arch::asm;

/// `*word |= bits`, as one instruction that is also a full barrier.
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: the caller hands in an aligned word of map memory, which the verifier checks again.
    unsafe { asm!("lock *(u64 *)({p} + 0) |= {v}", p = in(reg) word, v = in(reg) bits) }
}

/// `*word += value`.
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: as in `or`.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) word, v = in(reg) value) }
}

/// Stores `new` if the word is `old`; returns what the word was.
#[inline(always)]
pub unsafe fn compare_swap(word: *mut u64, old: u64, new: u64) -> u64 {
    let mut seen = old;
    // SAFETY: as in `or`.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {v})", p = in(reg) word, v = in(reg) new, inlateout("r0") seen);
    }
    seen
}
