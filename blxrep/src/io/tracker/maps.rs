//! Memory of `BPF_F_MMAPABLE` arrays, mapped and seen as atomic words. The only place that maps the kernel's memory.

use super::TrackerError;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The words of an array map. The mapping keeps the map alive, whatever happens to its file descriptors and pins.
#[derive(Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel and reached through atomics only; it is unmapped once, on drop.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `count` words of the array behind `fd`.
    pub fn map(fd: impl AsFd, count: u64, what: &str) -> Result<Self, TrackerError> {
        let failed = |reason: String| TrackerError::Bpf { action: format!("map {what} into memory"), reason };
        let count = usize::try_from(count).map_err(|e| failed(e.to_string()))?;
        let bytes = count.checked_mul(8).filter(|b| *b > 0).ok_or_else(|| failed("of no size".into()))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice. The kernel refuses a length beyond the array.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd.as_fd(), 0) };
        let start = start.map_err(|e| failed(e.to_string()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| failed("at address 0".into()))?;
        Ok(Self { start, count })
    }

    /// The words. Kernel and user space change them at any time, by atomic instructions only.
    pub fn get(&self) -> &[AtomicU64] {
        // SAFETY: mapped for `count` words until drop; page-aligned; `AtomicU64` allows changes by others.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; no reference into it outlives `self`. An error leaves it mapped.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * 8) };
    }
}
