//! Serving a point as a network block device: the address, the clients, the end.

use super::error::CliError;
use super::export::ScratchPlan;
use crate::api::chain::PointChain;
use crate::io::signals::Stop;
use crate::io::storage::Storage;
use crate::view::nbd::Offer;
use crate::view::nbd::server::Clients;
use crate::view::part::PartReader;
use crate::view::scratch::Scratch;
use crate::view::served::Served;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio::net::{TcpListener, UnixListener};

/// The hidden subcommand that serves a point for the dispatcher.
pub const COMMAND: &str = "serve-export";

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("name a path: unix:/run/point.sock".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        let text = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        let address: SocketAddr =
            text.parse().map_err(|_| format!("`{text}` is no address: write unix:PATH or 127.0.0.1:PORT"))?;
        if address.ip().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err(format!(
                "{address} is not on this host: whoever reaches it would read the whole disk; serve it on 127.0.0.1 and \
                 tunnel it, as with `ssh -L`"
            ))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "nbd+unix:///?socket={}", path.display()),
            Self::Tcp(address) => write!(f, "nbd://{address}"),
        }
    }
}

/// What is told when clients can come.
#[derive(Debug, Serialize, Deserialize)]
pub struct Serving {
    pub uri: String,
    pub bytes: u64,
    pub writable: bool,
}

/// Serves until it is asked to stop. `tell` is called when clients can come.
pub async fn serve(
    chain: &PointChain,
    part: PartReader,
    address: &Address,
    scratch: Option<ScratchPlan>,
    mut stop: Stop,
    tell: impl FnOnce(&Serving) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let layer = |plan: ScratchPlan| Scratch::new(&Storage::default(), &plan.folder, part.bytes(), plan.limit);
    let scratch = scratch.map(layer).transpose().map_err(|e| CliError::Failed(e.to_string()))?;
    let offer = Offer {
        name: chain.point.to_string(),
        description: format!("point {} of disk {} of {}", chain.point, chain.disk, chain.agent),
        bytes: part.bytes(),
        writable: scratch.is_some(),
    };
    let listener = Listener::bind(address)?;
    let serving =
        Serving { uri: listener.address().to_string(), bytes: offer.bytes, writable: offer.writable };
    let mut clients = Clients::new(offer, Served::new(part, scratch));
    tell(&serving)?;
    loop {
        let socket = tokio::select! {
            () = stop.requested() => break,
            socket = listener.accept() => socket,
        };
        match socket.and_then(|socket| clients.serve(socket)) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!("a client was sent away: {error}");
                // Such as too many open files: trying again at once would fail at once.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    tokio::task::spawn_blocking(move || clients.stop()).await.map_err(|e| CliError::Failed(e.to_string()))
}

/// A listening socket. Its file goes away with it.
#[derive(Debug)]
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener, SocketAddr),
}

impl Listener {
    fn bind(address: &Address) -> Result<Self, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot serve at {address}: {error}"));
        match address {
            Address::Unix(path) => {
                remove_stale(path)?;
                // Whoever may connect reads the whole disk: only this user, from the file's first instant.
                let usual = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
                let listener = UnixListener::bind(path);
                rustix::process::umask(usual);
                Ok(Self::Unix(listener.map_err(failed)?, path.clone()))
            }
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(TcpListener::from_std(listener).map_err(failed)?, address))
            }
        }
    }

    fn address(&self) -> Address {
        match self {
            Self::Unix(_, path) => Address::Unix(path.canonicalize().unwrap_or_else(|_| path.clone())),
            Self::Tcp(_, address) => Address::Tcp(*address),
        }
    }

    /// The next client, as a blocking socket. Cancel-safe.
    async fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(listener, _) => {
                let stream = listener.accept().await?.0.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(stream.into())
            }
            Self::Tcp(listener, _) => {
                let stream = listener.accept().await?.0.into_std()?;
                stream.set_nonblocking(false)?;
                // Answers are whole when they are sent.
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && let Err(error) = std::fs::remove_file(&*path)
        {
            tracing::debug!("cannot remove {}: {error}", path.display());
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> Result<(), CliError> {
    let refuse = |why: &str| Err(CliError::Refused(format!("cannot serve at {}: {why}", path.display())));
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.file_type().is_socket() => {
            return refuse("something that is no socket is there; move it away");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|e| CliError::Failed(format!("cannot replace {}: {e}", path.display()))),
        _ => refuse("another server answers there; stop it first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_can_be_served() {
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        assert_eq!("localhost:0".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 0).into())));
        assert!("[::1]:10809".parse::<Address>().is_ok());
        for bad in ["", "unix:", "10809", "127.0.0.1", "0.0.0.0:10809", "192.0.2.1:10809", "[::]:1", "host:1"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
