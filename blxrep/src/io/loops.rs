//! Loop devices: a file as a block device, for the kernel's filesystems. See `linux/loop.h`.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/loop-control";
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Length of `lo_file_name`, with its NUL.
const NAME_BYTES: usize = 64;
/// Others look for a free device at the same time; each try takes another one.
const MAX_TRIES: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device. The kernel frees it when nobody has it open or mounted any more, so it ends with its holder.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: OwnedFd,
}

impl LoopDevice {
    /// Makes a device of a file that is open, for writing if the device shall be writable. `name` is what
    /// `losetup` shows.
    pub fn over(file: &File, name: &str, writable: bool) -> io::Result<Self> {
        let mut last = Errno::BUSY;
        for _ in 0..MAX_TRIES {
            match Self::try_over(file, name, writable) {
                Err(Errno::BUSY) => {}
                // The node of a device that was just made may come a moment later.
                Err(error @ (Errno::NOENT | Errno::NXIO)) => {
                    last = error;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                done => return Ok(done?),
            }
        }
        Err(last.into())
    }

    fn try_over(file: &File, name: &str, writable: bool) -> Result<Self, Errno> {
        let control = rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(errno());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let mode = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let open = rustix::fs::open(&path, mode | OFlags::CLOEXEC, Mode::empty())?;
        configure(&open, file, name, writable)?;
        Ok(Self { path, _open: open })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn configure(device: &OwnedFd, file: &File, name: &str, writable: bool) -> Result<(), Errno> {
    let mut file_name = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    file_name[..length].copy_from_slice(&name.as_bytes()[..length]);
    // Without direct transfers every byte would be kept in memory twice; where they are not possible the kernel
    // goes on without them.
    let flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | if writable { 0 } else { LO_FLAGS_READ_ONLY };
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags,
        file_name,
        crypt_name: [0; NAME_BYTES],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let config = Config { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `config` is; it lives until the call returns.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } < 0 {
        return Err(errno());
    }
    Ok(())
}

fn errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
