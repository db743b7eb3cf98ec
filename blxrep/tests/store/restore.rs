//! Restores to files and devices, and what they refuse.

use crate::fixture::*;
use blxrep::model::ids::PointId;
use blxrep::model::part_id::PartId;
use blxrep::store::restore::Progress;
use blxrep::store::{Store, StoreError};
use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const DISK: usize = (6 << 20) + 512;

fn backed(folder: &Folder) -> (Store, PointId, Vec<u8>) {
    let store = folder.open();
    let mut content = vec![0; DISK];
    content[..1 << 20].copy_from_slice(&noise(1, 1 << 20));
    content[DISK - 512..].copy_from_slice(&noise(2, 512));
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    base(&store, disk, &content);
    content[4096..8192].fill(0);
    content[2 << 20..(2 << 20) + 4096].copy_from_slice(&noise(3, 4096));
    let point = delta(&store, disk, &content, &[1..2, 512..513]).id;
    (store, point, content)
}

#[test]
fn a_partition_is_restored_by_itself() {
    let folder = Folder::new();
    let store = folder.open();
    let mut content = noise(9, DISK);
    content[..512].fill(0);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    // An odd start, so that granules of the disk are not granules of the partition, and one up to the disk's end.
    let partitions = [(1, 2049u32, 3000u32), (3, 6000, DISK as u32 / 512 - 6000)];
    for (number, start, sectors) in partitions {
        let at = 446 + 16 * (number - 1);
        content[at + 4] = 0x83;
        content[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        content[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    content[3 << 20..4 << 20].fill(0);
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    base(&store, disk, &content);
    content[2 << 20..(2 << 20) + 4096].copy_from_slice(&noise(3, 4096));
    let point = delta(&store, disk, &content, &[512..513]).id;
    let out = tempfile::tempdir().unwrap();
    for (number, start, sectors) in partitions {
        let target = out.path().join(number.to_string());
        let part = PartId::from(u32::try_from(number).unwrap());
        let report = store.restore_part_to_file(point, Some(&part), &target, false, quietly()).unwrap();
        let bytes = start as usize * 512..(start + sectors) as usize * 512;
        assert_eq!(report.bytes, bytes.len() as u64);
        assert!(std::fs::read(&target).unwrap() == content[bytes], "partition {number}");
    }
    let target = out.path().join("none");
    let missing = PartId::Partition(2);
    let error = store.restore_part_to_file(point, Some(&missing), &target, false, quietly()).unwrap_err();
    assert!(matches!(&error, StoreError::NotFound(text) if text.contains("only 1, 3")), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_file_is_whole_and_sparse_or_not_there() {
    let folder = Folder::new();
    let (store, point, content) = backed(&folder);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("disk.img");
    let last = Cell::new((0, 0));
    let progress = |done, total| last.set((done, total));
    let never = AtomicBool::new(false);
    let report =
        store.restore_to_file(point, &target, false, Progress { report: &progress, cancel: &never }).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), content);
    assert_eq!((report.bytes, report.verified), (DISK as u64, 0));
    assert!(report.written <= 3 << 20, "{report:?}");
    assert!(std::fs::metadata(&target).unwrap().blocks() * 512 <= 3 << 20);
    assert_eq!(last.get(), (DISK as u64, DISK as u64));

    let error = store.restore_to_file(point, &target, false, quietly()).unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("--yes")), "{error}");
    std::fs::write(&target, b"old").unwrap();
    store.restore_to_file(point, &target, true, quietly()).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), content);

    let cancelled = AtomicBool::new(true);
    let fresh = out.path().join("other.img");
    let progress = Progress { report: &|_, _| {}, cancel: &cancelled };
    assert!(matches!(store.restore_to_file(point, &fresh, false, progress), Err(StoreError::Cancelled)));
    assert!(cancelled.load(Ordering::Relaxed));
    let names: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.img"]);
}

#[test]
fn targets_that_would_do_harm_are_refused() {
    let folder = Folder::new();
    let (store, point, _) = backed(&folder);
    let refused = |target: &Path, word: &str| {
        let error = store.restore_to_file(point, target, true, quietly()).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(word)), "{error}");
    };
    refused(&folder.path().join("x.img"), "data directory");
    refused(&folder.path().join("STORE"), "data directory");
    refused(Path::new("/dev/null"), "neither a file nor a block device");
    refused(Path::new("/no/such/directory/x.img"), "directory does not exist");
    refused(&folder.path(), "neither a file nor a block device");
    assert!(matches!(
        store.restore_to_file(PointId(9), Path::new("/tmp/x"), true, quietly()),
        Err(StoreError::NotFound(_))
    ));
}

#[test]
fn a_damaged_point_is_not_restored_as_if_it_were_whole() {
    let folder = Folder::new();
    let (store, point, _) = backed(&folder);
    let image = folder.files(".img").remove(0);
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[500_000] ^= 4;
    std::fs::write(&image, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error =
        store.restore_to_file(point, &out.path().join("x"), false, quietly()).unwrap_err().to_string();
    assert!(error.contains(&image.display().to_string()) && error.contains("byte 499712"), "{error}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

/// A loop device over a file of `bytes`, gone when dropped.
struct Loop {
    node: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new(bytes: u64) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let node = output(Command::new("losetup").args(["--find", "--show"]).arg(file.path()));
        Self { node: PathBuf::from(node.trim()), _file: file }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
    }
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for loop devices");
    }
    root
}

#[test]
fn a_device_is_overwritten_with_zeroes_and_read_back() {
    if !root() {
        return;
    }
    let folder = Folder::new();
    let (store, point, content) = backed(&folder);
    let device = Loop::new(8 << 20);
    std::fs::write(&device.node, noise(9, 8 << 20)).unwrap();
    let error = store.restore_to_file(point, &device.node, false, quietly()).unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("--yes")), "{error}");
    let report = store.restore_to_file(point, &device.node, true, quietly()).unwrap();
    assert_eq!(report.verified, DISK as u64);
    let found = std::fs::read(&device.node).unwrap();
    assert!(found[..DISK] == content, "the device differs");
    assert!(found[DISK..] == noise(9, 8 << 20)[DISK..], "what is behind the point was touched");
}

#[test]
fn a_device_that_is_small_or_in_use_is_refused() {
    if !root() {
        return;
    }
    let folder = Folder::new();
    let (store, point, _) = backed(&folder);
    let refused = |node: &Path, word: &str| {
        let error = store.restore_to_file(point, node, true, quietly()).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(word)), "{error}");
    };
    let small = Loop::new(4 << 20);
    refused(&small.node, "the point needs");

    let device = Loop::new(64 << 20);
    output(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&device.node));
    let place = tempfile::tempdir().unwrap();
    output(Command::new("mount").arg(&device.node).arg(place.path()));
    let mounted = Mount(place.path().to_owned());
    refused(&device.node, "mounted on");
    std::fs::write(place.path().join("alive"), b"yes").unwrap();
    drop(mounted);

    // In use without a mount.
    let _held = rustix::fs::open(
        &device.node,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    refused(&device.node, "in use");
}
