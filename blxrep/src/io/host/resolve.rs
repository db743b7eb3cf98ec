//! From a path that a person gave to a whole disk.

use super::{HostError, sysfs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A whole block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Node under `/dev`, whatever link led to it.
    pub device: String,
    pub major: u32,
    pub minor: u32,
}

/// Follows a path or link to a whole disk. A partition is an error that names the disk it lies on.
pub fn resolve(path: &Path) -> Result<BlockDevice, HostError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| HostError::NoSuchPath { path: path.to_owned(), source })?;
    if !metadata.file_type().is_block_device() {
        return Err(HostError::NotADevice { path: path.to_owned() });
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let dir = sysfs::block_dir(major, minor)?;
    if sysfs::text(&dir, "partition").is_some() {
        let parent = dir.parent().map(node).unwrap_or_default();
        return Err(HostError::Partition { path: path.to_owned(), parent });
    }
    Ok(BlockDevice { device: node(&dir), major, minor })
}

/// The node of the device with this directory.
pub(super) fn node(dir: &Path) -> String {
    sysfs::node(&dir.file_name().unwrap_or_default().to_string_lossy())
}
