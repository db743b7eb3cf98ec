//! Continuous protection: cuts the agent's group of disks, on schedule and on demand.
//!
//! ```text
//!              due, or a sync is asked for            published, or failed
//! idle ------------------------------------> cutting ----------------------> idle
//!   ^                                           |
//!   +-------------------------------------------+  a member was paused, cancelled or left: the cut is dropped;
//!                                                  what it swept is still pending
//! ```
//!
//! A disk whose coverage was lost leaves the group while the others are proven: it is read as a whole into a point of
//! its own, meanwhile, and joins again with that.

use super::conduct::Terms;
use super::dialer::Dialer;
use super::live::{Done, LiveError, LiveMember, join, perform};
use super::pace::Pace;
use super::round::{CutError, on_thread};
use super::unit::Unit;
use crate::config::hooks::HooksConfig;
use crate::engine::backoff::Backoff;
use crate::io::random;
use crate::model::ids::{ActionId, CutId, DiskIdentity};
use crate::model::point::Consistency;
use crate::model::policy::{CutRules, DEFAULT_LIVE_SYNC, Goal, Group, Grouping};
use crate::wire::config::SyncOutcome;
use crate::wire::live::{MAX_REPORTED_RANGES, ToDispatcher};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Syncs that wait for the cut that is under way; one more is answered with an error.
const MAX_WAITING: usize = 64;
/// How often change reports are sent while nothing is being cut.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// After a link that could not be made, cuts are what makes the next, and reports only after this.
const JOIN_AGAIN: Duration = Duration::from_secs(10);

/// What the cutter is told.
#[derive(Debug)]
pub enum Command {
    /// Between scheduled cuts, how each is made, and which disks share one.
    Rules { every: Duration, rules: CutRules, grouping: Grouping },
    /// The disk has a base: keep it in sync.
    Protect { unit: Arc<Unit>, action: ActionId, paused: bool },
    /// Leave the disk alone from now on.
    Release(DiskIdentity),
    /// Cut now, whatever the schedule says.
    Sync { request: CutId, disk: Option<DiskIdentity>, goal: Option<Goal> },
}

/// What the cutter says.
#[derive(Debug)]
pub enum Event {
    Synced {
        request: CutId,
        outcomes: Vec<SyncOutcome>,
    },
    /// A scheduled cut failed, and why; it is tried again.
    Failed {
        actions: Vec<ActionId>,
        reason: String,
    },
    /// Cuts work again.
    Recovered {
        actions: Vec<ActionId>,
    },
}

/// A sync that waits for its cut.
#[derive(Debug)]
struct Asked {
    request: CutId,
    disk: Option<DiskIdentity>,
    /// Instead of what the policy says.
    goal: Option<Goal>,
}

/// What a cut is made for.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// Its id, if somebody waits for it.
    cut: Option<CutId>,
    /// Instead of what the policy says.
    goal: Option<Goal>,
    /// Also where nothing changed.
    on_demand: bool,
}

fn failed(disk: &DiskIdentity, reason: &str) -> SyncOutcome {
    SyncOutcome { identity: disk.clone(), result: Err(reason.to_owned()) }
}

/// A pass over one disk, outside the cuts of its group.
type Pass = (DiskIdentity, Result<Done, String>);

#[derive(Debug)]
struct Slot {
    unit: Arc<Unit>,
    action: ActionId,
    paused: bool,
    /// The newest point is: the next one may be better, also without a change.
    fuzzy: bool,
    /// The dispatcher at the other end of this link has taken a point: its newest is the one that is known here. Before
    /// that it may have been set back, and a disk on which nothing changed may lack everything.
    confirmed: bool,
    /// The disk is being read as a whole; no cut holds it.
    pass: Option<AbortOnDrop>,
    /// `None` until the first cut, after an error, and while a cut has it.
    member: Option<LiveMember>,
}

impl Slot {
    /// Why the disk is not in a cut of the others, for their points.
    fn why_missing(&self) -> String {
        let disk = &self.unit.identity;
        match self.unit.lost_coverage() {
            _ if self.paused => format!("{disk} is not in this cut: it is paused"),
            Some(reason) => format!("{disk} is not in this cut: it is being read as a whole ({reason})"),
            None => format!("{disk} is not in this cut: this disk is read as a whole by itself"),
        }
    }
}

/// Ends a pass when nobody wants it any more.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The task. Ends when its commands end.
#[derive(Debug)]
pub struct Cutter {
    dialer: Dialer,
    pace: Pace,
    every: Duration,
    rules: CutRules,
    grouping: Grouping,
    hooks: Arc<HooksConfig>,
    slots: Vec<Slot>,
    passes: JoinSet<Pass>,
    waiting: VecDeque<Asked>,
    due: Instant,
    /// Links are not tried again before, only to report.
    join_after: Instant,
    backoff: Backoff,
    failing: bool,
    events: mpsc::Sender<Event>,
}

impl Cutter {
    pub fn new(dialer: Dialer, pace: Pace, hooks: Arc<HooksConfig>, events: mpsc::Sender<Event>) -> Self {
        Self {
            dialer,
            pace,
            every: DEFAULT_LIVE_SYNC,
            rules: CutRules::default(),
            grouping: Grouping::default(),
            hooks,
            slots: Vec::new(),
            passes: JoinSet::new(),
            waiting: VecDeque::new(),
            due: Instant::now(),
            join_after: Instant::now(),
            backoff: Backoff::default(),
            failing: false,
            events,
        }
    }

    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let next = if self.waiting.is_empty() { self.due } else { Instant::now() };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return,
                    Some(command) => { self.obey(command).await; }
                },
                Some(pass) = self.passes.join_next() => if let Ok((disk, result)) = pass {
                    self.pass_ended(&disk, result).await;
                },
                () = tokio::time::sleep_until(next.into()) => {
                    if self.cut(&mut commands).await.is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep(REPORT_EVERY) => self.report().await,
            }
        }
    }

    /// Carries out a command; says whether it concerns a disk that a cut under way may hold.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Rules { every, rules, grouping } => {
                self.due = self.due.min(Instant::now() + every);
                (self.every, self.rules, self.grouping) = (every, rules, grouping);
                false
            }
            Command::Protect { unit, action, paused } => self.protect(unit, action, paused),
            Command::Release(disk) => {
                let before = self.slots.len();
                self.slots.retain(|slot| slot.unit.identity != disk);
                before != self.slots.len()
            }
            Command::Sync { request, disk, goal } => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(Asked { request, disk, goal });
                } else {
                    let reason =
                        format!("{MAX_WAITING} syncs are waiting already; try again when they are done");
                    let wanted = |slot: &&Slot| disk.as_ref().is_none_or(|disk| *disk == slot.unit.identity);
                    let slots = self.slots.iter().filter(wanted);
                    let outcomes: Vec<_> = slots.map(|slot| failed(&slot.unit.identity, &reason)).collect();
                    self.answer(request, disk.as_ref(), &outcomes).await;
                }
                false
            }
        }
    }

    fn protect(&mut self, unit: Arc<Unit>, action: ActionId, paused: bool) -> bool {
        let slot = self.slots.iter_mut().find(|slot| slot.unit.identity == unit.identity);
        let Some(slot) = slot else {
            self.due = Instant::now() + self.every;
            self.slots.push(Slot {
                unit,
                action,
                paused,
                fuzzy: false,
                confirmed: false,
                pass: None,
                member: None,
            });
            return false;
        };
        let interrupts = paused && !slot.paused;
        let renewed = !Arc::ptr_eq(&slot.unit, &unit);
        (slot.action, slot.paused) = (action, paused);
        if interrupts || renewed {
            slot.pass = None;
        }
        if renewed {
            (slot.unit, slot.member) = (unit, None);
        }
        interrupts || renewed
    }

    /// One cut of every group that is due or was asked for, one after the other. `None` when the commands have ended.
    async fn cut(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<()> {
        self.due = Instant::now() + self.every;
        let asked = self.next_asked();
        let mut outcomes = Vec::new();
        for group in self.groups(&asked) {
            // An id is that of one cut: the first is what was asked for.
            let cut = asked.first().filter(|_| outcomes.is_empty()).map(|asked| asked.request);
            let goal = asked.first().and_then(|asked| asked.goal);
            let order = Order { cut, goal, on_demand: !asked.is_empty() };
            outcomes.extend(self.cut_group(&group, order, commands).await?);
        }
        for Asked { request, disk, .. } in asked {
            self.answer(request, disk.as_ref(), &outcomes).await;
        }
        Some(())
    }

    fn group_of(&self, slot: &Slot) -> Group {
        self.grouping.of(&slot.unit.device(), &slot.unit.identity)
    }

    /// The groups to cut: those of the disks that were asked for, or all.
    fn groups(&self, asked: &[Asked]) -> BTreeSet<Group> {
        let wanted = |slot: &&Slot| {
            let of_group = |disk: &DiskIdentity| {
                let named = self.slots.iter().find(|s| s.unit.identity == *disk);
                named.is_some_and(|named| self.group_of(named) == self.group_of(slot))
            };
            asked.is_empty() || asked.iter().any(|a| a.disk.as_ref().is_none_or(of_group))
        };
        self.slots.iter().filter(wanted).map(|slot| self.group_of(slot)).collect()
    }

    /// Cuts what can be cut of a group; says what became of each disk. `None` when the commands have ended.
    async fn cut_group(
        &mut self,
        group: &Group,
        order: Order,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Vec<SyncOutcome>> {
        for tries in 0.. {
            let members = self.members(group, order);
            if members.is_empty() || (!order.on_demand && self.is_clean(&members).await) {
                break;
            }
            let disks: Vec<Arc<Unit>> = members.iter().map(|i| Arc::clone(&self.slots[*i].unit)).collect();
            match self.cut_members(&members, self.terms(order, &members), commands).await? {
                // Without the disk, which is marked by now.
                Err(LiveError::Cut(CutError::Lost { disk, reason })) if tries < self.slots.len() => {
                    tracing::warn!(%disk, %reason, "the disk leaves the cut: it is read as a whole by itself");
                    disks.iter().for_each(|unit| unit.abandoned());
                }
                result => return Some(self.finish(&disks, result.map_err(|e| e.to_string())).await),
            }
        }
        Some(Vec::new())
    }

    /// The disks of a group that share its next cut. Where coverage of some is lost and of others is not, those are
    /// read as a whole by themselves.
    fn members(&mut self, group: &Group, order: Order) -> Vec<usize> {
        let is_free = |slot: &Slot| !slot.paused && slot.pass.is_none() && self.group_of(slot) == *group;
        let active: Vec<usize> = (0..self.slots.len()).filter(|i| is_free(&self.slots[*i])).collect();
        let (lost, proven): (Vec<usize>, Vec<usize>) =
            active.iter().partition(|i| self.slots[**i].unit.lost_coverage().is_some());
        if proven.is_empty() {
            return lost;
        }
        for index in lost {
            let terms = self.terms(Order { cut: None, ..order }, &[index]);
            let slot = &mut self.slots[index];
            let taken = vec![(Arc::clone(&slot.unit), slot.member.take())];
            let work = perform(taken, self.dialer.clone(), self.pace.clone(), terms);
            let disk = slot.unit.identity.clone();
            let task = async move { (disk, work.await.map_err(|e| e.to_string())) };
            slot.pass = Some(AbortOnDrop(self.passes.spawn(task)));
        }
        proven
    }

    /// One cut of these slots. `None` when the commands have ended.
    async fn cut_members(
        &mut self,
        members: &[usize],
        terms: Terms,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Result<Done, LiveError>> {
        let take = |slot: &mut Slot| (Arc::clone(&slot.unit), slot.member.take());
        let taken = members.iter().map(|i| take(&mut self.slots[*i])).collect();
        let work = perform(taken, self.dialer.clone(), self.pace.clone(), terms);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Some(result),
                command = commands.recv() => {
                    if self.obey(command?).await {
                        let why = CutError::Stopped("the cut was dropped: one of its disks was paused or left");
                        return Some(Err(why.into()));
                    }
                }
            }
        }
    }

    /// The disk is covered again, or stays as it was until the next cut.
    async fn pass_ended(&mut self, disk: &DiskIdentity, result: Result<Done, String>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.unit.identity == *disk) else { return };
        slot.pass = None;
        match result {
            Ok(done) => {
                let actions = vec![slot.action];
                self.keep(done);
                let _ = self.events.send(Event::Recovered { actions }).await;
            }
            Err(reason) => {
                slot.unit.abandoned();
                tracing::warn!(%disk, %reason, "the disk could not be read as a whole; it is tried again");
                let actions = vec![slot.action];
                let _ = self.events.send(Event::Failed { actions, reason }).await;
                self.failing = true;
            }
        }
    }

    /// Keeps the links of a cut that was published, and what became of each disk.
    fn keep(&mut self, (members, outcomes): Done) -> Vec<SyncOutcome> {
        for member in members {
            if let Some(slot) = self.slots.iter_mut().find(|s| Arc::ptr_eq(&s.unit, &member.unit)) {
                let ours = |o: &&SyncOutcome| o.identity == slot.unit.identity;
                let result = outcomes.iter().find(ours).and_then(|o| o.result.as_ref().ok());
                slot.confirmed = result.is_some();
                slot.fuzzy = result.is_some_and(|synced| synced.consistency == Consistency::Fuzzy);
                slot.member = Some(member);
            }
        }
        outcomes
    }

    /// Requests that can share the next cut: those that ask for the same.
    fn next_asked(&mut self) -> Vec<Asked> {
        let Some(first) = self.waiting.front().map(|asked| asked.goal) else { return Vec::new() };
        let (now, later): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|asked| asked.goal == first);
        self.waiting = later.into();
        now
    }

    fn terms(&self, order: Order, members: &[usize]) -> Terms {
        let groups: BTreeSet<Group> = members.iter().map(|i| self.group_of(&self.slots[*i])).collect();
        let missing = |i: &usize| !members.contains(i) && groups.contains(&self.group_of(&self.slots[*i]));
        Terms {
            cut: order.cut.unwrap_or_else(|| CutId(random::id())),
            actions: members.iter().map(|i| self.slots[*i].action).collect(),
            missing: (0..self.slots.len()).filter(missing).map(|i| self.slots[i].why_missing()).collect(),
            rules: CutRules { goal: order.goal.unwrap_or(self.rules.goal), ..self.rules },
            hooks: Arc::clone(&self.hooks),
        }
    }

    /// Whether a point of these disks would say nothing new: nothing changed, as far as the audits can tell, and the
    /// newest points are proven.
    async fn is_clean(&self, active: &[usize]) -> bool {
        for slot in active.iter().map(|i| &self.slots[*i]) {
            let (unit, lease) = (Arc::clone(&slot.unit), slot.unit.lease().await);
            // An agent that is stopping cuts nothing.
            let clean = on_thread(lease, move || unit.is_clean() && unit.is_covered()).await.unwrap_or(true);
            if slot.fuzzy || !slot.confirmed || slot.member.is_none() || !clean {
                return false;
            }
        }
        true
    }

    /// Takes in how a cut of these disks ended; says what became of each.
    async fn finish(&mut self, disks: &[Arc<Unit>], result: Result<Done, String>) -> Vec<SyncOutcome> {
        let concerned =
            self.slots.iter().filter(|slot| disks.iter().any(|unit| Arc::ptr_eq(unit, &slot.unit)));
        let actions: Vec<ActionId> = concerned.map(|slot| slot.action).collect();
        match result {
            Ok(done) => {
                self.backoff.reset();
                if std::mem::take(&mut self.failing) {
                    let _ = self.events.send(Event::Recovered { actions }).await;
                }
                self.keep(done)
            }
            Err(reason) => {
                disks.iter().for_each(|unit| unit.abandoned());
                tracing::warn!(%reason, "no point was published; what changed stays dirty and is tried again");
                self.due = Instant::now() + self.backoff.next(random::id()).min(self.every);
                self.failing = true;
                let _ = self.events.send(Event::Failed { actions, reason: reason.clone() }).await;
                disks.iter().map(|unit| failed(&unit.identity, &reason)).collect()
            }
        }
    }

    /// Answers a sync: with what became of each disk, and why the others that it asked for were not cut.
    async fn answer(&self, request: CutId, disk: Option<&DiskIdentity>, outcomes: &[SyncOutcome]) {
        let wanted = |slot: &&Slot| disk.is_none_or(|disk| *disk == slot.unit.identity);
        let apart = self.slots.iter().filter(|slot| slot.pass.is_some()).filter(wanted);
        let mut all = outcomes.to_vec();
        all.extend(apart.map(|slot| failed(&slot.unit.identity, &slot.why_missing())));
        if let Some(disk) = disk.filter(|disk| all.iter().all(|outcome| outcome.identity != **disk)) {
            all.push(failed(disk, "the disk has no published base, or is paused"));
        }
        let _ = self.events.send(Event::Synced { request, outcomes: all }).await;
    }

    /// Says what changed since the newest point.
    async fn report(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.paused && slot.pass.is_none()) {
            if slot.member.is_none() && self.join_after <= Instant::now() {
                slot.confirmed = false;
                slot.member = join(&slot.unit, &self.dialer, self.pace.clone()).await.ok();
            }
            let Some(member) = &mut slot.member else {
                self.join_after = Instant::now() + JOIN_AGAIN;
                continue;
            };
            let unit = Arc::clone(&slot.unit);
            let Ok(dirty) = on_thread((), move || unit.dirty()).await else { return };
            let ranges = dirty.runs().take(MAX_REPORTED_RANGES).map(|r| (r.start, r.end)).collect();
            let backlog = dirty.len() * slot.unit.granule().bytes();
            if member.link.say(&ToDispatcher::Report { backlog, dirty: ranges }).await.is_err() {
                slot.member = None;
            }
        }
    }
}
