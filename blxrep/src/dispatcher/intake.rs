//! The way of bulk data from a connection to the thread that writes it, bounded in bytes.

use crate::wire::frame::Data;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Bytes of payload that wait for the writer of one disk.
const MAX_WAITING: u32 = 4 << 20;
/// Frames that wait: small ones cost more in bookkeeping than in bytes.
const MAX_FRAMES: usize = 512;
/// Credit is told in steps of this many bytes: a small part of what the sender may have under way.
pub const CREDIT_STEP: u64 = 1 << 20;

/// One frame on its way to the writer. The permit is given back when it has been written.
#[derive(Debug)]
pub struct Piece {
    pub data: Data,
    pub payload: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The writer's end of the queue.
#[derive(Debug)]
pub struct Pieces {
    queue: mpsc::Receiver<Piece>,
}

impl Pieces {
    /// The next piece, from a thread; `None` when the connection sends no more.
    pub fn next(&mut self) -> Option<Piece> {
        self.queue.blocking_recv()
    }
}

/// The connection's end: feeds a thread that turns all pieces into a `T`.
#[derive(Debug)]
pub struct Intake<T> {
    feed: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
    thread: JoinHandle<Result<T, String>>,
}

impl<T: Send + 'static> Intake<T> {
    /// Starts the thread.
    pub fn start(work: impl FnOnce(Pieces) -> Result<T, String> + Send + 'static) -> Self {
        let (feed, queue) = mpsc::channel(MAX_FRAMES);
        let room = Arc::new(Semaphore::new(MAX_WAITING as usize));
        let thread = tokio::task::spawn_blocking(move || work(Pieces { queue }));
        Self { feed, room, thread }
    }

    /// Hands over a frame, once there is room. An error means that the thread has ended: [`Intake::finish`] says why.
    pub async fn push(&self, data: Data, payload: Bytes) -> Result<(), ()> {
        let need = u32::try_from(payload.len()).unwrap_or(MAX_WAITING).min(MAX_WAITING);
        let room = Arc::clone(&self.room).acquire_many_owned(need).await.map_err(|_| ())?;
        self.feed.send(Piece { data, payload, _room: room }).await.map_err(|_| ())
    }

    /// Says that nothing follows, and waits for the result.
    pub async fn finish(self) -> Result<T, String> {
        drop(self.feed);
        self.thread.await.unwrap_or_else(|_| Err("the writing thread ended unexpectedly".to_owned()))
    }
}

/// Counts payload bytes and says when the sender is due more credit.
#[derive(Debug, Default)]
pub struct Credit {
    taken: u64,
    told: u64,
}

impl Credit {
    /// Adds a frame as the sender counts it: header and payload.
    pub fn add(&mut self, payload: usize) {
        self.taken += (crate::wire::frame::HEADER_BYTES + payload) as u64;
    }

    /// What to tell the sender, if it is time.
    pub fn due(&mut self) -> Option<u64> {
        (self.taken - self.told >= CREDIT_STEP).then(|| {
            self.told = self.taken;
            self.taken
        })
    }
}
