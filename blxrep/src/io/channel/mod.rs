//! A channel between agent and dispatcher: typed messages and bulk data over one WebSocket. The only folder that
//! knows tungstenite.
//!
//! A [`Connection`] is made by [`connect`] or by a [`Listener`], is typed by what it sends and what it receives,
//! and splits into halves for different tasks. Every frame that comes in was checked: header, length, checksum, and
//! at the end of a transfer the tally of all its data frames.
//!
//! Cancellation: dropping a future of [`Receiver::recv`] loses nothing; the next call goes on where it was. A
//! dropped future of a send has either not begun, or the whole frame is queued and leaves with the next send or
//! [`Sender::flush`]; the stream of frames is well-formed either way.
//!
//! A connection shows that it lives by itself (`wire::pulse`): a sender beats while nobody sends, and a receiver that
//! hears nothing for too long says that the peer is gone.

mod dial;
mod ear;
mod error;
mod listen;
mod outlet;
mod socket;

pub use dial::connect;
pub use error::ChannelError;
pub use listen::{Arrival, Listener, Pending};
pub use socket::SILENCE_LIMIT;

use crate::wire::codec;
use crate::wire::frame::{self, Data, End, HEADER_BYTES, Kind, Tally};
use crate::wire::hello::Channel;
use crate::wire::pulse::{Hearing, SILENCE};
use bytes::Bytes;
use ear::{Ear, Heard};
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use outlet::{Beat, Outlet};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

type WebSocket = WebSocketStream<Ear<TcpStream>>;

/// How long a close may take: the peer has to read what was sent before it and answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The longest reason in a WebSocket close (RFC 6455: 125 bytes less the code).
const MAX_CLOSE_REASON: usize = 123;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<R> {
    Control(R),
    /// Bytes of a disk; `payload` is still encoded as `data.encoding` says.
    Data {
        data: Data,
        payload: Bytes,
    },
    /// All data frames since the last end arrived and were those that were sent.
    End {
        count: u64,
    },
    /// The peer closed in good order, and why. Nothing follows.
    Closed {
        reason: String,
    },
}

/// A connection that sends `S` and receives `R`.
#[derive(Debug)]
pub struct Connection<S, R> {
    pub sender: Sender<S>,
    pub receiver: Receiver<R>,
}

/// The half that sends.
#[derive(Debug)]
pub struct Sender<S> {
    /// Shared with the beat only.
    outlet: Arc<Mutex<Outlet>>,
    _beat: Beat,
    peer: Arc<str>,
    tally: Tally,
    max_control: usize,
    sends: PhantomData<fn(S)>,
}

/// The half that receives.
#[derive(Debug)]
pub struct Receiver<R> {
    stream: SplitStream<WebSocket>,
    heard: Heard,
    hearing: Hearing,
    peer: Arc<str>,
    tally: Tally,
    max_control: usize,
    /// The peer's reason, once its close was seen.
    closed: Option<String>,
    receives: PhantomData<fn() -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Connection<S, R> {
    fn new(socket: WebSocket, peer: Arc<str>, channel: Channel) -> Self {
        let heard = socket.get_ref().heard();
        let (sink, stream) = socket.split();
        let outlet = Arc::new(Mutex::new(Outlet::new(sink, Arc::clone(&peer))));
        let (tally, max_control) = (Tally::default(), channel.max_control_bytes());
        Self {
            sender: Sender {
                _beat: Beat::start(Arc::clone(&outlet)),
                outlet,
                peer: Arc::clone(&peer),
                tally,
                max_control,
                sends: PhantomData,
            },
            receiver: Receiver {
                stream,
                heard,
                hearing: Hearing::new(Instant::now()),
                peer,
                tally: Tally::default(),
                max_control,
                closed: None,
                receives: PhantomData,
            },
        }
    }

    #[must_use]
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// Tells the peer why, reads off what it still sends so that the reason is not lost to a reset, and ends.
    /// Takes two seconds at most. `reason` is cut to 123 bytes.
    pub async fn close(mut self, reason: &str) {
        let finish = async {
            if self.sender.start_close(reason).await.is_ok() {
                while let Some(Ok(_)) = self.receiver.stream.next().await {}
            }
        };
        // A peer that does not answer a close is left alone: dropping the socket ends it.
        let _ = timeout(CLOSE_LIMIT, finish).await;
    }
}

impl<S: Serialize> Sender<S> {
    /// Who is at the other end, for messages.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    pub async fn send_control(&mut self, message: &S) -> Result<(), ChannelError> {
        let mut bytes = codec::encode(message, self.max_control)
            .map_err(|source| ChannelError::Encode { peer: Arc::clone(&self.peer), source })?;
        frame::seal_control(&mut bytes).map_err(|source| self.own_frame(source))?;
        let mut outlet = self.outlet.lock().await;
        outlet.ready().await?;
        outlet.send(Message::Binary(bytes.into())).await
    }

    /// Sends a data frame that [`Data::seal`] completed. The payload is not copied here.
    pub async fn send_data(&mut self, message: Bytes) -> Result<(), ChannelError> {
        let header = *message
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| self.own_frame(frame::FrameError::TooShort(message.len())))?;
        let mut outlet = self.outlet.lock().await;
        outlet.ready().await?;
        // Counted only once nothing but the write is left, so that a dropped future never counts what was not sent.
        self.tally.add(&header);
        outlet.send(Message::Binary(message)).await
    }

    /// Ends a transfer: the peer checks that it has every data frame since the last end.
    pub async fn send_end(&mut self) -> Result<(), ChannelError> {
        let mut outlet = self.outlet.lock().await;
        outlet.ready().await?;
        let end: End = self.tally.finish();
        outlet.send(Message::Binary(Bytes::copy_from_slice(&end.to_message()))).await
    }

    /// Hands everything that is queued to the kernel.
    pub async fn flush(&mut self) -> Result<(), ChannelError> {
        self.outlet.lock().await.flush().await
    }

    /// Says that nothing follows. The peer's `recv` returns [`Incoming::Closed`] after all that was sent before.
    /// `reason` is cut to 123 bytes.
    pub async fn start_close(&mut self, reason: &str) -> Result<(), ChannelError> {
        let reason = &reason[..reason.floor_char_boundary(MAX_CLOSE_REASON)];
        let close = CloseFrame { code: CloseCode::Normal, reason: reason.into() };
        let mut outlet = self.outlet.lock().await;
        outlet.ready().await?;
        outlet.send(Message::Close(Some(close))).await
    }

    fn own_frame(&self, source: frame::FrameError) -> ChannelError {
        ChannelError::OwnFrame { peer: Arc::clone(&self.peer), source }
    }
}

impl<R: DeserializeOwned> Receiver<R> {
    /// Who is at the other end, for messages.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The next frame. After an error the connection is of no more use. May be dropped and called again.
    pub async fn recv(&mut self) -> Result<Incoming<R>, ChannelError> {
        loop {
            if let Some(reason) = self.closed.clone() {
                // The answer to the close still has to leave; then the server hangs up.
                let _ = timeout(CLOSE_LIMIT, self.stream.next()).await;
                return Ok(Incoming::Closed { reason });
            }
            match self.next().await? {
                Some(Ok(Message::Binary(message))) => return self.open(&message),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Err(ChannelError::NotBinary { peer: Arc::clone(&self.peer) });
                }
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map(|f| f.reason.as_str().to_owned()).unwrap_or_default());
                }
                Some(Err(error)) => return Err(ChannelError::from_ws(&self.peer, error)),
                None => {
                    return Ok(Incoming::Closed { reason: String::new() });
                }
            }
        }
    }

    /// The next message, or an error once the peer is taken for gone.
    async fn next(&mut self) -> Result<Option<Result<Message, WsError>>, ChannelError> {
        loop {
            self.hearing.heard(self.heard.last());
            let deadline = self.hearing.deadline(Instant::now());
            if let Ok(item) = timeout_at(deadline.into(), self.stream.next()).await {
                return Ok(item);
            }
            // A long message on a slow link is many bytes and no item.
            self.hearing.heard(self.heard.last());
            if self.hearing.is_over(Instant::now()) {
                return Err(ChannelError::Silent { peer: Arc::clone(&self.peer), limit: SILENCE });
            }
        }
    }

    fn open(&mut self, message: &Bytes) -> Result<Incoming<R>, ChannelError> {
        let bad = |source| ChannelError::Frame { peer: Arc::clone(&self.peer), source };
        let (header, payload) = frame::open(message).map_err(bad)?;
        match header.kind {
            Kind::Data(data) => {
                if let Some(header) = message.first_chunk() {
                    self.tally.add(header);
                }
                Ok(Incoming::Data { data, payload: message.slice(HEADER_BYTES..) })
            }
            Kind::Control => codec::decode(payload, self.max_control)
                .map(Incoming::Control)
                .map_err(|source| ChannelError::Decode { peer: Arc::clone(&self.peer), source }),
            Kind::End => {
                let sent = End::decode(payload).map_err(bad)?;
                self.tally.check(&sent).map_err(bad)?;
                Ok(Incoming::End { count: sent.count })
            }
        }
    }
}
