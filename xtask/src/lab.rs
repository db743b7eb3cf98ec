//! `cargo xtask lab`: the power of whole machines is cut, under load, and a machine is booted from a point. Small virtual
//! machines with a stock Debian kernel run the program as it was built; what must be true is asked from outside.
//!
//! The guests are made of Debian's packages by `xtask/lab/prep.sh`, once, under `target/lab`. Without KVM a boot takes 10
//! to 45 s. A killed machine loses what it had not handed to its disk; a volatile cache of that disk is not modelled.

mod boot;
mod kernel;

use crate::cargo::build_program;
use crate::packages;
use crate::signals;
use crate::support::compare::ensure_identical;
use crate::support::content::{Content, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{is_root, run as run_tool, wait_for};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::site::{DONE, PointRow, Site};
use crate::support::stamper::{Plan, Stamper};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// The disk that is protected.
const DISK: u64 = 128 * MIB;
/// The disk of the dispatcher's machine.
const STORE: u64 = 768 * MIB;
/// A boot, or a point, on an emulated machine that shares two cores with others.
const PATIENCE: Duration = Duration::from_secs(420);
/// After this a machine is killed, whatever it does.
const LIFE: &str = "1500";
const AGENT: &str = "lab";

#[derive(Debug, Args)]
pub struct Options {
    /// How often the power of each machine is cut
    #[arg(long, default_value_t = 1)]
    cuts: u32,
    /// Series of the guest's kernel: 6.1 or 6.12
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Only this: whether the kernel takes the programs, the machine of an agent or of a dispatcher that loses its power, or
    /// the boot of a point
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// A program that was built before, instead of a release build
    #[arg(long)]
    program: Option<PathBuf>,
}

/// What the lab does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Kernel,
    Agent,
    Dispatcher,
    Boot,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "the lab needs root: it makes a guest's root folder (sudo -E env PATH=$PATH cargo xtask lab)"
    );
    packages::ensure_tools(&packages::FOR_TESTS)?;
    packages::ensure_tools(&packages::FOR_LAB)?;
    let program = options.program.clone().map_or_else(build_program, Ok)?;
    signals::unwind_on_interrupt()?;
    let lab = Lab::new(&program, &options.kernel)?;
    let wanted = |part: Part| options.only.is_none_or(|only| only == part);
    if [Part::Kernel, Part::Agent, Part::Dispatcher].into_iter().any(wanted) {
        lab.prepare()?;
    }
    if wanted(Part::Kernel) {
        kernel::takes_the_programs(&lab)?;
    }
    if wanted(Part::Agent) {
        agent_loses_power(&lab, options.cuts)?;
    }
    if wanted(Part::Dispatcher) {
        dispatcher_loses_power(&lab, options.cuts)?;
    }
    if wanted(Part::Boot) {
        boot::points_boot(&lab)?;
    }
    println!("\nall of it was right; everything is cleaned up");
    Ok(())
}

/// What every machine is made of.
struct Lab {
    scripts: PathBuf,
    work: PathBuf,
    kernel: String,
    program: PathBuf,
}

impl Lab {
    fn new(program: &Path, kernel: &str) -> Result<Self> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
        let here = std::env::current_dir()?.join("target/lab");
        let work = std::env::var_os("LABWORK").map_or(here, PathBuf::from);
        fs::create_dir_all(&work)?;
        Ok(Self { scripts, work, kernel: kernel.to_owned(), program: program.to_owned() })
    }

    /// Makes the root and kernel of guests that run one script, unless they are there.
    fn prepare(&self) -> Result<()> {
        println!("preparing the guests in {}", self.work.display());
        run_tool(&mut self.script("prep.sh")).map(drop)
    }

    /// One of the scripts of the lab.
    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(self.scripts.join(name));
        command.env("LABWORK", &self.work).env("LAB_KERNELS", &self.kernel);
        command
    }

    /// Starts a machine that runs `script`, with `folder` as its `/lab` and `disk` as its first disk. It loses its power
    /// when the file `cut` appears in the folder.
    fn start(&self, folder: &Path, disk: &Path, network: &str, script: &str) -> Result<Process> {
        for name in ["cut", "stop", "stopped", "end", "ready", "points.json", "verified"] {
            drop(fs::remove_file(folder.join(name)));
        }
        fs::write(folder.join("script"), format!("{PRELUDE}\n{script}"))?;
        let mut vm = self.script("vm");
        vm.args(["-k", &self.kernel, "-t", LIFE, "-m", "1024", "-v"]);
        vm.arg("-x").arg(folder).arg("-d").arg(format!("virtio:{}", disk.display()));
        vm.arg(format!("--qemu=-netdev user,id=n0{network} -device virtio-net-pci,netdev=n0"));
        vm.args(["--cut-on", "LAB-CUT", "--", "bash /lab/script"]);
        Process::spawn("vm", &mut vm, folder)
    }

    /// A folder with what a machine needs.
    fn folder(&self, site: &Site, name: &str) -> Result<PathBuf> {
        let folder = site.path(name);
        fs::create_dir(&folder)?;
        self.put_program(&folder.join("blxrep"))?;
        put_secret(site, &folder.join("secret"))?;
        Ok(folder)
    }

    /// The program without its symbols: those would take longer to come over than all else.
    fn put_program(&self, to: &Path) -> Result<()> {
        run_tool(Command::new("strip").arg("-o").arg(to).arg(&self.program)).map(drop)
    }
}

fn put_secret(site: &Site, to: &Path) -> Result<()> {
    fs::copy(site.path("secret"), to)?;
    Ok(fs::set_permissions(to, Permissions::from_mode(0o600))?)
}

/// Network up; the power goes when it is told to.
const PRELUDE: &str = "modprobe virtio_net; udevadm settle -t 30
for i in /sys/class/net/e*; do nic=${i##*/}; done
ip addr add 10.0.2.15/24 dev $nic; ip link set $nic up; ip route add default via 10.0.2.2
(while sleep 0.2; do [ -e /lab/cut ] && echo LAB-CUT && sleep 60; done) &
cp /lab/blxrep /tmp/blxrep; cd /lab";

/// Cuts the power and waits until the machine is gone.
fn cut_power(vm: &mut Process, folder: &Path) -> Result<()> {
    File::create(folder.join("cut"))?;
    let status = vm.wait(PATIENCE)?;
    ensure!(status.code() == Some(137), "the machine ended by itself ({status})\n{}", vm.tail());
    Ok(())
}

fn told(what: &str, since: Instant) {
    println!("  {:>6.1} s  {what}", since.elapsed().as_secs_f64());
}

/// A machine whose agent protects its disk, under a load that goes on, loses its power.
fn agent_loses_power(lab: &Lab, cuts: u32) -> Result<()> {
    println!("\n==> the machine of an agent loses its power");
    let since = Instant::now();
    let site = Site::new(&lab.program, "5s")?;
    let _dispatcher = site.dispatcher()?;
    let proxy = Proxy::start(&site.address()?)?;
    let folder = lab.folder(&site, "guest")?;
    let disk = site.path("disk.img");
    File::create(&disk)?.set_len(DISK)?;
    fill_device(&disk, 7, |mib| if mib % 2 == 0 { Content::Incompressible } else { Content::Zero })?;
    let port = proxy.address().rsplit(':').next().context("no port")?.to_owned();
    let script = format!(
        "/tmp/blxrep start --mode agent --id {AGENT} --dispatcher-addr 10.0.2.2:{port} --secret-file /lab/secret \
         --disk /dev/vda --pin-dir /sys/fs/bpf/lab 2>&1 &
fio --name=load --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k --rate_iops=40 --randrepeat=0 --time_based \
  --runtime=3600 >/tmp/fio 2>&1 & load=$!
echo 1 >/lab/ready
until [ -e /lab/stop ]; do sleep 0.3; done
kill -INT $load; wait $load; blockdev --flushbufs /dev/vda; echo 1 >/lab/stopped
until [ -e /lab/end ]; do sleep 0.3; done"
    );
    let mut vm = lab.start(&folder, &disk, "", &script)?;
    let mut known = wait_points(&site, &mut vm, 3, &BTreeSet::new())?;
    told(&format!("base and {} points under load", known.len() - 1), since);
    for cut in 1..=cuts {
        cut_power(&mut vm, &folder)?;
        let before = ids(&site.points(AGENT)?);
        let moved = proxy.sent_by_clients();
        told(&format!("power cut {cut}; {} points are published", before.len()), since);
        vm = lab.start(&folder, &disk, "", &script)?;
        known = wait_points(&site, &mut vm, before.len() + 1, &before)?;
        let first = known.iter().find(|p| !before.contains(&p.id)).context("no new point")?;
        told(
            &format!(
                "first point after the boot: {}, {:.1} MiB carried, coverage {}; {:.1} MiB moved until then",
                first.consistency,
                first.bytes as f64 / MIB as f64,
                first.coverage,
                (proxy.sent_by_clients() - moved) as f64 / MIB as f64
            ),
            since,
        );
        ensure!(
            first.coverage != "proven",
            "a reboot takes the coverage, and the point says nothing: {first:?}"
        );
    }
    File::create(folder.join("stop"))?;
    wait_for("the load to stop", PATIENCE, || Ok(folder.join("stopped").exists().then_some(())))
        .with_context(|| vm.tail())?;
    let last = wait_for("a last point", PATIENCE, || site.sync_one(AGENT).map(Some))?;
    File::create(folder.join("end"))?;
    vm.wait(PATIENCE)?;
    ensure_identical(&disk, &site.restore(&last)?)?;
    let points = site.points(AGENT)?;
    let bases = points.iter().filter(|p| p.kind == "base").count();
    ensure!(bases == 1, "{bases} full images were made");
    ensure!(known.iter().all(|p| points.iter().any(|q| q.id == p.id)), "a point is gone");
    site.cli(&["verify"])?.expect(DONE, &[])?;
    told("the last point is the machine's disk, byte by byte; one full image in all", since);
    site.done();
    Ok(())
}

fn ids(points: &[PointRow]) -> BTreeSet<String> {
    points.iter().map(|p| p.id.clone()).collect()
}

/// Waits for so many points of the agent, all of `before` among them.
fn wait_points(
    site: &Site,
    vm: &mut Process,
    count: usize,
    before: &BTreeSet<String>,
) -> Result<Vec<PointRow>> {
    let points = wait_for(&format!("{count} points"), PATIENCE, || {
        ensure!(vm.is_running()?, "the machine ended\n{}", vm.tail());
        Ok(Some(site.points(AGENT)?).filter(|points| points.len() >= count))
    })
    .with_context(|| vm.tail())?;
    let now = ids(&points);
    ensure!(before.is_subset(&now), "points are gone: {:?}", before.difference(&now));
    Ok(points)
}

/// A machine whose dispatcher takes points of an agent elsewhere loses its power.
fn dispatcher_loses_power(lab: &Lab, cuts: u32) -> Result<()> {
    println!("\n==> the machine of a dispatcher loses its power");
    let since = Instant::now();
    let site = Site::new(&lab.program, "2s")?;
    let folder = lab.folder(&site, "guest")?;
    fs::create_dir(folder.join("policies"))?;
    fs::copy(site.path("policies/all.yaml"), folder.join("policies/all.yaml"))?;
    let shelf = site.path("shelf.img");
    File::create(&shelf)?.set_len(STORE)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let network = format!(",hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:9001");
    let mut vm = lab.start(&folder, &shelf, &network, DISPATCHER)?;
    let proxy = Proxy::start(&format!("127.0.0.1:{port}"))?;
    let disk = LoopDisk::new(DISK)?;
    let mut home = site.agent(AGENT, &[(&disk, "disk")])?;
    home.connect_via(&proxy);
    site.assume_address(&proxy.address());
    let writers = Stamper::start(&[disk.path()], Plan { writers: 1, rate: Some(40), ..Plan::default() })?;
    let agent = home.launch(&site, &[])?;
    let mut known = shown(&folder, &mut vm, 4, &BTreeSet::new())?;
    told(&format!("base and {} points under load", known.len() - 1), since);
    for cut in 1..=cuts {
        cut_power(&mut vm, &folder)?;
        // What the dispatcher's own command line has shown before the cut was published.
        told(&format!("power cut {cut}; {} points were shown", known.len()), since);
        vm = lab.start(&folder, &shelf, &network, DISPATCHER)?;
        known = shown(&folder, &mut vm, known.len() + 2, &known)?;
        told("the store opened, every point is there, and new ones came", since);
    }
    writers.stop()?;
    File::create(folder.join("stop"))?;
    wait_for("the last point to be restored and verified in the machine", PATIENCE, || {
        ensure!(vm.is_running()?, "the machine ended\n{}", vm.tail());
        Ok(folder.join("verified").exists().then_some(()))
    })
    .with_context(|| vm.tail())
    .with_context(|| agent.tail())?;
    File::create(folder.join("end"))?;
    vm.wait(PATIENCE)?;
    let points: Vec<PointRow> = serde_json::from_slice(&fs::read(folder.join("points.json"))?)?;
    let bases = points.iter().filter(|p| p.kind == "base").count();
    ensure!(bases == 1, "{bases} full images were made");
    ensure!(points.iter().all(|p| p.coverage == "proven"), "coverage was lost: {points:#?}");
    ensure_identical(disk.path(), &folder.join("restored.img"))?;
    told(
        "the last point is the agent's disk, byte by byte; one full image in all; verify found nothing",
        since,
    );
    site.done();
    Ok(())
}

/// What the dispatcher's machine has shown, all of `before` among it.
fn shown(
    folder: &Path,
    vm: &mut Process,
    count: usize,
    before: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let points = wait_for(&format!("{count} points"), PATIENCE, || {
        ensure!(vm.is_running()?, "the machine ended\n{}", vm.tail());
        // It may be replaced at this moment.
        let text = fs::read(folder.join("points.json")).unwrap_or_default();
        let points = serde_json::from_slice::<Vec<PointRow>>(&text).unwrap_or_default();
        Ok(Some(ids(&points)).filter(|points| points.len() >= count))
    })
    .with_context(|| vm.tail())?;
    ensure!(before.is_subset(&points), "points are gone: {:?}", before.difference(&points));
    Ok(points)
}

/// The dispatcher's machine: a filesystem, the dispatcher, and what it shows, for those outside.
const DISPATCHER: &str = "modprobe ext4; blkid /dev/vda || mkfs.ext4 -q /dev/vda; mkdir -p /data; mount /dev/vda /data
mkdir -p /data/store
/tmp/blxrep start --mode dispatcher --listen 127.0.0.1:9000 --data-dir /data/store --policy-dir /lab/policies \
  --secret-file /lab/secret 2>&1 &
socat TCP-LISTEN:9001,bind=10.0.2.15,fork,reuseaddr TCP:127.0.0.1:9000 &
ask() { /tmp/blxrep \"$@\" --data-dir /data/store; }
show() { ask points --json >/tmp/points 2>/dev/null && cp /tmp/points /lab/points.new && mv /lab/points.new /lab/points.json; }
until [ -e /lab/stop ]; do show; sleep 0.5; done
rm -f /lab/verified
until ask sync lab --wait; do sleep 1; done
show
newest=$(python3 -c 'import json; p=json.load(open(\"/lab/points.json\")); print(max(p, key=lambda p: p[\"cut\"])[\"id\"])')
ask restore $newest --to /data/restored.img --yes && cp --sparse=always /data/restored.img /lab/restored.img &&
  ask verify && echo 1 >/lab/verified
until [ -e /lab/end ]; do sleep 0.3; done
kill %2; sync";
