//! The footprint of a server: what an agent says of its host and its disks.

use super::ids::DiskIdentity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an agent's host is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Footprint {
    pub hostname: String,
    /// `PRETTY_NAME` of os-release.
    pub distribution: String,
    /// `uname -r`.
    pub kernel: String,
    pub architecture: String,
    pub cpus: u32,
    pub cpu_model: String,
    pub memory_bytes: u64,
    pub boot_id: String,
    pub interfaces: Vec<Interface>,
    pub disks: Vec<HostDisk>,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    /// CIDR notation.
    pub addresses: Vec<String>,
}

/// One whole block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostDisk {
    /// Node under `/dev`.
    pub device: String,
    pub major: u32,
    pub minor: u32,
    pub bytes: u64,
    pub logical_block_bytes: u32,
    pub model: String,
    pub rotational: bool,
    pub read_only: bool,
    /// `None` if nothing on the disk or in the configuration tells it from another.
    pub identity: Option<DiskIdentity>,
    /// Kernel's number of this appearance of the disk, within one boot.
    pub diskseq: Option<u64>,
    pub partitions: Vec<Partition>,
    /// A filesystem on the whole disk.
    pub filesystem: Option<Filesystem>,
}

/// One partition, from the kernel or from the table on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Partition {
    pub number: u32,
    pub first_sector: u64,
    pub sectors: u64,
    /// GPT type GUID or MBR type byte as `0x83`.
    pub kind: String,
    pub name: String,
    pub filesystem: Option<Filesystem>,
}

/// What is found on a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Filesystem {
    /// `ext4`, `xfs`, `btrfs`, `swap`, `LVM2_member`, `crypto_LUKS`, ...
    pub kind: String,
    pub uuid: String,
    pub label: String,
    pub mount_points: Vec<String>,
}

/// A device by all its names, as this host found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNames {
    /// The kernel's node, such as `/dev/vdb1`.
    pub node: String,
    /// Links that lead to it: below `/dev/disk/by-id` and `/dev/disk/by-path`, and those that the configuration names.
    pub links: Vec<String>,
    /// `serial:...`, of a whole disk.
    pub identity: Option<String>,
    /// The disk that it is a partition of.
    pub disk: Option<Box<Self>>,
}

impl DeviceNames {
    /// Its own, not those of its disk.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.links.iter().chain(&self.identity).chain([&self.node]).map(String::as_str)
    }

    /// The name that another device is least likely to get, and that this one keeps when it is overwritten.
    #[must_use]
    pub fn lasting(&self) -> &str {
        let plain = |name: &&String| !name.contains(['*', '?', '[', ']']);
        let by_id = self.links.iter().find(|link| link.starts_with("/dev/disk/by-id/")).filter(plain);
        let own = |name: &&String| !name.starts_with("gpt:") && !name.starts_with("mbr:");
        by_id.or_else(|| self.identity.as_ref().filter(plain).filter(own)).unwrap_or(&self.node)
    }
}
