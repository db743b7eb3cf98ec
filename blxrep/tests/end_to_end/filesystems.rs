//! Points made while a filesystem is written to are mountable and clean, each as its label promises.

use crate::require_root;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::sh;
use crate::support::load::Load;
use crate::support::mount::{Filesystem, Mount};
use crate::ward::{RULES, Volume};
use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;

/// Points of each label at least.
const LEAST: usize = 3;
/// `max_freeze_ms` of the policy, with a wide margin.
const LONGEST: Duration = Duration::from_secs(20);

/// Points under load with this label: each is clean, and writers go on after it.
fn clean(filesystem: Filesystem, label: &str) -> Result<()> {
    let volume = Volume::new(filesystem, RULES)?;
    let load = volume.busy()?;
    let ward = volume.protect(load, "")?;
    let series = ward.series(label, LEAST, |point, _, copy| {
        fs::write(ward.volume.mount.path().join("after"), &point.id)?;
        check(filesystem, point.consistency == "frozen", copy)
    })?;
    let freezes = series.freezes()?;
    println!(
        "{} {label}: {} points checked, {} fuzzy; freezes: median {:?}, longest {:?}",
        filesystem.name(),
        series.proven.len(),
        series.fuzzy,
        freezes.get(freezes.len() / 2),
        freezes.last()
    );
    ensure!(freezes.last().is_none_or(|longest| *longest <= LONGEST), "frozen for too long: {freezes:?}");
    ward.end(Load::stop)
}

/// Frozen ext4 and btrfs have nothing to replay; a frozen xfs keeps a dirty log by design. After replay all are clean.
fn check(filesystem: Filesystem, frozen: bool, copy: &LoopDisk) -> Result<()> {
    let device = copy.name();
    let is_clean = || match filesystem {
        Filesystem::Ext4 => sh("e2fsck", &["-f", "-n", &device]),
        Filesystem::Xfs => sh("xfs_repair", &["-n", &device]),
        Filesystem::Btrfs => sh("btrfs", &["check", "--readonly", &device]),
    };
    if frozen && filesystem != Filesystem::Xfs {
        if filesystem == Filesystem::Ext4 {
            let features = sh("dumpe2fs", &["-h", &device])?;
            ensure!(!features.contains("needs_recovery"), "the journal is not empty");
        }
        is_clean()?;
    }
    replay(filesystem, copy)?;
    is_clean().map(drop)
}

/// Mounts a copy of a filesystem that is mounted, too: xfs has to be told, btrfs gives it an identity of its own.
fn replay(filesystem: Filesystem, copy: &LoopDisk) -> Result<()> {
    let options = if filesystem == Filesystem::Xfs { "nouuid" } else { "defaults" };
    Mount::new(filesystem.name(), copy.path(), options)?.unmount()
}

#[test]
fn quiet_ext4_is_clean_after_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Ext4, "quiet")
}

#[test]
fn quiet_xfs_is_clean_after_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Xfs, "quiet")
}

#[test]
fn quiet_btrfs_is_clean_after_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Btrfs, "quiet")
}

#[test]
fn frozen_ext4_is_clean_without_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Ext4, "frozen")
}

#[test]
fn frozen_xfs_is_clean_after_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Xfs, "frozen")
}

#[test]
fn frozen_btrfs_is_clean_without_replay() -> Result<()> {
    require_root!();
    clean(Filesystem::Btrfs, "frozen")
}
