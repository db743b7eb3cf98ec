//! What this host is and which disks it has, from `/proc`, `/sys` and the first sectors of the disks.
//!
//! Everything is read afresh at each call, without udev and without a byte written. Reading blocks: call it from a
//! thread that may wait for a disk.

mod disks;
mod guarded;
mod identity;
pub(crate) mod mounts;
mod names;
mod probe;
mod resolve;
pub(in crate::io) mod sysfs;
mod system;
mod target;
mod under;

pub use guarded::{Unguarded, guarded};
pub use names::{NamedDevice, name_device, resolve_folder};
pub use resolve::{BlockDevice, resolve};
pub use system::boot_id;
pub use target::{TargetFacts, target_facts};
pub use under::whole_disks_under;

use crate::model::host::Footprint;
use crate::model::selection::Candidate;
use std::io;
use std::path::PathBuf;

/// Why a host could not be described.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be found: {source}", path.display())]
    NoSuchPath { path: PathBuf, source: io::Error },
    #[error("{} is no block device: name a whole disk, as `lsblk -d` lists them", path.display())]
    NotADevice { path: PathBuf },
    #[error("{} is a partition of {parent}: protect the whole disk with `--disk {parent}`", path.display())]
    Partition { path: PathBuf, parent: String },
    #[error("`{text}` in {} cannot be understood", path.display())]
    Malformed { path: PathBuf, text: String },
}

/// What the operator says of this host's disks.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Names that stand for an identity: of the device that the path leads to.
    pub names: Vec<(PathBuf, String)>,
}

/// A host and every disk of it that could be protected.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub footprint: Footprint,
    /// The disks of the footprint, each with what speaks against protecting it.
    pub candidates: Vec<Candidate>,
}

/// Looks at the host. A disk that cannot be read is described by what the kernel says of it.
pub fn inventory(options: &HostOptions) -> Result<Inventory, HostError> {
    let candidates = disks::candidates(options)?;
    let mut footprint = system::describe()?;
    footprint.disks = candidates.iter().map(|candidate| candidate.disk.clone()).collect();
    Ok(Inventory { footprint, candidates })
}
