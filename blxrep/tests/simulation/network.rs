//! Connections: a queue in each direction, each in order, none in step with another. One that breaks loses what is
//! under way, and each end notices at a time of its own.

use crate::host::Content;
use blxrep::model::ids::{CutId, DiskIdentity, PointId};
use blxrep::store::continuity::Known;
use std::collections::{BTreeMap, VecDeque};

pub type LinkId = u64;

/// Agent to dispatcher.
#[derive(Clone, Debug)]
pub enum Up {
    /// Asks what the disk should be compared with.
    Compare,
    Begin {
        point: PointId,
        cut: CutId,
        known: Known,
        /// A first point, which stands on none.
        base: bool,
        /// Life of the agent that asks, for the oracle.
        life: u64,
    },
    Data {
        granule: u32,
        value: u64,
    },
    End {
        group: Vec<DiskIdentity>,
        /// Proven: it must be what the disks held at the cut.
        quiet: bool,
    },
}

/// Dispatcher to agent.
#[derive(Clone, Debug)]
pub enum Down {
    /// The first message: whether the disk needs a base, or is kept in sync.
    Duty {
        base: bool,
    },
    Newest {
        point: PointId,
        content: Content,
    },
    Accept {
        point: PointId,
        parent: Option<PointId>,
    },
    /// The point was open before on another connection, from which this much of it came in.
    Kept {
        point: PointId,
        parent: Option<PointId>,
        frames: Vec<(u32, u64)>,
    },
    Discontinuous,
    Refuse,
    Published {
        point: PointId,
    },
    Failed,
}

/// One connection.
#[derive(Debug)]
pub struct Link {
    pub disk: usize,
    pub up: VecDeque<Up>,
    pub down: VecDeque<Down>,
    /// Nothing passes any more.
    pub broken: bool,
    /// Each end holds it until it notices, or is gone.
    pub agent_holds: bool,
    pub dispatcher_holds: bool,
}

#[derive(Debug, Default)]
pub struct Network {
    pub links: BTreeMap<LinkId, Link>,
    next: LinkId,
}

impl Network {
    /// Connects; the dispatcher's first word is on its way.
    pub fn dial(&mut self, disk: usize, base: bool) -> LinkId {
        self.next += 1;
        let link = Link {
            disk,
            up: VecDeque::new(),
            down: VecDeque::from([Down::Duty { base }]),
            broken: false,
            agent_holds: true,
            dispatcher_holds: true,
        };
        self.links.insert(self.next, link);
        self.next
    }

    pub fn say(&mut self, link: LinkId, message: Up) {
        if let Some(link) = self.links.get_mut(&link) {
            link.up.push_back(message);
        }
    }

    pub fn answer(&mut self, link: LinkId, message: Down) {
        if let Some(link) = self.links.get_mut(&link) {
            link.down.push_back(message);
        }
    }

    /// One end is gone, or has had enough: nothing passes, and the other end will notice.
    pub fn close(&mut self, link: LinkId, by_agent: bool) {
        if let Some(link) = self.links.get_mut(&link) {
            link.broken = true;
            if by_agent {
                link.agent_holds = false;
            } else {
                link.dispatcher_holds = false;
            }
        }
    }

    /// Forgets what nobody holds. `keep` leaves answers of connections that were given up, for who wants them.
    pub fn tidy(&mut self, keep: bool) {
        self.links
            .retain(|_, link| link.agent_holds || link.dispatcher_holds || (keep && !link.down.is_empty()));
    }

    pub fn of(&self, which: impl Fn(&Link) -> bool) -> Vec<LinkId> {
        self.links.iter().filter(|(_, link)| which(link)).map(|(id, _)| *id).collect()
    }
}
