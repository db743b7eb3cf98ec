//! One agent's connection to `/ws/config`: passes on what the agent says and what the hub tells it.

use super::Shared;
use super::hub::{Note, SESSION_QUEUE};
use crate::io::channel::{Connection, Incoming};
use crate::model::ids::AgentId;
use crate::wire::config::{ToAgent, ToDispatcher};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Pings go out every ten seconds and are answered; an agent that answers none of two hangs, though its connection
/// beats.
const SILENCE: Duration = Duration::from_secs(30);

/// Serves the connection until it ends.
pub async fn serve(
    mut connection: Connection<ToAgent, ToDispatcher>,
    agent: AgentId,
    address: SocketAddr,
    shared: Shared,
) {
    let (to_agent, mut messages) = mpsc::channel(SESSION_QUEUE);
    let (reply, joined) = oneshot::channel();
    shared.note(Note::Joined { agent: agent.clone(), address, to_agent, reply }).await;
    let Ok(session) = joined.await else { return };
    // Counted from message to message: what is sent meanwhile does not put it off.
    let mut silent_at = Instant::now() + SILENCE;
    let reason = loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => if let Err(error) = connection.sender.send_control(&message).await {
                    break error.to_string();
                },
                // The hub has let the session go: a newer one took its place, or it took no messages.
                None => break "another agent has connected with this id, or this one did not take its messages; no two \
                               hosts may have the same --id"
                    .to_owned(),
            },
            incoming = tokio::time::timeout_at(silent_at, connection.receiver.recv()) => match incoming {
                Ok(Ok(Incoming::Control(message))) => {
                    silent_at = Instant::now() + SILENCE;
                    shared.note(Note::Said { agent: agent.clone(), session, message }).await;
                }
                Ok(Ok(Incoming::Closed { reason })) => break reason,
                Ok(Ok(_)) => break "bulk data does not belong on the config channel".to_owned(),
                Ok(Err(error)) => break error.to_string(),
                Err(_) => break format!("the agent was silent for {} s", SILENCE.as_secs()),
            },
        }
    };
    shared.note(Note::Left { agent: agent.clone(), session }).await;
    tracing::info!(%agent, %reason, "session ended");
    connection.close(&reason).await;
}
