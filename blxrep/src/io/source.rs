//! A protected disk, read with direct I/O from the whole-disk node that is tracked.

use rustix::fs::{Mode, OFlags};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot open {} for direct reads: {error}; check that the disk exists and that the agent runs as root", path.display())]
    Open { path: PathBuf, error: rustix::io::Errno },
    #[error("cannot read {} at bytes {}..{}: {error}; look for I/O errors of the disk in the kernel's log", path.display(), range.start, range.end)]
    Read { path: PathBuf, range: Range<u64>, error: rustix::io::Errno },
    #[error("{} ended at byte {at}, before {end}: the disk has become smaller", path.display())]
    Short { path: PathBuf, at: u64, end: u64 },
}

/// An open disk. Buffered reads of a mounted disk are stale, so there are none.
#[derive(Debug)]
pub struct DiskSource {
    fd: OwnedFd,
    path: PathBuf,
    /// Reading threads give way to everybody else who uses the disk.
    pub idle: bool,
}

impl DiskSource {
    /// Opens the node read-only with `O_DIRECT`.
    pub fn open(path: &Path, idle: bool) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| SourceError::Open { path: path.to_owned(), error })?;
        Ok(Self { fd, path: path.to_owned(), idle })
    }

    /// Fills `buf` from byte `offset`. The buffer's address, its length and the offset are multiples of the
    /// logical block size; the last granule of a disk may be shorter than a page, and is then a multiple of 512.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let end = offset + buf.len() as u64;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match rustix::io::pread(&self.fd, &mut buf[done..], at) {
                Ok(0) => {
                    return Err(SourceError::Short { path: self.path.clone(), at, end });
                }
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(SourceError::Read { path: self.path.clone(), range: at..end, error });
                }
            }
        }
        Ok(())
    }
}
