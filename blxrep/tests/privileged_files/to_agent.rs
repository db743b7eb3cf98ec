//! `restore --path --agent`: to the server that the files came from, and as far as its own configuration allows.

use crate::everything::ensure_same;
use crate::scene::Scene;
use crate::support::disk::{Disk, LoopDisk};
use crate::support::mount::{Filesystem, Mount};
use crate::support::site::{DONE, FAILED, REFUSED, Reply};
use crate::{MIB, require_root};
use anyhow::{Context, Result, bail, ensure};
use blxrep::api::client::Client;
use blxrep::api::types::RestoreBody;
use blxrep::model::action::ActionState;
use blxrep::model::byte_text::ByteText;
use blxrep::model::restored::Outcome;
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Report {
    files: u64,
    links: u64,
    skipped: u64,
    failed: u64,
}

#[derive(Debug, Deserialize)]
struct Step {
    path: String,
    action: String,
}

/// What an agent writes, and what it does not.
struct ToAgent {
    mounts: Vec<Mount>,
    target: Mount,
    _target: LoopDisk,
    point: String,
    scene: Scene,
}

impl ToAgent {
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

    fn restore(&self, dir: &Path, paths: &[&str], more: &[&str]) -> Result<Reply> {
        let dir = dir.to_string_lossy();
        let mut args = vec!["restore", &self.point, "--agent", "files", "--target", &dir];
        paths.iter().for_each(|path| args.extend(["--path", path]));
        args.extend(more);
        self.scene.site.cli(&args)
    }
}

/// Nothing, before its own configuration says so; what a refusal names as the line is enough; and then as they were.
#[test]
fn an_agent_writes_files_where_it_may_and_as_they_were() -> Result<()> {
    require_root!();
    let mut to = ToAgent::new()?;
    let (allowed, outside) = (to.target.path().join("allowed"), to.target.path().join("outside"));
    fs::create_dir(&allowed)?;
    fs::create_dir(&outside)?;
    let refused = to.restore(&allowed.join("x"), &["1:/"], &[])?;
    refused.expect(REFUSED, &["not among what restores may write to on agent files", "config.yaml"])?;
    to.restore(&allowed, &["1:/"], &["--dry-run"])?.expect(REFUSED, &["not among"])?;
    ensure!(fs::read_dir(&allowed)?.next().is_none(), "a refused restore has written");
    let named = to.restore(&allowed, &["1:/"], &[])?;
    let line =
        named.stderr.split('`').find(|text| text.starts_with("restore: ")).context(named.stderr.clone())?;
    to.scene.restart_agent(&format!("  {line}\n"))?;
    identical(&to, &allowed)?;
    limits(&to, &allowed, &outside)?;
    plan_and_conflicts(&to, &allowed)?;
    here_through_the_api(&to, &to.target.path().join("here"))?;
    drop(to.mounts);
    to.scene.done();
    Ok(())
}

fn identical(to: &ToAgent, allowed: &Path) -> Result<()> {
    let stored = to.scene.stored()?;
    for (index, partition) in [(0, 1), (1, 2), (2, 3)] {
        let dir = allowed.join(format!("whole-{partition}"));
        let report: Report = to.restore(&dir, &[&format!("{partition}:/")], &[])?.parse()?;
        let whole = report.failed == 0 && report.skipped == 0 && report.links == 2 && report.files > 700;
        ensure!(whole, "{report:?}");
        ensure_same(to.mounts[index].path(), &dir)?;
        let (sparse, whole) = (fs::metadata(dir.join("sparse"))?, 50 << 20);
        ensure!(sparse.len() == whole && sparse.blocks() * 512 < whole / 10, "it is not sparse: {sparse:?}");
    }
    let dir = allowed.join("two");
    to.restore(&dir, &["1:/a/b", "2:/names"], &[])?.expect(DONE, &[])?;
    ensure_same(&to.mounts[0].path().join("a/b"), &dir.join("a/b"))?;
    ensure_same(&to.mounts[1].path().join("names"), &dir.join("names"))?;
    ensure!(to.scene.stored()? == stored, "restoring has changed the store");
    Ok(())
}

/// Outside of what is allowed nothing is written, by whatever name.
fn limits(to: &ToAgent, allowed: &Path, outside: &Path) -> Result<()> {
    symlink(outside, allowed.join("link"))?;
    for target in [outside, &allowed.join("link"), &allowed.join("link/x"), &allowed.join("../outside/x")] {
        to.restore(target, &["1:/empty"], &[])?.expect(REFUSED, &["not among"])?;
    }
    to.restore(&allowed.join("no/such"), &["1:/empty"], &[])?.expect(REFUSED, &["only the last folder"])?;
    to.restore(Path::new("relative"), &["1:/empty"], &[])?.expect(2, &["absolute"])?;
    to.restore(&allowed.join("x"), &["9:/empty"], &[])?.expect(FAILED, &["no partition 9"])?;
    to.restore(&allowed.join("x"), &["1:/no-such"], &[])?.expect(FAILED, &["no such file"])?;
    ensure!(fs::read_dir(outside)?.next().is_none(), "something was written outside of what is allowed");
    Ok(())
}

fn plan_and_conflicts(to: &ToAgent, allowed: &Path) -> Result<()> {
    let dir = allowed.join("conflicts");
    let plan: Vec<Step> = to.restore(&dir, &["1:/a/b", "1:/empty"], &["--dry-run"])?.parse()?;
    ensure!(plan.iter().any(|step| step.path == "a/b/c" && step.action == "create"), "{plan:?}");
    ensure!(!dir.exists(), "a dry run made the target");
    fs::create_dir(&dir)?;
    fs::write(dir.join("empty"), "mine")?;
    symlink(allowed.join("../outside/file"), dir.join("sparse"))?;
    let paths = ["1:/empty", "1:/sparse"];
    let plan: Vec<Step> = to.restore(&dir, &paths, &["--dry-run", "--conflict", "rename"])?.parse()?;
    ensure!(plan.len() == 2 && plan.iter().all(|step| step.action == "rename"), "{plan:?}");
    let report: Report = to.restore(&dir, &paths, &[])?.parse()?;
    ensure!(
        report.skipped == 2 && report.files == 0 && fs::read(dir.join("empty"))? == b"mine",
        "{report:?}"
    );
    for _ in 0..2 {
        to.restore(&dir, &paths, &["--conflict", "rename"])?.expect(DONE, &[])?;
    }
    ensure!(
        dir.join("empty.restored").exists() && !dir.join("empty.restored-2").exists(),
        "again is not twice"
    );
    to.restore(&dir, &paths, &["--conflict", "overwrite"])?.expect(DONE, &[])?;
    ensure!(fs::metadata(dir.join("empty"))?.len() == 0, "it was not replaced");
    ensure!(fs::symlink_metadata(dir.join("sparse"))?.is_file(), "the link was not replaced");
    Ok(())
}

/// Without an agent, the dispatcher's own host gets them, as an action too.
fn here_through_the_api(to: &ToAgent, dir: &Path) -> Result<()> {
    let client = Client::new(&to.scene.site.path("data"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let restore = |target: &Path, dry_run| {
        let body = RestoreBody {
            point: to.point.clone(),
            paths: [&b"1:/a"[..], b"1:/names/\xff\xfe not utf-8 \x80"].map(ByteText::from).to_vec(),
            target: Some(target.to_string_lossy().into_owned()),
            dry_run,
            ..RestoreBody::default()
        };
        runtime.block_on(async {
            let mut action = client.restore(&body).await?;
            while !action.state.is_final() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                action = client.action(action.id).await?;
            }
            let report = client.files_report(action.id).await.ok();
            anyhow::Ok((action, report.map(|report| report.outcome)))
        })
    };
    let (_, planned) = restore(dir, true)?;
    let Some(Outcome::Planned(plan)) = planned else { bail!("no plan: {planned:?}") };
    ensure!(!dir.exists() && plan.steps.iter().any(|step| step.path == "a/b/c"), "{plan:?}");
    let (action, restored) = restore(dir, false)?;
    let Some(Outcome::Restored(report)) = restored else { bail!("no report: {action:?}") };
    ensure!(action.state == ActionState::Succeeded && report.is_complete(), "{action:?}: {report:?}");
    ensure_same(&to.mounts[0].path().join("a"), &dir.join("a"))?;
    let (action, restored) = restore(&to.scene.site.path("data").join("x"), false)?;
    let refused = action.state == ActionState::Failed && action.reason.contains("data directory");
    ensure!(refused && restored.is_none(), "{action:?}");
    Ok(())
}
