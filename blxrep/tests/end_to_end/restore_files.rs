//! Files on their way to an agent, and what may happen meanwhile: kills of everybody who takes part, a network that
//! breaks, a person who changes their mind, and a dispatcher that is not to be trusted.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{pause, run, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::proxy::{Event, Proxy, Weather};
use crate::support::site::{ActionRow, AgentHome, DONE, FAILED, Site};
use crate::support::stamper::Random;
use crate::{MIB, PATIENCE, is_soak, program, require_root};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Slow enough to be interrupted in the middle: a large file first or last, and many small ones.
const RATE: u64 = 48 * MIB;
const LARGE: u64 = 64 * MIB;
const SMALL: u64 = 1500;

/// A disk with files, protected by an agent behind a proxy, and a folder that it may restore to. The fields are in the
/// order in which they have to go.
struct Scene {
    agent: Option<Process>,
    dispatcher: Option<Process>,
    proxy: Proxy,
    home: AgentHome,
    files: Mount,
    _disk: LoopDisk,
    target: Mount,
    _target: LoopDisk,
    point: String,
    site: Site,
}

impl Scene {
    fn new() -> Result<Self> {
        let site = Site::new(program(), "1h")?;
        let disk = LoopDisk::new(160 * MIB)?;
        Filesystem::Ext4.make(disk.path())?;
        let files = Mount::new("ext4", disk.path(), "defaults")?;
        fill(files.path())?;
        let to = LoopDisk::new(128 * MIB)?;
        Filesystem::Ext4.make(to.path())?;
        let target = Mount::new("ext4", to.path(), "defaults")?;
        let dispatcher = Some(site.dispatcher()?);
        let proxy = Proxy::start(&site.address()?)?;
        let mut home = site.agent("far", &[(&disk, "disk")])?;
        home.add_to_config(&format!("  restore: {{paths: [{}]}}\n", target.path().display()))?;
        home.connect_via(&proxy);
        let agent = Some(home.start(&site, &[])?);
        site.wait_for_points("far", 1, 1, PATIENCE)?;
        let point = site.sync_one("far")?;
        Ok(Self { agent, dispatcher, proxy, home, files, _disk: disk, target, _target: to, point, site })
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.target.path().join(name)
    }

    /// Begins a restore of everything, slowly, and waits until it is in the middle.
    fn begin(&self, dir: &Path) -> Result<String> {
        self.proxy.set(Weather::Throttle(RATE));
        let target = dir.to_string_lossy();
        let args =
            ["restore", &self.point, "--path", "0:/", "--agent", "far", "--target", &target, "--no-wait"];
        let action: ActionRow = self.site.cli(&args)?.parse()?;
        wait_for("the restore being under way", PATIENCE, || {
            let row = self.action(&action.id)?;
            ensure!(!is_final(&row), "it has ended before it was interrupted: {row:?}");
            Ok((row.done > 4 * MIB).then_some(()))
        })?;
        Ok(action.id)
    }

    fn action(&self, id: &str) -> Result<ActionRow> {
        self.site.actions()?.into_iter().find(|row| row.id == id).context("the action is not listed")
    }

    fn end(&self, id: &str) -> Result<ActionRow> {
        self.proxy.set(Weather::Clear);
        wait_for("the restore having ended", PATIENCE, || Ok(self.action(id).ok().filter(is_final)))
    }

    /// It ends right by itself: the tree is as it was, and nothing of the restore is left beside it.
    fn ends_right(&self, id: &str, dir: &Path) -> Result<()> {
        let row = self.end(id)?;
        ensure!(row.state == "succeeded" && row.reason.contains(" 0 failed"), "{row:?}");
        same(self.files.path(), dir)
    }

    /// The process that reads the files for the dispatcher.
    fn courier(&self) -> Result<Pid> {
        let dispatcher = self.dispatcher.as_ref().context("no dispatcher")?.pid();
        wait_for("a courier", PATIENCE, || {
            for entry in fs::read_dir("/proc")?.flatten() {
                let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let child = status.lines().any(|line| line == format!("PPid:\t{dispatcher}"));
                let courier = command.split(|byte| *byte == 0).any(|word| word == b"carry-files");
                if let (true, Some(pid)) = (child && courier, entry.file_name().to_str()) {
                    return Ok(Pid::from_raw(pid.parse()?));
                }
            }
            Ok(None)
        })
    }

    fn kill_dispatcher(&mut self) -> Result<()> {
        if let Some(mut dispatcher) = self.dispatcher.take() {
            dispatcher.kill()?;
        }
        self.dispatcher = Some(self.site.dispatcher()?);
        Ok(())
    }

    fn kill_agent(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
        }
        self.agent = Some(self.home.start(&self.site, &[])?);
        Ok(())
    }
}

fn is_final(row: &ActionRow) -> bool {
    matches!(row.state.as_str(), "succeeded" | "failed" | "cancelled")
}

/// Makes the files; a piece of their content.
fn fill(root: &Path) -> Result<Vec<u8>> {
    let mut random = Random(8);
    let mut piece = vec![0; MIB as usize];
    for folder in ["first", "last"] {
        fs::create_dir(root.join(folder))?;
        let mut file = File::create(root.join(folder).join("large"))?;
        for _ in 0..LARGE / MIB / 2 {
            piece.chunks_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
            file.write_all(&piece)?;
        }
    }
    fs::create_dir(root.join("many"))?;
    for n in 0..SMALL {
        fs::write(root.join(format!("many/{n}")), &piece[..usize::try_from(random.below(4096))?])?;
    }
    rustix::fs::syncfs(File::open(root)?)?;
    Ok(piece)
}

fn same(original: &Path, copy: &Path) -> Result<()> {
    let mut command = Command::new("rsync");
    command.args(["-aHAXn", "--checksum", "--delete", "--itemize-changes", "--out-format=%i %n"]);
    command.arg(original.join("")).arg(copy.join(""));
    let found = run(&mut command)?;
    ensure!(found.is_empty(), "{} is not {}:\n{found}", copy.display(), original.display());
    Ok(())
}

/// Whoever is killed, and whatever the network does: it says that it has succeeded when it has.
#[test]
fn an_interrupted_restore_of_files_ends_right() -> Result<()> {
    require_root!();
    let mut scene = Scene::new()?;
    let dir = scene.dir("restored");
    for round in 0..if is_soak() { 20 } else { 1 } {
        let id = scene.begin(&dir)?;
        scene.proxy.happen(Event::Reset);
        pause(Duration::from_millis(137 * round % 500))?;
        kill_process(scene.courier()?, Signal::KILL)?;
        // It comes back for it after a while, and begins again.
        scene.kill_agent()?;
        scene.ends_right(&id, &dir).context("courier and agent were killed")?;
        fs::remove_dir_all(&dir)?;

        let id = scene.begin(&dir)?;
        scene.kill_dispatcher()?;
        ensure!(scene.action(&id)?.state != "succeeded", "it claims what it has not done");
        scene.ends_right(&id, &dir).context("the dispatcher was killed")?;
        // And once more, onto what is there.
        let target = dir.to_string_lossy().into_owned();
        let again = ["restore", &scene.point, "--path", "0:/", "--agent", "far", "--target", &target];
        scene.site.cli(&again)?.expect(DONE, &[])?;
        same(scene.files.path(), &dir)?;
        fs::remove_dir_all(&dir)?;
    }
    held(&scene)?;
    cancelled(&scene)?;
    scene.site.done();
    drop(scene.home.pins().clear());
    Ok(())
}

/// Paused and resumed before the agent, to which data are under way, can have heard of the pause: it goes on.
fn held(scene: &Scene) -> Result<()> {
    let dir = scene.dir("held");
    let id = scene.begin(&dir)?;
    scene.site.cli(&["pause", &id])?.expect(DONE, &[])?;
    scene.site.cli(&["resume", &id])?.expect(DONE, &[])?;
    scene.ends_right(&id, &dir).context("it was paused and resumed")?;
    fs::remove_dir_all(&dir).map_err(Into::into)
}

/// Nothing half done is left, and it does not say that it was done.
fn cancelled(scene: &Scene) -> Result<()> {
    let dir = scene.dir("cancelled");
    let id = scene.begin(&dir)?;
    scene.site.cli(&["cancel", &id])?.expect(DONE, &[])?;
    let row = scene.end(&id)?;
    ensure!(row.state == "cancelled" && row.reason.contains("whole, others are missing"), "{row:?}");
    wait_for("the agent clearing away", PATIENCE, || {
        Ok((!dir.join(".blxrep-restore").exists()).then_some(()))
    })?;
    ensure!(same(scene.files.path(), &dir).is_err(), "it was cancelled when it was done");
    let target = dir.to_string_lossy();
    let args = ["restore", &scene.point, "--path", "0:/", "--agent", "far", "--target", &*target];
    scene.site.cli(&args)?.expect(DONE, &[])?;
    same(scene.files.path(), &dir)?;
    // A target that is too small is a failure that says so.
    let full = scene.dir("full");
    scene
        .site
        .cli(&[&args[..7], &[&*full.to_string_lossy()]].concat())?
        .expect(FAILED, &["No space left"])?;
    ensure!(!full.join(".blxrep-restore").exists(), "a failed restore left its staging folder");
    Ok(())
}

/// Prints what a restore takes of time and memory, beside what copies the same tree on one host.
#[test]
#[ignore = "a measurement"]
fn how_fast_files_are_restored() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let disk = LoopDisk::new(900 * MIB)?;
    Filesystem::Ext4.make(disk.path())?;
    let files = Mount::new("ext4", disk.path(), "defaults")?;
    let piece = fill(files.path())?;
    let mut file = File::create(files.path().join("huge"))?;
    for _ in 0..512 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let to = LoopDisk::new(2048 * MIB)?;
    Filesystem::Ext4.make(to.path())?;
    let target = Mount::new("ext4", to.path(), "defaults")?;
    let dispatcher = site.dispatcher()?;
    let home = site.agent("far", &[(&disk, "disk")])?;
    home.add_to_config(&format!("  restore: {{paths: [{}]}}\n", target.path().display()))?;
    let agent = home.start(&site, &[])?;
    site.wait_for_points("far", 1, 1, PATIENCE)?;
    let point = site.sync_one("far")?;
    let dir = target.path().join("copy");
    let (shown, original) = (dir.to_string_lossy(), files.path().join("").to_string_lossy().into_owned());
    let memory = || -> Result<[u64; 2]> { Ok([agent.usage()?.peak_rss, dispatcher.usage()?.peak_rss]) };
    let before = memory()?;
    let bytes = 512 * MIB + LARGE + SMALL * 2048;
    for what in ["agent", "dispatcher", "cp", "rsync"] {
        // What was read before is in memory for all of them alike.
        let start = std::time::Instant::now();
        match what {
            "agent" => site
                .cli(&["restore", &point, "--path", "0:/", "--agent", "far", "--target", &shown])?
                .expect(DONE, &[])?,
            "dispatcher" => {
                site.cli(&["restore", &point, "--path", "0:/", "--target", &shown])?.expect(DONE, &[])?;
            }
            "cp" => drop(run(Command::new("cp").args(["-a", &original, &shown]))?),
            _ => drop(run(Command::new("rsync").args(["-aHAX", &original, &shown]))?),
        }
        rustix::fs::syncfs(File::open(target.path())?)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{what}: {:.0} MB/s", bytes as f64 / seconds / 1e6);
        same(files.path(), &dir)?;
        fs::remove_dir_all(&dir)?;
    }
    let after = memory()?;
    println!(
        "peak memory of agent and dispatcher in MiB: {:?} before, {:?} after",
        before.map(|bytes| bytes / MIB),
        after.map(|bytes| bytes / MIB)
    );
    site.done();
    drop((agent, dispatcher));
    drop(home.pins().clear());
    Ok(())
}
