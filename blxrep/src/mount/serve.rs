//! The server's process: it opens, mounts, serves, and ends when the point is unmounted.

use super::place;
use super::server::{READERS, Server};
use super::session::{Order, Ready, Word, receive, send};
use super::tree::Tree;
use crate::io::storage::Storage;
use crate::model::contents::{Access, Contents, Part};
use crate::view::part::survey;
use crate::view::{Chain, PointReader};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fmt::Write;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::SystemTime;

const FUSE: &str = "/dev/fuse";

/// A point that is open, and where it shall be mounted.
#[derive(Debug)]
pub struct Job {
    pub point: String,
    /// The first reader; it holds the lease on the point's files.
    pub reader: PointReader,
    pub chain: Chain,
    pub at: SystemTime,
    pub dir: PathBuf,
}

/// The command at the other end of standard input.
#[derive(Debug)]
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Takes standard input.
    pub fn take() -> io::Result<Self> {
        stdin_socket().map(|socket| Self(BufReader::new(socket)))
    }

    pub fn say(&mut self, word: &Word) {
        // A command that is gone is noticed when it is listened to.
        let _ = send(self.0.get_mut(), word);
    }

    /// Whether the command wants the mount to stay. `false` if it is gone.
    fn keeps(&mut self) -> bool {
        matches!(receive(&mut self.0), Some(Order::Keep))
    }
}

/// The socket that this process was started with as its standard input. It leaves the terminal: what stops its parent
/// there must not stop it, which notices by itself.
pub(super) fn stdin_socket() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::net::sockopt::socket_type(&socket)?;
    // The leader of a group already has a session of its own.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    Ok(socket.into())
}

/// Serves until the point is unmounted, or its command is gone before it said that it shall stay.
pub fn serve(mut control: Control, job: Job) {
    // What the kernel asks for while it is short of memory must not wait for memory that it would have to write to
    // this process first. Without the capability for it there is just no such promise.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let dir = job.dir.clone();
    let serving = match start(job) {
        Ok((ready, serving)) => {
            control.say(&Word::Ready(ready));
            serving
        }
        Err(why) => return control.say(&Word::Failed(why)),
    };
    if control.keeps() {
        silence();
        control.say(&Word::Kept);
    } else {
        place::detach(&dir);
    }
    drop(control);
    // Nobody listens any more: that the mount ended, everybody sees.
    let _ = serving.join();
}

/// Mounts the point and lets threads serve it.
fn start(job: Job) -> Result<(Ready, JoinHandle<io::Result<()>>), String> {
    let dir = job.dir.clone();
    let (ready, server) = prepare(job)?;
    let device = mount(&dir, &ready.point).map_err(|e| format!("cannot mount on {}: {e}", dir.display()))?;
    let undone = |why: String| {
        place::detach(&dir);
        why
    };
    let mut config = fuser::Config::default();
    config.n_threads = Some(READERS);
    let session = fuser::Session::from_fd(server, device, fuser::SessionACL::Owner, config)
        .map_err(|e| undone(format!("the kernel does not talk to this program over {FUSE}: {e}")))?;
    let serving = std::thread::Builder::new().name("serve".to_owned()).spawn(move || session.run());
    Ok((ready, serving.map_err(|e| undone(format!("cannot start a thread: {e}")))?))
}

/// Looks through the disk and opens what serves it.
fn prepare(job: Job) -> Result<(Ready, Server), String> {
    let Job { point, mut reader, chain, at, dir: _ } = job;
    let disk_bytes = reader.disk_bytes();
    let (Contents { parts, .. }, failed) = survey(&mut reader);
    let problems = failed.iter().map(ToString::to_string).collect();
    let mut readers = vec![reader];
    while readers.len() < READERS {
        let more = PointReader::open(&Storage::default(), &chain);
        readers.push(more.map_err(|e| format!("cannot open point {point}: {e}"))?);
    }
    let tree = Tree::new(disk_bytes, parts.clone());
    let about = about(&point, disk_bytes, &parts);
    let server = Server::new(readers, tree, about, at)
        .map_err(|e| format!("cannot make a file for the replay of journals in /var/tmp or /tmp: {e}"))?;
    Ok((Ready { point, disk_bytes, parts, problems }, server))
}

/// What `about.txt` says.
fn about(point: &str, disk_bytes: u64, parts: &[Part]) -> String {
    let mut text = format!("point {point}, a disk of {disk_bytes} bytes\n");
    for part in parts {
        let kind = if part.kind.is_empty() { "unknown" } else { &part.kind };
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}: {kind}, {} bytes", part.id.described(), part.bytes);
        let _ = match (part.extents.count(), part.extents.find(0)) {
            (1, Some(place)) => write!(text, " from byte {} on", place.start),
            (2.., Some(place)) => write!(text, " from byte {} on and in other places", place.start),
            _ => Ok(()),
        };
        let _ = match &part.access {
            Access::Mount(how) if how.replay => {
                write!(text, "\n  files/{}, after a replay of its journal", part.id)
            }
            Access::Mount(_) => write!(text, "\n  files/{}", part.id),
            Access::Never(why) => write!(text, "\n  no files: {why}"),
        };
    }
    text.push('\n');
    text
}

/// Mounts FUSE on a folder. Only root may look into it: the files have the owners of another host.
fn mount(dir: &Path, point: &str) -> io::Result<OwnedFd> {
    let device = rustix::fs::open(FUSE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let number = rustix::fd::AsRawFd::as_raw_fd(&device);
    let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,default_permissions");
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let source = place::source(point, std::process::id());
    rustix::mount::mount(source, dir, place::KIND, flags, options.as_c_str())?;
    Ok(device)
}

/// Lets go of the terminal and of the pipes that the command was started with.
fn silence() {
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    // The numbers stay taken, so that nothing else is written to by accident.
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(&null);
}
