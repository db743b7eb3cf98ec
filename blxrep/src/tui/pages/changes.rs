//! How the files of two points differ.

use super::finds::{Finds, PAGE};
use super::spot::Spot;
use super::{Files, nothing, open, split};
use crate::api::browse::{ChangeRow, DiffQuery, How};
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use crate::tui::ask::{Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{Column, left, rest};
use crate::tui::words::moment;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 4] = [left("CHANGE", 10, 10), left("KIND", 7, 10), left("WHAT", 5, 24), rest("PATH")];

const KEYS: [Hint; 3] = [
    hint(
        "Enter",
        "folder",
        "go to the folder that it is in: at the older point if it was removed, else at the newer",
    ),
    hint("o", "older", "go to its folder at the older point"),
    hint("+ - ~ *", "", "added, removed, changed in content, changed in something else"),
];

#[derive(Debug)]
pub struct Changes {
    before: Spot,
    after: Spot,
    finds: Finds<ChangeRow>,
}

impl Changes {
    /// Between two points, whichever is the older; of a folder, or of everything.
    #[must_use]
    pub fn new(one: Spot, other: Spot, place: Option<(PartId, Vec<u8>)>) -> Self {
        let (before, after) = one.in_order(other);
        let (partition, path) = place.unzip();
        let path = path.filter(|path| !path.is_empty()).map(ByteText::from);
        let with = after.point().id.to_string();
        let query = DiffQuery { with, partition, path, limit: Some(PAGE), after: None };
        let finds = Finds::new(Ask::Diff { point: before.point().id, query });
        Self { before, after, finds }
    }
}

impl Page for Changes {
    fn name(&self) -> &'static str {
        "Changes"
    }

    fn crumb(&self, _: &World) -> String {
        format!("{} to {}", moment(self.before.point().cut), moment(self.after.point().cut))
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        self.finds.begin()
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if let Some(orders) = self.finds.press(key, world) {
            return Some(orders);
        }
        let row = self.finds.selected();
        match (key, row) {
            (Key::Enter | Key::Char('o'), Some(row)) => {
                let older = key == Key::Char('o') || row.change == How::Removed;
                let spot = if older { &self.before } else { &self.after };
                open(Files::around(spot.clone(), row.partition.clone(), row.raw.as_bytes()))
            }
            (Key::Enter | Key::Char('o'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        self.finds.answer(reply, world)
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.finds.fit(world)
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let (before, after) = (moment(self.before.point().cut), moment(self.after.point().cut));
        let text = format!("{}; from {before} to {after}", self.finds.tally("change"));
        frame::detail(world, &text, below, buffer);
        self.finds.draw((world, "Nothing differs."), &COLUMNS, cells, list, buffer);
    }
}

fn cells(row: &ChangeRow) -> Vec<String> {
    let change = match row.change {
        How::Added => "+ added",
        How::Removed => "- removed",
        How::Changed => "~ content",
        How::Metadata => "* metadata",
        How::Failed => "! failed",
    };
    vec![
        change.to_owned(),
        row.kind.map_or_else(String::new, |kind| kind.word().to_owned()),
        row.what.join(", "),
        format!("{}:{}", row.partition, row.path),
    ]
}
