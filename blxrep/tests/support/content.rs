//! What test disks are filled with: the same bytes for the same seed.

use super::stamper::Random;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MIB: usize = 1 << 20;
/// O_DIRECT buffers are aligned to the largest logical block in use.
const ALIGN: usize = 4096;
/// The text of logs and sources: compresses well, but is not trivial.
const WORDS: [&str; 16] = [
    "the",
    "block",
    "granule",
    "error",
    "INFO",
    "2026-11-02",
    "sector",
    "request",
    "completed",
    "in",
    "of",
    "cache",
    "0x7fff",
    "GET",
    "/index.html",
    "200\n",
];

/// What a stretch of a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Incompressible,
    Text,
    Zero,
}

impl Content {
    /// Fills a buffer.
    pub fn fill(self, buffer: &mut [u8], random: &mut Random) {
        match self {
            Self::Zero => buffer.fill(0),
            Self::Incompressible => {
                for word in buffer.chunks_mut(8) {
                    word.copy_from_slice(&random.next().to_le_bytes()[..word.len()]);
                }
            }
            Self::Text => {
                let mut at = 0;
                while at < buffer.len() {
                    let word = WORDS[random.next() as usize % WORDS.len()].as_bytes();
                    let length = word.len().min(buffer.len() - at);
                    buffer[at..at + length].copy_from_slice(&word[..length]);
                    at += length;
                    if let Some(space) = buffer.get_mut(at) {
                        *space = b' ';
                    }
                    at += 1;
                }
            }
        }
    }
}

/// Opens a device (or file) for writes that go past the page cache.
pub fn open_direct(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits())?)
        .open(path)
        .with_context(|| format!("{}: opening for direct I/O", path.display()))
}

/// A buffer whose bytes may be used with O_DIRECT.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    pad: usize,
}

impl Aligned {
    pub fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + ALIGN];
        let pad = memory.as_ptr().align_offset(ALIGN);
        Self { memory, pad }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let end = self.memory.len() - (ALIGN - self.pad);
        &mut self.memory[self.pad..end]
    }
}

/// Fills a whole device MiB by MiB, with what `choose` says for each.
pub fn fill_device(path: &Path, seed: u64, choose: impl Fn(u64) -> Content) -> Result<()> {
    let device = open_direct(path)?;
    let size = super::device_bytes(&device)?;
    let (mut random, mut buffer) = (Random(seed), Aligned::new(MIB));
    for (number, offset) in (0..size).step_by(MIB).enumerate() {
        let length = usize::try_from((size - offset).min(MIB as u64))?;
        let block = &mut buffer.bytes()[..length];
        choose(number as u64).fill(block, &mut random);
        device.write_all_at(block, offset).with_context(|| format!("{}: filling", path.display()))?;
    }
    Ok(())
}

/// Overwrites `count` granules of 4 KiB, chosen at random without repetition, with incompressible bytes.
pub fn change_granules(path: &Path, seed: u64, count: u64) -> Result<()> {
    let device = open_direct(path)?;
    let granules = super::device_bytes(&device)? / 4096;
    let (mut random, mut buffer) = (Random(seed), Aligned::new(4096));
    let mut taken = vec![false; usize::try_from(granules)?];
    let mut left = count.min(granules);
    while left > 0 {
        let granule = random.below(granules);
        if std::mem::replace(&mut taken[usize::try_from(granule)?], true) {
            continue;
        }
        left -= 1;
        let block = buffer.bytes();
        Content::Incompressible.fill(block, &mut random);
        device
            .write_all_at(block, granule * 4096)
            .with_context(|| format!("{}: changing", path.display()))?;
    }
    Ok(())
}
