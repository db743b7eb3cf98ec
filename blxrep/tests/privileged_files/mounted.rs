//! `mount`, `umount` and `mounts`.

use crate::everything::ensure_same;
use crate::scene::Scene;
use crate::support::compare::ensure_identical;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::mount::Filesystem;
use crate::support::site::{DONE, FAILED, NOT_FOUND, REFUSED};
use crate::{MIB, PATIENCE, require_root, times};
use anyhow::{Context, Result, bail, ensure};
use blxrep::model::part_id::PartId;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Mounted {
    parts: Vec<PartRow>,
}

#[derive(Debug, Deserialize)]
struct PartRow {
    partition: PartId,
    files: Option<PathBuf>,
    note: String,
}

#[derive(Debug, Deserialize)]
struct PlaceRow {
    directory: PathBuf,
    process: i32,
    state: String,
    files: Vec<PathBuf>,
}

impl Scene {
    fn show(&self, point: &str, dir: &Path) -> Result<Mounted> {
        self.site.cli(&["mount", point, &dir.to_string_lossy()])?.parse()
    }

    fn hide(&self, dir: &Path) -> Result<()> {
        self.site.cli(&["umount", &dir.to_string_lossy()])?.expect(DONE, &[])
    }

    /// The row of a folder in `mounts`.
    fn place(&self, dir: &Path) -> Result<Option<PlaceRow>> {
        let rows: Vec<PlaceRow> = self.site.cli(&["mounts"])?.parse()?;
        Ok(rows.into_iter().find(|row| row.directory == dir))
    }

    /// Nothing is mounted on or below a folder, no loop device shows what was there, and no process serves it.
    fn ensure_clean(&self, dir: &Path) -> Result<()> {
        let name = dir.to_string_lossy().into_owned();
        wait_for("the end of a mount", PATIENCE, || {
            let mounts = fs::read_to_string("/proc/self/mountinfo")?;
            let loops = sh("losetup", &["--list", "--noheadings", "--output", "BACK-FILE"])?;
            let servers = servers_of(&name)?;
            let clean = !mounts.contains(&name) && !loops.contains(&name) && servers.is_empty();
            Ok(clean.then_some(()))
        })
    }
}

/// Processes that serve a mount on a folder.
fn servers_of(dir: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path().join("cmdline");
        let line = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
        if line.contains("serve-mount") && line.contains(dir) {
            found.push(line);
        }
    }
    Ok(found)
}

/// A mounted point; whatever comes, it is unmounted at the end.
struct Shown<'a> {
    scene: &'a Scene,
    dir: PathBuf,
    mounted: Mounted,
}

impl<'a> Shown<'a> {
    fn new(scene: &'a Scene, point: &str, name: &str) -> Result<Self> {
        let dir = scene.folder(name)?;
        Ok(Self { mounted: scene.show(point, &dir)?, scene, dir })
    }

    fn end(self) -> Result<()> {
        self.scene.hide(&self.dir)?;
        self.scene.ensure_clean(&self.dir)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // There is nothing to unmount if all went well.
        let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Points that were cut while the filesystems were mounted, and after they were unmounted, each with the disks' own
/// filesystems mounted beside them.
#[test]
fn points_show_what_was_there() -> Result<()> {
    require_root!();
    let mut scene = Scene::new()?;
    let mounts = scene.mount("defaults")?;
    scene.fill(&mounts)?;
    let busy = scene.sync()?;
    drop(mounts);
    let idle = scene.sync()?;
    scene.stop_agent();
    let stored = scene.stored()?;
    let mut shown = Vec::new();
    for (index, point) in idle.iter().enumerate() {
        let idle = Shown::new(&scene, point, &format!("idle-{index}"))?;
        ensure_identical(scene.disks[index].path(), &idle.dir.join("disk.img"))?;
        partitions(&scene, index, point, &idle)?;
        shown.push((index, idle));
    }
    // An xfs writes even when it is mounted read-only: from here on the disks are not as they were.
    let originals = scene.mount("ro")?;
    for (index, point) in busy.iter().enumerate() {
        shown.push((index, Shown::new(&scene, point, &format!("busy-{index}"))?));
    }
    for (disk, shown) in &shown {
        check(&scene, *disk, &shown.dir, &shown.mounted, &originals)
            .with_context(|| format!("{}: {:?}", shown.dir.display(), shown.mounted))?;
    }
    refusals(&scene, &shown[0].1.dir, &idle[0])?;
    let gone = shown[0].1.dir.to_string_lossy().into_owned();
    shown.into_iter().try_for_each(|(_, shown)| shown.end())?;
    ensure!(scene.stored()? == stored, "looking at points has changed the store");
    scene.site.cli(&["umount", &gone])?.expect(NOT_FOUND, &["no point is mounted"])?;
    drop(originals);
    scene.done();
    Ok(())
}

/// Partitions are restored by themselves, to a file and to a device.
fn partitions(scene: &Scene, disk: usize, point: &str, shown: &Shown<'_>) -> Result<()> {
    for volume in
        scene.volumes.iter().filter(|volume| volume.disk == disk && volume.filesystem != Filesystem::Xfs)
    {
        let number = volume.number.to_string();
        let file = scene.site.path(&format!("partition-{disk}-{number}.img"));
        let restore =
            |to: &str| scene.site.cli(&["restore", point, "--partition", &number, "--to", to, "--yes"]);
        restore(&file.to_string_lossy())?.expect(DONE, &[])?;
        ensure_identical(&file, &shown.dir.join(format!("partitions/{number}.img")))?;
        let device = LoopDisk::new(fs::metadata(&file)?.len() + MIB)?;
        restore(&device.name())?.expect(DONE, &[])?;
        sh(
            "cmp",
            &["--bytes", &fs::metadata(&file)?.len().to_string(), &device.name(), &file.to_string_lossy()],
        )?;
        let small = LoopDisk::new(MIB)?;
        restore(&small.name())?.expect(FAILED, &["larger device"])?;
        fs::remove_file(&file)?;
    }
    let file = scene.site.path("none.img");
    let reply = scene.site.cli(&["restore", point, "--partition", "77", "--to", &file.to_string_lossy()])?;
    reply.expect(FAILED, &["has no partition 77"])?;
    ensure!(!file.exists(), "a partition that does not exist has a file");
    Ok(())
}

fn check(
    scene: &Scene,
    disk: usize,
    dir: &Path,
    shown: &Mounted,
    originals: &[crate::support::mount::Mount],
) -> Result<()> {
    let place = scene.place(dir)?.context("it is not listed")?;
    ensure!(place.state == "served", "{place:?}");
    for (volume, original) in scene.volumes.iter().zip(originals).filter(|(volume, _)| volume.disk == disk) {
        let part =
            shown.parts.iter().find(|part| part.partition == volume.number.into()).context("no such part")?;
        let files = part.files.clone().with_context(|| format!("no files: {part:?}"))?;
        ensure!(files == dir.join(format!("files/{}", volume.number)) && part.note.is_empty(), "{part:?}");
        ensure!(place.files.contains(&files), "{place:?}");
        ensure_same(original.path(), &files)?;
        ensure!(fs::write(files.join("new"), b"x").is_err(), "{} was written to", files.display());
    }
    if let Some(swap) = shown.parts.iter().find(|part| part.partition == 4.into()) {
        ensure!(swap.files.is_none() && swap.note.contains("swap"), "{swap:?}");
    }
    ensure!(fs::read(dir.join("errors.txt"))?.is_empty(), "{:?}", fs::read_to_string(dir.join("errors.txt")));
    ensure!(File::options().write(true).open(dir.join("disk.img")).is_err(), "the image can be written to");
    Ok(())
}

/// What must not be done says so, and changes nothing.
fn refusals(scene: &Scene, dir: &Path, point: &str) -> Result<()> {
    let cli = |args: &[&str]| scene.site.cli(args);
    let name = dir.to_string_lossy();
    cli(&["mount", point, &name])?.expect(REFUSED, &["already"])?;
    cli(&["mount", point, &scene.site.path("logs").to_string_lossy()])?.expect(REFUSED, &["not empty"])?;
    let other = scene.folder("other")?;
    cli(&["mount", "ffffffffffffffff", &other.to_string_lossy()])?.expect(1, &["no point"])?;
    scene.ensure_clean(&other)?;
    let open = File::open(dir.join("files/1/many"))?;
    cli(&["umount", &name])?.expect(REFUSED, &["in use by"])?;
    ensure!(scene.place(dir)?.is_some_and(|place| place.files.len() == 3), "a refused umount took something");
    drop(open);
    Ok(())
}

/// SIGKILL of the server while somebody reads, and of the command at any step.
#[test]
fn a_killed_mount_leaves_nothing() -> Result<()> {
    require_root!();
    let mut scene = Scene::new()?;
    scene.stop_agent();
    let points = scene.site.points("files")?;
    let point = points.iter().find(|p| p.device == scene.disks[0].name()).context("no point")?.id.clone();
    let dir = scene.folder("mounted")?;
    for round in 0..times(3) {
        killed_server(&scene, &point, &dir).with_context(|| format!("round {round}"))?;
    }
    let mut finished = 0;
    for step in 0..times(12) {
        let mut command = scene.command(&["mount", &point, &dir.to_string_lossy()]);
        let mut child = command.stdout(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(15 * (step % 12) + step / 12));
        let ended = child.try_wait()?.is_some();
        child.kill()?;
        child.wait()?;
        // A mount that was finished stays. Until then its server ends with the command.
        if ended {
            finished += 1;
            scene.hide(&dir)?;
        } else if scene.place(&dir)?.is_some_and(|place| place.state == "served") {
            // It had been told to stay, or ends now.
            let _ = scene.site.cli(&["umount", &dir.to_string_lossy()])?;
        }
        scene.ensure_clean(&dir).with_context(|| format!("step {step}"))?;
    }
    println!(
        "the command was killed {} times before its end, {finished} times after it",
        times(12) - finished
    );
    scene.done();
    Ok(())
}

fn killed_server(scene: &Scene, point: &str, dir: &Path) -> Result<()> {
    scene.show(point, dir)?;
    let place = scene.place(dir)?.context("not listed")?;
    let image = dir.join("disk.img");
    let reader = std::thread::spawn(move || -> Result<u64> {
        let mut buffer = vec![0; 1 << 16];
        let mut all = 0;
        for _ in 0..100 {
            let mut file = File::open(&image)?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    n => all += n as u64,
                }
            }
        }
        bail!("{all} bytes were read, and no error")
    });
    std::thread::sleep(Duration::from_millis(50));
    let server = Pid::from_raw(place.process).context("no process")?;
    kill_process(server, Signal::KILL)?;
    let read = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let Err(error) = read else { bail!("the reader had no error") };
    ensure!(error.downcast_ref::<std::io::Error>().is_some(), "the reader: {error:#}");
    // What is cached of a filesystem may still be read; nothing hangs.
    drop(fs::read_dir(dir.join("files/1")).map(Iterator::count));
    let dead = scene.place(dir)?.context("a dead mount is not listed")?;
    ensure!(dead.state == "dead", "{dead:?}");
    scene.hide(dir)?;
    scene.ensure_clean(dir)
}
