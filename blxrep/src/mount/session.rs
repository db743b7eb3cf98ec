//! The command's side of a mount: starts the server and talks to it over the control socket.

use super::{MountError, place};
use crate::io::child;
use crate::model::contents::Part;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The hidden subcommand that serves a mount.
pub const COMMAND: &str = "serve-mount";
/// Longest message: 512 partitions with long names.
const MAX_MESSAGE: u64 = 4 << 20;
/// Opening a point reads its indexes, maybe from busy disks. A server that has said nothing for so long never will.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// A server that was told to end gets this long; then it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The point is mounted.
    Ready(Ready),
    /// It cannot be mounted.
    Failed(String),
    /// The server is on its own from here on.
    Kept,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub point: String,
    pub disk_bytes: u64,
    pub parts: Vec<Part>,
    /// What could not be read while the disk was looked through.
    pub problems: Vec<String>,
}

/// What the command says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Keep,
}

/// A message is a line of JSON.
pub fn send(mut to: impl Write, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// `None` if the other side is gone.
pub fn receive<T: serde::de::DeserializeOwned>(from: &mut impl BufRead) -> Option<T> {
    let mut line = Vec::new();
    from.take(MAX_MESSAGE).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

/// A running server. Unless it is told to go on alone, it ends with this.
#[derive(Debug)]
pub struct Session {
    control: BufReader<UnixStream>,
    /// Until this ends.
    server: Option<Child>,
    dir: PathBuf,
    pub ready: Ready,
}

impl Session {
    /// Mounts a point on `dir` and waits until it is there.
    pub fn start(data_dir: &Path, point: &str, dir: &Path) -> Result<Self, MountError> {
        if !rustix::process::geteuid().is_root() {
            return Err(MountError::NotRoot);
        }
        let program = Path::new("/proc/self/exe");
        // The server leaves the folder that it is started in.
        let data_dir = &std::path::absolute(data_dir).map_err(MountError::path("find", data_dir))?;
        let starting = || MountError::path("start", program);
        let (ours, theirs) = UnixStream::pair().map_err(starting())?;
        ours.set_read_timeout(Some(START_PATIENCE)).map_err(starting())?;
        let server = Command::new(program)
            .arg(COMMAND)
            .arg("--data-dir")
            .arg(data_dir)
            .arg(point)
            .arg(dir)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(starting())?;
        let mut control = BufReader::new(ours);
        match receive(&mut control) {
            Some(Word::Ready(ready)) => {
                Ok(Self { control, server: Some(server), dir: dir.to_owned(), ready })
            }
            answer => {
                drop(control);
                // Only its own mount, which it may not have made: the folder may be one of somebody else.
                let places = place::all().unwrap_or_default();
                let own = places.iter().any(|place| place.server == server.id());
                end(server, own.then_some(dir), PATIENCE);
                match answer {
                    Some(Word::Failed(why)) => Err(MountError::Server(why)),
                    _ => Err(MountError::Silent),
                }
            }
        }
    }

    /// Lets the server live on until the point is unmounted.
    pub fn keep(mut self) -> Result<(), MountError> {
        let told = send(self.control.get_mut(), &Order::Keep);
        match told.ok().and_then(|()| receive(&mut self.control)) {
            Some(Word::Kept) => {
                self.control.get_mut().shutdown(std::net::Shutdown::Both).ok();
                // Not waited for: it outlives this process.
                std::mem::forget(self);
                Ok(())
            }
            _ => Err(MountError::Silent),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The server takes the end of the conversation for the end of the mount.
        let _ = self.control.get_mut().shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            end(server, Some(&self.dir), PATIENCE);
        }
    }
}

/// Waits for a server that has to end by itself. Something in the mount may be open, which only goes with this process:
/// waiting would have no end.
fn end(mut server: Child, mount: Option<&Path>, patience: Duration) {
    if child::ends_within(&mut server, patience) {
        return;
    }
    if let Some(dir) = mount {
        place::detach(dir);
    }
    child::kill(server);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_end_is_not_waited_for() {
        let server = Command::new("sleep").arg("600").spawn().unwrap();
        let process = PathBuf::from(format!("/proc/{}", server.id()));
        end(server, None, Duration::from_millis(20));
        while process.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn messages_survive_the_way_and_an_end_is_none() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ready = Ready { point: "p".to_owned(), disk_bytes: 7, parts: Vec::new(), problems: Vec::new() };
        send(&theirs, &Word::Ready(ready.clone())).unwrap();
        send(&theirs, &Word::Failed("a\nb".to_owned())).unwrap();
        drop(theirs);
        let mut ours = BufReader::new(ours);
        assert_eq!(receive(&mut ours), Some(Word::Ready(ready)));
        assert_eq!(receive(&mut ours), Some(Word::Failed("a\nb".to_owned())));
        assert_eq!(receive::<Word>(&mut ours), None);
    }
}
