//! Files of a partition, folder by folder.

use super::finds::{Finds, PAGE};
use super::spot::Spot;
use super::{Changes, DETAILS, Found, Picked, Restore, Sheet, Topic, What, nothing, open, split};
use crate::api::browse::{FileKind, FileRow, FilesQuery};
use crate::archive::shown;
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use crate::model::units::ByteCount;
use crate::tui::ask::{Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::prompt::{Prompt, Typed};
use crate::tui::table::{Column, left, rest, right};
use crate::tui::words::moment;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 6] = [
    left("", 1, 1),
    left("MODE", 6, 6),
    left("OWNER", 5, 15),
    right("SIZE", 9, 10),
    left("MODIFIED", 16, 19),
    rest("NAME"),
];

const KEYS: [Hint; 7] = [
    hint("Enter", "open", "go into a folder; details of anything else"),
    hint("Space", "mark", "mark a file or folder, and go to the next; U takes all marks away"),
    hint("r", "restore", "what is marked, or the selected row"),
    hint("/", "find", "files of this partition by name"),
    hint("[ ]", "older, newer", "the same folder at the point before, after"),
    hint("c", "changes", "in this folder from here to the newest point"),
    DETAILS,
];

#[derive(Debug)]
pub struct Files {
    spot: Spot,
    partition: PartId,
    /// From the root; empty there.
    folder: Vec<u8>,
    finds: Finds<FileRow>,
    marked: Picked,
    find: Option<Prompt>,
    /// The name that is to be selected when it comes.
    wanted: Option<Vec<u8>>,
}

impl Files {
    /// The root of a partition.
    #[must_use]
    pub fn new(spot: Spot, partition: PartId) -> Self {
        Self::at(spot, partition, &[], None)
    }

    /// The folder that a file is in, with the file selected.
    #[must_use]
    pub fn around(spot: Spot, partition: PartId, path: &[u8]) -> Self {
        Self::at(spot, partition, parent(path), Some(path.to_vec()))
    }

    fn at(spot: Spot, partition: PartId, folder: &[u8], wanted: Option<Vec<u8>>) -> Self {
        let finds = Finds::new(question(&spot, partition.clone(), folder));
        let (folder, marked) = (folder.to_vec(), Picked::default());
        Self { spot, partition, folder, finds, marked, find: None, wanted }
    }

    fn go(&mut self, folder: Vec<u8>, wanted: Option<Vec<u8>>) -> Vec<Order> {
        (self.folder, self.wanted) = (folder, wanted);
        self.finds.ask(question(&self.spot, self.partition.clone(), &self.folder))
    }

    /// Up to the folder above, with this one selected; out of the page at the root.
    fn up(&mut self) -> Vec<Order> {
        if self.folder.is_empty() {
            return vec![Order::Back];
        }
        let folder = std::mem::take(&mut self.folder);
        self.go(parent(&folder).to_vec(), Some(folder))
    }

    /// The same folder at another point, with the same name selected.
    fn at_point(&mut self, spot: Option<Spot>) -> Vec<Order> {
        let Some(spot) = spot else { return vec![Order::Say("There is no further point.".to_owned())] };
        let said = format!("The folder at the point of {}.", moment(spot.point().cut));
        let selected = self.finds.selected().map(|row| row.raw.as_bytes().to_vec());
        self.spot = spot;
        // What is marked was marked in another point.
        self.marked = Picked::default();
        let mut orders = self.go(self.folder.clone(), selected);
        orders.push(Order::Say(said));
        orders
    }

    /// Selects the name that is wanted, which may be on a later page.
    fn find_wanted(&mut self, world: &World) -> Vec<Order> {
        let Some(wanted) = &self.wanted else { return Vec::new() };
        let at = self.finds.rows().iter().position(|row| row.raw.as_bytes() == wanted);
        if at.is_none()
            && let Some(next) = self.finds.next()
        {
            return vec![next];
        }
        self.wanted = None;
        self.finds.select(at.unwrap_or(0), world)
    }

    fn press_find(&mut self, mut prompt: Prompt, key: Key) -> Option<Vec<Order>> {
        match prompt.press(key) {
            Typed::Left => nothing(),
            Typed::Done => match Found::new(&self.spot, Some(self.partition.clone()), prompt.text()) {
                Some(found) => open(found),
                None => nothing(),
            },
            Typed::On => {
                self.find = Some(prompt);
                nothing()
            }
        }
    }
}

/// The first page of a folder.
fn question(spot: &Spot, partition: PartId, folder: &[u8]) -> Ask {
    let path = (!folder.is_empty()).then(|| ByteText::from(folder.to_vec()));
    let query = FilesQuery { partition: Some(partition), path, limit: Some(PAGE), after: None };
    Ask::Files { point: spot.point().id, query }
}

/// The path of the folder that something is in; empty is the root.
fn parent(path: &[u8]) -> &[u8] {
    let cut = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..cut]
}

impl Page for Files {
    fn name(&self) -> &'static str {
        "Files"
    }

    fn crumb(&self, _: &World) -> String {
        let path = if self.folder.is_empty() { "/".to_owned() } else { shown(&self.folder) };
        format!("{}:{path}", self.partition)
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        self.finds.begin()
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if let Some(prompt) = self.find.take() {
            return self.press_find(prompt, key);
        }
        if let Some(orders) = self.finds.press(key, world) {
            return Some(orders);
        }
        let row = self.finds.selected().cloned();
        match (key, row) {
            (Key::Esc | Key::Backspace | Key::Left, _) => Some(self.up()),
            (Key::Char('/'), _) => {
                self.find = Some(Prompt::new("Find", super::found::ADVICE, ""));
                nothing()
            }
            (Key::Char('U'), _) => {
                self.marked = Picked::default();
                nothing()
            }
            (Key::Char('['), _) => Some(self.at_point(self.spot.older())),
            (Key::Char(']'), _) => Some(self.at_point(self.spot.newer())),
            (Key::Char('c'), _) => match self.spot.other() {
                Some(other) => open(Changes::new(
                    self.spot.clone(),
                    other,
                    Some((self.partition.clone(), self.folder.clone())),
                )),
                None => {
                    Some(vec![Order::Say("There is no other point to compare this one with.".to_owned())])
                }
            },
            (Key::Enter | Key::Right, Some(row)) if row.kind == FileKind::Folder => {
                Some(self.go(row.raw.into_bytes(), None))
            }
            (Key::Enter | Key::Char('d'), Some(row)) => open(Sheet::new(Topic::File(Box::new(row)))),
            (Key::Char(' '), Some(row)) => {
                self.marked.toggle(&row);
                self.finds.press(Key::Down, world)
            }
            (Key::Char('r'), row) => match self.marked.or(row.as_ref()) {
                Some(picked) => open(Restore::new(self.spot.point().clone(), What::Files(picked), world)),
                None => nothing(),
            },
            (Key::Enter | Key::Right | Key::Char('d' | ' '), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        let more = self.finds.answer(reply, world);
        if more.is_empty() { self.find_wanted(world) } else { more }
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.finds.fit(world)
    }

    fn prompt(&self) -> Option<&Prompt> {
        self.find.as_ref()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let cells = |row: &FileRow| cells(row, &self.marked, false);
        self.finds.draw((world, "The folder is empty."), &COLUMNS, cells, list, buffer);
        let Some(row) = self.finds.selected() else { return };
        let at = format!("{} at {}", row.path, moment(self.spot.point().cut));
        let text = format!("{at}; {}{}", self.finds.tally("entry"), self.marked.tally());
        frame::detail(world, &text, below, buffer);
    }
}

/// A file in a row; with its whole path where its folder is not known.
pub fn cells(row: &FileRow, marked: &Picked, whole: bool) -> Vec<String> {
    let sign = match row.kind {
        FileKind::Folder => 'd',
        FileKind::File => '-',
        FileKind::Link => 'h',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    };
    let name = if whole { format!("{}:{}", row.partition, row.path) } else { row.name.clone() };
    let name = match (row.kind, &row.target) {
        (FileKind::Folder, _) => format!("{name}/"),
        (_, Some(target)) => format!("{name} -> {target}"),
        _ => name,
    };
    let size = if row.kind == FileKind::File { ByteCount(row.bytes).to_string() } else { String::new() };
    vec![
        if marked.has(row) { "*" } else { "" }.to_owned(),
        format!("{sign} {}", row.mode),
        format!("{}:{}", row.uid, row.gid),
        size,
        row.modified.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect(),
        name,
    ]
}
