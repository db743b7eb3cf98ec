//! Restores to agents, as the hub sees them.
//!
//! ```text
//! preflight --> [undo point] --> queued <--> running --> succeeded | failed
//!                                   ^            |
//!                                   +-- paused <-+       cancelled at any time
//! ```
//!
//! The agent is told on its config connection, and fetches over `/ws/restore` until the dispatcher has kept how it
//! ended. A restore whose connection breaks is queued again: the agent comes back for it. It succeeds only when the agent
//! has found the target to be what the point is, on a connection that came to its end.

use super::hub::Hub;
use super::jobs::Report;
use super::restore_words::{aim, in_line, left_behind, place, source, under_way, undo};
use super::syncs::Asker;
use crate::api::backend::{AgentRestore, SyncRequest};
use crate::api::error::{ApiError, Result};
use crate::api::types::{ActionRow, Control as Order, FilesReport, SyncRow};
use crate::io::random;
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId, CutId, PointId};
use crate::model::point::mixture;
use crate::model::restoration::{Agreed, Preflight, Restoration, Undo};
use crate::model::restored::Outcome;
use crate::model::units::ByteCount;
use crate::store::restorations::RestorationRow;
use crate::wire::config::ToAgent;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Preflights that wait for an answer.
const MAX_PREFLIGHTS: usize = 64;
/// Restores to agents that have not ended.
const MAX_RESTORES: usize = 256;
/// What reads for a restore may die so often; then the restore has failed.
const MAX_DEATHS: u32 = 3;
/// How far a restore is, is kept so often: after a crash of the dispatcher so much is compared again.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// What an agent says before anything is written.
pub type Verdict = std::result::Result<Preflight, String>;

/// Go on, until `stop` says why not.
#[derive(Debug)]
pub struct Grant {
    pub row: RestorationRow,
    /// Of the connection: what an older one says counts no more.
    pub number: u64,
    pub stop: watch::Receiver<Option<String>>,
}

/// What came of a restore, or of a connection that carried a part of it.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The target is what the point is. So many bytes were written on the last connection.
    Done { written: u64 },
    /// The files were written, or it was found out what would be.
    Restored(Outcome),
    /// It cannot be done.
    Failed(String),
    /// The agent comes back for the rest.
    Broke(String),
    /// The same, but it was the dispatcher's own process or thread that ended. It may do so each time.
    Died(String),
}

struct Waiting {
    agent: AgentId,
    reply: oneshot::Sender<Verdict>,
}

struct Link {
    number: u64,
    /// Ends it.
    stop: watch::Sender<Option<String>>,
}

struct Open {
    row: RestorationRow,
    kept: Instant,
    /// The connection that carries it.
    link: Option<Link>,
    /// How often what read for it has died.
    deaths: u32,
}

/// Restores to agents that have not ended.
#[derive(Default)]
pub struct Restores {
    open: BTreeMap<ActionId, Open>,
    preflights: BTreeMap<u64, Waiting>,
}

impl Restores {
    /// Takes up what was open when the dispatcher stopped.
    pub fn new(rows: Vec<RestorationRow>) -> Self {
        let open =
            |row: RestorationRow| (row.action, Open { row, kept: Instant::now(), link: None, deaths: 0 });
        Self { open: rows.into_iter().map(open).collect(), preflights: BTreeMap::new() }
    }

    /// Whether an action is the restore to an agent.
    pub fn has(&self, action: ActionId) -> bool {
        self.open.contains_key(&action)
    }
}

impl Hub {
    /// A restore that was under way when the dispatcher stopped waits for its agent.
    pub fn restore_taken_up(&mut self, action: ActionId) {
        if self.is_running(action) {
            self.restore_ended(action, Ending::Broke("the dispatcher was restarted".to_owned()));
        }
    }

    /// Asks an agent what a restore would do.
    pub fn preflight(
        &mut self,
        agent: &AgentId,
        restoration: Restoration,
        reply: oneshot::Sender<Verdict>,
    ) -> Result<()> {
        if !self.sessions.contains_key(agent) {
            return Err(not_connected(agent));
        }
        self.room_for(agent, &restoration)?;
        // Who asked may have gone.
        self.restores.preflights.retain(|_, waiting| !waiting.reply.is_closed());
        if self.restores.preflights.len() >= MAX_PREFLIGHTS {
            return Err(ApiError::refused(format!(
                "{MAX_PREFLIGHTS} restores are being looked at already: try again"
            )));
        }
        let request = random::id();
        self.restores.preflights.insert(request, Waiting { agent: agent.clone(), reply });
        self.send(agent, ToAgent::Preflight { request, restoration });
        Ok(())
    }

    /// The agent has answered.
    pub fn preflighted(&mut self, agent: &AgentId, request: u64, verdict: Verdict) {
        if self.restores.preflights.get(&request).is_some_and(|waiting| waiting.agent == *agent)
            && let Some(waiting) = self.restores.preflights.remove(&request)
        {
            let _ = waiting.reply.send(verdict);
        }
    }

    /// Begins a restore that its agent has agreed to, if the person has agreed too.
    pub fn restore_to_agent(
        &mut self,
        request: &AgentRestore,
        mut restoration: Restoration,
        preflight: Preflight,
    ) -> Result<ActionRow> {
        let agent = &request.agent;
        let mixture = self.store.point(request.point)?.half_restored.map(mixture);
        let found =
            mixture.into_iter().chain(preflight.findings.iter().cloned()).collect::<Vec<_>>().join("; ");
        if request.dry_run {
            let action = self.begin_of(ActionKind::Restore, Some(agent.clone()), None)?;
            self.set_state(action, ActionState::Succeeded, format!("dry run, nothing was written: {found}"));
            return self.action_row(action);
        }
        let shown = preflight.digest();
        let agrees = request.yes && request.agreed.as_ref().is_none_or(|agreed| *agreed == shown);
        if let Some(overwrites) = preflight.overwrites.as_ref().filter(|_| !agrees) {
            let changed = if request.yes { "it is no more what was agreed to: " } else { "" };
            return Err(ApiError::unconfirmed(format!("{changed}{found}; {overwrites}")).about(shown));
        }
        let device = preflight.device.ok_or_else(|| ApiError::failed("the agent names no device"))?;
        restoration.agreed = Some(Agreed { device, protects: preflight.protects.clone() });
        self.room_for(agent, &restoration)?;
        let due = request.undo && preflight.protects.is_some();
        let action = self.begin_of(ActionKind::Restore, Some(agent.clone()), None)?;
        let row = RestorationRow {
            action,
            agent: agent.clone(),
            restoration,
            partition: request.partition.clone(),
            paths: Vec::new(),
            allow_holes: request.allow_holes,
            undo: if due { Undo::Due } else { Undo::None },
            touched: false,
            durable_blocks: 0,
        };
        self.open_restore(row)
    }

    fn open_restore(&mut self, row: RestorationRow) -> Result<ActionRow> {
        let action = row.action;
        if let Err(error) = self.store.begin_restoration(&row) {
            // An action without a row would wait for ever.
            self.set_state(action, ActionState::Failed, error.to_string());
            return Err(error.into());
        }
        self.restores.open.insert(action, Open { row, kept: Instant::now(), link: None, deaths: 0 });
        self.start_restore(action);
        self.action_row(action)
    }

    /// Begins a restore of files that its agent has agreed to.
    pub fn restore_files_to(
        &mut self,
        agent: AgentId,
        restoration: Restoration,
        paths: Vec<Vec<u8>>,
    ) -> Result<ActionRow> {
        self.room_for(&agent, &restoration)?;
        let action = self.begin_of(ActionKind::Restore, Some(agent.clone()), None)?;
        self.open_restore(RestorationRow {
            action,
            agent,
            restoration,
            partition: None,
            paths,
            allow_holes: false,
            undo: Undo::None,
            touched: false,
            durable_blocks: 0,
        })
    }

    fn room_for(&self, agent: &AgentId, restoration: &Restoration) -> Result<()> {
        let path = restoration.target.path();
        let marked =
            |restoration: &Restoration| restoration.agreed.as_ref().map(|agreed| agreed.device.clone());
        let mark = marked(restoration);
        let overlaps = |other: &Restoration| {
            mark.as_ref().zip(marked(other)).is_some_and(|(mark, other)| mark.overlaps(&other))
        };
        let same = |open: &&Open| {
            let other = &open.row.restoration;
            open.row.agent == *agent && (other.target.path() == path || overlaps(other))
        };
        if let Some(open) = self.restores.open.values().find(same) {
            return Err(ApiError::refused(format!(
                "action {0} restores to {1} of {agent} already: wait for it, or `blxrep cancel {0}`",
                open.row.action,
                open.row.restoration.target.path()
            )));
        }
        if self.restores.open.len() >= MAX_RESTORES {
            return Err(ApiError::refused(format!(
                "{MAX_RESTORES} restores to agents have not ended: wait for one, or cancel it"
            )));
        }
        Ok(())
    }

    /// Tells the agent, or has the undo point made first.
    fn start_restore(&mut self, action: ActionId) {
        let Some(open) = self.restores.open.get(&action) else { return };
        // As long as nothing was written, what is there may have changed since the point was made.
        if matches!(open.row.undo, Undo::Made(_))
            && !open.row.touched
            && let Err(error) = self.change(action, |row| row.undo = Undo::Due)
        {
            return self.restore_ended(action, Ending::Failed(error));
        }
        let Some(row) = self.restores.open.get(&action).map(|open| open.row.clone()) else { return };
        if row.undo == Undo::Due {
            if let Err(error) = self.begin_undo(&row) {
                self.undo_ended(action, Err(error));
            }
            return;
        }
        self.tell_restore(action);
    }

    fn tell_restore(&mut self, action: ActionId) {
        let row = self.restores.open.get(&action).map(|open| open.row.clone());
        if let Some(row) = row.filter(|row| row.undo != Undo::Due) {
            self.send(
                &row.agent,
                ToAgent::Restore { action, restoration: row.restoration, touched: row.touched },
            );
        }
    }

    /// Has a point of the target made.
    fn begin_undo(&mut self, row: &RestorationRow) -> Result<()> {
        let identity =
            row.restoration.protects().ok_or_else(|| ApiError::failed("it is not kept in sync"))?;
        let disk = self.find_disk(&row.agent, identity)?;
        let disk = disk.ok_or_else(|| ApiError::failed("the catalog does not know the disk"))?.id;
        let reason = format!("{}: a point of what is there now is made first", aim(row));
        self.set_state(row.action, ActionState::Running, reason);
        let request = SyncRequest { agent: row.agent.clone(), disk: Some(disk), goal: None, wait: true };
        self.begin_sync(&request, CutId(random::id()), Asker::Undo(row.action)).map(drop)
    }

    /// The undo point is there, or cannot be had: then nothing is written.
    pub fn undo_ended(&mut self, action: ActionId, ended: Result<Vec<SyncRow>>) {
        let Some(open) = self.restores.open.get(&action).filter(|open| open.row.undo == Undo::Due) else {
            return;
        };
        let identity = open.row.restoration.protects().map(ToString::to_string);
        let made = ended.and_then(|rows| {
            let row = rows.into_iter().find(|row| Some(&row.identity) == identity.as_ref());
            let row = row.ok_or_else(|| ApiError::failed("the agent made none"))?;
            row.point.ok_or_else(|| ApiError::failed(row.error.unwrap_or_default()))
        });
        match made {
            Ok(point) => {
                let kept = self.change(action, |row| row.undo = Undo::Made(point));
                match kept {
                    Ok(()) if self.open.get(&action).is_some_and(|a| a.state != ActionState::Paused) => {
                        let reason = self.restores.open.get(&action).map(|open| aim(&open.row));
                        self.set_state(action, ActionState::Queued, reason.unwrap_or_default());
                        self.tell_restore(action);
                    }
                    Ok(()) => {}
                    Err(error) => self.restore_ended(action, Ending::Failed(error)),
                }
            }
            Err(error) => self.restore_ended(
                action,
                Ending::Failed(format!(
                    "no point of what is there could be made first, so that this could be undone: {error}; --no-undo \
                     restores without one"
                )),
            ),
        }
    }

    /// Changes the row of a restore durably.
    fn change(
        &mut self,
        action: ActionId,
        change: impl FnOnce(&mut RestorationRow),
    ) -> std::result::Result<(), String> {
        let open = self.restores.open.get_mut(&action).ok_or("it has ended")?;
        change(&mut open.row);
        open.kept = Instant::now();
        self.store.put_restoration(&open.row).map_err(|e| e.to_string())
    }

    /// An agent has connected: it is told of what is left to restore.
    pub fn assign_restores(&mut self, agent: &AgentId) {
        let mine = |open: &&Open| open.row.agent == *agent;
        let waiting: Vec<ActionId> =
            self.restores.open.values().filter(mine).map(|open| open.row.action).collect();
        for action in waiting {
            match self.open.get(&action).map(|a| a.state) {
                Some(ActionState::Queued) => self.start_restore(action),
                // Its undo point is being made, or it is under way: the agent knows which it has.
                Some(ActionState::Running) => self.tell_restore(action),
                _ => {}
            }
        }
    }

    /// A connection asks for a restore. The error says why there is none now.
    pub fn grant_restore(&mut self, agent: &AgentId, action: ActionId) -> std::result::Result<Grant, String> {
        let ended = || "the restore has ended, or was cancelled".to_owned();
        let open = self.restores.open.get_mut(&action).filter(|open| open.row.agent == *agent);
        let open = open.ok_or_else(ended)?;
        if open.row.undo == Undo::Due {
            return Err("its undo point is not there yet".to_owned());
        }
        if self.open.get(&action).is_none_or(|a| a.state == ActionState::Paused) {
            return Err(format!("the restore is paused: `blxrep resume {action}` goes on with it"));
        }
        let (stop, stopped) = watch::channel(None);
        let number = random::id();
        if let Some(older) = open.link.replace(Link { number, stop }) {
            older.stop.send_replace(Some("the agent has begun it anew".to_owned()));
        }
        let row = open.row.clone();
        self.set_state(action, ActionState::Running, under_way(&row));
        Ok(Grant { row, number, stop: stopped })
    }

    /// Its connection stands, and it waits for its turn to be read, or does so no longer.
    pub fn restore_waits(&mut self, action: ActionId, waits: bool) {
        let Some(open) = self.restores.open.get(&action) else { return };
        let reason = match waits {
            true => in_line(&open.row),
            false => under_way(&open.row),
        };
        if self.is_running(action) {
            self.set_state(action, ActionState::Running, reason);
        }
    }

    /// Something is about to be written: that is kept before it happens.
    pub fn touch(&mut self, action: ActionId) -> std::result::Result<(), String> {
        let open = self.restores.open.get(&action).ok_or("it has ended")?;
        if open.row.touched {
            return Ok(());
        }
        self.change(action, |row| row.touched = true)?;
        if let Some(open) = self.restores.open.get(&action)
            && self.is_running(action)
        {
            let reason = under_way(&open.row);
            self.set_state(action, ActionState::Running, reason);
        }
        Ok(())
    }

    fn is_running(&self, action: ActionId) -> bool {
        self.open.get(&action).is_some_and(|a| a.state == ActionState::Running)
    }

    /// So much of the target is as the point has it.
    pub fn restore_durable(&mut self, action: ActionId, blocks: u32) {
        let Some(open) = self.restores.open.get_mut(&action) else { return };
        open.row.durable_blocks = open.row.durable_blocks.max(blocks);
        if open.kept.elapsed() >= KEEP_EVERY
            && let Err(error) = self.change(action, |_| ())
        {
            tracing::warn!(%action, %error, "cannot keep how far the restore is: after a restart more is compared again");
        }
    }

    /// A connection says how it ended, or what it carried.
    pub fn link_ended(&mut self, action: ActionId, number: u64, ending: Ending) {
        let open = self.restores.open.get(&action);
        if open.and_then(|open| open.link.as_ref()).is_some_and(|link| link.number == number) {
            self.restore_ended(action, ending);
        }
    }

    /// A restore has ended, or its connection has.
    pub fn restore_ended(&mut self, action: ActionId, ending: Ending) {
        let Some(open) = self.restores.open.get_mut(&action) else { return };
        let row = open.row.clone();
        match ending {
            Ending::Broke(reason) => {
                open.link = None;
                if self.is_running(action) {
                    let reason =
                        format!("{}: it goes on when its agent comes back: {reason}", under_way(&row));
                    self.set_state(action, ActionState::Queued, reason);
                }
            }
            Ending::Died(reason) => {
                open.deaths += 1;
                let ending = after_death(open.deaths, reason, row.restoration.point);
                self.restore_ended(action, ending);
            }
            Ending::Done { written } => {
                if let Err(error) = self.store.end_half_restored(&row) {
                    tracing::error!(%action, %error, "cannot keep that the disk is whole: its points are called half restored \
                        until another restore has succeeded");
                }
                if let Some(action) = self.open.get_mut(&action) {
                    action.done = action.total;
                }
                let reason = format!(
                    "{} is {}, read back and compared; {} were written at last{}",
                    place(&row),
                    source(&row),
                    ByteCount(written),
                    undo(&row)
                );
                self.close_restore(action, ActionState::Succeeded, reason);
            }
            Ending::Restored(outcome) => {
                let (point, target) = (row.restoration.point, row.restoration.target.path().to_owned());
                let report = FilesReport { action, point, agent: Some(row.agent), target, outcome };
                let report = Report::Files(report);
                let (state, reason) = report.end();
                self.keep_report(report);
                self.close_restore(action, state, reason);
            }
            Ending::Failed(reason) => {
                self.close_restore(action, ActionState::Failed, format!("{reason}{}", left_behind(&row)));
            }
        }
    }

    /// Nothing follows. The row goes after the state is kept.
    fn close_restore(&mut self, action: ActionId, state: ActionState, reason: String) {
        self.set_state(action, state, reason.clone());
        if let Some(open) = self.restores.open.remove(&action)
            && let Some(link) = open.link
        {
            link.stop.send_replace(Some(reason));
        }
        if let Err(error) = self.store.forget_restoration(action) {
            tracing::warn!(%action, %error, "cannot forget the restore: it is done at the next start");
        }
    }

    /// An agent says something of a restore. That it has succeeded is only believed on the connection that carries it.
    pub fn restore_said(&mut self, action: ActionId, state: ActionState, reason: String) {
        match state {
            ActionState::Failed => self.restore_ended(action, Ending::Failed(reason)),
            ActionState::Running if !reason.is_empty() => {
                let Some(open) = self.restores.open.get(&action) else { return };
                let reason = format!("{}: {reason}", under_way(&open.row));
                if self.open.get(&action).is_some_and(|a| a.state != ActionState::Paused) {
                    self.set_state(action, ActionState::Queued, reason);
                }
            }
            _ => {}
        }
    }

    /// The agent is gone. A connection that stands ends by itself.
    pub fn restores_left(&mut self, agent: &AgentId) {
        self.restores.preflights.retain(|_, waiting| waiting.agent != *agent);
        let idle = |open: &&Open| open.row.agent == *agent && open.link.is_none();
        let idle: Vec<RestorationRow> =
            self.restores.open.values().filter(idle).map(|open| open.row.clone()).collect();
        for row in idle {
            if self.is_running(row.action) {
                let reason = format!("{}: waiting for its agent to connect", under_way(&row));
                self.set_state(row.action, ActionState::Queued, reason);
            }
        }
    }

    /// Pauses, resumes or cancels a restore to an agent.
    pub fn control_restore(&mut self, action: &Action, order: Order) -> Result<ActionRow> {
        let id = action.id;
        let Some(open) = self.restores.open.get_mut(&id) else { return self.action_row(id) };
        let row = open.row.clone();
        match order {
            Order::Resume if action.state != ActionState::Paused => {}
            Order::Resume => {
                self.set_state(id, ActionState::Queued, aim(&row));
                self.start_restore(id);
            }
            Order::Pause => {
                if let Some(link) = open.link.take() {
                    link.stop
                        .send_replace(Some(format!("it is paused: `blxrep resume {id}` goes on with it")));
                }
                self.set_state(id, ActionState::Paused, format!("{}{}", aim(&row), left_behind(&row)));
            }
            Order::Cancel => {
                let reason = format!("{}{}", aim(&row), left_behind(&row));
                self.close_restore(id, ActionState::Cancelled, reason);
            }
        }
        self.action_row(id)
    }
}

/// What follows when what read for a restore has died so often.
fn after_death(deaths: u32, reason: String, point: PointId) -> Ending {
    match deaths {
        MAX_DEATHS.. => Ending::Failed(format!(
            "{reason}, for the third time; `dmesg` may say why, and `blxrep export {point} --nbd` gives the point to a \
             virtual machine"
        )),
        _ => Ending::Broke(reason),
    }
}

fn not_connected(agent: &AgentId) -> ApiError {
    ApiError::refused(format!(
        "agent {agent} is not connected; start it, or see its log for why it cannot connect"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_may_die_twice() {
        let died = |times| after_death(times, "it is gone".to_owned(), PointId(7));
        for times in 1..MAX_DEATHS {
            assert!(matches!(died(times), Ending::Broke(reason) if reason == "it is gone"), "{times}");
        }
        let Ending::Failed(reason) = died(MAX_DEATHS) else { panic!("it goes on for ever") };
        assert!(
            reason.contains("third time") && reason.contains("blxrep export 0000000000000007"),
            "{reason}"
        );
    }
}
