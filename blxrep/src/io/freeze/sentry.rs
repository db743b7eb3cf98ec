//! What runs in the guard's process: it freezes when told to, and thaws whatever happens.
//!
//! Two threads. The *freezer* makes the calls that may block for long: writing back, and freezing. The *sentry* waits
//! for an order, for the end of the agent, for a signal and for the deadline, and thaws. What is being frozen while the
//! sentry thaws cannot be thawed yet; the freezer sees on return that the time is over and thaws it itself.
//!
//! From the first freeze to the last thaw nothing is opened and nothing is logged, and all memory is locked: the
//! program, its libraries and the log may lie on what is frozen.

use super::HARD_CAP;
use super::charge::Charge;
use super::control::{self, Answer, Order};
use super::record::{Cause, now};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Of the freezer, which only calls ioctls. All of it is locked in memory.
const FREEZER_STACK: usize = 256 << 10;
/// Touched before the freeze, so that the sentry's stack need not grow during it.
const SENTRY_STACK: usize = 64 << 10;
/// The killer of an overcommitted machine takes everybody else first.
const OOM_SCORE: &[u8] = b"-1000";
/// What the guard does is short, and everybody else waits for it.
const PRIORITY: i32 = -20;

/// Why the guard could not do its duty. Nothing is frozen then.
#[derive(Debug, thiserror::Error)]
pub enum SentryError {
    #[error("the guard is started by the agent, not by hand: standard input is not the agent's socket: {0}")]
    NotFromAgent(io::Error),
    #[error("the guard cannot {action}: {source}")]
    Unfit { action: &'static str, source: io::Error },
}

/// Serves the agent at the other end of standard input, until everything is thawed.
pub fn serve() -> Result<(), SentryError> {
    let control = io::stdin().as_fd().try_clone_to_owned().map_err(unfit("keep its socket"))?;
    let (record, filesystems) = control::take_over(&control).map_err(SentryError::NotFromAgent)?;
    let prepared = Sentry::prepare(&control, Charge::new(record, filesystems));
    let answer = match &prepared {
        Err(SentryError::Unfit { source, .. }) => Answer::Unfit(source.raw_os_error().unwrap_or(0)),
        _ => Answer::Ready,
    };
    // An agent that is gone is noticed by `watch`.
    let _ = control::send(&control, &answer);
    prepared?.watch()
}

fn unfit<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> SentryError {
    move |source| SentryError::Unfit { action, source: source.into() }
}

/// What the freezer is told to do.
#[derive(Clone, Copy, Debug)]
enum Work {
    Settle(Duration),
    Freeze,
}

/// What it says when it has done it.
#[derive(Clone, Copy, Debug)]
enum Worked {
    Settled(Result<(), Duration>),
    Froze,
}

/// Where the guard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Settling(Duration),
    Freezing,
    Frozen,
}

#[derive(Debug)]
struct Sentry<'a> {
    control: &'a OwnedFd,
    signals: SignalFd,
    charge: Arc<Charge>,
    work: SyncSender<Work>,
    worked: Receiver<Worked>,
    /// Counts what waits in `worked`.
    count: Arc<OwnedFd>,
    stage: Stage,
}

impl<'a> Sentry<'a> {
    /// Everything that needs the disk, or may fail, before anything is frozen.
    fn prepare(control: &'a OwnedFd, charge: Charge) -> Result<Self, SentryError> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().map_err(unfit("hold back signals"))?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(unfit("wait for signals"))?;
        let count = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(unfit("make an event counter"))?);
        let charge = Arc::new(charge);
        let (work, orders) = sync_channel(1);
        let (say, worked) = sync_channel(1);
        let freezer = Freezer { charge: Arc::clone(&charge), orders, say, count: Arc::clone(&count) };
        std::thread::Builder::new()
            .name("freezer".to_owned())
            .stack_size(FREEZER_STACK)
            .spawn(move || freezer.run())
            .map_err(unfit("start a thread"))?;
        // Both are help in need: without them the guard does its duty on any machine that is not out of memory.
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).map_err(unfit("lock its memory"))?;
        touch_stack();
        Ok(Self { control, signals, charge, work, worked, count, stage: Stage::Idle })
    }

    /// Waits for what happens first, again and again, until there is nothing left to guard.
    fn watch(mut self) -> Result<(), SentryError> {
        loop {
            match self.next() {
                Ok(Event::Over(cause)) => break self.finish(cause),
                Ok(Event::Order(Order::Freeze(budget))) => self.begin(budget.min(HARD_CAP)),
                Ok(Event::Order(Order::Thaw)) => break self.finish(Cause::Asked),
                Ok(Event::Worked(Worked::Settled(Ok(())))) => self.arm(),
                Ok(Event::Worked(Worked::Settled(Err(took)))) => {
                    self.say(Answer::Busy(took));
                    break;
                }
                Ok(Event::Worked(Worked::Froze)) => {
                    self.stage = Stage::Frozen;
                    self.say(Answer::Frozen);
                }
                Err(source) => {
                    self.finish(Cause::Signal);
                    return Err(unfit("wait for its agent")(source));
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, budget: Duration) {
        if self.stage == Stage::Idle && self.work.send(Work::Settle(budget)).is_ok() {
            self.stage = Stage::Settling(budget);
        }
    }

    /// The deadline stands before the first filesystem is frozen.
    fn arm(&mut self) {
        if let Stage::Settling(budget) = self.stage {
            let nanos = u64::try_from(budget.as_nanos()).unwrap_or(0);
            self.charge.record.set_deadline(now().saturating_add(nanos));
            self.stage = Stage::Freezing;
            // It waits for nothing else: it has just answered.
            let _ = self.work.send(Work::Freeze);
        }
    }

    /// Thaws everything, and waits for the freezer if it is still in a call.
    fn finish(&mut self, cause: Cause) {
        self.charge.record.set_cause(cause);
        self.charge.end();
        if self.stage == Stage::Freezing {
            // Ends when the kernel has frozen what it was freezing; then the freezer has thawed that.
            let _ = self.worked.recv();
        }
        self.say(Answer::Done);
    }

    /// An agent that does not listen any more learns nothing.
    fn say(&self, answer: Answer) {
        let _ = control::send(self.control, &answer);
    }

    fn next(&self) -> io::Result<Event> {
        let deadline = match self.stage {
            Stage::Idle | Stage::Settling(_) => None,
            Stage::Freezing | Stage::Frozen => self.charge.record.deadline(),
        };
        let left = deadline.map(|deadline| timespec(deadline.saturating_sub(now())));
        let mut ready = [
            PollFd::new(self.control, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&*self.count, PollFlags::IN),
        ];
        loop {
            match poll(&mut ready, left.as_ref()) {
                Ok(0) => return Ok(Event::Over(Cause::Deadline)),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // An order before the rest: the agent that is done has been frozen until it said so.
        let [control, signals, _] = ready.map(|fd| !fd.revents().is_empty());
        if control {
            return Ok(match control::receive(self.control) {
                Ok(Some(order)) => Event::Order(order),
                Ok(None) | Err(_) => Event::Over(Cause::Hangup),
            });
        }
        if signals {
            return Ok(Event::Over(Cause::Signal));
        }
        rustix::io::read(&*self.count, &mut [0; 8])?;
        self.worked.recv().map(Event::Worked).map_err(|_| io::Error::other("its other thread has ended"))
    }
}

/// What happens to a guard.
#[derive(Clone, Copy, Debug)]
enum Event {
    Order(Order),
    Worked(Worked),
    Over(Cause),
}

/// The thread that may block.
struct Freezer {
    charge: Arc<Charge>,
    orders: Receiver<Work>,
    say: SyncSender<Worked>,
    count: Arc<OwnedFd>,
}

impl Freezer {
    fn run(self) {
        touch_stack();
        while let Ok(work) = self.orders.recv() {
            let worked = match work {
                Work::Settle(budget) => Worked::Settled(self.charge.settle(budget)),
                Work::Freeze => {
                    self.charge.freeze();
                    Worked::Froze
                }
            };
            // The sentry lives as long as the process.
            let _ = self.say.send(worked);
            let _ = rustix::io::write(&*self.count, &1u64.to_ne_bytes());
        }
    }
}

fn timespec(nanos: u64) -> Timespec {
    let time = Duration::from_nanos(nanos);
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// Makes the kernel give the stack its pages.
#[inline(never)]
fn touch_stack() {
    std::hint::black_box([0u8; SENTRY_STACK]);
}
