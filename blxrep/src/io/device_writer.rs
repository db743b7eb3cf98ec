//! A block device that is overwritten with what comes in as frames. Nothing else may use it meanwhile.

use super::storage::{Access, DataFile, Storage, StorageError};
use super::write_behind::WriteBehind;
use crate::model::encoding::{DecodeError, Encoding};
use crate::wire::frame::{Data, MAX_PAYLOAD_BYTES};
use rustix::fs::{FlockOperation, flock};
use rustix::ioctl::{NoArg, Opcode, ioctl};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `linux/fs.h`: `_IO(0x12, 95)` and `_IO(0x12, 97)`.
const BLKRRPART: Opcode = 0x125F;
const BLKFLSBUF: Opcode = 0x1261;
/// Shorter zeroes are written as they are: what they would free is not worth a request of its own kind.
const SHORT_ZERO_BYTES: u32 = 64 << 10;

/// Other programs look at a disk for a moment under its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("what came for byte {0} of the device cannot be unpacked: {1}")]
    Packed(u64, DecodeError),
    #[error("another program keeps {0} locked (`lslocks` names it): let it end first")]
    Locked(String),
    #[error("{0} is another device than the one that was looked at")]
    Another(String),
}

/// An open device.
#[derive(Debug)]
pub struct DeviceWriter {
    file: Arc<DataFile>,
    behind: WriteBehind,
}

impl DeviceWriter {
    /// Opens a device for this process alone, until it is dropped. `number` is that of the device that was judged. Of a
    /// `whole` disk its lock is taken too: udev then lets it be, and nothing makes a volume of what is half written. Blocks
    /// for 10 s at most while another program has the lock.
    pub fn open(node: &Path, number: (u32, u32), whole: bool) -> Result<Self, WriteError> {
        let file = Arc::new(Storage::default().open(node, Access::Device)?);
        if file.device_number()? != Some(number) {
            return Err(WriteError::Another(node.display().to_string()));
        }
        if whole {
            lock(&file)?;
        }
        let behind = WriteBehind::new(Arc::clone(&file), MAX_PAYLOAD_BYTES as usize)?;
        Ok(Self { file, behind })
    }

    /// Writes what a frame carries, behind what came before.
    pub fn put(&mut self, data: &Data, payload: &[u8]) -> Result<(), WriteError> {
        if data.encoding == Encoding::Zero && data.raw_length >= SHORT_ZERO_BYTES {
            self.behind.drain()?;
            let range = data.offset..data.offset + u64::from(data.raw_length);
            return Ok(self.file.clear_device(range)?);
        }
        let mut buffer = self.behind.buffer()?;
        let content = buffer.fill(data.raw_length as usize);
        data.encoding.decode_into(payload, content).map_err(|e| WriteError::Packed(data.offset, e))?;
        Ok(self.behind.submit(buffer, data.offset)?)
    }

    /// Waits until everything is on stable storage.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        self.behind.drain()?;
        Ok(self.file.sync()?)
    }

    /// Makes the kernel forget what it had in memory of the device, and read its partition table anew if it is a whole
    /// disk. It may not want to, which harms nobody: the next one who looks reads the disk.
    pub fn read_anew(&self, whole: bool) {
        // SAFETY: neither of the two reads or writes memory of this process.
        let (flushed, read) = unsafe {
            let flushed = ioctl(self.file.as_fd(), NoArg::<BLKFLSBUF>::new());
            let read = whole.then(|| ioctl(self.file.as_fd(), NoArg::<BLKRRPART>::new()));
            (flushed, read.unwrap_or(Ok(())))
        };
        let device = self.file.path().display();
        if let Err(error) = flushed {
            tracing::debug!(%device, %error, "the kernel keeps its buffers of the device");
        }
        if let Err(error) = read {
            tracing::info!(%device, %error, "the kernel does not read the partition table anew: `partprobe` or a reboot makes \
                                             it");
        }
    }
}

fn lock(file: &DataFile) -> Result<(), WriteError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < until => {
                std::thread::sleep(LOCK_LOOK);
            }
            Err(_) => return Err(WriteError::Locked(file.path().display().to_string())),
        }
    }
}
