//! A Debian system is protected while it runs and writes; a point of it is booted, over NBD with a scratch layer and after
//! a restore to an empty disk. It is its own judge: it says on its console what it found when it had reached its target.
//!
//! Its writer tells on a second serial line what is durable, and when, by the clock that the cut is told by.

use super::{AGENT, Lab, PATIENCE, put_secret, told};
use crate::support::fixture::{run as run_tool, wait_for};
use crate::support::process::Process;
use crate::support::site::{PointRow, Site};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A boot with systemd, and a digest of every file, on an emulated machine that shares two cores with others.
const BOOT: Duration = Duration::from_secs(900);
/// After this a machine is killed, whatever it does.
const LIFE: &str = "3000";
/// Deltas before and behind the point that is booted.
const AROUND: usize = 2;

/// What a system says of itself at the end of its boot.
#[derive(Debug, Deserialize)]
struct Found {
    target: String,
    failed: Vec<String>,
    #[serde(flatten)]
    files: Option<Files>,
}

/// The same of its files, if its writer had run before.
#[derive(Debug, Deserialize)]
struct Files {
    /// What is not as it was made.
    manifest: Vec<String>,
    /// Whole records of the log, and their digest.
    records: usize,
    log: String,
    /// Bytes behind the last of them.
    torn: usize,
    /// The newest note, or what is wrong with them.
    notes: serde_json::Value,
}

/// A record of which the protected system said that it was durable.
#[derive(Debug)]
struct Record {
    /// Nanoseconds since 1970: when it was begun, and when it was durable.
    begun: i128,
    durable: i128,
    line: String,
}

pub(super) fn points_boot(lab: &Lab) -> Result<()> {
    println!("\n==> points of a running system are booted");
    let since = Instant::now();
    let site = Site::new(&lab.program, "3s")?;
    let _dispatcher = site.dispatcher()?;
    let image = made(lab, &site)?;
    told(&format!("a Debian with the agent's own systemd unit on its root disk, {}", image.display()), since);
    let folder = site.path("protected");
    let network = "--qemu=-netdev user,id=n0 -device virtio-net-pci,netdev=n0";
    let serial = format!("--qemu=-serial file:{}", folder.join("line").display());
    let disk = format!("virtio:{}", image.display());
    let mut machine = boot(lab, &folder, &disk, &[network, &serial])?;
    let found = reported(&mut machine, &folder)?;
    ensure!(found.target == "active" && found.failed.is_empty(), "the system does not run: {found:?}");
    told("it runs and writes", since);
    let point = point_in_the_middle(&site, &mut machine, &folder)?;
    machine.kill()?;
    let records = records(&folder)?;
    told(&format!("{} records were written; its power is cut", records.len()), since);
    // Points that were on their way are published or given up by now.
    let points = site.points(AGENT)?;
    let stored = stored(&site.path("data"))?;

    let mut export = Command::new(site.program());
    let socket = site.path("nbd.sock");
    export.args(["export", &point.id, "--writable", "--nbd"]).arg(format!("unix:{}", socket.display()));
    export.arg("--data-dir").arg(site.path("data"));
    let mut export = Process::spawn("export", &mut export, &site.logs())?;
    export.wait_for_output(&["Ctrl-C ends it"], PATIENCE)?;
    let found = booted(lab, &site.path("over-nbd"), &format!("virtio:nbd:unix:{}", socket.display()))?;
    let said = judge(&found, &point, &records)?;
    export.terminate(PATIENCE)?;
    told(&format!("booted over NBD with a scratch layer: {said}"), since);

    let restored = site.restore(&point.id)?;
    let found = booted(lab, &site.path("restored-disk"), &format!("virtio:{}", restored.display()))?;
    let said = judge(&found, &point, &records)?;
    told(&format!("booted after a restore to an empty disk: {said}"), since);

    ensure!(self::stored(&site.path("data"))? == stored, "booting a point has changed the store");
    let now: Vec<_> = site.points(AGENT)?.into_iter().map(|p| p.id).collect();
    ensure!(points.iter().map(|p| &p.id).eq(&now), "booting a point has changed the points");
    told(&format!("the {} files of the store are what they were", stored.len()), since);
    site.done();
    Ok(())
}

/// The system's disk: Debian, the program, its unit, its configuration.
fn made(lab: &Lab, site: &Site) -> Result<PathBuf> {
    let over = site.path("over");
    for folder in ["usr/bin", "etc/blxrep", "etc/systemd/system"] {
        fs::create_dir_all(over.join(folder))?;
    }
    lab.put_program(&over.join("usr/bin/blxrep"))?;
    put_secret(site, &over.join("etc/blxrep/secret"))?;
    let address = site.address()?;
    let port = address.rsplit(':').next().context("no port")?;
    let config = format!(
        "agent:\n  id: {AGENT}\n  dispatcher_addr: 10.0.2.2:{port}\n  secret_file: /etc/blxrep/secret\n  disks:\n    \
         - device: /dev/vda\n"
    );
    fs::write(over.join("etc/blxrep/config.yaml"), config)?;
    let unit = "blxrep-agent.service";
    fs::copy(Path::new("dist/systemd").join(unit), over.join("etc/systemd/system").join(unit))?;
    let image = site.path("system.img");
    println!("making a system that boots, from packages of Debian, in {}", lab.work.display());
    run_tool(lab.script("mkboot.sh").arg(&image).arg(&over))?;
    Ok(image)
}

/// Starts a machine that boots from a disk.
fn boot(lab: &Lab, folder: &Path, disk: &str, more: &[&str]) -> Result<Process> {
    fs::create_dir(folder)?;
    let mut vm = lab.script("vm");
    vm.args(["--boot", "-t", LIFE, "-m", "1024", "-c", "1", "-d", disk, "-x"]).arg(folder).args(more);
    Process::spawn("vm", &mut vm, folder)
}

/// Boots a disk; what the system found of itself. The machine is gone then.
fn booted(lab: &Lab, folder: &Path, disk: &str) -> Result<Found> {
    let mut machine = boot(lab, folder, disk, &[])?;
    reported(&mut machine, folder)
}

fn reported(machine: &mut Process, folder: &Path) -> Result<Found> {
    let console = || fs::read(folder.join("console")).unwrap_or_default();
    let said = wait_for("the system to say that it runs", BOOT, || {
        ensure!(machine.is_running()?, "the machine ended");
        let text = String::from_utf8_lossy(&console()).into_owned();
        let behind = text.split_once("LAB-BOOTED ").map(|(_, behind)| behind);
        Ok(behind.and_then(|behind| behind.split_once(" LAB-END")).map(|(said, _)| said.to_owned()))
    });
    let said = said.with_context(|| {
        let console = console();
        let end = &console[console.len().saturating_sub(4000)..];
        format!("--- the end of its console:\n{}\n---\n{}", String::from_utf8_lossy(end), machine.tail())
    })?;
    serde_json::from_str(&said).with_context(|| format!("the system said {said}"))
}

/// Waits for enough deltas, and for records behind the last of them. Returns the one in the middle.
fn point_in_the_middle(site: &Site, machine: &mut Process, folder: &Path) -> Result<PointRow> {
    let quiet = |points: &[PointRow]| -> Vec<PointRow> {
        points.iter().filter(|p| p.kind != "base" && p.consistency == "quiet").cloned().collect()
    };
    let points = wait_for("points of the running system", BOOT, || {
        ensure!(machine.is_running()?, "the machine ended\n{}", machine.tail());
        Ok(Some(quiet(&site.points(AGENT)?)).filter(|points| points.len() > 2 * AROUND))
    })?;
    let known = records(folder)?.len();
    wait_for("more records", PATIENCE, || Ok((records(folder)?.len() > known + 10).then_some(())))?;
    points.into_iter().nth(AROUND).context("no point")
}

/// What the writer told.
fn records(folder: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(folder.join("line")).unwrap_or_default();
    // The last line may be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| record(line.trim_end()).with_context(|| format!("the writer said {line}")))
        .collect()
}

fn record(line: &str) -> Option<Record> {
    let (durable, line) = line.strip_prefix("RECORD ")?.split_once(' ')?;
    let begun = line.split(' ').nth(1)?.parse().ok()?;
    Some(Record { begun, durable: durable.parse().ok()?, line: format!("{line}\n") })
}

/// Whether a booted system is the protected one at the cut of a point. Returns what was found, for people.
fn judge(found: &Found, point: &PointRow, records: &[Record]) -> Result<String> {
    ensure!(found.target == "active" && found.failed.is_empty(), "it does not run as it did: {found:?}");
    let files = found.files.as_ref().context("it found nothing of its writer")?;
    ensure!(files.manifest.is_empty(), "files at rest are not what they were: {found:?}");
    let cut: jiff::Timestamp = point.cut.parse()?;
    let cut = cut.as_nanosecond();
    let kept = records.get(..files.records).context("it has more records than were written")?;
    let before = records.iter().take_while(|record| record.durable <= cut).count();
    ensure!(kept.len() >= before, "{before} records were durable before the cut, and it has {}", kept.len());
    let newest = kept.last().context("it has no records")?;
    // The cut is a moment within its last round: at its start, or a little later.
    let published: jiff::Timestamp = point.published.parse()?;
    ensure!(newest.begun <= published.as_nanosecond().max(cut), "it has a record from behind the point");
    ensure!(kept.len() < records.len(), "the point is no earlier than the end");
    let log: String = kept.iter().map(|record| record.line.as_str()).collect();
    ensure!(sha256(&log)? == files.log, "its {} records are not those that were written", kept.len());
    // Each is durable before the next is begun: record, note, record.
    let notes = files.notes.as_u64().with_context(|| format!("its notes: {}", files.notes))?;
    let notes = usize::try_from(notes)?;
    ensure!(notes == kept.len() || notes + 1 == kept.len(), "note {notes} beside record {}", kept.len());
    Ok(format!(
        "its target, every file at rest, {} records ({before} were durable at the cut), {} torn bytes",
        kept.len(),
        files.torn
    ))
}

/// As the guest's tools compute it.
fn sha256(text: &str) -> Result<String> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    let said = run_tool(Command::new("sha256sum").arg(file.path()))?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

/// Digests of every file of a data directory. The catalog is left out, for the dispatcher writes its actions there, and
/// so are the empty files that the leases of views are held on.
fn stored(data: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut digests = BTreeMap::new();
    for folder in ["snapshot", "incremental", "quarantine", "index"] {
        let folder = data.join(folder);
        if folder.exists() {
            let said = run_tool(Command::new("find").arg(&folder).args([
                "-type",
                "f",
                "-exec",
                "sha256sum",
                "{}",
                "+",
            ]))?;
            let lines = said.lines().filter_map(|line| line.split_once("  "));
            digests.extend(lines.map(|(digest, path)| (PathBuf::from(path), digest.to_owned())));
        }
    }
    ensure!(digests.len() >= 4, "less is stored than there must be: {digests:?}");
    Ok(digests)
}
