//! A dispatcher without agents or a store behind the real API: what the command line and the screen are tried on.

#![allow(clippy::unwrap_used, dead_code, reason = "test code, of which each test uses a part")]

pub mod files;

use blxrep::api::backend::{
    AgentRestore, Backend, DiffRequest, ExportRequest, FilesRequest, FilesRestore, Filter, FindRequest,
    RestoreRequest, SyncRequest, VerifyRequest,
};
use blxrep::api::browse::{ChangeRow, FileRow, Findings, PartitionRow};
use blxrep::api::chain::{BaseLink, PointChain};
use blxrep::api::consolidation::{ConsolidationPlan, PlannedStep, PointFate};
use blxrep::api::error::{ApiError, Result};
use blxrep::api::events::{Ear, Feed};
use blxrep::api::exports::{ExportRow, ExportState};
use blxrep::api::mounts::{MountRow, MountState};
use blxrep::api::page::{Page, Window};
use blxrep::api::policies::{PolicyList, PolicyRow, PolicyTarget, PolicyValues};
use blxrep::api::server;
use blxrep::api::socket::ControlSocket;
use blxrep::api::types::*;
use blxrep::model::action::{ActionKind, ActionState};
use blxrep::model::host::{Filesystem, Footprint, HostDisk, Interface, Partition};
use blxrep::model::ids::*;
use blxrep::model::point::{Consistency, Coverage, PointKind};
use blxrep::model::policy::EffectivePolicy;
use blxrep::model::restoration::Conflict;
use blxrep::model::restored::{Outcome, Step};
use blxrep::model::retention::Retention;
use blxrep::model::verification::Scope;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::watch;

/// The instant that the rows are told from.
pub const NOW: &str = "2026-11-03T12:00:00Z";
/// Bytes that a fake action moves from one look to the next.
const STEP: u64 = 1 << 30;
const TOTAL: u64 = 4 << 30;

pub const SDA: DiskId = DiskId(0xd15c_0000_0000_0001);
pub const SDB: DiskId = DiskId(0xd15c_0000_0000_0002);
pub const DB_SDA: DiskId = DiskId(0xd15c_0000_0000_0003);
pub const BASE: PointId = PointId(0x4f0c_2a9b_01d3_e587);
pub const DELTA: PointId = PointId(0x4f0c_2a9b_ffff_0001);
pub const FUZZY: PointId = PointId(0x9a00_1111_2222_3333);
pub const LIVE: ActionId = ActionId(0xac00_0000_0000_0001);
pub const RESTORE: ActionId = ActionId(0xac00_0000_0000_0005);
pub const FAILED: ActionId = ActionId(0xac00_0000_0000_0002);

pub fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

#[derive(Debug)]
pub struct Fake {
    data_dir: String,
    feed: Feed,
    mounts: Mutex<Vec<MountRow>>,
    exports: Mutex<Vec<ExportRow>>,
    actions: Mutex<BTreeMap<ActionId, (ActionRow, End)>>,
    /// What came of files that were restored.
    restored: Mutex<BTreeMap<ActionId, Outcome>>,
}

/// How a fake action ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Succeeds,
    Fails,
    Never,
}

impl Fake {
    pub fn new(data_dir: &Path) -> Self {
        let actions = [(live(), End::Never), (failed(), End::Fails)];
        Self {
            data_dir: data_dir.display().to_string(),
            feed: Feed::default(),
            mounts: Mutex::default(),
            exports: Mutex::default(),
            actions: Mutex::new(actions.map(|(row, end)| (row.id, (row, end))).into()),
            restored: Mutex::default(),
        }
    }

    fn begin(&self, kind: ActionKind, disk: Option<&DiskRow>, end: End) -> ActionRow {
        let mut actions = self.actions.lock().unwrap();
        let id = ActionId(0xac00_0000_0000_0001 + actions.len() as u64);
        let row = ActionRow {
            id,
            kind,
            agent: disk.map(|d| d.agent.clone()),
            disk: disk.map(|d| d.id),
            device: disk.map(|d| d.device.clone()),
            state: ActionState::Queued,
            reason: String::new(),
            created: now(),
            updated: now(),
            done: 0,
            total: TOTAL,
        };
        actions.insert(id, (row.clone(), end));
        row
    }

    /// Every look at an action moves it on.
    fn look(&self, id: ActionId) -> Result<ActionRow> {
        let mut actions = self.actions.lock().unwrap();
        let (row, end) =
            actions.get_mut(&id).ok_or_else(|| ApiError::not_found(format!("no action {id}")))?;
        if *end != End::Never && matches!(row.state, ActionState::Queued | ActionState::Running) {
            row.state = ActionState::Running;
            row.done += STEP;
            if row.done >= TOTAL {
                row.state = if *end == End::Fails { ActionState::Failed } else { ActionState::Succeeded };
                row.reason = if *end == End::Fails { "the target is full".into() } else { String::new() };
            }
        }
        Ok(row.clone())
    }
}

impl Backend for Fake {
    async fn status(&self) -> Result<DispatcherStatus> {
        Ok(DispatcherStatus { data_dir: self.data_dir.clone(), ..status() })
    }

    fn events(&self) -> Ear {
        self.feed.listen()
    }

    async fn agents(&self) -> Result<Vec<AgentRow>> {
        Ok(agents())
    }

    async fn agent(&self, agent: AgentId) -> Result<AgentDetail> {
        let row = agents().into_iter().find(|row| row.id == agent).unwrap();
        let footprint = row.online.then(footprint);
        Ok(AgentDetail { row, footprint })
    }

    async fn disks(&self, agent: Option<AgentId>) -> Result<Vec<DiskRow>> {
        Ok(disks().into_iter().filter(|row| agent.as_ref().is_none_or(|a| row.agent == *a)).collect())
    }

    async fn points(&self, filter: Filter, window: Window) -> Result<Page<PointRow>> {
        let key = |row: &PointRow| format!("{} {:020}", row.disk, row.sequence);
        Ok(Page::of(chosen(&filter), key, &window))
    }

    async fn newest_points(&self, filter: Filter, count: usize) -> Result<Vec<PointRow>> {
        let mut rows = chosen(&filter);
        rows.drain(..rows.len().saturating_sub(count));
        Ok(rows)
    }

    async fn policies(&self) -> Result<PolicyList> {
        Ok(policies())
    }

    async fn mounts(&self) -> Result<Vec<MountRow>> {
        Ok(self.mounts.lock().unwrap().clone())
    }

    async fn mount(&self, point: PointId, directory: PathBuf) -> Result<MountRow> {
        if directory.ends_with("full") {
            return Err(ApiError::refused(format!(
                "cannot mount on {}: it is not empty",
                directory.display()
            )));
        }
        let files = vec![directory.join("files/2").display().to_string()];
        let (point, directory) = (point.to_string(), directory.display().to_string());
        let (process, since) = (4242, Some(ago(3_720)));
        let row = MountRow { point, directory, process, state: MountState::Served, since, files };
        self.mounts.lock().unwrap().push(row.clone());
        Ok(row)
    }

    async fn unmount(&self, directory: PathBuf) -> Result<MountRow> {
        let mut mounts = self.mounts.lock().unwrap();
        let at = mounts.iter().position(|row| Path::new(&row.directory) == directory);
        let at =
            at.ok_or_else(|| ApiError::not_found(format!("no point is mounted on {}", directory.display())))?;
        Ok(MountRow { state: MountState::Unmounted, ..mounts.remove(at) })
    }

    async fn exports(&self) -> Result<Vec<ExportRow>> {
        Ok(self.exports.lock().unwrap().clone())
    }

    async fn export(&self, request: ExportRequest) -> Result<ExportRow> {
        let ExportRequest { point, address, partition, writable } = request;
        let uri = match address.strip_prefix("unix:") {
            Some(path) => format!("nbd+unix:///?socket={path}"),
            None if address.starts_with("127.") => format!("nbd://{address}"),
            None => return Err(ApiError::invalid(format!("{address} is not on this host"))),
        };
        let (point, bytes, process, since) = (point.to_string(), 100 << 30, 4243, ago(62));
        let state = ExportState::Served;
        let row = ExportRow { point, partition, uri, bytes, writable, process, since, state };
        self.exports.lock().unwrap().push(row.clone());
        Ok(row)
    }

    async fn stop_export(&self, uri: String) -> Result<ExportRow> {
        let mut exports = self.exports.lock().unwrap();
        let at = exports.iter().position(|row| row.uri == uri);
        let at = at.ok_or_else(|| ApiError::not_found(format!("no point is served at {uri}")))?;
        Ok(ExportRow { state: ExportState::Stopped, ..exports.remove(at) })
    }

    async fn point(&self, point: PointId) -> Result<PointRow> {
        let found = points().into_iter().find(|row| row.id == point);
        found.ok_or_else(|| ApiError::not_found(format!("no point {point}")))
    }

    async fn partitions(&self, _: PointId) -> Result<Findings<PartitionRow>> {
        Ok(files::partitions())
    }

    async fn files(&self, _: PointId, request: FilesRequest) -> Result<Findings<FileRow>> {
        files::list(&request)
    }

    async fn find(&self, _: PointId, request: FindRequest) -> Result<Findings<FileRow>> {
        files::find(&request)
    }

    async fn diff(
        &self,
        before: PointId,
        after: PointId,
        request: DiffRequest,
    ) -> Result<Findings<ChangeRow>> {
        Ok(if before == after { files::page(Vec::new(), 0, 1) } else { files::diff(&request) })
    }

    async fn chain(&self, point: PointId) -> Result<PointChain> {
        let row = points().into_iter().find(|row| row.id == point).unwrap();
        let file = |ending: &str| format!("snapshot/{}/{}.{ending}", row.disk, row.generation);
        let base = BaseLink {
            image: file("img"),
            sidecar: file("sum"),
            root: "5a".repeat(32),
            bytes: row.disk_bytes,
        };
        Ok(PointChain {
            point,
            agent: row.agent,
            disk: row.disk,
            generation: row.generation,
            sequence: row.sequence,
            revision: 0,
            bytes: row.disk_bytes,
            granule: 4096,
            base,
            deltas: Vec::new(),
            holes: Default::default(),
            indexes: format!("index/{}", row.generation),
        })
    }

    async fn actions(&self, _: Filter) -> Result<Vec<ActionRow>> {
        Ok(self.actions.lock().unwrap().values().map(|(row, _)| row.clone()).collect())
    }

    async fn action(&self, action: ActionId) -> Result<ActionRow> {
        self.look(action)
    }

    async fn point_ids(&self, range: RangeInclusive<PointId>, limit: usize) -> Result<Vec<PointId>> {
        let all = points().into_iter().chain(series());
        Ok(all.map(|p| p.id).filter(|id| range.contains(id)).take(limit).collect())
    }

    async fn action_ids(&self, range: RangeInclusive<ActionId>, limit: usize) -> Result<Vec<ActionId>> {
        Ok(self.actions.lock().unwrap().range(range).map(|(id, _)| *id).take(limit).collect())
    }

    async fn snapshot(&self, disk: DiskId) -> Result<ActionRow> {
        let row = disks().into_iter().find(|row| row.id == disk).unwrap();
        match row.state {
            DiskState::Problem => Err(ApiError::refused(format!("{}: {}", row.device, row.problem.unwrap()))),
            DiskState::Absent => Err(ApiError::unavailable(format!("agent {} is not connected", row.agent))),
            _ => Ok(self.begin(ActionKind::Snapshot, Some(&row), End::Succeeds)),
        }
    }

    /// A wait for the disk with a problem never ends.
    async fn sync(&self, request: SyncRequest) -> Result<Vec<SyncRow>> {
        if request.wait && request.disk == Some(SDB) {
            return pending().await;
        }
        let wanted = |row: &DiskRow| row.agent == request.agent && request.disk.is_none_or(|d| row.id == d);
        Ok(disks().into_iter().filter(wanted).map(|disk| synced(disk, request.wait)).collect())
    }

    async fn control(&self, action: ActionId, control: Control) -> Result<ActionRow> {
        let mut actions = self.actions.lock().unwrap();
        let (row, _) = actions.get_mut(&action).unwrap();
        if row.state.is_final() {
            return Err(ApiError::refused(format!("action {action} has {} already", row.state)));
        }
        row.state = match control {
            Control::Pause => ActionState::Paused,
            Control::Resume => ActionState::Running,
            Control::Cancel => ActionState::Cancelled,
        };
        Ok(row.clone())
    }

    async fn restore(&self, request: RestoreRequest) -> Result<ActionRow> {
        let name = request.to.file_name().unwrap().to_string_lossy().into_owned();
        if request.to.exists() && !request.yes {
            return Err(ApiError::unconfirmed(format!("{} exists (4.00 GiB)", request.to.display())));
        }
        let end = match name.as_str() {
            "fails.img" => End::Fails,
            "slow.img" => End::Never,
            _ => End::Succeeds,
        };
        Ok(self.begin(ActionKind::Restore, disks().first(), end))
    }

    async fn restore_to_agent(&self, request: AgentRestore) -> Result<ActionRow> {
        if request.device == "/dev/vda" {
            return Err(ApiError::refused("/dev/vda1 is mounted on / (ext4): unmount it first"));
        }
        // This one is another device by the time that somebody has agreed to the first.
        let changed = request.device == "/dev/vdc" && request.yes && !request.dry_run;
        let there = format!("{}, {}", request.device, if changed { "another" } else { "the first" });
        let agrees = request.yes && request.agreed.as_ref().is_none_or(|agreed| *agreed == there);
        if !request.dry_run && !agrees {
            let what = format!("everything on {there}, would be overwritten");
            return Err(ApiError::unconfirmed(what).about(there));
        }
        let mut row = self.begin(ActionKind::Restore, None, End::Succeeds);
        if request.dry_run {
            let found = format!("{} holds nothing; 100.0 GiB would be compared with it", request.device);
            row.state = ActionState::Succeeded;
            row.reason = format!("dry run, nothing was written: {found}");
        }
        Ok(row)
    }

    async fn restore_files(&self, request: FilesRestore) -> Result<ActionRow> {
        if request.agent.is_some() && !request.target.starts_with("/srv") {
            return Err(ApiError::refused(format!(
                "{} is not among what restores may write to",
                request.target
            )));
        }
        let row = self.begin(ActionKind::Restore, None, End::Succeeds);
        self.restored.lock().unwrap().insert(row.id, outcome(&request));
        Ok(row)
    }

    async fn files_report(&self, action: ActionId) -> Result<FilesReport> {
        let target = "/srv/restored".to_owned();
        let outcome = self.restored.lock().unwrap().get(&action).cloned();
        let outcome = outcome.unwrap_or_else(|| Outcome::new(false));
        Ok(FilesReport { action, point: FUZZY, agent: None, target, outcome })
    }

    async fn verify(&self, request: VerifyRequest) -> Result<ActionRow> {
        let end = if request.scope == Scope::Point(FUZZY) { End::Fails } else { End::Succeeds };
        Ok(self.begin(ActionKind::Verify, None, end))
    }

    async fn consolidation_plan(&self, filter: Filter) -> Result<ConsolidationPlan> {
        let fate = |row: PointRow| PointFate {
            agent: row.agent,
            disk: row.disk,
            device: row.device,
            point: row.id,
            cut: row.cut,
            published: row.published,
            consistency: row.consistency,
            stored: row.stored,
            keep: row.id != FUZZY,
            reason: if row.id == FUZZY { "others stand for its time" } else { "the one of its week" }.into(),
        };
        let points: Vec<_> = chosen(&filter).into_iter().map(fate).collect();
        let step =
            PlannedStep { disk: points[0].disk, what: format!("merge 1 points into {FUZZY}"), bytes: TOTAL };
        Ok(ConsolidationPlan { points, steps: vec![step] })
    }

    async fn consolidate(&self, filter: Filter) -> Result<Vec<ActionRow>> {
        let end = End::Succeeds;
        let disk = disks().into_iter().find(|row| filter.disk.is_none_or(|disk| row.id == disk));
        Ok(vec![self.begin(ActionKind::Consolidate, disk.as_ref(), end)])
    }

    async fn verify_source(&self, disk: DiskId) -> Result<ActionRow> {
        let row = disks().into_iter().find(|row| row.id == disk);
        Ok(self.begin(ActionKind::Verify, row.as_ref(), End::Succeeds))
    }

    async fn verify_report(&self, action: ActionId) -> Result<VerifyReport> {
        let row = self.look(action)?;
        let problems = match row.state {
            ActionState::Failed => vec![VerifyProblem {
                point: Some(FUZZY),
                file: "incremental/d15c/1/9a00.bak".into(),
                what: "extent 7 at byte 123,456 does not match its checksum".into(),
                offset: Some(123_456),
                sectors: Some([64, 72]),
                points: vec![FUZZY],
            }],
            _ => Vec::new(),
        };
        let (of_bytes, sample, seed, incomplete) = (TOTAL, None, None, Vec::new());
        let bytes = TOTAL;
        Ok(VerifyReport { action, points: 3, files: 5, bytes, of_bytes, sample, seed, problems, incomplete })
    }
}

/// The fake behind a real socket, on a thread of its own.
#[derive(Debug)]
pub struct FakeDispatcher {
    path: PathBuf,
    metrics: SocketAddr,
    feed: Feed,
    folder: Option<TempDir>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDispatcher {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut started = Self::start_in(folder.path());
        started.folder = Some(folder);
        started
    }

    /// In a folder that somebody else keeps.
    pub fn start_in(path: &Path) -> Self {
        let (stop, stopped) = watch::channel(false);
        let socket = ControlSocket::bind(path).unwrap();
        let fake = Arc::new(Fake::new(path));
        let feed = fake.feed.clone();
        let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        metrics.set_nonblocking(true).unwrap();
        let address = metrics.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let metrics = tokio::net::TcpListener::from_std(metrics).unwrap();
                let scraped = server::serve_metrics(metrics, Arc::clone(&fake), stopped.clone());
                let (served, ()) = tokio::join!(server::serve(socket, fake, stopped), scraped);
                served.unwrap();
            });
        });
        Self { path: path.to_owned(), metrics: address, feed, folder: None, stop, thread: Some(thread) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it says what happens.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Where the metrics can be read.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Returns when it has ended.
    pub fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for FakeDispatcher {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn status() -> DispatcherStatus {
    DispatcherStatus {
        version: "0.1.0".into(),
        store: StoreId(0xabc),
        data_dir: "/var/lib/blxrep".into(),
        listen: "127.0.0.1:8080".into(),
        started: ago(11_400),
        uptime_seconds: 11_400,
        agents: 2,
        agents_online: 1,
        disks: 3,
        points: 3,
        free_bytes: Some(900 << 30),
        stored_bytes: Some(100 << 30),
        growth_bytes_per_day: Some(20 << 30),
        days_to_full: Some(45),
    }
}

pub fn agents() -> Vec<AgentRow> {
    let web1 = AgentRow {
        id: "web1".parse().unwrap(),
        hostname: "web1.example.com".into(),
        distribution: "Debian GNU/Linux 12 (bookworm)".into(),
        kernel: "6.1.0-28-amd64".into(),
        cpus: 4,
        memory: 16 << 30,
        online: true,
        last_seen: Some(ago(1)),
        address: Some("10.0.0.11:50112".into()),
        disks: 2,
    };
    let db1 = AgentRow {
        id: "db1".parse().unwrap(),
        hostname: "db1\u{1b}[2J.example.com".into(),
        distribution: "Rocky Linux 9.4".into(),
        kernel: "5.14.0-427.el9.x86_64".into(),
        cpus: 16,
        memory: 128 << 30,
        online: false,
        last_seen: Some(ago(7_500)),
        address: None,
        disks: 1,
    };
    vec![db1, web1]
}

pub fn disks() -> Vec<DiskRow> {
    let sda = DiskRow {
        id: SDA,
        agent: "web1".parse().unwrap(),
        device: "/dev/sda".into(),
        identity: "wwn:naa.5000c500a1b2c3d4".into(),
        bytes: 100 << 30,
        state: DiskState::Protected,
        coverage: Coverage::Proven,
        lag_seconds: Some(4),
        backlog: Some(12 << 20),
        newest_point: Some(DELTA),
        newest_cut: Some(ago(4)),
        points: 2,
        policy: Some("web servers".into()),
        notes: vec!["discards are not audited on this device".into()],
        problem: None,
    };
    let sdb = DiskRow {
        id: SDB,
        device: "/dev/sdb".into(),
        identity: "serial:S4X9NX0R".into(),
        bytes: 2 << 40,
        state: DiskState::Problem,
        coverage: Coverage::Unknown("never tracked".into()),
        lag_seconds: None,
        backlog: None,
        newest_point: None,
        newest_cut: None,
        points: 0,
        notes: Vec::new(),
        problem: Some("zoned disks cannot be protected yet; leave it out with --disk".into()),
        ..sda.clone()
    };
    let db_sda = DiskRow {
        id: DB_SDA,
        agent: "db1".parse().unwrap(),
        identity: "gpt:0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        state: DiskState::Absent,
        coverage: Coverage::Unknown("the agent is not connected".into()),
        lag_seconds: Some(7_500),
        backlog: None,
        newest_point: Some(FUZZY),
        newest_cut: Some(ago(7_500)),
        points: 1,
        policy: None,
        notes: Vec::new(),
        ..sda.clone()
    };
    vec![db_sda, sda, sdb]
}

fn chosen(filter: &Filter) -> Vec<PointRow> {
    let wanted = |row: &PointRow| {
        filter.agent.as_ref().is_none_or(|a| row.agent == *a) && filter.disk.is_none_or(|d| row.disk == d)
    };
    points().into_iter().filter(wanted).collect()
}

pub fn policies() -> PolicyList {
    let policy = EffectivePolicy { name: "web servers".into(), ..EffectivePolicy::default() };
    let row = PolicyRow {
        name: policy.name.clone(),
        description: "What serves the shop".into(),
        file: "/etc/blxrep/policies/10-web.yaml".into(),
        targets: vec![PolicyTarget { pattern: "web[1-5]".into(), disks_excluded: vec!["/dev/sdb".into()] }],
        values: PolicyValues::new(&policy, &Retention::default(), None),
        set: vec!["live_sync_frequency".into(), "skip_unmet".into()],
        not_in_force: vec!["archive_interval".into()],
        agents: vec!["web1".parse().unwrap()],
        disks: vec![SDA],
        disks_excluded: vec![SDB],
    };
    PolicyList { dir: "/etc/blxrep/policies".into(), items: vec![row], trouble: None }
}

/// Oldest cut first.
pub fn points() -> Vec<PointRow> {
    let base = PointRow {
        id: BASE,
        agent: "web1".parse().unwrap(),
        disk: SDA,
        device: "/dev/sda".into(),
        identity: "wwn:naa.5000c500a1b2c3d4".into(),
        generation: GenerationId(0x6e00_0000_0000_0001),
        kind: PointKind::Base,
        parent: None,
        sequence: 0,
        cut_id: CutId(0xc100_0000_0000_0001),
        cut: ago(3_600),
        published: ago(3_590),
        consistency: Consistency::Quiet,
        coverage: Coverage::Proven,
        bytes: 100 << 30,
        stored: 41 << 30,
        disk_bytes: 100 << 30,
        rounds: 3,
        contaminated: 12,
        freeze_ms: None,
        each_round: Vec::new(),
        hooks: Vec::new(),
        group: Vec::new(),
        notes: Vec::new(),
        holes: Default::default(),
        half_restored: None,
        damage: Vec::new(),
    };
    let delta = PointRow {
        id: DELTA,
        kind: PointKind::Delta,
        parent: Some(BASE),
        sequence: 1,
        cut_id: CutId(0xc100_0000_0000_0002),
        cut: ago(4),
        published: ago(3),
        bytes: 37 << 20,
        stored: 20 << 20,
        rounds: 1,
        contaminated: 0,
        ..base.clone()
    };
    let fuzzy = PointRow {
        id: FUZZY,
        agent: "db1".parse().unwrap(),
        disk: DB_SDA,
        identity: "gpt:0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
        cut: ago(7_500),
        published: ago(7_490),
        consistency: Consistency::Fuzzy,
        coverage: Coverage::Unknown("the host was restarted".into()),
        notes: vec!["8 rounds were not enough".into()],
        damage: vec![
            "incremental/d15c/1/9a00.bak: byte 123456: an extent's payload has a wrong checksum".into(),
        ],
        ..base.clone()
    };
    vec![fuzzy, base, delta]
}

pub fn live() -> ActionRow {
    ActionRow {
        id: LIVE,
        kind: ActionKind::Live,
        agent: Some("web1".parse().unwrap()),
        disk: Some(SDA),
        device: Some("/dev/sda".into()),
        state: ActionState::Running,
        reason: String::new(),
        created: ago(3_500),
        updated: ago(3),
        done: 5 << 20,
        total: 12 << 20,
    }
}

pub fn failed() -> ActionRow {
    ActionRow {
        id: FAILED,
        kind: ActionKind::Snapshot,
        agent: Some("db1".parse().unwrap()),
        disk: Some(DB_SDA),
        state: ActionState::Failed,
        reason: "the data directory is full: 3 GiB more are needed".into(),
        created: ago(7_400),
        updated: ago(7_000),
        done: 30 << 30,
        total: 100 << 30,
        ..live()
    }
}

fn footprint() -> Footprint {
    let root = Filesystem {
        kind: "ext4".into(),
        uuid: "0a3c".into(),
        label: "root".into(),
        mount_points: vec!["/".into()],
    };
    Footprint {
        hostname: "web1.example.com".into(),
        distribution: "Debian GNU/Linux 12 (bookworm)".into(),
        kernel: "6.1.0-28-amd64".into(),
        architecture: "x86_64".into(),
        cpus: 4,
        cpu_model: "AMD EPYC 7543P".into(),
        memory_bytes: 16 << 30,
        boot_id: "b1f4".into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: "52:54:00:12:34:56".into(),
            addresses: vec!["10.0.0.11/24".into()],
        }],
        disks: vec![HostDisk {
            device: "/dev/sda".into(),
            major: 8,
            minor: 0,
            bytes: 100 << 30,
            logical_block_bytes: 512,
            model: "QEMU HARDDISK".into(),
            rotational: false,
            read_only: false,
            identity: Some(DiskIdentity::Wwn("naa.5000c500a1b2c3d4".into())),
            diskseq: Some(9),
            partitions: vec![Partition {
                number: 1,
                first_sector: 2048,
                sectors: 209_713_152,
                kind: "0fc63daf-8483-4772-8e79-3d69d8477de4".into(),
                name: "root".into(),
                filesystem: Some(root),
            }],
            filesystem: None,
        }],
    }
}

fn synced(disk: DiskRow, wait: bool) -> SyncRow {
    let works = wait && disk.state == DiskState::Protected;
    SyncRow {
        agent: disk.agent,
        disk: disk.id,
        device: disk.device,
        identity: disk.identity,
        cut_id: CutId(0xc100_0000_0000_0003),
        point: works.then_some(DELTA),
        consistency: works.then_some(Consistency::Quiet),
        bytes: works.then_some(37 << 20),
        rounds: works.then_some(1),
        published: works.then(now),
        error: (wait && !works).then(|| "it has no base yet: take a snapshot first".to_owned()),
    }
}

/// A folder is there already, and something of the same name as the file.
fn outcome(request: &FilesRestore) -> Outcome {
    let mut outcome = Outcome::new(request.dry_run);
    let step = |path: &str, kind: &str, action: &str, bytes, why: &str| Step {
        path: path.into(),
        kind: kind.into(),
        action: action.into(),
        bytes,
        why: why.into(),
    };
    match &mut outcome {
        Outcome::Planned(plan) => {
            let (action, why) = match request.conflict {
                Conflict::Skip => ("create", ""),
                Conflict::Overwrite => ("replace", "it exists"),
                Conflict::Rename => ("rename", "it exists: restored as budget.ods.restored"),
            };
            plan.steps = vec![
                step("home", "folder", "create", 0, ""),
                step("home/ada", "folder", "create", 0, ""),
                step("home/ada/budget.ods", "file", action, 48_213, why),
            ];
        }
        Outcome::Restored(report) => (report.folders, report.files, report.bytes) = (2, 1, 48_213),
    }
    outcome
}

/// Points of one disk: one every five minutes for six hours, of all kinds; oldest first.
pub fn series() -> Vec<PointRow> {
    const POINTS: u64 = 72;
    let base = points().into_iter().find(|row| row.id == BASE).unwrap();
    let point = |n: u64| {
        let ago_seconds = i64::try_from(POINTS - 1 - n).unwrap() * 300 + 4;
        let mut row = PointRow {
            id: PointId(0x5e00_0000_0000_0000 + n * 0x0001_0203_0405),
            kind: if n == 0 { PointKind::Base } else { PointKind::Delta },
            parent: n.checked_sub(1).map(|before| PointId(0x5e00_0000_0000_0000 + before * 0x0001_0203_0405)),
            sequence: n,
            cut: ago(ago_seconds),
            published: ago(ago_seconds - 1),
            bytes: (1 + n * 37 % 50) << 20,
            stored: (1 + n * 37 % 50) << 19,
            rounds: 1 + u32::try_from(n % 3).unwrap(),
            ..base.clone()
        };
        match n {
            20 => {
                row.consistency = Consistency::Fuzzy;
                row.notes = vec!["8 rounds were not enough".into()];
            }
            33 => row.holes = serde_json::from_str(r#"[{"start":4096,"end":4104}]"#).unwrap(),
            35 => row.half_restored = Some(RESTORE),
            40 => row.damage = vec!["incremental/d15c/1/5e00.bak: byte 123456: a wrong checksum".into()],
            _ if n % 12 == 11 => {
                row.consistency = Consistency::Frozen;
                row.freeze_ms = Some(38);
            }
            _ => {}
        }
        row
    };
    (0..POINTS).filter(|n| !(50..55).contains(n)).map(point).collect()
}
