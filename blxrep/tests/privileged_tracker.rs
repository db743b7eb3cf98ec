//! The tracker on real disks: eBPF in the running kernel, loop devices over tmpfs, zram. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it finds out")]

use aya::maps::{HashMap, Map, MapData};
use blxrep::engine::audit::{Audit, Proof, Verdict};
use blxrep::io::tracker::{Attach, DiskSpec, DiskTracker, Tracker, TrackerError, TrackerOptions, probes};
use blxrep::model::bitmap::Bitmap;
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{DiskIdentity, Epoch, PointId};
use blxrep::model::tracking::Reporting;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

    /// Makes one partition of 8 MiB at 1 MiB.
    fn partition(&self) {
        let mut table = vec![0u8; 512];
        table[446 + 4] = 0x83;
        table[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&16384u32.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::OpenOptions::new().write(true).open(&self.node).unwrap().write_all_at(&table, 0).unwrap();
        run(Command::new("partx").arg("--add").arg(&self.node));
    }

    /// 4 KiB random writes at queue depth 32; returns IOPS.
    fn fio(&self, seconds: u32, extra: &[&str]) -> u64 {
        let mut fio = Command::new("fio");
        fio.args([
            "--name=w",
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--ioengine=libaio",
            "--direct=1",
        ]);
        fio.args(["--time_based", "--minimal", &format!("--runtime={seconds}")]).args(extra);
        let output = run(fio.arg(format!("--filename={}", self.node.display())));
        output.lines().last().unwrap().split(';').nth(48).unwrap().parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = match &self.backing {
            Some(backing) => {
                if self.sysfs().join(format!("{}p1", self.name())).exists() {
                    let _ = Command::new("partx").arg("--delete").arg(&self.node).status();
                }
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

#[test]
fn bio_based_disks_are_tracked_at_queue_and_at_completion() {
    if skipped("bio_based_disks_are_tracked_at_queue_and_at_completion") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_zram(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    assert_eq!(tracked.reporting(), Reporting::Bios);
    for (offset, len) in [(0, 4096), (MIB, MIB), (64 * MIB - 4096, 4096)] {
        disk.write(offset, len);
        let (issued, completed) = swept(&tracked);
        assert_eq!(issued, granules(offset..offset + len));
        assert_eq!(completed, granules(offset..offset + len));
    }
    disk.blkdiscard(2 * MIB, 8 * MIB, false);
    let (issued, completed) = swept(&tracked);
    assert_eq!(issued, granules(2 * MIB..10 * MIB));
    assert_eq!(completed, granules(2 * MIB..10 * MIB));

    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);
    println!("zram: classes that are not accounted: {:?}", audit.not_audited());
}

/// Of disks that report bios, too: the request hooks are all there, and see nothing of them.
#[test]
fn bio_hooks_that_were_unpinned_are_missed_and_cost_the_coverage() {
    if skipped("bio_hooks_that_were_unpinned_are_missed_and_cost_the_coverage") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_zram(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let link = pins.0.join(format!("v{}", blxrep_ebpf::ABI_VERSION)).join("link_block_bio_queue");
    std::fs::remove_file(&link).unwrap();
    assert!(!tracked.is_attached(), "the audit asks");
    assert!(!tracker.is_pinned(), "the agent asks, and begins anew");
    drop((tracked, tracker));

    disk.write(0, 4096);
    let mut tracker = pins.open();
    let (tracked, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
    assert!(matches!(&attach, Attach::Fresh { reason } if reason.contains("hooks")), "{attach:?}");
    assert!(link.exists() && tracked.is_attached(), "attached anew");
    disk.write(MIB, 4096);
    assert_eq!(swept(&tracked).0, granules(MIB..MIB + 4096));
    tracker.remove_all().unwrap();
}

#[test]
fn a_discard_of_a_gibibyte_is_marked_exactly() {
    if skipped("a_discard_of_a_gibibyte_is_marked_exactly") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(3072 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    // Groups of 16 MiB: neither end lies at the edge of one.
    for (offset, len) in
        [(MIB + 4096, 1024 * MIB), (16 * MIB, 2048 * MIB), (0, 3072 * MIB), (31 * MIB, 2 * MIB)]
    {
        disk.blkdiscard(offset, len, false);
        let (issued, completed) = swept(&tracked);
        assert_eq!(issued, granules(offset..offset + len), "issued, {len} at {offset}");
        assert_eq!(completed, granules(offset..offset + len), "completed, {len} at {offset}");
    }
}

#[test]
fn disks_do_not_touch_each_other_and_minors_above_255_work() {
    if skipped("disks_do_not_touch_each_other_and_minors_above_255_work") {
        return;
    }
    let pins = Pins::new();
    let number = 300 + std::process::id() % 3000;
    let disks = [
        Disk::on_loop(64 * MIB),
        Disk::on_loop_at(64 * MIB, Some(number)),
        Disk::on_zram(64 * MIB),
        Disk::on_loop(65 * MIB),
    ];
    assert_eq!(disks[1].spec().minor, number);
    let mut tracker = pins.open();
    let tracked: Vec<_> = disks.iter().map(|disk| fresh(&mut tracker, disk)).collect();
    for (at, disk) in disks.iter().enumerate() {
        disk.write(u64::try_from(at).unwrap() * MIB, 8192);
    }
    for (at, disk) in tracked.iter().enumerate() {
        let offset = u64::try_from(at).unwrap() * MIB;
        assert_eq!(swept(disk).0, granules(offset..offset + 8192), "disk {at}");
    }
    tracker.untrack(&disks[0].spec().identity).unwrap();
    assert_eq!(tracker.tracked().unwrap().len(), 3);
    disks[0].write(0, 4096);
    disks[3].write(0, 4096);
    assert_eq!(swept(&tracked[3]).0, granules(0..4096));
}

/// Name of the test below, which starts itself again as the child to be killed.
const CHILD_TEST: &str = "nothing_is_lost_when_the_agent_is_killed";

#[test]
fn nothing_is_lost_when_the_agent_is_killed() {
    if skipped(CHILD_TEST) {
        return;
    }
    if let Some(node) = std::env::var_os("BLXREP_TRACKER_CHILD") {
        return child(Path::new(&node), PathBuf::from(std::env::var_os("BLXREP_TRACKER_PINS").unwrap()));
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut agent = Agent::start(&disk, &pins);
    disk.write(0, 4096);
    agent.say_when("swept");
    disk.write(MIB, 4096);
    agent.kill();
    disk.write(2 * MIB, 8192);

    let mut tracker = pins.open();
    let (tracked, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
    assert_eq!(attach, Attach::Adopted);
    let record = tracked.record();
    assert_eq!(
        (record.epoch, record.open),
        (Epoch(7), Some(PointId(5))),
        "the record of the agent that died"
    );
    assert_eq!(tracked.pending().peek(), granules(0..4096), "swept, but not acknowledged");
    let expected = &granules(MIB..MIB + 4096) | &granules(2 * MIB..2 * MIB + 8192);
    let (issued, completed) = swept(&tracked);
    assert_eq!((issued, completed), (expected.clone(), expected));
    let mut audit = Audit::new(record.baseline, tracked.reporting());
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven, "what happened meanwhile is audited too");

    // A record that does not fit any more is not adopted.
    drop((tracked, tracker));
    let mut tracker = pins.open();
    let moved = DiskSpec { boot_id: "another boot".into(), ..disk.spec() };
    let (_, attach) = tracker.track(&moved, Epoch(9)).unwrap();
    assert_eq!(attach, Attach::Fresh { reason: "the host was rebooted".into() });
}

/// Makes the pins look as if another version of the programs had made them.
fn as_version(pins: &Pins, version: u32) {
    let to = pins.0.join(format!("v{version}"));
    let _ = fs::remove_dir_all(&to);
    fs::rename(pins.0.join(format!("v{}", blxrep_ebpf::ABI_VERSION)), to).unwrap();
}

/// Writes single granules at random until stopped; says which.
fn scribble(disk: &Disk, stop: &Arc<AtomicU32>) -> std::thread::JoinHandle<GranuleSet> {
    let (file, stop, granules) = (disk.direct(), Arc::clone(stop), disk.bytes / GRANULE);
    std::thread::spawn(move || {
        let (buffer, mut written, mut at) = (Aligned::new(GRANULE), GranuleSet::new(), 1u64);
        while stop.load(Ordering::Relaxed) == 0 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let granule = (at >> 33) % granules;
            file.write_all_at(buffer.bytes(), granule * GRANULE).unwrap();
            written.insert_range(u32::try_from(granule).unwrap()..u32::try_from(granule + 1).unwrap());
        }
        written
    })
}

#[test]
fn an_upgrade_to_another_abi_sees_every_change() {
    if skipped("an_upgrade_to_another_abi_sees_every_change") {
        return;
    }
    // One that reports requests, and one that reports bios.
    for disk in [Disk::on_loop(256 * MIB), Disk::on_zram(256 * MIB)] {
        let pins = Pins::new();
        let mut tracker = pins.open();
        let tracked = fresh(&mut tracker, &disk);
        let record = blxrep::model::tracking::EpochRecord {
            acknowledged: Some(PointId(4)),
            open: Some(PointId(5)),
            ..tracked.record()
        };
        tracked.store_record(&record).unwrap();
        // What the old maps hold of each kind: swept, coarse, issued and completed.
        disk.write(0, 4096);
        swept(&tracked);
        disk.blkdiscard(64 * MIB, 64 * MIB, false);
        drop((tracked, tracker));

        let stop = Arc::new(AtomicU32::new(0));
        let writer = scribble(&disk, &stop);
        for _ in 0..5 {
            as_version(&pins, 0);
            let mut tracker = pins.open();
            let (tracked, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
            assert_eq!(attach, Attach::TakenOver { version: 0 });
            let now = tracked.record();
            assert_eq!(
                (now.epoch, now.acknowledged, now.open),
                (record.epoch, record.acknowledged, record.open)
            );
            assert!(!pins.0.join("v0").exists(), "the old programs are detached");
            drop((tracked, tracker));
        }
        stop.store(1, Ordering::Relaxed);
        let written = writer.join().unwrap();
        let mut tracker = pins.open();
        let (tracked, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
        assert_eq!(attach, Attach::Adopted);
        let mut dirty = tracked.pending().peek();
        let (issued, completed) = swept(&tracked);
        dirty.union_with(&issued);
        dirty.union_with(&completed);
        assert!((&written - &dirty).is_empty(), "written and not dirty: {:?}", &written - &dirty);
        assert!(dirty.contains(0), "swept before");
        let discarded = granules(64 * MIB..128 * MIB);
        assert!((&discarded - &dirty).is_empty(), "discarded before");
        println!("{} granules written during five upgrades of {}", written.len(), disk.name());
        let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
        assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven, "the account goes on where it was");
    }
}

/// What an audit would have found under the old programs, it finds under the new ones.
#[test]
fn a_loss_before_an_upgrade_is_found_after_it() {
    if skipped("a_loss_before_an_upgrade_is_found_after_it") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut tracker = pins.open();
    drop(fresh(&mut tracker, &disk));
    drop(tracker);
    unseen(&pins, &disk, MIB);
    as_version(&pins, 0);
    let mut tracker = pins.open();
    let (tracked, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
    assert_eq!(attach, Attach::TakenOver { version: 0 });
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    assert_eq!(
        prove(&tracked, &mut audit).0,
        Verdict::Gap("8 write sectors were seen at neither hook".into())
    );
}

/// Without its links a version tracks nothing: what it has pinned is not believed.
#[test]
fn pins_that_are_not_whole_cost_the_coverage() {
    if skipped("pins_that_are_not_whole_cost_the_coverage") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    drop(fresh(&mut pins.open(), &disk));
    detach(&pins, "block_rq_complete");
    as_version(&pins, 0);
    let mut tracker = pins.open();
    let (_, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
    let Attach::Fresh { reason } = attach else { panic!("{attach:?}") };
    assert!(reason.contains("v0"), "{reason}");
}

#[test]
fn pins_of_an_unknown_abi_cost_the_coverage() {
    if skipped("pins_of_an_unknown_abi_cost_the_coverage") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    drop(fresh(&mut pins.open(), &disk));
    as_version(&pins, 4_000_000);
    let mut tracker = pins.open();
    let (_, attach) = tracker.track(&disk.spec(), Epoch(9)).unwrap();
    let Attach::Fresh { reason } = attach else { panic!("{attach:?}") };
    assert!(reason.contains("v4000000"), "{reason}");
    assert!(!pins.0.join("v4000000").exists());
}

/// The life of an agent that is killed in the end.
fn child(node: &Path, pins: PathBuf) {
    let disk = Disk { node: node.to_path_buf(), bytes: 64 * MIB, backing: None };
    let options = TrackerOptions { pin_dir: pins, ..TrackerOptions::for_agent(&"test".parse().unwrap()) };
    let mut tracker = Tracker::open(options).unwrap();
    let tracked = fresh(&mut tracker, &disk);
    tracked
        .store_record(&blxrep::model::tracking::EpochRecord { open: Some(PointId(5)), ..tracked.record() })
        .unwrap();
    eprintln!("\nready");
    while tracked.completed().peek().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    swept(&tracked);
    eprintln!("\nswept");
    std::thread::sleep(Duration::from_secs(60));
}

struct Agent(Child, BufReader<std::process::ChildStderr>);

impl Agent {
    fn start(disk: &Disk, pins: &Pins) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", CHILD_TEST, "--nocapture"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command
            .env("BLXREP_TRACKER_CHILD", &disk.node)
            .env("BLXREP_TRACKER_PINS", &pins.0)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap());
        let mut agent = Self(process, lines);
        agent.say_when("ready");
        agent
    }

    fn say_when(&mut self, word: &str) {
        let mut seen = String::new();
        while self.1.read_line(&mut seen).unwrap() > 0 {
            if seen.lines().last() == Some(word) {
                return;
            }
        }
        panic!("the agent ended: {seen}");
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Offers samples until there is a verdict; also returns how many it took.
fn prove(disk: &DiskTracker, audit: &mut Audit) -> (Verdict, u32) {
    let mut proof = Proof::new();
    for attempts in 1.. {
        if let Some(verdict) = proof.offer(audit, &disk.audit_sample().unwrap()) {
            return (verdict, attempts);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    unreachable!("a proof ends by itself")
}

#[test]
fn the_audit_proves_the_issue_witness_under_load() {
    if skipped("the_audit_proves_the_issue_witness_under_load") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(256 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    let mut verdicts = Vec::new();
    std::thread::scope(|scope| {
        let load = scope.spawn(|| disk.fio(4, &[]));
        std::thread::sleep(Duration::from_secs(1));
        while !load.is_finished() {
            let began = Instant::now();
            let (verdict, attempts) = prove(&tracked, &mut audit);
            if !load.is_finished() {
                verdicts.push((verdict, attempts, began.elapsed()));
            }
        }
        println!("{} IOPS", load.join().unwrap());
    });
    let proven = verdicts.iter().filter(|v| v.0 == Verdict::Proven);
    let attempts: u32 = proven.clone().map(|v| v.1).sum();
    let took: Duration = proven.clone().map(|v| v.2).sum();
    let count = u32::try_from(proven.count()).unwrap();
    println!(
        "{count} of {} proofs under load; each took {:.1} samples and {:?}",
        verdicts.len(),
        f64::from(attempts) / f64::from(count.max(1)),
        took / count.max(1)
    );
    if let Some(other) = verdicts.iter().find(|v| v.0 != Verdict::Proven) {
        println!("otherwise: {:?}", other.0);
    }
    assert!(count > 0, "{verdicts:?}");
    assert!(!verdicts.iter().any(|v| matches!(v.0, Verdict::Gap(_))), "{verdicts:?}");

    std::thread::sleep(Duration::from_millis(20));
    retire(&tracked);
    assert_eq!(tracked.inflight().requests, 0, "the table is empty when the disk is idle");
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);
    let counted = tracked.counters();
    assert_eq!((counted.table_full, counted.beyond_end, counted.unlocatable), (0, 0, 0));
    println!("{counted:?}, recursion misses {}", tracked.recursion_misses().unwrap());
}

#[test]
fn flushes_and_synchronous_writes_add_up() {
    if skipped("flushes_and_synchronous_writes_add_up") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    disk.fio(1, &["--sync=1", "--iodepth=1", "--ioengine=psync"]);
    disk.fio(1, &["--fsync=3", "--direct=0", "--bs=16k", "--ioengine=psync"]);
    disk.fio(1, &["--rw=trimwrite", "--ioengine=psync", "--bs=64k"]);
    std::thread::sleep(Duration::from_millis(20));
    retire(&tracked);
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);
    assert!(tracked.counters().settled_sectors.iter().all(|s| *s > 0), "{:?}", tracked.counters());
}

#[test]
fn handles_may_be_used_by_any_task() {
    fn any_task<T: Send + Sync>() {}
    any_task::<DiskTracker>();
    any_task::<Tracker>();
}

/// Retires lost completions, of which there may be some on this kernel.
fn retire(disk: &DiskTracker) -> usize {
    disk.retire_stale().unwrap();
    std::thread::sleep(Duration::from_millis(110));
    disk.retire_stale().unwrap()
}

#[test]
fn a_write_that_neither_hook_saw_is_a_gap() {
    if skipped("a_write_that_neither_hook_saw_is_a_gap") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    disk.write(0, 4096);
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);

    unseen(&pins, &disk, MIB);
    assert_eq!(
        prove(&tracked, &mut audit).0,
        Verdict::Gap("8 write sectors were seen at neither hook".into())
    );
}

/// Writes a granule while the programs do not know the disk.
fn unseen(pins: &Pins, disk: &Disk, offset: u64) {
    let spec = disk.spec();
    let key = blxrep_ebpf::device_key(spec.major, spec.minor);
    let map = MapData::from_pin(pins.0.join(format!("v{}/DISKS", blxrep_ebpf::ABI_VERSION))).unwrap();
    let mut disks: HashMap<_, u64, u64> = HashMap::try_from(Map::HashMap(map)).unwrap();
    let known = disks.get(&key, 0).unwrap();
    disks.remove(&key).unwrap();
    disk.write(offset, GRANULE);
    disks.insert(key, known, 0).unwrap();
}

/// Detaches one hook.
fn detach(pins: &Pins, hook: &str) {
    fs::remove_file(pins.0.join(format!("v{}/link_{hook}", blxrep_ebpf::ABI_VERSION))).unwrap();
    // The kernel lets go of the link a moment later.
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn lost_completions_stay_in_the_table_until_they_are_retired() {
    if skipped("lost_completions_stay_in_the_table_until_they_are_retired") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    detach(&pins, "block_rq_complete");
    let mut expected = GranuleSet::new();
    // A loop device has 128 requests, which take turns.
    for at in (0..300).map(|n| n * (128 << 10)) {
        disk.write(at, 4096);
        expected.union_with(&granules(at..at + 4096));
    }
    // A key that is used again marks what it was used for before: the rest is in the table.
    let table = tracked.inflight();
    let marked = tracked.completed().peek();
    assert!(table.requests > 0 && tracked.counters().leftovers > 0, "{table:?}");
    assert_eq!(&marked | &table.ranges, expected);
    assert!(matches!(prove(&tracked, &mut audit).0, Verdict::Unproven(_)));

    assert_eq!(retire(&tracked), usize::try_from(table.requests).unwrap());
    assert_eq!(tracked.inflight().requests, 0);
    assert_eq!(tracked.completed().peek(), expected);
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven, "the issue witness was right all along");
}

#[test]
fn lost_issues_are_healed_by_the_completion_and_forgotten_only_when_published() {
    if skipped("lost_issues_are_healed_by_the_completion_and_forgotten_only_when_published") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    detach(&pins, "block_rq_issue");
    disk.write(MIB, 8192);
    assert!(tracked.issued().peek().is_empty());
    assert_eq!(tracked.completed().peek(), granules(MIB..MIB + 8192));
    let unproven = |audit: &mut Audit| match prove(&tracked, audit).0 {
        Verdict::Unproven(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(unproven(&mut audit).contains("16 sectors were seen at completion only"));
    audit.abandoned();
    assert!(unproven(&mut audit).contains("16 sectors were seen at completion only"));
    audit.published();
    assert!(audit.take_changed(), "the new baseline is to be stored");
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);
}

#[test]
fn hooks_that_somebody_removed_are_missed() {
    if skipped("hooks_that_somebody_removed_are_missed") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(16 * MIB));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    assert!(tracked.is_attached());
    detach(&pins, "block_rq_complete");
    assert!(!tracked.is_attached() && !tracker.is_pinned());
    tracker.renew().unwrap();
    assert!(tracker.is_pinned());
    assert!(!tracked.is_attached(), "the hooks that are attached now may mark in other maps");
    let (anew, _) = tracker.track(&disk.spec(), Epoch(2)).unwrap();
    assert!(anew.is_attached());
}

#[test]
fn two_trackers_do_not_disturb_each_other() {
    if skipped("two_trackers_do_not_disturb_each_other") {
        return;
    }
    let (pins, other_pins, disk) = (Pins::new(), Pins::new(), Disk::on_loop(64 * MIB));
    let (mut tracker, mut other) = (pins.open(), other_pins.open());
    let (tracked, also) = (fresh(&mut tracker, &disk), fresh(&mut other, &disk));
    disk.write(0, 4096);
    assert_eq!(swept(&tracked).0, granules(0..4096));
    assert_eq!(swept(&also).0, granules(0..4096));
    other.remove_all().unwrap();
    disk.write(MIB, 4096);
    assert_eq!(swept(&tracked).0, granules(MIB..MIB + 4096));
    assert!(!other_pins.0.exists());
    match Tracker::open(pins.options()) {
        Err(TrackerError::InUse { path }) => assert_eq!(path, pins.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_tracked_is_refused_with_a_reason() {
    if skipped("what_cannot_be_tracked_is_refused_with_a_reason") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(64 * MIB));
    let without_btf = TrackerOptions { btf: "/nonexistent/vmlinux".into(), ..pins.options() };
    let error = Tracker::open(without_btf.clone()).unwrap_err().to_string();
    assert!(error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    let outcome = probes(&without_btf);
    assert!(outcome.iter().any(|p| p.name.contains("BTF with") && p.result.is_err()), "{outcome:?}");
    let outcome = probes(&pins.options());
    assert!(outcome.iter().all(|p| p.result.is_ok()), "{outcome:?}");

    let mut tracker = pins.open();
    disk.partition();
    let part = PathBuf::from(format!("{}p1", disk.node.display()));
    let device = fs::metadata(&part).unwrap().rdev();
    let minor = rustix::fs::minor(device);
    let part = DiskSpec { node: part, major: rustix::fs::major(device), minor, ..disk.spec() };
    let error = tracker.track(&part, Epoch(1)).unwrap_err().to_string();
    assert!(error.contains(&format!("protect the whole disk {} instead", disk.node.display())), "{error}");
    let gone = DiskSpec { major: 7, minor: 999_999, ..disk.spec() };
    assert!(tracker.track(&gone, Epoch(1)).unwrap_err().to_string().contains("7:999999"));
}

#[test]
fn a_bitmap_of_a_tebibyte_is_swept_in_milliseconds() {
    let granules = u32::try_from((1u64 << 40) / GRANULE).unwrap();
    let words = || -> Vec<AtomicU64> {
        (0..blxrep_ebpf::bitmap_words(u64::from(granules))).map(|_| AtomicU64::new(0)).collect()
    };
    let (issued, pending) = (words(), words());
    let (issued, pending) =
        (Bitmap::new(&issued, granules).unwrap(), Bitmap::new(&pending, granules).unwrap());
    let dirty: GranuleSet = (0..1000).map(|i| i * 250_007).collect();
    issued.mark(&dirty);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        issued.mark(&dirty);
        let began = Instant::now();
        let swept = issued.sweep_into(&pending);
        best = best.min(began.elapsed());
        assert_eq!(swept, dirty);
    }
    println!("1 TiB with 1000 dirty granules: swept in {best:?} (target 20 ms)");
}

#[test]
fn the_cost_of_an_event_is_printed() {
    if skipped("the_cost_of_an_event_is_printed") {
        return;
    }
    let (pins, disk) = (Pins::new(), Disk::on_loop(256 * MIB));
    let mut tracker = pins.open();
    let _tracked = fresh(&mut tracker, &disk);
    let _counting = Statistics::on();
    let iops = disk.fio(3, &[]);
    let mut sum = 0.0;
    for (name, runs, nanoseconds) in tracker.run_times().unwrap() {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let per_event = nanoseconds as f64 / runs.max(1) as f64;
        if matches!(name, "block_rq_issue" | "block_rq_complete") {
            sum += per_event;
        }
        println!("{name}: {runs} runs, {per_event:.0} ns each");
    }
    println!(
        "{sum:.0} ns per write at both hooks, the kernel's own measuring included, at {iops} IOPS (target 500)"
    );
}

/// Run statistics of BPF programs, as they were before when it ends.
struct Statistics(String);

impl Statistics {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn on() -> Self {
        let before = fs::read_to_string(Self::SWITCH).unwrap();
        fs::write(Self::SWITCH, "1").unwrap();
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(Self::SWITCH, &self.0);
    }
}

/// Disks that take several ranges in one discard (NVMe, virtio-blk) are not to be had on every machine: this one is
/// named by `BLXREP_DISCARD_DISK`, and is overwritten.
#[test]
fn discards_of_several_ranges_are_marked_where_they_are() {
    let Some(node) = std::env::var_os("BLXREP_DISCARD_DISK").map(PathBuf::from) else {
        eprintln!("SKIPPED: discards_of_several_ranges_are_marked_where_they_are needs BLXREP_DISCARD_DISK");
        return;
    };
    let name = node.file_name().unwrap().to_str().unwrap().to_owned();
    let sectors = fs::read_to_string(format!("/sys/block/{name}/size")).unwrap();
    let bytes = sectors.trim().parse::<u64>().unwrap() * 512;
    // The guard of a disk that is not ours removes nothing.
    let disk = std::mem::ManuallyDrop::new(Disk { node, bytes, backing: None });
    let mount = tempfile::tempdir().unwrap();
    run(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&disk.node));
    let (pins, target) = (Pins::new(), mount.path());
    run(Command::new("mount").args(["-o", "discard"]).arg(&disk.node).arg(target));
    for file in 0..2000 {
        fs::write(target.join(format!("{file}")), vec![b'x'; 8192]).unwrap();
    }
    run(Command::new("sync").arg("--file-system").arg(target));
    let mut tracker = pins.open();
    let tracked = fresh(&mut tracker, &disk);
    let before = image(&disk);
    // Every other file: their ranges do not touch, and XFS discards them in one batch.
    for file in (0..2000).step_by(2) {
        fs::remove_file(target.join(format!("{file}"))).unwrap();
    }
    run(Command::new("sync").arg("--file-system").arg(target));
    run(Command::new("umount").arg(target));
    std::thread::sleep(Duration::from_millis(500));
    let after = image(&disk);
    let changed: GranuleSet = before
        .chunks(4096)
        .zip(after.chunks(4096))
        .zip(0u32..)
        .filter(|((before, after), _)| before != after)
        .map(|(_, granule)| granule)
        .collect();
    let stat = fs::read_to_string(disk.sysfs().join("stat")).unwrap();
    let merged: u64 = stat.split_ascii_whitespace().nth(12).unwrap().parse().unwrap();
    let (issued, completed) = swept(&tracked);
    println!("{} granules changed, {} marked, {merged} discards merged", changed.len(), issued.len());
    assert!(merged > 0, "no discards were merged: this run proves nothing");
    assert!(changed.is_subset(&issued), "issued lacks {:?}", (&changed - &issued).runs().collect::<Vec<_>>());
    assert!(
        changed.is_subset(&completed),
        "completed lacks {:?}",
        (&changed - &completed).runs().collect::<Vec<_>>()
    );
    assert!(issued.len() < u64::from(tracked.granules()) / 2, "not everything is marked");
    assert_eq!(tracked.inflight(), blxrep::io::tracker::Inflight::default());
    let mut audit = Audit::new(tracked.record().baseline, tracked.reporting());
    assert_eq!(prove(&tracked, &mut audit).0, Verdict::Proven);
}

/// What is on the disk, past the page cache.
fn image(disk: &Disk) -> Vec<u8> {
    let mut chunk = Aligned::new(MIB);
    let range = chunk.1..chunk.1 + chunk.2;
    let mut image = Vec::new();
    for offset in (0..disk.bytes).step_by(1 << 20) {
        let buffer = &mut chunk.0[range.clone()];
        let len = usize::try_from((disk.bytes - offset).min(MIB)).unwrap();
        disk.direct().read_exact_at(&mut buffer[..len], offset).unwrap();
        image.extend_from_slice(&buffer[..len]);
    }
    image
}
