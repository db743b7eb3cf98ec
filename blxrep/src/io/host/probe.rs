//! Reads the few sectors of a disk that say what is on it.
//!
//! Past the page cache where the device can: a buffered read of a mounted disk may be stale, or ahead of it.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Alignment that satisfies every device: the largest logical block.
const ALIGN: usize = 4096;
/// The most that is asked for at once: a GPT of 256 entries of 1 KiB.
const MAX_READ: usize = 256 << 10;

/// An open disk, read only.
#[derive(Debug)]
pub(super) struct Probe {
    direct: Option<File>,
    buffered: File,
    bytes: u64,
}

impl Probe {
    pub(super) fn open(node: &Path, bytes: u64) -> io::Result<Self> {
        let buffered = File::open(node)?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(node).ok();
        Ok(Self { direct, buffered, bytes })
    }

    /// `None` if the range is not on the disk or cannot be read.
    pub(super) fn read(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let align = ALIGN as u64;
        let end = at.checked_add(u64::try_from(length).ok()?)?;
        if end > self.bytes || length > MAX_READ {
            return None;
        }
        let start = at - at % align;
        // The disk may end in the middle of an aligned block; the read is then cut there.
        let span = usize::try_from(end.next_multiple_of(align).min(self.bytes) - start).ok()?;
        let skip = usize::try_from(at - start).ok()?;
        let mut room = vec![0; span + ALIGN];
        let shift = room.as_ptr().align_offset(ALIGN);
        let aligned = room.get_mut(shift..shift + span)?;
        let direct = self.direct.as_ref().is_some_and(|file| file.read_exact_at(aligned, start).is_ok());
        if !direct {
            self.buffered.read_exact_at(aligned, start).ok()?;
        }
        aligned.get(skip..skip + length).map(<[u8]>::to_vec)
    }
}
