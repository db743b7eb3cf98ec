//! Lists that are longer than one answer, and what they are made of.

use super::hub::Hub;
use super::rows;
use crate::api::backend::Filter;
use crate::api::error::Result;
use crate::api::page::{Page, Window, strange_cursor};
use crate::api::policies::{PolicyList, PolicyRow, PolicyTarget, PolicyValues};
use crate::api::types::PointRow;
use crate::config::policy::Policy;
use crate::model::ids::{AgentId, DiskId, PointId};
use crate::model::point::{Disk, Point};

use crate::store::catalog::PointFilter;
use crate::store::damage::Damaged;
use std::collections::BTreeMap;
use std::path::Path;

/// Disk after disk in the order of their ids, those of a disk in the order of publication. Reads no more of the catalog
/// than the page needs.
pub fn points(hub: &Hub, filter: &Filter, window: &Window) -> Result<Page<PointRow>> {
    let from = window.after.as_deref().map(place).transpose()?;
    let mut disks = hub.store.disks()?;
    disks.retain(|disk| filter.disk.is_none_or(|wanted| wanted == disk.id));
    disks.retain(|disk| filter.agent.as_ref().is_none_or(|wanted| *wanted == disk.agent));
    disks.sort_by_key(|disk| disk.id);
    let mut found: Vec<Point> = Vec::new();
    for disk in &disks {
        let number = match from {
            Some((at, _)) if disk.id < at => continue,
            Some((at, number)) if disk.id == at => number,
            _ => 0,
        };
        // One more than the page has says whether there are more.
        found.extend(hub.store.points_from(disk.id, number, window.limit + 1 - found.len())?);
        if found.len() > window.limit {
            break;
        }
    }
    let more = found.len() > window.limit;
    found.truncate(window.limit);
    let next = found.last().filter(|_| more).map(|last| format!("{}-{}", last.disk, last.number + 1));
    Ok(Page { items: rows_of(hub, &disks, found)?, next })
}

/// The disk and the number that the next point has at least.
fn place(after: &str) -> Result<(DiskId, u64)> {
    let (disk, number) = after.split_once('-').ok_or_else(|| strange_cursor(&"it has no `-`"))?;
    let disk = disk.parse().map_err(|error| strange_cursor(&error))?;
    Ok((disk, number.parse().map_err(|error| strange_cursor(&error))?))
}

/// The newest so many by their cuts, oldest first.
pub fn newest_points(hub: &Hub, filter: Filter, count: usize) -> Result<Vec<PointRow>> {
    let filter = PointFilter { agent: filter.agent, disk: filter.disk, newest: Some(count) };
    let mut found = hub.store.points(&filter)?;
    found.sort_by_key(|p| (p.summary.at, p.id));
    found.drain(..found.len().saturating_sub(count));
    rows_of(hub, &hub.store.disks()?, found)
}

fn rows_of(hub: &Hub, disks: &[Disk], points: Vec<Point>) -> Result<Vec<PointRow>> {
    let damages: BTreeMap<PointId, Damaged> = hub.store.damages()?;
    let row = |point: Point| {
        let disk = disks.iter().find(|disk| disk.id == point.disk)?;
        let damage = damages.get(&point.id).map(|row| row.what.clone()).unwrap_or_default();
        Some(PointRow { damage, ..rows::point(disk, point) })
    };
    Ok(points.into_iter().filter_map(row).collect())
}

/// Every policy, with the agents that have been here and get it.
pub fn policies(hub: &Hub) -> Result<PolicyList> {
    let agents: Vec<AgentId> = hub.store.agents()?.into_iter().map(|agent| agent.id).collect();
    let disks = hub.store.disks()?;
    let (dir, policies, trouble) = hub.policies.contents();
    let mut left: Vec<AgentId> = agents;
    let mut items = Vec::new();
    for (file, policy) in policies.files() {
        // The first that names an agent has it.
        let (own, others) = left.into_iter().partition(|agent| policy.target(agent).is_some());
        left = others;
        items.extend(policy_row(file, policy, own, &disks));
    }
    let dir = dir.display().to_string();
    Ok(PolicyList { dir, items, trouble: trouble.map(str::to_owned) })
}

/// `None` for a policy without targets, which is none.
fn policy_row(file: &Path, policy: &Policy, agents: Vec<AgentId>, disks: &[Disk]) -> Option<PolicyRow> {
    let values = policy.in_force(policy.targets.first()?);
    let (retention, verify) = (policy.retention(), policy.verify_rule());
    let (mut protected, mut excluded) = (Vec::new(), Vec::new());
    for disk in disks.iter().filter(|disk| agents.contains(&disk.agent)) {
        let of_agent = policy.target(&disk.agent).map(|target| policy.in_force(target));
        let left_out = of_agent.is_some_and(|policy| policy.excludes(&disk.device, &disk.identity));
        if left_out { &mut excluded } else { &mut protected }.push(disk.id);
    }
    let target = |target: &crate::config::policy::Target| PolicyTarget {
        pattern: target.pattern.text().to_owned(),
        disks_excluded: target.disks_excluded.clone(),
    };
    Some(PolicyRow {
        name: policy.name.clone(),
        description: policy.description.clone(),
        file: file.display().to_string(),
        targets: policy.targets.iter().map(target).collect(),
        values: PolicyValues::new(&values, &retention, verify.as_ref()),
        set: policy.set().into_iter().map(str::to_owned).collect(),
        not_in_force: policy.not_in_force().into_iter().map(str::to_owned).collect(),
        agents,
        disks: protected,
        disks_excluded: excluded,
    })
}
