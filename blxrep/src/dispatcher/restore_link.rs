//! One restore to an agent, over `/ws/restore`: asked for, granted by the hub, and served until it has ended.

use super::Shared;
use super::compare_link::held;
use super::device_restore;
use super::files_restore;
use super::hub::Note;
use super::judge::ReaderDied;
use super::restores::{Ending, Grant};
use crate::io::channel::{ChannelError, Connection, Incoming};
use crate::model::ids::{ActionId, AgentId};
use crate::model::restoration::Target;
use crate::store::StoreError;
use crate::store::restorations::RestorationRow;
use crate::wire::restore::{CREDIT, ToAgent, ToDispatcher};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::oneshot;

/// An agent that takes nothing for so long is treated as gone; it comes back.
const STALLED: Duration = Duration::from_secs(120);

/// Why a restore, or the connection that carried it, has ended.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the agent sent {0} out of turn")]
    Unexpected(&'static str),
    #[error("the agent left: {0}")]
    Left(String),
    #[error("the agent took nothing for {} s", STALLED.as_secs())]
    Stalled,
    #[error("the dispatcher is stopping")]
    Stopping,
    #[error("the process that reads the files: {0}")]
    Courier(String),
    #[error(transparent)]
    Reader(#[from] ReaderDied),
    /// The store cannot give it this moment; the agent comes back for it.
    #[error("{0}")]
    Store(String),
    /// Not an error: a person wants it so.
    #[error("{0}")]
    Held(String),
    /// It cannot be done, now or later.
    #[error("{0}")]
    Failed(String),
}

/// The connection, with the credit of what is sent on it.
pub struct RestoreLink {
    connection: Connection<ToAgent, ToDispatcher>,
    sent: u64,
    taken: u64,
    /// Files and bytes that the agent has written, as it said last while data were sent.
    pub progress: Option<(u64, u64)>,
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        match error.may_pass() {
            true => Self::Store(error.to_string()),
            false => Self::Failed(error.to_string()),
        }
    }
}

impl RestoreLink {
    pub async fn say(&mut self, message: &ToAgent) -> Result<(), RestoreError> {
        Ok(self.connection.sender.send_control(message).await?)
    }

    /// The agent's next word that is not credit. Cancel-safe.
    pub async fn hear(&mut self) -> Result<ToDispatcher, RestoreError> {
        loop {
            match self.connection.receiver.recv().await? {
                Incoming::Control(ToDispatcher::Received { bytes }) => self.taken = bytes,
                Incoming::Control(ToDispatcher::Failed { reason }) => {
                    return Err(RestoreError::Failed(reason));
                }
                Incoming::Control(message) => return Ok(message),
                Incoming::Closed { reason } => return Err(RestoreError::Left(reason)),
                _ => return Err(RestoreError::Unexpected("bulk data")),
            }
        }
    }

    /// Sends a data frame once there is credit for it.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), RestoreError> {
        let bytes = frame.len() as u64;
        while self.sent + bytes > self.taken.saturating_add(CREDIT) {
            let word = tokio::time::timeout(STALLED, self.connection.receiver.recv());
            match word.await.map_err(|_| RestoreError::Stalled)?? {
                Incoming::Control(ToDispatcher::Received { bytes }) => self.taken = bytes,
                Incoming::Control(ToDispatcher::Progress { files, bytes }) => {
                    self.progress = Some((files, bytes));
                }
                Incoming::Control(ToDispatcher::Failed { reason }) => {
                    return Err(RestoreError::Failed(reason));
                }
                Incoming::Closed { reason } => return Err(RestoreError::Left(reason)),
                _ => return Err(RestoreError::Unexpected("a word while data were under way")),
            }
        }
        self.sent += bytes;
        Ok(self.connection.sender.send_data(frame).await?)
    }

    /// Ends a transfer: the agent checks that it has every frame of it.
    pub async fn end(&mut self) -> Result<(), RestoreError> {
        Ok(self.connection.sender.send_end().await?)
    }
}

/// Serves the connection until it ends.
pub async fn serve(connection: Connection<ToAgent, ToDispatcher>, agent: AgentId, shared: Shared) {
    let mut link = RestoreLink { connection, sent: 0, taken: 0, progress: None };
    let reason = match run(&mut link, &agent, &shared).await {
        Ok(()) => "done".to_owned(),
        Err(RestoreError::Held(reason)) => reason,
        Err(error) => {
            tracing::warn!(%agent, %error, "a restore broke off");
            error.to_string()
        }
    };
    link.connection.close(&reason).await;
}

async fn run(link: &mut RestoreLink, agent: &AgentId, shared: &Shared) -> Result<(), RestoreError> {
    let ToDispatcher::Begin { action } = link.hear().await? else {
        return Err(RestoreError::Unexpected("something else than a begin"));
    };
    let (reply, granted) = oneshot::channel();
    shared.note(Note::Restore { agent: agent.clone(), action, reply }).await;
    let Grant { row, number, mut stop } = match granted.await.map_err(|_| RestoreError::Stopping)? {
        Ok(grant) => grant,
        Err(reason) => return hold(link, reason).await,
    };
    let served = tokio::select! {
        served = restore(link, shared, &row) => served,
        reason = held(&mut stop) => Err(RestoreError::Held(reason)),
    };
    match served {
        Ok(done) => {
            ended(shared, (action, number), done).await;
            link.say(&ToAgent::Noted).await
        }
        Err(RestoreError::Held(reason)) => hold(link, reason).await,
        Err(RestoreError::Failed(reason)) => {
            ended(shared, (action, number), Ending::Failed(reason.clone())).await;
            link.say(&ToAgent::Refuse { reason: reason.clone() }).await?;
            Err(RestoreError::Failed(reason))
        }
        Err(error @ (RestoreError::Courier(_) | RestoreError::Reader(_))) => {
            ended(shared, (action, number), Ending::Died(error.to_string())).await;
            Err(error)
        }
        Err(error) => {
            ended(shared, (action, number), Ending::Broke(error.to_string())).await;
            Err(error)
        }
    }
}

/// Serves what was asked for. Returns what was done.
async fn restore(
    link: &mut RestoreLink,
    shared: &Shared,
    row: &RestorationRow,
) -> Result<Ending, RestoreError> {
    match &row.restoration.target {
        Target::Device(target) => {
            let written = device_restore::run(link, shared, row, target).await?;
            Ok(Ending::Done { written })
        }
        Target::Files(target) => {
            let outcome = files_restore::run(link, shared, row, target).await?;
            Ok(Ending::Restored(outcome))
        }
    }
}

async fn ended(shared: &Shared, (action, number): (ActionId, u64), ending: Ending) {
    let (reply, kept) = oneshot::channel();
    shared.note(Note::RestoreEnded { action, number, ending, reply }).await;
    // It has ended only when the dispatcher stops.
    let _ = kept.await;
}

async fn hold(link: &mut RestoreLink, reason: String) -> Result<(), RestoreError> {
    link.say(&ToAgent::Hold { reason: reason.clone() }).await?;
    Err(RestoreError::Held(reason))
}
