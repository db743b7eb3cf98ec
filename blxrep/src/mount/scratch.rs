//! A layer that can be written to over something that cannot: what was written lies in a file without a name, which
//! is gone with its holder, however that ends.
//!
//! The kernel replays the journal of a point's filesystem into it; the store's bytes never change.

use roaring::RoaringTreemap;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What is copied up at once, when only a part of it is written.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;
/// Folders that the file may lie in, the first that can do it. `/tmp` may be memory.
const FOLDERS: [&str; 2] = ["/var/tmp", "/tmp"];

/// The layer.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    /// Blocks that were written; all others are still those below.
    written: RoaringTreemap,
    bytes: u64,
    /// Most blocks that may be written.
    limit: u64,
}

impl Scratch {
    /// A layer over `bytes` bytes that takes at most `limit` bytes of writes.
    pub fn new(bytes: u64, limit: u64) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for folder in FOLDERS {
            match unnamed(Path::new(folder)) {
                Ok(file) => {
                    let written = RoaringTreemap::new();
                    return Ok(Self { file, written, bytes, limit: limit / BLOCK_BYTES });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Fills `out` from `at`; what was not written comes from `below`. The range lies within the layer.
    pub fn read(
        &self,
        at: u64,
        out: &mut [u8],
        mut below: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.written.is_empty() {
            return below(at, out);
        }
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let here = self.written.contains(at / BLOCK_BYTES);
            let mut end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
            while end - at < out.len() as u64 && self.written.contains(end / BLOCK_BYTES) == here {
                end += BLOCK_BYTES;
            }
            let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(out.len());
            let (now, rest) = out.split_at_mut(n);
            if here {
                self.file.read_exact_at(now, at)?
            } else {
                below(at, now)?
            }
            at += n as u64;
            out = rest;
        }
        Ok(())
    }

    /// Writes `data` at `at`. `ENOSPC` when the layer is full, `EINVAL` behind its end.
    pub fn write(
        &mut self,
        at: u64,
        data: &[u8],
        mut below: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = at.checked_add(data.len() as u64).filter(|end| *end <= self.bytes);
        let end = end.ok_or_else(|| io::Error::from(rustix::io::Errno::INVAL))?;
        if data.is_empty() {
            return Ok(());
        }
        let blocks = at / BLOCK_BYTES..=(end - 1) / BLOCK_BYTES;
        let fresh = blocks.clone().filter(|block| !self.written.contains(*block)).count() as u64;
        if self.written.len() + fresh > self.limit {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        // Of the blocks at the edges the rest is what lies below.
        for edge in [*blocks.start(), *blocks.end()] {
            let range = edge * BLOCK_BYTES..((edge + 1) * BLOCK_BYTES).min(self.bytes);
            if (at > range.start || end < range.end) && !self.written.contains(edge) {
                let mut block = [0; BLOCK];
                let block = &mut block[..usize::try_from(range.end - range.start).unwrap_or(BLOCK)];
                below(range.start, block)?;
                self.file.write_all_at(block, range.start)?;
                self.written.insert(edge);
            }
        }
        self.file.write_all_at(data, at)?;
        self.written.insert_range(blocks);
        Ok(())
    }

    /// Bytes that were written, in whole blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.written.len() * BLOCK_BYTES
    }
}

/// A file that has no name from the beginning.
fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: usize = 10 * BLOCK - 1000;

    fn base() -> Vec<u8> {
        (0..BYTES).map(|i| (i * 7 % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_reads_as_a_copy_that_was_written_to(
            writes in prop::collection::vec((0..BYTES, 1..3 * BLOCK, any::<u8>()), 1..12)
        ) {
            let base = base();
            let below = |at: u64, out: &mut [u8]| {
                out.copy_from_slice(&base[at as usize..at as usize + out.len()]);
                Ok(())
            };
            let mut model = base.clone();
            let mut scratch = Scratch::new(BYTES as u64, 1 << 20).unwrap();
            for (at, length, value) in writes {
                let end = (at + length).min(BYTES);
                model[at..end].fill(value);
                scratch.write(at as u64, &model[at..end], below).unwrap();
                let mut out = vec![0; BYTES];
                scratch.read(0, &mut out, below).unwrap();
                prop_assert!(out == model);
                let from = at.saturating_sub(5000);
                scratch.read(from as u64, &mut out[..end - from], below).unwrap();
                prop_assert!(out[..end - from] == model[from..end]);
            }
        }
    }

    #[test]
    fn it_is_bounded() {
        let below = |_, out: &mut [u8]| {
            out.fill(1);
            Ok(())
        };
        let mut scratch = Scratch::new(1 << 20, 2 * BLOCK_BYTES).unwrap();
        scratch.write(100, &[2; 50], below).unwrap();
        scratch.write(5 * BLOCK_BYTES, &[2; BLOCK], below).unwrap();
        let full = scratch.write(9 * BLOCK_BYTES, &[2], below).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        scratch.write(200, &[3; 50], below).unwrap();
        assert_eq!(scratch.used(), 2 * BLOCK_BYTES);
        assert!(scratch.write((1 << 20) - 1, &[0; 2], below).is_err());
    }
}
