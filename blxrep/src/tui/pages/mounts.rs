//! Points that are mounted on the dispatcher's host.

use super::rows::Rows;
use super::{Sheet, Topic, nothing, open, rows_in, split};
use crate::api::mounts::{MountRow, MountState};
use crate::api::text::{Clock, Span, seconds_between};
use crate::tui::ask::{Answer, Ask, Mounted, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page, Question};
use crate::tui::table::{self, Column, from, left, rest, right};
use crate::tui::words::{NONE, moment};
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Seconds between two looks: nothing tells that somebody has mounted something by hand.
const EVERY: u64 = 5;

const COLUMNS: [Column; 7] = [
    left("STATE", 8, 8),
    left("AGENT", 5, 16),
    left("DEVICE", 6, 16),
    left("CUT", 14, 14),
    from(100, right("SINCE", 11, 14)),
    from(120, right("PROCESS", 7, 10)),
    rest("FOLDER"),
];

const KEYS: [Hint; 3] = [
    hint("Enter", "point", "everything that is stored of its point"),
    hint("x", "unmount", "unmount the selected one"),
    hint("m", "", "on a list of points: mounts the selected one"),
];

#[derive(Debug, Default)]
pub struct Mounts {
    /// `None` before the first answer.
    mounted: Option<Vec<Mounted>>,
    rows: Rows<String>,
    asked: Option<Timestamp>,
    waits: bool,
    failed: Option<String>,
}

impl Mounts {
    fn mounted(&self) -> &[Mounted] {
        self.mounted.as_deref().unwrap_or_default()
    }

    fn selected(&self) -> Option<&Mounted> {
        self.mounted().get(self.rows.list.at())
    }

    /// A folder on which several points are mounted is listed several times.
    fn ids(&self) -> Vec<String> {
        self.mounted()
            .iter()
            .map(|mounted| format!("{} {}", mounted.row.process, mounted.row.directory))
            .collect()
    }

    fn settle(&mut self, world: &World) {
        self.rows.settle(&self.ids(), rows_in(split(world.body()).0));
    }

    fn ask(&mut self, world: &World) -> Vec<Order> {
        (self.waits, self.asked) = (true, Some(world.now));
        vec![Order::Load(Ask::Mounts)]
    }
}

impl Page for Mounts {
    fn name(&self) -> &'static str {
        "Mounts"
    }

    fn crumb(&self, _: &World) -> String {
        "mounts".to_owned()
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, world: &World) -> Vec<Order> {
        self.ask(world)
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        let ids = self.ids();
        if self.rows.press(key, &ids, rows_in(split(world.body()).0)) {
            return nothing();
        }
        match (key, self.selected()) {
            (Key::Enter | Key::Char('d'), Some(Mounted { point: Some(point), .. })) => {
                open(Sheet::new(Topic::Point(point.clone())))
            }
            (Key::Enter | Key::Char('d'), Some(Mounted { row, .. })) => {
                Some(vec![Order::Say(format!("! The store has no point {} any more.", row.point))])
            }
            (Key::Char('x'), Some(Mounted { row, .. })) => Some(vec![unmount(row)]),
            (Key::Enter | Key::Char('d' | 'x'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        match reply {
            Ok(Answer::Mounts(mounted)) => {
                (self.waits, self.failed, self.mounted) = (false, None, Some(mounted));
                self.settle(world);
                Vec::new()
            }
            Ok(Answer::Unmounted(row)) => {
                let mut orders = self.ask(world);
                orders.push(Order::Say(format!(
                    "Point {} is no longer mounted on {}.",
                    row.point, row.directory
                )));
                orders
            }
            Ok(_) => Vec::new(),
            // What was refused to be unmounted, or a look that failed: what was seen before stays.
            Err(failure) if self.mounted.is_some() => {
                self.waits = false;
                vec![Order::Say(format!("! {failure}"))]
            }
            Err(failure) => {
                (self.waits, self.failed) = (false, Some(failure.text));
                Vec::new()
            }
        }
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.settle(world);
        let due = self.asked.is_some_and(|at| seconds_between(at, world.now) >= EVERY);
        if due && !self.waits && world.trouble.is_none() { self.ask(world) } else { Vec::new() }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let Some(selected) = self.selected() else {
            let empty = "No point is mounted. `m` on a list of points mounts the selected one.";
            let text = frame::in_place(self.waits, self.failed.as_deref(), empty);
            return frame::nothing(buffer, list, &text);
        };
        let mounted = self.mounted();
        let head = (world.theme, self.rows.list, mounted.len());
        table::render(head, &COLUMNS, |n| cells(&mounted[n], world.now), list, buffer);
        frame::detail(world, &said(selected), below, buffer);
    }
}

fn unmount(row: &MountRow) -> Order {
    let text = format!(
        "Unmount point {} from {}? While something uses a file below it, it stays, and the answer says who.",
        row.point, row.directory
    );
    Order::Confirm(Question { text, ask: Ask::Unmount(row.directory.clone()) })
}

fn state(state: MountState) -> &'static str {
    match state {
        MountState::Served => "● served",
        MountState::Dead => "! dead",
        MountState::Unmounted => "- gone",
    }
}

fn cells(Mounted { row, point }: &Mounted, now: Timestamp) -> Vec<String> {
    let known = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let point = point.as_ref();
    vec![
        state(row.state).to_owned(),
        known(point.map(|point| point.agent.to_string())),
        known(point.map(|point| point.device.clone())),
        known(point.map(|point| moment(point.cut))),
        known(row.since.map(|since| format!("{} ago", Span(seconds_between(since, now))))),
        row.process.to_string(),
        row.directory.clone(),
    ]
}

fn said(Mounted { row, .. }: &Mounted) -> String {
    let mut said = vec![format!("point {} on {}", row.point, row.directory)];
    if row.state == MountState::Dead {
        said.push("! its server has died: reads fail, and all that can be done is to unmount it".to_owned());
    }
    let since = row.since.map_or_else(String::new, |since| format!(", since {}", Clock(since)));
    said.push(format!("process {}{since}", row.process));
    said.push(if row.files.is_empty() {
        "no files".to_owned()
    } else {
        format!("files in {}", row.files.join(" "))
    });
    said.join("; ")
}
