//! The agent's side of a freeze: [`Guard`] stands by, [`Frozen`] is frozen, and neither can be forgotten.
//!
//! The guard's process does the freezing and the thawing (see [`super::sentry`]). A thread of the agent waits for the
//! end of that process and then thaws whatever it left, so that a guard that is killed leaves nothing either; one that
//! is stopped, or hangs, is killed when its deadline has passed.
//!
//! While something is frozen the agent must not wait for it: no log line, no file, no hook. Call this from a thread
//! that may block.

use super::charge::{calm_after, thaw_after};
use super::control::{self, Answer, Order};
use super::record::{Cause, MAX_FILESYSTEMS, Moment, Record, State, now};
use super::{FreezeError, HARD_CAP, LEFT_FROZEN, OVERDUE};
use crate::model::stack::{DeviceNumber, Obstacle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Name of the command that the program is started with as a guard.
pub const COMMAND: &str = "freeze-guard";
/// Also after it was replaced or removed.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Starting a process and locking its memory takes some 50 ms; a machine that is short of memory takes longer.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// For writing back what is dirty before anything is frozen. After it, the disk is too slow for a freeze.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Thawing takes up to some 20 ms per filesystem, and the guard's memory is unlocked and given back.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Guards at a time. An agent needs one; more are those that the kernel does not let go.
const MAX_GUARDS: usize = 8;
/// How often a guard is looked at while its deadline is not known or far.
const TICK: Duration = Duration::from_millis(50);
/// Tries of thawing what a guard left.
const THAW_TRIES: u32 = 50;

static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// An open filesystem that is to be frozen.
#[derive(Debug)]
pub struct Target {
    pub file: OwnedFd,
    pub number: DeviceNumber,
    /// For messages.
    pub place: String,
}

/// What a guard is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, by a path that stays when it is replaced.
    pub program: PathBuf,
    /// Folder on a filesystem in memory.
    pub records: PathBuf,
}

impl Options {
    /// This very program, and a folder under `/run`.
    pub fn usual() -> Result<Self, FreezeError> {
        Ok(Self { program: THIS_PROGRAM.into(), records: super::leftovers::folder()? })
    }
}

/// A guard that stands by. Nothing is frozen.
#[derive(Debug)]
pub struct Guard(Session);

/// Filesystems are frozen, until this is thawed or dropped, or its time is over.
#[derive(Debug)]
pub struct Frozen {
    session: Session,
    /// What the kernel refused to freeze, and why.
    pub refused: Vec<Obstacle>,
}

/// How a freeze went.
#[derive(Clone, Debug)]
pub struct Report {
    /// From the first freeze to the last thaw.
    pub frozen: Duration,
    pub cause: Cause,
    pub filesystems: Vec<FrozenFilesystem>,
}

/// How it went for one filesystem.
#[derive(Clone, Debug)]
pub struct FrozenFilesystem {
    pub place: String,
    pub state: State,
    /// What the freezing itself took: its writers waited from its beginning.
    pub freezing: Duration,
    /// From the beginning of its freeze to the end of its thaw.
    pub frozen: Duration,
}

impl Report {
    /// Whether every filesystem was frozen from the return of `freeze` to the call of `thaw`.
    #[must_use]
    pub fn held(&self) -> bool {
        self.why_not_held().is_none()
    }

    /// Why not.
    #[must_use]
    pub fn why_not_held(&self) -> Option<String> {
        let cause = match self.cause {
            Cause::Asked => None,
            Cause::Deadline => Some("the guard thawed when the time was over"),
            Cause::Hangup => Some("the guard lost the agent and thawed"),
            Cause::Signal => Some("the guard was told to end and thawed"),
            Cause::GuardDied => Some("the guard died, and the agent thawed"),
        };
        let other = self.filesystems.iter().find_map(|filesystem| match filesystem.state {
            State::Thawed => None,
            State::Stolen => Some(format!("{} was thawed by somebody else", filesystem.place)),
            _ => Some(format!("{} was not frozen", filesystem.place)),
        });
        cause.map(str::to_owned).or(other)
    }
}

impl Guard {
    /// Starts a guard for these filesystems, which are in the order of freezing. They are kept open until it has ended.
    pub fn spawn(targets: Arc<[Target]>, options: &Options) -> Result<Self, FreezeError> {
        if targets.len() > MAX_FILESYSTEMS {
            return Err(FreezeError::TooMany { what: "filesystems", limit: MAX_FILESYSTEMS });
        }
        let place = Place::take()?;
        let numbers: Vec<DeviceNumber> = targets.iter().map(|target| target.number).collect();
        let record = Record::create(&options.records, &numbers)?;
        let (agent, guard) = control::pair().map_err(FreezeError::Spawn)?;
        let child = Command::new(&options.program)
            .arg(COMMAND)
            .stdin(Stdio::from(guard))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C is for the agent.
            .process_group(0)
            .spawn()
            .map_err(FreezeError::Spawn);
        let held = Arc::new(Held { record, targets });
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                held.clean_up()?;
                return Err(error);
            }
        };
        let session = Session::watch(child, agent, held, place)?;
        let files = session.held.targets.iter().map(|target| target.file.as_fd());
        control::hand_over(&session.control, &session.held.record, files).map_err(FreezeError::Spawn)?;
        match session.hear(READY_LIMIT)? {
            Some(Answer::Ready) => Ok(Self(session)),
            Some(Answer::Unfit(errno)) => Err(FreezeError::Unfit(io::Error::from_raw_os_error(errno))),
            _ => Err(FreezeError::GuardDied),
        }
    }

    /// The guard's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Writes back what is dirty, then freezes, for at most `budget`: at most [`HARD_CAP`]. An error has left nothing
    /// frozen.
    pub fn freeze(self, budget: Duration) -> Result<Frozen, FreezeError> {
        let session = self.0;
        // A guard that is gone is heard below.
        let _ = control::send(&session.control, &Order::Freeze(budget));
        match session.hear(SETTLE_LIMIT + HARD_CAP)? {
            Some(Answer::Frozen) => Ok(Frozen { refused: session.held.refused(), session }),
            Some(Answer::Busy(took)) => Err(FreezeError::Busy { took, budget }),
            Some(Answer::Done) => Err(FreezeError::Overran { budget }),
            _ => Err(FreezeError::GuardDied),
        }
    }
}

impl Frozen {
    /// The guard's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.session.pid
    }

    /// Thaws, and says how it went. An error is a filesystem that could not be thawed.
    pub fn thaw(mut self) -> Result<Report, FreezeError> {
        // A guard that is gone has a watcher that thaws.
        let _ = control::send(&self.session.control, &Order::Thaw);
        self.session.end()?;
        Ok(self.session.held.report())
    }
}

/// What outlives the guard.
#[derive(Debug)]
struct Held {
    record: Record,
    targets: Arc<[Target]>,
}

impl Held {
    fn refused(&self) -> Vec<Obstacle> {
        let not_frozen = (0..self.record.len()).filter(|index| self.record.state(*index) != State::Frozen);
        not_frozen
            .map(|index| {
                let reason = match self.record.errno(index).raw_os_error() {
                    Some(0) => "there was no time left to freeze it".to_owned(),
                    Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => {
                        "somebody else has frozen it; it is left alone".to_owned()
                    }
                    Some(code) if code == rustix::io::Errno::OPNOTSUPP.raw_os_error() => {
                        "its kind cannot be frozen".to_owned()
                    }
                    _ => format!("the kernel did not freeze it: {}", self.record.errno(index)),
                };
                Obstacle { what: self.targets[index].place.clone(), reason }
            })
            .collect()
    }

    fn report(&self) -> Report {
        let moments = |moment| (0..self.record.len()).filter_map(move |i| self.record.moment(i, moment));
        let between = |from: Option<u64>, to: Option<u64>| {
            from.zip(to).map_or(Duration::ZERO, |(from, to)| Duration::from_nanos(to.saturating_sub(from)))
        };
        let filesystems = self.targets.iter().enumerate().map(|(index, target)| {
            let [began, frozen, thawed] = [Moment::Began, Moment::Frozen, Moment::Thawed]
                .map(|moment| self.record.moment(index, moment));
            FrozenFilesystem {
                place: target.place.clone(),
                state: self.record.state(index),
                freezing: between(began, frozen),
                frozen: between(began, thawed),
            }
        });
        Report {
            frozen: between(moments(Moment::Began).min(), moments(Moment::Thawed).max()),
            cause: self.record.cause().unwrap_or(Cause::GuardDied),
            filesystems: filesystems.collect(),
        }
    }

    /// Thaws what a guard that is gone left in one of these states; the first that could not be thawed, and why.
    fn thaw(&self, states: &[State]) -> Option<(usize, String)> {
        let results = thaw_after(&self.record, states, |index| Ok(self.targets[index].file.as_fd()));
        results.into_iter().find_map(|(index, result)| Some((index, result.err()?)))
    }

    /// Once the guard is gone: thaws what it left and removes the record.
    fn clean_up(&self) -> Result<(), FreezeError> {
        if self.record.is_open() {
            self.record.set_cause(Cause::GuardDied);
        }
        let mut failed = None;
        for _ in 0..THAW_TRIES {
            failed = self.thaw(&LEFT_FROZEN);
            if failed.is_none() {
                calm_after(&self.record);
                // A record of nothing does no harm.
                let _ = self.record.remove();
                return Ok(());
            }
            std::thread::sleep(TICK);
        }
        let (index, reason) = failed.unwrap_or_default();
        Err(FreezeError::StillFrozen { place: self.targets[index].place.clone(), reason })
    }
}

/// One of [`MAX_GUARDS`].
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Result<Self, FreezeError> {
        let more = |guards| (guards < MAX_GUARDS).then_some(guards + 1);
        match GUARDS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            Ok(_) => Ok(Self),
            Err(_) => Err(FreezeError::TooMany { what: "freezes that have not ended", limit: MAX_GUARDS }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A living guard, and the thread that watches it.
#[derive(Debug)]
struct Session {
    control: OwnedFd,
    held: Arc<Held>,
    pid: u32,
    pidfd: Arc<OwnedFd>,
    ended: Receiver<Result<(), FreezeError>>,
    over: bool,
}

impl Session {
    fn watch(mut child: Child, control: OwnedFd, held: Arc<Held>, place: Place) -> Result<Self, FreezeError> {
        let pid = child.id();
        let (say, ended) = sync_channel(1);
        // The child is not reaped yet, so the number is its own.
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map(Arc::new);
        let started = pidfd.map_err(io::Error::from).and_then(|pidfd| {
            let watcher = Watcher { held: Arc::clone(&held), pidfd: Arc::clone(&pidfd), say, _place: place };
            // Dropping the handle to the child neither ends nor reaps it; the watcher reaps by the descriptor.
            let thread = std::thread::Builder::new().name("guard-watcher".to_owned());
            thread.spawn(move || watcher.run())?;
            Ok(pidfd)
        });
        match started {
            Ok(pidfd) => Ok(Self { control, held, pid, pidfd, ended, over: false }),
            Err(source) => {
                // It has been given nothing to freeze. Errors: it has ended.
                let _ = child.kill();
                let _ = child.wait();
                held.clean_up()?;
                Err(FreezeError::Spawn(source))
            }
        }
    }

    /// The next answer; `None` if the guard is gone.
    fn hear(&self, limit: Duration) -> Result<Option<Answer>, FreezeError> {
        if !readable(&self.control, limit).map_err(FreezeError::Talk)? {
            return Err(FreezeError::Stuck { limit });
        }
        control::receive(&self.control).map_err(FreezeError::Talk)
    }

    /// Waits until the guard has ended and everything is thawed, with force if need be.
    fn end(&mut self) -> Result<(), FreezeError> {
        self.over = true;
        if let Ok(result) = self.ended.recv_timeout(END_LIMIT) {
            return result;
        }
        // It may be stopped; the watcher thaws then. An error: it has just ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        match self.ended.recv_timeout(END_LIMIT) {
            Ok(result) => result,
            Err(_) => Err(FreezeError::Stuck { limit: END_LIMIT * 2 }),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.over {
            // The end of the conversation makes the guard thaw and end. The errors of a session that is given up
            // change nothing: the watcher goes on, and the record stays for the next start.
            let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
            let _ = self.end();
        }
    }
}

/// The thread that sees a guard to its end.
struct Watcher {
    held: Arc<Held>,
    pidfd: Arc<OwnedFd>,
    say: SyncSender<Result<(), FreezeError>>,
    _place: Place,
}

impl Watcher {
    fn run(self) {
        // An unreadable descriptor cannot happen; if it did, waiting below would do.
        while let Ok(false) = readable(&*self.pidfd, TICK) {
            let overdue = self.held.record.deadline().is_some_and(|deadline| now() > deadline + OVERDUE);
            if overdue && self.held.record.is_open() {
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
                self.thaw_past_the_dead();
            }
        }
        let exited = rustix::process::WaitIdOptions::EXITED;
        // An error: somebody else has reaped it, so it has ended.
        let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), exited);
        // Nobody may listen any more.
        let _ = self.say.send(self.held.clean_up());
    }

    /// A guard that was killed does not end before the kernel has frozen what it is freezing, which may take as long
    /// as a disk hangs. What it had frozen before does not wait for that.
    fn thaw_past_the_dead(&self) {
        if let Ok(false) = readable(&*self.pidfd, TICK) {
            self.held.record.set_cause(Cause::GuardDied);
            // What cannot be thawed now is tried again in the end.
            let _ = self.held.thaw(&[State::Frozen]);
        }
    }
}

/// Whether something can be read within `limit`.
fn readable(file: impl AsFd, limit: Duration) -> io::Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
