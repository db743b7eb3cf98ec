//! Two devices or files, byte by byte.

use super::content::{Aligned, open_direct};
use super::disk::device_bytes;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const GRANULE: usize = 4096;
/// Bytes compared at a time.
const CHUNK: usize = 1 << 20;

/// Fails unless both hold the same bytes. The source is read past the page cache when it is a device.
pub fn ensure_identical(source: &Path, copy: &Path) -> Result<u64> {
    let (a, b) = (open(source)?, open(copy)?);
    let (bytes, copied) = (device_bytes(&a)?, device_bytes(&b)?);
    let (from, to) = (source.display(), copy.display());
    ensure!(bytes == copied, "{to} has {copied} bytes, {from} has {bytes}");
    let mut buffers = [Aligned::new(CHUNK), Aligned::new(CHUNK)];
    let (mut different, mut first) = (0u64, None);
    for offset in (0..bytes).step_by(CHUNK) {
        let length = usize::try_from((bytes - offset).min(CHUNK as u64))?;
        let [x, y] = &mut buffers;
        let x = read(&a, x, length, offset).with_context(|| format!("{from}: reading at {offset}"))?;
        let y = read(&b, y, length, offset).with_context(|| format!("{to}: reading at {offset}"))?;
        for (index, (x, y)) in x.chunks(GRANULE).zip(y.chunks(GRANULE)).enumerate() {
            if x != y {
                different += 1;
                first = first.or(Some(offset + (index * GRANULE) as u64));
            }
        }
    }
    ensure!(
        different == 0,
        "{to} differs from {from} in {different} granules of 4 KiB, the first at byte {}",
        first.unwrap_or(0)
    );
    Ok(bytes)
}

/// A block device is opened with O_DIRECT: its page cache may be older than what a filesystem wrote.
fn open(path: &Path) -> Result<File> {
    if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
        return open_direct(path);
    }
    File::open(path).with_context(|| format!("{}: opening", path.display()))
}

fn read<'a>(file: &File, buffer: &'a mut Aligned, length: usize, offset: u64) -> Result<&'a [u8]> {
    let block = &mut buffer.bytes()[..length];
    file.read_exact_at(block, offset)?;
    Ok(block)
}
