//! Points of a disk: on a line of time, and as a list beside it, the newest first.

use super::spot::Spot;
use super::{
    Changes, Contents, DETAILS, Export, POLICY, Policy, Restore, Sheet, Topic, What, nothing, rows_in,
};
use crate::api::events;
use crate::api::mounts::MountBody;
use crate::api::text::{Clock, Span, seconds_between};
use crate::api::types::PointRow;
use crate::model::ids::{DiskId, PointId};
use crate::model::part_id::PartId;
use crate::model::point::mixture;
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Failure, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::list::List;
use crate::tui::model::World;
use crate::tui::page::{Order, Page, Question};
use crate::tui::prompt::{Prompt, Typed};
use crate::tui::table::{self, Column, from, left, rest, right};
use crate::tui::timeline::{self, Axis, STEPS};
use crate::tui::when;
use crate::tui::words::{NONE, consistency, count, grouped, marks};
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use std::cmp::Reverse;
use std::rc::Rc;

/// Points that are asked for first: more than a screen, and told at once.
const FIRST: u32 = 500;
/// Points that were published since the last look, if it was not long ago.
const LATEST: u32 = 20;
/// Points that are kept in mind, the newest of a disk; half a year of one every five minutes. `blxrep points` lists all.
const MOST: u32 = 50_000;
/// What is said of the selected point.
const DETAIL_LINES: u16 = 2;

/// What is asked for before a point is mounted.
const MOUNT_ON: &str = "Mount on";
const FOLDER: &str = "an empty folder of the dispatcher's host";

const COLUMNS: [Column; 9] = [
    left("CUT", 20, 20),
    right("AGO", 11, 14),
    left("LABEL", 8, 8),
    right("CHANGED", 9, 10),
    from(100, right("STORED", 9, 10)),
    right("ROUNDS", 6, 6),
    right("FREEZE", 7, 9),
    from(120, left("ID", 16, 16)),
    rest("MARKS"),
];

const KEYS: [Hint; 14] = [
    hint("Enter", "contents", "partitions and files of the selected point"),
    hint("t", "time", "go to a time, as `1h ago` or `yesterday 14:00`; so does /"),
    hint("+ -", "zoom", "shorter, longer cells of the time line; 0 shows all"),
    hint("<- ->", "older, newer", "the next cell of the time line that has points"),
    hint("r", "restore", "the whole disk as it was, to a file or a device"),
    hint("c", "changes", "how the files of the selected point and of the newest differ"),
    DETAILS,
    hint("v", "verify", "read all that it depends on, and compare it with its digests"),
    hint("s", "sync", "a point of this disk, now"),
    hint("m", "mount", "its files, below a folder of the dispatcher's host"),
    hint("e", "export", "have its disk served as a network block device"),
    POLICY,
    hint("symbols", "", timeline::LEGEND),
    hint("digits", "", "how many points are in a cell; + is ten and more"),
];

#[derive(Debug)]
pub struct Points {
    disk: DiskId,
    /// The newest first.
    rows: Rc<Vec<PointRow>>,
    list: List,
    /// How many were asked for; all are there if fewer came.
    wanted: u32,
    complete: bool,
    waits: bool,
    failed: Option<String>,
    /// Index of `STEPS`; without it all points are seen at once.
    zoom: Option<usize>,
    typing: Option<(Typing, Prompt)>,
    /// What the dispatcher was told to mount, and where.
    mounting: Option<(PointId, String)>,
}

/// What a person types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typing {
    /// A time to go to.
    Time,
    /// A folder to mount the selected point on.
    Folder(PointId),
}

impl Points {
    #[must_use]
    pub fn new(disk: DiskId) -> Self {
        let (list, wanted, complete) = (List::default(), FIRST, false);
        Self {
            disk,
            rows: Rc::default(),
            list,
            wanted,
            complete,
            waits: false,
            failed: None,
            zoom: None,
            typing: None,
            mounting: None,
        }
    }

    /// The row that is selected.
    #[must_use]
    pub fn selected(&self) -> Option<&PointRow> {
        self.rows.get(self.list.at())
    }

    fn ask(&mut self, newest: u32) -> Order {
        self.waits = true;
        Order::Load(Ask::Points { disk: self.disk, newest })
    }

    /// Takes in rows, oldest first, which are the newest so many of all.
    fn learn(&mut self, mut rows: Vec<PointRow>, height: usize) -> Vec<Order> {
        rows.sort_by_key(|row| Reverse(row.cut));
        let selected = self.selected().map(|row| row.id).filter(|_| self.list.at() > 0);
        let more = u32::try_from(rows.len()).unwrap_or(u32::MAX) >= self.wanted;
        let joined = rows.last().is_some_and(|last| self.rows.iter().any(|row| row.id == last.id));
        if rows.len() < self.rows.len() && joined {
            // Only the latest were asked for: what is behind them is known.
            let known = rows.last().map(|row| row.id);
            let behind = self.rows.iter().position(|row| Some(row.id) == known).map_or(0, |at| at + 1);
            rows.extend_from_slice(&self.rows[behind..]);
        } else {
            self.complete = !more;
        }
        self.rows = Rc::new(rows);
        let at = selected.and_then(|id| self.rows.iter().position(|row| row.id == id));
        let at = at.unwrap_or(if selected.is_some() { self.list.at() } else { 0 });
        self.list.select(at, self.rows.len(), height);
        if self.complete || self.wanted >= MOST {
            return Vec::new();
        }
        self.wanted = self.wanted.saturating_mul(10).min(MOST);
        vec![self.ask(self.wanted)]
    }

    fn step(&self, cells: usize) -> usize {
        let ends = self.rows.last().zip(self.rows.first());
        let fit = ends.map_or(0, |(oldest, newest)| timeline::fitting(oldest.cut, newest.cut, cells));
        self.zoom.unwrap_or(fit)
    }

    /// To the next cell with points, older or newer.
    fn move_in_time(&mut self, older: bool, world: &World) {
        let (cell, _) = STEPS[self.step(cells_in(world.body()))];
        let Some(here) = self.selected().map(|row| timeline::bucket(row.cut, cell)) else { return };
        let bucket = |row: &PointRow| timeline::bucket(row.cut, cell);
        let at = if older {
            self.rows.partition_point(|row| bucket(row) >= here)
        } else {
            let newer = self.rows.partition_point(|row| bucket(row) > here);
            let Some(next) = newer.checked_sub(1).map(|at| bucket(&self.rows[at])) else { return };
            self.rows.partition_point(|row| bucket(row) > next)
        };
        if at < self.rows.len() {
            self.select(at, world);
        }
    }

    fn select(&mut self, at: usize, world: &World) {
        let height = rows_in(parts(world.body()).1);
        self.list.select(at, self.rows.len(), height);
    }

    /// Selects what the disk was at a time: the newest point that is not after it.
    fn jump_to(&mut self, at: Timestamp, world: &World) -> Order {
        let found = self.rows.partition_point(|row| row.cut > at);
        self.select(found, world);
        let said = match (self.selected(), found < self.rows.len()) {
            (None, _) => "There is no point.".to_owned(),
            (Some(row), true) => {
                let before = Span(seconds_between(row.cut, at));
                format!("The newest point that is not after {}: cut {before} before it.", Clock(at))
            }
            (Some(row), false) if self.complete => {
                format!("No point is as old as {}; the oldest is of {}.", Clock(at), Clock(row.cut))
            }
            (Some(row), false) => {
                format!("Points older than {} are not here yet; try again.", Clock(row.cut))
            }
        };
        Order::Say(said)
    }

    fn type_on(&mut self, (typing, mut prompt): (Typing, Prompt), key: Key, world: &World) -> Vec<Order> {
        match (prompt.press(key), typing) {
            (Typed::Left, _) => return Vec::new(),
            (Typed::Done, Typing::Time) => match when::parse(prompt.text(), world.now) {
                Some(at) => return vec![self.jump_to(at, world)],
                None => prompt.complain(format!("no time; as {}", when::EXAMPLES)),
            },
            (Typed::Done, Typing::Folder(point)) => return self.mount(point, prompt.text()),
            (Typed::On, _) => {}
        }
        self.typing = Some((typing, prompt));
        Vec::new()
    }

    fn mount(&mut self, point: PointId, directory: &str) -> Vec<Order> {
        let body = MountBody { point: point.to_string(), directory: directory.to_owned() };
        self.mounting = Some((point, directory.to_owned()));
        vec![
            Order::Say("It is being mounted; a journal may have to be replayed.".to_owned()),
            Order::Do(Ask::Mount(body)),
        ]
    }

    /// It could not be mounted: what was typed can be corrected, unless something else is being typed.
    fn not_mounted(&mut self, (point, directory): (PointId, String), why: &Failure) -> Vec<Order> {
        let again = || (Typing::Folder(point), Prompt::new(MOUNT_ON, FOLDER, &directory));
        self.typing = self.typing.take().or_else(|| Some(again()));
        vec![Order::Say(format!("! {why}"))]
    }

    fn spot(&self) -> Option<Spot> {
        Spot::new(&self.rows, self.list.at())
    }

    fn changes(&self) -> Vec<Order> {
        let two = self.spot().and_then(|spot| spot.other().map(|other| (spot, other)));
        vec![match two {
            Some((spot, other)) => Order::Open(Box::new(Changes::new(spot, other, None))),
            None => Order::Say("There are no two points to compare.".to_owned()),
        }]
    }

    fn zoom(&mut self, key: Key, world: &World) {
        let step = self.step(cells_in(world.body()));
        self.zoom = match key {
            Key::Char('+' | '=') => Some(step.saturating_sub(1)),
            Key::Char('-') => Some((step + 1).min(STEPS.len() - 1)),
            _ => None,
        };
    }
}

fn cells_in(area: Rect) -> usize {
    usize::from(area.width.saturating_sub(2))
}

/// The time line, the list, and what is said of the selected row.
fn parts(area: Rect) -> (Rect, Rect, Rect) {
    let line = timeline::LINES.min(area.height);
    let detail = DETAIL_LINES.min(area.height - line);
    let list = Rect { y: area.y + line, height: area.height - line - detail, ..area };
    (
        Rect { x: area.x + 1, width: area.width.saturating_sub(2), height: line, ..area },
        list,
        Rect { y: list.bottom(), height: detail, ..area },
    )
}

impl Page for Points {
    fn name(&self) -> &'static str {
        "Points"
    }

    fn crumb(&self, world: &World) -> String {
        world.disk(self.disk).map_or_else(|| self.disk.to_string(), |row| row.device.clone())
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        vec![self.ask(self.wanted)]
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if let Some(typing) = self.typing.take() {
            return Some(self.type_on(typing, key, world));
        }
        let height = rows_in(parts(world.body()).1);
        if self.list.press(key, self.rows.len(), height) {
            return nothing();
        }
        let point = self.selected();
        match key {
            Key::Char('t' | '/') => {
                self.typing = Some((Typing::Time, Prompt::new("Go to", when::EXAMPLES, "")))
            }
            Key::Char('m') => {
                let prompt =
                    |row: &PointRow| (Typing::Folder(row.id), Prompt::new(MOUNT_ON, FOLDER, "/mnt/"));
                self.typing = point.map(prompt);
            }
            Key::Char('p') => {
                let row = world.disk(self.disk)?;
                return super::open(Policy::new(row.agent.clone(), Some(row.id)));
            }
            Key::Enter => return self.spot().map(|spot| vec![Order::Open(Box::new(Contents::new(spot)))]),
            Key::Char('c') => return Some(self.changes()),
            Key::Left => self.move_in_time(true, world),
            Key::Right => self.move_in_time(false, world),
            Key::Char('+' | '=' | '-' | '0') => self.zoom(key, world),
            Key::Char('r') => {
                let page = point.map(|row| Restore::new(row.clone(), What::Disk, world));
                return page.map(|page| vec![Order::Open(Box::new(page))]);
            }
            Key::Char('e') => {
                return point.and_then(|row| super::open(Export::new(row.clone(), PartId::DISK)));
            }
            Key::Char('d') => return point.map(sheet),
            Key::Char('v') => return point.map(|row| vec![verify(row)]),
            Key::Char('s') => {
                let row = world.disk(self.disk)?;
                return Some(vec![super::agents::sync(&row.agent, Some(row.id.to_string()))]);
            }
            _ => return None,
        }
        nothing()
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        match reply {
            Ok(Answer::Mounted(row)) => {
                self.mounting = None;
                let said =
                    format!("Mounted on {}: `M` shows what is mounted, and unmounts it.", row.directory);
                vec![Order::Say(said)]
            }
            Ok(Answer::Points { disk, rows }) if disk == self.disk => {
                (self.waits, self.failed) = (false, None);
                self.learn(rows, rows_in(parts(world.body()).1))
            }
            Ok(Answer::Action(action)) => {
                vec![Order::Say(format!("The {} has begun: `a` shows it.", action.kind))]
            }
            Err(failure) if self.waits => {
                (self.waits, self.failed) = (false, Some(failure.text));
                Vec::new()
            }
            other => match (self.mounting.take(), other) {
                (Some(mounting), Err(failure)) => self.not_mounted(mounting, &failure),
                (_, other) => vec![Order::Say(super::agents::synced(other))],
            },
        }
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.select(self.list.at(), world);
        Vec::new()
    }

    fn happened(&mut self, event: &events::Event, _: &World) -> Vec<Order> {
        match event {
            // What is asked for already tells this one too.
            events::Event::Point { disk, .. } if *disk == self.disk && !self.waits => {
                vec![self.ask(LATEST)]
            }
            // A consolidation takes points away.
            events::Event::Action { disk, state, .. } if *disk == Some(self.disk) && state.is_final() => {
                vec![self.ask(self.wanted)]
            }
            events::Event::Missed { .. } => vec![self.ask(self.wanted)],
            _ => Vec::new(),
        }
    }

    fn prompt(&self) -> Option<&Prompt> {
        self.typing.as_ref().map(|(_, prompt)| prompt)
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (Some(newest), Some(row)) = (self.rows.first(), self.selected()) else {
            let empty =
                "No point of this disk is published yet: its base is made first. `a` shows how far it is.";
            let text = frame::in_place(self.waits, self.failed.as_deref(), empty);
            return frame::nothing(buffer, area, &text);
        };
        let (line, list, below) = parts(area);
        let (cell, name) = STEPS[self.step(cells_in(area))];
        let axis = Axis::new(cell, newest.cut, row.cut, cells_in(area));
        timeline::render((world.theme, axis, name), &self.rows, row.cut, line, buffer);
        let head = (world.theme, self.list, self.rows.len());
        table::render(head, &COLUMNS, |n| cells(&self.rows[n], world.now), list, buffer);
        let of = if self.complete { String::new() } else { ", older ones to come".to_owned() };
        let of = format!("{}{of}", count(self.rows.len() as u64, "point"));
        let nth = grouped(self.list.at() as u64 + 1);
        frame::detail(world, &format!("{nth} of {of}: {}", said(row)), below, buffer);
    }
}

fn sheet(row: &PointRow) -> Vec<Order> {
    vec![Order::Open(Box::new(Sheet::new(Topic::Point(Box::new(row.clone())))))]
}

fn verify(row: &PointRow) -> Order {
    let text = format!(
        "Verify point {} of {}: everything it depends on is read, which takes as long as reading that much from the \
         dispatcher's disks. Nothing is changed.",
        row.id,
        Clock(row.cut)
    );
    Order::Confirm(Question { text, ask: Ask::Verify(row.id) })
}

fn cells(row: &PointRow, now: Timestamp) -> Vec<String> {
    vec![
        Clock(row.cut).to_string(),
        Span(seconds_between(row.cut, now)).to_string(),
        consistency(row.consistency).to_owned(),
        ByteCount(row.bytes).to_string(),
        ByteCount(row.stored).to_string(),
        row.rounds.to_string(),
        row.freeze_ms.map_or_else(|| NONE.to_owned(), |ms| format!("{ms} ms")),
        row.id.to_string(),
        marks(row),
    ]
}

fn said(row: &PointRow) -> String {
    let mut said = vec![format!("{}, {}, coverage {}", row.id, row.kind, row.coverage)];
    if !row.holes.is_empty() {
        said.push(format!("! {} could not be read", count(row.holes.count(), "sector")));
    }
    said.extend(row.half_restored.map(|restore| format!("! {}", mixture(restore))));
    said.extend(row.damage.first().map(|damage| format!("! {damage}")));
    said.extend(row.notes.iter().cloned());
    said.join("; ")
}

/// The first digits of an id, which name it well enough for a heading.
#[must_use]
pub fn short(point: PointId) -> String {
    point.to_string().chars().take(8).collect()
}
