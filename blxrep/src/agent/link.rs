//! The bulk connection of one disk, with what bounds it: the dispatcher's credit and the bandwidth limit.

use super::pace::Pace;
use crate::io::channel::{ChannelError, Connection, Incoming, Sender};
use crate::io::reader::ReadFrame;
use crate::wire::{live, snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Payload bytes that may be on their way without the dispatcher having taken them.
const CREDIT: u64 = 8 << 20;
/// Messages that wait for the disk's task; the dispatcher sends one at a time.
const INBOX: usize = 8;

/// Why a transfer ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the dispatcher closed the connection: {0}")]
    Closed(String),
    #[error("the dispatcher sent {0}, which has no place at this point of the transfer")]
    Unexpected(String),
    #[error("the dispatcher took no data for {} s", STALLED.as_secs())]
    Stalled,
}

/// A dispatcher that takes nothing for so long is treated as gone.
const STALLED: Duration = Duration::from_secs(120);

/// Messages of which one is the sender's credit.
pub trait Credited {
    /// Bytes taken since the connection began, if this is what the message says.
    fn received(&self) -> Option<u64>;
}

impl Credited for snapshot::ToAgent {
    fn received(&self) -> Option<u64> {
        if let Self::Received { bytes } = self { Some(*bytes) } else { None }
    }
}

impl Credited for live::ToAgent {
    fn received(&self) -> Option<u64> {
        if let Self::Received { bytes } = self { Some(*bytes) } else { None }
    }
}

/// What a send cost: for the compression decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendCost {
    pub waited: Duration,
}

/// One disk's connection to `/ws/snapshot` or `/ws/live`.
#[derive(Debug)]
pub struct Link<S, R> {
    sender: Sender<S>,
    inbox: mpsc::Receiver<Result<R, LinkError>>,
    taken: watch::Receiver<u64>,
    sent: u64,
    pace: Pace,
    listener: JoinHandle<()>,
}

impl<S, R> Drop for Link<S, R> {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl<S, R> Link<S, R>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Credited + Send + std::fmt::Debug + 'static,
{
    /// Takes over a connection that has been greeted.
    pub fn new(connection: Connection<S, R>, pace: Pace) -> Self {
        let (sender, mut receiver) = connection.split();
        let (forward, inbox) = mpsc::channel(INBOX);
        let (credit, taken) = watch::channel(0);
        let listener = tokio::spawn(async move {
            loop {
                let item = match receiver.recv().await {
                    Ok(Incoming::Control(message)) => match message.received() {
                        Some(bytes) => {
                            let _ = credit.send(bytes);
                            continue;
                        }
                        None => Ok(message),
                    },
                    Ok(Incoming::Closed { reason }) => Err(LinkError::Closed(reason)),
                    Ok(other) => Err(LinkError::Unexpected(format!("{other:?}").chars().take(80).collect())),
                    Err(error) => Err(error.into()),
                };
                let last = item.is_err();
                if forward.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        Self { sender, inbox, taken, sent: 0, pace, listener }
    }

    /// Sends a message.
    pub async fn say(&mut self, message: &S) -> Result<(), LinkError> {
        Ok(self.sender.send_control(message).await?)
    }

    /// Sends one frame once the limit and the credit allow it.
    pub async fn send(&mut self, frame: ReadFrame) -> Result<SendCost, LinkError> {
        let started = Instant::now();
        let bytes = frame.bytes.len() as u64;
        self.pace.wait(bytes).await;
        if self.sent + bytes > *self.taken.borrow() + CREDIT {
            let sent = self.sent;
            let room = self.taken.wait_for(|taken| sent + bytes <= *taken + CREDIT);
            let waited = tokio::time::timeout(STALLED, room).await.map(|room| room.is_ok());
            match waited {
                Ok(true) => {}
                Ok(false) => return Err(self.why_closed().await),
                Err(_) => return Err(LinkError::Stalled),
            }
        }
        self.sent += bytes;
        self.sender.send_data(frame.bytes).await?;
        Ok(SendCost { waited: started.elapsed() })
    }

    /// Ends a transfer.
    pub async fn end(&mut self) -> Result<(), LinkError> {
        Ok(self.sender.send_end().await?)
    }

    /// The next message that is not credit. Cancel-safe.
    pub async fn hear(&mut self) -> Result<R, LinkError> {
        self.inbox.recv().await.unwrap_or_else(|| Err(LinkError::Closed(String::new())))
    }

    /// A message that has come already.
    pub fn heard(&mut self) -> Option<Result<R, LinkError>> {
        self.inbox.try_recv().ok()
    }

    async fn why_closed(&mut self) -> LinkError {
        loop {
            match self.hear().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}
