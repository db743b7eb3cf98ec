//! Memory for direct I/O: buffers that start at a multiple of the largest logical block size, reused through a pool.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Alignment of every buffer: the largest logical block size there is.
pub const ALIGN: usize = 4096;

/// Above this, freed memory goes back to the kernel at once.
#[cfg(target_env = "gnu")]
const RETURNED_BYTES: libc::c_int = 256 << 10;
/// Heaps that threads share: each keeps the peak of what was freed into it.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Keeps glibc from holding on to what passes have freed: left to itself it raises its limit with the largest buffer it
/// has seen, and keeps several times the memory that was ever in use.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers of the allocator; documented to be callable at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Zeroed bytes at an aligned address.
pub struct AlignedBuf {
    at: NonNull<u8>,
    len: usize,
}

impl AlignedBuf {
    /// `len` zeroes; the length is rounded up to a multiple of [`ALIGN`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(ALIGN);
        let layout = Self::layout(len);
        // SAFETY: the layout's size is at least ALIGN, so it is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { at, len }
    }

    fn layout(len: usize) -> Layout {
        // `len` is a multiple of ALIGN that was allocated, or is about to be: `new` would have overflowed before.
        Layout::from_size_align(len, ALIGN).unwrap_or(Layout::new::<[u8; ALIGN]>())
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, and never freed elsewhere.
        unsafe { dealloc(self.at.as_ptr(), Self::layout(self.len)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

// SAFETY: the memory is owned and plain bytes.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared references only read.
unsafe impl Sync for AlignedBuf {}

/// An aligned buffer that is filled from the start and remembers how far.
pub struct AlignedBuffer {
    bytes: AlignedBuf,
    len: usize,
    capacity: usize,
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len, self.capacity)
    }
}

impl AlignedBuffer {
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { bytes: AlignedBuf::new(capacity), len: 0, capacity }
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub const fn space(&self) -> usize {
        self.capacity - self.len
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The first `len` bytes, to be filled.
    pub fn fill(&mut self, len: usize) -> &mut [u8] {
        self.len = len.min(self.capacity);
        &mut self.bytes[..self.len]
    }

    /// Appends as much of `bytes` as there is space for; returns how much.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.space());
        self.bytes[self.len..self.len + n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// A fixed number of buffers that come back when they are dropped. Taking one waits until there is one: the pool is
/// the bound on a reader's memory.
#[derive(Debug)]
pub struct BufferPool {
    free: Receiver<AlignedBuf>,
    back: SyncSender<AlignedBuf>,
}

impl BufferPool {
    /// `count` buffers of `len` bytes, allocated now.
    #[must_use]
    pub fn new(count: usize, len: usize) -> Self {
        let (back, free) = sync_channel(count);
        for _ in 0..count {
            // The channel has room for all of them.
            let _ = back.try_send(AlignedBuf::new(len));
        }
        Self { free, back }
    }

    /// A buffer, once one is free. Its content is whatever it held before.
    #[must_use]
    pub fn take(&self) -> Option<PooledBuf> {
        self.free.recv().ok().map(|buf| PooledBuf { buf: Some(buf), back: self.back.clone() })
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuf {
    /// `None` only while being dropped.
    buf: Option<AlignedBuf>,
    back: SyncSender<AlignedBuf>,
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or(&[])
    }
}

impl AsMut<[u8]> for PooledBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buf.as_deref_mut().unwrap_or(&mut [])
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            // The pool may be gone; then the memory is freed here.
            let _ = self.back.try_send(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BufferPool::new(1, 5000);
        let mut first = pool.take().unwrap();
        assert_eq!(first.as_ref().len(), 8192);
        assert_eq!(first.as_ref().as_ptr() as usize % ALIGN, 0);
        first.as_mut()[8191] = 7;
        drop(first);
        assert_eq!(pool.take().unwrap().as_ref()[8191], 7);
    }
}
