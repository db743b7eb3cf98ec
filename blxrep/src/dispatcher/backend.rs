//! The dispatcher as the API sees it: every call is carried out by the hub's thread.

use super::exports::Exports;
use super::hub::{Hub, Note};
use super::jobs::Report;
use super::mounts::Mounts;
use super::restore_words::files_of;
use super::syncs::Asker;
use super::{lists, rows};
use crate::api::backend::{
    AgentRestore, Backend, DiffRequest, ExportRequest, FilesRequest, FilesRestore, Filter, FindRequest,
    RestoreRequest, SyncRequest, VerifyRequest,
};
use crate::api::browse::{ChangeRow, FileRow, Findings, PartitionRow};
use crate::api::chain::PointChain;
use crate::api::consolidation::ConsolidationPlan;
use crate::api::error::{ApiError, Result};
use crate::api::events::{Ear, Feed};
use crate::api::exports::ExportRow;
use crate::api::mounts::MountRow;
use crate::api::page::{Page, Window};
use crate::api::policies::PolicyList;
use crate::api::types::{
    ActionRow, AgentDetail, AgentRow, Control as Order, DiskRow, DispatcherStatus, FilesReport, PointRow,
    SyncRow, VerifyReport,
};
use crate::browse::Question;
use crate::browse::pool::Browsers;
use crate::io::random;
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId, CutId, DiskId, PointId, StoreId};
use crate::model::restoration::{DeviceTarget, FilesTarget, Preflight, Restoration, Target};
use crate::store::StoreError;
use crate::store::catalog::PointFilter;
use crate::store::restore::Consent;
use crate::store::room::free_bytes;
use crate::store::sample::Sample;
use crate::wire::config::{Control as WireControl, ToAgent};
use jiff::Timestamp;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long an agent may take to look at a target: its disks may be spun down.
const PREFLIGHT_PATIENCE: Duration = Duration::from_secs(30);

/// What does not change while the dispatcher runs.
#[derive(Clone, Debug)]
pub struct HouseFacts {
    pub store: StoreId,
    pub data_dir: PathBuf,
    pub address: SocketAddr,
    pub started: Timestamp,
}

/// Handle for the API.
pub struct Control {
    notes: mpsc::Sender<Note>,
    facts: HouseFacts,
    feed: Feed,
    browsers: Browsers,
    mounts: Mounts,
    exports: Exports,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(text) => Self::not_found(text),
            StoreError::Refused(text) => Self::refused(text),
            other => Self::failed(other.to_string()),
        }
    }
}

fn stopping() -> ApiError {
    ApiError::unavailable("the dispatcher is stopping")
}

impl Control {
    pub fn new(notes: mpsc::Sender<Note>, facts: HouseFacts, feed: Feed, browsers: Browsers) -> Self {
        let mounts = Mounts::new(facts.data_dir.clone());
        let exports = Exports::new(facts.data_dir.clone());
        Self { notes, facts, feed, browsers, mounts, exports }
    }

    /// Runs a question or an order on the hub's thread.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Hub) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = move |hub: &mut Hub| {
            // Who asked may have gone.
            let _ = reply.send(ask(hub));
        };
        self.notes.send(Note::Call(Box::new(job))).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

impl Control {
    /// How much is to be restored. Refuses a point that lacks something, and a partition that it does not have.
    async fn part_bytes(&self, request: &AgentRestore) -> Result<u64> {
        let store = self.ask(|hub| Ok(hub.store.clone())).await?;
        let (point, partition) = (request.point, request.partition.clone());
        let consent = Consent { overwrite: true, holes: request.allow_holes };
        let opened = tokio::task::spawn_blocking(move || store.open_part(point, partition.as_ref(), consent));
        Ok(opened.await.map_err(|_| stopping())??.bytes())
    }
}

impl Control {
    /// What the agent says to a restore.
    async fn preflight(&self, agent: &AgentId, restoration: &Restoration) -> Result<Preflight> {
        let (reply, answer) = oneshot::channel();
        let (to, asked) = (agent.clone(), restoration.clone());
        self.ask(move |hub| hub.preflight(&to, asked, reply)).await?;
        match tokio::time::timeout(PREFLIGHT_PATIENCE, answer).await {
            Ok(Ok(verdict)) => verdict.map_err(ApiError::refused),
            Ok(Err(_)) => Err(ApiError::unavailable(format!("agent {agent} disconnected: try again"))),
            Err(_) => {
                let patience = PREFLIGHT_PATIENCE.as_secs();
                Err(ApiError::unavailable(format!("agent {agent} did not answer within {patience} s")))
            }
        }
    }
}

impl Backend for Control {
    async fn status(&self) -> Result<DispatcherStatus> {
        let facts = self.facts.clone();
        self.ask(move |hub| {
            let uptime = Timestamp::now().duration_since(facts.started);
            let (free, usage) = (free_bytes(&facts.data_dir), hub.usage);
            let growth = usage.and_then(|usage| usage.growth_per_day);
            Ok(DispatcherStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                store: facts.store,
                listen: facts.address.to_string(),
                started: facts.started,
                uptime_seconds: u64::try_from(uptime.as_secs()).unwrap_or(0),
                agents: hub.store.agents()?.len() as u64,
                agents_online: hub.sessions.len() as u64,
                disks: hub.store.disks()?.len() as u64,
                points: hub.store.count_points(&PointFilter::default())?,
                free_bytes: free,
                stored_bytes: usage.map(|usage| usage.stored),
                growth_bytes_per_day: growth,
                days_to_full: free.zip(growth).and_then(|(free, growth)| free.checked_div(growth)),
                data_dir: facts.data_dir.display().to_string(),
            })
        })
        .await
    }

    fn events(&self) -> Ear {
        self.feed.listen()
    }

    async fn agents(&self) -> Result<Vec<AgentRow>> {
        self.ask(|hub| Ok(rows::agents(hub)?)).await
    }

    async fn agent(&self, agent: AgentId) -> Result<AgentDetail> {
        self.ask(move |hub| {
            let disks = hub.store.disks()?;
            let known = hub.store.agent(&agent)?;
            let known = known.ok_or_else(|| ApiError::not_found(format!("no agent `{agent}`")))?;
            Ok(AgentDetail { row: rows::agent(hub, &known, &disks), footprint: Some(known.footprint) })
        })
        .await
    }

    async fn disks(&self, agent: Option<AgentId>) -> Result<Vec<DiskRow>> {
        self.ask(move |hub| Ok(rows::disks(hub, agent.as_ref())?)).await
    }

    async fn points(&self, filter: Filter, window: Window) -> Result<Page<PointRow>> {
        self.ask(move |hub| lists::points(hub, &filter, &window)).await
    }

    async fn newest_points(&self, filter: Filter, count: usize) -> Result<Vec<PointRow>> {
        self.ask(move |hub| lists::newest_points(hub, filter, count)).await
    }

    async fn point(&self, point: PointId) -> Result<PointRow> {
        self.ask(move |hub| {
            let point = hub.store.point(point)?;
            let damage = hub.store.damages()?.get(&point.id).map(|row| row.what.clone()).unwrap_or_default();
            Ok(PointRow { damage, ..rows::point(&hub.store.disk(point.disk)?, point) })
        })
        .await
    }

    async fn partitions(&self, point: PointId) -> Result<Findings<PartitionRow>> {
        self.browsers.ask(vec![point], Question::Partitions).await
    }

    async fn files(&self, point: PointId, request: FilesRequest) -> Result<Findings<FileRow>> {
        self.browsers.ask(vec![point], Question::Files(request)).await
    }

    async fn find(&self, point: PointId, request: FindRequest) -> Result<Findings<FileRow>> {
        self.browsers.ask(vec![point], Question::Find(request)).await
    }

    async fn diff(
        &self,
        before: PointId,
        after: PointId,
        request: DiffRequest,
    ) -> Result<Findings<ChangeRow>> {
        self.browsers.ask(vec![before, after], Question::Diff(request)).await
    }

    async fn chain(&self, point: PointId) -> Result<PointChain> {
        self.ask(move |hub| {
            let point = hub.store.point(point)?;
            let agent = hub.store.disk(point.disk)?.agent;
            PointChain::new(&point, agent, &hub.store.chain(point.id)?, hub.store.data_dir())
        })
        .await
    }

    async fn actions(&self, filter: Filter) -> Result<Vec<ActionRow>> {
        self.ask(move |hub| {
            let disks = hub.store.disks()?;
            let mut actions = hub.actions()?;
            actions.retain(|a| filter.agent.is_none() || a.agent == filter.agent);
            actions.retain(|a| filter.disk.is_none() || a.disk == filter.disk);
            let trouble = hub.store.trouble();
            let row = |action| rows::halted(rows::action(action, &disks), trouble.as_deref());
            Ok(actions.iter().map(row).collect())
        })
        .await
    }

    async fn action(&self, action: ActionId) -> Result<ActionRow> {
        self.ask(move |hub| hub.action_row(action)).await
    }

    async fn point_ids(&self, range: RangeInclusive<PointId>, limit: usize) -> Result<Vec<PointId>> {
        self.ask(move |hub| Ok(hub.store.point_ids(&range, limit)?)).await
    }

    async fn policies(&self) -> Result<PolicyList> {
        self.ask(|hub| lists::policies(hub)).await
    }

    async fn mounts(&self) -> Result<Vec<MountRow>> {
        self.mounts.list().await
    }

    async fn mount(&self, point: PointId, directory: PathBuf) -> Result<MountRow> {
        self.mounts.mount(point, &directory).await
    }

    async fn unmount(&self, directory: PathBuf) -> Result<MountRow> {
        self.mounts.unmount(&directory).await
    }

    async fn exports(&self) -> Result<Vec<ExportRow>> {
        Ok(self.exports.list())
    }

    async fn export(&self, request: ExportRequest) -> Result<ExportRow> {
        self.exports.start(request).await
    }

    async fn stop_export(&self, uri: String) -> Result<ExportRow> {
        self.exports.stop(&uri).await
    }

    async fn action_ids(&self, range: RangeInclusive<ActionId>, limit: usize) -> Result<Vec<ActionId>> {
        self.ask(move |hub| {
            let mut ids: Vec<ActionId> = hub.actions()?.iter().map(|a| a.id).collect();
            ids.retain(|id| range.contains(id));
            ids.sort();
            ids.truncate(limit);
            Ok(ids)
        })
        .await
    }

    async fn snapshot(&self, disk: DiskId) -> Result<ActionRow> {
        self.ask(move |hub| hub.snapshot(disk)).await
    }

    async fn sync(&self, request: SyncRequest) -> Result<Vec<SyncRow>> {
        let cut = CutId(random::id());
        let (reply, answer) = oneshot::channel();
        let wait = request.wait;
        let rows = self.ask(move |hub| hub.begin_sync(&request, cut, Asker::Person(reply))).await?;
        if wait { answer.await.map_err(|_| stopping())? } else { Ok(rows) }
    }

    async fn control(&self, action: ActionId, order: Order) -> Result<ActionRow> {
        self.ask(move |hub| hub.control(action, order)).await
    }

    async fn restore(&self, request: RestoreRequest) -> Result<ActionRow> {
        self.ask(move |hub| hub.restore(request)).await
    }

    async fn restore_to_agent(&self, request: AgentRestore) -> Result<ActionRow> {
        let bytes = self.part_bytes(&request).await?;
        let target = Target::Device(DeviceTarget {
            device: request.device.clone(),
            bytes,
            whole: request.partition.is_none(),
            full: request.full,
        });
        let restoration = Restoration { point: request.point, target, agreed: None };
        let preflight = self.preflight(&request.agent, &restoration).await?;
        self.ask(move |hub| hub.restore_to_agent(&request, restoration, preflight)).await
    }

    async fn restore_files(&self, request: FilesRestore) -> Result<ActionRow> {
        let Some(agent) = request.agent.clone() else {
            return self.ask(move |hub| hub.restore_files_here(request)).await;
        };
        let FilesRestore { point, ref target, conflict, dry_run, .. } = request;
        let target = Target::Files(FilesTarget { folder: target.clone(), conflict, dry_run });
        let restoration = Restoration { point, target, agreed: None };
        self.preflight(&agent, &restoration).await?;
        self.ask(move |hub| hub.restore_files_to(agent, restoration, request.paths)).await
    }

    async fn files_report(&self, action: ActionId) -> Result<FilesReport> {
        self.ask(move |hub| {
            let found = hub.reports.iter().find_map(|report| match report {
                Report::Files(report) if report.action == action => Some(report.clone()),
                _ => None,
            });
            found.ok_or_else(|| {
                ApiError::not_found(format!(
                    "no report of action {action}: it is no restore of files, is not done, or was done before the \
                     dispatcher was started"
                ))
            })
        })
        .await
    }

    async fn verify(&self, request: VerifyRequest) -> Result<ActionRow> {
        self.ask(move |hub| hub.verify(request)).await
    }

    async fn consolidation_plan(&self, filter: Filter) -> Result<ConsolidationPlan> {
        self.ask(move |hub| hub.consolidation_plan(filter.agent.as_ref(), filter.disk)).await
    }

    async fn consolidate(&self, filter: Filter) -> Result<Vec<ActionRow>> {
        self.ask(move |hub| hub.consolidate(filter.agent.as_ref(), filter.disk)).await
    }

    async fn verify_source(&self, disk: DiskId) -> Result<ActionRow> {
        self.ask(move |hub| hub.verify_source(disk)).await
    }

    async fn verify_report(&self, action: ActionId) -> Result<VerifyReport> {
        self.ask(move |hub| {
            let found = hub.reports.iter().find_map(|report| match report {
                Report::Verify(report) if report.action == action => Some(report.clone()),
                _ => None,
            });
            found.ok_or_else(|| {
                ApiError::not_found(format!("no report of action {action}: it is no verify, or is not done"))
            })
        })
        .await
    }
}

impl Hub {
    /// Open actions with their progress, and those that ended; oldest first.
    fn actions(&self) -> Result<Vec<Action>> {
        let mut actions = self.store.actions()?;
        for action in &mut actions {
            if let Some(open) = self.open.get(&action.id) {
                *action = open.clone();
            }
        }
        actions.sort_by_key(|a| (a.created, a.id));
        Ok(actions)
    }

    pub fn action_row(&self, id: ActionId) -> Result<ActionRow> {
        let action = match self.open.get(&id) {
            Some(open) => open.clone(),
            None => self.store.action(id)?,
        };
        let row = rows::action(&action, &self.store.disks()?);
        Ok(rows::halted(row, self.store.trouble().as_deref()))
    }

    /// Has an image of a disk made, as a person wants it.
    pub fn snapshot(&mut self, disk: DiskId) -> Result<ActionRow> {
        let disk = self.store.disk(disk)?;
        let offer = self.offer(&disk)?;
        if let Some(problem) = &offer {
            return Err(ApiError::refused(format!("{} cannot be protected: {problem}", disk.device)));
        }
        if self.excludes(&disk) {
            let device = &disk.device;
            return Err(ApiError::refused(format!(
                "the policy of its agent leaves {device} out: see `disks_excluded`"
            )));
        }
        let of_disk = |a: &&Action| a.disk == Some(disk.id) && a.kind == ActionKind::Snapshot;
        let id = match self.open.values().find(of_disk) {
            Some(open) if open.state == ActionState::Paused => {
                return Err(ApiError::refused(format!(
                    "its snapshot is paused: `blxrep resume {}`",
                    open.id
                )));
            }
            Some(open) => open.id,
            None => {
                let id = self.begin(ActionKind::Snapshot, Some(&disk))?;
                self.assign_disk(&disk)?;
                id
            }
        };
        // An image that is refused says nothing of the disk.
        self.store.accept_half_restored(&disk, |action| self.restores.has(action))?;
        self.action_row(id)
    }

    /// The problem of a disk that its agent offers now; an error if it does not offer it.
    pub fn offer(&self, disk: &crate::model::point::Disk) -> Result<Option<String>> {
        let agent = &disk.agent;
        let session = self.sessions.get(agent).ok_or_else(|| {
            ApiError::refused(format!(
                "agent {agent} is not connected; start it, or see its log for why it cannot connect"
            ))
        })?;
        let offer = session.offers.iter().find(|o| o.identity == disk.identity);
        let missing = || format!("agent {agent} does not offer {} ({}) now", disk.device, disk.identity);
        offer.map(|o| o.problem.clone()).ok_or_else(|| ApiError::refused(missing()))
    }

    pub fn begin_sync(&mut self, request: &SyncRequest, cut: CutId, asker: Asker) -> Result<Vec<SyncRow>> {
        let disk = request.disk.map(|id| self.store.disk(id)).transpose()?;
        if let Some(disk) = &disk {
            self.protect_again(disk)?;
        }
        let agent = &request.agent;
        if !self.sessions.contains_key(agent) {
            return Err(ApiError::refused(format!(
                "agent {agent} is not connected; start it, then try again"
            )));
        }
        let live: Vec<DiskId> = self
            .open
            .values()
            .filter(|a| {
                a.kind == ActionKind::Live
                    && a.state != ActionState::Paused
                    && a.agent.as_ref() == Some(agent)
            })
            .filter_map(|a| a.disk)
            .filter(|disk| {
                !self.open.values().any(|a| a.kind == ActionKind::Snapshot && a.disk == Some(*disk))
            })
            .collect();
        let mut disks = self.store.disks()?;
        disks.retain(|disk| self.offer(disk).is_ok_and(|problem| problem.is_none()) && !self.excludes(disk));
        let rows: Vec<SyncRow> =
            disks.iter().filter(|d| live.contains(&d.id)).map(|d| rows::sync(d, cut)).collect();
        let wanted = request.disk.is_none_or(|id| rows.iter().any(|row| row.disk == id));
        if rows.is_empty() || !wanted {
            return Err(ApiError::refused(format!(
                "nothing to sync on agent {agent}: the disk has no published base yet, is not there, is excluded by the \
                 policy, or its action is paused; see `blxrep disks` and `blxrep actions`"
            )));
        }
        self.sync(agent, disk.map(|d| d.identity), request.goal, cut, asker);
        Ok(rows)
    }

    /// A sync of a disk whose protection a person cancelled starts it again.
    fn protect_again(&mut self, disk: &crate::model::point::Disk) -> Result<()> {
        let live = |a: &&Action| a.disk == Some(disk.id) && a.kind == ActionKind::Live;
        if self.open.values().find(live).is_none() && self.store.newest_point(disk.id)?.is_some() {
            self.begin(ActionKind::Live, Some(disk))?;
            self.assign_disk(disk)?;
        }
        Ok(())
    }

    fn control(&mut self, id: ActionId, order: Order) -> Result<ActionRow> {
        let action = match self.open.get(&id) {
            Some(open) => open.clone(),
            None => {
                let ended = self.store.action(id)?;
                return Err(ApiError::refused(format!(
                    "action {id} has {} already: it cannot be changed",
                    ended.state
                )));
            }
        };
        if action.kind == ActionKind::Rescan {
            return self.control_rescan(&action, order);
        }
        if self.restores.has(id) {
            return self.control_restore(&action, order);
        }
        if matches!(action.kind, ActionKind::Restore | ActionKind::Verify | ActionKind::Consolidate) {
            return self.control_job(&action, order);
        }
        let state = match order {
            Order::Pause => ActionState::Paused,
            Order::Resume if action.state != ActionState::Paused => return self.action_row(id),
            Order::Resume => ActionState::Queued,
            Order::Cancel => ActionState::Cancelled,
        };
        self.set_state(id, state, String::new());
        let disk = action.disk.map(|d| self.store.disk(d)).transpose()?;
        let Some(disk) = disk else { return self.action_row(id) };
        if order == Order::Resume {
            self.assign_disk(&disk)?;
        } else {
            let control = if order == Order::Pause { WireControl::Pause } else { WireControl::Cancel };
            self.send(&disk.agent, ToAgent::Control { action: id, control });
        }
        if order == Order::Cancel && action.kind == ActionKind::Snapshot {
            // A disk that has points is kept in sync again: for the snapshot it was left alone.
            self.assign_disk(&disk)?;
        }
        self.action_row(id)
    }

    fn control_job(&mut self, action: &Action, order: Order) -> Result<ActionRow> {
        if order != Order::Cancel {
            return Err(ApiError::refused(format!(
                "a {} can be cancelled, not paused: start it again later",
                action.kind
            )));
        }
        if !self.cancel_source(action.id) {
            self.jobs.cancel(action.id);
        }
        self.action_row(action.id)
    }

    fn restore(&mut self, request: RestoreRequest) -> Result<ActionRow> {
        let point = self.store.point(request.point)?;
        let disk = self.store.disk(point.disk)?;
        self.jobs.check_restore(&request)?;
        let id = self.begin(ActionKind::Restore, Some(&disk))?;
        self.set_state(id, ActionState::Running, String::new());
        self.jobs.restore(id, request);
        self.action_row(id)
    }

    fn restore_files_here(&mut self, request: FilesRestore) -> Result<ActionRow> {
        self.store.point(request.point)?;
        self.jobs.room()?;
        let id = self.begin_of(ActionKind::Restore, None, None)?;
        let reason = format!("{} to {}", files_of(&request.paths, request.point), request.target);
        self.set_state(id, ActionState::Running, reason);
        self.jobs.files(id, request);
        self.action_row(id)
    }

    fn verify(&mut self, request: VerifyRequest) -> Result<ActionRow> {
        self.jobs.room()?;
        let sample = request.sample.map(|share| Sample { share, seed: random::id() });
        let id = self.begin_verify(request.scope, sample, false)?;
        self.action_row(id)
    }
}
