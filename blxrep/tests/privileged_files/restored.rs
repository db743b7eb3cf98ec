//! `restore --path`, `ls`, `find` and `diff`.

use crate::everything::{ensure_same, sync};
use crate::scene::Scene;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::fixture::{sh, wait_for};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, FAILED, NOT_FOUND, REFUSED};
use crate::{MIB, PATIENCE, require_root, times};
use anyhow::{Context, Result, ensure};
use blxrep::model::part_id::PartId;
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Report {
    files: u64,
    links: u64,
    skipped: u64,
    same: u64,
    failed: u64,
}

#[derive(Debug, Deserialize)]
struct Step {
    path: String,
    action: String,
}

#[derive(Debug, Deserialize)]
struct FileRow {
    path: String,
    kind: String,
    mode: String,
}

#[derive(Debug, Deserialize)]
struct ChangeRow {
    partition: PartId,
    path: String,
    change: String,
    what: Vec<String>,
}

/// Protected disks with the tree on every partition, a point of it, and a filesystem to restore to.
struct Restores {
    mounts: Vec<Mount>,
    target: Mount,
    _target: LoopDisk,
    point: String,
    scene: Scene,
}

impl Restores {
    fn new() -> Result<Self> {
        let scene = Scene::new()?;
        let mounts = scene.mount("defaults")?;
        scene.fill(&mounts)?;
        let point = scene.sync()?.remove(0);
        let disk = LoopDisk::new(512 * MIB)?;
        Filesystem::Ext4.make(disk.path())?;
        let target = Mount::new("ext4", disk.path(), "defaults")?;
        Ok(Self { mounts, target, _target: disk, point, scene })
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.target.path().join(name)
    }

    fn restore(&self, dir: &Path, paths: &[&str], more: &[&str]) -> Result<crate::support::site::Reply> {
        let dir = dir.to_string_lossy();
        let mut args = vec!["restore", &self.point, "--target", &dir];
        paths.iter().for_each(|path| args.extend(["--path", path]));
        args.extend(more);
        self.scene.site.cli(&args)
    }

    /// The tree of the first disk's partition with this position.
    fn original(&self, index: usize) -> &Path {
        self.mounts[index].path()
    }
}

/// Trees with everything in them come back as they were: whole, in parts, over what is there, after an interruption.
#[test]
fn files_come_back_as_they_were() -> Result<()> {
    require_root!();
    let restores = Restores::new()?;
    let stored = restores.scene.stored()?;
    for (index, partition) in [(0, 1), (1, 2), (2, 3)] {
        let dir = restores.dir(&format!("whole-{partition}"));
        let report: Report = restores.restore(&dir, &[&format!("{partition}:/")], &[])?.parse()?;
        ensure!(
            report.failed == 0 && report.skipped == 0 && report.links == 2 && report.files > 700,
            "{report:?}"
        );
        ensure_same(restores.original(index), &dir)?;
        let (sparse, whole) = (fs::metadata(dir.join("sparse"))?, 50 << 20);
        ensure!(sparse.len() == whole && sparse.blocks() * 512 < whole / 10, "it is not sparse: {sparse:?}");
    }
    parts(&restores)?;
    conflicts(&restores)?;
    interrupted(&restores)?;
    ensure!(restores.scene.stored()? == stored, "restoring has changed the store");
    drop(restores.mounts);
    restores.scene.done();
    Ok(())
}

fn parts(restores: &Restores) -> Result<()> {
    let dir = restores.dir("parts");
    let plan: Vec<Step> = restores.restore(&dir, &["1:/a/b", "1:/to-file"], &["--dry-run"])?.parse()?;
    ensure!(plan.iter().any(|step| step.path == "a/b/c" && step.action == "create"), "{plan:?}");
    ensure!(!dir.exists(), "a dry run made the target");
    restores.restore(&dir, &["1:/a/b", "1:/to-file"], &[])?.expect(DONE, &[])?;
    ensure_same(&restores.original(0).join("a/b"), &dir.join("a/b"))?;
    ensure!(!dir.join("a/file").exists() && !dir.join("empty").exists(), "more came than was asked for");
    let (from, to) = (fs::metadata(restores.original(0).join("a"))?, fs::metadata(dir.join("a"))?);
    ensure!((from.uid(), from.mode()) == (to.uid(), to.mode()), "the folder above is not as it was");
    ensure!(fs::read_link(dir.join("to-file"))? == Path::new("a/file"), "the link leads elsewhere");
    restores.restore(&dir, &["1:/no-such"], &[])?.expect(FAILED, &["no such file"])?;
    restores.restore(&dir, &["1:/to-file/x"], &[])?.expect(FAILED, &["symbolic link"])?;
    restores.restore(&dir, &["1:/../x"], &[])?.expect(2, &["`..`"])?;
    restores.restore(&dir, &["7:/x"], &[])?.expect(NOT_FOUND, &["no partition 7"])?;
    restores.restore(&dir, &["4:/x"], &[])?.expect(REFUSED, &["swap"])?;
    restores.restore(&dir, &["/x"], &[])?.expect(REFUSED, &["partition"])?;
    let data = restores.scene.site.path("data").join("x");
    restores.restore(&data, &["1:/empty"], &[])?.expect(REFUSED, &["data directory"])
}

/// What exists stays, is replaced, or keeps its name; and links in the target lead nowhere.
fn conflicts(restores: &Restores) -> Result<()> {
    let dir = restores.dir("conflicts");
    let outside = restores.dir("outside");
    fs::create_dir_all(dir.join("names"))?;
    fs::create_dir(&outside)?;
    fs::write(dir.join("empty"), "mine")?;
    std::os::unix::fs::symlink(&outside, dir.join("many"))?;
    std::os::unix::fs::symlink(outside.join("file"), dir.join("sparse"))?;
    let paths = ["1:/empty", "1:/many", "1:/sparse", "1:/names"];
    let report: Report = restores.restore(&dir, &paths, &[])?.parse()?;
    ensure!(report.skipped == 3 && report.failed == 0, "{report:?}");
    ensure!(fs::read(dir.join("empty"))? == b"mine", "what exists was touched");
    let renamed: Report = restores.restore(&dir, &paths, &["--conflict", "rename"])?.parse()?;
    ensure!(renamed.skipped == 0 && renamed.failed == 0 && renamed.same == 9, "{renamed:?}");
    ensure!(fs::metadata(dir.join("empty.restored"))?.len() == 0, "it did not get another name");
    ensure!(dir.join("many.restored/0-").exists(), "the folder did not get another name");
    restores.restore(&dir, &paths, &["--conflict", "overwrite"])?.expect(DONE, &[])?;
    ensure_same(&restores.original(0).join("many"), &dir.join("many"))?;
    ensure!(fs::symlink_metadata(dir.join("sparse"))?.is_file(), "the link was not replaced");
    ensure!(fs::read_dir(&outside)?.next().is_none(), "something was written outside of the target");
    fs::remove_file(dir.join("empty"))?;
    fs::create_dir(dir.join("empty"))?;
    restores
        .restore(&dir, &["1:/empty"], &["--conflict", "overwrite"])?
        .expect(FAILED, &["folder is in the way"])
}

/// Killed again and again, and run again until it ends: the tree is as it should be.
fn interrupted(restores: &Restores) -> Result<()> {
    let dir = restores.dir("interrupted");
    let name = dir.to_string_lossy();
    let mut killed = 0;
    for step in 0..times(8) {
        let args = ["restore", &restores.point, "--path", "1:/", "--target", &name];
        let mut child = restores.scene.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(120 + 25 * (step % 8) + step / 8));
        killed += u32::from(child.try_wait()?.is_none());
        child.kill()?;
        child.wait()?;
    }
    let report: Report = restores.restore(&dir, &["1:/"], &[])?.parse()?;
    println!("a restore was killed {killed} times of {}: {report:?}", times(8));
    ensure!(report.failed == 0, "{report:?}");
    ensure_same(restores.original(0), &dir)
}

/// Names are listed and found, and differences told, whatever the names are.
#[test]
fn files_are_listed_found_and_compared() -> Result<()> {
    require_root!();
    let restores = Restores::new()?;
    let cli = |args: &[&str]| restores.scene.site.cli(args);
    let names: Vec<FileRow> = cli(&["ls", &restores.point, "1:/names"])?.parse()?;
    ensure!(names.len() == 9, "{names:?}");
    for expected in ["/names/new\\nline", "/names/\\xff\\xfe not utf-8 \\x80", "/names/\\u{1b}[31mred"] {
        ensure!(names.iter().any(|row| row.path == expected), "{expected}: {names:?}");
    }
    let file: Vec<FileRow> = cli(&["ls", &restores.point, "2:a/file"])?.parse()?;
    ensure!(file.len() == 1 && file[0].mode == "4751" && file[0].kind == "file", "{file:?}");
    cli(&["ls", &restores.point, "1:/no-such"])?.expect(NOT_FOUND, &["the point has no /no-such"])?;
    let found: Vec<FileRow> = cli(&["find", &restores.point, "*-name"])?.parse()?;
    ensure!(found.len() == 6, "two on each of three partitions: {found:?}");
    let found: Vec<FileRow> = cli(&["find", &restores.point, "3:/a/b/*/large"])?.parse()?;
    ensure!(found.len() == 1 && found[0].path == "/a/b/c/d/e/f/g/h/large", "{found:?}");

    let root = restores.original(1);
    fs::write(root.join("a/file"), "HELLO\n")?;
    fs::remove_file(root.join("to-file"))?;
    fs::create_dir(root.join("new"))?;
    fs::write(root.join("new/x"), "x")?;
    sh("setfattr", &["-n", "user.note", "-v", "other", &root.join("sparse").to_string_lossy()])?;
    sync(root)?;
    let after = restores.scene.sync()?.remove(0);
    let changes: Vec<ChangeRow> = cli(&["diff", &restores.point, &after])?.parse()?;
    ensure!(changes.iter().all(|row| row.partition == 2.into()), "{changes:?}");
    let has = |path: &str, change: &str| changes.iter().any(|row| row.path == path && row.change == change);
    ensure!(has("/a/file", "changed") && has("/to-file", "removed") && has("/new", "added"), "{changes:?}");
    let metadata = changes.iter().find(|row| row.path == "/sparse").context("no change of metadata")?;
    ensure!(metadata.change == "metadata" && metadata.what == ["xattrs"], "{metadata:?}");
    ensure!(changes.len() == 5, "the root's own time, and nothing else: {changes:?}");
    let below: Vec<ChangeRow> = cli(&["diff", &restores.point, &after, "2:/a"])?.parse()?;
    ensure!(below.len() == 1 && below[0].path == "/a/file", "{below:?}");
    drop(restores.mounts);
    let data = restores.scene.site.path("data").to_string_lossy().into_owned();
    ensure!(!browsing(&data)?.is_empty(), "nobody looks into the points");
    // The dispatcher is killed: what looked into points for it ends by itself.
    restores.scene.done();
    wait_for("the end of what looks into points", PATIENCE, || Ok(browsing(&data)?.is_empty().then_some(())))
}

/// Processes that look into points of a data directory, or serve them to those.
fn browsing(data: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(data) && (line.contains("browse-points") || line.contains("serve-mount")) {
            found.push(line);
        }
    }
    Ok(found)
}
