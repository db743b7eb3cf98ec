//! The server: a thread per client, which carries the pure protocol over its socket.
//!
//! A client gets little before it has said what it wants: a bounded time, a bounded number of options of a bounded
//! length. After that it may be idle for as long as it likes, but it must take what it asked for.

use super::Offer;
use super::commands::{COMMAND_BYTES, Command, Kind, MAX_STRETCHES, Refusal};
use super::options::{
    CLIENT_FLAGS_BYTES, HEAD_BYTES, Handshake, Head, MAX_DATA_BYTES, MAX_OPTIONS, Step, Terms, greeting,
};
use crate::view::scratch::ScratchError;
use crate::view::served::{ServeError, Served};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients that are served at a time; one more is sent away. A copy tool opens 4 to 16 connections.
pub const MAX_CLIENTS: usize = 32;
/// Time for the handshake: it is a few packets.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Time for a client to send the rest of what it began, or to take the next bytes of what it asked for.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read or written at once.
const PIECE_BYTES: u32 = 1 << 20;

/// The clients of one export.
#[derive(Debug)]
pub struct Clients {
    export: Arc<Export>,
    threads: HashMap<u64, JoinHandle<()>>,
    next: u64,
}

#[derive(Debug)]
struct Export {
    offer: Offer,
    served: Served,
    /// Sockets of clients that are being served.
    open: Mutex<HashMap<u64, Arc<OwnedFd>>>,
}

impl Export {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<OwnedFd>>> {
        // The map is whole after every call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    #[must_use]
    pub fn new(offer: Offer, served: Served) -> Self {
        let export = Export { offer, served, open: Mutex::default() };
        Self { export: Arc::new(export), threads: HashMap::new(), next: 0 }
    }

    /// Serves one more client over a blocking socket, on a thread of its own.
    pub fn serve(&mut self, socket: OwnedFd) -> io::Result<()> {
        self.threads.retain(|_, thread| !thread.is_finished());
        if self.threads.len() >= MAX_CLIENTS {
            return Err(io::Error::other(format!("{MAX_CLIENTS} clients are being served")));
        }
        let (number, socket, export) = (self.next, Arc::new(socket), Arc::clone(&self.export));
        self.next += 1;
        self.export.open().insert(number, Arc::clone(&socket));
        let run = move || {
            if let Err(error) = serve(&export, &socket) {
                tracing::debug!("a client was left: {error}");
            }
            export.open().remove(&number);
        };
        match std::thread::Builder::new().name("client".to_owned()).spawn(run) {
            Ok(thread) => drop(self.threads.insert(number, thread)),
            Err(error) => {
                self.export.open().remove(&number);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends all connections and waits for their threads.
    pub fn stop(self) {
        for socket in self.export.open().values() {
            // One that has ended needs no ending.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
        for thread in self.threads.into_values() {
            // A panic has been reported by its thread.
            let _ = thread.join();
        }
    }
}

/// A socket and how long the other side may take.
struct Wire<'a> {
    socket: &'a OwnedFd,
    until: Option<Instant>,
}

impl Wire<'_> {
    fn receive(&mut self, mut out: &mut [u8]) -> io::Result<()> {
        while !out.is_empty() {
            self.wait(rustix::net::sockopt::Timeout::Recv)?;
            match rustix::net::recv(self.socket.as_fd(), &mut *out, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, n)) => out = &mut out[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.wait(rustix::net::sockopt::Timeout::Send)?;
            match rustix::net::send(self.socket.as_fd(), bytes, SendFlags::NOSIGNAL) {
                Ok(n) => bytes = &bytes[n..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Bounds the next call.
    fn wait(&self, what: rustix::net::sockopt::Timeout) -> io::Result<()> {
        let left = match self.until {
            Some(until) => until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)),
            None => return Ok(()),
        };
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(rustix::net::sockopt::set_socket_timeout(self.socket, what, Some(left))?)
    }
}

fn serve(export: &Export, socket: &OwnedFd) -> io::Result<()> {
    let mut wire = Wire { socket, until: Some(Instant::now() + HANDSHAKE_PATIENCE) };
    let Some(terms) = shake_hands(export, &mut wire)? else { return Ok(()) };
    wire.until = None;
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, None)?;
    rustix::net::sockopt::set_socket_timeout(
        socket,
        rustix::net::sockopt::Timeout::Send,
        Some(TRANSFER_PATIENCE),
    )?;
    let mut piece = Vec::new();
    loop {
        let mut bytes = [0; COMMAND_BYTES];
        wire.receive(&mut bytes)?;
        let Some(command) = Command::parse(&bytes).filter(|command| !command.is_absurd()) else {
            return Err(io::Error::other("what came is no command"));
        };
        if command.kind == Kind::Disconnect {
            return Ok(());
        }
        carry_out(export, &mut wire, &command, terms, &mut piece)?;
    }
}

/// `None` if the client left.
fn shake_hands(export: &Export, wire: &mut Wire<'_>) -> io::Result<Option<Terms>> {
    wire.send(&greeting())?;
    let mut flags = [0; CLIENT_FLAGS_BYTES];
    wire.receive(&mut flags)?;
    let Some(mut handshake) = Handshake::new(&export.offer, flags) else { return Ok(None) };
    let mut data = Vec::new();
    for _ in 0..MAX_OPTIONS {
        let mut head = [0; HEAD_BYTES];
        wire.receive(&mut head)?;
        let Some(head) = Head::parse(&head) else { return Ok(None) };
        let mut left = head.length;
        let step = if left > MAX_DATA_BYTES {
            while left > 0 {
                let n = left.min(MAX_DATA_BYTES);
                data.resize(n as usize, 0);
                wire.receive(&mut data)?;
                left -= n;
            }
            handshake.too_big(head.option)
        } else {
            data.resize(left as usize, 0);
            wire.receive(&mut data)?;
            handshake.answer(head.option, &data)
        };
        match step {
            Step::More(bytes) => wire.send(&bytes)?,
            Step::Serve(bytes) => {
                wire.send(&bytes)?;
                return Ok(Some(handshake.terms()));
            }
            Step::End(bytes) => {
                wire.send(&bytes)?;
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// Carries out one command and answers it. An error here is the end of the connection.
fn carry_out(
    export: &Export,
    wire: &mut Wire<'_>,
    command: &Command,
    terms: Terms,
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    if let Err(refusal) = command.check(&export.offer, terms) {
        skip(wire, command.data_bytes(), piece)?;
        return wire.send(&command.refused(refusal, "it cannot be done here", terms));
    }
    let done = match command.kind {
        Kind::Read => return read(export, wire, command, terms, piece),
        Kind::BlockStatus => match stretches(&export.served, command) {
            Ok(found) => return wire.send(&command.status(&found)),
            Err(error) => Err(error),
        },
        Kind::Write => return write(export, wire, command, terms, piece),
        Kind::Trim => export.served.discard(command.offset, u64::from(command.length)).map(drop),
        Kind::WriteZeroes => export.served.zero(command.offset, u64::from(command.length)),
        // What is written lives as long as this process: there is nothing that could be made durable.
        Kind::Flush | Kind::Disconnect | Kind::Other(_) => Ok(()),
    };
    answer(wire, command, terms, done)
}

fn answer(
    wire: &mut Wire<'_>,
    command: &Command,
    terms: Terms,
    done: Result<(), ServeError>,
) -> io::Result<()> {
    match done {
        Ok(()) => wire.send(&command.done(terms)),
        Err(error) => {
            let refusal = match error {
                ServeError::Scratch(ScratchError::Full { .. }) => Refusal::NoSpace,
                _ => Refusal::Failed,
            };
            let why = error.to_string();
            tracing::warn!("a client was not served: {why}");
            wire.send(&command.refused(refusal, &why, terms))
        }
    }
}

fn skip(wire: &mut Wire<'_>, mut left: u32, piece: &mut Vec<u8>) -> io::Result<()> {
    while left > 0 {
        let n = left.min(PIECE_BYTES);
        piece.resize(n as usize, 0);
        receive_promised(wire, piece)?;
        left -= n;
    }
    Ok(())
}

/// Receives what a command said would follow it.
fn receive_promised(wire: &mut Wire<'_>, piece: &mut [u8]) -> io::Result<()> {
    wire.until = Some(Instant::now() + TRANSFER_PATIENCE);
    let received = wire.receive(piece);
    wire.until = None;
    rustix::net::sockopt::set_socket_timeout(wire.socket, rustix::net::sockopt::Timeout::Recv, None)?;
    received
}

fn read(
    export: &Export,
    wire: &mut Wire<'_>,
    command: &Command,
    terms: Terms,
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    let range = command.range();
    let mut at = range.start;
    while at < range.end {
        let n = u32::try_from(range.end - at).unwrap_or(u32::MAX).min(PIECE_BYTES);
        let end = at + u64::from(n);
        let last = end == range.end;
        let zero = command.takes_holes(terms)
            && export.served.stretch(at, end).is_ok_and(|(zero, until)| zero && until == end);
        if zero {
            wire.send(&command.hole(at, n, last))?;
            at = end;
            continue;
        }
        let head = command.data_head(at, n, last, terms);
        piece.resize(head.len() + n as usize, 0);
        let (front, content) = piece.split_at_mut(head.len());
        front.copy_from_slice(&head);
        if let Err(error) = export.served.read(at, content) {
            if at > range.start && !terms.structured {
                // The answer is half-way out and has said that all is well: nothing but silence takes it back.
                return Err(io::Error::other(error.to_string()));
            }
            return answer(wire, command, terms, Err(error));
        }
        wire.send(piece)?;
        at = end;
    }
    Ok(())
}

fn write(
    export: &Export,
    wire: &mut Wire<'_>,
    command: &Command,
    terms: Terms,
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    let mut at = command.offset;
    let mut left = command.length;
    let mut done = Ok(());
    while left > 0 {
        let n = left.min(PIECE_BYTES);
        piece.resize(n as usize, 0);
        receive_promised(wire, piece)?;
        if done.is_ok() {
            done = export.served.write(at, piece);
        }
        at += u64::from(n);
        left -= n;
    }
    answer(wire, command, terms, done)
}

/// What of a range is zero: lengths, from its start on.
fn stretches(served: &Served, command: &Command) -> Result<Vec<(u32, bool)>, ServeError> {
    let range = command.range();
    let most = if command.wants_one() { 1 } else { MAX_STRETCHES };
    let mut found: Vec<(u32, bool)> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (zero, until) = served.stretch(at, range.end)?;
        let length = u32::try_from(until - at).unwrap_or(u32::MAX);
        let full = found.len() == most;
        match found.last_mut() {
            Some((before, same)) if *same == zero => *before += length,
            _ if full => break,
            _ => found.push((length, zero)),
        }
        at = until;
    }
    Ok(found)
}
