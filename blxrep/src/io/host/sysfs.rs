//! Attributes under `/sys`: one short text per file.

use super::HostError;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// No attribute is longer than a page.
const MAX_ATTRIBUTE: u64 = 4096;
/// The files of `/proc` that are read whole: `cpuinfo` has 1.5 KiB per processor, `mountinfo` 100 bytes per mount.
const MAX_PROC_FILE: u64 = 16 << 20;

/// The bytes of an attribute; `None` if there is none or it cannot be read.
pub(in crate::io) fn bytes(dir: &Path, name: &str) -> Option<Vec<u8>> {
    read(&dir.join(name), MAX_ATTRIBUTE).ok()
}

/// The text of an attribute without surrounding blanks; `None` if there is none or it is empty.
pub(in crate::io) fn text(dir: &Path, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes(dir, name)?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

pub(in crate::io) fn number<T: FromStr>(dir: &Path, name: &str) -> Option<T> {
    text(dir, name)?.parse().ok()
}

/// Whether an attribute is set to 1.
pub(in crate::io) fn flag(dir: &Path, name: &str) -> bool {
    number::<u8>(dir, name) == Some(1)
}

/// Major and minor number from a `dev` attribute.
pub(in crate::io) fn device_number(dir: &Path) -> Option<(u32, u32)> {
    parse_device_number(&text(dir, "dev")?)
}

pub(in crate::io) fn parse_device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Names in a directory, sorted; empty if it cannot be read.
pub(in crate::io) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The node under `/dev` of a block device. The kernel writes `/` in its names as `!`.
pub(in crate::io) fn node(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// Directory of a block device, partition or whole, by its number.
pub(in crate::io) fn block_dir(major: u32, minor: u32) -> Result<PathBuf, HostError> {
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    link.canonicalize().map_err(|source| HostError::Read { path: link, source })
}

/// A file of `/proc` as text.
pub(in crate::io) fn proc_file(path: &str) -> Result<String, HostError> {
    let bytes = read(Path::new(path), MAX_PROC_FILE)
        .map_err(|source| HostError::Read { path: path.into(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
