//! What the agent and the dispatcher do, step by step. Every decision is the engine's own.

use crate::kernel;
use crate::maps::{self, Lane, mask_of, set_of};
use crate::mutation::{Mutation, schedule};
use crate::search::Action;
use crate::state::{Agent, Sent, Stage, State};
use crate::world::{MAX_DISKS, Mask, PARTS, World};
use blxrep::engine::audit::Verdict;
use blxrep::engine::cut::{self, Step, Swept, Witnesses};
use blxrep::engine::plan::{Next, Plan, RoundResult};
use blxrep::model::granules::GranuleSet;
use blxrep::model::policy::{CutRules, Goal};

/// Times that a gap is answered by reading a disk as a whole, as in the agent.
const MAX_WIDENINGS: u8 = 2;

/// A world, and the agent that works in it.
pub struct Model {
    pub world: World,
    mutations: &'static [Mutation],
    schedule: Vec<(Step, usize)>,
    plan: Plan,
}

impl Model {
    pub fn new(world: World, mutations: &'static [Mutation]) -> Self {
        let rules = CutRules { goal: Goal::Quiet, max_rounds: world.rounds, ..CutRules::default() };
        let plan = Plan { rules, can_freeze: false };
        Self { schedule: schedule(&world, mutations), world, mutations, plan }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutations.contains(&mutation)
    }

    /// Everything that may happen next.
    pub fn steps(&self, state: &State, next: &mut Vec<(Action, State)>) {
        kernel::steps(&self.world, state, next);
        if self.world.retires && state.agent.stage == Stage::Idle {
            kernel::retire(&self.world, state, next);
        }
        self.agent_steps(state, next);
        if state.agent.stage == Stage::Idle && state.rescans > 0 && state.sent.is_none() {
            let mut after = state.clone();
            self.arm(&mut after);
            next.push((Action::Rescan, after));
        }
        self.dispatcher_steps(state, next);
        self.breaks(state, next);
        self.breaks_off(state, next);
        if let Some(index) = state.astray {
            self.sweep_astray(state, index, next);
        }
    }

    fn agent_steps(&self, state: &State, next: &mut Vec<(Action, State)>) {
        let mut after = state.clone();
        let action = match state.agent.stage {
            Stage::Idle if state.points > 0 && state.sent.is_none() && !state.lost => {
                self.begin(&mut after);
                Action::Begin
            }
            Stage::Sweep(index) => self.sweep(&mut after, index),
            Stage::Read(part) => {
                let part = usize::from(part);
                after.agent.content[part] = state.on_disk(part);
                self.read_on(&mut after, part + 1);
                Action::Read(part)
            }
            Stage::Look(granule) => {
                let granule = usize::from(granule);
                self.look(&mut after, granule);
                self.look_on(&mut after, granule + 1);
                Action::Look(granule)
            }
            Stage::Audit(disk) => {
                self.audit(&mut after, usize::from(disk));
                Action::Audit(usize::from(disk))
            }
            Stage::Sealed if state.published => {
                after.agent.stage = Stage::Acknowledge(0);
                Action::HearPublished
            }
            Stage::Acknowledge(granule) => {
                self.acknowledge(&mut after, 1 << granule, state.agent.carried);
                let more = usize::from(granule) + 1 < self.world.granules();
                after.agent.stage = if more { Stage::Acknowledge(granule + 1) } else { Stage::Store };
                Action::Acknowledge(usize::from(granule))
            }
            Stage::Store => {
                self.write_off(&mut after);
                after.lost &= !after.agent.rescan;
                after.agent = Agent::default();
                Action::Store
            }
            Stage::Idle | Stage::Sealed => return,
        };
        next.push((action, after));
    }

    fn begin(&self, state: &mut State) {
        state.points -= 1;
        state.published = false;
        state.agent = Agent::default();
        if self.is(Mutation::ReadBeforeSweep) {
            state.agent.reading =
                state.issued | state.completed | state.pending | state.in_table(&self.world);
            self.read_on(state, 0);
        } else {
            self.cut(state);
        }
    }

    /// Everything is dirty; one sweep, then everything is read.
    fn arm(&self, state: &mut State) {
        state.rescans -= 1;
        state.published = false;
        state.agent = Agent { rescan: true, ..Agent::default() };
        state.pending = (0..self.world.disks.len()).fold(0, |all, disk| all | self.world.mask_of(disk));
        if self.is(Mutation::ReadBeforeSweep) {
            state.agent.reading = state.pending;
            self.read_on(state, 0);
        } else {
            self.cut(state);
        }
    }

    /// What was equal when it was read is as clean as if a point had carried it.
    fn narrow(&self, state: &mut State) {
        let equal = |granule: &usize| {
            (granule * PARTS..(granule + 1) * PARTS).all(|p| state.agent.content[p] == state.chain[p])
        };
        let carried = (0..self.world.granules()).filter(equal).fold(0, |mask, granule| mask | 1 << granule);
        state.agent = Agent { stage: Stage::Acknowledge(0), carried, rescan: true, ..Agent::default() };
    }

    /// A round begins: this is the cut.
    fn cut(&self, state: &mut State) {
        let agent = &mut state.agent;
        (agent.issued, agent.again, agent.in_flight, agent.completed, agent.pending) = (0, 0, 0, 0, 0);
        agent.looked = 0;
        agent.stage = Stage::Sweep(0);
        state.agent.done_at_cut = state.done();
    }

    fn sweep(&self, state: &mut State, index: u8) -> Action {
        let (step, granule) = self.schedule[usize::from(index)];
        let in_flight = state.in_table(&self.world);
        let swept = Lane::with(&self.world, state, 1 << granule, in_flight, |lane| {
            let mut swept = Swept::default();
            if self.is(Mutation::CompletionIgnored) && step == Step::Completed {
                swept.pending = lane.pending().peek();
            } else {
                step.take(lane, &mut swept);
            }
            swept
        });
        let agent = &mut state.agent;
        agent.issued |= mask_of(&swept.issued);
        agent.again |= mask_of(&swept.again);
        agent.in_flight |= mask_of(&swept.in_flight);
        agent.completed |= mask_of(&swept.completed);
        agent.pending |= mask_of(&swept.pending);
        agent.stage = Stage::Sweep(index + 1);
        if usize::from(index) + 1 == self.schedule.len() {
            self.form(state);
        }
        Action::Sweep(step, granule)
    }

    /// What this sweep finds, nobody hears.
    fn sweep_astray(&self, state: &State, index: u8, next: &mut Vec<(Action, State)>) {
        let (step, granule) = self.schedule[usize::from(index)];
        let more = usize::from(index) + 1 < self.schedule.len();
        let mut after = State { astray: more.then_some(index + 1), ..state.clone() };
        Lane::with(&self.world, &mut after, 1 << granule, 0, |lane| step.take(lane, &mut Swept::default()));
        next.push((Action::SweepAstray(step, granule), after));
    }

    fn form(&self, state: &mut State) {
        if self.is(Mutation::ReadBeforeSweep) {
            if state.agent.rescan {
                return self.narrow(state);
            }
            state.agent.carried = state.agent.reading;
            return self.look_on(state, 0);
        }
        if state.agent.rescan {
            state.agent.reading = state.pending;
            return self.read_on(state, 0);
        }
        state.agent.reading = 0;
        for disk in (0..self.world.disks.len()).map(|disk| self.world.mask_of(disk)) {
            let mut point = maps::open_point(&state.agent, disk);
            let read = point.form(&maps::swept_on(&state.agent, disk));
            maps::keep_point(&mut state.agent, disk, &point);
            state.agent.reading |= mask_of(&read);
        }
        if self.is(Mutation::ValidationBeforeReads) {
            self.look_on(state, 0);
        } else {
            self.read_on(state, 0);
        }
    }

    /// Goes on with the next part that this round reads.
    fn read_on(&self, state: &mut State, from: usize) {
        let reading = state.agent.reading;
        let part = (from..self.world.granules() * PARTS).find(|part| reading >> (part / PARTS) & 1 != 0);
        match part {
            Some(part) => state.agent.stage = Stage::Read(u8::try_from(part).unwrap()),
            None if self.is(Mutation::ReadBeforeSweep) => self.cut(state),
            None if state.agent.rescan => self.narrow(state),
            None if self.is(Mutation::ValidationBeforeReads) => self.judge(state),
            None => self.look_on(state, 0),
        }
    }

    fn look(&self, state: &mut State, granule: usize) {
        let clears = self.is(Mutation::ValidationClears);
        let seen = Lane::with(&self.world, state, 1 << granule, 0, |lane| {
            let seen = lane.issued().peek();
            if clears {
                lane.issued().clear(&seen);
            }
            seen
        });
        state.agent.looked |= mask_of(&seen);
    }

    /// Goes on with the next granule whose issued bit matters.
    fn look_on(&self, state: &mut State, from: usize) {
        let ignored = self.is(Mutation::NoValidation) || self.is(Mutation::IssueIgnored);
        let matters = match state.agent.reading {
            _ if ignored => 0,
            _ if self.is(Mutation::ValidationClears) => Mask::MAX,
            reading => reading,
        };
        match (from..self.world.granules()).find(|granule| matters >> granule & 1 != 0) {
            Some(granule) => state.agent.stage = Stage::Look(u8::try_from(granule).unwrap()),
            None if self.is(Mutation::ValidationBeforeReads) => self.read_on(state, 0),
            None => self.judge(state),
        }
    }

    /// The end of a round: validates, and asks the plan what comes next.
    fn judge(&self, state: &mut State) {
        let mut contaminated = 0;
        for disk in (0..self.world.disks.len()).map(|disk| self.world.mask_of(disk)) {
            let agent = &mut state.agent;
            let mut point = maps::open_point(agent, disk);
            let read = set_of(agent.reading & disk);
            let found = point.validate(&maps::swept_on(agent, disk), &read, &set_of(agent.looked & disk));
            maps::keep_point(agent, disk, &point);
            contaminated |= mask_of(&found);
        }
        if self.is(Mutation::NoValidation) {
            contaminated = 0;
            state.agent.valid = state.agent.carried;
        }
        state.agent.rounds += 1;
        let result = RoundResult { contaminated: u64::from(contaminated), ..RoundResult::default() };
        match self.plan.next(&vec![result; usize::from(state.agent.rounds)]) {
            Next::Audit => self.ask(state, 0),
            Next::GiveUp(_) => {
                state.agent.fuzzy = true;
                self.ask(state, 0);
            }
            Next::Round if self.is(Mutation::ContaminatedAlone) => {
                // Only their own bits are swept, so that they can pass.
                let in_flight = state.in_table(&self.world);
                for step in [Step::Issued, Step::Completed] {
                    Lane::with(&self.world, state, contaminated, in_flight, |lane| {
                        step.take(lane, &mut Swept::default());
                    });
                }
                (state.agent.reading, state.agent.again, state.agent.looked) = (contaminated, 0, 0);
                self.read_on(state, 0);
            }
            // Nothing can be frozen here.
            Next::Round | Next::Freeze => self.cut(state),
        }
    }

    /// Goes on with the audit of the next disk; after the last one everything is sealed and sent.
    fn ask(&self, state: &mut State, disk: usize) {
        if disk < self.world.disks.len() && !self.is(Mutation::NoAudit) {
            state.agent.stage = Stage::Audit(u8::try_from(disk).unwrap());
            return;
        }
        let agent = &mut state.agent;
        agent.stage = Stage::Sealed;
        state.sent = Some(Sent { carried: agent.carried, content: agent.content });
        // What only the rounds needed is forgotten, so that states which differ in nothing else are one.
        *agent = Agent {
            stage: Stage::Sealed,
            carried: agent.carried,
            fuzzy: agent.fuzzy,
            done_at_cut: agent.done_at_cut,
            shortfall: agent.shortfall,
            ..Agent::default()
        };
    }

    fn audit(&self, state: &mut State, disk: usize) {
        let sample = maps::sample(&self.world, state, disk);
        let verdict = maps::prove(&mut maps::audit_of(&state.base[disk]), &sample);
        match verdict {
            Verdict::Proven => self.ask(state, disk + 1),
            Verdict::Unproven(_) => {
                let measured =
                    sample.idle().then(|| maps::written_off(&state.base[disk], &state.counts[disk]));
                if let Some(base) = measured.flatten() {
                    if self.is(Mutation::WrittenOffAndAskedAgain) {
                        state.base[disk] = base;
                        return;
                    }
                    state.agent.shortfall[disk] = Some(state.counts[disk]);
                    if self.is(Mutation::WrittenOffWhenMeasured) {
                        state.base[disk] = base;
                    }
                }
                state.agent.fuzzy = true;
                self.ask(state, disk + 1);
            }
            Verdict::Gap(_) => self.widen(state, disk),
        }
    }

    /// A write was missed: everything of the disk is dirty, and the point carries it as a whole.
    fn widen(&self, state: &mut State, disk: usize) {
        let mask = self.world.mask_of(disk);
        state.pending |= mask;
        let Some(base) = maps::rebased(&maps::sample(&self.world, state, disk)) else {
            state.agent = Agent::default();
            return;
        };
        state.base[disk] = base;
        if self.world.rescans > 0 {
            (state.lost, state.agent) = (true, Agent::default());
            return;
        }
        let agent = &mut state.agent;
        agent.widenings += 1;
        if agent.widenings > MAX_WIDENINGS {
            *agent = Agent::default();
            return;
        }
        let mut point = maps::open_point(agent, mask);
        point.widen(u32::try_from(self.world.granules()).unwrap());
        maps::keep_point(agent, mask, &point);
        (agent.rounds, agent.fuzzy) = (0, false);
        self.cut(state);
    }

    fn acknowledge(&self, state: &mut State, lane: Mask, carried: Mask) {
        let hidden = self.is(Mutation::AcknowledgeInFlight);
        let in_flight = if hidden { 0 } else { state.in_table(&self.world) };
        let carried = set_of(carried & lane);
        Lane::with(&self.world, state, lane, in_flight, |lane| cut::acknowledge(lane, &carried));
    }

    fn write_off(&self, state: &mut State) {
        for disk in 0..self.world.disks.len() {
            if let Some(counts) = state.agent.shortfall[disk]
                && let Some(base) = maps::written_off(&state.base[disk], &counts)
            {
                state.base[disk] = base;
            }
        }
    }

    /// What was sent is published at any time, or dropped once its connection is gone. The next point of the disk
    /// does not begin before one of the two has happened.
    fn dispatcher_steps(&self, state: &State, next: &mut Vec<(Action, State)>) {
        if let Some(sent) = &state.sent {
            let mut published = state.clone();
            for part in 0..self.world.granules() * PARTS {
                if sent.carried >> (part / PARTS) & 1 != 0 {
                    published.chain[part] = sent.content[part];
                }
            }
            (published.sent, published.published) = (None, true);
            next.push((Action::Publish, published));
            if state.agent.stage != Stage::Sealed {
                next.push((Action::DropSent, State { sent: None, old: None, ..state.clone() }));
            }
        }
        if let Some(carried) = state.old
            && state.sent.is_none()
        {
            let mut after = State { old: None, ..state.clone() };
            self.acknowledge(&mut after, Mask::MAX, carried);
            next.push((Action::OldAcknowledgement, after));
        }
    }

    /// The agent is killed, or its connection is lost: for the point it is the same. What is pinned goes on.
    fn breaks(&self, state: &State, next: &mut Vec<(Action, State)>) {
        if state.breaks == 0 || state.agent.stage == Stage::Idle {
            return;
        }
        let waits = matches!(state.agent.stage, Stage::Sealed | Stage::Acknowledge(_));
        let old = (waits && self.is(Mutation::OldAcknowledgement)).then_some(state.agent.carried);
        let breaks = state.breaks - 1;
        let astray = match state.agent.stage {
            Stage::Sweep(index) if self.is(Mutation::SweepOutlivesItsCut) => Some(index),
            _ => state.astray,
        };
        let killed = State { breaks, old, astray, agent: Agent::default(), ..state.clone() };
        if let Some(inside) = self.killed_inside(state, &killed) {
            next.push((Action::KillInside, inside));
        }
        next.push((Action::Kill, killed));
    }

    /// The connection breaks while the point is open, and the point goes on with what has arrived: any part of what was
    /// sent. Nobody looks at issued before that.
    fn breaks_off(&self, state: &State, next: &mut Vec<(Action, State)>) {
        let agent = &state.agent;
        if !self.world.drafts || state.breaks == 0 || agent.rescan {
            return;
        }
        let sent = match agent.stage {
            Stage::Read(part) => agent.reading & ((1 << (usize::from(part) / PARTS)) - 1),
            Stage::Look(_) | Stage::Audit(_) => agent.reading,
            _ => return,
        };
        let known = agent.valid | sent;
        for lost in (0..=known).filter(|lost| lost & !known == 0) {
            let mut after = State { breaks: state.breaks - 1, ..state.clone() };
            for disk in (0..self.world.disks.len()).map(|disk| self.world.mask_of(disk)) {
                let mut point = maps::open_point(agent, disk);
                if !matches!(agent.stage, Stage::Audit(_)) {
                    point.validate(&maps::swept_on(agent, disk), &set_of(sent & disk), &GranuleSet::new());
                }
                point.lose(&set_of(lost & disk));
                maps::keep_point(&mut after.agent, disk, &point);
            }
            let agent = &mut after.agent;
            (agent.rounds, agent.fuzzy, agent.shortfall) = (0, false, [None; MAX_DISKS]);
            if self.is(Mutation::SweptBeforeItGoesOn) {
                for step in [Step::Issued, Step::Completed] {
                    Lane::with(&self.world, &mut after, Mask::MAX, 0, |lane| {
                        step.take(lane, &mut Swept::default());
                    });
                }
            }
            self.cut(&mut after);
            next.push((Action::BreakOff(lost), after));
        }
    }

    /// Killed between the two instructions that move a bit.
    fn killed_inside(&self, state: &State, killed: &State) -> Option<State> {
        let Stage::Sweep(index) = state.agent.stage else { return None };
        let (step, granule) = self.schedule[usize::from(index)];
        let bit = 1 << granule;
        let (from, held) = match step {
            Step::Issued => (state.issued & bit, &killed.issued),
            Step::Completed => (state.completed & bit, &killed.completed),
            Step::Again | Step::InFlight => return None,
        };
        if from == 0 {
            return None;
        }
        let mut inside = killed.clone();
        if !self.is(Mutation::ClearBeforeOr) {
            inside.pending |= bit;
        } else if step == Step::Issued {
            inside.issued = held & !bit;
        } else {
            inside.completed = held & !bit;
        }
        Some(inside)
    }
}
