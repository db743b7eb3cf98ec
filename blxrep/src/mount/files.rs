//! The filesystems of a mounted point, mounted by the kernel.

use super::tree::{folder_name, partition_name, scratch_name};
use crate::io::loops::LoopDevice;
use crate::model::contents::{Mounting, Part};
use crate::model::part_id::PartId;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Read-only, and nothing in it does anything on this host.
const FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// How the files of a part are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub folder: PathBuf,
    /// What one should know about it; empty if there is nothing.
    pub note: String,
}

/// Mounts the files of a part of the point that is mounted on `dir`. The error says why they cannot be shown.
pub fn show(dir: &Path, part: &Part, how: &Mounting) -> Result<Shown, String> {
    let folder = dir.join(folder_name(&part.id));
    let plain = match &part.id {
        &PartId::DISK => dir.join("disk.img"),
        id => dir.join(partition_name(id)),
    };
    let scratch = dir.join(scratch_name(&part.id));
    let source = if how.replay { &scratch } else { &plain };
    let first = mount(source, how.replay, &folder, &how.driver, &how.options);
    let first = match (first, &how.unreplayed) {
        (Ok(()), _) => return Ok(Shown { folder, note: String::new() }),
        (Err(first), Some(options)) => {
            if mount(&plain, false, &folder, &how.driver, options).is_ok() {
                let note = format!(
                    "its journal could not be replayed ({}), so what it holds is not in the files",
                    describe(&first)
                );
                return Ok(Shown { folder, note });
            }
            first
        }
        (Err(first), None) => first,
    };
    Err(explain(&how.driver, &first))
}

/// What went wrong, and with what.
#[derive(Debug)]
enum Refusal {
    /// The loop device could not be made.
    Device(std::io::Error),
    Mount(Errno),
}

fn mount(source: &Path, writable: bool, folder: &Path, driver: &str, options: &str) -> Result<(), Refusal> {
    let file = File::options().read(true).write(writable).open(source).map_err(Refusal::Device)?;
    let device = LoopDevice::over(&file, "blxrep", writable).map_err(Refusal::Device)?;
    let options = CString::new(options).map_err(|e| Refusal::Device(e.into()))?;
    // From here on the mount holds the device, and the device the file.
    rustix::mount::mount(device.path(), folder, driver, FLAGS, options.as_c_str()).map_err(Refusal::Mount)
}

fn describe(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Device(error) => format!("no loop device: {error}"),
        Refusal::Mount(errno) => errno.to_string(),
    }
}

fn explain(driver: &str, refusal: &Refusal) -> String {
    const IN_A_VM: &str = "`blxrep export POINT --nbd` shows it to a virtual machine";
    match refusal {
        Refusal::Device(error) => format!("no loop device can be made for it: {error}"),
        Refusal::Mount(Errno::NODEV) => {
            format!("this kernel has no driver for {driver} (try `modprobe {driver}`); {IN_A_VM}")
        }
        Refusal::Mount(Errno::EXIST | Errno::BUSY) if driver == "btrfs" => format!(
            "the same btrfs is mounted on this host, and this kernel cannot mount a twin of it; {IN_A_VM}"
        ),
        Refusal::Mount(errno) => {
            format!("the kernel does not mount it as {driver}: {errno}; `dmesg` says more; {IN_A_VM}")
        }
    }
}
