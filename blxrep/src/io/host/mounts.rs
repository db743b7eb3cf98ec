//! What is mounted where, by the number of the block device.

use super::{HostError, sysfs};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Mount points that are told of one device; a host of containers binds the same one hundreds of times.
const MAX_MOUNT_POINTS: usize = 16;

/// One line of `mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Unique on the host while the mount exists; `statx` has it too.
    pub id: u64,
    /// Of the filesystem, whichever of its parts is mounted here.
    pub number: (u32, u32),
    pub mount_point: PathBuf,
    pub kind: String,
    pub source: PathBuf,
    /// Options of this mount and of its filesystem.
    pub options: Vec<String>,
    /// The filesystem can be written to, if not through this mount, then through another.
    pub writable: bool,
}

/// What one device is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Kind of filesystem, as the kernel calls it; `swap` for an active swap area.
    pub kind: String,
    /// Mount points; `[SWAP]` for an active swap area.
    pub points: Vec<String>,
}

/// Mounts and active swap areas, in the order in which the kernel lists them.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts {
    pub all: Vec<Mount>,
    swaps: Vec<(u32, u32)>,
}

impl Mounts {
    pub(super) fn read() -> Result<Self, HostError> {
        let all = sysfs::proc_file("/proc/self/mountinfo")?.lines().filter_map(parse).collect();
        let swaps = sysfs::proc_file("/proc/swaps").unwrap_or_default();
        let swaps =
            swaps.lines().skip(1).filter_map(|line| block_number(&unescape(line.split_whitespace().next()?)));
        Ok(Self { all, swaps: swaps.collect() })
    }

    /// What each block device in use is used for.
    pub(super) fn by_device(&self) -> HashMap<(u32, u32), Use> {
        let mut uses: HashMap<(u32, u32), Use> = HashMap::new();
        for mount in &self.all {
            let Some(number) = mount.device() else { continue };
            let used = uses.entry(number).or_default();
            let point = mount.mount_point.to_string_lossy().into_owned();
            if used.points.len() < MAX_MOUNT_POINTS && !used.points.contains(&point) {
                used.kind.clone_from(&mount.kind);
                used.points.push(point);
            }
        }
        let swap = || Use { kind: "swap".to_owned(), points: vec!["[SWAP]".to_owned()] };
        uses.extend(self.swaps.iter().map(|number| (*number, swap())));
        uses
    }

    /// The mount that a path lies in: the longest mount point above it, and of several the one on top.
    pub(super) fn holding(&self, path: &Path) -> Option<&Mount> {
        let above = self.all.iter().filter(|mount| path.starts_with(&mount.mount_point));
        above.max_by_key(|mount| mount.mount_point.as_os_str().len())
    }
}

impl Mount {
    /// The block device below. Filesystems that span devices (btrfs) have a number of their own and name one of
    /// their devices as the source.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        if self.number.0 != 0 { Some(self.number) } else { block_number(&self.source) }
    }

    pub(super) fn has_dax(&self) -> bool {
        self.options.iter().any(|option| matches!(option.as_str(), "dax" | "dax=always"))
    }
}

pub(crate) fn parse(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let number = sysfs::parse_device_number(mount.nth(1)?)?;
    let (point, options) = (mount.nth(1)?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, source) = (filesystem.next()?.to_owned(), unescape(filesystem.next()?));
    let of_filesystem = filesystem.next().unwrap_or_default();
    let writable = of_filesystem.split(',').any(|option| option == "rw");
    let all = options.split(',').chain(of_filesystem.split(','));
    let options = all.map(|option| unescape(option).to_string_lossy().into_owned()).collect();
    Some(Mount { id, number, mount_point: unescape(point), kind, source, options, writable })
}

/// Blanks and backslashes are written as three octal digits.
pub(in crate::io) fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Number of the block device that a path leads to.
pub(in crate::io) fn block_number(path: &Path) -> Option<(u32, u32)> {
    if !path.starts_with("/dev") {
        return None;
    }
    let device = std::fs::metadata(path).ok()?.rdev();
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    (number.0 != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_blanks_and_optional_fields_is_read() {
        let line =
            r"36 35 259:300 /sub /mnt/a\040b\134c rw,noatime master:1 - ext4 /dev/nvme0n1p2 rw,dax=always";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.number), (36, (259, 300)));
        assert!(mount.writable);
        assert_eq!(mount.mount_point, Path::new(r"/mnt/a b\c"));
        assert_eq!((mount.kind.as_str(), mount.source.as_path()), ("ext4", Path::new("/dev/nvme0n1p2")));
        assert!(mount.has_dax());
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse("1 2 3 4 5 6 - x"), None);
    }

    #[test]
    fn a_path_lies_in_the_innermost_mount_and_the_newest_of_several() {
        let lines = [
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
            "2 1 8:2 / /data rw - ext4 /dev/sda2 rw",
            "3 2 8:3 / /data rw - xfs /dev/sda3 rw",
        ];
        let mounts = Mounts { all: lines.iter().filter_map(|l| parse(l)).collect(), swaps: Vec::new() };
        assert_eq!(mounts.holding(Path::new("/data/x")).unwrap().number, (8, 3));
        assert_eq!(mounts.holding(Path::new("/database")).unwrap().number, (8, 1));
    }

    #[test]
    fn what_is_no_octal_escape_stays() {
        assert_eq!(unescape(r"a\04"), Path::new(r"a\04"));
        assert_eq!(unescape(r"\999"), Path::new(r"\999"));
        assert_eq!(unescape(r"\040"), Path::new(" "));
    }
}
