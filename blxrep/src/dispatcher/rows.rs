//! From what the catalog and the hub know to the rows that the API shows.

use super::comparisons;
use super::hub::{Hub, Session};
use crate::api::types::{ActionRow, AgentRow, DiskRow, DiskState, PointRow, SyncRow};
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{AgentId, CutId, DiskIdentity};
use crate::model::point::{Coverage, Disk, Point};
use crate::store::StoreError;
use crate::store::catalog::{self, PointFilter};
use jiff::Timestamp;

/// A row of a sync that has not ended.
pub fn sync(disk: &Disk, cut_id: CutId) -> SyncRow {
    SyncRow {
        agent: disk.agent.clone(),
        disk: disk.id,
        device: disk.device.clone(),
        identity: disk.identity.to_string(),
        cut_id,
        point: None,
        consistency: None,
        bytes: None,
        rounds: None,
        published: None,
        error: None,
    }
}

pub fn point(disk: &Disk, point: Point) -> PointRow {
    let summary = point.summary;
    PointRow {
        id: point.id,
        agent: disk.agent.clone(),
        disk: disk.id,
        device: disk.device.clone(),
        identity: disk.identity.to_string(),
        generation: point.generation,
        kind: point.kind,
        parent: point.parent,
        sequence: point.sequence,
        cut_id: summary.cut,
        cut: summary.at,
        published: point.published,
        consistency: summary.consistency,
        coverage: summary.coverage,
        bytes: point.bytes,
        stored: point.stored,
        disk_bytes: point.disk_bytes,
        rounds: u32::try_from(summary.rounds.len()).unwrap_or(u32::MAX),
        contaminated: summary.rounds.iter().map(|r| r.contaminated).sum(),
        freeze_ms: summary.freeze_ms,
        each_round: summary.rounds,
        hooks: summary.hooks,
        group: summary.group.iter().map(ToString::to_string).collect(),
        notes: summary.notes,
        holes: summary.holes,
        half_restored: point.half_restored,
        damage: Vec::new(),
    }
}

pub fn agent(hub: &Hub, row: &catalog::AgentRow, disks: &[Disk]) -> AgentRow {
    let session = hub.sessions.get(&row.id);
    AgentRow {
        id: row.id.clone(),
        hostname: row.footprint.hostname.clone(),
        distribution: row.footprint.distribution.clone(),
        kernel: row.footprint.kernel.clone(),
        cpus: row.footprint.cpus,
        memory: row.footprint.memory_bytes,
        online: session.is_some(),
        last_seen: Some(if session.is_some() { Timestamp::now() } else { row.last_seen }),
        address: session.map(|s| s.address.to_string()),
        disks: u32::try_from(disks.iter().filter(|d| d.agent == row.id).count()).unwrap_or(u32::MAX),
    }
}

pub fn action(action: &Action, disks: &[Disk]) -> ActionRow {
    let disk = disks.iter().find(|d| action.disk == Some(d.id));
    ActionRow {
        id: action.id,
        kind: action.kind,
        agent: action.agent.clone(),
        disk: action.disk,
        device: disk.map(|d| d.device.clone()),
        state: action.state,
        reason: action.reason.clone(),
        created: action.created,
        updated: action.updated,
        done: action.done,
        total: action.total,
    }
}

/// What cannot go on for want of room is shown as paused, with the reason. It is not kept: it goes on by itself.
pub fn halted(mut row: ActionRow, trouble: Option<&str>) -> ActionRow {
    let writes = matches!(
        row.kind,
        ActionKind::Snapshot | ActionKind::Live | ActionKind::Rescan | ActionKind::Consolidate
    );
    if let Some(trouble) = trouble
        && writes
        && matches!(row.state, ActionState::Running | ActionState::Queued)
    {
        row.state = ActionState::Paused;
        trouble.clone_into(&mut row.reason);
    }
    row
}

pub fn disk(hub: &Hub, disk: &Disk) -> Result<DiskRow, StoreError> {
    let session = hub.sessions.get(&disk.agent);
    let offer = session.and_then(|s| s.offers.iter().find(|o| o.identity == disk.identity));
    let status = session.and_then(|s| s.status.get(&disk.identity));
    let filter = PointFilter { disk: Some(disk.id), ..PointFilter::default() };
    let points = hub.store.count_points(&filter)?;
    let newest = hub.store.newest_point(disk.id)?;
    let lag = newest.as_ref().map(|p| {
        let age = Timestamp::now().duration_since(p.summary.at);
        u64::try_from(age.as_secs()).unwrap_or(0)
    });
    let newest_coverage = newest.as_ref().map(|p| p.summary.coverage.clone());
    let (state, problem) = disk_state(hub, disk, session, newest.is_some());
    Ok(DiskRow {
        id: disk.id,
        agent: disk.agent.clone(),
        device: offer.map_or_else(|| disk.device.clone(), |o| o.device.clone()),
        identity: disk.identity.to_string(),
        bytes: offer.map_or(disk.bytes, |o| o.bytes),
        state,
        coverage: status
            .map(|s| s.coverage.clone())
            // Nothing is known of a disk that an agent offers and does not track.
            .or(newest_coverage.filter(|_| session.is_none()))
            .unwrap_or_else(|| Coverage::Unknown("the disk is not tracked".to_owned())),
        lag_seconds: lag,
        // Only a disk that is kept in sync is reported on.
        backlog: hub.backlog.get(&disk.id).copied().filter(|_| state == DiskState::Protected),
        newest_point: newest.as_ref().map(|p| p.id),
        newest_cut: newest.as_ref().map(|p| p.summary.at),
        points,
        policy: hub.policies.name_for(&disk.agent),
        notes: status
            .map(|s| s.notes.clone())
            .unwrap_or_default()
            .into_iter()
            .chain(twins(hub, disk)?)
            .collect(),
        problem,
    })
}

/// Says of a disk that another agent has one of the same identity. Both are kept apart; somebody should know.
fn twins(hub: &Hub, disk: &Disk) -> Result<Option<String>, StoreError> {
    // A name is given by people, and may be given twice.
    if matches!(disk.identity, DiskIdentity::Named(_)) {
        return Ok(None);
    }
    let offers = |agent: &AgentId| {
        let session = hub.sessions.get(agent);
        session.is_some_and(|s| s.offers.iter().any(|offer| offer.identity == disk.identity))
    };
    let all = hub.store.disks()?;
    let twin = all.iter().find(|d| d.agent != disk.agent && d.identity == disk.identity && offers(&d.agent));
    Ok(twin.filter(|_| offers(&disk.agent)).map(|twin| {
        format!(
            "agent {} has a disk of the same identity now: a clone, or one disk that both can write to; points of the \
             two are kept apart, and a disk that two hosts write to is not backed up by either",
            twin.agent
        )
    }))
}

fn disk_state(
    hub: &Hub,
    disk: &Disk,
    session: Option<&Session>,
    has_point: bool,
) -> (DiskState, Option<String>) {
    let Some(offer) = session.and_then(|s| s.offers.iter().find(|o| o.identity == disk.identity)) else {
        return (DiskState::Absent, None);
    };
    if let Some(problem) = &offer.problem {
        return (DiskState::Problem, Some(problem.clone()));
    }
    let policy = session.and_then(|s| s.policy.as_ref());
    if policy.is_some_and(|policy| policy.excludes(&disk.device, &disk.identity)) {
        return (DiskState::Excluded, None);
    }
    let open = |kind| hub.open.values().find(|a| a.disk == Some(disk.id) && a.kind == kind);
    let troubled =
        |a: &Action| (a.state == ActionState::Running && !a.reason.is_empty()).then(|| a.reason.clone());
    let paused = |a: Option<&Action>| a.is_some_and(|a| a.state == ActionState::Paused);
    if paused(open(ActionKind::Snapshot)) || paused(open(ActionKind::Live)) {
        return (DiskState::Paused, None);
    }
    let is_busy = open(ActionKind::Snapshot).or_else(|| open(ActionKind::Live)).is_some();
    if let Some(trouble) = hub.store.trouble().filter(|_| is_busy) {
        return (DiskState::Problem, Some(trouble));
    }
    if let Some(snapshot) = open(ActionKind::Snapshot) {
        return match troubled(snapshot) {
            Some(reason) => (DiskState::Problem, Some(reason)),
            None => (DiskState::Imaging, None),
        };
    }
    if let Some(reason) = comparisons::standstill(hub, disk.id, session) {
        return (DiskState::Problem, Some(reason));
    }
    match open(ActionKind::Live) {
        Some(live) => match troubled(live) {
            Some(reason) => (DiskState::Problem, Some(reason)),
            None if has_point => (DiskState::Protected, None),
            None => (DiskState::Offered, None),
        },
        None => (DiskState::Offered, None),
    }
}

/// Every agent that the catalog knows.
pub fn agents(hub: &Hub) -> Result<Vec<AgentRow>, StoreError> {
    let disks = hub.store.disks()?;
    let mut rows: Vec<AgentRow> = hub.store.agents()?.iter().map(|row| agent(hub, row, &disks)).collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(rows)
}

/// Disks of one agent, or all.
pub fn disks(hub: &Hub, of: Option<&AgentId>) -> Result<Vec<DiskRow>, StoreError> {
    let disks = hub.store.disks()?;
    let mut rows = Vec::new();
    for row in disks.iter().filter(|d| of.is_none_or(|a| *a == d.agent)) {
        rows.push(disk(hub, row)?);
    }
    rows.sort_by(|a, b| (&a.agent, &a.device, a.id).cmp(&(&b.agent, &b.device, b.id)));
    Ok(rows)
}
