//! Disks of an agent, or of all: how far behind their points are.

use super::agents::{sync, synced};
use super::rows::Rows;
use super::{DETAILS, POLICY, Points, Policy, Sheet, Topic, nothing, open, rows_in, split};
use crate::api::text::seconds_between;
use crate::api::types::DiskRow;
use crate::model::ids::{AgentId, DiskId};
use crate::model::point::Coverage;
use crate::model::units::ByteCount;
use crate::tui::ask::Reply;
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{self, Column, from, left, rest, right};
use crate::tui::words::{bytes, coverage, disk_state, span};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 9] = [
    left("AGENT", 6, 24),
    left("DEVICE", 8, 24),
    left("STATE", 11, 11),
    right("LAG", 8, 13),
    right("BACKLOG", 8, 10),
    right("POINTS", 6, 8),
    from(100, right("SIZE", 8, 10)),
    from(120, left("IDENTITY", 8, 44)),
    rest("COVERAGE"),
];

const KEYS: [Hint; 5] = [
    hint("Enter", "points", "points of the selected disk on a line of time"),
    hint("s", "sync", "a point of the selected disk, now"),
    hint("S", "sync all", "a point of each disk of its agent, of one instant, now"),
    DETAILS,
    POLICY,
];

#[derive(Debug)]
pub struct Disks {
    agent: Option<AgentId>,
    rows: Rows<DiskId>,
}

impl Disks {
    /// Of one agent, or of all.
    #[must_use]
    pub fn new(agent: Option<AgentId>) -> Self {
        Self { agent, rows: Rows::default() }
    }

    fn disks<'a>(&self, world: &'a World) -> Vec<&'a DiskRow> {
        let ours = |row: &&DiskRow| self.agent.as_ref().is_none_or(|agent| row.agent == *agent);
        world.disks().iter().filter(ours).collect()
    }

    fn ids(&self, world: &World) -> Vec<DiskId> {
        self.disks(world).iter().map(|row| row.id).collect()
    }

    fn selected<'a>(&self, world: &'a World) -> Option<&'a DiskRow> {
        self.disks(world).get(self.rows.list.at()).copied()
    }
}

impl Page for Disks {
    fn name(&self) -> &'static str {
        "Disks"
    }

    fn crumb(&self, _: &World) -> String {
        self.agent.as_ref().map_or_else(|| "all disks".to_owned(), ToString::to_string)
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if self.rows.press(key, &self.ids(world), rows_in(split(world.body()).0)) {
            return nothing();
        }
        let selected = self.selected(world);
        match (key, selected) {
            (Key::Enter, Some(row)) => open(Points::new(row.id)),
            (Key::Char('p'), Some(row)) => open(Policy::new(row.agent.clone(), Some(row.id))),
            (Key::Char('d'), Some(row)) => open(Sheet::new(Topic::Disk(row.id))),
            (Key::Char('s'), Some(row)) => Some(vec![sync(&row.agent, Some(row.id.to_string()))]),
            (Key::Char('S'), Some(row)) => Some(vec![sync(&row.agent, None)]),
            (Key::Enter | Key::Char('d' | 'p' | 's' | 'S'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        vec![Order::Say(synced(reply))]
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.rows.settle(&self.ids(world), rows_in(split(world.body()).0));
        Vec::new()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let disks = self.disks(world);
        if disks.is_empty() {
            return frame::nothing(buffer, list, "No disk is known yet.");
        }
        let head = (world.theme, self.rows.list, disks.len());
        // On the page of one agent its name would only take room.
        let first = usize::from(self.agent.is_some());
        let row = |n: usize| cells(disks[n], world).split_off(first);
        table::render(head, &COLUMNS[first..], row, list, buffer);
        if let Some(row) = self.selected(world) {
            frame::detail(world, &said(row), below, buffer);
        }
    }
}

fn cells(row: &DiskRow, world: &World) -> Vec<String> {
    vec![
        row.agent.to_string(),
        row.device.clone(),
        disk_state(row.state).to_owned(),
        // The age goes on while the dispatcher is silent.
        span(row.newest_cut.map(|cut| seconds_between(cut, world.now))),
        bytes(row.backlog),
        row.points.to_string(),
        ByteCount(row.bytes).to_string(),
        row.identity.clone(),
        coverage(&row.coverage),
    ]
}

fn said(row: &DiskRow) -> String {
    let mut said = vec![format!("{} {} {} {}", row.agent, row.device, row.identity, ByteCount(row.bytes))];
    said.extend(row.problem.iter().map(|problem| format!("! problem: {problem}")));
    if let Coverage::Unknown(reason) = &row.coverage {
        said.push(format!("coverage unknown: {reason}"));
    }
    said.extend(row.notes.iter().map(|note| format!("note: {note}")));
    said.join("; ")
}
