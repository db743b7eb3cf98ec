//! The agent: what it keeps in memory, and the next thing it does.
//!
//! ```text
//!        dial, duty                 accepted by all        nothing contaminated       published on all
//! idle ------------> opening ---------------------> reading -----------> sealed ----------------------> idle
//!   |                                                  ^ contaminated |
//!   |  coverage is lost                                +--------------+
//!   +------------> comparing -> idle                anything else: every connection of the cut is given up -> idle
//! ```

use crate::Mutation;
use crate::host::{Content, DISKS, Disk, GRANULES, State};
use crate::network::{Down, LinkId, Network, Up};
use blxrep::engine::backoff::Backoff;
use blxrep::engine::cut::{self, OpenPoint, Swept, Witnesses};
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{CutId, DiskIdentity, PointId};
use blxrep::store::continuity::Known;
use std::collections::VecDeque;

/// Rounds of a cut, before it is sealed as it is.
const MAX_ROUNDS: u32 = 4;
/// Of the model's clock: one step of the world.
const STEP_MS: u64 = 100;

/// One disk of a cut.
#[derive(Debug)]
struct Member {
    disk: usize,
    link: LinkId,
    point: PointId,
    open: OpenPoint,
    /// Frames so far, over all its connections.
    sent: Vec<(u32, u64)>,
    accepted: bool,
    published: bool,
}

/// A point whose connection broke while it was open: `agent/live.rs`.
#[derive(Debug)]
struct Draft {
    point: PointId,
    open: OpenPoint,
    sent: Vec<(u32, u64)>,
    sweeps: u64,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Opening,
    Reading {
        swept: Vec<Swept>,
        sets: Vec<GranuleSet>,
        left: VecDeque<(usize, u32)>,
        round: u32,
    },
    Sealed,
    Comparing {
        disk: usize,
        link: LinkId,
        with: Option<(PointId, Content)>,
        left: VecDeque<u32>,
        differing: GranuleSet,
    },
}

/// What the world has to know of a step.
#[derive(Debug)]
pub enum Told {
    Nothing,
    /// The cut began at this instant.
    Swept {
        cut: CutId,
        disks: Vec<(usize, State)>,
        /// Points in it that have gone on after a break.
        continued: u64,
    },
    /// Coverage was lost: the dispatcher cannot go on from what is known.
    Lost,
}

/// One life of the agent.
#[derive(Debug)]
pub struct Agent {
    pub life: u64,
    phase: Phase,
    cut: CutId,
    members: Vec<Member>,
    /// Connections that wait for a cut, with their duty once it was heard.
    links: [Option<(LinkId, Option<bool>)>; DISKS],
    drafts: [Option<Draft>; DISKS],
    sweeps: [u64; DISKS],
    continued: u64,
    backoff: Backoff,
    wait_ms: u64,
    next_id: u64,
    mutation: Mutation,
}

impl Agent {
    pub fn new(life: u64, mutation: Mutation) -> Self {
        Self {
            life,
            phase: Phase::Idle,
            cut: CutId(0),
            members: Vec::new(),
            links: [None; DISKS],
            drafts: [const { None }; DISKS],
            sweeps: [0; DISKS],
            continued: 0,
            backoff: Backoff::default(),
            wait_ms: 0,
            // No two lives choose the same.
            next_id: life << 32,
            mutation,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The next thing to do. `base` says what a new connection would be told; `None` when nobody can be reached.
    pub fn step(
        &mut self,
        disks: &mut [Disk],
        network: &mut Network,
        base: Option<&dyn Fn(usize) -> bool>,
    ) -> Told {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.begin(disks, network, base),
            Phase::Reading { swept, sets, left, round } => {
                self.read(disks, network, swept, sets, left, round)
            }
            Phase::Comparing { disk, link, with: Some(with), left, differing } => {
                self.compare(disks, (disk, link), with, left, differing);
                Told::Nothing
            }
            waiting => {
                self.phase = waiting;
                Told::Nothing
            }
        }
    }

    fn begin(
        &mut self,
        disks: &mut [Disk],
        network: &mut Network,
        base: Option<&dyn Fn(usize) -> bool>,
    ) -> Told {
        if self.wait_ms > 0 {
            self.wait_ms = self.wait_ms.saturating_sub(STEP_MS);
            return Told::Nothing;
        }
        for (disk, link) in self.links.iter_mut().enumerate().filter(|(_, link)| link.is_none()) {
            match base {
                Some(base) => *link = Some((network.dial(disk, base(disk)), None)),
                None => self.wait_ms = wait(&mut self.backoff, disk as u64),
            }
        }
        let duties: Vec<(LinkId, bool)> =
            self.links.iter().flatten().filter_map(|(link, duty)| Some((*link, (*duty)?))).collect();
        if duties.len() < DISKS {
            return Told::Nothing;
        }
        if let Some(disk) = duties.iter().position(|(_, base)| *base) {
            self.open(disks, network, &[disk], true);
        } else if let Some(disk) = disks.iter().position(Disk::is_lost) {
            let (link, _) = duties[disk];
            network.say(link, Up::Compare);
            self.phase = Phase::Comparing {
                disk,
                link,
                with: None,
                left: VecDeque::new(),
                differing: GranuleSet::new(),
            };
        } else {
            self.open(disks, network, &[0, 1], false);
        }
        Told::Nothing
    }

    fn open(&mut self, disks: &[Disk], network: &mut Network, which: &[usize], base: bool) {
        self.cut = CutId(self.id());
        for &disk in which {
            let Some((link, _)) = self.links[disk] else { continue };
            let fresh = PointId(self.id());
            let (swept, draft) = (self.sweeps[disk], &mut self.drafts[disk]);
            if base || draft.as_ref().is_some_and(|draft| draft.sweeps != swept) {
                *draft = None;
            }
            let point = draft.as_ref().map_or(fresh, |draft| draft.point);
            let record = &disks[disk].record;
            let known = Known {
                epoch: record.epoch,
                acked: record.acked,
                open: record.open,
                matched: record.matched,
            };
            network.say(link, Up::Begin { point, cut: self.cut, known, base, life: self.life });
            let open = if base { OpenPoint::whole(GRANULES) } else { OpenPoint::new() };
            let sent = Vec::new();
            self.members.push(Member { disk, link, point, open, sent, accepted: false, published: false });
        }
        self.phase = Phase::Opening;
    }

    /// Everything that a cut held is given up; what it swept is still pending.
    pub fn give_up(&mut self, network: &mut Network) {
        self.keep_drafts();
        let mut links: Vec<LinkId> = self.members.drain(..).map(|member| member.link).collect();
        if let Phase::Comparing { link, .. } = self.phase {
            links.push(link);
        }
        for link in &links {
            network.close(*link, true);
        }
        for held in &mut self.links {
            *held = held.filter(|(link, _)| !links.contains(link));
        }
        self.phase = Phase::Idle;
        self.wait_ms = wait(&mut self.backoff, self.next_id);
    }

    /// Points that were open go on in the next cut. The model does not even look at issued before that.
    fn keep_drafts(&mut self) {
        let is_sealed = matches!(self.phase, Phase::Sealed);
        for (index, member) in self.members.iter_mut().enumerate() {
            if is_sealed || !member.accepted {
                continue;
            }
            if let Phase::Reading { swept, sets, left, .. } = &self.phase {
                let unsent: GranuleSet =
                    left.iter().filter(|(of, _)| *of == index).map(|(_, g)| *g).collect();
                member.open.validate(&swept[index], &(&sets[index] - &unsent), &GranuleSet::new());
            }
            let (open, sent) = (std::mem::take(&mut member.open), std::mem::take(&mut member.sent));
            let sweeps = self.sweeps[member.disk];
            self.drafts[member.disk] = Some(Draft { point: member.point, open, sent, sweeps });
        }
    }

    /// A connection is missed.
    pub fn lost(&mut self, network: &mut Network, link: LinkId) {
        network.close(link, true);
        let comparing = matches!(self.phase, Phase::Comparing { link: used, .. } if used == link);
        if comparing || self.members.iter().any(|member| member.link == link) {
            self.give_up(network);
        }
        for held in &mut self.links {
            *held = held.filter(|(other, _)| *other != link);
        }
    }

    fn sweep(&mut self, disks: &[Disk], round: u32) -> Told {
        let group: Vec<&Disk> = self.members.iter().map(|member| &disks[member.disk]).collect();
        let swept = cut::sweep(&group);
        self.members.iter().for_each(|member| self.sweeps[member.disk] += 1);
        let sets: Vec<GranuleSet> =
            self.members.iter_mut().zip(&swept).map(|(member, swept)| member.open.form(swept)).collect();
        let all = sets.iter().enumerate().flat_map(|(member, set)| set.iter().map(move |g| (member, g)));
        let left = all.collect();
        let states = self.members.iter().map(|member| (member.disk, disks[member.disk].state())).collect();
        self.phase = Phase::Reading { swept, sets, left, round };
        Told::Swept { cut: self.cut, disks: states, continued: std::mem::take(&mut self.continued) }
    }

    fn read(
        &mut self,
        disks: &mut [Disk],
        network: &mut Network,
        swept: Vec<Swept>,
        sets: Vec<GranuleSet>,
        mut left: VecDeque<(usize, u32)>,
        round: u32,
    ) -> Told {
        if let Some((member, granule)) = left.pop_front() {
            let member = &mut self.members[member];
            let value = disks[member.disk].content[granule as usize];
            member.sent.push((granule, value));
            network.say(member.link, Up::Data { granule, value });
            self.phase = Phase::Reading { swept, sets, left, round };
            return Told::Nothing;
        }
        // Every read of every disk has finished: only now may the second look be taken.
        let mut contaminated = 0;
        for ((member, swept), set) in self.members.iter_mut().zip(&swept).zip(&sets) {
            let issued = disks[member.disk].issued().peek();
            contaminated += member.open.validate(swept, set, &issued).len();
        }
        if contaminated > 0 && round < MAX_ROUNDS {
            return self.sweep(disks, round + 1);
        }
        let group: Vec<DiskIdentity> =
            self.members.iter().map(|member| disks[member.disk].identity.clone()).collect();
        for member in &self.members {
            // `Unit::sealed`.
            if self.mutation != Mutation::OpenNotRecorded {
                disks[member.disk].record.open = Some(member.point);
            }
            network.say(member.link, Up::End { group: group.clone(), quiet: contaminated == 0 });
        }
        self.phase = Phase::Sealed;
        Told::Nothing
    }

    /// Compares one more granule, or keeps what was found: `Unit::narrow`.
    fn compare(
        &mut self,
        disks: &mut [Disk],
        (disk, link): (usize, LinkId),
        with: (PointId, Content),
        mut left: VecDeque<u32>,
        mut differing: GranuleSet,
    ) {
        if let Some(granule) = left.pop_front() {
            if disks[disk].content[granule as usize] != with.1[granule as usize] {
                differing.insert(granule);
            }
            self.phase = Phase::Comparing { disk, link, with: Some(with), left, differing };
            return;
        }
        let now = &mut disks[disk];
        cut::acknowledge(now, &(&GranuleSet::full(GRANULES) - &differing));
        if self.mutation == Mutation::ComparedUnarmed {
            for moved in [now.issued(), now.completed()] {
                moved.clear(&(&GranuleSet::full(GRANULES) - &differing));
            }
        }
        let record = &mut now.record;
        (record.acked, record.open, record.matched) = (Some(with.0), None, Some(with.0));
        // The connection is for cuts from now on.
        self.phase = Phase::Idle;
    }

    /// Takes in an answer; `current` unless the connection was given up.
    pub fn hear(
        &mut self,
        disks: &mut [Disk],
        network: &mut Network,
        link: LinkId,
        message: Down,
        current: bool,
    ) -> Told {
        if !current && self.mutation != Mutation::LateAnswer {
            return Told::Nothing;
        }
        let member = self.members.iter().position(|member| member.link == link);
        match message {
            Down::Duty { base } => {
                for (_, duty) in self.links.iter_mut().flatten().filter(|(held, _)| *held == link) {
                    *duty = Some(base);
                }
            }
            Down::Newest { point, content } => self.arm(disks, link, (point, content)),
            Down::Accept { point, parent } | Down::Kept { point, parent, .. } => {
                let Some(member) = member.filter(|at| self.members[*at].point == point) else {
                    return Told::Nothing;
                };
                let member = &mut self.members[member];
                member.accepted = true;
                let draft = self.drafts[member.disk].take();
                if let (Down::Kept { frames, .. }, Some(mut draft)) = (message, draft) {
                    assert!(draft.sent.starts_with(&frames), "what was kept is not what was sent");
                    let lost = draft.sent[frames.len()..].iter().map(|(granule, _)| *granule).collect();
                    if self.mutation != Mutation::LostFramesCount {
                        draft.open.lose(&lost);
                    }
                    (member.open, member.sent) = (draft.open, frames);
                    self.continued += 1;
                }
                // `Unit::opened`, `Unit::imaging`.
                let record = &mut disks[member.disk].record;
                if parent.is_none() || record.open == parent {
                    (record.gap, record.matched) = (false, None);
                }
                (record.acked, record.open) = (parent, None);
                if self.mutation == Mutation::OpenBeforeItsSeal {
                    record.open = Some(point);
                }
                if matches!(self.phase, Phase::Opening) && self.members.iter().all(|m| m.accepted) {
                    return self.sweep(disks, 1);
                }
            }
            Down::Discontinuous => {
                if let Some(member) = member {
                    disks[self.members[member].disk].lose_coverage();
                    self.give_up(network);
                    return Told::Lost;
                }
            }
            Down::Published { point } => self.published(disks, member, point),
            Down::Refuse | Down::Failed => self.lost(network, link),
        }
        if self.mutation == Mutation::EarlyAcknowledgement && matches!(self.phase, Phase::Sealed) {
            for member in &self.members {
                cut::acknowledge(&disks[member.disk], member.open.carried());
            }
        }
        Told::Nothing
    }

    /// `Unit::arm`: what changes from here on is marked beside what is compared.
    fn arm(&mut self, disks: &mut [Disk], link: LinkId, newest: (PointId, Content)) {
        if let Phase::Comparing { disk, link: used, with, left, .. } = &mut self.phase
            && *used == link
        {
            let now = &disks[*disk];
            now.pending().mark(&GranuleSet::full(GRANULES));
            cut::sweep(&[now]);
            self.sweeps[*disk] += 1;
            (*with, *left) = (Some(newest), (0..GRANULES).collect());
        }
    }

    /// `Unit::published`.
    fn published(&mut self, disks: &mut [Disk], member: Option<usize>, point: PointId) {
        let late = self.mutation == Mutation::LateAnswer && member.is_none();
        // A late answer, if it is taken, is taken for what is under way.
        let Some(at) = member.or_else(|| (late && !self.members.is_empty()).then_some(0)) else { return };
        let member = &mut self.members[at];
        if !late && (member.point != point || !matches!(self.phase, Phase::Sealed)) {
            return;
        }
        cut::acknowledge(&disks[member.disk], member.open.carried());
        let record = &mut disks[member.disk].record;
        (record.acked, record.open, record.matched, record.gap) = (Some(point), None, None, false);
        member.published = true;
        if self.members.iter().all(|member| member.published) {
            self.backoff.reset();
            for member in self.members.drain(..) {
                // A base's connection ends with it; the next one is for cuts.
                let first = self.links[member.disk].is_some_and(|(_, duty)| duty == Some(true));
                if first {
                    self.links[member.disk] = None;
                }
            }
            self.phase = Phase::Idle;
        }
    }
}

fn wait(backoff: &mut Backoff, random: u64) -> u64 {
    u64::try_from(backoff.next(random).as_millis()).unwrap_or(u64::MAX)
}
