//! What the dispatcher knows of the present: sessions, open actions, syncs that wait. One thread owns it, everybody
//! else sends notes.

use super::comparisons::{self, Comparisons, Grant, Outcome};
use super::jobs::{JobEnd, Jobs, Report};
use super::policies::PolicyBook;
use super::restores::{self, Restores};
use super::syncs::Sync;
use super::upkeep::Usage;
use super::verifier::{CUT_SHORT, Schedule};
use crate::api::events::{Event, Feed};
use crate::engine::duty::{Duty, Facts, duty};
use crate::io::random;
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, AgentId, CutId, DiskId, DiskIdentity};
use crate::model::point::{Disk, Point};
use crate::model::policy::EffectivePolicy;
use crate::model::retention::Retention;
use crate::model::units::MIN_GRANULE_SHIFT;
use crate::store::catalog::{DiskOffer, PointFilter};
use crate::store::{Store, StoreError};
use crate::wire::config::{Control, DiskStatus, Offer, ToAgent, ToDispatcher};
use jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use tokio::sync::{mpsc, oneshot};

/// Notes that wait for the hub.
pub const QUEUE: usize = 1024;
/// Messages that wait for one agent. An agent that takes none while so many are due is treated as lost.
pub const SESSION_QUEUE: usize = 256;
/// Reports of verifies and restores that are kept for who asks.
const MAX_REPORTS: usize = 64;

type Job = Box<dyn FnOnce(&mut Hub) + Send>;

/// What the hub is told.
pub enum Note {
    /// An agent's config connection stands. The reply is the session's number.
    Joined {
        agent: AgentId,
        address: SocketAddr,
        to_agent: mpsc::Sender<ToAgent>,
        reply: oneshot::Sender<u64>,
    },
    Said {
        agent: AgentId,
        session: u64,
        message: ToDispatcher,
    },
    Left {
        agent: AgentId,
        session: u64,
    },
    Backlog {
        disk: DiskId,
        backlog: u64,
    },
    Progress {
        action: ActionId,
        done: u64,
        total: u64,
    },
    Published {
        point: Box<Point>,
    },
    BaseDone {
        action: ActionId,
        disk: DiskId,
    },
    /// An agent wants to compare a disk with its newest point. The error says why not now.
    Compare {
        asked: comparisons::Asked,
        reply: oneshot::Sender<Result<Grant, String>>,
    },
    /// That has ended.
    Compared {
        action: ActionId,
        outcome: Result<Outcome, String>,
    },
    /// An agent has come for a restore. The error says why there is none now.
    Restore {
        agent: AgentId,
        action: ActionId,
        reply: oneshot::Sender<Result<restores::Grant, String>>,
    },
    /// It waits for its turn to be read, or does so no longer.
    RestoreWaits {
        action: ActionId,
        waits: bool,
    },
    /// Something is about to be written to its target.
    Touch {
        action: ActionId,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// So many blocks of its target are as the point has them.
    RestoreDurable {
        action: ActionId,
        blocks: u32,
    },
    /// It has ended, or its connection has. The reply comes when that is kept.
    RestoreEnded {
        action: ActionId,
        /// Of the connection.
        number: u64,
        ending: restores::Ending,
        reply: oneshot::Sender<()>,
    },
    JobEnded(JobEnd),
    /// Policies may have changed, pings are due.
    Tick,
    /// A question or an order of the API.
    Call(Job),
    Stop,
}

/// A connected agent.
pub struct Session {
    pub number: u64,
    pub address: SocketAddr,
    to_agent: mpsc::Sender<ToAgent>,
    pub offers: Vec<Offer>,
    pub status: BTreeMap<DiskIdentity, DiskStatus>,
    pub policy: Option<EffectivePolicy>,
}

/// The hub's state.
pub struct Hub {
    pub store: Store,
    pub policies: PolicyBook,
    pub sessions: BTreeMap<AgentId, Session>,
    /// Actions that have not ended, as the catalog has them but for their progress.
    pub open: BTreeMap<ActionId, Action>,
    pub backlog: BTreeMap<DiskId, u64>,
    pub jobs: Jobs,
    pub comparisons: Comparisons,
    pub restores: Restores,
    pub reports: VecDeque<Report>,
    /// What the store takes, as of the last look at it.
    pub usage: Option<Usage>,
    pub schedule: Schedule,
    pub syncs: BTreeMap<CutId, Sync>,
    next_session: u64,
    pings: u64,
    feed: Feed,
}

impl Hub {
    /// Takes up the actions that were open when the dispatcher stopped.
    pub fn new(store: Store, policies: PolicyBook, jobs: Jobs, feed: Feed) -> Result<Self, StoreError> {
        let store_actions = store.actions()?;
        let restores = open_restores(&store, &store_actions)?;
        let mut hub = Self {
            store,
            policies,
            sessions: BTreeMap::new(),
            open: BTreeMap::new(),
            backlog: BTreeMap::new(),
            jobs,
            comparisons: Comparisons::default(),
            restores,
            reports: VecDeque::new(),
            usage: None,
            schedule: Schedule::of(&store_actions),
            syncs: BTreeMap::new(),
            next_session: 1,
            pings: 0,
            feed,
        };
        for action in store_actions {
            if action.state.is_final() {
                continue;
            }
            let (id, kind, state) = (action.id, action.kind, action.state);
            hub.open.insert(id, action);
            match kind {
                ActionKind::Restore if hub.restores.has(id) => hub.restore_taken_up(id),
                ActionKind::Restore | ActionKind::Verify | ActionKind::Consolidate => {
                    hub.set_state(id, ActionState::Failed, CUT_SHORT.to_owned());
                }
                _ if state == ActionState::Running => {
                    hub.set_state(id, ActionState::Queued, waiting_for_agent())
                }
                _ => {}
            }
        }
        Ok(hub)
    }

    /// Works until told to stop.
    pub fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.blocking_recv() {
            match note {
                Note::Stop => break,
                note => self.take(note),
            }
        }
        // Jobs that end from here on find nobody to tell.
        drop(notes);
        self.jobs.stop();
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Joined { agent, address, to_agent, reply } => self.joined(agent, address, to_agent, reply),
            Note::Said { agent, session, message } => {
                if self.sessions.get(&agent).is_some_and(|s| s.number == session) {
                    self.said(&agent, message);
                }
            }
            Note::Left { agent, session } => {
                if self.sessions.get(&agent).is_some_and(|s| s.number == session) {
                    self.left(&agent);
                }
            }
            Note::Backlog { disk, backlog } => {
                self.backlog.insert(disk, backlog);
            }
            Note::Progress { action, done, total } => {
                if let Some(action) = self.open.get_mut(&action) {
                    (action.done, action.total, action.updated) = (done, total, Timestamp::now());
                }
            }
            Note::Published { point } => self.published(&point),
            Note::BaseDone { action, disk } => self.base_done(action, disk),
            Note::Compare { asked, reply } => {
                // A connection that has ended is told of as an end.
                let _ = reply.send(self.compare(&asked));
            }
            Note::Compared { action, outcome } => self.compared(action, outcome),
            Note::Restore { agent, action, reply } => {
                let _ = reply.send(self.grant_restore(&agent, action));
            }
            Note::RestoreWaits { action, waits } => self.restore_waits(action, waits),
            Note::Touch { action, reply } => {
                let _ = reply.send(self.touch(action));
            }
            Note::RestoreDurable { action, blocks } => self.restore_durable(action, blocks),
            Note::RestoreEnded { action, number, ending, reply } => {
                self.link_ended(action, number, ending);
                let _ = reply.send(());
            }
            Note::JobEnded(end) => self.job_ended(end),
            Note::Tick => self.tick(),
            Note::Call(job) => job(self),
            Note::Stop => {}
        }
    }

    fn joined(
        &mut self,
        agent: AgentId,
        address: SocketAddr,
        to_agent: mpsc::Sender<ToAgent>,
        reply: oneshot::Sender<u64>,
    ) {
        if let Some(older) = self.sessions.get(&agent) {
            tracing::warn!(%agent, %address, older = %older.address, "the agent connects anew: its older session ends");
            self.left(&agent);
        }
        let number = self.next_session;
        self.next_session += 1;
        let (offers, status) = (Vec::new(), BTreeMap::new());
        let session = Session { number, address, to_agent, offers, status, policy: None };
        self.sessions.insert(agent.clone(), session);
        tracing::info!(%agent, %address, "agent connected");
        self.feed.say(Event::Agent { at: Timestamp::now(), agent: agent.clone(), online: true });
        if reply.send(number).is_err() {
            self.left(&agent);
        }
    }

    fn left(&mut self, agent: &AgentId) {
        if self.sessions.remove(agent).is_none() {
            return;
        }
        tracing::info!(%agent, "agent disconnected");
        self.feed.say(Event::Agent { at: Timestamp::now(), agent: agent.clone(), online: false });
        let running: Vec<ActionId> = self.of_agent(agent, |a| a.state == ActionState::Running);
        for action in running {
            self.set_state(action, ActionState::Queued, waiting_for_agent());
        }
        self.comparisons_left(agent);
        self.restores_left(agent);
        self.syncs_left(agent);
    }

    fn of_agent(&self, agent: &AgentId, which: impl Fn(&Action) -> bool) -> Vec<ActionId> {
        let of_agent = |a: &&Action| {
            a.agent.as_ref() == Some(agent)
                && matches!(a.kind, ActionKind::Snapshot | ActionKind::Live | ActionKind::Rescan)
        };
        self.open.values().filter(of_agent).filter(|a| which(a)).map(|a| a.id).collect()
    }

    fn said(&mut self, agent: &AgentId, message: ToDispatcher) {
        match message {
            ToDispatcher::Inventory { footprint, offers } => self.inventory(agent, footprint, offers),
            ToDispatcher::Action { action, state, reason } => {
                let own = self.open.get(&action).is_some_and(|a| a.agent.as_ref() == Some(agent));
                match own {
                    true if self.restores.has(action) => self.restore_said(action, state, reason),
                    true => self.set_state(action, state, reason),
                    false => {}
                }
            }
            ToDispatcher::Status(status) => {
                if let Some(session) = self.sessions.get_mut(agent) {
                    session.status = status.into_iter().map(|s| (s.identity.clone(), s)).collect();
                }
            }
            ToDispatcher::Synced { request, outcomes } => self.synced(agent, request, outcomes),
            ToDispatcher::Preflighted { request, verdict } => self.preflighted(agent, request, verdict),
            ToDispatcher::Pong(_) => {}
        }
    }

    fn inventory(&mut self, agent: &AgentId, footprint: Footprint, offers: Vec<Offer>) {
        let now = Timestamp::now();
        if let Err(error) = self.store.upsert_agent(agent, footprint, now) {
            tracing::error!(%agent, %error, "cannot keep what the agent says of its host");
        }
        for offer in &offers {
            if let Err(error) = self.keep_disk(agent, offer, now) {
                tracing::error!(%agent, disk = %offer.identity, %error, "cannot keep the disk");
            }
        }
        if let Some(session) = self.sessions.get_mut(agent) {
            session.offers = offers;
        }
        self.send_policy(agent);
        self.assign(agent);
        self.assign_restores(agent);
    }

    fn keep_disk(&self, agent: &AgentId, offer: &Offer, now: Timestamp) -> Result<Disk, StoreError> {
        let known = self.find_disk(agent, &offer.identity)?;
        // The granule is the agent's choice; it says so when it opens the disk's first connection.
        let granule_shift = known.as_ref().map_or(MIN_GRANULE_SHIFT, |d| d.granule_shift);
        // A disk with a new size is not kept as such before the agent sends its content.
        let bytes = known.as_ref().map_or(offer.bytes, |d| d.bytes);
        let row = DiskOffer { agent, identity: &offer.identity, device: &offer.device, bytes, granule_shift };
        self.store.upsert_disk(&row, now)
    }

    pub fn find_disk(&self, agent: &AgentId, identity: &DiskIdentity) -> Result<Option<Disk>, StoreError> {
        Ok(self.store.disks()?.into_iter().find(|d| d.agent == *agent && d.identity == *identity))
    }

    /// Sends the policy in force if it is not the one that was sent last; says whether it did.
    fn send_policy(&mut self, agent: &AgentId) -> bool {
        let policy = self.policies.for_agent(agent).unwrap_or_default();
        let Some(session) = self.sessions.get_mut(agent) else { return false };
        let changed = session.policy.as_ref() != Some(&policy);
        if changed {
            session.policy = Some(policy.clone());
            self.send(agent, ToAgent::Policy(policy));
        }
        changed
    }

    /// Gives the agent its duties for all disks that it offers.
    fn assign(&mut self, agent: &AgentId) {
        let Some(session) = self.sessions.get(agent) else { return };
        let fit: Vec<DiskIdentity> =
            session.offers.iter().filter(|o| o.problem.is_none()).map(|o| o.identity.clone()).collect();
        for identity in fit {
            match self.find_disk(agent, &identity) {
                Ok(Some(disk)) => {
                    if let Err(error) = self.assign_disk(&disk) {
                        tracing::error!(%agent, disk = %identity, %error, "cannot decide what to do for the disk");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%agent, disk = %identity, %error, "cannot read the catalog"),
            }
        }
    }

    /// Decides what is to be done for a disk and tells its agent. Says which action that is.
    pub fn assign_disk(&mut self, disk: &Disk) -> Result<Option<ActionId>, StoreError> {
        let mut actions: Vec<Action> =
            self.store.actions()?.into_iter().filter(|a| a.disk == Some(disk.id)).collect();
        actions.sort_by_key(|a| std::cmp::Reverse(a.created));
        let filter = PointFilter { disk: Some(disk.id), newest: Some(1), ..PointFilter::default() };
        let facts = Facts {
            has_base: !self.store.points(&filter)?.is_empty(),
            in_policy: self.policies.for_agent(&disk.agent).is_some(),
            excluded: self.excludes(disk),
            actions: actions.iter().collect(),
        };
        let identity = disk.identity.clone();
        let (action, message) = match duty(&facts) {
            Duty::Idle => return Ok(None),
            Duty::Release(action) => (action, ToAgent::Control { action, control: Control::Release }),
            Duty::Snapshot(action) => (action, ToAgent::Snapshot { action, disk: identity }),
            Duty::Live { action, paused } => (action, ToAgent::Live { action, disk: identity, paused }),
            Duty::NewSnapshot => {
                let action = self.begin(ActionKind::Snapshot, Some(disk))?;
                (action, ToAgent::Snapshot { action, disk: identity })
            }
            Duty::NewLive => {
                let action = self.begin(ActionKind::Live, Some(disk))?;
                (action, ToAgent::Live { action, disk: identity, paused: false })
            }
        };
        self.send(&disk.agent, message);
        Ok(Some(action))
    }

    /// How long points of an agent are kept.
    pub fn retention(&mut self, agent: &AgentId) -> Retention {
        self.policies.retention(agent)
    }

    /// Whether a policy leaves the disk out.
    pub fn excludes(&mut self, disk: &Disk) -> bool {
        let policy = self.policies.for_agent(&disk.agent);
        policy.is_some_and(|policy| policy.excludes(&disk.device, &disk.identity))
    }

    /// Makes an action of a disk, queued.
    pub fn begin(&mut self, kind: ActionKind, disk: Option<&Disk>) -> Result<ActionId, StoreError> {
        self.begin_of(kind, disk.map(|d| d.agent.clone()), disk.map(|d| d.id))
    }

    /// The same of an agent, or of the whole store.
    pub fn begin_of(
        &mut self,
        kind: ActionKind,
        agent: Option<AgentId>,
        disk: Option<DiskId>,
    ) -> Result<ActionId, StoreError> {
        let now = Timestamp::now();
        let action = Action {
            id: ActionId(random::id()),
            kind,
            agent,
            disk,
            state: ActionState::Queued,
            reason: String::new(),
            created: now,
            updated: now,
            done: 0,
            total: 0,
        };
        self.store.put_action(&action)?;
        self.feed.say(Event::of_action(&action));
        let id = action.id;
        self.open.insert(id, action);
        Ok(id)
    }

    /// Moves an open action to a state and keeps that. The agent has the last word on pausing and resuming: it answers
    /// every order with the state it is in then.
    pub fn set_state(&mut self, id: ActionId, state: ActionState, reason: String) {
        let Some(action) = self.open.get_mut(&id) else { return };
        if action.state == state && action.reason == reason {
            return;
        }
        (action.state, action.reason, action.updated) = (state, reason, Timestamp::now());
        tracing::info!(action = %id, kind = %action.kind, %state, reason = %action.reason, "action");
        self.feed.say(Event::of_action(action));
        if let Err(error) = self.store.put_action(action) {
            tracing::error!(action = %id, %error, "cannot keep the action's state");
        }
        if state.is_final() {
            self.open.remove(&id);
        }
    }

    fn published(&mut self, point: &Point) {
        let (id, cut) = (point.id, point.summary.at);
        tracing::info!(point = %id, disk = %point.disk, kind = %point.kind, consistency = %point.summary.consistency,
            bytes = point.bytes, %cut, "point published");
        self.backlog.insert(point.disk, 0);
        if let Some(usage) = &mut self.usage {
            usage.add(point);
        }
        self.feed.say(Event::of_point(point));
        self.covered(point.disk);
    }

    fn base_done(&mut self, action: ActionId, disk: DiskId) {
        if let Some(open) = self.open.get_mut(&action) {
            open.done = open.total;
        }
        self.set_state(action, ActionState::Succeeded, String::new());
        match self.store.disk(disk).and_then(|disk| self.assign_disk(&disk)) {
            Ok(_) => {}
            Err(error) => tracing::error!(%disk, %error, "cannot start to keep the disk in sync"),
        }
    }

    fn job_ended(&mut self, end: JobEnd) {
        if let Some(report) = end.report {
            self.keep_report(report);
        }
        self.jobs.forget(end.action);
        self.set_state(end.action, end.state, end.reason);
    }

    pub fn keep_report(&mut self, report: Report) {
        if self.reports.len() >= MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
    }

    /// Sends to an agent if it is connected. An agent that does not take its messages is treated as lost.
    pub fn send(&mut self, agent: &AgentId, message: ToAgent) {
        let Some(session) = self.sessions.get(agent) else { return };
        if session.to_agent.try_send(message).is_err() {
            tracing::warn!(%agent, "the agent does not take its messages: its session ends");
            self.left(agent);
        }
    }

    fn tick(&mut self) {
        self.policies.reload();
        self.verify_by_policy();
        self.pings += 1;
        let agents: Vec<AgentId> = self.sessions.keys().cloned().collect();
        for agent in agents {
            self.send(&agent, ToAgent::Ping(self.pings));
            // What a policy names now, it may not have named before.
            if self.send_policy(&agent) {
                self.assign(&agent);
            }
        }
    }
}

/// Restores that have not ended; what is left of those that have is cleared away.
fn open_restores(store: &Store, actions: &[Action]) -> Result<Restores, StoreError> {
    let mut rows = store.restorations()?;
    let is_open = |id: ActionId| actions.iter().any(|a| a.id == id && !a.state.is_final());
    for ended in rows.extract_if(.., |row| !is_open(row.action)) {
        store.forget_restoration(ended.action)?;
    }
    Ok(Restores::new(rows))
}

fn waiting_for_agent() -> String {
    "waiting for its agent to connect".to_owned()
}

#[cfg(test)]
mod tests;
