//! One state of everything: the disks, the kernel's maps, the agent, the dispatcher.

use crate::world::{MAX_DISKS, MAX_PARTS, MAX_WRITES, Mask, PLACES, World};

/// How far a write has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Waiting,
    /// The issue hook runs and has marked this many granules.
    Marking(u8),
    /// It is about to enter the part whose granule it marked last.
    EnteringPart(u8),
    /// It has found its key taken: a lost completion.
    Leftover,
    /// It is about to fill its place in the table.
    Entering,
    /// The device has it: its parts land one by one.
    InFlight,
    /// The completion hook runs and has marked this many granules.
    Completing(u8),
    /// It is about to take out the part whose granule it marked last.
    LeavingPart(u8),
    /// Its issuer knows that it is done.
    Done,
}

/// What a place of the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub write: u8,
    /// The part of a scattered discard; `None` is the request itself.
    pub part: Option<u8>,
}

impl Entry {
    /// The granules of its range.
    pub fn mask(self, world: &World) -> Mask {
        let write = &world.writes[usize::from(self.write)];
        match self.part {
            Some(part) => 1 << (write.granules().start + usize::from(part)),
            None if write.scattered => 0,
            None => write.mask(),
        }
    }
}

/// What the programs and the kernel have counted for one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    pub entered: u8,
    pub settled: u8,
    pub settled_sectors: u8,
    pub orphans: u8,
    pub orphan_sectors: u8,
    pub stat_sectors: u8,
}

/// What the pinned record holds against which the counts are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base {
    pub offset: u8,
    pub orphans: u8,
    pub orphan_sectors: u8,
}

/// What the agent is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    #[default]
    Idle,
    /// Step of the schedule of the sweep.
    Sweep(u8),
    /// Reading the parts from this one on.
    Read(u8),
    /// Looking at the issued bits of this granule.
    Look(u8),
    /// Asking the audit of this disk.
    Audit(u8),
    /// Everything is sent.
    Sealed,
    /// It is published; clearing the pending bits of this granule.
    Acknowledge(u8),
    /// All are cleared; about to store the record.
    Store,
}

/// The agent's memory: gone when it is killed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Agent {
    pub stage: Stage,
    pub issued: Mask,
    pub again: Mask,
    pub in_flight: Mask,
    pub completed: Mask,
    pub pending: Mask,
    pub carried: Mask,
    pub valid: Mask,
    /// What this round reads, and what was seen when issued was looked at after it.
    pub reading: Mask,
    pub looked: Mask,
    /// What is read is compared with the newest point.
    pub rescan: bool,
    /// What was read last of each part.
    pub content: [u8; MAX_PARTS],
    pub rounds: u8,
    pub widenings: u8,
    /// The verdict on the rounds and on the disks asked so far.
    pub fuzzy: bool,
    /// Writes that were done at the cut.
    pub done_at_cut: Mask,
    /// The counts at which a shortfall was measured.
    pub shortfall: [Option<Counts>; MAX_DISKS],
}

/// A point that was sent and is not yet published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    pub carried: Mask,
    pub content: [u8; MAX_PARTS],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// What has landed on each part, oldest first: a digit of 4 bits per write, the newest the lowest.
    pub landed: [u16; MAX_PARTS],
    pub phases: [Phase; MAX_WRITES],
    /// The writes that were done when a write was issued.
    pub before: [Mask; MAX_WRITES],
    /// The maps.
    pub issued: Mask,
    pub completed: Mask,
    pub pending: Mask,
    pub table: [Option<Entry>; PLACES],
    pub counts: [Counts; MAX_DISKS],
    pub base: [Base; MAX_DISKS],
    pub losses: u8,
    pub breaks: u8,
    pub points: u8,
    pub rescans: u8,
    /// Coverage is lost: the next thing is a rescan.
    pub lost: bool,
    pub agent: Agent,
    /// Content of the newest point.
    pub chain: [u8; MAX_PARTS],
    pub sent: Option<Sent>,
    /// What an agent that is gone had sent: its acknowledgement may still come.
    pub old: Option<Mask>,
    pub published: bool,
    /// Where the sweep of a dropped cut is, if it goes on by itself.
    pub astray: Option<u8>,
}

impl State {
    pub fn first(world: &World) -> Self {
        Self {
            losses: world.losses,
            breaks: world.breaks,
            points: world.points,
            rescans: world.rescans,
            ..Self::default()
        }
    }

    /// The write whose data is on a part, from 1; 0 is what was there before.
    pub fn on_disk(&self, part: usize) -> u8 {
        digit(self.landed[part])
    }

    /// How many writes had landed on a part when `write` (from 1) had.
    pub fn position(&self, part: usize, write: u8) -> u32 {
        if write == 0 {
            return 0;
        }
        let landed = self.landed[part];
        let count = landed.checked_ilog2().map_or(0, |bits| bits / 4 + 1);
        (0..count).find(|age| digit(landed >> (4 * age)) == write).map_or(0, |age| count - age)
    }

    pub fn land(&mut self, part: usize, write: u8) {
        self.landed[part] = self.landed[part] << 4 | u16::from(write);
    }

    pub fn done(&self) -> Mask {
        let done = |mask, (index, phase): (usize, &Phase)| mask | Mask::from(*phase == Phase::Done) << index;
        self.phases.iter().enumerate().fold(0, done)
    }

    /// Granules of the requests in the table.
    pub fn in_table(&self, world: &World) -> Mask {
        self.table.iter().flatten().fold(0, |mask, entry| mask | entry.mask(world))
    }
}

fn digit(digits: u16) -> u8 {
    u8::try_from(digits & 0xf).unwrap()
}
