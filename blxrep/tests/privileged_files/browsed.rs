//! Points looked into over the API: real filesystems, children that are killed, and what is left of them.

use crate::everything;
use crate::scene::Scene;
use crate::support::fixture::wait_for;
use crate::{PATIENCE, require_root};
use anyhow::{Context, Result, anyhow, bail, ensure};
use blxrep::api::browse::{DiffQuery, FileRow, FilesQuery, FindQuery};
use blxrep::api::client::{Client, ClientError};
use blxrep::api::error::ErrorCode;
use blxrep::api::mounts::{MountBody, MountState, UnmountQuery};
use blxrep::api::types::ListQuery;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Asks a dispatcher and waits for its answer.
struct Api {
    client: Client,
    runtime: Runtime,
}

impl Api {
    fn run<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(asked)
    }
}

/// Processes of this site that look into points or serve a mount.
fn helpers(data: &Path, command: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let has = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
        if has(command.as_bytes()) && has(data.as_os_str().as_bytes()) {
            found.extend(entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw));
        }
    }
    Ok(found)
}

fn refused<T>(answer: Result<T, ClientError>) -> Result<(ErrorCode, String)> {
    match answer {
        Err(ClientError::Api(error)) => Ok((error.code, error.message)),
        Err(error) => Err(error.into()),
        Ok(_) => bail!("it was done"),
    }
}

#[test]
fn points_are_looked_into_and_killed_children_leave_nothing() -> Result<()> {
    require_root!();
    let mut scene = Scene::new()?;
    let mounts = scene.mount("defaults")?;
    scene.fill(&mounts)?;
    let before = scene.sync()?.remove(0);
    fs::write(mounts[0].path().join("added"), "x")?;
    everything::sync(mounts[0].path())?;
    let after = scene.sync()?.remove(0);
    scene.stop_agent();
    let stored = scene.stored()?;
    let data = scene.site.path("data");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let api = Api { client: Client::new(&data), runtime };
    lists(&api, &before)?;
    files(&api, &before)?;
    differences(&api, &before, &after)?;
    kills(&api, &data, &before)?;
    mounted(&api, &scene, &before)?;
    ensure!(scene.stored()? == stored, "looking into points has changed the store");
    ensure!(!helpers(&data, "browse-points")?.is_empty(), "the children end too early to be of use");
    drop(mounts);
    scene.stop_dispatcher()?;
    wait_for("the end of all children", PATIENCE, || {
        let none = helpers(&data, "browse-points")?.is_empty() && helpers(&data, "serve-mount")?.is_empty();
        Ok(none.then_some(()))
    })?;
    scene.done();
    Ok(())
}

/// Real rows in pages: the same as all at once.
fn lists(api: &Api, point: &str) -> Result<()> {
    let all = api.run(api.client.points(&ListQuery::default()))?;
    let (mut query, mut paged) = (ListQuery { limit: Some(1), ..ListQuery::default() }, Vec::new());
    loop {
        let page = api.run(api.client.points_page(&query))?;
        ensure!(page.items.len() <= 1, "{page:?}");
        paged.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    let of_disk = |rows: &[blxrep::api::types::PointRow], disk| -> Vec<_> {
        rows.iter().filter(|row| row.disk == disk).map(|row| row.id).collect()
    };
    ensure!(
        paged.len() == all.len() && paged.is_sorted_by_key(|row| row.disk),
        "pages: {paged:?}, all: {all:?}"
    );
    ensure!(paged.iter().all(|row| of_disk(&paged, row.disk) == of_disk(&all, row.disk)), "another order");
    let one = api.run(api.client.point(point))?;
    ensure!(all.contains(&one), "{one:?}");
    let newest = api.run(api.client.points(&ListQuery { newest: Some(1), ..ListQuery::default() }))?;
    ensure!(newest[..] == all[all.len() - 1..], "newest: {newest:?}");
    let policies = api.run(api.client.policies())?;
    let disks = api.run(api.client.disks(&ListQuery::default()))?;
    ensure!(policies.items.len() == 1 && policies.trouble.is_none(), "{policies:?}");
    ensure!(policies.items[0].disks.len() == disks.len(), "{policies:?}");
    ensure!(disks.iter().all(|disk| disk.policy.as_ref() == Some(&policies.items[0].name)), "{disks:?}");
    Ok(())
}

fn files(api: &Api, point: &str) -> Result<()> {
    let partitions = api.run(api.client.partitions(point))?.items;
    let root = partitions.iter().find(|row| row.partition == 1.into()).context("no partition 1")?;
    ensure!(root.browsable && root.kind == "ext4" && !root.uuid.is_empty(), "{root:?}");
    let swap = partitions.iter().find(|row| row.kind == "swap").context("no swap")?;
    ensure!(!swap.browsable && swap.note.contains("swap"), "{swap:?}");
    let query =
        FilesQuery { partition: Some(1.into()), path: Some("/many".parse()?), ..FilesQuery::default() };
    let all = api.run(api.client.files(point, &FilesQuery { limit: Some(1000), ..query.clone() }))?;
    ensure!(all.next.is_none() && all.items.len() > 100, "{} files", all.items.len());
    let (mut after, mut paged) = (None, Vec::<FileRow>::new());
    loop {
        let page =
            api.run(api.client.files(point, &FilesQuery { limit: Some(97), after, ..query.clone() }))?;
        paged.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    ensure!(paged == all.items, "pages are not the folder");
    // Whatever the name, what was told finds it again.
    let names = FilesQuery { path: Some("/names".parse()?), ..query.clone() };
    let names = api.run(api.client.files(point, &names))?.items;
    ensure!(names.iter().any(|row| std::str::from_utf8(row.raw.as_bytes()).is_err()), "{names:?}");
    for row in names {
        let one =
            api.run(api.client.files(point, &FilesQuery { path: Some(row.raw.clone()), ..query.clone() }))?;
        ensure!(one.items == [row], "{one:?}");
    }
    let up = FilesQuery { path: Some("/a/../b".parse()?), ..query.clone() };
    ensure!(refused(api.run(api.client.files(point, &up)))?.0 == ErrorCode::Invalid);
    let linked = FilesQuery { path: Some("/to-file/x".parse()?), ..query.clone() };
    ensure!(refused(api.run(api.client.files(point, &linked)))?.0 == ErrorCode::Refused);
    let nothing = FilesQuery { path: Some("/none".parse()?), ..query };
    ensure!(refused(api.run(api.client.files(point, &nothing)))?.0 == ErrorCode::NotFound);
    let no_files = FilesQuery { partition: Some(swap.partition.clone()), ..FilesQuery::default() };
    let (code, why) = refused(api.run(api.client.files(point, &no_files)))?;
    ensure!(code == ErrorCode::Refused && why.contains("swap"), "{why}");
    Ok(())
}

fn differences(api: &Api, before: &str, after: &str) -> Result<()> {
    let query = DiffQuery { with: after.to_owned(), partition: Some(1.into()), ..DiffQuery::default() };
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let page =
            api.run(api.client.diff(before, &DiffQuery { after: next, limit: Some(1), ..query.clone() }))?;
        found.extend(page.items);
        match page.next {
            Some(place) => next = Some(place),
            None => break,
        }
    }
    ensure!(found.iter().any(|row| row.path == "/added" && row.change.word() == "added"), "{found:?}");
    Ok(())
}

/// A child dies between two questions, and during one.
fn kills(api: &Api, data: &Path, point: &str) -> Result<()> {
    let find = FindQuery { pattern: "*".parse()?, limit: Some(1), ..FindQuery::default() };
    api.run(api.client.find(point, &find))?;
    for child in helpers(data, "browse-points")? {
        kill_process(child, Signal::KILL)?;
    }
    wait_for("a new child", PATIENCE, || match api.run(api.client.find(point, &find)) {
        Ok(page) => Ok((page.items.len() == 1).then_some(())),
        // The dispatcher may not have noticed yet.
        Err(ClientError::Api(error)) if error.message.contains("ask again") => Ok(None),
        Err(error) => Err(error.into()),
    })?;
    let children = helpers(data, "browse-points")?;
    let [child] = children[..] else { bail!("{children:?}") };
    kill_process(child, Signal::STOP)?;
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        kill_process(child, Signal::KILL)
    });
    let answer = api.run(api.client.find(point, &find));
    killer.join().map_err(|_| anyhow!("the killer panicked"))??;
    let (code, why) = refused(answer)?;
    ensure!(code == ErrorCode::Failed && why.contains("ask again"), "{why}");
    api.run(api.client.find(point, &find))?;
    Ok(())
}

fn mounted(api: &Api, scene: &Scene, point: &str) -> Result<()> {
    let directory = scene.folder("over-the-api")?.to_string_lossy().into_owned();
    let body = MountBody { point: point.to_owned(), directory: directory.clone() };
    let mounted = api.run(api.client.mount(&body))?;
    ensure!(mounted.state == MountState::Served && mounted.point == point, "{mounted:?}");
    ensure!(api.run(api.client.mounts())?.contains(&mounted));
    ensure!(fs::read_dir(Path::new(&directory).join("files/1"))?.count() > 5, "no files are shown");
    let (code, why) = refused(api.run(api.client.mount(&body)))?;
    ensure!(code == ErrorCode::Refused && why.contains("already"), "{why}");
    let query = UnmountQuery { directory: directory.clone() };
    ensure!(api.run(api.client.unmount(&query))?.state == MountState::Unmounted);
    ensure!(refused(api.run(api.client.unmount(&query)))?.0 == ErrorCode::NotFound);
    ensure!(fs::read_dir(&directory)?.next().is_none(), "it is still mounted");
    Ok(())
}
