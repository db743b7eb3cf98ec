//! The tracker on real disks: eBPF in the running kernel, loop devices over tmpfs, zram. Needs root.

use blxrep::io::tracker::{Attach, DiskSpec, DiskTracker, Tracker, TrackerError, TrackerOptions};
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{DiskIdentity, Epoch};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: u64 = 1 << 20;
const GRANULE: u64 = 4096;

/// `true`, and a visible line, if the test cannot run here.
fn skipped(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {test} needs root");
    }
    !root
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Pins of one test, removed at the end whatever happens.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        Self(PathBuf::from(format!("/sys/fs/bpf/blxrep-test-{}", unique())))
    }

    fn options(&self) -> TrackerOptions {
        TrackerOptions { pin_dir: self.0.clone(), ..TrackerOptions::for_agent(&"test".parse().unwrap()) }
    }

    fn open(&self) -> Tracker {
        Tracker::open(self.options()).unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A block device that goes with its guard.
struct Disk {
    node: PathBuf,
    bytes: u64,
    backing: Option<PathBuf>,
}

impl Disk {
    fn on_loop(bytes: u64) -> Self {
        Self::on_loop_at(bytes, None)
    }

    /// On `/dev/loop<number>`, which is made if need be.
    fn on_loop_at(bytes: u64, number: Option<u32>) -> Self {
        let backing = PathBuf::from(format!("/dev/shm/blxrep-tracker-{}", unique()));
        File::create(&backing).unwrap().set_len(bytes).unwrap();
        let mut losetup = Command::new("losetup");
        let node = match number {
            None => PathBuf::from(run(losetup.args(["--find", "--show"]).arg(&backing))),
            Some(number) => {
                let node = PathBuf::from(format!("/dev/loop{number}"));
                run(losetup.arg(&node).arg(&backing));
                node
            }
        };
        Self { node, bytes, backing: Some(backing) }
    }

    fn on_zram(bytes: u64) -> Self {
        let number = fs::read_to_string("/sys/class/zram-control/hot_add").unwrap();
        let number = number.trim();
        fs::write(format!("/sys/block/zram{number}/disksize"), bytes.to_string()).unwrap();
        Self { node: PathBuf::from(format!("/dev/zram{number}")), bytes, backing: None }
    }

    fn name(&self) -> String {
        self.node.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn sysfs(&self) -> PathBuf {
        Path::new("/sys/block").join(self.name())
    }

    fn spec(&self) -> DiskSpec {
        let device = fs::metadata(&self.node).unwrap().rdev();
        let diskseq = fs::read_to_string(self.sysfs().join("diskseq")).ok();
        DiskSpec {
            node: self.node.clone(),
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
            sysfs: self.sysfs(),
            bytes: self.bytes,
            identity: DiskIdentity::Named(self.name()),
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned(),
            diskseq: diskseq.and_then(|s| s.trim().parse().ok()),
        }
    }

    fn direct(&self) -> File {
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.node).unwrap()
    }

    fn write(&self, offset: u64, len: u64) {
        let buffer = Aligned::new(len);
        self.direct().write_all_at(buffer.bytes(), offset).unwrap();
    }

    /// `BLKDISCARD` or `BLKZEROOUT` of a byte range.
    fn blkdiscard(&self, offset: u64, len: u64, zero: bool) {
        let mut command = Command::new("blkdiscard");
        command.args(["--offset", &offset.to_string(), "--length", &len.to_string()]);
        if zero {
            command.arg("--zeroout");
        }
        run(command.arg("--force").arg(&self.node));
    }

    /// 4 KiB random writes at queue depth 32; returns IOPS.
    fn fio(&self, seconds: u32, extra: &[&str]) -> u64 {
        let mut fio = Command::new("fio");
        fio.args(["--name=w", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--ioengine=libaio", "--direct=1"]);
        fio.args(["--time_based", "--minimal", &format!("--runtime={seconds}")]).args(extra);
        let output = run(fio.arg(format!("--filename={}", self.node.display())));
        output.lines().last().unwrap().split(';').nth(48).unwrap().parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = match &self.backing {
            Some(backing) => {
                let _ = Command::new("losetup").arg("--detach").arg(&self.node).status();
                fs::remove_file(backing)
            }
            None => fs::write("/sys/class/zram-control/hot_remove", self.name().trim_start_matches("zram")),
        };
    }
}

/// Memory as O_DIRECT wants it, with bytes that no two buffers share.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    fn new(len: u64) -> Self {
        static SEED: AtomicU32 = AtomicU32::new(1);
        let len = usize::try_from(len).unwrap();
        let fill = u8::try_from(SEED.fetch_add(1, Ordering::Relaxed) % 251).unwrap();
        let memory = vec![fill; len + 4096];
        let skip = memory.as_ptr().align_offset(4096);
        Self(memory, skip, len)
    }

    fn bytes(&self) -> &[u8] {
        &self.0[self.1..self.1 + self.2]
    }
}

fn granules(bytes: std::ops::Range<u64>) -> GranuleSet {
    let mut set = GranuleSet::new();
    let edge = |at: u64| u32::try_from(at).unwrap();
    set.insert_range(edge(bytes.start / GRANULE)..edge(bytes.end.div_ceil(GRANULE)));
    set
}

fn fresh(tracker: &mut Tracker, disk: &Disk) -> Arc<DiskTracker> {
    let (tracked, attach) = tracker.track(&disk.spec(), Epoch(7)).unwrap();
    assert!(matches!(attach, Attach::Fresh { .. }), "{attach:?}");
    tracked
}

/// What both bitmaps hold. A completion may be lost silently on some kernels: what is missing there must still be in
/// the table, which the caller's union covers.
fn swept(disk: &DiskTracker) -> (GranuleSet, GranuleSet) {
    let issued = disk.issued().sweep_into(&disk.pending());
    let table = disk.inflight().ranges;
    let completed = disk.completed().sweep_into(&disk.pending());
    (issued, &completed | &table)
}

#[test]
fn every_kind_of_change_is_marked_at_issue_and_at_completion() {
    if skipped("every_kind_of_change_is_marked_at_issue_and_at_completion") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(256 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let check = |what: &str, range: std::ops::Range<u64>| {
        let (issued, completed) = swept(&tracked);
        assert_eq!(issued, granules(range.clone()), "{what} at issue");
        assert_eq!(completed, granules(range), "{what} at completion");
    };
    for (offset, len) in [(0, 4096), (4096 * 63, 8192), (MIB, MIB), (17 * 512, 512), (256 * MIB - 512, 512)] {
        disk.write(offset, len);
        check("write", offset..offset + len);
    }
    disk.blkdiscard(8 * MIB + 4096, 100 * MIB, false);
    check("discard", 8 * MIB + 4096..108 * MIB + 4096);
    disk.blkdiscard(120 * MIB, 3 * MIB, true);
    check("write-zeroes", 120 * MIB..123 * MIB);

    let mut page = Aligned::new(MIB);
    let range = page.1..page.1 + page.2;
    disk.direct().read_exact_at(&mut page.0[range], 4 * MIB).unwrap();
    disk.direct().sync_all().unwrap();
    check("reads and flushes", 0..0);
    tracker.remove_all().unwrap();
}
