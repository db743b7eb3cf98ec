//! Files of a point that fit a name.

use super::files::cells;
use super::finds::{Finds, PAGE};
use super::spot::Spot;
use super::{DETAILS, Files, Picked, Restore, Sheet, Topic, What, nothing, open, split};
use crate::api::browse::{FileRow, FindQuery};
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use crate::tui::ask::{Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{Column, left, rest, right};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// What can be typed, for the prompt.
pub const ADVICE: &str = "a part of a name; or a pattern: *.conf, /etc/*/id_*";

const COLUMNS: [Column; 6] = [
    left("", 1, 1),
    left("MODE", 6, 6),
    left("OWNER", 5, 15),
    right("SIZE", 9, 10),
    left("MODIFIED", 16, 19),
    rest("PATH"),
];

const KEYS: [Hint; 4] = [
    hint("Enter", "folder", "go to the folder that it is in"),
    hint("Space", "mark", "mark it, and go to the next"),
    hint("r", "restore", "what is marked, or the selected row"),
    DETAILS,
];

#[derive(Debug)]
pub struct Found {
    spot: Spot,
    /// What a person typed.
    text: String,
    finds: Finds<FileRow>,
    marked: Picked,
}

impl Found {
    /// Looks on one partition, or on all; `None` for a text that fits nothing.
    #[must_use]
    pub fn new(spot: &Spot, partition: Option<PartId>, text: &str) -> Option<Self> {
        let (spot, text) = (spot.clone(), text.trim().to_owned());
        let pattern = ByteText::from(pattern(&text).into_bytes());
        let query = FindQuery { pattern, partition, limit: Some(PAGE), after: None };
        let finds = Finds::new(Ask::Find { point: spot.point().id, query });
        (!text.is_empty()).then(|| Self { spot, text, finds, marked: Picked::default() })
    }
}

/// What a person typed as a pattern: without signs of one, a part of a name, and small letters fit large ones too.
fn pattern(text: &str) -> String {
    if text.contains(['*', '?', '[', '/']) {
        return text.to_owned();
    }
    let exact = text.chars().any(char::is_uppercase);
    let mut pattern = "*".to_owned();
    for c in text.chars() {
        if !exact && c.is_ascii_lowercase() {
            pattern.extend(['[', c, c.to_ascii_uppercase(), ']']);
        } else {
            pattern.push(c);
        }
    }
    pattern + "*"
}

impl Page for Found {
    fn name(&self) -> &'static str {
        "Found"
    }

    fn crumb(&self, _: &World) -> String {
        format!("find {}", self.text)
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
            (Key::Enter, Some(row)) => {
                open(Files::around(self.spot.clone(), row.partition.clone(), row.raw.as_bytes()))
            }
            (Key::Char('d'), Some(row)) => open(Sheet::new(Topic::File(Box::new(row.clone())))),
            (Key::Char(' '), Some(row)) => {
                self.marked.toggle(row);
                self.finds.press(Key::Down, world)
            }
            (Key::Char('r'), row) => match self.marked.or(row) {
                Some(picked) => open(Restore::new(self.spot.point().clone(), What::Files(picked), world)),
                None => nothing(),
            },
            (Key::Enter | Key::Char('d' | ' '), None) => nothing(),
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
        let cells = |row: &FileRow| cells(row, &self.marked, true);
        self.finds.draw((world, "Nothing fits."), &COLUMNS, cells, list, buffer);
        let text = format!("{}{}", self.finds.tally("file"), self.marked.tally());
        frame::detail(world, &text, below, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::glob;

    #[test]
    fn a_part_of_a_name_is_a_pattern() {
        let fits = |text: &str, name: &str| glob::matches(pattern(text).as_bytes(), name.as_bytes());
        assert!(fits("budget", "Budget-2026.ods") && fits("*.ods", "a.ods") && fits("é", "café"));
        assert!(!fits("Budget", "budget.ods") && !fits("*.ods", "a.odt"));
    }
}
