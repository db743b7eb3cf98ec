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
    #[error("the dispatcher did not keep what was sent: {0}")]
    Failed(String),
    #[error("the dispatcher sent {0}, which has no place at this point of the transfer")]
    Unexpected(String),
    #[error("the dispatcher took no data for {} s", STALLED.as_secs())]
    Stalled,
}

/// A dispatcher that takes nothing for so long is treated as gone.
const STALLED: Duration = Duration::from_secs(120);

/// What a message of the dispatcher is to the link.
#[derive(Debug)]
pub enum Note<R> {
    /// Payload bytes taken since the connection began: credit.
    Taken(u64),
    /// Progress that the next connection will be told anyway.
    Progress,
    /// Nothing more of what is sent will be kept.
    Failed(String),
    /// For the task that owns the link.
    Message(R),
}

/// Messages that are sorted for the link.
pub trait Sorted: Sized {
    fn sort(self) -> Note<Self>;
}

impl Sorted for snapshot::ToAgent {
    fn sort(self) -> Note<Self> {
        match self {
            Self::Received { bytes } => Note::Taken(bytes),
            Self::Durable { .. } => Note::Progress,
            Self::Failed { reason } => Note::Failed(reason),
            other => Note::Message(other),
        }
    }
}

impl Sorted for live::ToAgent {
    fn sort(self) -> Note<Self> {
        match self {
            Self::Received { bytes } => Note::Taken(bytes),
            Self::Failed { reason } => Note::Failed(reason),
            other => Note::Message(other),
        }
    }
}

/// What a send cost: for the compression decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendCost {
    pub waited: Duration,
}

/// Returns when nothing is taken any more, because the listener has ended.
async fn ended(taken: &mut watch::Receiver<u64>) {
    while taken.changed().await.is_ok() {}
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
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    /// Takes over a connection that has been greeted.
    pub fn new(connection: Connection<S, R>, pace: Pace) -> Self {
        let (sender, mut receiver) = connection.split();
        let (forward, inbox) = mpsc::channel(INBOX);
        let (credit, taken) = watch::channel(0);
        let listener = tokio::spawn(async move {
            loop {
                let item = match receiver.recv().await {
                    Ok(Incoming::Control(message)) => match R::sort(message) {
                        Note::Taken(bytes) => {
                            let _ = credit.send(bytes);
                            continue;
                        }
                        Note::Progress => continue,
                        Note::Failed(reason) => Err(LinkError::Failed(reason)),
                        Note::Message(message) => Ok(message),
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

    /// Bytes of data frames that were sent, and how many of them the dispatcher has said that it has taken.
    pub fn credit(&self) -> (u64, u64) {
        (self.sent, *self.taken.borrow())
    }

    /// Sends a message.
    pub async fn say(&mut self, message: &S) -> Result<(), LinkError> {
        match self.sender.send_control(message).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why(error)),
        }
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
        // A peer that is gone is first heard to be silent; the kernel goes on trying to send for longer.
        let sent = tokio::select! {
            biased;
            sent = self.sender.send_data(frame.bytes) => Some(sent),
            () = ended(&mut self.taken) => None,
        };
        match sent {
            Some(Ok(())) => Ok(SendCost { waited: started.elapsed() }),
            Some(Err(error)) => Err(self.why(error)),
            None => Err(self.why_closed().await),
        }
    }

    /// Ends a transfer.
    pub async fn end(&mut self) -> Result<(), LinkError> {
        match self.sender.send_end().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why(error)),
        }
    }

    /// The next message that is not credit. Cancel-safe.
    pub async fn hear(&mut self) -> Result<R, LinkError> {
        self.inbox.recv().await.unwrap_or_else(|| Err(LinkError::Closed(String::new())))
    }

    /// Why nothing more can be sent: the dispatcher's own words, if they have come, say more than a broken pipe.
    fn why(&mut self, error: ChannelError) -> LinkError {
        while let Ok(item) = self.inbox.try_recv() {
            if let Err(said) = item {
                return said;
            }
        }
        error.into()
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
