//! What a device of this host is called, and what a path of it really leads to: for the judgement of who may write
//! where, which goes by what things are.

use super::{HostError, HostOptions, disks, resolve, sysfs};
use crate::model::host::DeviceNames;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Links of one device that are looked at; a disk has ten or so.
const MAX_LINKS: usize = 256;
/// Where links are named after what a device is or where it is plugged in. Those after its content (labels, UUIDs) are
/// for whoever writes the content.
const FOLDERS: [&str; 3] = ["/dev/disk/by-id", "/dev/disk/by-path", "/dev/mapper"];
/// In the first of them, but after the content too.
const OF_CONTENT: &str = "lvm-pv-uuid-";

/// A block device, whole or a partition, with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDevice {
    pub major: u32,
    pub minor: u32,
    pub names: DeviceNames,
}

/// Finds out what a path leads to, and its names. Whoever opens it then holds the number of what was opened against
/// the one that is told here. `links` may lead to it too: those that the configuration names.
pub fn name_device(path: &Path, options: &HostOptions, links: &[PathBuf]) -> Result<NamedDevice, HostError> {
    let number = block_device(path)?;
    let dir = sysfs::block_dir(number.0, number.1)?;
    let mut names = named(number, &dir, links);
    match sysfs::text(&dir, "partition").and(dir.parent()) {
        Some(parent) => {
            if let Some(whole) = sysfs::device_number(parent) {
                let mut disk = named(whole, parent, links);
                disk.identity = identity(whole, options)?;
                names.disk = Some(Box::new(disk));
            }
        }
        None => names.identity = identity(number, options)?,
    }
    Ok(NamedDevice { major: number.0, minor: number.1, names })
}

fn block_device(path: &Path) -> Result<(u32, u32), HostError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| HostError::NoSuchPath { path: path.to_owned(), source })?;
    if !metadata.file_type().is_block_device() {
        return Err(HostError::NotADevice { path: path.to_owned() });
    }
    Ok((rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())))
}

fn named(number: (u32, u32), dir: &Path, more: &[PathBuf]) -> DeviceNames {
    let listed = FOLDERS.iter().flat_map(|folder| {
        let names = sysfs::names(Path::new(folder)).into_iter().filter(|name| !name.starts_with(OF_CONTENT));
        names.map(move |name| format!("{folder}/{name}"))
    });
    let more = more.iter().filter_map(|link| link.to_str().map(str::to_owned));
    let leads = |link: &String| block_device(Path::new(link)).is_ok_and(|found| found == number);
    let links = more.chain(listed).filter(leads).take(MAX_LINKS).collect();
    DeviceNames { node: resolve::node(dir), links, identity: None, disk: None }
}

fn identity(number: (u32, u32), options: &HostOptions) -> Result<Option<String>, HostError> {
    let candidates = disks::candidates(options)?;
    let found = candidates.into_iter().find(|found| (found.disk.major, found.disk.minor) == number);
    Ok(found.and_then(|found| found.disk.identity).map(|identity| identity.to_string()))
}

/// A folder without symbolic links on the way to it. One that does not exist yet is named by the folder that it would
/// be made in.
pub fn resolve_folder(path: &Path) -> Result<PathBuf, HostError> {
    let missing = |source| HostError::NoSuchPath { path: path.to_owned(), source };
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(parent.canonicalize().map_err(missing)?.join(name))
        }
        (resolved, _, _) => resolved.map_err(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_is_what_its_parents_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/sub")).unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("/nonexistent/x", root.join("dangling")).unwrap();
        let of = |path: &str| resolve_folder(&root.join(path)).ok();
        assert_eq!(of("link/sub"), Some(root.join("real/sub")));
        assert_eq!(of("link/new"), Some(root.join("real/new")));
        assert_eq!(of("link/sub/../../real"), Some(root.join("real")));
        assert_eq!(of("link/new/newer"), None, "only the last one is made");
        assert_eq!(of("link/sub/new/.."), None);
        assert_eq!(of("dangling"), Some(root.join("dangling")), "whoever opens it follows no link");
    }

    #[test]
    fn what_is_no_device_has_no_names() {
        for path in ["/dev/null", "/", "/nonexistent"] {
            assert!(name_device(Path::new(path), &HostOptions::default(), &[]).is_err(), "{path}");
        }
    }
}
