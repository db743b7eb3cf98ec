//! The agent's end: it dials.

use super::ear::Ear;
use super::error::ChannelError;
use super::{Connection, WebSocket, socket};
use crate::wire::hello::{Accepted, Answer, ClientHello};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Name look-up and TCP connect. Three SYNs: at 0, 1 and 3 seconds, and some room for the name server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// WebSocket upgrade and the exchange of hellos.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// Connects to the dispatcher at `address` (`HOST:PORT`) on the channel that the hello names.
pub async fn connect<S, R>(
    address: &str,
    hello: &ClientHello,
) -> Result<(Connection<S, R>, Accepted), ChannelError>
where
    S: Serialize,
    R: DeserializeOwned,
{
    let peer: Arc<str> = format!("dispatcher {address}").into();
    let slow = |what, limit| ChannelError::Slow { peer: Arc::clone(&peer), what, limit };
    let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address))
        .await
        .map_err(|_| slow("the TCP connect", CONNECT_LIMIT))?
        .map_err(|source| ChannelError::Connect { peer: Arc::clone(&peer), source })?;
    socket::prepare(&stream, &peer)?;
    let (socket, accepted) = timeout(HELLO_LIMIT, greet(stream, address, hello, &peer))
        .await
        .map_err(|_| slow("the handshake", HELLO_LIMIT))??;
    Ok((Connection::new(socket, peer, hello.channel), accepted))
}

async fn greet(
    stream: TcpStream,
    address: &str,
    hello: &ClientHello,
    peer: &Arc<str>,
) -> Result<(WebSocket, Accepted), ChannelError> {
    let path = hello.channel.path();
    let bytes = hello.encode().map_err(|source| ChannelError::OwnHello { peer: Arc::clone(peer), source })?;
    let url = format!("ws://{address}{path}");
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(url, Ear::new(stream), Some(socket::limits()))
            .await
            .map_err(|error| refine(error, peer, path))?;
    let from_ws = |error| ChannelError::from_ws(peer, error);
    socket.send(Message::Binary(bytes.into())).await.map_err(from_ws)?;
    let answer = first_binary(&mut socket, peer).await?;
    let answer =
        Answer::decode(&answer).map_err(|source| ChannelError::Hello { peer: Arc::clone(peer), source })?;
    let accepted =
        answer.verdict.map_err(|refusal| ChannelError::Refused { peer: Arc::clone(peer), refusal })?;
    let known = (hello.versions.min..=hello.versions.max).contains(&accepted.version);
    if accepted.session != hello.session || !known {
        return Err(ChannelError::ForeignAnswer { peer: Arc::clone(peer) });
    }
    Ok((socket, accepted))
}

/// The first message, which must be binary.
pub(super) async fn first_binary(socket: &mut WebSocket, peer: &Arc<str>) -> Result<Bytes, ChannelError> {
    loop {
        let peer = || Arc::clone(peer);
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Text(_))) => return Err(ChannelError::NotBinary { peer: peer() }),
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|f| f.reason.as_str().to_owned()).unwrap_or_default();
                return Err(ChannelError::Closed { peer: peer(), reason });
            }
            Some(Err(error)) => return Err(ChannelError::from_ws(&peer(), error)),
            None => {
                return Err(ChannelError::Cut { peer: peer(), source: None });
            }
        }
    }
}

/// Tells what a failed upgrade means.
fn refine(error: WsError, peer: &Arc<str>, path: &'static str) -> ChannelError {
    let peer = Arc::clone(peer);
    match error {
        WsError::Http(response) => {
            ChannelError::NotADispatcher { peer, path, status: response.status().as_u16() }
        }
        WsError::Io(source) if source.kind() == io::ErrorKind::ConnectionReset => {
            ChannelError::Cut { peer, source: Some(source) }
        }
        source => ChannelError::NotWebSocket { peer, source },
    }
}
