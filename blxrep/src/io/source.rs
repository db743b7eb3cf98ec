//! A protected disk, read with direct I/O from the whole-disk node that is tracked.

use crate::model::holes::Holes;
use crate::model::units::SECTOR_BYTES;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
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
    #[error("{}: {holes}, and there may be more: the disk is failing, and no point of it is made", path.display())]
    Failing { path: PathBuf, holes: Holes },
}

impl SourceError {
    /// Whether the disk has said that it cannot read a sector. Others say that it cannot be read at all.
    fn is_of_a_sector(&self) -> bool {
        let of_a_sector = [Errno::IO, Errno::NODATA, Errno::REMOTEIO, Errno::ILSEQ];
        matches!(self, Self::Read { error, .. } if of_a_sector.contains(error))
    }
}

/// An open disk. Buffered reads of a mounted disk are stale, so there are none.
#[derive(Debug)]
pub struct DiskSource {
    fd: OwnedFd,
    path: PathBuf,
    /// Bytes that the disk reads at once, or not at all.
    block: usize,
    /// Reading threads give way to everybody else who uses the disk.
    pub idle: bool,
}

impl DiskSource {
    /// Opens the node read-only with `O_DIRECT`.
    pub fn open(path: &Path, idle: bool) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| SourceError::Open { path: path.to_owned(), error })?;
        // A file has none.
        let block = rustix::fs::ioctl_blksszget(&fd).unwrap_or(SECTOR_BYTES as u32);
        Ok(Self { fd, path: path.to_owned(), block: usize::try_from(block).unwrap_or(4096), idle })
    }

    /// Number of the device that was opened.
    pub fn device_number(&self) -> std::io::Result<(u32, u32)> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
    }

    /// The same as [`Self::read_exact_at`], but sectors that cannot be read become zeroes and are added to `holes`.
    /// Halves of what cannot be read are tried until only those are left.
    pub fn read_around(&self, buf: &mut [u8], offset: u64, holes: &mut Holes) -> Result<(), SourceError> {
        match self.read_exact_at(buf, offset) {
            Err(error) if error.is_of_a_sector() => {}
            other => return other,
        }
        if buf.len() <= self.block {
            buf.fill(0);
            let end = offset + buf.len() as u64;
            holes.add(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
            if !holes.fit() {
                return Err(SourceError::Failing { path: self.path.clone(), holes: holes.clone() });
            }
            return Ok(());
        }
        let half = (buf.len() / 2).next_multiple_of(self.block);
        let (first, second) = buf.split_at_mut(half);
        self.read_around(first, offset, holes)?;
        self.read_around(second, offset + half as u64, holes)
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
