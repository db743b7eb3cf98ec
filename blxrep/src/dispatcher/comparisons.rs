//! Comparisons of disks with their newest points, as the hub sees them: rescans, which agents ask for, and verifies of
//! the source, which people do.
//!
//! The dispatcher has the last word on whether one runs: an agent that asks is told to hold while the action is paused
//! or cancelled, and asks again when it is told to resume, or connects anew.

use super::hub::{Hub, Session};
use super::jobs::Report;
use crate::api::error::{ApiError, Result};
use crate::api::types::{ActionRow, Control as Order, VerifyProblem, VerifyReport};
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId, DiskId, PointId};
use crate::model::units::ByteCount;
use crate::store::StoreError;
use crate::wire::config::{Control as WireControl, ToAgent};
use crate::wire::snapshot::Purpose;
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::sync::watch;

/// What a connection asks for.
#[derive(Debug)]
pub struct Asked {
    pub disk: DiskId,
    pub purpose: Purpose,
}

/// Go on, until `stop` says why not.
#[derive(Debug)]
pub struct Grant {
    pub action: ActionId,
    pub stop: watch::Receiver<Option<String>>,
}

/// What came of a comparison.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub point: PointId,
    pub device: String,
    /// Bytes that were compared.
    pub compared: u64,
    /// Bytes that differ, and where the first of them are.
    pub bytes: u64,
    pub ranges: Vec<Range<u64>>,
    /// Granules of the point that cannot be read any more.
    pub damaged: u64,
}

/// Comparisons that run, or were asked of an agent.
#[derive(Debug, Default)]
pub struct Comparisons {
    running: BTreeMap<ActionId, watch::Sender<Option<String>>>,
    /// Verifies of the source that have not ended.
    verifies: BTreeMap<ActionId, AgentId>,
}

impl Hub {
    /// Grants a comparison, or says why it is held.
    pub fn compare(&mut self, asked: &Asked) -> std::result::Result<Grant, String> {
        let action = match &asked.purpose {
            Purpose::Verify { action } if self.comparisons.verifies.contains_key(action) => *action,
            Purpose::Verify { .. } => return Err("the verify was cancelled".to_owned()),
            Purpose::Rescan { reason, asked: by_person } => {
                let action = self.rescan_of(asked.disk, *by_person).map_err(|error| match error {
                    StoreError::Refused(held) => held,
                    other => other.to_string(),
                })?;
                self.set_state(action, ActionState::Running, reason.clone());
                action
            }
        };
        let (stop, stopped) = watch::channel(None);
        if let Some(older) = self.comparisons.running.insert(action, stop) {
            older.send_replace(Some("the agent has begun it anew".to_owned()));
        }
        Ok(Grant { action, stop: stopped })
    }

    /// The open rescan of a disk, or a new one. `Refused` says why there is to be none now.
    fn rescan_of(&mut self, disk: DiskId, by_person: bool) -> std::result::Result<ActionId, StoreError> {
        let of_disk = |a: &&Action| a.kind == ActionKind::Rescan && a.disk == Some(disk);
        if let Some(open) = self.open.values().find(of_disk) {
            return match open.state {
                ActionState::Paused => Err(StoreError::Refused(format!(
                    "its rescan is paused: `blxrep resume {}` goes on with it",
                    open.id
                ))),
                _ => Ok(open.id),
            };
        }
        let newest = self.store.newest_point(disk)?.map(|point| point.published);
        let ended = self.store.actions()?.into_iter().filter(|a| of_disk(&a)).max_by_key(|a| a.created);
        let cancelled = ended.filter(|a| a.state == ActionState::Cancelled && Some(a.updated) > newest);
        if cancelled.is_some() && !by_person {
            return Err(StoreError::Refused(
                "its rescan was cancelled: `blxrep sync` of the disk begins it again".to_owned(),
            ));
        }
        let disk = self.store.disk(disk)?;
        self.begin(ActionKind::Rescan, Some(&disk))
    }

    /// A comparison has ended, or its connection has.
    pub fn compared(&mut self, action: ActionId, outcome: std::result::Result<Outcome, String>) {
        let Some(state) = self.open.get(&action).map(|a| (a.kind, a.state)) else { return };
        match (state, outcome) {
            ((ActionKind::Rescan, _), Ok(found)) => {
                self.done(action);
                let (differ, of) = (ByteCount(found.bytes), ByteCount(found.compared));
                let reason = format!("{differ} of {of} differ from point {}", found.point);
                self.set_state(action, ActionState::Succeeded, reason);
            }
            // The agent tries again by itself. What a person said counts for more.
            ((ActionKind::Rescan, ActionState::Running), Err(reason)) => {
                self.set_state(action, ActionState::Queued, format!("it is begun again: {reason}"));
            }
            ((ActionKind::Verify, _), Ok(found)) => self.verified(action, found),
            ((ActionKind::Verify, ActionState::Running), Err(reason)) => {
                self.set_state(action, ActionState::Failed, reason);
            }
            _ => {}
        }
        if !self.open.contains_key(&action) {
            self.comparisons.verifies.remove(&action);
            self.comparisons.running.remove(&action);
        }
    }

    fn done(&mut self, action: ActionId) {
        if let Some(open) = self.open.get_mut(&action) {
            open.done = open.total;
        }
    }

    fn verified(&mut self, action: ActionId, found: Outcome) {
        self.done(action);
        let disk = format!("{} against point {}", found.device, found.point);
        let problem = |what: String| VerifyProblem {
            point: Some(found.point),
            file: disk.clone(),
            what,
            offset: None,
            sectors: None,
            points: vec![found.point],
        };
        let mut problems: Vec<VerifyProblem> = found
            .ranges
            .iter()
            .map(|r| {
                let sectors = r.start / 512..r.end.div_ceil(512);
                let what = format!(
                    "bytes {}..{} (sectors {}..{}) differ, and nothing was seen to change them",
                    r.start, r.end, sectors.start, sectors.end
                );
                problem(what)
            })
            .collect();
        let named: u64 = found.ranges.iter().map(|r| r.end - r.start).sum();
        if found.bytes > named {
            problems
                .push(problem(format!("{} more differ, in further ranges", ByteCount(found.bytes - named))));
        }
        if found.damaged > 0 {
            problems.push(problem(format!("{} granules of the point cannot be read", found.damaged)));
        }
        let (state, reason) = match problems.len() {
            0 => (ActionState::Succeeded, String::new()),
            _ => {
                (ActionState::Failed, format!("{} differ from point {}", ByteCount(found.bytes), found.point))
            }
        };
        self.keep_report(Report::Verify(VerifyReport {
            action,
            points: 1,
            files: 0,
            bytes: found.compared,
            of_bytes: found.compared,
            sample: None,
            seed: None,
            problems,
            incomplete: Vec::new(),
        }));
        self.set_state(action, state, reason);
    }

    /// A point of the disk was published: coverage is known again, also if nobody said how the rescan ended.
    pub fn covered(&mut self, disk: DiskId) {
        let rescan = |a: &&Action| a.kind == ActionKind::Rescan && a.disk == Some(disk);
        if let Some(id) = self.open.values().find(rescan).map(|a| a.id) {
            self.done(id);
            self.set_state(id, ActionState::Succeeded, String::new());
            self.comparisons.running.remove(&id);
        }
    }

    /// The agent is gone, and with it what it was asked for.
    pub fn comparisons_left(&mut self, agent: &AgentId) {
        let of_agent = |(id, of): (&ActionId, &AgentId)| (of == agent).then_some(*id);
        let lost: Vec<ActionId> = self.comparisons.verifies.iter().filter_map(of_agent).collect();
        for action in lost {
            self.comparisons.verifies.remove(&action);
            // Its bulk connection may stand.
            self.hold(action, "the verify has failed: its agent disconnected".to_owned());
            self.set_state(action, ActionState::Failed, "its agent disconnected: start it again".to_owned());
        }
    }

    /// Pauses, resumes or cancels a rescan.
    pub fn control_rescan(&mut self, action: &Action, order: Order) -> Result<ActionRow> {
        let id = action.id;
        match order {
            Order::Resume if action.state != ActionState::Paused => {}
            Order::Resume => {
                self.set_state(id, ActionState::Queued, String::new());
                if let Some(agent) = &action.agent {
                    self.send(agent, ToAgent::Control { action: id, control: WireControl::Resume });
                }
            }
            Order::Pause => {
                self.set_state(id, ActionState::Paused, String::new());
                self.hold(id, format!("its rescan is paused: `blxrep resume {id}` goes on with it"));
            }
            Order::Cancel => {
                self.set_state(id, ActionState::Cancelled, String::new());
                let reason = "its rescan was cancelled: `blxrep sync` of the disk begins it again";
                self.hold(id, reason.to_owned());
            }
        }
        self.action_row(id)
    }

    fn hold(&mut self, action: ActionId, reason: String) {
        if let Some(stop) = self.comparisons.running.remove(&action) {
            stop.send_replace(Some(reason));
        }
    }

    /// Begins a verify of what a disk holds.
    pub fn verify_source(&mut self, disk: DiskId) -> Result<ActionRow> {
        let disk = self.store.disk(disk)?;
        if let Some(problem) = self.offer(&disk)? {
            return Err(ApiError::refused(format!("{} cannot be read: {problem}", disk.device)));
        }
        if self.store.newest_point(disk.id)?.is_none() {
            return Err(ApiError::refused(format!("{} has no point yet", disk.device)));
        }
        let of_disk = |a: &&Action| a.disk == Some(disk.id) && self.comparisons.verifies.contains_key(&a.id);
        if let Some(running) = self.open.values().find(of_disk) {
            return Err(ApiError::refused(format!("action {} does that already", running.id)));
        }
        let id = self.begin(ActionKind::Verify, Some(&disk))?;
        self.comparisons.verifies.insert(id, disk.agent.clone());
        self.set_state(id, ActionState::Running, String::new());
        self.send(&disk.agent, ToAgent::VerifySource { action: id, disk: disk.identity.clone() });
        self.action_row(id)
    }

    /// Cancels a verify of the source; says whether it is one.
    pub fn cancel_source(&mut self, action: ActionId) -> bool {
        let known = self.comparisons.verifies.remove(&action).is_some();
        if known {
            self.set_state(action, ActionState::Cancelled, String::new());
            self.hold(action, "the verify was cancelled".to_owned());
        }
        known
    }
}

/// Says of a disk that no point is made of it, and what would change that.
pub fn standstill(hub: &Hub, disk: DiskId, session: Option<&Session>) -> Option<String> {
    session?;
    let rescan = |a: &&Action| a.kind == ActionKind::Rescan && a.disk == Some(disk);
    let paused = hub.open.values().find(rescan).filter(|a| a.state == ActionState::Paused)?;
    Some(format!("its rescan is paused: `blxrep resume {}` goes on with it", paused.id))
}
