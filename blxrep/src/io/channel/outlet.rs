//! The way out of a connection, shared by its sender and its beat.

use super::{ChannelError, WebSocket};
use crate::wire::pulse::BEAT_EVERY;
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::Message;

/// The sending half of the WebSocket.
#[derive(Debug)]
pub struct Outlet {
    sink: SplitSink<WebSocket, Message>,
    peer: Arc<str>,
}

impl Outlet {
    pub const fn new(sink: SplitSink<WebSocket, Message>, peer: Arc<str>) -> Self {
        Self { sink, peer }
    }

    /// Waits until a message can be taken.
    pub async fn ready(&mut self) -> Result<(), ChannelError> {
        poll_fn(|cx| self.sink.poll_ready_unpin(cx))
            .await
            .map_err(|error| ChannelError::from_ws(&self.peer, error))
    }

    /// Takes a message (at once) and waits until the kernel has it.
    pub async fn send(&mut self, message: Message) -> Result<(), ChannelError> {
        self.sink.start_send_unpin(message).map_err(|error| ChannelError::from_ws(&self.peer, error))?;
        self.flush().await
    }

    /// Hands everything that is queued to the kernel.
    pub async fn flush(&mut self) -> Result<(), ChannelError> {
        self.sink.flush().await.map_err(|error| ChannelError::from_ws(&self.peer, error))
    }
}

/// Says something whenever nobody else does, as long as it is held.
#[derive(Debug)]
pub struct Beat {
    task: AbortHandle,
}

impl Beat {
    pub fn start(outlet: Arc<Mutex<Outlet>>) -> Self {
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT_EVERY).await;
                // Who holds it is sending.
                let Ok(mut outlet) = outlet.try_lock() else { continue };
                // A pong that nobody asked for: RFC 6455 (5.5.3) means it for this, and it is not answered.
                let beat = async {
                    outlet.ready().await?;
                    outlet.send(Message::Pong(Bytes::new())).await
                };
                if beat.await.is_err() {
                    // Whoever sends or listens next is told why.
                    return;
                }
            }
        });
        Self { task: task.abort_handle() }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.task.abort();
    }
}
