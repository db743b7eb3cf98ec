//! The Unix socket in the data directory: where it is, who made it, who calls.

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Name of the control socket in the data directory.
pub const SOCKET_NAME: &str = "control.sock";
/// `sun_path` holds 108 bytes, one of them the final zero.
const MAX_ADDRESS_BYTES: usize = 107;
/// Callers that wait to be accepted; more than may be connected at once (`server::MAX_CONNECTIONS`).
const BACKLOG: i32 = 128;

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot {action} the control socket {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot make the control socket {}: another dispatcher answers there; stop it first", .0.display())]
    InUse(PathBuf),
    #[error("cannot make the control socket {}: something that is no socket is there; move it away", .0.display())]
    NotASocket(PathBuf),
}

/// Where a data directory's control socket is.
#[must_use]
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET_NAME)
}

/// The listening control socket. The file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket, mode 0600, in the place of one that nobody listens on any more.
    ///
    /// The caller holds the lock of the data directory, so no two dispatchers do this at once.
    pub fn bind(data_dir: &Path) -> Result<Self, SocketError> {
        let path = socket_path(data_dir);
        let failed = |action| {
            let path = path.clone();
            move |source: io::Error| SocketError::Io { action, path, source }
        };
        remove_stale(&path)?;
        let address = Address::of(&path).map_err(failed("make"))?;
        let listener = listen(&address).map_err(failed("make"))?;
        Ok(Self { path, listener })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Connects to the socket at `path`, without ever blocking: the kernel answers at once, with `EAGAIN` while the
/// backlog is full. The stream is non-blocking.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = Address::of(path)?;
    let socket = stream_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&address.path)?)?;
    Ok(socket.into())
}

/// Who is at the other end of a connection, by the kernel's word at the time it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub pid: i32,
}

impl Peer {
    pub fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(stream)?;
        Ok(Self { uid: credentials.uid.as_raw(), pid: credentials.pid.as_raw_nonzero().get() })
    }

    /// Root and the dispatcher's own user may use the API; both could read the data directory anyway.
    #[must_use]
    pub fn may_control(self, own_uid: u32) -> bool {
        self.uid == 0 || self.uid == own_uid
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

/// A path that fits a socket address. A longer one is reached through its open folder, which must stay open for
/// as long as the address is used.
struct Address {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl Address {
    fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= MAX_ADDRESS_BYTES {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let folder =
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(Self { path, _folder: Some(folder) })
    }
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn listen(address: &Address) -> io::Result<UnixListener> {
    let socket = stream_socket()?;
    // Linux gives the file the mode of the unbound socket (unix_bind), so it is 0600 from its first instant.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&address.path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes the socket that a dispatcher left behind when it was killed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("replace"))
        }
        Err(error) => Err(failed("connect to")(error)),
    }
}
