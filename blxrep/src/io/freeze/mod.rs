//! Freezing filesystems, so that nobody can forget to thaw them.
//!
//! - [`survey`]: what lies on what, and how to open it, in every mount namespace (`mounts`)
//! - [`guard`]: the agent's side; [`sentry`]: the guard's process; `control`: what they say to each other
//! - `charge`: the calls themselves; `haste`: what makes them brief
//! - `record`: how far each filesystem is, in memory that outlives a process
//! - [`leftovers`]: what is thawed after all of them were killed
//!
//! What is frozen is thawed by the first of: the agent's word, the guard's deadline, the end of the agent, a signal to
//! the guard; the agent, when the guard ends or is overdue; the next start, or systemd, when both are gone.

mod charge;
mod control;
pub mod guard;
mod haste;
mod ioctl;
pub mod leftovers;
mod mounts;
mod record;
pub mod sentry;
pub mod survey;

pub use record::{Cause, MAX_FILESYSTEMS, State};

use crate::io::host::HostError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// No freeze lasts longer, whatever a policy says: services time out, and watchdogs bark, after about ten seconds.
pub const HARD_CAP: Duration = Duration::from_secs(5);
/// Nanoseconds after its deadline from which on a guard is no longer waited for. Thawing itself takes some 20 ms.
const OVERDUE: u64 = 250_000_000;
/// States in which a filesystem may be frozen when nobody is at work any more.
const LEFT_FROZEN: [State; 3] = [State::Freezing, State::Frozen, State::Thawing];

/// Why filesystems were not frozen, or not thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error("cannot find out what is mounted: {0}")]
    Mounts(HostError),
    #[error("more than {limit} {what}: this is not supported")]
    TooMany { what: &'static str, limit: usize },
    #[error("{}: cannot keep a record of what is frozen: {source}", path.display())]
    Record { path: PathBuf, source: io::Error },
    #[error(
        "nothing is frozen without a record of it in memory: mount a tmpfs on /run (neither {folders} will do)"
    )]
    NoMemoryFolder { folders: String },
    #[error("cannot start the freeze guard: {0}")]
    Spawn(io::Error),
    #[error("the freeze guard cannot get ready: {0}")]
    Unfit(io::Error),
    #[error("cannot talk to the freeze guard: {0}")]
    Talk(io::Error),
    #[error("the freeze guard died; nothing is frozen")]
    GuardDied,
    #[error(
        "the freeze guard has not answered within {limit:?}: the kernel is still freezing, or the disk hangs"
    )]
    Stuck { limit: Duration },
    #[error(
        "nothing was frozen: writing back what is dirty took {took:?} again and again, too long for {budget:?}"
    )]
    Busy { took: Duration, budget: Duration },
    #[error("freezing took longer than {budget:?}; everything is thawed again")]
    Overran { budget: Duration },
    #[error("{place} cannot be thawed: {reason}; try `fsfreeze --unfreeze`")]
    StillFrozen { place: String, reason: String },
}
