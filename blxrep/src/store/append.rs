//! A file of the store written from front to back: header (put in place last), body, index, trailer.

use super::StoreError;
use crate::format::header::{FileHeader, HEADER_BYTES};
use crate::format::trailer::{Digest, Trailer};
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{Access, DataFile, Storage};
use std::path::Path;

/// What is gathered before it is written: the length of one read of the agent.
const BUFFER_BYTES: usize = 1 << 20;

/// Appends to a new file through an aligned buffer, and keeps a digest of what it appends.
#[derive(Debug)]
pub(super) struct AppendFile {
    file: DataFile,
    buffer: AlignedBuffer,
    /// Where the buffer belongs in the file.
    flushed: u64,
    hasher: blake3::Hasher,
}

impl AppendFile {
    pub fn create(storage: &Storage, path: &Path) -> Result<Self, StoreError> {
        let file = storage.open(path, Access::Replace)?;
        let mut buffer = AlignedBuffer::new(BUFFER_BYTES);
        buffer.append(&[0; HEADER_BYTES]);
        Ok(Self { file, buffer, flushed: 0, hasher: blake3::Hasher::new() })
    }

    pub fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.put_silently(bytes)
    }

    fn put_silently(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let taken = self.buffer.append(bytes);
            bytes = &bytes[taken..];
            if self.buffer.space() == 0 {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file.write_at(self.buffer.as_slice(), self.flushed)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Digest of what was put since the last call.
    pub fn digest(&mut self) -> Digest {
        let digest = *self.hasher.finalize().as_bytes();
        self.hasher.reset();
        digest
    }

    /// Makes everything readable through the file; nothing may be put after it but a trailer.
    pub fn flushed_file(&mut self) -> Result<&DataFile, StoreError> {
        if !self.buffer.is_empty() {
            // The buffer stays, so that the next flush starts aligned again.
            self.file.write_at(self.buffer.as_slice(), self.flushed)?;
        }
        Ok(&self.file)
    }

    /// Completes the file and waits until it is on stable storage. Returns its root and the bytes it takes.
    pub fn finish(mut self, header: &FileHeader, trailer: &Trailer) -> Result<(Digest, u64), StoreError> {
        let header = header.encode();
        let (bytes, root) = trailer.encode(&header);
        self.put_silently(&bytes)?;
        self.flush()?;
        self.file.write_at(&header, 0)?;
        self.file.sync()?;
        Ok((root, self.file.allocated()?))
    }
}
