//! The dispatcher's end: it listens.
//!
//! ```text
//! Listener::accept -> Arrival::hello -> Pending::accept -> Connection
//!                                    -> Pending::refuse
//! ```
//!
//! An arrival is spoken to in a task of its own. Until it has said hello it holds one of a fixed number of slots,
//! a few KiB of memory, and a deadline; so strangers can fill the slots for seconds and nothing else.

use super::dial::first_binary;
use super::ear::Ear;
use super::error::ChannelError;
use super::{Connection, WebSocket, socket};
use crate::wire::hello::{self, Accepted, Answer, Channel, ClientHello, Refusal};
use futures_util::SinkExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Connections that have not said hello yet. A hundred agents that all come back at once wait for milliseconds
/// in the kernel's queue; at some 100 KiB each this many cost at most 6 MiB.
const MAX_GREETING: usize = 64;
/// From the TCP accept to the end of the hello; also for the answer to be taken.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a wrong path that are shown in the log.
const SHOWN_PATH: usize = 80;

/// Listens for agents.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    slots: Arc<Semaphore>,
}

impl Listener {
    pub async fn bind(address: SocketAddr) -> Result<Self, ChannelError> {
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|source| ChannelError::Listen { address: address.to_string(), source })?;
        Ok(Self { tcp, slots: Arc::new(Semaphore::new(MAX_GREETING)) })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next TCP connection, once a slot is free. May be dropped and called again. An error (too many open
    /// files, say) concerns this one connection: the caller pauses and goes on.
    pub async fn accept(&self) -> Result<Arrival, ChannelError> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|closed| ChannelError::Accept(io::Error::other(closed)))?;
        let (stream, address) = self.tcp.accept().await.map_err(ChannelError::Accept)?;
        Ok(Arrival { stream, address, slot })
    }
}

/// A TCP connection that has not said anything.
#[derive(Debug)]
pub struct Arrival {
    stream: TcpStream,
    address: SocketAddr,
    slot: OwnedSemaphorePermit,
}

impl Arrival {
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hears the hello. Who speaks another protocol, version or path is answered here, and is an error. Takes ten
    /// seconds at most.
    pub async fn hello(self) -> Result<Pending, ChannelError> {
        let peer: Arc<str> = format!("client {}", self.address).into();
        socket::prepare(&self.stream, &peer)?;
        timeout(HELLO_LIMIT, hear(self, &peer)).await.map_err(|_| ChannelError::Slow {
            peer,
            what: "its hello",
            limit: HELLO_LIMIT,
        })?
    }
}

/// A client whose hello was understood, and who waits for the answer.
#[derive(Debug)]
pub struct Pending {
    pub address: SocketAddr,
    pub hello: ClientHello,
    /// The version to answer with: the newest that both sides speak.
    pub version: u16,
    socket: WebSocket,
    _slot: OwnedSemaphorePermit,
}

impl Pending {
    /// Lets the client in.
    pub async fn accept<S, R>(mut self, accepted: Accepted) -> Result<Connection<S, R>, ChannelError>
    where
        S: Serialize,
        R: DeserializeOwned,
    {
        let peer: Arc<str> = format!("agent {} ({})", self.hello.agent, self.address).into();
        answer(&mut self.socket, Ok(accepted), &peer).await?;
        // Until the answer is out the client has nothing to say, so no byte is lost with the small buffers.
        let stream = self.socket.into_inner();
        let socket = WebSocket::from_raw_socket(stream, Role::Server, Some(socket::limits())).await;
        Ok(Connection::new(socket, peer, self.hello.channel))
    }

    /// Turns the client away.
    pub async fn refuse(mut self, refusal: Refusal) -> Result<(), ChannelError> {
        let peer: Arc<str> = format!("agent {} ({})", self.hello.agent, self.address).into();
        answer(&mut self.socket, Err(refusal), &peer).await
    }
}

async fn hear(arrival: Arrival, peer: &Arc<str>) -> Result<Pending, ChannelError> {
    let Arrival { stream, address, slot } = arrival;
    let (mut socket, channel) = upgrade(stream, peer).await?;
    let bytes = first_binary(&mut socket, peer).await?;
    match hello::judge(&bytes, channel) {
        Ok((hello, version)) => Ok(Pending { address, hello, version, socket, _slot: slot }),
        Err(refusal) => {
            answer(&mut socket, Err(refusal.clone()), peer).await?;
            Err(ChannelError::TurnedAway { peer: Arc::clone(peer), refusal })
        }
    }
}

/// Upgrades to a WebSocket if the path is one of ours; answers 404 if not.
async fn upgrade(stream: TcpStream, peer: &Arc<str>) -> Result<(WebSocket, Channel), ChannelError> {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
    let route = |request: &Request, response: Response| {
        path = request.uri().path().chars().take(SHOWN_PATH).collect();
        if Channel::from_path(&path).is_some() { Ok(response) } else { Err(not_found()) }
    };
    let socket = tokio_tungstenite::accept_hdr_async_with_config(
        Ear::new(stream),
        route,
        Some(socket::hello_limits()),
    )
    .await;
    match (socket, Channel::from_path(&path)) {
        (Ok(socket), Some(channel)) => Ok((socket, channel)),
        (Ok(_), None) => Err(ChannelError::UnknownPath { peer: Arc::clone(peer), path }),
        (Err(WsError::Http(_)), _) => Err(ChannelError::UnknownPath { peer: Arc::clone(peer), path }),
        (Err(source), _) => Err(ChannelError::NotWebSocket { peer: Arc::clone(peer), source }),
    }
}

fn not_found() -> ErrorResponse {
    let mut response = ErrorResponse::new(Some("no such endpoint\n".to_owned()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Sends the server's hello; after a refusal also the close.
async fn answer(
    socket: &mut WebSocket,
    verdict: Result<Accepted, Refusal>,
    peer: &Arc<str>,
) -> Result<(), ChannelError> {
    let refused = verdict.is_err();
    let bytes = Answer::new(verdict)
        .encode()
        .map_err(|source| ChannelError::OwnHello { peer: Arc::clone(peer), source })?;
    let send = async {
        socket.send(Message::Binary(bytes.into())).await?;
        if refused { socket.close(None).await } else { Ok(()) }
    };
    timeout(HELLO_LIMIT, send)
        .await
        .map_err(|_| ChannelError::Slow {
            peer: Arc::clone(peer),
            what: "taking our hello",
            limit: HELLO_LIMIT,
        })?
        .map_err(|error| ChannelError::from_ws(peer, error))
}
