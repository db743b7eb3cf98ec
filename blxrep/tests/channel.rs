//! The channel over real sockets: what well-behaved peers get.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod channel_peers;
#[path = "support/mod.rs"]
mod support;

use blxrep::io::channel::{ChannelError, Incoming, connect};
use blxrep::model::encoding::Encoding;
use blxrep::model::ids::{ActionId, CutId, DiskIdentity};
use blxrep::wire::config::{Control, SyncOutcome, ToAgent, ToDispatcher};
use blxrep::wire::frame::Data;
use blxrep::wire::hello::{Channel, Refusal, RefusalCode};
use blxrep::wire::pulse::SILENCE;
use bytes::Bytes;
use channel_peers::{frame, hello, listener, pair, pair_on, rogue};
use std::net::SocketAddr;
use std::time::Duration;
use support::proxy::{Event, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn messages_data_and_ends_arrive_in_order() {
    let (mut server, mut client) = pair(Channel::Config).await;
    let action = ToAgent::Control { action: ActionId(4), control: Control::Pause };
    server.sender.send_control(&action).await.unwrap();
    assert_eq!(client.receiver.recv().await.unwrap(), Incoming::Control(action));

    let payload: Vec<u8> = (0..256 << 10).map(|i: u32| i.to_le_bytes()[0] ^ 0x5a).collect();
    for round in 0..3u64 {
        client.sender.send_data(frame(round << 20, &payload).into()).await.unwrap();
    }
    client.sender.send_control(&ToDispatcher::Pong(9)).await.unwrap();
    client.sender.send_end().await.unwrap();
    client.sender.send_end().await.unwrap();
    for round in 0..3u64 {
        let data = Data { encoding: Encoding::Raw, offset: round << 20, raw_length: 256 << 10 };
        let got = server.receiver.recv().await.unwrap();
        assert!(got == Incoming::Data { data, payload: Bytes::from(payload.clone()) });
    }
    assert_eq!(server.receiver.recv().await.unwrap(), Incoming::Control(ToDispatcher::Pong(9)));
    assert_eq!(server.receiver.recv().await.unwrap(), Incoming::End { count: 3 });
    assert_eq!(server.receiver.recv().await.unwrap(), Incoming::End { count: 0 }, "an empty transfer");
}

#[tokio::test]
async fn both_halves_work_at_once_in_tasks_of_their_own() {
    let (server, client) = pair(Channel::Live).await;
    let ((mut up, mut down), (mut server_up, mut server_down)) = (client.split(), server.split());
    let chunk = Bytes::from(frame(0, &[3; 256 << 10]));
    let sender = tokio::spawn(async move {
        for n in 0..200 {
            up.send_data(chunk.clone()).await.unwrap();
            up.send_control(&ToDispatcher::Pong(n)).await.unwrap();
        }
        up.send_end().await.unwrap();
        up
    });
    let echo = tokio::spawn(async move {
        loop {
            match server_down.recv().await.unwrap() {
                Incoming::Control(ToDispatcher::Pong(n)) => {
                    server_up.send_control(&ToAgent::Ping(n)).await.unwrap();
                }
                Incoming::End { count } => return (count, server_up, server_down),
                Incoming::Data { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
    for n in 0..200 {
        assert_eq!(down.recv().await.unwrap(), Incoming::Control(ToAgent::Ping(n)));
    }
    let _up = sender.await.unwrap();
    assert_eq!(echo.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_dropped_recv_loses_nothing() {
    let (mut server, mut client) = pair(Channel::Live).await;
    let sender = tokio::spawn(async move {
        for n in 0..50u8 {
            client.sender.send_data(frame(u64::from(n) << 20, &vec![n; 1 << 20]).into()).await.unwrap();
        }
        client.sender.send_end().await.unwrap();
        client
    });
    let (mut next, mut dropped) = (0u64, 0);
    loop {
        // So short a time-out drops futures in the middle of a frame.
        match tokio::time::timeout(Duration::from_micros(200), server.receiver.recv()).await {
            Err(_) => dropped += 1,
            Ok(Ok(Incoming::Data { data, .. })) => {
                assert_eq!(data.offset, next << 20);
                next += 1;
            }
            Ok(other) => {
                assert_eq!(other.unwrap(), Incoming::End { count: 50 });
                break;
            }
        }
    }
    assert!(dropped > 0, "nothing was dropped: the test shows nothing");
    sender.await.unwrap();
}

#[tokio::test]
async fn a_dropped_send_leaves_whole_frames() {
    let (mut server, mut client) = pair(Channel::Live).await;
    let payload = Bytes::from(frame(0, &[1; 1 << 20]));
    // Nobody reads: a send blocks sooner or later and is then dropped.
    let mut whole = 0;
    while tokio::time::timeout(Duration::from_millis(50), client.sender.send_data(payload.clone()))
        .await
        .is_ok()
    {
        whole += 1;
        assert!(whole < 100, "TCP took everything without a reader");
    }
    let sender = tokio::spawn(async move {
        client.sender.send_end().await.unwrap();
        client
    });
    let mut seen = 0;
    let count = loop {
        match server.receiver.recv().await.unwrap() {
            Incoming::Data { .. } => seen += 1,
            Incoming::End { count } => break count,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(count, seen);
    assert!(seen == whole || seen == whole + 1);
    sender.await.unwrap();
}

#[tokio::test]
async fn a_close_says_why_and_comes_after_what_was_sent() {
    let (mut server, mut client) = pair(Channel::Live).await;
    let closing = tokio::spawn(async move {
        server.sender.send_control(&ToAgent::Ping(1)).await.unwrap();
        server.close("the store is full").await;
    });
    assert_eq!(client.receiver.recv().await.unwrap(), Incoming::Control(ToAgent::Ping(1)));
    let closed = Incoming::Closed { reason: "the store is full".to_owned() };
    assert_eq!(client.receiver.recv().await.unwrap(), closed);
    assert_eq!(client.receiver.recv().await.unwrap(), closed, "and goes on saying so");
    let error = client.sender.send_control(&ToDispatcher::Pong(1)).await.unwrap_err();
    assert!(matches!(error, ChannelError::Closed { .. } | ChannelError::Cut { .. }), "{error}");
    closing.await.unwrap();
}

#[tokio::test]
async fn the_reason_of_a_close_survives_data_that_was_not_read() {
    let (server, client) = pair(Channel::Live).await;
    let (mut up, mut down) = client.split();
    let flood = tokio::spawn(async move {
        let chunk = Bytes::from(frame(0, &[1; 1 << 20]));
        while up.send_data(chunk.clone()).await.is_ok() {}
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ((), seen) = tokio::join!(server.close("a bad frame"), down.recv());
    assert_eq!(seen.unwrap(), Incoming::Closed { reason: "a bad frame".to_owned() });
    flood.await.unwrap();
}

#[tokio::test]
async fn a_reset_is_not_a_close() {
    let (mut server, client) = pair(Channel::Live).await;
    drop(client);
    let error = server.receiver.recv().await.unwrap_err();
    assert!(matches!(error, ChannelError::Cut { .. }) && error.is_disconnect(), "{error}");
    assert!(error.to_string().contains("agent web1"), "{error}");

    let (listener, address) = listener().await;
    let (mut server, socket) = rogue(&listener, address).await;
    let mut stream = socket.into_inner();
    // The start of a masked binary message of 1000 bytes, then a reset.
    stream.write_all(&[0x82, 0xfe, 0x03, 0xe8, 1, 2, 3, 4, 5, 6]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let error = server.receiver.recv().await.unwrap_err();
    assert!(matches!(error, ChannelError::Cut { .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_reaches_the_client() {
    let (listener, address) = listener().await;
    let refusal = Refusal::new(RefusalCode::Credentials, "unknown agent or wrong secret");
    let server = async {
        let pending = listener.accept().await.unwrap().hello().await.unwrap();
        assert_eq!(pending.hello, hello(Channel::Live));
        pending.refuse(refusal.clone()).await.unwrap();
    };
    let (address, hello) = (address.to_string(), hello(Channel::Live));
    let ((), client) = tokio::join!(server, connect::<ToDispatcher, ToAgent>(&address, &hello));
    let error = client.err().unwrap();
    assert!(matches!(&error, ChannelError::Refused { refusal: r, .. } if *r == refusal), "{error}");
    assert!(error.to_string().ends_with("refused the connection: unknown agent or wrong secret"), "{error}");
}

#[tokio::test]
async fn a_message_above_the_channels_limit_is_not_sent() {
    let (mut server, mut client) = pair(Channel::Live).await;
    let identity = DiskIdentity::Serial("a".to_owned());
    let outcomes = vec![SyncOutcome { identity, result: Err("x".repeat(100 << 10)) }];
    let message = ToDispatcher::Synced { request: CutId(1), outcomes };
    let error = client.sender.send_control(&message).await.unwrap_err();
    assert!(matches!(error, ChannelError::Encode { .. }), "{error}");
    client.sender.send_control(&ToDispatcher::Pong(1)).await.unwrap();
    assert_eq!(server.receiver.recv().await.unwrap(), Incoming::Control(ToDispatcher::Pong(1)));
}

#[tokio::test]
async fn nobody_there_is_told_as_such() {
    let (listener, address) = listener().await;
    drop(listener);
    let refused = connect::<ToDispatcher, ToAgent>(&address.to_string(), &hello(Channel::Live)).await;
    let error = refused.err().unwrap();
    assert!(error.to_string().contains("is a dispatcher running there?"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_dispatcher_is_told_as_such() {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let server = async {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    };
    let hello = hello(Channel::Live);
    let ((), client) = tokio::join!(server, connect::<ToDispatcher, ToAgent>(&address, &hello));
    let error = client.err().unwrap();
    assert!(matches!(error, ChannelError::NotADispatcher { status: 403, .. }), "{error}");
}

/// A middlebox that goes on acknowledging bytes for a peer that it has forgotten: TCP has nothing to complain of.
#[tokio::test]
async fn a_half_open_connection_is_found_by_both_ends_on_every_channel() {
    let (listener, address) = listener().await;
    let proxy = Proxy::start(&address.to_string()).unwrap();
    let through: SocketAddr = proxy.address().parse().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for channel in [Channel::Config, Channel::Snapshot, Channel::Live] {
        let (mut server, mut client) = pair_on(&listener, through, channel).await;
        waiting.spawn(async move {
            let client = &mut client;
            client.receiver.recv().await.unwrap_err()
        });
        // Its owner listens in short turns.
        waiting.spawn(async move {
            let server = &mut server;
            loop {
                let turn = tokio::time::timeout(Duration::from_millis(300), server.receiver.recv());
                if let Ok(heard) = turn.await {
                    return heard.unwrap_err();
                }
            }
        });
    }
    // Nobody has anything to say meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(waiting.try_join_next().is_none());
    proxy.happen(Event::Forget);
    while let Some(found) = waiting.join_next().await {
        let error = found.unwrap();
        assert!(matches!(error, ChannelError::Silent { .. }), "{error}");
    }
}

/// What nobody uses for longer than a silence may last, lives on: both ends beat.
#[tokio::test]
async fn an_idle_connection_lives_on() {
    let (mut server, mut client) = pair(Channel::Live).await;
    let waits = tokio::spawn(async move {
        let client = &mut client;
        client.receiver.recv().await
    });
    // Neither listens nor sends.
    tokio::time::sleep(SILENCE + Duration::from_secs(2)).await;
    assert!(!waits.is_finished());
    server.sender.send_control(&ToAgent::Ping(3)).await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), Incoming::Control(ToAgent::Ping(3)));
}
