//! Real filesystems, really frozen under load, and thawed whoever is killed or stopped in between.
//!
//! A filesystem that stays frozen wedges the machine, so each test has a net of its own: a process that thaws
//! everything when the test has ended, however it ended, or after two minutes.

mod support;

use anyhow::{Context, Result, bail, ensure};
use blxrep::agent::freeze::{Freeze, FreezePlan};
use blxrep::io::freeze::guard::{Frozen, Guard, Options, Report, Target};
use blxrep::io::freeze::{Cause, FreezeError, HARD_CAP, leftovers};
use blxrep::model::stack::DeviceNumber;
use rustix::fs::{major, minor};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::disk::{Disk, LoopDisk};
use support::fixture::{memory_dir, sh, unique, wait_for};
use support::load::{Ground, Load};
use support::mount::{Filesystem, Mount};

const MIB: u64 = 1 << 20;
const DISK: u64 = 512 * MIB;
/// Long enough for a freeze under load on a busy machine.
const BUDGET: Duration = Duration::from_secs(4);
/// No filesystem may be frozen longer than this, asserted with a margin for a machine that is overcommitted.
const LIMIT: Duration = Duration::from_secs(5 + 4);
/// Of an agent that is killed or stopped.
const AGENT_BUDGET: Duration = Duration::from_secs(1);
/// What a helper is told in its environment.
const HELPER: &str = "BLXREP_FREEZE_HELPER";

fn number(disk: &impl Disk) -> Result<DeviceNumber> {
    number_of(disk.path())
}

fn number_of(node: &Path) -> Result<DeviceNumber> {
    let device = fs::metadata(node).with_context(|| node.display().to_string())?.rdev();
    Ok((major(device), minor(device)))
}

/// How often something is repeated: in a soak it is more.
fn times(short: usize, soak: usize) -> usize {
    if std::env::var_os("BLXREP_SOAK_SECONDS").is_some() { soak } else { short }
}

/// Thaws these mounts when its owner ends, in whatever way, or after two minutes.
struct Net {
    child: Child,
}

impl Net {
    fn under(mounts: &[&Path]) -> Result<Self> {
        let script = "timeout 120 cat > /dev/null; for m in \"$@\"; do fsfreeze --unfreeze \"$m\"; done";
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script, "net"]).args(mounts);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Folder for records that no other run looks into.
struct Records(PathBuf);

impl Records {
    fn new() -> Result<Self> {
        let folder = memory_dir().join(unique() + ".records");
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    fn options(&self) -> Options {
        Options { program: env!("CARGO_BIN_EXE_blxrep").into(), records: self.0.clone() }
    }

    fn count(&self) -> Result<usize> {
        Ok(fs::read_dir(&self.0)?.count())
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A writer whose longest pause shows how long its filesystem was frozen.
struct Heartbeat {
    beats: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Duration>>>,
}

impl Heartbeat {
    fn start(folder: &Path) -> Result<Self> {
        let file = File::create(folder.join("heartbeat"))?;
        let (beats, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&beats), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                file.write_all_at(&last.elapsed().as_nanos().to_le_bytes(), 0)?;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(longest)
        });
        Ok(Self { beats, stop, thread: Some(thread) })
    }

    /// Whether nothing was written for a while.
    fn is_silent(&self) -> bool {
        // One write may have been past the gate.
        std::thread::sleep(Duration::from_millis(20));
        let before = self.beats.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(150));
        self.beats.load(Ordering::Relaxed) == before
    }

    /// Waits for the next write.
    fn beats_again(&self) -> Result<()> {
        let before = self.beats.load(Ordering::Relaxed);
        wait_for("writing to a filesystem that should be thawed", LIMIT, || {
            Ok((self.beats.load(Ordering::Relaxed) > before).then_some(()))
        })
    }

    /// The longest pause between two writes.
    fn finish(mut self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished twice")?;
        Ok(thread.join().map_err(|_| anyhow::anyhow!("the heartbeat panicked"))??)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A filesystem on a disk of its own. Fields are dropped in this order: thawed, unmounted, removed.
struct Plot {
    _net: Net,
    mount: Mount,
    disk: LoopDisk,
}

impl Plot {
    fn new(filesystem: Filesystem) -> Result<Self> {
        let disk = LoopDisk::new(DISK)?;
        filesystem.make(disk.path())?;
        let mount = Mount::new(filesystem.name(), disk.path(), "defaults")?;
        let net = Net::under(&[mount.path()])?;
        Ok(Self { _net: net, mount, disk })
    }

    fn plan(&self) -> Result<FreezePlan> {
        let plan = FreezePlan::for_disks(&[number(&self.disk)?])?;
        ensure!(plan.is_complete(), "obstacles: {:?}", plan.obstacles);
        Ok(plan)
    }
}

fn freeze(plan: &FreezePlan, records: &Records, budget: Duration) -> Result<Frozen> {
    Ok(Guard::spawn(Arc::clone(&plan.targets), &records.options())?.freeze(budget)?)
}

/// Freezes under fio, finds it frozen, thaws, and finds it thawed.
fn freezes_under_load(filesystem: Filesystem) -> Result<()> {
    let logs = tempfile::tempdir()?;
    let records = Records::new()?;
    let ground = Plot::new(filesystem)?;
    let load = Load::start(Ground::Folder(ground.mount.path().to_owned()), logs.path())?;
    let heart = Heartbeat::start(ground.mount.path())?;
    std::thread::sleep(Duration::from_secs(1));
    let plan = ground.plan()?;
    ensure!(plan.targets.len() == 1 && plan.swaps.is_empty(), "{plan:?}");
    for _ in 0..3 {
        let frozen = freeze(&plan, &records, BUDGET)?;
        ensure!(frozen.refused.is_empty(), "{:?}", frozen.refused);
        ensure!(heart.is_silent(), "{}: written to while it was frozen", filesystem.name());
        let report = frozen.thaw()?;
        ensure!(report.held(), "{report:?}");
        eprintln!("{}: freezing took {:?}", filesystem.name(), report.filesystems[0].freezing);
        heart.beats_again()?;
    }
    ensure!(plan.still_holds()?, "nothing was mounted in between");
    ensure!(records.count()? == 0, "records are left");
    let longest = heart.finish()?;
    ensure!(longest < LIMIT, "frozen for {longest:?}");
    drop(plan);
    load.stop()
}

#[test]
fn ext4_is_frozen_and_thawed_under_load() -> Result<()> {
    require_root!();
    freezes_under_load(Filesystem::Ext4)
}

#[test]
fn xfs_is_frozen_and_thawed_under_load() -> Result<()> {
    require_root!();
    freezes_under_load(Filesystem::Xfs)
}

#[test]
fn btrfs_is_frozen_and_thawed_under_load() -> Result<()> {
    require_root!();
    freezes_under_load(Filesystem::Btrfs)
}

/// How long a freeze lasts in which nothing is done: printed, not judged. What a cut calls is called in its order.
#[test]
fn many_short_freezes_under_load() -> Result<()> {
    require_root!();
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
        let logs = tempfile::tempdir()?;
        let records = Records::new()?;
        let ground = Plot::new(filesystem)?;
        let load = Load::start(Ground::Folder(ground.mount.path().to_owned()), logs.path())?;
        let disks = [blxrep::agent::freeze::device_number(ground.disk.path())?];
        let (mut lasted, mut prepared) = (Vec::new(), Vec::new());
        for _ in 0..times(15, 500) {
            std::thread::sleep(Duration::from_millis(200));
            let began = Instant::now();
            let freeze = Freeze::prepare(&disks, &records.options())?;
            prepared.push(began.elapsed());
            freeze.write_back();
            let freezing = freeze.begin(BUDGET)?.end()?;
            ensure!(freezing.doubts.is_empty(), "{freezing:?}");
            lasted.push(freezing.lasted);
        }
        for (what, times) in [("frozen for", &mut lasted), ("prepared in", &mut prepared)] {
            times.sort_unstable();
            let [median, most, longest] =
                [50, 99, 100].map(|percent| times[times.len() * percent / 100 - percent / 100]);
            let name = filesystem.name();
            eprintln!("{name} under fio: {what} {median:?} (median), {most:?} (p99), {longest:?} (longest)");
        }
        load.stop()?;
    }
    Ok(())
}

#[test]
fn a_filesystem_on_a_file_is_frozen_before_the_one_that_holds_the_file() -> Result<()> {
    require_root!();
    let logs = tempfile::tempdir()?;
    let records = Records::new()?;
    let outer_disk = LoopDisk::new(DISK)?;
    Filesystem::Ext4.make(outer_disk.path())?;
    let outer = Mount::new("ext4", outer_disk.path(), "defaults")?;
    let image = outer.path().join("image");
    File::create_new(&image)?.set_len(400 * MIB)?;
    let inner_disk = LoopDisk::over(image)?;
    Filesystem::Xfs.make(inner_disk.path())?;
    let inner = Mount::new("xfs", inner_disk.path(), "defaults")?;
    // Bound elsewhere as well: it is still one filesystem.
    let bound = Mount::new("none", inner.path(), "bind")?;
    let _net = Net::under(&[outer.path(), inner.path()])?;
    let load = Load::start(Ground::Folder(inner.path().to_owned()), logs.path())?;
    let hearts = [Heartbeat::start(outer.path())?, Heartbeat::start(bound.path())?];
    std::thread::sleep(Duration::from_secs(1));

    let plan = FreezePlan::for_disks(&[number(&outer_disk)?])?;
    let order: Vec<DeviceNumber> = plan.targets.iter().map(|target| target.number).collect();
    ensure!(order == [number(&inner_disk)?, number(&outer_disk)?], "{order:?}");
    let only_inner = FreezePlan::for_disks(&[number(&inner_disk)?])?;
    ensure!(only_inner.targets.len() == 1, "{only_inner:?}");
    drop(only_inner);
    for _ in 0..3 {
        let frozen = freeze(&plan, &records, BUDGET)?;
        ensure!(frozen.refused.is_empty(), "{:?}", frozen.refused);
        ensure!(hearts.iter().all(Heartbeat::is_silent), "written to while it was frozen");
        let report = frozen.thaw()?;
        ensure!(report.held(), "{report:?}");
        hearts.iter().try_for_each(Heartbeat::beats_again)?;
    }
    for heart in hearts {
        let longest = heart.finish()?;
        ensure!(longest < LIMIT, "frozen for {longest:?}");
    }
    drop(plan);
    load.stop()
}

/// A filesystem on a file of another one.
struct Nest {
    _net: Net,
    inner: Mount,
    _inner_disk: LoopDisk,
    outer: Mount,
    outer_disk: LoopDisk,
}

impl Nest {
    fn new() -> Result<Self> {
        let outer_disk = LoopDisk::new(DISK)?;
        Filesystem::Ext4.make(outer_disk.path())?;
        let outer = Mount::new("ext4", outer_disk.path(), "defaults")?;
        let image = outer.path().join("image");
        File::create_new(&image)?.set_len(128 * MIB)?;
        let inner_disk = LoopDisk::over(image)?;
        Filesystem::Ext4.make(inner_disk.path())?;
        let inner = Mount::new("ext4", inner_disk.path(), "defaults")?;
        let net = Net::under(&[outer.path(), inner.path()])?;
        Ok(Self { _net: net, inner, _inner_disk: inner_disk, outer, outer_disk })
    }

    fn hearts(&self) -> Result<[Heartbeat; 2]> {
        Ok([Heartbeat::start(self.outer.path())?, Heartbeat::start(self.inner.path())?])
    }

    /// Waits for a freeze that hangs.
    fn wait_for_silence(hearts: &[Heartbeat]) -> Result<()> {
        let silent = || Ok(hearts.iter().all(Heartbeat::is_silent).then_some(()));
        wait_for("a freeze that hangs", LIMIT, silent)
    }
}

/// In the wrong order: the second freeze hangs in the kernel until the first filesystem is thawed.
fn the_wrong_way_round(plan: &FreezePlan) -> Result<Arc<[Target]>> {
    let copy = |t: &Target| {
        anyhow::Ok(Target { file: t.file.try_clone()?, number: t.number, place: t.place.clone() })
    };
    plan.targets.iter().rev().map(copy).collect()
}

#[test]
fn a_freeze_that_hangs_in_the_kernel_holds_nothing_else_frozen() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let nest = Nest::new()?;
    let hearts = nest.hearts()?;
    let budget = Duration::from_secs(3);
    for killed in [false, true] {
        let targets = the_wrong_way_round(&FreezePlan::for_disks(&[number(&nest.outer_disk)?])?)?;
        let guard = Guard::spawn(targets, &records.options())?;
        let pid = guard.pid();
        let freezing = std::thread::spawn(move || guard.freeze(budget));
        Nest::wait_for_silence(&hearts)?;
        if killed {
            signal(pid, Signal::KILL)?;
        }
        hearts.iter().try_for_each(Heartbeat::beats_again)?;
        let error =
            freezing.join().map_err(|_| anyhow::anyhow!("panicked"))?.err().context("it was frozen")?;
        let right = matches!(error, FreezeError::GuardDied) == killed;
        ensure!(
            right && (killed || matches!(error, FreezeError::Overran { .. })),
            "killed: {killed}: {error}"
        );
        wait_for("the end of the record", LIMIT, || Ok((records.count()? == 0).then_some(())))?;
    }
    for heart in hearts {
        let longest = heart.finish()?;
        ensure!(longest < LIMIT, "frozen for {longest:?}");
    }
    Ok(())
}

#[test]
fn a_freeze_that_hangs_is_thawed_by_the_next_start_if_all_were_killed() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let nest = Nest::new()?;
    let hearts = nest.hearts()?;
    let mut agent = Agent::start(&nest.outer_disk, &records, BUDGET, "backwards")?;
    agent.go_on()?;
    Nest::wait_for_silence(&hearts)?;
    agent.signal(Signal::STOP)?;
    signal(agent.guard, Signal::KILL)?;
    agent.signal(Signal::KILL)?;
    let guard = agent.guard;
    drop(agent);
    ensure!(Path::new(&format!("/proc/{guard}")).exists(), "the kernel let it go");
    let left = leftovers::thaw_leftovers(&records.0)?;
    ensure!(left.len() == 2 && left.iter().all(|l| l.result.is_ok()), "{left:?}");
    hearts.iter().try_for_each(Heartbeat::beats_again)?;
    ensure!(records.count()? == 0, "the record is left");
    Ok(())
}

/// A partition that the kernel was told of; forgotten at the end.
struct Partition<'a> {
    disk: &'a LoopDisk,
    number: u32,
}

impl<'a> Partition<'a> {
    fn new(disk: &'a LoopDisk, number: u32, first_mib: u64, mib: u64) -> Result<Self> {
        let sectors = |mib: u64| (mib * MIB / 512).to_string();
        sh("addpart", &[&disk.name(), &number.to_string(), &sectors(first_mib), &sectors(mib)])?;
        Ok(Self { disk, number })
    }

    fn node(&self) -> PathBuf {
        format!("{}p{}", self.disk.name(), self.number).into()
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        if let Err(error) = sh("delpart", &[&self.disk.name(), &self.number.to_string()]) {
            eprintln!("{}: left behind: {error:#}", self.node().display());
        }
    }
}

/// Active swap on a partition.
struct Swap(PathBuf);

impl Swap {
    fn new(node: PathBuf) -> Result<Self> {
        sh("mkswap", &[&node.to_string_lossy()])?;
        sh("swapon", &[&node.to_string_lossy()])?;
        Ok(Self(node))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(error) = sh("swapoff", &[&self.0.to_string_lossy()]) {
            eprintln!("{}: left behind: {error:#}", self.0.display());
        }
    }
}

#[test]
fn partitions_and_swap_belong_to_their_disk() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let disk = LoopDisk::new(DISK)?;
    let first = Partition::new(&disk, 1, 1, 200)?;
    let second = Partition::new(&disk, 2, 300, 16)?;
    Filesystem::Ext4.make(&first.node())?;
    let mount = Mount::new("ext4", &first.node(), "defaults")?;
    let _net = Net::under(&[mount.path()])?;
    let swap = Swap::new(second.node())?;
    let plan = FreezePlan::for_disks(&[number(&disk)?])?;
    ensure!(plan.targets.len() == 1 && plan.targets[0].number == number_of(&first.node())?, "{plan:?}");
    ensure!(plan.swaps == [second.node().to_string_lossy()], "{:?}", plan.swaps);
    drop(swap);
    let heart = Heartbeat::start(mount.path())?;
    let frozen = freeze(&plan, &records, BUDGET)?;
    ensure!(heart.is_silent());
    ensure!(frozen.thaw()?.held());
    heart.beats_again()?;
    drop(heart);
    drop(plan);
    mount.unmount()
}

#[test]
fn a_btrfs_on_two_disks_is_frozen_for_either() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let disks = [LoopDisk::new(DISK)?, LoopDisk::new(DISK)?];
    sh("mkfs.btrfs", &["-q", "-f", &disks[0].name(), &disks[1].name()])?;
    sh("btrfs", &["device", "scan", &disks[0].name(), &disks[1].name()])?;
    let mount = Mount::new("btrfs", disks[1].path(), "defaults")?;
    let _net = Net::under(&[mount.path()])?;
    // A subvolume has a device number of its own; a loop device on a file in it must still be found.
    let subvolume = mount.path().join("sub");
    sh("btrfs", &["subvolume", "create", &subvolume.to_string_lossy()])?;
    let image = subvolume.join("image");
    File::create_new(&image)?.set_len(128 * MIB)?;
    let nested = LoopDisk::over(image)?;
    Filesystem::Ext4.make(nested.path())?;
    let inner = Mount::new("ext4", nested.path(), "defaults")?;
    for disk in &disks {
        let heart = Heartbeat::start(mount.path())?;
        let plan = FreezePlan::for_disks(&[number(disk)?])?;
        ensure!(plan.is_complete() && plan.targets.len() == 2, "{}: {plan:?}", disk.name());
        ensure!(plan.targets[0].number == number(&nested)?, "{plan:?}");
        let frozen = freeze(&plan, &records, BUDGET)?;
        ensure!(heart.is_silent());
        ensure!(frozen.thaw()?.held());
        heart.beats_again()?;
    }
    inner.unmount()?;
    drop(nested);
    mount.unmount()
}

#[test]
fn a_mount_in_another_namespace_is_found_and_one_that_nobody_sees_is_an_obstacle() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let disk = LoopDisk::new(DISK)?;
    Filesystem::Ext4.make(disk.path())?;
    let point = tempfile::tempdir()?;
    let script = "mount \"$1\" \"$2\" && : > \"$2/ready\" && cat > /dev/null";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "away"]).arg(disk.path());
    let mut away = Owned(command.arg(point.path()).stdin(Stdio::piped()).spawn()?);
    let inside: PathBuf = format!("/proc/{}/root{}", away.0.id(), point.path().display()).into();
    wait_for("mounting in a namespace", LIMIT, || Ok(inside.join("ready").exists().then_some(())))?;
    ensure!(!point.path().join("ready").exists(), "it is mounted here, too");
    let net = Net::under(&[&inside])?;

    let heart = Heartbeat::start(&inside)?;
    let plan = FreezePlan::for_disks(&[number(&disk)?])?;
    ensure!(plan.is_complete() && plan.targets.len() == 1, "{plan:?}");
    let frozen = freeze(&plan, &records, BUDGET)?;
    ensure!(heart.is_silent());
    ensure!(frozen.thaw()?.held());
    heart.beats_again()?;
    drop((plan, net));

    // Its last process ends; an open file keeps the filesystem alive, and it is written to.
    drop(away.0.stdin.take());
    away.0.wait()?;
    let plan = FreezePlan::for_disks(&[number(&disk)?])?;
    ensure!(!plan.is_complete() && plan.targets.is_empty(), "{plan:?}");
    heart.beats_again()?;
    drop(heart);
    wait_for("the end of the filesystem", LIMIT, || {
        Ok(FreezePlan::for_disks(&[number(&disk)?])?.is_complete().then_some(()))
    })
}

/// A child that is killed with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn what_somebody_else_froze_is_left_alone() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let theirs = Plot::new(Filesystem::Xfs)?;
    let ours = Plot::new(Filesystem::Ext4)?;
    let point = theirs.mount.path().to_string_lossy().into_owned();
    let hearts = [Heartbeat::start(theirs.mount.path())?, Heartbeat::start(ours.mount.path())?];
    sh("fsfreeze", &["--freeze", &point])?;
    let plan = FreezePlan::for_disks(&[number(&theirs.disk)?, number(&ours.disk)?])?;
    let frozen = freeze(&plan, &records, BUDGET)?;
    ensure!(frozen.refused.len() == 1 && frozen.refused[0].what == point, "{:?}", frozen.refused);
    ensure!(hearts.iter().all(Heartbeat::is_silent));
    ensure!(!frozen.thaw()?.held(), "a filesystem was not ours");
    hearts[1].beats_again()?;
    ensure!(hearts[0].is_silent(), "the foreign freeze was ended");
    sh("fsfreeze", &["--unfreeze", &point])?;
    hearts[0].beats_again()?;

    // The other way round: somebody thaws ours.
    let frozen = freeze(&plan, &records, BUDGET)?;
    sh("fsfreeze", &["--unfreeze", &point])?;
    hearts[0].beats_again()?;
    let report = frozen.thaw()?;
    ensure!(report.why_not_held().is_some_and(|why| why.contains("somebody else")), "{report:?}");
    Ok(())
}

#[test]
fn the_guard_thaws_when_the_time_is_over() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let heart = Heartbeat::start(ground.mount.path())?;
    let plan = ground.plan()?;
    let budget = Duration::from_millis(600);
    let frozen = freeze(&plan, &records, budget)?;
    ensure!(heart.is_silent());
    std::thread::sleep(budget);
    heart.beats_again()?;
    let report = frozen.thaw()?;
    ensure!(report.cause == Cause::Deadline && !report.held(), "{report:?}");
    // A budget beyond the cap is cut.
    let frozen = freeze(&plan, &records, Duration::from_secs(3600))?;
    std::thread::sleep(HARD_CAP);
    heart.beats_again()?;
    ensure!(frozen.thaw()?.cause == Cause::Deadline);
    // Dropping thaws as well.
    drop(freeze(&plan, &records, BUDGET)?);
    heart.beats_again()?;
    // So little time that nothing can be frozen in it: an error, and nothing is frozen.
    let hasty = freeze(&plan, &records, Duration::from_nanos(1));
    ensure!(hasty.is_err());
    heart.beats_again()?;
    let longest = heart.finish()?;
    ensure!((HARD_CAP - Duration::from_secs(1)..LIMIT).contains(&longest), "frozen for {longest:?}");
    Ok(())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    kill_process(pid, signal).with_context(|| format!("sending {signal:?}"))
}

#[test]
fn a_guard_that_is_killed_stopped_or_told_to_end_leaves_nothing_frozen() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let heart = Heartbeat::start(ground.mount.path())?;
    let plan = ground.plan()?;
    let budget = Duration::from_secs(1);
    let cases =
        [(Signal::KILL, Cause::GuardDied), (Signal::TERM, Cause::Signal), (Signal::STOP, Cause::GuardDied)];
    for (sent, cause) in cases {
        let frozen = freeze(&plan, &records, budget)?;
        ensure!(heart.is_silent());
        signal(frozen.pid(), sent)?;
        // Nobody asks for it.
        heart.beats_again()?;
        let report = frozen.thaw()?;
        ensure!(report.cause == cause && !report.held(), "{sent:?}: {report:?}");
        ensure!(records.count()? == 0, "a record is left");
    }
    // While it stands by.
    let guard = Guard::spawn(Arc::clone(&plan.targets), &records.options())?;
    signal(guard.pid(), Signal::KILL)?;
    ensure!(matches!(guard.freeze(BUDGET), Err(FreezeError::GuardDied)));
    heart.beats_again()?;
    let longest = heart.finish()?;
    ensure!(longest < LIMIT, "frozen for {longest:?}");
    Ok(())
}

#[test]
fn a_guard_that_is_killed_while_it_freezes_leaves_nothing_frozen() -> Result<()> {
    require_root!();
    let logs = tempfile::tempdir()?;
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let load = Load::start(Ground::Folder(ground.mount.path().to_owned()), logs.path())?;
    let heart = Heartbeat::start(ground.mount.path())?;
    let plan = ground.plan()?;
    let was_hasty = is_hasty();
    for millis in [0, 5, 20, 60, 120, 200] {
        let guard = Guard::spawn(Arc::clone(&plan.targets), &records.options())?;
        let pid = guard.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(millis));
            signal(pid, Signal::KILL)
        });
        // It may have been frozen before it was killed.
        drop(guard.freeze(BUDGET).and_then(Frozen::thaw));
        drop(killer.join());
        heart.beats_again()?;
        ensure!(records.count()? == 0, "a record is left");
    }
    let longest = heart.finish()?;
    ensure!(longest < LIMIT, "frozen for {longest:?}");
    // Another run may be freezing just now.
    wait_for("the end of the kernel's hurry", LIMIT, || Ok((was_hasty || !is_hasty()).then_some(())))?;
    drop(plan);
    load.stop()
}

/// Whether the kernel has been asked for short grace periods.
fn is_hasty() -> bool {
    fs::read("/sys/kernel/rcu_expedited").is_ok_and(|value| value.starts_with(b"1"))
}

#[test]
fn the_guards_own_program_may_lie_on_what_is_frozen() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let program = ground.mount.path().join("blxrep");
    fs::copy(env!("CARGO_BIN_EXE_blxrep"), &program)?;
    // Nothing of it stays in memory but what the guard locks.
    sh("sync", &["--file-system", &program.to_string_lossy()])?;
    let file = File::open(&program)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let heart = Heartbeat::start(ground.mount.path())?;
    let plan = ground.plan()?;
    let frozen =
        Guard::spawn(Arc::clone(&plan.targets), &Options { program, ..records.options() })?.freeze(BUDGET)?;
    ensure!(heart.is_silent());
    let report = frozen.thaw()?;
    ensure!(report.held(), "{report:?}");
    heart.beats_again()
}

/// The agent of the tests of killing: the body of a process of its own.
#[test]
#[ignore = "started by other tests"]
fn helper() -> Result<()> {
    let Ok(text) = std::env::var(HELPER) else { return Ok(()) };
    let words: Vec<&str> = text.split(' ').collect();
    let [device, records, millis, order] = words[..] else { bail!("{HELPER}={text}: not understood") };
    let options = Options { program: env!("CARGO_BIN_EXE_blxrep").into(), records: records.into() };
    let plan = FreezePlan::for_disks(&[number_of(Path::new(device))?])?;
    let targets = if order == "backwards" { the_wrong_way_round(&plan)? } else { Arc::clone(&plan.targets) };
    let guard = Guard::spawn(targets, &options)?;
    let mut lines = std::io::stdin().lines();
    let mut step = |name: &str| {
        // Not `println!`: the test harness would swallow it.
        writeln!(std::io::stdout(), "step {name}")?;
        anyhow::Ok(lines.next().transpose()?)
    };
    step(&format!("spawned {}", guard.pid()))?;
    let frozen = guard.freeze(Duration::from_millis(millis.parse()?))?;
    step("frozen")?;
    let report = frozen.thaw()?;
    step(&format!("thawed {}", report.held()))?;
    Ok(())
}

/// A helper that is driven step by step.
struct Agent {
    child: Owned,
    steps: ChildStdin,
    said: Receiver<String>,
    guard: u32,
}

impl Agent {
    fn start(disk: &LoopDisk, records: &Records, budget: Duration, order: &str) -> Result<Self> {
        let told = format!("{} {} {} {order}", disk.name(), records.0.display(), budget.as_millis());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "helper", "--ignored", "--nocapture"]).env(HELPER, told);
        let mut child = Owned(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let (stdin, stdout) = (child.0.stdin.take(), child.0.stdout.take());
        let (say, said) = channel();
        let stdout = BufReader::new(stdout.context("no output")?);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, step)) = line.split_once("step ") {
                    drop(say.send(step.to_owned()));
                }
            }
        });
        let mut agent = Self { child, steps: stdin.context("no input")?, said, guard: 0 };
        let spawned = agent.hear()?;
        agent.guard = spawned.strip_prefix("spawned ").context("not spawned")?.parse()?;
        Ok(agent)
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(self.steps.write_all(b"\n")?)
    }

    fn hear(&self) -> Result<String> {
        self.said.recv_timeout(Duration::from_secs(30)).context("the helper says nothing")
    }

    fn signal(&self, sent: Signal) -> Result<()> {
        signal(self.child.0.id(), sent)
    }
}

/// Where an agent is killed or stopped.
#[derive(Clone, Copy, Debug)]
enum Step {
    Spawned,
    Freezing(u64),
    Frozen,
    Thawing(u64),
}

/// Takes an agent to a step.
fn agent_at(step: Step, ground: &Plot, records: &Records) -> Result<Agent> {
    let mut agent = Agent::start(&ground.disk, records, AGENT_BUDGET, "forwards")?;
    match step {
        Step::Spawned => {}
        Step::Freezing(millis) => {
            agent.go_on()?;
            std::thread::sleep(Duration::from_millis(millis));
        }
        Step::Frozen | Step::Thawing(_) => {
            agent.go_on()?;
            ensure!(agent.hear()? == "frozen");
        }
    }
    if let Step::Thawing(millis) = step {
        agent.go_on()?;
        std::thread::sleep(Duration::from_millis(millis));
    }
    Ok(agent)
}

/// Sends the signal to an agent at every step; afterwards everything must be writable again by itself.
fn survives(sent: Signal) -> Result<()> {
    let logs = tempfile::tempdir()?;
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let load = Load::start(Ground::Folder(ground.mount.path().to_owned()), logs.path())?;
    let heart = Heartbeat::start(ground.mount.path())?;
    let steps = [
        Step::Spawned,
        Step::Freezing(0),
        Step::Freezing(30),
        Step::Freezing(150),
        Step::Frozen,
        Step::Frozen,
        Step::Thawing(0),
        Step::Thawing(5),
    ];
    for step in steps.iter().copied().cycle().take(steps.len() * times(1, 100)) {
        let agent = agent_at(step, &ground, &records)?;
        agent.signal(sent)?;
        // A freeze that has not yet begun may still begin; it ends by itself. So does the guard of a killed agent.
        std::thread::sleep(AGENT_BUDGET + Duration::from_millis(500));
        heart.beats_again().with_context(|| format!("{sent:?} at {step:?}"))?;
        let guard: PathBuf = format!("/proc/{}", agent.guard).into();
        drop(agent);
        wait_for("the end of the guard", LIMIT, || Ok((!guard.exists()).then_some(())))?;
    }
    let longest = heart.finish()?;
    eprintln!("{sent:?} of the agent: longest pause {longest:?}");
    ensure!(longest < LIMIT, "frozen for {longest:?}");
    let left = leftovers::thaw_leftovers(&records.0)?;
    ensure!(left.is_empty(), "{left:?}");
    ensure!(records.count()? == 0, "records are left");
    load.stop()
}

#[test]
fn an_agent_that_is_killed_at_any_step_leaves_nothing_frozen() -> Result<()> {
    require_root!();
    survives(Signal::KILL)
}

#[test]
fn an_agent_that_is_stopped_at_any_step_leaves_nothing_frozen() -> Result<()> {
    require_root!();
    survives(Signal::STOP)
}

#[test]
fn what_agent_and_guard_left_is_thawed_by_the_next_start() -> Result<()> {
    require_root!();
    let records = Records::new()?;
    let ground = Plot::new(Filesystem::Ext4)?;
    let heart = Heartbeat::start(ground.mount.path())?;
    for by_command in [false, true] {
        let agent = agent_at(Step::Frozen, &ground, &records)?;
        agent.signal(Signal::STOP)?;
        signal(agent.guard, Signal::KILL)?;
        agent.signal(Signal::KILL)?;
        drop(agent);
        ensure!(heart.is_silent(), "who thawed it?");
        ensure!(records.count()? == 1, "no record of what is frozen");
        if by_command {
            sh(env!("CARGO_BIN_EXE_blxrep"), &["thaw", "--records", &records.0.to_string_lossy()])?;
        } else {
            let left = leftovers::thaw_leftovers(&records.0)?;
            ensure!(left.len() == 1 && left[0].result.is_ok(), "{left:?}");
            let place = ground.mount.path().to_string_lossy().into_owned();
            ensure!(left[0].filesystem.starts_with(&place), "{left:?}");
        }
        heart.beats_again()?;
        ensure!(records.count()? == 0, "the record is left");
    }
    // A freeze that is going on is nobody's leftover.
    let plan = ground.plan()?;
    let frozen = freeze(&plan, &records, Duration::from_secs(1))?;
    let report: Report = {
        let other = std::thread::spawn({
            let folder = records.0.clone();
            move || leftovers::thaw_leftovers(&folder)
        });
        ensure!(heart.is_silent());
        let report = frozen.thaw()?;
        let left = other.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(left.is_empty(), "{left:?}");
        report
    };
    ensure!(report.held(), "{report:?}");
    Ok(())
}
