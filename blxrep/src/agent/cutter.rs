//! Continuous protection: cuts the agent's group of disks, on schedule and on demand.
//!
//! ```text
//!              due, or a sync is asked for            published, or failed
//! idle ------------------------------------> cutting ----------------------> idle
//!   ^                                           |
//!   +-------------------------------------------+  a member was paused, cancelled or left: the cut is dropped;
//!                                                  what it swept is still pending
//! ```

use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::round::{self, CutError, Member, on_thread};
use super::unit::Unit;
use crate::engine::backoff::Backoff;
use crate::engine::cut::Plan;
use crate::io::random;
use crate::model::ids::{ActionId, CutId, DiskIdentity, PointId};
use crate::model::point::CutSummary;
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

/// What the cutter is told.
#[derive(Debug)]
pub enum Command {
    /// Seconds between scheduled cuts.
    Every(Duration),
    /// The disk has a base: keep it in sync.
    Protect { unit: Arc<Unit>, action: ActionId, paused: bool },
    /// Leave the disk alone from now on.
    Release(DiskIdentity),
    /// Cut now, whatever the schedule says.
    Sync { request: CutId, disk: Option<DiskIdentity> },
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

type LiveMember = Member<ToDispatcher, ToAgent>;

#[derive(Debug)]
struct Slot {
    unit: Arc<Unit>,
    action: ActionId,
    paused: bool,
    /// `None` until the first cut, after an error, and while a cut has it.
    member: Option<LiveMember>,
}

/// The task. Ends when its commands end.
#[derive(Debug)]
pub struct Cutter {
    dialer: Dialer,
    pace: Pace,
    every: Duration,
    slots: Vec<Slot>,
    waiting: VecDeque<(CutId, Option<DiskIdentity>)>,
    due: Instant,
    backoff: Backoff,
    failing: bool,
    events: mpsc::Sender<Event>,
}

impl Cutter {
    pub fn new(dialer: Dialer, pace: Pace, every: Duration, events: mpsc::Sender<Event>) -> Self {
        Self {
            dialer,
            pace,
            every,
            slots: Vec::new(),
            waiting: VecDeque::new(),
            due: Instant::now(),
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
            Command::Every(every) => {
                self.due = self.due.min(Instant::now() + every);
                self.every = every;
                false
            }
            Command::Protect { unit, action, paused } => self.protect(unit, action, paused),
            Command::Release(disk) => {
                let before = self.slots.len();
                self.slots.retain(|slot| slot.unit.identity != disk);
                before != self.slots.len()
            }
            Command::Sync { request, disk } => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back((request, disk));
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
            self.slots.push(Slot { unit, action, paused, member: None });
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
        let asked: Vec<_> = self.waiting.drain(..).collect();
        let active: Vec<usize> = (0..self.slots.len()).filter(|i| !self.slots[*i].paused).collect();
        if active.is_empty() || (asked.is_empty() && self.is_clean(&active).await) {
            let reason = "no disk of the agent has a published base and is not paused".to_owned();
            for (request, disk) in asked {
                self.answer(request, disk.as_ref(), &Err(reason.clone())).await;
            }
            return Some(());
        }
        let cut = asked.first().map_or_else(|| CutId(random::id()), |(request, _)| *request);
        let taken =
            active.iter().map(|i| (Arc::clone(&self.slots[*i].unit), self.slots[*i].member.take())).collect();
        let result = {
            let work = perform(taken, self.dialer.clone(), self.pace.clone(), cut);
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

    /// Whether nothing changed on any of these disks.
    async fn is_clean(&self, active: &[usize]) -> bool {
        let units: Vec<_> = active.iter().map(|i| Arc::clone(&self.slots[*i].unit)).collect();
        // An agent that is stopping cuts nothing.
        on_thread(move || units.iter().all(|unit| unit.is_clean())).await.unwrap_or(true)
    }

    async fn finish(&mut self, result: Result<Done, String>, asked: Vec<(CutId, Option<DiskIdentity>)>) {
        let outcome = result.map(|(members, outcomes)| {
            for member in members {
                if let Some(slot) = self.slots.iter_mut().find(|s| Arc::ptr_eq(&s.unit, &member.unit)) {
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
        for (request, disk) in asked {
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

    /// Says what changed since the newest point, on the links that stand.
    async fn report(&mut self) {
        for slot in &mut self.slots {
            let Some(member) = &mut slot.member else { continue };
            let unit = Arc::clone(&slot.unit);
            let Ok(dirty) = on_thread(move || unit.dirty()).await else { return };
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
    cut: CutId,
) -> Result<Done, LiveError> {
    let mut members = Vec::with_capacity(disks.len());
    let mut points = Vec::with_capacity(disks.len());
    for (unit, member) in disks {
        let mut member = match member {
            Some(member) => member,
            None => join(&unit, &dialer, pace.clone()).await?,
        };
        points.push(open(&mut member, cut).await?);
        members.push(member);
    }
    let summaries = round::run(&mut members, cut, &Plan::default()).await?;
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
            let kept = on_thread(move || unit.published(point, &carried)).await?;
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
