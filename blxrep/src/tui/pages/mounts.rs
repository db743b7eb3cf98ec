//! Points that are mounted or served on the dispatcher's host.

use super::rows::Rows;
use super::{Sheet, Topic, nothing, open, rows_in, split};
use crate::api::mounts::MountState;
use crate::api::text::{Clock, Span, seconds_between};
use crate::model::part_id::PartId;
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply, Shown, Way};
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

const COLUMNS: [Column; 8] = [
    left("KIND", 6, 6),
    left("STATE", 8, 8),
    left("AGENT", 5, 16),
    left("DEVICE", 6, 16),
    left("CUT", 14, 14),
    from(100, right("SINCE", 11, 14)),
    from(120, right("PROCESS", 7, 10)),
    rest("WHERE"),
];

const KEYS: [Hint; 3] = [
    hint("Enter", "point", "everything that is stored of its point"),
    hint("x", "end", "unmount the selected one, or stop serving it"),
    hint("m e", "", "on a list of points: mount the selected one, serve it"),
];

#[derive(Debug, Default)]
pub struct Mounts {
    /// `None` before the first answer.
    shown: Option<Vec<Shown>>,
    rows: Rows<String>,
    asked: Option<Timestamp>,
    waits: bool,
    failed: Option<String>,
}

impl Mounts {
    fn shown(&self) -> &[Shown] {
        self.shown.as_deref().unwrap_or_default()
    }

    fn selected(&self) -> Option<&Shown> {
        self.shown().get(self.rows.list.at())
    }

    /// A folder on which several points are mounted is listed several times.
    fn ids(&self) -> Vec<String> {
        let id = |shown: &Shown| match &shown.way {
            Way::Mount(row) => format!("{} {}", row.process, row.directory),
            Way::Export(row) => format!("{} {}", row.process, row.uri),
        };
        self.shown().iter().map(id).collect()
    }

    fn settle(&mut self, world: &World) {
        self.rows.settle(&self.ids(), rows_in(split(world.body()).0));
    }

    fn ask(&mut self, world: &World) -> Vec<Order> {
        (self.waits, self.asked) = (true, Some(world.now));
        vec![Order::Load(Ask::Shown)]
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
            (Key::Enter | Key::Char('d'), Some(Shown { point: Some(point), .. })) => {
                open(Sheet::new(Topic::Point(point.clone())))
            }
            (Key::Enter | Key::Char('d'), Some(Shown { way, .. })) => {
                Some(vec![Order::Say(format!("! The store has no point {} any more.", way.point()))])
            }
            (Key::Char('x'), Some(Shown { way, .. })) => Some(vec![end(way)]),
            (Key::Enter | Key::Char('d' | 'x'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        match reply {
            Ok(Answer::Shown(shown)) => {
                (self.waits, self.failed, self.shown) = (false, None, Some(shown));
                self.settle(world);
                Vec::new()
            }
            Ok(Answer::Ended(way)) => {
                let said = match way {
                    Way::Mount(row) => {
                        format!("Point {} is no longer mounted on {}.", row.point, row.directory)
                    }
                    Way::Export(row) => format!("Point {} is no longer served at {}.", row.point, row.uri),
                };
                let mut orders = self.ask(world);
                orders.push(Order::Say(said));
                orders
            }
            Ok(_) => Vec::new(),
            // What was refused to be unmounted, or a look that failed: what was seen before stays.
            Err(failure) if self.shown.is_some() => {
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
            let empty = "No point is mounted or served. On a list of points `m` mounts the selected one, and `e` serves it.";
            let text = frame::in_place(self.waits, self.failed.as_deref(), empty);
            return frame::nothing(buffer, list, &text);
        };
        let shown = self.shown();
        let head = (world.theme, self.rows.list, shown.len());
        table::render(head, &COLUMNS, |n| cells(&shown[n], world.now), list, buffer);
        frame::detail(world, &said(selected), below, buffer);
    }
}

fn end(way: &Way) -> Order {
    let (text, ask) = match way {
        Way::Mount(row) => {
            let stays = "While something uses a file below it, it stays, and the answer says who.";
            let text = format!("Unmount point {} from {}? {stays}", row.point, row.directory);
            (text, Ask::Unmount(row.directory.clone()))
        }
        Way::Export(row) => {
            let lost = if row.writable { ", and what they have written is gone" } else { "" };
            let text =
                format!("Stop serving point {} at {}? Its clients are sent away{lost}.", row.point, row.uri);
            (text, Ask::StopExport(row.uri.clone()))
        }
    };
    Order::Confirm(Question { text, ask })
}

/// Its kind, its state, since when, its process, and where it is.
fn facts(way: &Way) -> (&'static str, &'static str, Option<Timestamp>, u32, &str) {
    match way {
        Way::Mount(row) => {
            let state = match row.state {
                MountState::Served => "● served",
                MountState::Dead => "! dead",
                MountState::Unmounted => "- gone",
            };
            ("mount", state, row.since, row.process, &row.directory)
        }
        Way::Export(row) => ("export", "● served", Some(row.since), row.process, &row.uri),
    }
}

fn cells(Shown { way, point }: &Shown, now: Timestamp) -> Vec<String> {
    let known = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    let point = point.as_ref();
    let (kind, state, since, process, place) = facts(way);
    vec![
        kind.to_owned(),
        state.to_owned(),
        known(point.map(|point| point.agent.to_string())),
        known(point.map(|point| point.device.clone())),
        known(point.map(|point| moment(point.cut))),
        known(since.map(|since| format!("{} ago", Span(seconds_between(since, now))))),
        process.to_string(),
        // A whole URI leaves no room for what is of interest in it; it is told below the list.
        place.replacen("nbd+unix:///?socket=", "unix:", 1),
    ]
}

fn said(Shown { way, .. }: &Shown) -> String {
    let (_, _, since, process, place) = facts(way);
    let since = since.map_or_else(String::new, |since| format!(", since {}", Clock(since)));
    let what = match way {
        Way::Mount(row) if row.state == MountState::Dead => {
            "! its server has died: reads fail, and all that can be done is to unmount it".to_owned()
        }
        Way::Mount(row) if row.files.is_empty() => "no files".to_owned(),
        Way::Mount(row) => format!("files in {}", row.files.join(" ")),
        Way::Export(row) => {
            let part = match &row.partition {
                &PartId::DISK => "the whole disk".to_owned(),
                part => part.described(),
            };
            let how =
                if row.writable { "to read and write; what is written is not kept" } else { "read-only" };
            format!("{part}, {}, {how}", ByteCount(row.bytes))
        }
    };
    format!("point {} on {place}; process {process}{since}; {what}", way.point())
}
