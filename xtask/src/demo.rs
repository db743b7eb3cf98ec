//! `cargo xtask demo`: the main job on a real disk, told step by step and proven as it goes.

use crate::cargo::build_program;
use crate::support::compare::ensure_identical;
use crate::support::content::{Content, fill_device};
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{is_root, sh};
use crate::support::load::{Ground, Load};
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::site::{DONE, PointRow, Site};
use crate::{packages, signals};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const DISK: u64 = 1024 * MIB;
/// The first full image of the disk, under load on two busy cores.
const IMAGE: Duration = Duration::from_secs(180);
const AGENT: &str = "demo";
/// The file whose content tells the points apart.
const STORY: &str = "story.txt";

pub fn run() -> Result<()> {
    ensure!(
        is_root(),
        "the demo needs root: it makes a loop device, mounts it and loads eBPF programs \
         (sudo -E env PATH=$PATH cargo xtask demo)"
    );
    packages::ensure_tools(&packages::FOR_TESTS)?;
    say("building the program (release)");
    let program = build_program()?;
    signals::unwind_on_interrupt()?;
    let start = Instant::now();
    let site = Site::new(&program, "1h")?;
    tell(&site)?;
    site.done();
    say(&format!("all of it was right, in {:.0} s; everything is cleaned up", start.elapsed().as_secs_f64()));
    Ok(())
}

fn say(step: &str) {
    println!("\n==> {step}");
}

fn proven(what: &str) {
    println!("    PROVEN: {what}");
}

fn tell(site: &Site) -> Result<()> {
    say("a disk of 1 GiB (a loop device) with ext4, half full, and fio writing to it in every way it can");
    let disk = LoopDisk::new(DISK)?;
    Filesystem::Ext4.make(disk.path())?;
    let mount = Mount::new("ext4", disk.path(), "defaults")?;
    fill(mount.path())?;
    let load = Load::start(Ground::Folder(mount.path().to_owned()), &site.logs())?;

    say("a dispatcher and an agent: the agent marks every write in the kernel and sends one full image");
    let dispatcher = site.dispatcher()?;
    let home = site.agent(AGENT, &[(&disk, "demo-disk")])?;
    let agent = home.start(site, &[])?;
    let start = Instant::now();
    let base = site.wait_for_points(AGENT, 1, 1, IMAGE)?.remove(0);
    println!(
        "    base {}: {} MiB in {:.1} s, {}",
        base.id,
        base.bytes / MIB,
        start.elapsed().as_secs_f64(),
        base.consistency
    );

    say("a file goes A -> B -> A, with a sync after each, while fio goes on");
    let mut chapters = Vec::new();
    for text in ["A\n", "B\n", "A\n"] {
        chapters.push((text, write_story(site, mount.path(), text)?));
    }

    say("each of the three points is restored, its journal replayed, its filesystem checked, its story read");
    for (text, point) in &chapters {
        check_chapter(site, point, text)?;
    }
    proven("points restore A, B and A, and each is a clean filesystem after journal replay");

    say("fio stops, the disk is unmounted, one last sync, and a restore");
    load.stop()?;
    mount.unmount()?;
    let last = site.sync_one(AGENT)?;
    let start = Instant::now();
    let restored = site.restore(&last)?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = ensure_identical(disk.path(), &restored)?;
    proven(&format!("the restored disk equals the source in all of its {bytes} bytes"));
    println!("    restored in {seconds:.1} s: {:.0} MB/s", bytes as f64 / 1e6 / seconds);

    say("every stored byte is read again and compared with its digest");
    site.cli(&["verify"])?.expect(DONE, &[])?;
    proven("the store holds what was sent");
    report(&site.points(AGENT)?, &agent, &dispatcher)
}

/// Half of the disk: incompressible bytes, text, and a file of zeroes.
fn fill(folder: &Path) -> Result<()> {
    for (number, content) in [Content::Incompressible, Content::Text, Content::Zero].into_iter().enumerate() {
        let path = folder.join(format!("{content:?}").to_lowercase());
        File::create_new(&path)?.set_len(170 * MIB)?;
        fill_device(&path, number as u64, |_| content)?;
    }
    Ok(())
}

/// Writes the story so that it is on the disk, and syncs.
fn write_story(site: &Site, folder: &Path, text: &str) -> Result<String> {
    let mut file = File::create(folder.join(STORY))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let start = Instant::now();
    let rows = site.sync(AGENT)?;
    let row = rows.first().context("the sync made no point")?;
    let point = row.point.clone().context("the sync made no point")?;
    println!(
        "    {}: point {point} in {:.2} s, {} MiB, {}",
        text.trim(),
        start.elapsed().as_secs_f64(),
        row.bytes.unwrap_or(0) / MIB,
        row.consistency.as_deref().unwrap_or("?")
    );
    Ok(point)
}

/// Restores a point to a file and looks at it as a server would after a power cut.
fn check_chapter(site: &Site, point: &str, text: &str) -> Result<()> {
    let copy = LoopDisk::over(site.restore(point)?)?;
    // Mounting replays the journal.
    let mount = Mount::new("ext4", copy.path(), "defaults")?;
    let read = fs::read_to_string(mount.path().join(STORY)).context("reading the restored story")?;
    mount.unmount()?;
    sh("e2fsck", &["-f", "-n", &copy.name()]).context("checking the restored filesystem")?;
    ensure!(read == text, "point {point} tells {read:?} instead of {text:?}");
    println!("    point {point}: clean, and its story is {}", read.trim());
    Ok(())
}

fn report(points: &[PointRow], agent: &Process, dispatcher: &Process) -> Result<()> {
    say("figures");
    println!("    {:<18} {:<6} {:<8} {:<10} {:>10}", "point", "kind", "", "coverage", "MiB");
    for p in points {
        println!(
            "    {:<18} {:<6} {:<8} {:<10} {:>10.1}",
            p.id,
            p.kind,
            p.consistency,
            p.coverage,
            p.bytes as f64 / MIB as f64
        );
    }
    for (name, process) in [("agent", agent), ("dispatcher", dispatcher)] {
        let used = process.usage()?;
        println!("    {name}: {:.1} CPU-s, at most {} MiB resident", used.cpu_seconds, used.peak_rss / MIB);
    }
    ensure!(points.iter().filter(|p| p.kind == "base").count() == 1, "there was a second full image");
    proven("one full image, then only what changed");
    Ok(())
}
