//! Devices whose changes cannot be tracked, refused with a reason.

use super::{DiskSpec, TrackerError};
use std::fs;
use std::path::Path;

/// Refuses partitions, zoned disks and disks that are mounted with DAX.
pub fn check(spec: &DiskSpec) -> Result<(), TrackerError> {
    let node = || spec.node.clone();
    let device = format!("/sys/dev/block/{}:{}", spec.major, spec.minor);
    let sysfs = fs::canonicalize(&device).map_err(TrackerError::io("look up", Path::new(&device)))?;
    if sysfs.join("partition").exists() {
        let parent = sysfs.parent().and_then(Path::file_name).unwrap_or_default();
        return Err(TrackerError::Partition { node: node(), parent: format!("/dev/{}", parent.display()) });
    }
    let model = fs::read_to_string(spec.sysfs.join("queue/zoned")).unwrap_or_default();
    let model = model.trim();
    if !model.is_empty() && model != "none" {
        return Err(TrackerError::Zoned { node: node(), model: model.to_owned() });
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mounts.lines().find_map(|line| dax_mount(line, |device| belongs_to(device, &sysfs))) {
        Some(mount) => Err(TrackerError::Dax { node: node(), mount }),
        None => Ok(()),
    }
}

/// Whether a device number is the disk or one of its partitions.
fn belongs_to(device: &str, disk: &Path) -> bool {
    fs::canonicalize(format!("/sys/dev/block/{device}")).is_ok_and(|path| path.starts_with(disk))
}

/// The mount point of a line of mountinfo that is a DAX mount of a device that `is_ours`. `dax=never` is none, and
/// `dax=inode` may be one.
fn dax_mount(line: &str, is_ours: impl Fn(&str) -> bool) -> Option<String> {
    let mut fields = line.split(' ');
    let device = fields.nth(2)?;
    let mount = fields.nth(1)?;
    let options = line.rsplit(' ').next()?;
    let dax = |option: &str| option == "dax" || option == "dax=always" || option == "dax=inode";
    (options.split(',').any(dax) && is_ours(device)).then(|| mount.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dax_mounts_of_the_disk_are_found() {
        let line =
            |options: &str| format!("36 25 259:1 / /data rw,noatime shared:1 - ext4 /dev/pmem0 {options}");
        let ours = |device: &str| device == "259:1";
        assert_eq!(dax_mount(&line("rw,dax=always"), ours), Some("/data".into()));
        assert_eq!(dax_mount(&line("rw,dax"), ours), Some("/data".into()));
        assert_eq!(dax_mount(&line("rw,dax=never"), ours), None);
        assert_eq!(dax_mount(&line("rw"), ours), None);
        assert_eq!(dax_mount(&line("rw,dax"), |_| false), None);
    }
}
