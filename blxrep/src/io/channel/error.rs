//! Why a connection could not be made or does not go on.

use crate::wire::codec::CodecError;
use crate::wire::frame::FrameError;
use crate::wire::hello::{HelloError, Refusal};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};

/// Each names the peer. A close that was agreed on and a connection that was cut are different errors: after a
/// cut nothing is known of what the peer still received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot take another connection: {0}")]
    Accept(io::Error),
    #[error("cannot connect to {peer}: {source}; is a dispatcher running there?")]
    Connect { peer: Arc<str>, source: io::Error },
    #[error("cannot set {option} of the connection with {peer}: {source}")]
    Socket { peer: Arc<str>, option: &'static str, source: io::Error },
    #[error("{peer} did not finish {what} within {} s", limit.as_secs())]
    Slow { peer: Arc<str>, what: &'static str, limit: Duration },
    #[error("{peer} answered HTTP {status} on {path}: there is no blxrep dispatcher of this kind there")]
    NotADispatcher { peer: Arc<str>, path: &'static str, status: u16 },
    #[error("{peer} asked for the unknown path {path:?}")]
    UnknownPath { peer: Arc<str>, path: String },
    #[error("{peer} does not speak WebSocket: {source}")]
    NotWebSocket { peer: Arc<str>, source: WsError },
    #[error("the hello of {peer} cannot be read: {source}")]
    Hello { peer: Arc<str>, source: HelloError },
    #[error("the hello for {peer} cannot be written: {source}")]
    OwnHello { peer: Arc<str>, source: HelloError },
    #[error("{peer} answered a hello that was not ours")]
    ForeignAnswer { peer: Arc<str> },
    #[error("{peer} refused the connection: {refusal}")]
    Refused { peer: Arc<str>, refusal: Refusal },
    #[error("{peer} was turned away: {refusal}")]
    TurnedAway { peer: Arc<str>, refusal: Refusal },
    #[error("{peer} sent text where only binary messages may come")]
    NotBinary { peer: Arc<str> },
    #[error("bad frame from {peer}: {source}")]
    Frame { peer: Arc<str>, source: FrameError },
    #[error("bad message from {peer}: {source}")]
    Decode { peer: Arc<str>, source: CodecError },
    #[error("a message for {peer} cannot be sent: {source}")]
    Encode { peer: Arc<str>, source: CodecError },
    #[error("a data frame for {peer} cannot be sent: {source}")]
    OwnFrame { peer: Arc<str>, source: FrameError },
    #[error("{peer} sent a message of {size} bytes; at most {limit} are allowed")]
    TooLong { peer: Arc<str>, size: usize, limit: usize },
    #[error("{peer} closed the connection{}", said(.reason))]
    Closed { peer: Arc<str>, reason: String },
    #[error("the connection with {peer} was cut without a close{}", source.as_ref().map_or_else(String::new, |e| format!(": {e}")))]
    Cut { peer: Arc<str>, source: Option<io::Error> },
    #[error("{peer} has not answered for {} s: the connection is given up", limit.as_secs())]
    Silent { peer: Arc<str>, limit: Duration },
    #[error("the connection with {peer} broke the WebSocket protocol: {source}")]
    WebSocket { peer: Arc<str>, source: WsError },
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl ChannelError {
    /// Whether the peer or the network ended the connection, rather than a rule that one side broke.
    #[must_use]
    pub const fn is_disconnect(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Cut { .. } | Self::Silent { .. } | Self::Connect { .. })
    }

    /// Tells what a WebSocket error means once the connection stands.
    pub(super) fn from_ws(peer: &Arc<str>, error: WsError) -> Self {
        let peer = Arc::clone(peer);
        match error {
            WsError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                Self::Silent { peer, limit: super::socket::SILENCE_LIMIT }
            }
            WsError::Io(error) => Self::Cut { peer, source: Some(error) },
            WsError::Protocol(
                ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete,
            ) => Self::Cut { peer, source: None },
            WsError::ConnectionClosed
            | WsError::AlreadyClosed
            | WsError::Protocol(ProtocolError::SendAfterClosing) => {
                Self::Closed { peer, reason: String::new() }
            }
            WsError::Capacity(tokio_tungstenite::tungstenite::error::CapacityError::MessageTooLong {
                size,
                max_size,
            }) => Self::TooLong { peer, size, limit: max_size },
            source => Self::WebSocket { peer, source },
        }
    }
}
