//! The listener and a connection against garbage: a clear error at once, and the others are served on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod channel_peers;

use blxrep::io::channel::{ChannelError, Incoming, connect};
use blxrep::wire::config::{ToAgent, ToDispatcher};
use blxrep::wire::frame::{End, FrameError, HEADER_BYTES, MAX_MESSAGE_BYTES, seal_control};
use blxrep::wire::hello::{Answer, Channel, ClientHello, RefusalCode};
use blxrep::wire::version::VersionRange;
use channel_peers::{frame, hello, listener, pair_on, rogue, serve, websocket};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// What the server makes of a client that has sent `bytes` over a bare TCP connection and then waits.
async fn bare_client(bytes: &[u8]) -> (ChannelError, Duration) {
    let (listener, address) = listener().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let begun = Instant::now();
    let error = serve(listener.accept().await.unwrap()).await.expect_err("must be refused");
    let taken = begun.elapsed();
    let (mut server, mut client) = pair_on(&listener, address, Channel::Config).await;
    client.sender.send_control(&ToDispatcher::Pong(1)).await.unwrap();
    assert_eq!(server.receiver.recv().await.unwrap(), Incoming::Control(ToDispatcher::Pong(1)));
    (error, taken)
}

/// What a client is answered that sends `bytes` as its hello to `path`, and what the server's log says.
async fn first_message(path: &str, bytes: Vec<u8>) -> (ChannelError, Answer) {
    let (listener, address) = listener().await;
    let client = async {
        let mut socket = websocket(address, path).await;
        socket.send(Message::binary(bytes)).await.unwrap();
        Answer::decode(&socket.next().await.unwrap().unwrap().into_data()).unwrap()
    };
    tokio::join!(
        async { serve(listener.accept().await.unwrap()).await.expect_err("must be refused") },
        client
    )
}

#[tokio::test]
async fn a_version_from_the_future_is_refused_with_both_ranges() {
    let (listener, address) = listener().await;
    let future = ClientHello { versions: VersionRange { min: 5, max: 6 }, ..hello(Channel::Config) };
    let address = address.to_string();
    let (server, client) = tokio::join!(
        async { serve(listener.accept().await.unwrap()).await.expect_err("must be refused") },
        connect::<ToDispatcher, ToAgent>(&address, &future),
    );
    let client = client.err().unwrap().to_string();
    assert!(client.contains("protocol 5 to 6") && client.contains("dispatcher 1"), "{client}");
    assert!(server.to_string().contains("was turned away"), "{server}");
}

#[tokio::test]
async fn a_hello_by_another_path_is_refused() {
    let (error, answer) = first_message("/ws/restore", hello(Channel::Live).encode().unwrap()).await;
    assert!(matches!(error, ChannelError::TurnedAway { .. }), "{error}");
    assert_eq!(answer.verdict.unwrap_err().code, RefusalCode::Path);
}

#[tokio::test]
async fn a_hello_of_wrong_length_or_garbage_is_answered() {
    let good = hello(Channel::Live).encode().unwrap();
    for bytes in [&good[..good.len() - 1], &good[..10], &[], &[0xff; 300]] {
        let (error, answer) = first_message("/ws/live", bytes.to_vec()).await;
        assert!(matches!(error, ChannelError::TurnedAway { .. }), "{error}");
        assert_eq!(answer.verdict.unwrap_err().code, RefusalCode::Malformed);
    }
}

#[tokio::test]
async fn a_hello_of_a_megabyte_is_not_read() {
    let (listener, address) = listener().await;
    let client = async {
        // Cut off in the middle, it may or may not see an error.
        let _ = websocket(address, "/ws/live").await.send(Message::binary(vec![0; 1 << 20])).await;
    };
    let server = async { serve(listener.accept().await.unwrap()).await.expect_err("must be refused") };
    let (error, ()) = tokio::join!(server, client);
    assert!(matches!(error, ChannelError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_path_is_a_404() {
    let (listener, address) = listener().await;
    let server = async { serve(listener.accept().await.unwrap()).await.expect_err("must be refused") };
    let client = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /ws/nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (error, answer) = tokio::join!(server, client);
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(matches!(&error, ChannelError::UnknownPath { path, .. } if path == "/ws/nothing"), "{error}");
}

#[tokio::test]
async fn garbage_instead_of_http_is_an_error_at_once() {
    let noise: Vec<u8> = (0..4096u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n";
    for bytes in [&noise[..], b"GET /\r\n\r\n", b"POST /ws/live HTTP/1.1\r\n\r\n", tls] {
        let (error, taken) = bare_client(bytes).await;
        assert!(matches!(error, ChannelError::NotWebSocket { .. }), "{error}");
        assert!(taken < Duration::from_secs(5), "{taken:?}");
    }
}

#[tokio::test]
async fn endless_headers_are_not_collected() {
    const FLOOD: usize = 64 << 20;
    let (listener, address) = listener().await;
    let flood = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /ws/live HTTP/1.1\r\n").await.unwrap();
        let line = format!("X-Filler: {}\r\n", "a".repeat(4000));
        let mut sent = 0;
        while sent < FLOOD && stream.write_all(line.as_bytes()).await.is_ok() {
            sent += line.len();
        }
        sent
    });
    let error = serve(listener.accept().await.unwrap()).await.expect_err("must be refused");
    assert!(matches!(error, ChannelError::NotWebSocket { .. }), "{error}");
    assert!(flood.await.unwrap() < FLOOD, "the flood was taken in");
}

#[tokio::test]
async fn who_never_says_hello_is_dropped_and_keeps_nobody_out() {
    let (listener, address) = listener().await;
    let mut silent = Vec::new();
    let mut greetings = tokio::task::JoinSet::new();
    // All slots but one; half of them after the upgrade, half before it.
    for n in 0..63 {
        let stream = TcpStream::connect(address).await.unwrap();
        let arrival = listener.accept().await.unwrap();
        greetings.spawn(async move { serve(arrival).await.expect_err("must be dropped") });
        if n % 2 == 0 {
            silent.push(
                tokio_tungstenite::client_async(format!("ws://{address}/ws/live"), stream).await.unwrap().0,
            );
        } else {
            greetings.spawn(async move {
                let mut stream = stream;
                // Hung up on: a silent client gets nothing.
                assert_eq!(stream.read(&mut [0; 100]).await.unwrap(), 0);
                ChannelError::Accept(std::io::Error::other("the client's end"))
            });
        }
    }
    let begun = Instant::now();
    let (_server, _client) = pair_on(&listener, address, Channel::Config).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut slow = 0;
    while let Some(error) = greetings.join_next().await {
        slow += u32::from(matches!(error.unwrap(), ChannelError::Slow { .. }));
    }
    assert_eq!(slow, 63);
}

/// The good frame of 512 bytes, with its header's checksum put right after an edit.
fn forged(edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = frame(0, &[7; 512]);
    edit(&mut bytes);
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[tokio::test]
async fn bad_frames_are_named_and_end_only_their_connection() {
    let good = frame(0, &[7; 512]);
    let mut long_control = vec![0; HEADER_BYTES + (65 << 10)];
    seal_control(&mut long_control).unwrap();
    let foreign_end = End { count: 3, digest: [0; 32] }.to_message();
    let (listener, address) = listener().await;
    let (mut bystander, mut client) = pair_on(&listener, address, Channel::Live).await;
    for (bytes, says) in [
        (forged(|b| b[20..24].fill(0xff)), "claims 4294967295 bytes; at most 1048576"),
        (forged(|b| b[100] ^= 1), "payload's checksum does not match"),
        (forged(|b| b[0] = 9), "unknown kind 9"),
        (good[..300].to_vec(), "announces 512 bytes of payload and carries 268"),
        (good[..20].to_vec(), "shorter than its header"),
        (long_control, "at most 65536 are allowed on this channel"),
        (foreign_end.to_vec(), "ended after 0 data frames; the sender counted 3"),
    ] {
        let (mut server, mut socket) = rogue(&listener, address).await;
        socket.send(Message::binary(bytes)).await.unwrap();
        let error = server.receiver.recv().await.unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("agent web1"), "{error}");
    }
    client.sender.send_control(&ToDispatcher::Pong(1)).await.unwrap();
    assert_eq!(bystander.receiver.recv().await.unwrap(), Incoming::Control(ToDispatcher::Pong(1)));
}

#[tokio::test]
async fn a_data_frame_that_got_lost_is_missed_at_the_end() {
    let (listener, address) = listener().await;
    let (mut server, mut socket) = rogue(&listener, address).await;
    let mut tally = blxrep::wire::frame::Tally::default();
    for offset in [0, 512, 1024] {
        let bytes = frame(offset, &[7; 512]);
        tally.add(bytes.first_chunk().unwrap());
        if offset != 512 {
            socket.send(Message::binary(bytes)).await.unwrap();
        }
    }
    socket.send(Message::binary(tally.finish().to_message().to_vec())).await.unwrap();
    assert!(matches!(server.receiver.recv().await.unwrap(), Incoming::Data { .. }));
    assert!(matches!(server.receiver.recv().await.unwrap(), Incoming::Data { .. }));
    let error = server.receiver.recv().await.unwrap_err();
    let missing = FrameError::Count { sent: 3, received: 2 };
    assert!(matches!(&error, ChannelError::Frame { source, .. } if *source == missing), "{error}");
}

#[tokio::test]
async fn text_is_refused() {
    let (listener, address) = listener().await;
    let (mut server, mut socket) = rogue(&listener, address).await;
    socket.send(Message::text("hi")).await.unwrap();
    assert!(matches!(server.receiver.recv().await, Err(ChannelError::NotBinary { .. })));
}

#[tokio::test]
async fn a_websocket_message_that_claims_gigabytes_is_refused_by_its_header() {
    let (listener, address) = listener().await;
    let (mut server, socket) = rogue(&listener, address).await;
    let mut stream = socket.into_inner();
    let mut header = vec![0x82, 0xff];
    header.extend((4u64 << 30).to_be_bytes());
    header.extend([0; 4]);
    stream.write_all(&header).await.unwrap();
    let error = server.receiver.recv().await.unwrap_err();
    assert!(matches!(error, ChannelError::TooLong { limit: MAX_MESSAGE_BYTES, .. }), "{error}");
}
