//! Whether a restore onto a device of this host may be done, and what it would do: judged before anything is written, by
//! what the device is and by this agent's own configuration. Pure but for the look at the device.

use crate::config::restore::Authority;
use crate::io::host::{HostOptions, TargetFacts, target_facts};
use crate::model::host::{Filesystem, HostDisk};
use crate::model::ids::{DiskIdentity, PointId};
use crate::model::restoration::{Agreed, DeviceMark, DeviceTarget, DiskMark, Preflight, Restoration};
use crate::model::units::ByteCount;
use std::path::Path;
use std::sync::Arc;

/// Partitions that a sentence names.
const NAMED_PARTITIONS: usize = 8;

/// What a judgement is made by.
#[derive(Clone, Debug)]
pub struct Judge {
    pub authority: Arc<Authority>,
    pub host: HostOptions,
    /// Disks that the agent keeps in sync, or images.
    pub protected: Vec<DiskIdentity>,
    /// Numbers of the disks below the data directory of a dispatcher on this machine.
    pub kept: Vec<(u32, u32)>,
}

/// Why a device is not overwritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not there, or something uses it: that may pass.
    #[error("{0}")]
    Passing(String),
    /// Only a person can change that.
    #[error("{0}")]
    Lasting(String),
}

/// A device that may be overwritten.
#[derive(Clone, Debug)]
pub struct Cleared {
    pub node: String,
    pub number: (u32, u32),
    pub mark: DeviceMark,
    pub preflight: Preflight,
}

impl Judge {
    /// Looks at the target. The error says why it is refused and what to do. Blocks.
    pub fn device(&self, point: PointId, target: &DeviceTarget) -> Result<Cleared, Refusal> {
        let facts = self.look(target)?;
        let cleared = self.judge(point, target, &facts)?;
        self.spare_below(&facts)?;
        Ok(cleared)
    }

    /// Looks at the target again, which must be what was agreed to. `touched`: it may have been written to. Blocks.
    pub fn device_again(
        &self,
        restoration: &Restoration,
        target: &DeviceTarget,
        touched: bool,
    ) -> Result<Cleared, Refusal> {
        let facts = self.look(target)?;
        let cleared = self.judge(restoration.point, target, &facts)?;
        // Half written, it is made whole, whatever is kept in sync since.
        if !touched {
            self.spare_below(&facts)?;
        }
        confirm(&cleared, restoration.agreed.as_ref(), touched).map_err(Refusal::Lasting)?;
        Ok(cleared)
    }

    fn look(&self, target: &DeviceTarget) -> Result<TargetFacts, Refusal> {
        let links = self.authority.named_devices();
        target_facts(Path::new(&target.device), &self.host, &links)
            .map_err(|e| Refusal::Passing(format!("{e}; `lsblk` on that server lists its devices")))
    }

    /// A point of a disk below the target would hold half of the restore and not say so, and none could undo it: where a
    /// volume lies on its disks is not known here.
    fn spare_below(&self, facts: &TargetFacts) -> Result<(), Refusal> {
        let is_protected = |disk: &&HostDisk| {
            disk.identity.as_ref().is_some_and(|identity| self.protected.contains(identity))
        };
        let Some(disk) = facts.below.iter().find(is_protected) else { return Ok(()) };
        let (node, below) = (&facts.device.names.node, &disk.device);
        let identity = disk.identity.as_ref().map(|identity| format!(" ({identity})")).unwrap_or_default();
        Err(Refusal::Lasting(format!(
            "{node} is made of {below}{identity}, which this agent keeps in sync: its points would hold a half done restore \
             and not say so, and none is made to undo it. Restore onto {below} or a partition of it, or have {below} kept \
             in sync no longer first: `disks_excluded` in its policy"
        )))
    }

    fn judge(&self, point: PointId, target: &DeviceTarget, facts: &TargetFacts) -> Result<Cleared, Refusal> {
        let allowed = self.authority.device(&target.device, &facts.device.names);
        allowed.map_err(|e| Refusal::Lasting(e.to_string()))?;
        let node = &facts.device.names.node;
        let number = (facts.device.major, facts.device.minor);
        refuse(node, target, facts)?;
        if self.kept.contains(&number) {
            return Err(Refusal::Lasting(format!(
                "{node} holds the data directory of the dispatcher that would restore to it"
            )));
        }
        let identity = facts.disk.as_ref().and_then(|disk| disk.identity.clone());
        let protects = identity.filter(|identity| self.protected.contains(identity));
        let findings = vec![what_it_is(facts), what_is_there(facts), self.what_is_done(point, target, facts)];
        let overwrites = Some(format!("everything on {node} would be overwritten"));
        let mark = facts.mark.clone();
        let preflight = Preflight { findings, overwrites, protects, device: Some(mark.clone()) };
        Ok(Cleared { node: node.clone(), number, mark, preflight })
    }

    fn what_is_done(&self, point: PointId, target: &DeviceTarget, facts: &TargetFacts) -> String {
        let bytes = ByteCount(target.bytes);
        let mut text = match target.full {
            true => format!("all {bytes} of point {point} are written, read back and compared"),
            false => format!(
                "{bytes} are compared with point {point}, what differs is written, and all of it is read back and compared"
            ),
        };
        if facts.bytes > target.bytes {
            text.push_str(&format!(
                "; the {} behind them stay as they are",
                ByteCount(facts.bytes - target.bytes)
            ));
        }
        text
    }
}

/// Holds a device against the one that was agreed to.
fn confirm(cleared: &Cleared, agreed: Option<&Agreed>, touched: bool) -> Result<(), String> {
    let node = &cleared.node;
    let Some(agreed) = agreed else { return Err(format!("nobody agreed to overwrite {node}")) };
    if agreed.device != cleared.mark {
        let what = match agreed.device.disk {
            DiskMark::Hardware(_) => "is another device than",
            DiskMark::Seat { .. } => "has no identity of its own and cannot be told to be",
        };
        return Err(format!(
            "{node} {what} the one that was agreed to be overwritten: restore again if it shall be this one"
        ));
    }
    // Then the undo point would have been made first. Of what is half written, none can be made any more.
    let protects = &cleared.preflight.protects;
    if !touched && protects.is_some() && *protects != agreed.protects {
        return Err(format!(
            "{node} is kept in sync, and was not when it was agreed to be overwritten: restore again, so that it can be \
             undone"
        ));
    }
    Ok(())
}

/// What speaks against it, whoever allows it.
fn refuse(node: &str, target: &DeviceTarget, facts: &TargetFacts) -> Result<(), Refusal> {
    if facts.read_only {
        return Err(Refusal::Lasting(format!(
            "{node} is read-only: `blockdev --setrw {node}` makes it writable, if it can be"
        )));
    }
    if let Some(in_use) = &facts.in_use {
        return Err(Refusal::Passing(in_use.clone()));
    }
    if facts.bytes < target.bytes {
        return Err(Refusal::Lasting(format!(
            "{node} has {} bytes and {} are to be written: choose a larger device",
            facts.bytes, target.bytes
        )));
    }
    let block = facts.logical_block_bytes;
    if !target.bytes.is_multiple_of(u64::from(block)) {
        return Err(Refusal::Lasting(format!(
            "{node} is written in blocks of {block} bytes, and {} bytes end within one: choose a device with smaller blocks",
            target.bytes
        )));
    }
    Ok(())
}

fn what_it_is(facts: &TargetFacts) -> String {
    let names = &facts.device.names;
    let mut text = format!("{} has {}", names.node, ByteCount(facts.bytes));
    let whole = names.disk.as_deref().unwrap_or(names);
    if names.disk.is_some() {
        text.push_str(&format!(" and is a partition of {}", whole.node));
    }
    let model = facts.disk.as_ref().map(|disk| disk.model.trim()).filter(|model| !model.is_empty());
    if let Some(model) = model {
        text.push_str(&format!(", {model}"));
    }
    match &whole.identity {
        Some(identity) => text.push_str(&format!(", {identity}")),
        None => text.push_str(", without an identity of its own"),
    }
    text
}

fn what_is_there(facts: &TargetFacts) -> String {
    let Some(disk) = &facts.disk else { return "what it holds now is not known".to_owned() };
    let held = match facts.partition {
        None => of_disk(disk),
        Some(number) => {
            let part = disk.partitions.iter().find(|part| part.number == number);
            part.and_then(|part| part.filesystem.as_ref()).map(of_filesystem)
        }
    };
    format!("it holds now: {}", held.unwrap_or_else(|| "nothing that is known".to_owned()))
}

fn of_disk(disk: &HostDisk) -> Option<String> {
    if disk.partitions.is_empty() {
        return disk.filesystem.as_ref().map(of_filesystem);
    }
    let described = disk.partitions.iter().take(NAMED_PARTITIONS).map(|part| match &part.filesystem {
        Some(filesystem) => format!("{} ({})", part.number, of_filesystem(filesystem)),
        None => part.number.to_string(),
    });
    let named: Vec<String> = described.collect();
    let more = match disk.partitions.len().saturating_sub(NAMED_PARTITIONS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("partitions {}{more}", named.join(", ")))
}

fn of_filesystem(filesystem: &Filesystem) -> String {
    match filesystem.label.as_str() {
        "" => filesystem.kind.clone(),
        label => format!("{} `{label}`", filesystem.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::restore::RestoreConfig;
    use crate::io::host::NamedDevice;
    use crate::model::host::{DeviceNames, Partition};

    fn judge(devices: &[&str]) -> Judge {
        let allowed = RestoreConfig {
            devices: devices.iter().map(|entry| entry.parse().unwrap()).collect(),
            ..RestoreConfig::default()
        };
        let file = "/etc/blxrep/config.yaml".into();
        let authority = Arc::new(Authority { allowed, agent: "web1".to_owned(), file });
        Judge { authority, host: HostOptions::default(), protected: vec![serial()], kept: vec![(8, 32)] }
    }

    fn serial() -> DiskIdentity {
        DiskIdentity::Serial("A1".to_owned())
    }

    fn mark(disk: DiskMark) -> DeviceMark {
        DeviceMark { disk, partition: None, start: 0, bytes: 8 << 20 }
    }

    #[test]
    fn only_the_device_that_was_agreed_to_is_overwritten() {
        let cleared = judge(&["/dev/sdb"]).judge(PointId(1), &target(4 << 20), &facts()).unwrap();
        let as_it_is = Agreed { device: cleared.mark.clone(), protects: Some(serial()) };
        assert_eq!(confirm(&cleared, Some(&as_it_is), false), Ok(()));
        assert!(confirm(&cleared, None, false).is_err(), "nobody agreed");
        let seat = |sequence| DiskMark::Seat { boot: [1; 16], number: (8, 16), sequence: Some(sequence) };
        for disk in [DiskMark::Hardware(DiskIdentity::Serial("B2".to_owned())), seat(1)] {
            let other = Agreed { device: mark(disk), ..as_it_is.clone() };
            for touched in [false, true] {
                let refused = confirm(&cleared, Some(&other), touched).unwrap_err();
                assert!(refused.contains("/dev/sdb") && refused.contains("restore again"), "{refused}");
            }
        }
        let grown = DeviceMark { bytes: 9 << 20, ..cleared.mark.clone() };
        assert!(confirm(&cleared, Some(&Agreed { device: grown, protects: None }), true).is_err());
        let sat = Cleared { mark: mark(seat(1)), ..cleared.clone() };
        let replaced = Agreed { device: mark(seat(2)), protects: None };
        assert!(confirm(&sat, Some(&replaced), true).unwrap_err().contains("no identity"));
    }

    #[test]
    fn a_disk_that_is_kept_in_sync_since_is_not_written_to_without_its_undo_point() {
        let cleared = judge(&["/dev/sdb"]).judge(PointId(1), &target(4 << 20), &facts()).unwrap();
        let without = Agreed { device: cleared.mark.clone(), protects: None };
        assert!(confirm(&cleared, Some(&without), false).unwrap_err().contains("kept in sync"));
        assert_eq!(confirm(&cleared, Some(&without), true), Ok(()), "half written, it is made whole");
        let mut released = cleared.clone();
        released.preflight.protects = None;
        let with = Agreed { protects: Some(serial()), ..without };
        assert_eq!(confirm(&released, Some(&with), false), Ok(()), "its undo point is there");
    }

    fn facts() -> TargetFacts {
        let names = DeviceNames {
            node: "/dev/sdb".to_owned(),
            identity: Some(serial().to_string()),
            ..DeviceNames::default()
        };
        let filesystem = |kind: &str, label: &str| Filesystem {
            kind: kind.to_owned(),
            uuid: String::new(),
            label: label.to_owned(),
            mount_points: Vec::new(),
        };
        let partition = |number, filesystem| Partition {
            number,
            first_sector: 2048,
            sectors: 2048,
            kind: String::new(),
            name: String::new(),
            filesystem,
        };
        let disk = HostDisk {
            device: names.node.clone(),
            major: 8,
            minor: 16,
            bytes: 8 << 20,
            logical_block_bytes: 4096,
            model: "ACME Disk".to_owned(),
            rotational: false,
            read_only: false,
            identity: Some(serial()),
            diskseq: None,
            partitions: vec![partition(1, Some(filesystem("ext4", "root"))), partition(2, None)],
            filesystem: None,
        };
        TargetFacts {
            device: NamedDevice { major: 8, minor: 16, names },
            partition: None,
            mark: mark(DiskMark::Hardware(serial())),
            bytes: 8 << 20,
            logical_block_bytes: 4096,
            read_only: false,
            disk: Some(disk),
            below: Vec::new(),
            in_use: None,
        }
    }

    fn target(bytes: u64) -> DeviceTarget {
        DeviceTarget { device: "/dev/sdb".to_owned(), bytes, whole: true, full: false }
    }

    fn refused(judge: &Judge, bytes: u64, facts: &TargetFacts) -> String {
        judge.judge(PointId(1), &target(bytes), facts).unwrap_err().to_string()
    }

    #[test]
    fn a_device_is_described_before_it_is_overwritten() {
        let cleared = judge(&["/dev/sdb"]).judge(PointId(1), &target(4 << 20), &facts()).unwrap();
        assert_eq!(
            cleared.preflight.findings,
            [
                "/dev/sdb has 8.00 MiB, ACME Disk, serial:A1",
                "it holds now: partitions 1 (ext4 `root`), 2",
                "4.00 MiB are compared with point 0000000000000001, what differs is written, and all of it is read back \
                 and compared; the 4.00 MiB behind them stay as they are"
            ]
        );
        assert_eq!(cleared.preflight.protects, Some(serial()));
        assert_eq!(cleared.number, (8, 16));
    }

    #[test]
    fn what_speaks_against_it_is_named_with_what_to_do() {
        let (all, fine) = (judge(&["/dev/sd*"]), facts());
        assert!(refused(&judge(&[]), 4096, &fine).contains("restore: {devices: [\"serial:A1\"]}"));
        assert!(refused(&all, 9 << 20, &fine).contains("has 8388608 bytes and 9437184 are to be written"));
        assert!(refused(&all, 512, &fine).contains("in blocks of 4096 bytes"));
        assert!(refused(&all, 4096, &TargetFacts { read_only: true, ..facts() }).contains("--setrw"));
        let in_use = Some("/dev/sdb1 is mounted on /x (ext4): unmount it first".to_owned());
        let used = all.judge(PointId(1), &target(4096), &TargetFacts { in_use, ..facts() });
        assert!(matches!(used, Err(Refusal::Passing(reason)) if reason.contains("unmount it first")));
        let device = NamedDevice { minor: 32, ..facts().device };
        assert!(refused(&all, 4096, &TargetFacts { device, ..facts() }).contains("data directory"));
    }

    #[test]
    fn a_disk_below_that_is_kept_in_sync_is_not_written_to() {
        let (judge, disk) = (judge(&["/dev/sd*"]), facts().disk.unwrap());
        let below = |serial: &str| {
            let identity = Some(DiskIdentity::Serial(serial.to_owned()));
            HostDisk { device: "/dev/sdc".to_owned(), identity, ..disk.clone() }
        };
        let over = |below: Vec<HostDisk>| judge.spare_below(&TargetFacts { below, ..facts() });
        assert_eq!(over(Vec::new()), Ok(()));
        let unnamed = HostDisk { identity: None, ..disk.clone() };
        assert_eq!(over(vec![below("B2"), unnamed]), Ok(()));
        let refused = over(vec![below("B2"), below("A1")]).unwrap_err();
        assert!(matches!(refused, Refusal::Lasting(_)), "{refused}");
        let refused = refused.to_string();
        assert!(refused.starts_with("/dev/sdb is made of /dev/sdc (serial:A1)"), "{refused}");
        assert!(refused.contains("Restore onto /dev/sdc") && refused.contains("disks_excluded"), "{refused}");
    }

    #[test]
    fn a_disk_that_is_not_kept_in_sync_needs_no_undo_point() {
        let mut other = judge(&["/dev/sdb"]);
        other.protected = vec![DiskIdentity::Serial("B2".to_owned())];
        let cleared = other.judge(PointId(1), &target(8 << 20), &facts()).unwrap();
        assert_eq!(cleared.preflight.protects, None);
    }
}
