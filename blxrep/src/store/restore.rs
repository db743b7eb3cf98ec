//! Writing a point out: to a file, or over a block device.
//!
//! A file appears under its name when it is whole. A device is zeroed where the point is zero, and read back at
//! the end, past the page cache.

use super::{Store, StoreError};
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{Access, DataFile, Storage};
use crate::io::write_behind::WriteBehind;
use crate::model::contents::NoPart;
use crate::model::encoding::is_zero;
use crate::model::ids::PointId;
use crate::model::part_id::PartId;
use crate::view::part::{PartError, PartReader};
use crate::view::reader::Content;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read and written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Shorter zeroes are written with the data around them: a write costs more than their blocks.
const SHORT_ZERO_BYTES: u64 = 64 << 10;
/// Where the kernel says what is mounted.
const MOUNTS: &str = "/proc/self/mountinfo";

/// How a long action tells how far it is, and is told to stop.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// Called with the bytes done and to do.
    pub report: &'a dyn Fn(u64, u64),
    /// When set, the action ends with [`StoreError::Cancelled`].
    pub cancel: &'a AtomicBool,
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

impl Progress<'_> {
    pub(super) fn step(&self, done: u64, total: u64) -> Result<(), StoreError> {
        (self.report)(done, total);
        if self.cancel.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
    }
}

/// What came of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes that were written as data; the rest is zero.
    pub written: u64,
    /// Bytes of a device that were read back and found right; 0 for a file.
    pub verified: u64,
}

/// A name of a device that does not exist would become a file in the memory that `/dev` is.
fn refuse_memory(target: &Path) -> Result<(), StoreError> {
    let parent = target.parent().and_then(|parent| parent.canonicalize().ok()).unwrap_or_default();
    if parent.starts_with("/dev") && !parent.starts_with("/dev/shm") {
        return refuse(target, "there is no such device; `lsblk` lists those that are there");
    }
    Ok(())
}

/// What a restore to a path would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub device: bool,
    /// What would be gone afterwards, as a sentence.
    pub overwrites: Option<String>,
}

/// What a person has agreed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// What is there already is overwritten.
    pub overwrite: bool,
    /// Zeroes are written for what the point lacks because it could not be read.
    pub holes: bool,
}

impl From<bool> for Consent {
    fn from(overwrite: bool) -> Self {
        Self { overwrite, holes: false }
    }
}

impl Store {
    /// Refuses a point that lacks something, unless that is agreed to.
    pub fn check_whole(&self, id: PointId, consent: Consent) -> Result<(), StoreError> {
        let holes = self.point(id)?.summary.holes;
        if holes.is_empty() || consent.holes {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "point {id} is incomplete: {holes} when it was made; an older point may have them; --allow-holes restores it \
             with zeroes there"
        )))
    }

    /// Refuses a target that a point cannot be restored to, before anything is written.
    pub fn check_target(&self, id: PointId, target: &Path) -> Result<Target, StoreError> {
        self.check_target_of(id, None, target)
    }

    /// The same for one part of the disk. How large that is is found when it is written: a smaller device is refused then.
    pub fn check_target_of(
        &self,
        id: PointId,
        partition: Option<&PartId>,
        target: &Path,
    ) -> Result<Target, StoreError> {
        let point = self.point(id)?;
        let needed = if partition.is_some() { 0 } else { point.disk_bytes };
        let Ok(meta) = std::fs::metadata(target) else {
            if target.is_symlink() {
                return refuse(target, "it is a link to nothing");
            }
            self.part_of(target)?;
            refuse_memory(target)?;
            return Ok(Target { device: false, overwrites: None });
        };
        if meta.is_file() {
            self.part_of(target)?;
            let what = format!("the file {} exists and would be replaced", target.display());
            return Ok(Target { device: false, overwrites: Some(what) });
        }
        if !meta.file_type().is_block_device() {
            return refuse(target, "it is neither a file nor a block device");
        }
        refuse_mounted(target, meta.rdev())?;
        let bytes = device_bytes(target);
        if bytes.is_some_and(|bytes| bytes < needed) {
            return too_small(target, bytes.unwrap_or(0), needed);
        }
        let what = format!("everything on {} would be overwritten", target.display());
        Ok(Target { device: true, overwrites: Some(what) })
    }

    /// Writes a point to a file or block device. What is there already is only overwritten with `overwrite`.
    pub fn restore_to_file(
        &self,
        id: PointId,
        target: &Path,
        consent: impl Into<Consent>,
        progress: Progress<'_>,
    ) -> Result<RestoreReport, StoreError> {
        self.restore_part_to_file(id, None, target, consent, progress)
    }

    /// The same for one part of the disk.
    pub fn restore_part_to_file(
        &self,
        id: PointId,
        partition: Option<&PartId>,
        target: &Path,
        consent: impl Into<Consent>,
        progress: Progress<'_>,
    ) -> Result<RestoreReport, StoreError> {
        let consent = consent.into();
        let overwrite = consent.overwrite;
        self.check_whole(id, consent)?;
        let checked = self.check_target_of(id, partition, target)?;
        if let Some(what) = checked.overwrites.filter(|_| !overwrite) {
            return refuse(target, &format!("{what}; say --yes to do it"));
        }
        let mut source = self.open_part(id, partition, consent)?;
        source.stream();
        if checked.device {
            self.restore_device(&mut source, target, progress)
        } else {
            self.restore_file(&mut source, target, overwrite, progress)
        }
    }

    /// Opens a point, or one part of it, to be restored.
    pub fn open_part(
        &self,
        id: PointId,
        partition: Option<&PartId>,
        consent: Consent,
    ) -> Result<PartReader, StoreError> {
        self.check_whole(id, consent)?;
        let mut reader = self.open_point(id)?;
        if consent.holes {
            reader.fill_holes();
        }
        match partition {
            None => Ok(PartReader::whole(reader)),
            Some(part) => PartReader::open(reader, part).map_err(|error| match error {
                PartError::View(error) => error.into(),
                PartError::None(none @ NoPart::Unknown { .. }) => {
                    StoreError::NotFound(format!("point {id} has {none}"))
                }
                PartError::None(none) => StoreError::Refused(format!("point {id} has {none}")),
            }),
        }
    }

    fn restore_file(
        &self,
        source: &mut PartReader,
        target: &Path,
        overwrite: bool,
        progress: Progress<'_>,
    ) -> Result<RestoreReport, StoreError> {
        let part = self.part_of(target)?;
        let file = match self.storage().open(&part, Access::Create) {
            Err(e) if e.source.kind() == std::io::ErrorKind::AlreadyExists => {
                let part = part.display();
                return refuse(
                    target,
                    &format!("a restore to it runs or was interrupted; if none runs, remove {part}"),
                );
            }
            opened => Arc::new(opened?),
        };
        let unfinished = Unfinished { storage: self.storage(), path: &part };
        file.set_len(source.bytes())?;
        let written = copy(source, &file, false, progress)?;
        file.sync()?;
        if overwrite {
            self.storage().rename(&part, target)?;
        } else {
            self.storage().rename_new(&part, target)?;
        }
        std::mem::forget(unfinished);
        if let Some(parent) = part.parent() {
            self.storage().sync_dir(parent)?;
        }
        Ok(RestoreReport { bytes: source.bytes(), written, verified: 0 })
    }

    /// The name beside `target` under which its file grows; refuses targets within the store.
    fn part_of(&self, target: &Path) -> Result<PathBuf, StoreError> {
        let Some(name) = target.file_name() else {
            return refuse(target, "it names no file");
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let Ok(parent) = parent.canonicalize() else {
            return refuse(target, "its directory does not exist");
        };
        let store = self.data_dir().canonicalize().unwrap_or_else(|_| self.data_dir().to_owned());
        if parent.starts_with(&store) {
            return refuse(target, "it is within the data directory of this dispatcher");
        }
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(".blxrep.part");
        Ok(parent.join(part))
    }

    fn restore_device(
        &self,
        source: &mut PartReader,
        target: &Path,
        progress: Progress<'_>,
    ) -> Result<RestoreReport, StoreError> {
        let device = match self.storage().open(target, Access::Device) {
            Err(e) if e.source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                return refuse(
                    target,
                    "it or a partition of it is in use (mounted, swap, LVM, RAID); release it",
                );
            }
            opened => opened?,
        };
        let (size, needed) = (device.length()?, source.bytes());
        if size < needed {
            return too_small(target, size, needed);
        }
        let device = Arc::new(device);
        let written = copy(source, &device, true, progress)?;
        device.sync()?;
        verify_device(source, &device, progress)?;
        Ok(RestoreReport { bytes: needed, written, verified: needed })
    }
}

/// Removes a file that was not completed.
struct Unfinished<'a> {
    storage: &'a Storage,
    path: &'a Path,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = self.storage.remove(self.path);
    }
}

/// Writes all of a point. Returns the bytes written as data.
fn copy(
    source: &mut PartReader,
    file: &Arc<DataFile>,
    device: bool,
    progress: Progress<'_>,
) -> Result<u64, StoreError> {
    let bytes = source.bytes();
    let total = if device { 2 * bytes } else { bytes };
    let file = WriteBehind::new(Arc::clone(file), CHUNK_BYTES)?;
    Copy { source, file, device, progress, total, written: 0 }.run()
}

/// One pass over a point.
struct Copy<'a> {
    source: &'a mut PartReader,
    file: WriteBehind,
    /// What is not written holds old data, not zeroes.
    device: bool,
    progress: Progress<'a>,
    total: u64,
    written: u64,
}

impl Copy<'_> {
    /// Returns the bytes written as data.
    fn run(mut self) -> Result<u64, StoreError> {
        let (mut at, mut data) = (0, 0..0);
        while let Some((range, content)) = self.source.next_stretch(at)? {
            at = range.end;
            if content == Content::Data || range.end - range.start < SHORT_ZERO_BYTES {
                data = data.start..range.end;
            } else {
                self.data(data)?;
                self.zero(range.clone())?;
                data = range.end..range.end;
            }
            // In whole chunks, as long as there is more to come.
            let ripe = data.end / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
            if ripe > data.start {
                self.data(data.start..ripe)?;
                data = ripe..data.end;
            }
            self.progress.step(data.start, self.total)?;
        }
        self.data(data)?;
        self.file.drain()?;
        self.progress.step(at, self.total)?;
        Ok(self.written)
    }

    fn zero(&mut self, range: Range<u64>) -> Result<(), StoreError> {
        if self.device {
            self.file.drain()?;
            self.file.file().zero_device(range)?;
        }
        Ok(())
    }

    fn data(&mut self, range: Range<u64>) -> Result<(), StoreError> {
        for piece in pieces(range) {
            let mut buffer = self.file.buffer()?;
            let bytes = buffer.fill(length(&piece));
            self.source.read_at(piece.start, bytes)?;
            if is_zero(bytes) {
                self.file.give_back(buffer);
                self.zero(piece.clone())?;
            } else {
                self.file.submit(buffer, piece.start)?;
                self.written += piece.end - piece.start;
            }
            self.progress.step(piece.end, self.total)?;
        }
        Ok(())
    }
}

/// Compares a device with the point that was written to it.
fn verify_device(
    source: &mut PartReader,
    device: &DataFile,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let mut found = AlignedBuffer::new(CHUNK_BYTES);
    let mut wanted = vec![0; CHUNK_BYTES];
    let bytes = source.bytes();
    for piece in pieces(0..bytes) {
        let wanted = &mut wanted[..length(&piece)];
        source.read_at(piece.start, wanted)?;
        device.read_direct_at(found.fill(length(&piece)), piece.start)?;
        if let Some(i) = wanted.iter().zip(found.as_slice()).position(|(a, b)| a != b) {
            let at = piece.start + i as u64;
            return refuse(
                device.path(),
                &format!("byte {at} was written and reads back differently: do not use the device"),
            );
        }
        progress.step(bytes + piece.end, 2 * bytes)?;
    }
    Ok(())
}

/// A range in pieces that end at multiples of the chunk.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let chunk = CHUNK_BYTES as u64;
    let mut at = range.start;
    std::iter::from_fn(move || {
        let piece = at..((at / chunk + 1) * chunk).min(range.end);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn length(piece: &Range<u64>) -> usize {
    usize::try_from(piece.end - piece.start).unwrap_or(CHUNK_BYTES)
}

/// Size of a block device; `None` if it cannot be opened, which the restore itself will report.
fn device_bytes(target: &Path) -> Option<u64> {
    std::fs::File::open(target).and_then(|mut device| device.seek(SeekFrom::End(0))).ok()
}

fn too_small<T>(target: &Path, bytes: u64, needed: u64) -> Result<T, StoreError> {
    refuse(target, &format!("it has {bytes} bytes and the point needs {needed}: choose a larger device"))
}

fn refuse<T>(target: &Path, why: &str) -> Result<T, StoreError> {
    Err(StoreError::Refused(format!("cannot restore to {}: {why}", target.display())))
}

/// Names the mount of a device or one of its partitions. What this cannot see, the exclusive open refuses.
fn refuse_mounted(target: &Path, device: u64) -> Result<(), StoreError> {
    let mounts = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    let show = |device: u64| format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut numbers = vec![show(device)];
    let folder = PathBuf::from(format!("/sys/dev/block/{}", show(device)));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            let number = std::fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
            numbers.push(number.trim().to_owned());
        }
    }
    match mounted(&mounts, &numbers) {
        None => Ok(()),
        Some(place) => {
            refuse(target, &format!("it or a partition of it is mounted on {place}; unmount it first"))
        }
    }
}

/// Where one of these devices is mounted.
fn mounted<'a>(mounts: &'a str, numbers: &[String]) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?;
        let place = fields.nth(1)?;
        numbers.iter().any(|number| number == device).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_device_number() {
        let mounts = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                      37 35 259:300 / /srv rw - xfs /dev/x rw\n";
        assert_eq!(mounted(mounts, &["259:300".to_owned()]), Some("/srv"));
        assert_eq!(mounted(mounts, &["98:0".to_owned()]), Some("/mnt2"));
        assert_eq!(mounted(mounts, &["98:1".to_owned()]), None);
    }

    #[test]
    fn pieces_end_at_chunks() {
        let mib = CHUNK_BYTES as u64;
        let all: Vec<_> = pieces(100..2 * mib + 7).collect();
        assert_eq!(all, vec![100..mib, mib..2 * mib, 2 * mib..2 * mib + 7]);
    }
}
