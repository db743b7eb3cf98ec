//! Peers for the tests of the channel, good ones and bad ones.

use blxrep::io::channel::{Arrival, ChannelError, Connection, Listener, connect};
use blxrep::model::encoding::Encoding;
use blxrep::model::ids::StoreId;
use blxrep::wire::config::{ToAgent, ToDispatcher};
use blxrep::wire::frame::{Data, HEADER_BYTES};
use blxrep::wire::hello::{Accepted, Channel, ClientHello, Credentials, Role};
use blxrep::wire::version::SUPPORTED;
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub type Server = Connection<ToAgent, ToDispatcher>;
pub type Client = Connection<ToDispatcher, ToAgent>;

pub fn hello(channel: Channel) -> ClientHello {
    ClientHello {
        versions: SUPPORTED,
        role: Role::Agent,
        channel,
        flags: 0,
        session: 77,
        boot_id: [1; 16],
        agent: "web1".parse().unwrap(),
        credentials: Credentials(b"0123456789abcdef".to_vec()),
    }
}

pub async fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Hears the hello and lets the client in.
pub async fn serve(arrival: Arrival) -> Result<Server, ChannelError> {
    let pending = arrival.hello().await?;
    let session = pending.hello.session;
    pending
        .accept(Accepted { version: 1, boot_id: [2; 16], store: StoreId(5), session, kept: Vec::new() })
        .await
}

pub async fn pair_on(listener: &Listener, address: SocketAddr, channel: Channel) -> (Server, Client) {
    tokio::join!(async { serve(listener.accept().await.unwrap()).await.unwrap() }, async {
        connect(&address.to_string(), &hello(channel)).await.unwrap().0
    },)
}

#[allow(dead_code, reason = "each test file uses its own part of this module")]
pub async fn pair(channel: Channel) -> (Server, Client) {
    let (listener, address) = listener().await;
    pair_on(&listener, address, channel).await
}

/// A WebSocket client that has not said hello.
pub async fn websocket(address: SocketAddr, path: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream).await.unwrap().0
}

/// A client that was let in and may now send any bytes.
pub async fn rogue(listener: &Listener, address: SocketAddr) -> (Server, WebSocketStream<TcpStream>) {
    let greet = async {
        let mut socket = websocket(address, "/ws/live").await;
        socket.send(Message::binary(hello(Channel::Live).encode().unwrap())).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().is_binary());
        socket
    };
    tokio::join!(async { serve(listener.accept().await.unwrap()).await.unwrap() }, greet)
}

/// A raw data frame.
pub fn frame(offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES];
    message.extend_from_slice(payload);
    let raw_length = u32::try_from(payload.len()).unwrap();
    Data { encoding: Encoding::Raw, offset, raw_length }.seal(&mut message).unwrap();
    message
}
