//! What lies on what: the block devices, filesystems and swap areas of a host, as far as freezing needs to know.

use std::fmt;

/// Major and minor number of a block device, or of a filesystem (`st_dev`; major 0 if it has no device of its own).
pub type DeviceNumber = (u32, u32);

/// A whole disk, a partition, or something stacked on others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackedDevice {
    pub number: DeviceNumber,
    /// As the kernel calls it, for messages.
    pub name: String,
    /// The disk of a partition; what dm, md or bcache is made of.
    pub below: Vec<DeviceNumber>,
    pub backing: Backing,
}

/// The file behind a loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    None,
    /// It lies on the filesystem of this number.
    On(DeviceNumber),
    /// Nobody can tell where this file lies.
    Unknown(String),
}

/// A filesystem that the kernel has in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackedFilesystem {
    pub number: DeviceNumber,
    pub kind: String,
    /// A mount point, or its device if it has none.
    pub place: String,
    /// Everything it lies on; empty if that cannot be told (a ZFS pool).
    pub devices: Vec<DeviceNumber>,
    pub writable: bool,
    /// Whether some process sees a mount of it.
    pub mounted: bool,
}

/// An active swap area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapArea {
    pub name: String,
    /// The block device, or the filesystem that the swap file lies on.
    pub on: DeviceNumber,
}

/// Everything together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    pub devices: Vec<StackedDevice>,
    pub filesystems: Vec<StackedFilesystem>,
    pub swaps: Vec<SwapArea>,
}

/// Something that keeps a point from being `frozen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The filesystem, by its place.
    pub what: String,
    pub reason: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}
