//! Cuts that somebody waits for.

use super::hub::Hub;
use crate::api::error::ApiError;
use crate::api::types::SyncRow;
use crate::model::ids::{ActionId, AgentId, CutId, DiskIdentity};
use crate::model::policy::Goal;
use crate::store::StoreError;
use crate::wire::config::{SyncOutcome, ToAgent};
use tokio::sync::oneshot;

/// Syncs that wait at the same time.
const MAX_SYNCS: usize = 1024;

/// Who waits for a sync.
#[derive(Debug)]
pub enum Asker {
    Person(oneshot::Sender<Result<Vec<SyncRow>, ApiError>>),
    /// A restore, whose target it makes a point of.
    Undo(ActionId),
}

/// A sync that has not ended.
#[derive(Debug)]
pub struct Sync {
    agent: AgentId,
    asker: Asker,
}

impl Hub {
    /// Asks an agent for a cut; the reply comes when it has ended.
    pub fn sync(
        &mut self,
        agent: &AgentId,
        disk: Option<DiskIdentity>,
        goal: Option<Goal>,
        cut: CutId,
        asker: Asker,
    ) {
        if self.syncs.len() >= MAX_SYNCS {
            let busy = format!("{MAX_SYNCS} syncs are waiting already; try again when some are done");
            self.answer(asker, Err(ApiError::refused(busy)));
            return;
        }
        self.syncs.insert(cut, Sync { agent: agent.clone(), asker });
        self.send(agent, ToAgent::Sync { request: cut, disk, goal });
    }

    pub fn synced(&mut self, agent: &AgentId, request: CutId, outcomes: Vec<SyncOutcome>) {
        if self.syncs.get(&request).is_none_or(|s| s.agent != *agent) {
            return;
        }
        if let Some(sync) = self.syncs.remove(&request) {
            let rows = self.sync_rows(agent, request, outcomes);
            self.answer(sync.asker, rows.map_err(|e| ApiError::failed(e.to_string())));
        }
    }

    fn answer(&mut self, asker: Asker, rows: Result<Vec<SyncRow>, ApiError>) {
        match asker {
            Asker::Person(reply) => drop(reply.send(rows)),
            Asker::Undo(action) => self.undo_ended(action, rows),
        }
    }

    fn sync_rows(
        &self,
        agent: &AgentId,
        request: CutId,
        outcomes: Vec<SyncOutcome>,
    ) -> Result<Vec<SyncRow>, StoreError> {
        let mut rows = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            let Some(disk) = self.find_disk(agent, &outcome.identity)? else { continue };
            let mut row = super::rows::sync(&disk, request);
            match outcome.result {
                Err(error) => row.error = Some(error),
                Ok(synced) => {
                    let point = self.store.point(synced.point)?;
                    // Requests that came while a cut was under way share the next one.
                    row.cut_id = point.summary.cut;
                    row.point = Some(point.id);
                    row.consistency = Some(point.summary.consistency);
                    row.bytes = Some(point.bytes);
                    row.rounds = Some(synced.rounds);
                    row.published = Some(point.published);
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// The agent is gone, and with it what it was asked for.
    pub fn syncs_left(&mut self, agent: &AgentId) {
        let lost: Vec<CutId> =
            self.syncs.iter().filter(|(_, s)| s.agent == *agent).map(|(c, _)| *c).collect();
        for sync in lost.into_iter().filter_map(|cut| self.syncs.remove(&cut)) {
            let gone = ApiError::failed(format!("agent {agent} disconnected before the sync was done"));
            match sync.asker {
                Asker::Person(reply) => drop(reply.send(Err(gone))),
                // The restore is taken up again when the agent is back.
                Asker::Undo(_) => {}
            }
        }
    }
}
