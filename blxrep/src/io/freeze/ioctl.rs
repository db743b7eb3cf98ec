//! The three ioctls: FIFREEZE, FITHAW, and the state of a loop device.

use rustix::ioctl::{Getter, IntegerSetter, Opcode, ioctl};
use std::os::fd::AsFd;

/// `linux/fs.h`: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`; the argument is not looked at.
const FIFREEZE: Opcode = 0xC004_5877;
const FITHAW: Opcode = 0xC004_5878;
/// `linux/loop.h`.
const LOOP_GET_STATUS64: Opcode = 0x4C05;
/// `struct loop_info64` is 232 bytes and begins with two 64-bit words: the backing file's device and inode.
type LoopInfo = [u64; 29];

/// Freezes the filesystem of `file`. Blocks, uninterruptibly, until all that is dirty has been written. `EBUSY` is a
/// filesystem that is frozen already.
pub(super) fn freeze(file: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads and writes no memory through the argument.
    unsafe { ioctl(file, IntegerSetter::<FIFREEZE>::new_usize(0)) }
}

/// Thaws it. `EINVAL` is a filesystem that is not frozen.
pub(super) fn thaw(file: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: as above.
    unsafe { ioctl(file, IntegerSetter::<FITHAW>::new_usize(0)) }
}

/// `st_dev` and inode of the file behind a loop device, whatever path it has and in whichever namespace.
pub(super) fn loop_backing(device: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    // SAFETY: the kernel writes a `loop_info64`, which has the size of `LoopInfo` and no invalid values.
    let info: LoopInfo = unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }?;
    Ok((info[0], info[1]))
}
