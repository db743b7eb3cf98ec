//! The world: it chooses what happens next, and knows what must be true.

use crate::Mutation;
use crate::agent::{Agent, Told};
use crate::dispatcher::{Dispatcher, Heard, Published};
use crate::host::{DISKS, Disk, GRANULES, State};
use crate::network::Network;
use blxrep::model::ids::{CutId, Epoch};
use std::collections::BTreeMap;

/// Steps with faults, and how many more there may be until all is well.
const WILD: u32 = 6000;
const CALM: u32 = 30_000;

/// What a world has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub points: u64,
    pub quiet_cuts: u64,
    /// Times that coverage was lost.
    pub lost: u64,
    /// Points that went on after their connection broke.
    pub continued: u64,
    pub faults: u64,
    pub steps: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.quiet_cuts += other.quiet_cuts;
        self.lost += other.lost;
        self.continued += other.continued;
        self.faults += other.faults;
        self.steps += other.steps;
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap()
    }

    fn granule(&mut self) -> u32 {
        u32::try_from(self.next() % u64::from(GRANULES)).unwrap()
    }
}

pub struct World {
    random: Random,
    mutation: Mutation,
    disks: Vec<Disk>,
    /// The host as it was once, to be set back to.
    snapshot: Vec<Disk>,
    agent: Agent,
    dispatcher: Dispatcher,
    network: Network,
    /// What the disks held when each cut began.
    cuts: BTreeMap<CutId, Vec<(usize, State)>>,
    next: u64,
    /// What took coverage since the last time that it was missed.
    causes: u64,
    outcome: Outcome,
}

impl World {
    pub fn new(seed: u64, mutation: Mutation) -> Self {
        let disks: Vec<Disk> = (0..DISKS).map(|disk| Disk::new(disk, Epoch(disk as u128 + 1))).collect();
        Self {
            random: Random(seed),
            mutation,
            snapshot: disks.clone(),
            disks,
            agent: Agent::new(1, mutation),
            dispatcher: Dispatcher::new(DISKS, mutation),
            network: Network::default(),
            cuts: BTreeMap::new(),
            next: 100,
            causes: 0,
            outcome: Outcome::default(),
        }
    }

    /// Plays to the end; an error says which promise was broken.
    pub fn play(mut self) -> Result<Outcome, String> {
        for step in 0..WILD {
            self.step(true).map_err(|violation| format!("step {step}: {violation}"))?;
        }
        for disk in &mut self.disks {
            while !disk.in_flight.is_empty() {
                disk.complete();
            }
        }
        for step in 0..CALM {
            self.step(false).map_err(|violation| format!("calm step {step}: {violation}"))?;
            if self.is_well() {
                return Ok(self.outcome);
            }
        }
        Err(format!("nothing goes on any more: {:?}", self.agent))
    }

    /// Every disk has a point that is what it holds, and nothing of it is dirty.
    fn is_well(&self) -> bool {
        self.disks.iter().zip(&self.dispatcher.catalog).all(|(disk, rows)| {
            rows.last().is_some_and(|row| row.content == disk.content) && disk.dirty().is_empty()
        })
    }

    fn step(&mut self, wild: bool) -> Result<(), String> {
        self.outcome.steps += 1;
        self.network.tidy(self.mutation == Mutation::LateAnswer);
        match self.random.below(100) {
            0..12 if wild => self.write(),
            0..45 => self.act()?,
            45..72 => self.deliver_up()?,
            72..92 => self.deliver_down()?,
            92..97 => self.notice(),
            97 if wild && self.random.below(4) == 0 => {
                self.outcome.faults += 1;
                let links = self.network.of(|link| !link.broken);
                if let Some(link) = links.get(self.random.below(links.len())) {
                    self.network.links.get_mut(link).unwrap().broken = true;
                }
            }
            98 if wild && self.random.below(6) == 0 => self.disaster(),
            // Somebody keeps what the machine is, for a later disaster.
            99 if wild && self.random.below(2) == 0 => self.snapshot.clone_from(&self.disks),
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self) {
        let (disk, granule) = (self.random.below(DISKS), self.random.granule());
        self.next += 1;
        // Few granules are hot, so that some cuts pass and some do not.
        if self.random.below(3) == 0 {
            self.disks[disk].issue(granule, self.next);
        } else {
            self.disks[disk].complete();
        }
    }

    fn act(&mut self) -> Result<(), String> {
        let (dispatcher, wants) = (&self.dispatcher, self.random.below(20) != 0);
        let base = |disk: usize| dispatcher.wants_base(disk);
        let told = self.agent.step(&mut self.disks, &mut self.network, wants.then_some(&base));
        self.take(told)
    }

    fn take(&mut self, told: Told) -> Result<(), String> {
        match told {
            Told::Nothing => {}
            Told::Swept { cut, disks, continued } => {
                self.outcome.continued += continued;
                self.cuts.insert(cut, disks);
            }
            Told::Lost => {
                self.outcome.lost += 1;
                if self.causes == 0 {
                    return Err("coverage was lost, and nothing took it".to_owned());
                }
                self.causes -= 1;
            }
        }
        Ok(())
    }

    fn deliver_up(&mut self) -> Result<(), String> {
        let links = self.network.of(|link| !link.broken && link.dispatcher_holds && !link.up.is_empty());
        let Some(&link) = links.get(self.random.below(links.len())) else { return Ok(()) };
        let held = self.network.links.get_mut(&link).unwrap();
        let (disk, message) = (held.disk, held.up.pop_front().unwrap());
        let truth = Some((&self.disks[disk], self.agent.life));
        match self.dispatcher.hear(&mut self.network, link, disk, message, truth)? {
            Heard::Done | Heard::Published(None) => {}
            Heard::Busy(message) => self.network.links.get_mut(&link).unwrap().up.push_front(message),
            Heard::Published(Some(published)) => self.judge(&published)?,
        }
        Ok(())
    }

    fn deliver_down(&mut self) -> Result<(), String> {
        let late = self.mutation == Mutation::LateAnswer;
        let links = self.network.of(|link| {
            !link.down.is_empty() && ((!link.broken && link.agent_holds) || (late && !link.agent_holds))
        });
        let Some(&link) = links.get(self.random.below(links.len())) else { return Ok(()) };
        let held = self.network.links.get_mut(&link).unwrap();
        let (current, message) = (held.agent_holds, held.down.pop_front().unwrap());
        let told = self.agent.hear(&mut self.disks, &mut self.network, link, message, current);
        self.take(told)
    }

    /// One end of a broken connection misses the other.
    fn notice(&mut self) {
        let broken = self.network.of(|link| link.broken);
        let Some(&link) = broken.get(self.random.below(broken.len())) else { return };
        let held = &self.network.links[&link];
        let (agent, dispatcher) = (held.agent_holds, held.dispatcher_holds);
        if dispatcher && (!agent || self.random.below(2) == 0) {
            self.dispatcher.lost(&mut self.network, link);
        } else if agent {
            self.agent.lost(&mut self.network, link);
        }
    }

    /// Something that takes more than a connection.
    fn disaster(&mut self) {
        self.outcome.faults += 1;
        match self.random.below(10) {
            0..4 => self.agent_dies(),
            4..7 => self.dispatcher.crash(&mut self.network),
            7 => {
                self.dispatcher.crash(&mut self.network);
                let older = &self.dispatcher.older;
                if let Some(at) = older.len().checked_sub(1 + self.random.below(4)) {
                    self.dispatcher.catalog = older[at].clone();
                    self.dispatcher.older.truncate(at);
                    self.causes += DISKS as u64;
                }
            }
            8 => {
                self.agent_dies();
                for disk in &mut self.disks {
                    self.next += 1;
                    disk.reboot(Epoch(u128::from(self.next)));
                }
                self.causes += DISKS as u64;
            }
            _ => {
                self.agent_dies();
                self.disks.clone_from(&self.snapshot);
                self.causes += DISKS as u64;
            }
        }
        if self.random.below(2) == 0 {
            self.snapshot.clone_from(&self.disks);
        }
    }

    fn agent_dies(&mut self) {
        for link in self.network.of(|link| link.agent_holds) {
            self.network.close(link, true);
        }
        self.agent = Agent::new(self.agent.life + 1, self.mutation);
    }

    /// What was published is all of its cut, and what the disks held when it began.
    fn judge(&mut self, published: &Published) -> Result<(), String> {
        self.outcome.points += published.points.len() as u64;
        let rows: Vec<_> =
            published.points.iter().map(|(disk, at)| (*disk, &self.dispatcher.catalog[*disk][*at])).collect();
        let members = rows.first().map_or(0, |(_, row)| row.members);
        if rows.len() != members {
            return Err(format!("cut {}: {} of {members} points were published", published.cut, rows.len()));
        }
        if !published.quiet {
            return Ok(());
        }
        self.outcome.quiet_cuts += 1;
        let held = self.cuts.get(&published.cut).ok_or("a cut that never began was published")?;
        for (disk, row) in rows {
            let state = held.iter().find(|(of, _)| *of == disk).map(|(_, state)| state);
            let state = state.ok_or("a disk that was not in the cut was published")?;
            if let Some(granule) = state.first_difference(&row.content) {
                return Err(format!(
                    "cut {}: granule {granule} of disk {disk} is not what it was: a proven point is wrong",
                    published.cut
                ));
            }
        }
        Ok(())
    }
}
