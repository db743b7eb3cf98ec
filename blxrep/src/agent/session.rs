//! The agent's connection to `/ws/config`: kept open, and opened again when it is lost.

use super::dialer::Dialer;
use crate::engine::backoff::Backoff;
use crate::io::channel::{Connection, Incoming, Receiver, Sender};
use crate::io::random;
use crate::wire::config::{ToAgent, ToDispatcher};
use crate::wire::hello::{Accepted, Channel};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The dispatcher pings every ten seconds; silence for three of them means that it is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// A session that lasts so long was no accident.
const STEADY: Duration = Duration::from_secs(5);

/// What the session says to the agent.
#[derive(Debug)]
pub enum Heard {
    /// A session stands: the agent answers with its inventory.
    Connected(Accepted),
    Message(ToAgent),
    /// It ended; another attempt follows.
    Lost,
}

/// Runs until `outbound` ends. Messages that are taken while there is no session are dropped: the agent says
/// everything that still matters again after `Connected`.
pub async fn run(dialer: Dialer, heard: mpsc::Sender<Heard>, mut outbound: mpsc::Receiver<ToDispatcher>) {
    let mut backoff = Backoff::default();
    let mut last_error = String::new();
    loop {
        let error = match dialer.dial(Channel::Config).await {
            Ok((connection, accepted)) => {
                tracing::info!(dispatcher = %dialer.address, "connected");
                let began = Instant::now();
                if heard.send(Heard::Connected(accepted)).await.is_err() {
                    return;
                }
                let Some(error) = talk(connection, &heard, &mut outbound).await else { return };
                // One that ends at once is tried again more and more rarely: another host may have the same id.
                if began.elapsed() >= STEADY {
                    backoff.reset();
                    last_error.clear();
                }
                error
            }
            Err(error) => error.to_string(),
        };
        if error != last_error {
            tracing::warn!(%error, "no session with the dispatcher; changes go on being tracked, trying again");
        }
        last_error = error;
        if heard.send(Heard::Lost).await.is_err() {
            return;
        }
        if !wait(backoff.next(random::id()), &mut outbound).await {
            return;
        }
    }
}

/// Waits, letting go what cannot be sent. False when the agent has ended.
async fn wait(time: Duration, outbound: &mut mpsc::Receiver<ToDispatcher>) -> bool {
    let sleep = tokio::time::sleep(time);
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            () = &mut sleep => return true,
            message = outbound.recv() => if message.is_none() { return false },
        }
    }
}

/// Talks until the session is lost (and says why) or the agent ends (`None`). The two directions never wait for each
/// other, so that the agent can wait for either without waiting for itself.
async fn talk(
    connection: Connection<ToDispatcher, ToAgent>,
    heard: &mpsc::Sender<Heard>,
    outbound: &mut mpsc::Receiver<ToDispatcher>,
) -> Option<String> {
    let (mut sender, mut receiver) = connection.split();
    tokio::select! {
        ended = write(&mut sender, outbound) => ended,
        ended = read(&mut receiver, heard) => ended,
    }
}

async fn write(
    sender: &mut Sender<ToDispatcher>,
    outbound: &mut mpsc::Receiver<ToDispatcher>,
) -> Option<String> {
    while let Some(message) = outbound.recv().await {
        if let Err(error) = sender.send_control(&message).await {
            return Some(error.to_string());
        }
    }
    let _ = sender.start_close("the agent was stopped").await;
    None
}

async fn read(receiver: &mut Receiver<ToAgent>, heard: &mpsc::Sender<Heard>) -> Option<String> {
    loop {
        match tokio::time::timeout(SILENCE, receiver.recv()).await {
            Ok(Ok(Incoming::Control(message))) => {
                if heard.send(Heard::Message(message)).await.is_err() {
                    return None;
                }
            }
            Ok(Ok(Incoming::Closed { reason })) => {
                return Some(format!("the dispatcher closed the session: {reason}"));
            }
            Ok(Ok(_)) => return Some("the dispatcher sent bulk data on the config channel".to_owned()),
            Ok(Err(error)) => return Some(error.to_string()),
            Err(_) => return Some(format!("the dispatcher was silent for {} s", SILENCE.as_secs())),
        }
    }
}
