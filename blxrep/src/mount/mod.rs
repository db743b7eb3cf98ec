//! A point's files on this host: the disk and its partitions through FUSE, and the filesystems on them mounted by the
//! kernel, read-only.
//!
//! ```text
//! command                          server, a process of its own per mount
//! -------                          ------
//! start  ------ control socket --> opens the point, mounts FUSE on DIR, serves
//!        <----- ready, contents --
//! loop devices over DIR/..., mount(2) on DIR/files/<n>
//! keep   ------------------------> lives on until DIR is unmounted
//! ```
//!
//! - A server whose command ends before it said `keep` unmounts everything and ends: a killed command leaves nothing.
//! - A server that dies takes nothing with it: the kernel answers reads with errors, and `umount` clears away.
//! - No state is kept anywhere: what is mounted is read from `/proc/self/mountinfo`.
//! - A private mount lives in a mount namespace of its own, which ends with its processes.
//! - Nothing that the server does depends on what is mounted on it, so the two cannot wait for each other.

pub mod courier;
pub mod files;
pub mod place;
pub mod private;
pub mod scratch;
pub mod serve;
pub mod server;
pub mod session;
pub mod tree;

use std::io;
use std::path::PathBuf;

/// Why a point could not be mounted, looked at or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot {action} {}: {source}", path.display())]
    Path { action: &'static str, path: PathBuf, source: io::Error },
    /// The server said why it could not serve.
    #[error("{0}")]
    Server(String),
    #[error("the process that serves the point ended without a word; its log or `dmesg` may say why")]
    Silent,
    #[error("mounting needs root: run this as root")]
    NotRoot,
    /// Must not be done; says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// What is asked for is not there.
    #[error("{0}")]
    NotFound(String),
}

impl MountError {
    fn path(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Path { action, path: path.to_owned(), source }
    }

    fn errno(action: &'static str, path: &std::path::Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::Path { action, path: path.to_owned(), source: source.into() }
    }
}
