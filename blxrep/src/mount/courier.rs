//! What the dispatcher and a courier say to each other. A courier is a child process that carries files of a point: it
//! sees the point in a mount namespace of its own, which a process with many threads cannot have.
//!
//! They talk over a socket pair, its standard input, in lines of JSON as [`super::session`] has them. The end of the
//! conversation is the end of the courier. Files for another host go to its standard output, as [`crate::archive::stream`].

use super::session::{receive, send};
use crate::archive::conflict::Policy;
use crate::model::restored::Outcome;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The hidden subcommand of a courier.
pub const COMMAND: &str = "carry-files";

/// What a courier is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    pub data_dir: PathBuf,
    /// Id of the point.
    pub point: String,
    /// `[PARTITION:]PATH` each, in bytes.
    pub paths: Vec<Vec<u8>>,
    pub to: Destination,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// Standard output: a stream per partition, one after the other.
    Stream {
        /// Without the files' data.
        outline: bool,
    },
    /// A folder of this host.
    Folder {
        target: PathBuf,
        policy: Policy,
        /// Only say what would be done.
        dry_run: bool,
    },
}

/// What a courier says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The point is open, and so many partitions of it are wanted.
    Open { partitions: u32 },
    /// What a person should know.
    Note(String),
    /// Written so far.
    Progress { files: u64, bytes: u64 },
    /// It is done. What came of it is said of what went to a folder.
    Done(Option<Outcome>),
    /// It ended before its end.
    Failed(String),
}

/// The dispatcher's end of the conversation.
pub type Talk = UnixStream;

/// A courier that is not started yet, and the conversation with it. It has the other end as long as the command is kept.
pub fn courier(errand: &Errand) -> io::Result<(Command, Talk)> {
    let (ours, theirs) = UnixStream::pair()?;
    send(&ours, errand)?;
    let mut command = Command::new("/proc/self/exe");
    let stdin = Stdio::from(OwnedFd::from(theirs));
    command.arg(COMMAND).stdin(stdin);
    Ok((command, ours))
}

/// The courier's end of the conversation.
#[derive(Debug)]
pub struct Dispatcher(BufReader<UnixStream>);

impl Dispatcher {
    /// Takes standard input, and leaves the terminal: what stops the dispatcher there is for it to pass on.
    pub fn take() -> io::Result<Self> {
        super::serve::stdin_socket().map(|socket| Self(BufReader::new(socket)))
    }

    /// What shall be done; `None` if nobody asks.
    pub fn errand(&mut self) -> Option<Errand> {
        receive(&mut self.0)
    }

    pub fn say(&self, word: &Word) {
        // A dispatcher that is gone is noticed when it is waited for.
        let _ = send(self.0.get_ref(), word);
    }

    /// Another handle, to wait with for its end.
    pub fn waiter(&self) -> io::Result<UnixStream> {
        self.0.get_ref().try_clone()
    }
}
