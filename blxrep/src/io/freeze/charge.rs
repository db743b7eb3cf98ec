//! What a guard is charged with: filesystems, and how far each is. The calls that freeze and thaw are made here.

use super::haste::Haste;
use super::ioctl;
use super::record::{Moment, Record, State, now};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Times that what is dirty is written back before a freeze is given up. Each pass leaves what was written during the
/// one before; passes that do not get shorter mean that the writers are as fast as the disk.
const MAX_SYNCS: u32 = 8;
/// Share of the budget that writing back may take once more, under the freeze.
const BRIEF: u32 = 4;

/// Shared by the guard's two threads.
#[derive(Debug)]
pub(super) struct Charge {
    pub record: Record,
    filesystems: Vec<OwnedFd>,
    haste: Haste,
    /// Nothing more may be frozen, and what is must be thawed.
    over: AtomicBool,
}

impl Charge {
    pub(super) fn new(record: Record, filesystems: Vec<OwnedFd>) -> Self {
        Self { record, filesystems, haste: Haste::prepare(), over: AtomicBool::new(false) }
    }

    /// Writes back what is dirty until that is brief: freezing writes back once more, with all writers waiting. The
    /// error is how long the last pass took.
    pub(super) fn settle(&self, budget: Duration) -> Result<(), Duration> {
        let mut took = Duration::ZERO;
        for _ in 0..MAX_SYNCS {
            let began = Instant::now();
            for filesystem in &self.filesystems {
                // Not judged here: what is wrong with a filesystem shows when it is frozen.
                let _ = rustix::fs::syncfs(filesystem);
            }
            took = began.elapsed();
            if took <= budget / BRIEF {
                return Ok(());
            }
        }
        Err(took)
    }

    /// Freezes one after the other, until the time is over.
    pub(super) fn freeze(&self) {
        self.haste.begin(&self.record);
        self.freeze_all();
        self.haste.end(&self.record);
    }

    fn freeze_all(&self) {
        let late = || self.record.deadline().is_none_or(|deadline| now() >= deadline);
        for (index, filesystem) in self.filesystems.iter().enumerate() {
            if self.over.load(Ordering::SeqCst) || late() {
                return;
            }
            self.record.set_moment(index, Moment::Began, now());
            self.record.set_state(index, State::Freezing);
            match ioctl::freeze(filesystem) {
                Ok(()) => {
                    self.record.set_moment(index, Moment::Frozen, now());
                    self.record.set_state(index, State::Frozen);
                }
                Err(errno) => {
                    self.record.set_errno(index, errno);
                    self.record.set_state(index, State::Refused);
                }
            }
            // `end` may have passed by this one before it was frozen.
            if self.over.load(Ordering::SeqCst) {
                self.thaw(index);
            }
        }
    }

    /// Lets nothing more be frozen and thaws what is, in reverse. What is being frozen now is thawed by who does that.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        for index in (0..self.filesystems.len()).rev() {
            self.thaw(index);
        }
    }

    fn thaw(&self, index: usize) {
        if self.record.claim(index, State::Frozen, State::Thawing) {
            thaw_claimed(&self.record, index, &self.filesystems[index], true);
        }
    }
}

/// Thaws what the caller has claimed. `sure`: it is known to have been frozen, so that finding it thawed means that
/// somebody else thawed it.
pub(super) fn thaw_claimed(record: &Record, index: usize, filesystem: impl AsFd, sure: bool) {
    let result = ioctl::thaw(filesystem);
    record.set_moment(index, Moment::Thawed, now());
    let state = match result {
        Ok(()) => State::Thawed,
        Err(Errno::INVAL) if sure => State::Stolen,
        Err(Errno::INVAL) => State::Thawed,
        Err(errno) => {
            record.set_errno(index, errno);
            // Whoever comes next tries again.
            State::Frozen
        }
    };
    record.set_state(index, state);
}

/// Takes back what a guard that is gone may have asked of the kernel.
pub(super) fn calm_after(record: &Record) {
    if record.is_hasty() {
        Haste::prepare().end(record);
    }
}

/// Thaws, in reverse, what a guard that is gone may have left in one of these states, and says what became of each.
///
/// If it died between freezing and writing that down, or between finding that somebody else had frozen and writing that
/// down, the filesystem is thawed: rather a foreign freeze ended too early, once in a very long time, than a machine
/// that hangs.
pub(super) fn thaw_after<F: AsFd>(
    record: &Record,
    states: &[State],
    open: impl Fn(usize) -> Result<F, String>,
) -> Vec<(usize, Result<(), String>)> {
    let states =
        (0..record.len()).rev().map(|index| (index, record.state(index))).filter(|(_, s)| states.contains(s));
    // A guard that is only stopped may go on at any time.
    let left = states.filter(|(index, state)| record.claim(*index, *state, State::Thawing));
    left.map(|(index, state)| {
        let sure = state == State::Frozen;
        let result = open(index).and_then(|filesystem| {
            thaw_claimed(record, index, filesystem, sure);
            match record.state(index) {
                State::Frozen => Err(record.errno(index).to_string()),
                _ => Ok(()),
            }
        });
        (index, result)
    })
    .collect()
}
