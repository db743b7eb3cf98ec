//! All agents: how each of them is.

use super::rows::Rows;
use super::{DETAILS, Disks, POLICY, Policy, Sheet, Topic, nothing, open, rows_in, split};
use crate::api::text::{Span, seconds_between};
use crate::api::types::{AgentRow, DiskState, SyncBody};
use crate::model::ids::AgentId;
use crate::model::point::Coverage;
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{self, Column, from, left, rest, right};
use crate::tui::words::{NONE, span};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 10] = [
    left("AGENT", 6, 24),
    left("STATE", 9, 9),
    left("SEEN", 11, 14),
    right("DISKS", 5, 6),
    right("LAG", 8, 13),
    right("BACKLOG", 8, 10),
    from(110, right("CPUS", 4, 5)),
    from(110, right("MEMORY", 8, 9)),
    from(140, left("KERNEL", 8, 26)),
    rest("COVERAGE"),
];

const KEYS: [Hint; 5] = [
    hint("Enter", "disks", "disks of the selected agent"),
    hint("D", "all disks", "disks of all agents"),
    hint("s", "sync", "a point of each of its disks, now"),
    DETAILS,
    POLICY,
];

/// A heading, and what goes on or ended last.
const NEWS_LINES: u16 = 8;

/// The first page.
#[derive(Debug, Default)]
pub struct Agents {
    rows: Rows<AgentId>,
}

impl Agents {
    fn selected<'a>(&self, world: &'a World) -> Option<&'a AgentRow> {
        world.agents().get(self.rows.list.at())
    }
}

fn ids(world: &World) -> Vec<AgentId> {
    world.agents().iter().map(|row| row.id.clone()).collect()
}

impl Page for Agents {
    fn name(&self) -> &'static str {
        "Agents"
    }

    fn crumb(&self, _: &World) -> String {
        "agents".to_owned()
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if self.rows.press(key, &ids(world), rows_in(parts(world.body()).0)) {
            return nothing();
        }
        let selected = self.selected(world).map(|row| row.id.clone());
        match (key, selected) {
            (Key::Char('D'), _) => open(Disks::new(None)),
            (Key::Enter, Some(agent)) => open(Disks::new(Some(agent))),
            (Key::Char('d'), Some(agent)) => open(Sheet::new(Topic::agent(agent))),
            (Key::Char('p'), Some(agent)) => open(Policy::new(agent, None)),
            (Key::Char('s'), Some(agent)) => Some(vec![sync(&agent, None)]),
            (Key::Enter | Key::Char('d' | 'p' | 's'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        vec![Order::Say(synced(reply))]
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.rows.settle(&ids(world), rows_in(parts(world.body()).0));
        Vec::new()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, news, below) = parts(area);
        let agents = world.agents();
        if agents.is_empty() {
            let text = "No agent has connected yet. On a server that is to be protected: `blxrep start --mode agent`.";
            return frame::nothing(buffer, list, text);
        }
        let head = (world.theme, self.rows.list, agents.len());
        table::render(head, &COLUMNS, |n| cells(&agents[n], world), list, buffer);
        if let Some(row) = self.selected(world) {
            frame::detail(world, &said(row), below, buffer);
        }
        super::actions::news(world, news, buffer);
    }
}

/// The list, what goes on and ended last, and what is said of the selected row.
fn parts(area: Rect) -> (Rect, Rect, Rect) {
    let (list, below) = split(area);
    let news = NEWS_LINES.min(list.height / 2);
    let list = Rect { height: list.height - news, ..list };
    (list, Rect { y: list.bottom(), height: news, ..area }, below)
}

fn cells(row: &AgentRow, world: &World) -> Vec<String> {
    let disks = || world.disks().iter().filter(|disk| disk.agent == row.id);
    let kept = || disks().filter(|disk| disk.points > 0 || disk.state == DiskState::Protected);
    let oldest = disks().filter_map(|disk| disk.newest_cut).min();
    let backlog = disks().filter_map(|disk| disk.backlog).reduce(u64::saturating_add);
    let unknown = kept().filter(|disk| disk.coverage != Coverage::Proven).count();
    let problems = disks().filter(|disk| disk.state == DiskState::Problem).count();
    let mut coverage = match (kept().count(), unknown) {
        (0, _) => "no disk is protected".to_owned(),
        (_, 0) => "● proven".to_owned(),
        (all, n) => format!("! unknown of {n} of {all}"),
    };
    if problems > 0 {
        coverage = format!("{coverage}, ! {problems} with a problem");
    }
    vec![
        row.id.to_string(),
        if row.online { "● online" } else { "! offline" }.to_owned(),
        row.last_seen.map_or("never".to_owned(), |t| format!("{} ago", Span(seconds_between(t, world.now)))),
        row.disks.to_string(),
        span(oldest.map(|cut| seconds_between(cut, world.now))),
        backlog.map_or_else(|| NONE.to_owned(), |bytes| ByteCount(bytes).to_string()),
        row.cpus.to_string(),
        ByteCount(row.memory).to_string(),
        row.kernel.clone(),
        coverage,
    ]
}

fn said(row: &AgentRow) -> String {
    let address = row.address.as_deref().unwrap_or("no address");
    format!("{}: {}, {}, kernel {}, {address}", row.id, row.hostname, row.distribution, row.kernel)
}

/// A point of an agent's disks, now.
pub fn sync(agent: &AgentId, disk: Option<String>) -> Order {
    let body = SyncBody { agent: agent.to_string(), disk, consistency: None, wait: false };
    Order::Do(Ask::Sync(body))
}

/// What came of it.
pub fn synced(reply: Reply) -> String {
    match reply {
        Err(failure) => format!("! {failure}"),
        Ok(Answer::Synced(rows)) => {
            let devices: Vec<String> = rows.iter().map(|row| row.device.clone()).collect();
            format!(
                "A cut of {} was asked for; its points are seen when they are published.",
                devices.join(", ")
            )
        }
        Ok(_) => String::new(),
    }
}
