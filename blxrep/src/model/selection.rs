//! Which disks of a host are protected: those that were named, else every whole disk that a careful operator
//! would mean. Whatever is left out or cannot be protected has a reason in words.

use super::host::HostDisk;

/// Names of kernel drivers whose whole disks are offered without being named: NVMe, SCSI and SATA, virtio, Xen,
/// SD and eMMC, s390.
const OFFERED: [&str; 6] = ["nvme", "sd", "vd", "xvd", "mmcblk", "dasd"];
/// Drivers whose devices lie on other disks or in memory.
const STACKED: [(&str, &str); 8] = [
    ("loop", "is backed by a file"),
    ("zram", "lives in memory"),
    ("nbd", "is another host's"),
    ("rbd", "is another host's"),
    ("drbd", "lies on disks that are offered themselves"),
    ("dm-", "lies on disks that are offered themselves"),
    ("md", "lies on disks that are offered themselves"),
    ("bcache", "lies on disks that are offered themselves"),
];

/// What the kernel says of a disk beside its footprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub removable: bool,
    /// Zones that must be written in order: the tracker does not know their rules yet.
    pub zoned: bool,
    /// Mounted with DAX: writes go past the block layer.
    pub dax: bool,
    /// The multipath device that this disk is one path of.
    pub multipath: Option<String>,
    /// Why the disk cannot be opened.
    pub unreadable: Option<String>,
}

/// A disk that could be protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub disk: HostDisk,
    /// Why it is not offered unless it is named.
    pub left_out: Option<String>,
    /// Why it cannot be protected, named or not, and what to do about it.
    pub problem: Option<String>,
}

impl Candidate {
    #[must_use]
    pub fn judge(disk: HostDisk, facts: &Facts) -> Self {
        let (left_out, problem) = (left_out(&disk, facts), problem(&disk, facts));
        Self { disk, left_out, problem }
    }
}

/// The disks to protect: the named ones (by major and minor number), else all that are not left out. Those whose
/// identity another one has as well get a problem.
#[must_use]
pub fn select(candidates: &[Candidate], named: &[(u32, u32)]) -> Vec<Candidate> {
    let is_named = |c: &Candidate| named.contains(&(c.disk.major, c.disk.minor));
    let rivals: Vec<&Candidate> = candidates.iter().filter(|c| c.left_out.is_none() || is_named(c)).collect();
    let chosen = rivals.iter().filter(|c| named.is_empty() || is_named(c));
    chosen
        .map(|candidate| {
            let problem = candidate.problem.clone().or_else(|| double(candidate, &rivals));
            Candidate { problem, ..(*candidate).clone() }
        })
        .collect()
}

fn left_out(disk: &HostDisk, facts: &Facts) -> Option<String> {
    let name = disk.device.trim_start_matches("/dev/");
    if let Some((_, why)) = STACKED.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        return Some(format!("{} {why}; name it to protect it", disk.device));
    }
    if let Some(multipath) = &facts.multipath {
        return Some(format!("{} is one path of {multipath}; name that to protect it", disk.device));
    }
    if !OFFERED.iter().any(|prefix| name.starts_with(prefix))
        || name.contains("boot")
        || name.contains("rpmb")
    {
        return Some(format!("{} is no usual disk; name it to protect it", disk.device));
    }
    if facts.removable {
        return Some(format!("{} is removable; name it to protect it", disk.device));
    }
    disk.read_only.then(|| format!("{} is read-only; name it to protect it", disk.device))
}

fn problem(disk: &HostDisk, facts: &Facts) -> Option<String> {
    let device = &disk.device;
    if let Some(why) = &facts.unreadable {
        return Some(format!(
            "{device} cannot be opened: {why}; the agent needs to run as root, outside a container"
        ));
    }
    if facts.zoned {
        return Some(format!("{device} is a zoned disk, which cannot be protected yet"));
    }
    if facts.dax {
        return Some(format!("{device} is mounted with DAX, which hides writes: mount it with dax=never"));
    }
    disk.identity.is_none().then(|| {
        format!(
            "{device} has no WWN, serial or partition table that tells it from other disks: \
             give it a name (`disks: [{{device: {device}, name: NAME}}]`)"
        )
    })
}

fn double(candidate: &Candidate, rivals: &[&Candidate]) -> Option<String> {
    let disk = &candidate.disk;
    let identity = disk.identity.as_ref()?;
    let other = rivals.iter().map(|c| &c.disk).find(|other| {
        other.identity.as_ref() == Some(identity) && (other.major, other.minor) != (disk.major, disk.minor)
    })?;
    Some(format!(
        "{} and {} have the same identity ({identity}): give each a name (`disks: [{{device: {}, name: NAME}}]`)",
        disk.device, other.device, disk.device
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::DiskIdentity;

    fn disk(name: &str, minor: u32, identity: Option<&str>) -> HostDisk {
        HostDisk {
            device: format!("/dev/{name}"),
            major: 8,
            minor,
            bytes: 1 << 30,
            logical_block_bytes: 512,
            model: String::new(),
            rotational: false,
            read_only: false,
            identity: identity.map(|id| DiskIdentity::Serial(id.to_owned())),
            diskseq: None,
            partitions: Vec::new(),
            filesystem: None,
        }
    }

    fn judged(name: &str, minor: u32, identity: Option<&str>) -> Candidate {
        Candidate::judge(disk(name, minor, identity), &Facts::default())
    }

    #[test]
    fn usual_disks_are_offered_and_others_only_when_named() {
        for name in ["sda", "nvme0n1", "vda", "xvdb", "mmcblk0", "dasda"] {
            assert_eq!(judged(name, 0, Some("x")).left_out, None, "{name}");
        }
        for name in ["loop0", "zram0", "nbd0", "dm-0", "md127", "mmcblk0boot0", "pmem0", "fd0", "sr0"] {
            assert!(judged(name, 0, Some("x")).left_out.unwrap().contains("name it to protect it"), "{name}");
        }
        let removable = Facts { removable: true, ..Facts::default() };
        assert!(Candidate::judge(disk("sdb", 0, None), &removable).left_out.is_some());
        let path = Facts { multipath: Some("/dev/dm-3".to_owned()), ..Facts::default() };
        let path = Candidate::judge(disk("sdb", 0, None), &path).left_out.unwrap();
        assert_eq!(path, "/dev/sdb is one path of /dev/dm-3; name that to protect it");
    }

    #[test]
    fn what_cannot_be_protected_says_so() {
        assert!(judged("sda", 0, None).problem.unwrap().contains("disks: [{device: /dev/sda, name: NAME}]"));
        let closed = Facts { unreadable: Some("not permitted".to_owned()), ..Facts::default() };
        let closed = Candidate::judge(disk("sda", 0, Some("x")), &closed).problem.unwrap();
        assert!(closed.starts_with("/dev/sda cannot be opened: not permitted"), "{closed}");
        let zoned = Facts { zoned: true, ..Facts::default() };
        assert!(Candidate::judge(disk("sda", 0, Some("x")), &zoned).problem.unwrap().contains("zoned"));
        let dax = Facts { dax: true, ..Facts::default() };
        assert!(Candidate::judge(disk("sda", 0, Some("x")), &dax).problem.unwrap().contains("DAX"));
    }

    #[test]
    fn naming_chooses_exactly_those() {
        let all = [judged("sda", 0, Some("a")), judged("sdb", 16, Some("b")), judged("loop1", 3, Some("c"))];
        let devices = |chosen: Vec<Candidate>| chosen.into_iter().map(|c| c.disk.device).collect::<Vec<_>>();
        assert_eq!(devices(select(&all, &[])), ["/dev/sda", "/dev/sdb"]);
        assert_eq!(devices(select(&all, &[(8, 3), (8, 16)])), ["/dev/sdb", "/dev/loop1"]);
    }

    #[test]
    fn two_disks_with_one_identity_are_both_a_problem() {
        let all = [judged("sda", 0, Some("a")), judged("sdb", 16, Some("a")), judged("sdc", 32, Some("c"))];
        let chosen = select(&all, &[]);
        assert!(
            chosen[0].problem.as_ref().unwrap().starts_with("/dev/sda and /dev/sdb have the same identity")
        );
        assert!(
            chosen[1].problem.as_ref().unwrap().starts_with("/dev/sdb and /dev/sda have the same identity")
        );
        assert_eq!(chosen[2].problem, None);
        // Also when only one of them is named: after a reboot nobody could tell which.
        assert!(select(&all, &[(8, 0)])[0].problem.is_some());
    }

    #[test]
    fn an_attached_copy_does_not_stop_the_protection_of_its_original() {
        let all = [judged("sda", 0, Some("a")), judged("loop0", 3, Some("a"))];
        assert_eq!(select(&all, &[])[0].problem, None);
        assert!(select(&all, &[(8, 0), (8, 3)]).iter().all(|c| c.problem.is_some()));
    }
}
