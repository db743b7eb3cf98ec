//! What is asked of TCP and of the WebSocket layer.

use super::error::ChannelError;
use crate::wire::frame::MAX_MESSAGE_BYTES;
use crate::wire::hello::MAX_CLIENT_HELLO;
use rustix::net::sockopt;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// A peer that has acknowledged nothing for so long is gone. Also holds for a peer that keeps its window closed:
/// a receiver that cannot store what it was sent must say so within this time.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// An idle connection is probed after this time, and then at the next interval until `SILENCE_LIMIT` has passed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;

/// Bytes asked of the kernel in one read. Measured on loopback: see `docs/protocol.md`.
const READ_BUFFER: usize = 128 << 10;
/// Before the hello nothing longer than one is read.
const HELLO_READ_BUFFER: usize = 4 << 10;
/// Room beside one message in the write buffer, for the WebSocket's own headers, pongs and close.
const WRITE_SLACK: usize = 4 << 10;

/// Small messages leave at once, and a peer that vanished is noticed within [`SILENCE_LIMIT`].
pub(super) fn prepare(stream: &TcpStream, peer: &Arc<str>) -> Result<(), ChannelError> {
    let failed = |option| {
        move |error: rustix::io::Errno| ChannelError::Socket {
            peer: Arc::clone(peer),
            option,
            source: error.into(),
        }
    };
    let millis = u32::try_from(SILENCE_LIMIT.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_nodelay(stream, true).map_err(failed("TCP_NODELAY"))?;
    sockopt::set_socket_keepalive(stream, true).map_err(failed("SO_KEEPALIVE"))?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE).map_err(failed("TCP_KEEPIDLE"))?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL).map_err(failed("TCP_KEEPINTVL"))?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES).map_err(failed("TCP_KEEPCNT"))?;
    sockopt::set_tcp_user_timeout(stream, millis).map_err(failed("TCP_USER_TIMEOUT"))
}

/// Limits of a connection in use. A write buffer of 0 hands every message to the kernel at once.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE_BYTES + WRITE_SLACK)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
}

/// Limits while a client has not said hello.
pub(super) fn hello_limits() -> WebSocketConfig {
    limits()
        .read_buffer_size(HELLO_READ_BUFFER)
        .max_message_size(Some(MAX_CLIENT_HELLO))
        .max_frame_size(Some(MAX_CLIENT_HELLO))
}
