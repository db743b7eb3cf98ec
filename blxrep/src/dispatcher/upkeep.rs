//! Consolidation as the dispatcher runs it: looks at the points of every agent now and then, and has the disks whose
//! retention lets enough points go consolidated, one after the other.

use super::hub::{Hub, Note};
use super::rows;
use crate::api::consolidation::{ConsolidationPlan, PlannedStep, PointFate};
use crate::api::error::Result as Answer;
use crate::api::types::ActionRow;
use crate::engine::retention::{Candidate, Plan, plan};
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId, DiskId};
use crate::model::point::{Consistency, Disk, Point, PointKind};
use crate::model::retention::{Retention, Step};
use crate::store::catalog::PointFilter;
use crate::store::consolidate::Outcome;
use crate::store::restore::Progress;
use crate::store::{Store, StoreError};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often the points are looked at.
const EVERY: Duration = Duration::from_secs(60);
/// So many points that may go are worth an action at once: a minute of points every second.
const ENOUGH: usize = 50;
/// Fewer wait, for merging them with their successors costs the same.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often it is asked whether an action has ended.
const LOOK: Duration = Duration::from_millis(500);
/// Plans that one action carries out, each of what the one before has left.
const MAX_PLANS: u32 = 16;
/// Consolidations of a disk that are remembered when they have ended: there may be one every minute.
const REMEMBERED: usize = 4;
/// Growth is that of so long.
const GROWTH_OVER: Duration = Duration::from_secs(86_400);

/// What the store takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the files of all points.
    pub stored: u64,
    /// Bytes that the points of the last day added and that are still there; `None` before there was a day's worth.
    pub growth_per_day: Option<u64>,
}

impl Usage {
    /// One more point.
    pub fn add(&mut self, point: &Point) {
        self.stored += point.stored;
        if point.kind == PointKind::Delta {
            self.growth_per_day = self.growth_per_day.map(|growth| growth + point.stored);
        }
    }
}

/// The last consolidation of a disk.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: Timestamp,
    failed: bool,
    /// When it ended, nothing could be written: that may be why it failed, and passes.
    hindered: bool,
}

/// What the hub knows that is needed to plan.
struct Situation {
    rules: BTreeMap<AgentId, Retention>,
    /// Something is being consolidated already.
    is_busy: bool,
}

/// Looks after the store until the hub ends.
pub async fn watch(store: Store, notes: mpsc::Sender<Note>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = BTreeMap::new();
    loop {
        every.tick().await;
        if round(&store, &notes, &mut last).await.is_none() {
            return;
        }
    }
}

/// One look at everything. `None` when the hub has ended.
async fn round(store: &Store, notes: &mpsc::Sender<Note>, last: &mut BTreeMap<DiskId, Last>) -> Option<()> {
    let situation = ask(notes, Hub::situation).await?;
    let (looked, seen) = (store.clone(), last.clone());
    let due = tokio::task::spawn_blocking(move || look(&looked, &situation, &seen)).await.ok()?;
    let (usage, due) = match due {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot see which points may go");
            return Some(());
        }
    };
    ask(notes, move |hub| hub.usage = Some(usage)).await?;
    let consolidates = !due.is_empty();
    for disk in due {
        let begun = ask(notes, move |hub| hub.consolidate_disk(disk)).await?;
        let mut failed = begun.is_err();
        match begun {
            Ok(action) => {
                while ask(notes, move |hub| hub.open.contains_key(&action)).await? {
                    tokio::time::sleep(LOOK).await;
                }
                let ended = ask(notes, move |hub| hub.store.action(action)).await?;
                failed = ended.is_ok_and(|action| action.state != ActionState::Succeeded);
            }
            Err(error) => tracing::info!(%disk, %error, "the disk is not consolidated now"),
        }
        last.insert(disk, Last { at: Timestamp::now(), failed, hindered: store.trouble().is_some() });
    }
    if consolidates {
        let store = store.clone();
        let less = tokio::task::spawn_blocking(move || measure(&store)).await.ok()?;
        ask(notes, move |hub| hub.usage = less.ok().or(hub.usage)).await?;
    }
    Some(())
}

/// Runs something on the hub's thread.
async fn ask<T: Send + 'static>(
    notes: &mpsc::Sender<Note>,
    job: impl FnOnce(&mut Hub) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let job = move |hub: &mut Hub| {
        // Who asked may have gone.
        let _ = reply.send(job(hub));
    };
    notes.send(Note::Call(Box::new(job))).await.ok()?;
    answer.await.ok()
}

/// What the store takes, and which disks are due.
fn look(
    store: &Store,
    situation: &Situation,
    last: &BTreeMap<DiskId, Last>,
) -> Result<(Usage, Vec<DiskId>), StoreError> {
    let now = Timestamp::now();
    let collected = store.collect()?;
    if collected.files > 0 {
        tracing::info!(
            files = collected.files,
            bytes = collected.bytes,
            in_use = collected.in_use,
            "files cleared away"
        );
    }
    let (room, is_full) = (store.spare_bytes(), store.trouble().is_some());
    let mut due = Vec::new();
    for agent in store.agents()? {
        let of_agent =
            store.points(&PointFilter { agent: Some(agent.id.clone()), ..PointFilter::default() })?;
        let rules = situation.rules.get(&agent.id).copied().unwrap_or_default();
        let planned = plan(now, &rules, &candidates(store, &of_agent)?, room);
        let disks: BTreeSet<DiskId> = of_agent.iter().map(|point| point.disk).collect();
        for disk in disks {
            let unfinished = store.generations(disk)?.iter().any(|generation| generation.work.is_some());
            let recent = last.get(&disk).filter(|last| now.duration_since(last.at).unsigned_abs() < PATIENCE);
            if is_due(&planned, disk, recent, is_full) || unfinished && recent.is_none() {
                due.push(disk);
            }
        }
    }
    if situation.is_busy {
        due.clear();
    }
    Ok((measure(store)?, due))
}

/// Whether so much may go that a disk is consolidated now. One that failed a short while ago would fail again, unless it
/// was for want of room. Where nothing can be written, whatever may go makes room.
fn is_due(planned: &Plan, disk: DiskId, recent: Option<&Last>, is_full: bool) -> bool {
    let going = planned.verdicts.iter().filter(|v| v.disk == disk && !v.reason.keeps()).count();
    let possible = planned.steps.iter().any(|step| step.disk == disk);
    let enough = if recent.is_some_and(|recent| !recent.hindered) && !is_full { ENOUGH } else { 1 };
    possible && going >= enough && recent.is_none_or(|recent| !recent.failed || recent.hindered)
}

/// What the points of the store take.
fn measure(store: &Store) -> Result<Usage, StoreError> {
    let points = store.points(&PointFilter::default())?;
    Ok(usage(Timestamp::now(), &points.iter().map(|p| (p.kind, p.published, p.stored)).collect::<Vec<_>>()))
}

fn usage(now: Timestamp, points: &[(PointKind, Timestamp, u64)]) -> Usage {
    let stored = points.iter().map(|(_, _, stored)| stored).sum();
    let is_new = |at: Timestamp| now.duration_since(at).unsigned_abs() <= GROWTH_OVER;
    let first = points.iter().map(|(_, at, _)| *at).min();
    let has_history = first.is_some_and(|first| !is_new(first));
    let grown = points.iter().filter(|(kind, at, _)| *kind == PointKind::Delta && is_new(*at));
    Usage { stored, growth_per_day: has_history.then(|| grown.map(|(_, _, stored)| stored).sum()) }
}

/// Points as a plan sees them.
fn candidates(store: &Store, points: &[Point]) -> Result<Vec<Candidate>, StoreError> {
    let restored = store.points_in_use()?;
    let mut viewed = BTreeSet::new();
    for generation in points.iter().map(|point| point.generation).collect::<BTreeSet<_>>() {
        viewed.extend(store.views(generation)?.into_iter().map(|view| (generation, view.sequence)));
    }
    let candidate = |point: &Point| Candidate {
        point: point.id,
        disk: point.disk,
        generation: point.generation,
        sequence: point.sequence,
        number: point.number,
        cut: point.summary.cut,
        published: point.published,
        is_base: point.kind == PointKind::Base,
        is_fuzzy: point.summary.consistency == Consistency::Fuzzy,
        is_viewed: viewed.contains(&(point.generation, point.sequence)),
        is_restored: restored.contains(&point.id),
        stored: point.stored,
        held: point.bytes,
    };
    Ok(points.iter().map(candidate).collect())
}

/// Lets the points of a disk go that its agent's retention does not keep.
pub fn consolidate(
    store: &Store,
    disk: &Disk,
    rules: &Retention,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    // What cannot be done with one generation, because its files are damaged, keeps nothing from the others.
    let mut failed: Option<StoreError> = None;
    match store.resume_work(disk.id, progress) {
        Ok(Outcome::InUse) => {
            tracing::info!(disk = %disk.id, "a fold waits until the views of its points are closed");
        }
        Ok(_) => {}
        Err(error) => keep_first(store, &mut failed, error)?,
    }
    let filter = PointFilter { agent: Some(disk.agent.clone()), ..PointFilter::default() };
    let mut left_out: Vec<Step> = Vec::new();
    let (mut done, mut steps) = (0, 0u32);
    for _ in 0..MAX_PLANS {
        let points = candidates(store, &store.points(&filter)?)?;
        let planned = plan(Timestamp::now(), rules, &points, store.spare_bytes());
        let todo: Vec<_> =
            planned.steps.into_iter().filter(|p| p.disk == disk.id && !left_out.contains(&p.step)).collect();
        if todo.is_empty() {
            break;
        }
        let total: u64 = done + todo.iter().map(|planned| planned.bytes).sum::<u64>();
        for planned in todo {
            // The steps before it have left files that nobody needs any more.
            if planned.room > store.spare_bytes()
                && store.collect().is_ok()
                && planned.room > store.spare_bytes()
            {
                tracing::warn!(disk = %disk.id, step = %planned.step, bytes = planned.room, "it waits for room");
                left_out.push(planned.step);
                continue;
            }
            let report = |now: u64, all: u64| {
                let part = u128::from(planned.bytes) * u128::from(now) / u128::from(all.max(1));
                (progress.report)(done + u64::try_from(part).unwrap_or(0), total);
            };
            let progress = Progress { report: &report, cancel: progress.cancel };
            match store.carry_out(disk.id, &planned.step, progress) {
                Ok(Outcome::Done) => steps += 1,
                // What a later plan would only say again.
                Ok(Outcome::InUse | Outcome::TooFragmented) => left_out.push(planned.step),
                Ok(Outcome::Stale) => {}
                Err(error) => {
                    keep_first(store, &mut failed, error)?;
                    left_out.push(planned.step);
                }
            }
            done += planned.bytes;
        }
        store.collect()?;
    }
    // Merged indexes name the deltas that they were made of. Views do without those that no longer fit, but slower.
    if steps > 0
        && let Some(newest) = store.newest_point(disk.id)?
        && let Err(error) = store.index_all(newest.id)
    {
        tracing::warn!(disk = %disk.id, "indexes were not made: {error}; views take longer to open");
    }
    tracing::info!(disk = %disk.id, steps, postponed = left_out.len(), "consolidated");
    failed.map_or(Ok(()), Err)
}

/// Remembers the first error of a file; others end the work.
fn keep_first(store: &Store, kept: &mut Option<StoreError>, error: StoreError) -> Result<(), StoreError> {
    if matches!(error, StoreError::Cancelled) || store.is_lost() {
        return Err(error);
    }
    tracing::warn!(%error, "a step of a consolidation failed; it goes on with the others");
    kept.get_or_insert(error);
    Ok(())
}

impl Hub {
    fn situation(&mut self) -> Situation {
        let agents = self.store.agents().unwrap_or_default();
        let rules = agents.into_iter().map(|agent| (agent.id.clone(), self.retention(&agent.id))).collect();
        Situation { rules, is_busy: self.open.values().any(|action| action.kind == ActionKind::Consolidate) }
    }

    /// Begins to consolidate a disk.
    pub fn consolidate_disk(&mut self, disk: DiskId) -> Answer<ActionId> {
        let disk = self.store.disk(disk)?;
        let of_disk =
            self.open.values().find(|a| a.kind == ActionKind::Consolidate && a.disk == Some(disk.id));
        if let Some(open) = of_disk {
            return Ok(open.id);
        }
        self.jobs.room()?;
        self.forget_old(disk.id)?;
        let rules = self.retention(&disk.agent);
        let id = self.begin(ActionKind::Consolidate, Some(&disk))?;
        self.set_state(id, ActionState::Running, String::new());
        self.jobs.consolidate(id, disk, rules);
        Ok(id)
    }

    /// Removes the rows of a disk's consolidations that ended long ago.
    fn forget_old(&self, disk: DiskId) -> Result<(), StoreError> {
        let ended =
            |a: &Action| a.kind == ActionKind::Consolidate && a.disk == Some(disk) && a.state.is_final();
        let mut old: Vec<Action> = self.store.actions()?.into_iter().filter(ended).collect();
        old.sort_by_key(|action| (action.created, action.id));
        let surplus = old.len().saturating_sub(REMEMBERED - 1);
        let ids: Vec<ActionId> = old[..surplus].iter().map(|action| action.id).collect();
        if ids.is_empty() { Ok(()) } else { self.store.forget_actions(&ids) }
    }

    /// Begins to consolidate the disks that are named and have something to be done.
    pub fn consolidate(&mut self, agent: Option<&AgentId>, disk: Option<DiskId>) -> Answer<Vec<ActionRow>> {
        let planned = self.consolidation_plan(agent, disk)?;
        let mut disks: Vec<DiskId> = planned.steps.iter().map(|step| step.disk).collect();
        disks.dedup();
        for disk in self.store.disks()? {
            let unfinished = self.store.generations(disk.id)?.iter().any(|g| g.work.is_some());
            let wanted = agent.is_none_or(|a| *a == disk.agent);
            if unfinished && wanted && !disks.contains(&disk.id) {
                disks.push(disk.id);
            }
        }
        let known = self.store.disks()?;
        let mut rows = Vec::new();
        for id in disks.into_iter().collect::<BTreeSet<_>>() {
            match self.consolidate_disk(id) {
                Ok(action) => rows.extend(self.open.get(&action).map(|action| rows::action(action, &known))),
                Err(error) if rows.is_empty() => return Err(error),
                // Those that have begun are told of; the others come with the next look.
                Err(_) => break,
            }
        }
        Ok(rows)
    }

    /// What a consolidation would do, and why.
    pub fn consolidation_plan(
        &mut self,
        agent: Option<&AgentId>,
        disk: Option<DiskId>,
    ) -> Answer<ConsolidationPlan> {
        let disks: BTreeMap<DiskId, Disk> = self.store.disks()?.into_iter().map(|d| (d.id, d)).collect();
        let mut shown = ConsolidationPlan::default();
        let agents: BTreeSet<AgentId> = disks.values().map(|disk| disk.agent.clone()).collect();
        for agent in agents.into_iter().filter(|a| agent.is_none_or(|wanted| wanted == a)) {
            let filter = PointFilter { agent: Some(agent.clone()), ..PointFilter::default() };
            let points = self.store.points(&filter)?;
            let rules = self.retention(&agent);
            let planned = plan(Timestamp::now(), &rules, &candidates(&self.store, &points)?, u64::MAX);
            for (verdict, point) in planned.verdicts.iter().zip(&points) {
                let Some(of) = disks.get(&verdict.disk).filter(|d| disk.is_none_or(|wanted| wanted == d.id))
                else {
                    continue;
                };
                shown.points.push(PointFate {
                    agent: of.agent.clone(),
                    disk: of.id,
                    device: of.device.clone(),
                    point: point.id,
                    cut: point.summary.at,
                    published: point.published,
                    consistency: point.summary.consistency,
                    stored: point.stored,
                    keep: verdict.reason.keeps(),
                    reason: verdict.reason.to_string(),
                });
            }
            let steps = planned.steps.into_iter().filter(|p| disk.is_none_or(|wanted| wanted == p.disk));
            shown.steps.extend(steps.map(|p| PlannedStep {
                disk: p.disk,
                what: p.step.to_string(),
                bytes: p.bytes,
            }));
        }
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_a_day_has_added() {
        let now = Timestamp::now();
        let ago = |hours: i64| now - jiff::SignedDuration::from_hours(hours);
        use PointKind::{Base, Delta};
        let young = [(Base, ago(20), 1000), (Delta, ago(3), 7)];
        assert_eq!(usage(now, &young), Usage { stored: 1007, growth_per_day: None });
        let old = [
            (Base, ago(50), 1000),
            (Delta, ago(30), 5),
            (Delta, ago(3), 7),
            (Delta, ago(1), 8),
            (Base, ago(1), 100),
        ];
        assert_eq!(usage(now, &old), Usage { stored: 1120, growth_per_day: Some(15) });
        assert_eq!(usage(now, &[]), Usage::default());
    }
}
