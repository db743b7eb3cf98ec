//! Continuous protection: cuts the agent's group of disks, on schedule and on demand.
//!
//! ```text
//!              due, or a sync is asked for            published, or failed
//! idle ------------------------------------> cutting ----------------------> idle
//!   ^                                           |
//!   +-------------------------------------------+  a member was paused, cancelled or left: the cut is dropped;
//!                                                  what it swept is still pending
//! ```

use super::conduct::{self, Terms};
use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::round::{CutError, Member, on_thread};
use super::unit::Unit;
use crate::config::hooks::HooksConfig;
use crate::engine::backoff::Backoff;
use crate::io::random;
use crate::model::ids::{ActionId, CutId, DiskIdentity, PointId};
use crate::model::point::{Consistency, CutSummary};
use crate::model::policy::{CutRules, DEFAULT_LIVE_SYNC, Goal};
use crate::wire::config::{SyncOutcome, SyncedPoint};
use crate::wire::hello::Channel;
use crate::wire::live::{MAX_REPORTED_RANGES, ToAgent, ToDispatcher};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Syncs that wait for the cut that is under way; one more is answered with an error.
const MAX_WAITING: usize = 64;
/// How often change reports are sent while nothing is being cut.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// After a link that could not be made, cuts are what makes the next, and reports only after this.
const JOIN_AGAIN: Duration = Duration::from_secs(10);

/// What the cutter is told.
#[derive(Debug)]
pub enum Command {
    /// Between scheduled cuts, and how each is made.
    Rules(Duration, CutRules),
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

type LiveMember = Member<ToDispatcher, ToAgent>;

#[derive(Debug)]
struct Slot {
    unit: Arc<Unit>,
    action: ActionId,
    paused: bool,
    /// The newest point is: the next one may be better, also without a change.
    fuzzy: bool,
    /// `None` until the first cut, after an error, and while a cut has it.
    member: Option<LiveMember>,
}

/// The task. Ends when its commands end.
#[derive(Debug)]
pub struct Cutter {
    dialer: Dialer,
    pace: Pace,
    every: Duration,
    rules: CutRules,
    hooks: Arc<HooksConfig>,
    slots: Vec<Slot>,
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
            hooks,
            slots: Vec::new(),
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
            Command::Rules(every, rules) => {
                self.due = self.due.min(Instant::now() + every);
                (self.every, self.rules) = (every, rules);
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
                    self.answer(request, disk.as_ref(), &Err(reason)).await;
                }
                false
            }
        }
    }

    fn protect(&mut self, unit: Arc<Unit>, action: ActionId, paused: bool) -> bool {
        let slot = self.slots.iter_mut().find(|slot| slot.unit.identity == unit.identity);
        let Some(slot) = slot else {
            self.due = Instant::now() + self.every;
            self.slots.push(Slot { unit, action, paused, fuzzy: false, member: None });
            return false;
        };
        let interrupts = paused && !slot.paused;
        (slot.action, slot.paused) = (action, paused);
        if !Arc::ptr_eq(&slot.unit, &unit) {
            (slot.unit, slot.member) = (unit, None);
            return true;
        }
        interrupts
    }

    /// One cut of all disks that are not paused. `None` when the commands have ended.
    async fn cut(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<()> {
        self.due = Instant::now() + self.every;
        let asked = self.next_asked();
        let active: Vec<usize> = (0..self.slots.len()).filter(|i| !self.slots[*i].paused).collect();
        if active.is_empty() || (asked.is_empty() && self.is_clean(&active).await) {
            let reason = "no disk of the agent has a published base and is not paused".to_owned();
            for Asked { request, disk, .. } in asked {
                self.answer(request, disk.as_ref(), &Err(reason.clone())).await;
            }
            return Some(());
        }
        let terms = self.terms(&asked, &active);
        let taken =
            active.iter().map(|i| (Arc::clone(&self.slots[*i].unit), self.slots[*i].member.take())).collect();
        let result = {
            let work = perform(taken, self.dialer.clone(), self.pace.clone(), terms);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    result = &mut work => break result.map_err(|e| e.to_string()),
                    command = commands.recv() => {
                        if self.obey(command?).await {
                            break Err("the cut was dropped: one of its disks was paused or left".to_owned());
                        }
                    }
                }
            }
        };
        self.finish(result, asked).await;
        Some(())
    }

    /// Requests that can share the next cut: those that ask for the same.
    fn next_asked(&mut self) -> Vec<Asked> {
        let Some(first) = self.waiting.front().map(|asked| asked.goal) else { return Vec::new() };
        let (now, later): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|asked| asked.goal == first);
        self.waiting = later.into();
        now
    }

    fn terms(&self, asked: &[Asked], active: &[usize]) -> Terms {
        let goal = asked.first().and_then(|asked| asked.goal).unwrap_or(self.rules.goal);
        Terms {
            cut: asked.first().map_or_else(|| CutId(random::id()), |asked| asked.request),
            actions: active.iter().map(|i| self.slots[*i].action).collect(),
            rules: CutRules { goal, ..self.rules },
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
            if slot.fuzzy || !clean {
                return false;
            }
        }
        true
    }

    async fn finish(&mut self, result: Result<Done, String>, asked: Vec<Asked>) {
        let outcome = result.map(|(members, outcomes)| {
            for member in members {
                if let Some(slot) = self.slots.iter_mut().find(|s| Arc::ptr_eq(&s.unit, &member.unit)) {
                    let ours = |o: &&SyncOutcome| o.identity == slot.unit.identity;
                    let result = outcomes.iter().find(ours).and_then(|o| o.result.as_ref().ok());
                    slot.fuzzy = result.is_some_and(|synced| synced.consistency == Consistency::Fuzzy);
                    slot.member = Some(member);
                }
            }
            outcomes
        });
        let actions: Vec<ActionId> = self.slots.iter().filter(|s| !s.paused).map(|s| s.action).collect();
        match &outcome {
            Ok(_) => {
                self.backoff.reset();
                if std::mem::take(&mut self.failing) {
                    let _ = self.events.send(Event::Recovered { actions }).await;
                }
            }
            Err(reason) => {
                for slot in &self.slots {
                    slot.unit.abandoned();
                }
                tracing::warn!(%reason, "no point was published; what changed stays dirty and is tried again");
                self.due = Instant::now() + self.backoff.next(random::id()).min(self.every);
                self.failing = true;
                let _ = self.events.send(Event::Failed { actions, reason: reason.clone() }).await;
            }
        }
        for Asked { request, disk, .. } in asked {
            self.answer(request, disk.as_ref(), &outcome).await;
        }
    }

    /// Answers a sync: with what became of each disk, or with one reason for all that it asked for.
    async fn answer(
        &self,
        request: CutId,
        disk: Option<&DiskIdentity>,
        outcome: &Result<Vec<SyncOutcome>, String>,
    ) {
        let outcomes = match outcome {
            Ok(outcomes) => outcomes.clone(),
            Err(reason) => {
                let all =
                    self.slots.iter().map(|s| &s.unit.identity).filter(|i| disk.is_none_or(|d| d == *i));
                let named: Vec<DiskIdentity> = match (disk, all.cloned().collect::<Vec<_>>()) {
                    (Some(disk), known) if known.is_empty() => vec![disk.clone()],
                    (_, known) => known,
                };
                let failed = |identity| SyncOutcome { identity, result: Err(reason.clone()) };
                named.into_iter().map(failed).collect()
            }
        };
        let _ = self.events.send(Event::Synced { request, outcomes }).await;
    }

    /// Says what changed since the newest point.
    async fn report(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| !slot.paused) {
            if slot.member.is_none() && self.join_after <= Instant::now() {
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

type Done = (Vec<LiveMember>, Vec<SyncOutcome>);

/// Why a cut was not published.
#[derive(Debug, thiserror::Error)]
enum LiveError {
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("{disk}: the dispatcher refused the point: {reason}")]
    Refused { disk: DiskIdentity, reason: String },
    #[error("{disk}: cannot keep the tracking record: {reason}")]
    Record { disk: DiskIdentity, reason: String },
}

impl From<LinkError> for LiveError {
    fn from(error: LinkError) -> Self {
        Self::Cut(error.into())
    }
}

/// Opens a point on every disk, runs the rounds, seals, and waits until all are published together.
async fn perform(
    disks: Vec<(Arc<Unit>, Option<LiveMember>)>,
    dialer: Dialer,
    pace: Pace,
    terms: Terms,
) -> Result<Done, LiveError> {
    let mut members = Vec::with_capacity(disks.len());
    let mut points = Vec::with_capacity(disks.len());
    // Nobody else holds one lease and waits for another.
    let mut leases = Vec::with_capacity(disks.len());
    for (unit, _) in &disks {
        leases.push(unit.lease().await);
    }
    for ((unit, member), lease) in disks.into_iter().zip(leases) {
        let mut member = match member {
            Some(member) => member,
            None => join(&unit, &dialer, pace.clone()).await?,
        };
        member.lease = Some(lease);
        points.push(open(&mut member, terms.cut).await?);
        members.push(member);
    }
    let summaries = conduct::run(&mut members, terms).await?;
    for (member, summary) in members.iter_mut().zip(&summaries) {
        let granules = member.open.carried().len();
        member.link.say(&ToDispatcher::Seal { summary: summary.clone(), granules }).await?;
        member.link.end().await?;
    }
    let mut outcomes = Vec::with_capacity(members.len());
    for ((member, point), summary) in members.iter_mut().zip(points).zip(&summaries) {
        published(member, point).await?;
        outcomes.push(outcome(member, point, summary));
    }
    Ok((members, outcomes))
}

async fn join(unit: &Arc<Unit>, dialer: &Dialer, pace: Pace) -> Result<LiveMember, LiveError> {
    let (connection, _) = dialer.dial(Channel::Live).await.map_err(LinkError::from)?;
    let mut link = Link::new(connection, pace);
    let (disk, device) = (unit.identity.clone(), unit.device());
    let (bytes, granule_shift) = (unit.bytes(), unit.granule().shift());
    link.say(&ToDispatcher::Disk { disk, device, bytes, granule_shift }).await?;
    Ok(Member::new(Arc::clone(unit), link))
}

/// Opens the disk's next point; one that carries the whole disk if the dispatcher cannot go on from what it has.
async fn open(member: &mut LiveMember, cut: CutId) -> Result<PointId, LiveError> {
    let point = PointId(random::id());
    let disk = member.unit.identity.clone();
    let mut whole = member.unit.lost_coverage();
    // The second answer cannot be `Discontinuous`: a whole point stands on any parent.
    for _ in 0..2 {
        let (acked, open) = member.unit.continuity();
        let (epoch, whole_now) = (member.unit.epoch(), whole.clone());
        member.link.say(&ToDispatcher::Begin { point, cut, epoch, acked, open, whole: whole_now }).await?;
        match member.link.hear().await? {
            ToAgent::Accept { point: accepted, parent } if accepted == point => {
                let record = |reason| LiveError::Record { disk: disk.clone(), reason };
                member.unit.opened(point, Some(parent)).map_err(record)?;
                member.reset(whole);
                return Ok(point);
            }
            ToAgent::Discontinuous { reason } if whole.is_none() => {
                tracing::warn!(%disk, %reason, "the disk is read as a whole into the next point");
                member.unit.lose_coverage(&reason);
                whole = Some(reason);
            }
            ToAgent::Refuse { reason } | ToAgent::Discontinuous { reason } => {
                return Err(LiveError::Refused { disk, reason });
            }
            other => return Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }
    Err(LiveError::Refused { disk, reason: "it accepted neither a delta nor the whole disk".to_owned() })
}

async fn published(member: &mut LiveMember, point: PointId) -> Result<(), LiveError> {
    let disk = member.unit.identity.clone();
    match member.link.hear().await? {
        ToAgent::Published { point: done } if done == point => {
            let (unit, carried) = (Arc::clone(&member.unit), member.open.carried().clone());
            let kept = on_thread(member.lease.take(), move || unit.published(point, &carried)).await?;
            kept.map_err(|reason| LiveError::Record { disk, reason })
        }
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}

fn outcome(member: &LiveMember, point: PointId, summary: &CutSummary) -> SyncOutcome {
    let synced = SyncedPoint {
        point,
        consistency: summary.consistency,
        bytes: member.open.carried().len() * member.unit.granule().bytes(),
        rounds: u32::try_from(summary.rounds.len()).unwrap_or(u32::MAX),
    };
    SyncOutcome { identity: member.unit.identity.clone(), result: Ok(synced) }
}
