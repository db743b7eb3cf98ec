//! A bad network: a TCP proxy on loopback that delays, throttles, resets, falls silent and forgets connections.
//!
//! Each connection has a thread per direction, which moves a chunk at a time and looks at the [`Weather`] before each.
//! What the clients sent and got is counted at their side of the proxy.

use super::stamper::Random;
use anyhow::{Context, Result};
use rustix::net::sockopt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread that waits looks whether the weather has changed.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// What the network does to every connection, and to those that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Each chunk comes so much later.
    Delay(Duration),
    /// Bytes per second and direction.
    Throttle(u64),
    /// New connections are reset at once; those that stand go on.
    Refuse,
    /// Everything is taken, new connections too, and nothing comes out.
    BlackHole,
    /// What clients say comes through, and they hear nothing.
    Mute,
}

/// What happens once to all connections that stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both ends get a reset; what was under way is lost.
    Reset,
    /// Both ends are forgotten without a word: half-open connections, which take bytes for ever.
    Forget,
    /// The dispatcher's end is closed in good order, the agent's is forgotten; and the other way round.
    ForgetClient,
    ForgetServer,
    /// Both ends get a reset after so many further bytes from the client, anywhere in a frame.
    ResetAfter(u64),
}

/// A schedule: what comes after which time.
pub type Schedule = Vec<(Duration, Step)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Weather(Weather),
    Event(Event),
}

/// A schedule of about `length` that ends in clear weather: the same for the same seed. At most one step leaves
/// connections half-open, if that is asked for: it costs the time of silence.
pub fn schedule(seed: u64, length: Duration, half_open: bool) -> Schedule {
    let mut random = Random(seed);
    let mut steps = Schedule::new();
    let (mut at, mut forgotten) = (Duration::ZERO, !half_open);
    while at < length {
        let pause = Duration::from_millis(50 + random.below(900));
        at += pause;
        let step = match random.below(12) {
            0 | 1 => Step::Event(Event::Reset),
            2 | 3 => Step::Event(Event::ResetAfter(random.below(4 << 20))),
            4 if !forgotten => {
                forgotten = true;
                Step::Event(match random.below(3) {
                    0 => Event::Forget,
                    1 => Event::ForgetClient,
                    _ => Event::ForgetServer,
                })
            }
            5 => Step::Weather(Weather::Delay(Duration::from_millis(random.below(60)))),
            6 => Step::Weather(Weather::Throttle((1 << 20) + random.below(16 << 20))),
            7 => Step::Weather(Weather::Refuse),
            8 => Step::Weather(Weather::BlackHole),
            _ => Step::Weather(Weather::Clear),
        };
        steps.push((pause, step));
    }
    steps.push((Duration::from_millis(100), Step::Weather(Weather::Clear)));
    steps
}

/// A running proxy. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    weather: Mutex<Weather>,
    connections: Mutex<Vec<Arc<Pair>>>,
    stop: AtomicBool,
    from_clients: AtomicU64,
    to_clients: AtomicU64,
    accepted: AtomicU64,
}

/// Both ends of one connection.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// Nothing is moved any more; the sockets stay open until the proxy ends.
    forgotten: AtomicBool,
    ended: AtomicBool,
    /// Bytes from the client until both ends get a reset.
    left: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of loopback and connects to `upstream`.
    pub fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the proxy: listening")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            weather: Mutex::new(Weather::Clear),
            connections: Mutex::default(),
            stop: AtomicBool::new(false),
            from_clients: AtomicU64::new(0),
            to_clients: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, weather: Weather) {
        *self.shared.weather() = weather;
    }

    pub fn happen(&self, event: Event) {
        for pair in self.shared.connections().iter() {
            match event {
                Event::Reset => pair.reset(),
                Event::ResetAfter(bytes) => pair.left.store(bytes.max(1), Ordering::SeqCst),
                Event::Forget => pair.forget(),
                Event::ForgetClient => {
                    pair.forget();
                    drop(pair.server.shutdown(Shutdown::Both));
                }
                Event::ForgetServer => {
                    pair.forget();
                    drop(pair.client.shutdown(Shutdown::Both));
                }
            }
        }
    }

    /// Plays a schedule to its end.
    pub fn play(&self, steps: &Schedule) {
        for (pause, step) in steps {
            std::thread::sleep(*pause);
            match step {
                Step::Weather(weather) => self.set(*weather),
                Step::Event(event) => self.happen(*event),
            }
        }
    }

    /// Bytes that clients have sent so far, whether or not they came through.
    pub fn sent_by_clients(&self) -> u64 {
        self.shared.from_clients.load(Ordering::SeqCst)
    }

    /// Bytes that clients were sent.
    pub fn sent_to_clients(&self) -> u64 {
        self.shared.to_clients.load(Ordering::SeqCst)
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.happen(Event::Reset);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Pair>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Pair {
    /// Both ends get a reset instead of an end, when the last thread lets go of the sockets.
    fn reset(&self) {
        for stream in [&self.client, &self.server] {
            let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        }
        self.ended.store(true, Ordering::SeqCst);
    }

    fn forget(&self) {
        self.forgotten.store(true, Ordering::SeqCst);
    }

    /// One end closed in good order: so does the other.
    fn close(&self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }

    fn is_over(&self, shared: &Shared) -> bool {
        shared.stops() || self.ended.load(Ordering::SeqCst)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while !shared.stops() {
        match listener.accept() {
            Ok((client, _)) => pumps.extend(take(client, shared)),
            Err(_) => std::thread::sleep(LOOK),
        }
        pumps.retain(|pump| !pump.is_finished());
        shared.connections().retain(|pair| !pair.ended.load(Ordering::SeqCst));
    }
    shared.connections().clear();
    for pump in pumps {
        drop(pump.join());
    }
}

/// Starts to serve a connection. In bad weather it is reset, or taken and left alone.
fn take(client: TcpStream, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    let refuse = *shared.weather() == Weather::Refuse;
    let server =
        if refuse { Err(ErrorKind::ConnectionRefused.into()) } else { TcpStream::connect(&shared.upstream) };
    let Ok(server) = server else {
        let _ = sockopt::set_socket_linger(&client, Some(Duration::ZERO));
        return Vec::new();
    };
    for stream in [&client, &server] {
        drop(stream.set_nodelay(true));
        drop(stream.set_read_timeout(Some(LOOK)));
        drop(stream.set_write_timeout(Some(LOOK)));
    }
    let pair = Arc::new(Pair {
        client,
        server,
        forgotten: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        left: AtomicU64::new(u64::MAX),
    });
    shared.connections().push(Arc::clone(&pair));
    let (up, down) = (Arc::clone(&pair), pair);
    let (for_up, for_down) = (Arc::clone(shared), Arc::clone(shared));
    vec![
        std::thread::spawn(move || pump(&for_up, &up, true)),
        std::thread::spawn(move || pump(&for_down, &down, false)),
    ]
}

/// Moves one direction until the connection is over. A forgotten one is left as it is until the proxy ends.
fn pump(shared: &Shared, pair: &Pair, up: bool) {
    let (from, to) = if up { (&pair.client, &pair.server) } else { (&pair.server, &pair.client) };
    let mut buffer = vec![0; CHUNK];
    while !pair.is_over(shared) {
        let weather = *shared.weather();
        let held = weather == Weather::BlackHole || (weather == Weather::Mute && !up);
        if held || pair.forgotten.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            continue;
        }
        let room = match weather {
            // A twentieth of a second at a time.
            Weather::Throttle(rate) => usize::try_from(rate / 20).unwrap_or(CHUNK).clamp(1, CHUNK),
            _ => CHUNK,
        };
        let began = Instant::now();
        let read = match (&mut { from }).read(&mut buffer[..room]) {
            Ok(0) => return pair.close(),
            Ok(read) => read,
            Err(error) if is_wait(&error) => continue,
            Err(_) => return pair.reset(),
        };
        let counter = if up { &shared.from_clients } else { &shared.to_clients };
        counter.fetch_add(read as u64, Ordering::SeqCst);
        let mut passed = read;
        if up {
            let left = pair.left.load(Ordering::SeqCst);
            passed = read.min(usize::try_from(left).unwrap_or(usize::MAX));
            if left != u64::MAX {
                pair.left.fetch_sub(passed as u64, Ordering::SeqCst);
            }
        }
        match weather {
            Weather::Delay(time) => std::thread::sleep(time),
            Weather::Throttle(rate) => {
                let due = Duration::from_secs_f64(read as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            _ => {}
        }
        if !write(shared, pair, to, &buffer[..passed]) || pair.left.load(Ordering::SeqCst) == 0 {
            return pair.reset();
        }
    }
}

/// Writes all of it, however slowly it is taken. False when the connection is over.
fn write(shared: &Shared, pair: &Pair, mut to: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        if pair.is_over(shared) {
            return false;
        }
        match to.write(bytes) {
            Ok(0) => return false,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_wait(&error) => {}
            Err(_) => return false,
        }
    }
    true
}

fn is_wait(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
