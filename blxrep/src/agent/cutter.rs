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
//! A disk whose coverage was lost leaves the group: it is compared with its newest point meanwhile (a *pass*), and joins
//! again after that, with what differs.

use super::compare::CompareError;
use super::conduct::Terms;
use super::dialer::Dialer;
use super::live::{Broken, Done, LiveError, join, perform};
use super::pace::Pace;
use super::rescan;
use super::round::{CutError, MAX_WIDENINGS, on_thread};
use super::slot::{AbortOnDrop, Slot};
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
use tokio::task::JoinSet;

/// Syncs that wait for the cut that is under way; one more is answered with an error.
const MAX_WAITING: usize = 64;
/// How often change reports are sent while nothing is being cut.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// After a link that could not be made, cuts are what makes the next, and reports only after this.
const JOIN_AGAIN: Duration = Duration::from_secs(10);

/// After so many rescans without a point between, writes go unseen again and again: the next one waits.
const RESCAN_AGAIN: Duration = Duration::from_secs(3600);

/// What the cutter is told.
#[derive(Debug)]
pub enum Command {
    /// Between scheduled cuts, how each is made, and which disks share one.
    Rules { every: Duration, rules: CutRules, grouping: Grouping },
    /// The disk has a base: keep it in sync.
    Protect { unit: Arc<Unit>, action: ActionId, paused: bool },
    /// Leave the disk alone from now on.
    Release(DiskIdentity),
    /// Rescans that the dispatcher held back may be asked for again.
    Resume,
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
    /// Its cut was given up: the next one has an id of its own.
    again: bool,
}

impl Asked {
    fn wants(&self, slot: &Slot) -> bool {
        !slot.paused && self.disk.as_ref().is_none_or(|disk| *disk == slot.unit.identity)
    }
}

/// What a cut is made for.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// Instead of what the policy says.
    goal: Option<Goal>,
    /// Also where nothing changed.
    on_demand: bool,
}

fn failed(disk: &DiskIdentity, reason: &str) -> SyncOutcome {
    SyncOutcome { identity: disk.clone(), result: Err(reason.to_owned()) }
}

/// How a pass over a disk ended.
type Pass = (DiskIdentity, Result<(), CompareError>);

/// The task. Ends when its commands end.
#[derive(Debug)]
pub struct Cutter {
    dialer: Dialer,
    pace: Pace,
    /// Reads in flight of a pass.
    readers: usize,
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
    pub fn new(
        dialer: Dialer,
        pace: Pace,
        readers: usize,
        hooks: Arc<HooksConfig>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            dialer,
            pace,
            readers,
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
            self.begin_passes();
            let ready = self.waiting.iter().any(|asked| self.is_ready(asked));
            let next = if ready { Instant::now() } else { self.due };
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
            Command::Resume => {
                self.slots.iter_mut().for_each(|slot| slot.held = None);
                false
            }
            Command::Sync { request, disk, goal } => {
                if self.waiting.len() < MAX_WAITING {
                    let asked = Asked { request, disk, goal, again: false };
                    for slot in self.slots.iter_mut().filter(|slot| asked.wants(slot)) {
                        (slot.held, slot.pass_after) = (None, Instant::now());
                    }
                    self.waiting.push_back(asked);
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
            self.slots.push(Slot::new(unit, action, paused));
            return false;
        };
        let interrupts = paused && !slot.paused;
        let renewed = !Arc::ptr_eq(&slot.unit, &unit);
        (slot.action, slot.paused) = (action, paused);
        if interrupts || renewed {
            slot.pass = None;
        }
        if renewed {
            (slot.unit, slot.member, slot.draft) = (unit, None, None);
            (slot.held, slot.pass_after, slot.passes) = (None, Instant::now(), 0);
        }
        interrupts || renewed
    }

    /// One cut of every group that is due or was asked for, one after the other. `None` when the commands have ended.
    async fn cut(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<()> {
        self.due = Instant::now() + self.every;
        let asked = self.next_asked();
        let mut outcomes = Vec::new();
        // An id is that of one cut: the first has what was asked for.
        let mut cut = asked.first().filter(|asked| !asked.again).map(|asked| asked.request);
        for group in self.groups(&asked) {
            let goal = asked.first().and_then(|asked| asked.goal);
            let order = Order { goal, on_demand: !asked.is_empty() };
            outcomes.extend(self.cut_group(&group, order, &mut cut, commands).await?);
        }
        for asked in asked {
            // A disk that fell out of this cut is in the next one, when it has been compared.
            let cut = |slot: &Slot| outcomes.iter().any(|outcome| outcome.identity == slot.unit.identity);
            if self.is_ready(&asked) || self.slots.iter().any(|slot| asked.wants(slot) && cut(slot)) {
                self.answer(asked.request, asked.disk.as_ref(), &outcomes).await;
            } else {
                self.waiting.push_front(Asked { again: true, ..asked });
            }
        }
        Some(())
    }

    /// Whether a sync need not wait for passes: some disk that it asks for can be cut, or none ever will.
    fn is_ready(&self, asked: &Asked) -> bool {
        let soon = Instant::now() + JOIN_AGAIN * 2;
        let waits = |slot: &Slot| {
            slot.pass.is_some() || (slot.is_lost() && slot.held.is_none() && slot.pass_after < soon)
        };
        !self.slots.iter().any(|slot| asked.wants(slot) && waits(slot))
            || self.slots.iter().any(|slot| asked.wants(slot) && !slot.is_lost())
    }

    /// Begins to compare every disk whose coverage is lost with its newest point.
    fn begin_passes(&mut self) {
        let now = Instant::now();
        for slot in &mut self.slots {
            let asked = self.waiting.iter().any(|asked| asked.wants(slot));
            let free = !slot.paused && slot.pass.is_none() && slot.held.is_none() && slot.pass_after <= now;
            if !free || slot.unit.lost_coverage().is_none() {
                continue;
            }
            let (unit, disk) = (Arc::clone(&slot.unit), slot.unit.identity.clone());
            let work = rescan::attempt(unit, self.dialer.clone(), self.pace.clone(), self.readers, asked);
            let task = async move { (disk, work.await) };
            slot.pass = Some(AbortOnDrop(self.passes.spawn(task)));
        }
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
        cut: &mut Option<CutId>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Vec<SyncOutcome>> {
        for tries in 0.. {
            let members = self.members(group);
            if members.is_empty() || (!order.on_demand && self.is_clean(&members).await) {
                break;
            }
            let disks: Vec<Arc<Unit>> = members.iter().map(|i| Arc::clone(&self.slots[*i].unit)).collect();
            // If it fails, the dispatcher gives up the cut of this id.
            let id = cut.take().unwrap_or_else(|| CutId(random::id()));
            match self.cut_members(&members, self.terms(id, order, &members), commands).await? {
                // Without the disk, which is marked by now.
                Err(LiveError::Cut(CutError::Lost { disk, reason })) if tries < self.slots.len() => {
                    disks.iter().for_each(|unit| unit.abandoned());
                    self.fell_out(&disk, &reason).await;
                }
                result => return Some(self.finish(&disks, result.map_err(|e| e.to_string())).await),
            }
        }
        Some(Vec::new())
    }

    /// The disks of a group that share its next cut.
    fn members(&self, group: &Group) -> Vec<usize> {
        let is_free = |slot: &Slot| !slot.paused && !slot.is_lost() && self.group_of(slot) == *group;
        (0..self.slots.len()).filter(|i| is_free(&self.slots[*i])).collect()
    }

    /// A cut has found that coverage of a disk is lost.
    async fn fell_out(&mut self, disk: &DiskIdentity, reason: &str) {
        tracing::warn!(%disk, %reason, "the disk leaves the cut: it is compared with its newest point");
        self.failing = true;
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.unit.identity == *disk) else { return };
        let mut reason = format!("coverage is lost: {reason}; the disk is compared with its newest point");
        if slot.passes >= MAX_WIDENINGS {
            (slot.passes, slot.pass_after) = (0, Instant::now() + RESCAN_AGAIN);
            reason.push_str(&format!(
                " in an hour: it was compared {MAX_WIDENINGS} times and writes were missed each time"
            ));
        }
        let actions = vec![slot.action];
        let _ = self.events.send(Event::Failed { actions, reason }).await;
        self.begin_passes();
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
        let drafts = members.iter().filter_map(|i| self.slots[*i].draft.take()).collect();
        let work = perform(taken, drafts, self.dialer.clone(), self.pace.clone(), terms);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Some(result.map_err(|broken| self.keep_drafts(broken))),
                command = commands.recv() => {
                    if self.obey(command?).await {
                        let why = CutError::Stopped("the cut was dropped: one of its disks was paused or left");
                        return Some(Err(why.into()));
                    }
                }
            }
        }
    }

    /// Keeps what can go on of a cut that was not published; returns why it was not.
    fn keep_drafts(&mut self, Broken { error, drafts }: Broken) -> LiveError {
        for draft in drafts {
            if let Some(slot) = self.slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.unit, &draft.unit)) {
                slot.draft = Some(draft);
            }
        }
        error
    }

    /// The disk can be cut again, and is at once; or it is tried again; or nobody wants that now.
    async fn pass_ended(&mut self, disk: &DiskIdentity, result: Result<(), CompareError>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.unit.identity == *disk) else { return };
        slot.pass = None;
        let actions = vec![slot.action];
        match result {
            Ok(()) => {
                slot.backoff.reset();
                slot.passes += 1;
                self.due = Instant::now();
                let _ = self.events.send(Event::Recovered { actions }).await;
            }
            Err(CompareError::Held(reason)) => slot.held = Some(reason),
            Err(error) => {
                let reason = format!("cannot compare the disk with its newest point: {error}");
                slot.pass_after = Instant::now() + slot.backoff.next(random::id());
                tracing::warn!(%disk, %reason, "it is tried again");
                self.failing = true;
                let _ = self.events.send(Event::Failed { actions, reason: reason.clone() }).await;
                self.answer_waiting(disk, &reason).await;
            }
        }
    }

    /// Answers the syncs that wait for nothing but this disk.
    async fn answer_waiting(&mut self, disk: &DiskIdentity, reason: &str) {
        let of_disk = |slot: &Slot| slot.unit.identity == *disk;
        let (those, others): (Vec<Asked>, Vec<Asked>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|asked| self.slots.iter().filter(|slot| asked.wants(slot)).all(of_disk));
        self.waiting = others.into();
        for asked in those {
            self.answer(asked.request, asked.disk.as_ref(), &[failed(disk, reason)]).await;
        }
    }

    /// Keeps the links of a cut that was published, and what became of each disk.
    fn keep(&mut self, (members, outcomes): Done) -> Vec<SyncOutcome> {
        for member in members {
            if let Some(slot) = self.slots.iter_mut().find(|s| Arc::ptr_eq(&s.unit, &member.unit)) {
                let ours = |o: &&SyncOutcome| o.identity == slot.unit.identity;
                let result = outcomes.iter().find(ours).and_then(|o| o.result.as_ref().ok());
                slot.confirmed = result.is_some();
                // What cannot be read does not get better by itself, and is tried again whenever something changed.
                slot.fuzzy = member.holes.is_empty()
                    && result.is_some_and(|synced| synced.consistency == Consistency::Fuzzy);
                slot.member = Some(member);
                slot.passes = 0;
            }
        }
        outcomes
    }

    /// Requests that can share the next cut: those that ask for the same.
    fn next_asked(&mut self) -> Vec<Asked> {
        let waiting: Vec<Asked> = self.waiting.drain(..).collect();
        let Some(first) = waiting.iter().find(|a| self.is_ready(a)).map(|a| a.goal) else {
            self.waiting = waiting.into();
            return Vec::new();
        };
        let (now, later): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|asked| asked.goal == first && self.is_ready(asked));
        self.waiting = later.into();
        now
    }

    fn terms(&self, cut: CutId, order: Order, members: &[usize]) -> Terms {
        let groups: BTreeSet<Group> = members.iter().map(|i| self.group_of(&self.slots[*i])).collect();
        let missing = |i: &usize| !members.contains(i) && groups.contains(&self.group_of(&self.slots[*i]));
        Terms {
            cut,
            actions: members.iter().map(|i| self.slots[*i].action).collect(),
            missing: (0..self.slots.len()).filter(missing).map(|i| self.slots[i].why_missing()).collect(),
            widens: false,
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
        let told = |slot: &&Slot| outcomes.iter().any(|outcome| outcome.identity == slot.unit.identity);
        let wanted = |slot: &&Slot| disk.is_none_or(|disk| *disk == slot.unit.identity) && !told(slot);
        let apart = self.slots.iter().filter(|slot| !slot.paused && slot.is_lost()).filter(wanted);
        let mut all = outcomes.to_vec();
        all.extend(apart.map(|slot| failed(&slot.unit.identity, &slot.why_missing())));
        if let Some(disk) = disk.filter(|disk| all.iter().all(|outcome| outcome.identity != **disk)) {
            all.push(failed(disk, "the disk has no published base, or is paused"));
        }
        let _ = self.events.send(Event::Synced { request, outcomes: all }).await;
    }

    /// Says what changed since the newest point.
    async fn report(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.paused && !slot.is_lost()) {
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
