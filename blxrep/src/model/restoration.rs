//! Restores to agents: what is asked of one, and what it says before anything is written.

use super::ids::{DiskIdentity, PointId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an agent is asked to restore. Whether it may is for its own configuration to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoration {
    pub point: PointId,
    pub target: Target,
    /// What a person agreed to overwrite. Nothing is written onto a device without.
    pub agreed: Option<Agreed>,
}

impl Restoration {
    /// The disk that the target is, or lies on, if its agent keeps it in sync.
    #[must_use]
    pub fn protects(&self) -> Option<&DiskIdentity> {
        self.agreed.as_ref().and_then(|agreed| agreed.protects.as_ref())
    }
}

/// The device that was looked at when a person agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    pub device: DeviceMark,
    /// As of [`Preflight`].
    pub protects: Option<DiskIdentity>,
}

/// Which device it is: what a path leads to may be another one the next time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMark {
    /// The disk that it is, or lies on.
    pub disk: DiskMark,
    /// Its number, if it is a partition.
    pub partition: Option<u32>,
    /// Where a partition begins, in sectors of 512 bytes.
    pub start: u64,
    pub bytes: u64,
}

/// Which disk it is. Its content does not tell: that is about to become another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskMark {
    /// What the hardware calls itself.
    Hardware(DiskIdentity),
    /// It calls itself nothing: one that sits where it sat, in the same boot of the host.
    Seat { boot: [u8; 16], number: (u32, u32), sequence: Option<u64> },
}

impl DeviceMark {
    /// Whether what is written to one changes the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let within = self.partition.is_none() || other.partition.is_none();
        self.disk == other.disk && (within || self.partition == other.partition)
    }
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Device(DeviceTarget),
    Files(FilesTarget),
}

/// The content of a disk or partition goes onto a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTarget {
    /// Path of the device on the agent's host, as a person gave it.
    pub device: String,
    /// Bytes that are written, from the device's first on.
    pub bytes: u64,
    /// They are those of a whole disk: its partition table is read anew afterwards.
    pub whole: bool,
    /// Everything is written, without comparing first.
    pub full: bool,
}

/// Files go below a folder. Which files they are, only the dispatcher needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesTarget {
    /// Absolute path of a folder on the agent's host.
    pub folder: String,
    pub conflict: Conflict,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What is done where something is in the way of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// What exists stays as it is.
    #[default]
    Skip,
    /// It is replaced; folders are never removed.
    Overwrite,
    /// What is restored gets another name.
    Rename,
}

/// The restore is possible, and this is what it would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// The target, what it holds now, and what would be done to it: a sentence each.
    pub findings: Vec<String>,
    /// What would be gone afterwards, as a sentence; `None` if nothing would.
    pub overwrites: Option<String>,
    /// The target is, or lies on, this disk, which the agent keeps in sync.
    pub protects: Option<DiskIdentity>,
    /// Which device was looked at; `None` of a folder.
    pub device: Option<DeviceMark>,
}

impl Preflight {
    /// Stands for all that it says: who agrees to it names this.
    #[must_use]
    pub fn digest(&self) -> String {
        blake3::hash(format!("{self:?}").as_bytes()).to_hex().chars().take(32).collect()
    }
}

/// Whether a point of the target is made before it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Not wanted, or the target is not kept in sync.
    None,
    /// It has to be published before anything is written.
    Due,
    /// This point is the target as it was.
    Made(PointId),
}

impl Target {
    /// Path on the agent's host.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Device(target) => &target.device,
            Self::Files(target) => &target.folder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(disk: &str, partition: Option<u32>) -> DeviceMark {
        let disk = DiskMark::Hardware(DiskIdentity::Serial(disk.to_owned()));
        DeviceMark { disk, partition, start: 0, bytes: 4096 }
    }

    #[test]
    fn a_disk_overlaps_its_partitions_and_they_not_each_other() {
        let (disk, first, second) = (mark("A", None), mark("A", Some(1)), mark("A", Some(2)));
        assert!(disk.overlaps(&disk) && disk.overlaps(&first) && second.overlaps(&disk));
        assert!(first.overlaps(&first) && !first.overlaps(&second));
        assert!(!disk.overlaps(&mark("B", None)));
    }

    #[test]
    fn what_is_agreed_to_is_all_that_was_said() {
        let preflight = |bytes| Preflight {
            findings: vec!["x".to_owned()],
            overwrites: None,
            protects: None,
            device: Some(DeviceMark { bytes, ..mark("A", None) }),
        };
        assert_eq!(preflight(1).digest(), preflight(1).digest());
        assert_ne!(preflight(1).digest(), preflight(2).digest());
    }
}
