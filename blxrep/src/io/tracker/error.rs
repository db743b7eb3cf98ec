//! What can go wrong with tracking, in the words of who has to put it right.

use std::io;
use std::path::{Path, PathBuf};

/// Why tracking is not possible or not going on.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    #[error("cannot read the kernel's BTF at {}: {reason}; tracking needs a kernel built with CONFIG_DEBUG_INFO_BTF", path.display())]
    NoBtf { path: PathBuf, reason: String },
    #[error("this kernel's BTF has no {what}; this kernel is too old: Linux 6.12 and 6.18 are known to work")]
    KernelField { what: String },
    #[error("cannot {action}: {reason}; tracking needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN")]
    Bpf { action: String, reason: String },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another agent; stop it, or give this agent another id", path.display())]
    InUse { path: PathBuf },
    #[error("{} is a partition; protect the whole disk {parent} instead", node.display())]
    Partition { node: PathBuf, parent: String },
    #[error("{} is zoned ({model}); zoned disks cannot be protected yet", node.display())]
    Zoned { node: PathBuf, model: String },
    #[error("{} is mounted with DAX at {mount}; writes through DAX pass no block layer and cannot be tracked: remount without dax", node.display())]
    Dax { node: PathBuf, mount: String },
    #[error("{} cannot be tracked: all {max} places are taken by other disks", node.display())]
    TooManyDisks { node: PathBuf, max: u32 },
    #[error("{} cannot be tracked: at {bytes} bytes it has too many granules", node.display())]
    TooLarge { node: PathBuf, bytes: u64 },
    #[error("reads of {} do not reach the {hook} hook: this device's changes cannot be observed", node.display())]
    Blind { node: PathBuf, hook: &'static str },
    #[error("{} never stood still while tracking began: requests that were under way could not be told apart; try again when it is less busy", node.display())]
    NeverSettled { node: PathBuf },
    #[error("the pinned record of {identity} cannot be stored: {reason}")]
    Record { identity: String, reason: String },
}

impl TrackerError {
    pub(super) fn bpf(action: impl Into<String>, reason: &dyn std::error::Error) -> Self {
        Self::Bpf { action: action.into(), reason: chain(reason) }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// An error and what it came from, in one line: aya says little at the top.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}
