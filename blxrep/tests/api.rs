//! The control API over a real Unix socket: what it answers, what it refuses, what it bounds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod fake;

use blxrep::api::browse::{DiffQuery, FileRow, FilesQuery, FindQuery, How};
use blxrep::api::client::{Client, ClientError};
use blxrep::api::error::ErrorCode;
use blxrep::api::events::Event;
use blxrep::api::exports::{ExportBody, ExportRow, ExportState, StopQuery};
use blxrep::api::mounts::{MountBody, MountRow, MountState, UnmountQuery};
use blxrep::api::socket::{ControlSocket, SocketError, connect, socket_path};
use blxrep::api::types::{Control, ListQuery, RestoreBody, SnapshotBody, SyncBody};
use blxrep::model::part_id::PartId;
use fake::{BASE, DELTA, FUZZY, FakeDispatcher, LIVE, SDA};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn query_of(agent: Option<&str>, disk: Option<&str>, newest: Option<u32>) -> ListQuery {
    ListQuery { agent: agent.map(Into::into), disk: disk.map(Into::into), newest, ..ListQuery::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (ErrorCode, String) {
    match result {
        Err(ClientError::Api(error)) => (error.code, error.message),
        other => panic!("expected an error of the API, got {other:?}"),
    }
}

/// Sends bytes and returns all that comes back until the server closes.
fn raw(dir: &Path, request: &[u8]) -> String {
    let mut stream = connect(&socket_path(dir)).unwrap();
    stream.set_nonblocking(false).unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn rows_survive_the_way() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    assert_eq!(client.agents().await.unwrap(), fake::agents());
    assert_eq!(client.disks(&ListQuery::default()).await.unwrap(), fake::disks());
    assert_eq!(client.points(&ListQuery::default()).await.unwrap(), fake::points());
    assert_eq!(client.actions(&ListQuery::default()).await.unwrap(), [fake::failed(), fake::live()]);
    assert_eq!(client.action(LIVE).await.unwrap(), fake::live());
    assert_eq!(client.status().await.unwrap().uptime_seconds, 11_400);
    let detail = client.agent("web1").await.unwrap();
    assert_eq!(detail.footprint.unwrap().disks[0].partitions[0].number, 1);
}

#[tokio::test]
async fn disks_are_named_by_device_identity_or_id() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let id = SDA.to_string();
    for name in ["/dev/sda", "sda", "wwn:naa.5000c500a1b2c3d4", &id] {
        let rows = client.disks(&query_of(Some("web1"), Some(name), None)).await.unwrap();
        assert_eq!(rows.iter().map(|r| r.id).collect::<Vec<_>>(), [SDA], "{name}");
    }
    // Two disks were seen at /dev/sda; only one is there now.
    assert_eq!(client.disks(&query_of(None, Some("sda"), None)).await.unwrap().len(), 1);
    let (code_, message) = code(client.disks(&query_of(Some("web1"), Some("sdz"), None)).await);
    assert_eq!(code_, ErrorCode::NotFound);
    assert!(message.contains("/dev/sda") && message.contains("/dev/sdb"), "{message}");
    let (code_, message) = code(client.points(&query_of(Some("nobody"), None, None)).await);
    assert_eq!(code_, ErrorCode::NotFound);
    assert!(message.contains("web1"), "{message}");
}

#[tokio::test]
async fn points_are_named_by_the_beginning_of_their_id() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let to = dispatcher.path().join("new.img").display().to_string();
    let restore = |point: &str| {
        let point = point.into();
        RestoreBody { point, to: Some(to.clone()), ..RestoreBody::default() }
    };
    assert!(client.restore(&restore("4F0C2a9bffff")).await.is_ok());
    assert!(client.restore(&restore(&DELTA.to_string())).await.is_ok());
    let (code_, message) = code(client.restore(&restore("4f0c")).await);
    assert_eq!(code_, ErrorCode::Invalid);
    assert!(message.contains(&DELTA.to_string()), "{message}");
    assert_eq!(code(client.restore(&restore("4f0")).await).0, ErrorCode::Invalid);
    assert_eq!(code(client.restore(&restore("+f0c")).await).0, ErrorCode::Invalid);
    assert_eq!(code(client.restore(&restore("4f0c2a9b01d3e5870")).await).0, ErrorCode::Invalid);
    assert_eq!(code(client.restore(&restore("beef")).await).0, ErrorCode::NotFound);
    let (point, to) = ("9a00".into(), "here.img".into());
    let relative = RestoreBody { point, to: Some(to), ..RestoreBody::default() };
    assert_eq!(code(client.restore(&relative).await).0, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_restore_goes_to_this_host_or_to_a_device_of_an_agent() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let device = |device: &str, yes| RestoreBody {
        point: DELTA.to_string(),
        agent: Some("web1".into()),
        device: Some(device.into()),
        yes,
        ..RestoreBody::default()
    };
    assert!(client.restore(&device("/dev/vdb", true)).await.is_ok());
    let dry_run = RestoreBody { dry_run: true, ..device("/dev/vdb", false) };
    assert!(client.restore(&dry_run).await.is_ok());
    assert_eq!(code(client.restore(&device("/dev/vdb", false)).await).0, ErrorCode::Unconfirmed);
    let (code_, message) = code(client.restore(&device("/dev/vda", true)).await);
    assert_eq!((code_, message.contains("unmount")), (ErrorCode::Refused, true));
    let nobody = RestoreBody { agent: Some("nobody".into()), ..device("/dev/vdb", true) };
    assert_eq!(code(client.restore(&nobody).await).0, ErrorCode::NotFound);
    let here = RestoreBody { agent: None, device: None, to: Some("/srv/x.img".into()), ..device("", true) };
    for wrong in [
        device("vdb", true),
        RestoreBody { agent: None, ..device("/dev/vdb", true) },
        RestoreBody { device: None, ..device("/dev/vdb", true) },
        RestoreBody { to: Some("/srv/x.img".into()), ..device("/dev/vdb", true) },
        RestoreBody { full: true, ..here.clone() },
        RestoreBody { dry_run: true, ..here },
        RestoreBody { point: DELTA.to_string(), ..RestoreBody::default() },
    ] {
        assert_eq!(code(client.restore(&wrong).await).0, ErrorCode::Invalid, "{wrong:?}");
    }
}

#[tokio::test]
async fn actions_are_controlled_and_say_no() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let paused = client.control("ac00000000000001", Control::Pause).await.unwrap();
    assert_eq!(paused.state.to_string(), "paused");
    assert_eq!(code(client.control("ac00000000000002", Control::Resume).await).0, ErrorCode::Refused);
    assert_eq!(code(client.control("ac00", Control::Resume).await).0, ErrorCode::Invalid);
    assert_eq!(code(client.control("../status", Control::Pause).await).0, ErrorCode::Invalid);
    let problem = SnapshotBody { agent: "web1".into(), disk: "sdb".into() };
    assert_eq!(code(client.snapshot(&problem).await).0, ErrorCode::Refused);
    let absent = SnapshotBody { agent: "db1".into(), disk: "sda".into() };
    assert_eq!(code(client.snapshot(&absent).await).0, ErrorCode::Unavailable);
}

/// What is between the head and the end of an answer over TCP.
fn scraped(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_are_read_over_tcp_and_nothing_else_is() {
    let dispatcher = FakeDispatcher::start();
    let (head, body) = scraped(dispatcher.metrics(), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"), "{head}");
    // The order within a family is any.
    let mut lines: Vec<_> = body.lines().collect();
    lines.sort_unstable();
    insta::assert_snapshot!("metrics", lines.join("\n"));
    for path in ["/api/v1/status", "/api/v1/points", "/"] {
        let (head, body) = scraped(dispatcher.metrics(), path);
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}\n{body}");
    }
    let on_the_socket =
        raw(dispatcher.path(), b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(on_the_socket.contains("blxrep_disk_lag_seconds{"), "{on_the_socket}");
}

#[test]
fn events_are_heard_as_they_happen_until_the_dispatcher_stops() {
    let mut dispatcher = FakeDispatcher::start();
    let mut stream = connect(&socket_path(dispatcher.path())).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.starts_with("content-type: text/event-stream")));
    // Whoever has the head of the answer listens already.
    dispatcher.feed().say(Event::Agent {
        at: "2026-01-02T03:04:05Z".parse().unwrap(),
        agent: "web1".parse().unwrap(),
        online: true,
    });
    assert!(lines.by_ref().any(|line| line == "event: agent"));
    let data = lines.by_ref().find_map(|line| Some(line.strip_prefix("data: ")?.to_owned())).unwrap();
    assert_eq!(data, r#"{"event":"agent","at":"2026-01-02T03:04:05Z","agent":"web1","online":true}"#);
    let start = Instant::now();
    dispatcher.stop();
    assert_eq!(lines.find(|line| line.starts_with("event:")), None, "the stream ends");
    println!("a dispatcher with a listener stopped within {:?}", start.elapsed());
}

#[test]
fn what_is_no_request_gets_an_error_in_the_same_form() {
    let dispatcher = FakeDispatcher::start();
    let ask = |head: &str, body: &str| {
        let length = body.len();
        let head =
            format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        raw(dispatcher.path(), format!("{head}{body}").as_bytes())
    };
    for (head, body, status) in [
        ("GET /", "", "404"),
        ("GET /api/v2/agents", "", "404"),
        ("DELETE /api/v1/agents", "", "405"),
        ("GET /api/v1/points?colour=red", "", "400"),
        ("GET /api/v1/points?newest=many", "", "400"),
        ("POST /api/v1/snapshots", "{", "400"),
        ("POST /api/v1/snapshots", r#"{"agent":"web1"}"#, "400"),
        ("POST /api/v1/snapshots", r#"{"agent":"web1","disk":"sda","also":1}"#, "400"),
        ("POST /api/v1/syncs", r#"{"agent":"nobody"}"#, "404"),
        ("POST /api/v1/restores", r#"{"point":"9a00","paths":["1:/etc"]}"#, "400"),
        ("POST /api/v1/restores", r#"{"point":"9a00","paths":["1:/etc"],"target":"srv"}"#, "400"),
        ("POST /api/v1/restores", r#"{"point":"9a00","paths":["1:/../etc"],"target":"/srv"}"#, "400"),
        ("POST /api/v1/restores", r#"{"point":"9a00","paths":["1:/x"],"target":"/srv","to":"/x"}"#, "400"),
        ("POST /api/v1/restores", r#"{"point":"9a00","paths":["1:/x"],"target":"/srv","agent":"x"}"#, "404"),
    ] {
        let answer = ask(head, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        assert!(answer.contains(r#"{"error":{"code":""#), "{head}: {answer}");
    }
    assert!(ask("DELETE /api/v1/agents", "").contains("allow: GET,HEAD"), "it says what the route takes");
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = raw(dispatcher.path(), &garbage);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(ask("GET /api/v1/status", "").starts_with("HTTP/1.1 200"), "it lives");
}

#[test]
fn lengths_are_bounded() {
    let dispatcher = FakeDispatcher::start();
    let claims = "POST /api/v1/syncs HTTP/1.1\r\nhost: x\r\ncontent-length: 4294967296\r\n\r\n";
    let answer = raw(dispatcher.path(), claims.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("65536"), "{answer}");
    let mut chunked =
        b"POST /api/v1/syncs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n20000\r\n".to_vec();
    chunked.resize(chunked.len() + 0x20000, b' ');
    let answer = raw(dispatcher.path(), &chunked);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("65536"), "{answer}");
    let mut long = b"GET /".to_vec();
    long.resize(1 << 20, b'a');
    let answer = raw(dispatcher.path(), &long);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[test]
fn a_silent_caller_is_hung_up_on() {
    let dispatcher = FakeDispatcher::start();
    let began = Instant::now();
    let mut stream = connect(&socket_path(dispatcher.path())).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"GET /api/v1/sta").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(began.elapsed() < Duration::from_secs(60), "the connection is still open");
}

#[tokio::test]
async fn more_callers_than_places_wait_and_are_served() {
    let dispatcher = FakeDispatcher::start();
    // These hold every place for as long as they live.
    let idle: Vec<_> = (0..64).map(|_| connect(&socket_path(dispatcher.path())).unwrap()).collect();
    let client = Client::new(dispatcher.path());
    let early = tokio::time::timeout(Duration::from_millis(300), client.status()).await;
    assert!(early.is_err(), "a place beyond the last: {early:?}");
    drop(idle);
    client.status().await.unwrap();
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_sync_that_never_ends() {
    let mut dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let body = SyncBody { agent: "web1".into(), disk: Some("sdb".into()), consistency: None, wait: true };
    let waiting = tokio::spawn(async move { client.sync(&body).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    let began = Instant::now();
    let path = socket_path(dispatcher.path());
    let stopped = tokio::task::spawn_blocking(move || {
        dispatcher.stop();
        dispatcher
    });
    let _dispatcher = stopped.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(!path.exists(), "the socket goes with its dispatcher");
    assert!(matches!(waiting.await.unwrap(), Err(ClientError::Broken { .. })));
}

#[test]
fn the_socket_is_private_replaced_when_stale_and_never_stolen() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    // A dispatcher that was killed leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = ControlSocket::bind(dir.path()).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(ControlSocket::bind(dir.path()), Err(SocketError::InUse(_))));
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(dir.path()), Err(SocketError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert!(matches!(ControlSocket::bind(&dir.path().join("none")), Err(SocketError::Io { .. })));
}

#[test]
fn a_path_too_long_for_an_address_works() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let socket = ControlSocket::bind(&deep).unwrap();
    assert!(socket_path(&deep).exists());
    connect(&socket_path(&deep)).unwrap();
    drop(socket);
    assert!(!socket_path(&deep).exists());
}

#[tokio::test]
async fn no_dispatcher_is_said_with_the_way_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path()).status().await.unwrap_err().to_string();
    assert!(error.contains("control.sock") && error.contains("--mode dispatcher"), "{error}");
}

/// Credentials of a thread, by the kernel's rules, so that one thread of this process can be somebody else.
#[test]
fn another_user_is_refused_with_a_reason() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let dispatcher = FakeDispatcher::start();
    std::fs::set_permissions(dispatcher.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(socket_path(dispatcher.path()), PermissionsExt::from_mode(0o666)).unwrap();
    let path = dispatcher.path().to_owned();
    let answer = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        raw(&path, b"GET /api/v1/agents HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    });
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("user 65534") && !answer.contains("web1"), "{answer}");
}

#[tokio::test]
async fn the_files_of_a_point_are_told_by_the_beginning_of_its_id() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let chain = client.chain("4F0C2a9bffff").await.unwrap();
    assert_eq!(chain.point, DELTA);
    let files = chain.files(client.data_dir()).unwrap();
    assert!(files.base.image.starts_with(dispatcher.path()), "{files:?}");
    assert_eq!(code(client.chain("beef").await).0, ErrorCode::NotFound);
    assert_eq!(code(client.chain("4f0").await).0, ErrorCode::Invalid);
}

#[tokio::test]
async fn files_are_listed_page_by_page_whatever_their_names_are() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let partitions = client.partitions("9a00").await.unwrap();
    assert_eq!(partitions, fake::files::partitions());
    let mut query = FilesQuery {
        partition: Some(fake::files::ROOT),
        path: Some("/home/ada".parse().unwrap()),
        limit: Some(2),
        after: None,
    };
    let mut found: Vec<FileRow> = Vec::new();
    loop {
        let page = client.files("9a00", &query).await.unwrap();
        assert!(page.items.len() <= 2);
        found.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    assert_eq!(found.len(), 5);
    assert!(found.iter().any(|row| row.raw.as_bytes() == b"/home/ada/old \xff name"));
    // What was told of a name finds it again.
    for row in &found {
        let one = FilesQuery { path: Some(row.raw.clone()), after: None, ..query.clone() };
        assert_eq!(client.files("9a00", &one).await.unwrap().items, std::slice::from_ref(row));
    }
    let refused = FilesQuery { partition: Some(3.into()), ..FilesQuery::default() };
    assert_eq!(code(client.files("9a00", &refused).await).0, ErrorCode::Refused);
    let none = FilesQuery { partition: Some(9.into()), ..FilesQuery::default() };
    assert_eq!(code(client.files("9a00", &none).await).0, ErrorCode::NotFound);
}

#[tokio::test]
async fn searches_and_differences_come_in_pages() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let mut query = FindQuery { pattern: "*n*".parse().unwrap(), limit: Some(3), ..FindQuery::default() };
    let mut found = 0;
    loop {
        let page = client.find("9a00", &query).await.unwrap();
        found += page.items.len();
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, 6);
    let diff = DiffQuery { with: BASE.to_string(), ..DiffQuery::default() };
    let page = client.diff("9a00", &diff).await.unwrap();
    assert!(page.items.iter().any(|row| row.change == How::Metadata && row.what == ["mode", "mtime"]));
    let nobody = DiffQuery { with: "beef".into(), ..DiffQuery::default() };
    assert_eq!(code(client.diff("9a00", &nobody).await).0, ErrorCode::NotFound);
}

#[test]
fn what_is_no_path_cursor_or_limit_is_refused_with_what_to_write() {
    let dispatcher = FakeDispatcher::start();
    let ask = |target: &str| {
        let request =
            format!("GET /api/v1/points/9a00/{target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw(dispatcher.path(), request.as_bytes())
    };
    for (target, said) in [
        ("files?path=/etc/%FF", "%25FF"),
        ("files?path=/etc/100%25", "%25"),
        ("files?limit=0", "1 to 1000"),
        ("files?limit=1001", "1 to 1000"),
        ("find", "pattern"),
        ("find?pattern=x&after=y", "`next`"),
        ("diff", "with"),
        ("files?colour=red", "colour"),
    ] {
        let answer = ask(target);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(said), "{target}: {answer}");
    }
    let answer = ask("files?partition=2&path=/home/ada/old%2B%25FF%20name");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let answer = ask("files?partition=2&path=/home/ada/old%20%25ff+name");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn lists_come_in_pages_in_an_order_that_stays() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let mut query = ListQuery { limit: Some(1), ..ListQuery::default() };
    let mut found = Vec::new();
    loop {
        let page = client.points_page(&query).await.unwrap();
        found.extend(page.items.into_iter().map(|row| row.id));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, [BASE, DELTA, FUZZY], "disk after disk");
    let newest = query_of(None, None, Some(1));
    assert_eq!(client.points(&newest).await.unwrap()[0].id, DELTA);
    assert_eq!(client.points(&query_of(None, None, Some(100_000))).await.unwrap(), fake::points());
    let dispatcher_says = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw(dispatcher.path(), request.as_bytes())
    };
    let agents = dispatcher_says("/api/v1/agents?limit=1");
    assert!(agents.contains(r#""next":"db1""#), "{agents}");
    let agents = dispatcher_says("/api/v1/agents?limit=1&after=db1");
    assert!(agents.contains(r#""next":null"#) && agents.contains("web1.example.com"), "{agents}");
    for bad in [
        "points?limit=1001",
        "points?newest=5&after=x",
        "agents?disk=sda",
        "disks?newest=1",
        "points?newest=1001",
    ] {
        let answer = dispatcher_says(&format!("/api/v1/{bad}"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad}: {answer}");
    }
}

#[tokio::test]
async fn policies_and_mounts_are_told_and_mounts_made() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    assert_eq!(client.policies().await.unwrap(), fake::policies());
    let body = |directory: &str| MountBody { point: "9a00".into(), directory: directory.into() };
    assert_eq!(code(client.mount(&body("here")).await).0, ErrorCode::Invalid);
    assert_eq!(code(client.mount(&body("/mnt/full")).await).0, ErrorCode::Refused);
    let mounted = client.mount(&body("/mnt/a b")).await.unwrap();
    assert_eq!(client.mounts().await.unwrap(), std::slice::from_ref(&mounted));
    let directory = mounted.directory.clone();
    let gone = client.unmount(&UnmountQuery { directory: directory.clone() }).await.unwrap();
    assert_eq!(gone, MountRow { state: MountState::Unmounted, ..mounted });
    assert_eq!(code(client.unmount(&UnmountQuery { directory }).await).0, ErrorCode::NotFound);
}

#[tokio::test]
async fn points_are_served_and_stopped() {
    let dispatcher = FakeDispatcher::start();
    let client = Client::new(dispatcher.path());
    let body =
        |address: &str| ExportBody { point: "9a00".into(), address: address.into(), ..Default::default() };
    assert_eq!(code(client.export(&body("unix:x.sock")).await).0, ErrorCode::Invalid, "whose folder?");
    assert_eq!(code(client.export(&body("192.0.2.1:10809")).await).0, ErrorCode::Invalid);
    let served = client.export(&body("unix:/run/a b.sock")).await.unwrap();
    assert_eq!(
        (served.point.as_str(), &served.partition, served.writable),
        ("9a00111122223333", &PartId::DISK, false)
    );
    assert_eq!(client.exports().await.unwrap(), std::slice::from_ref(&served));
    let query = StopQuery { uri: served.uri.clone() };
    let stopped = client.stop_export(&query).await.unwrap();
    assert_eq!(stopped, ExportRow { state: ExportState::Stopped, ..served });
    assert_eq!(code(client.stop_export(&query).await).0, ErrorCode::NotFound);
}
