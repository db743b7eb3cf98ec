//! Files of a point that fit a name.

use super::files::cells;
use super::finds::{Finds, PAGE};
use super::spot::Spot;
use super::{DETAILS, Files, Picked, Restore, Sheet, Topic, What, nothing, open, rows_in, split};
use crate::api::browse::{FileRow, FindQuery};
use crate::model::byte_text::ByteText;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{self, Column, left, rest, right};
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
    partition: Option<u32>,
    /// What a person typed.
    text: String,
    finds: Finds<FileRow>,
    marked: Picked,
}

impl Found {
    /// Looks on one partition, or on all; `None` for a text that fits nothing.
    #[must_use]
    pub fn new(spot: &Spot, partition: Option<u32>, text: &str) -> Option<Self> {
        let (spot, text) = (spot.clone(), text.trim().to_owned());
        let (finds, marked) = (Finds::default(), Picked::default());
        (!text.is_empty()).then_some(Self { spot, partition, text, finds, marked })
    }

    fn ask(&mut self, after: Option<String>) -> Order {
        let pattern = ByteText::from(pattern(&self.text).into_bytes());
        let query = FindQuery { pattern, partition: self.partition, limit: Some(PAGE), after };
        Order::Load(Ask::Find { point: self.spot.point().id, query })
    }

    fn more(&mut self, height: usize) -> Vec<Order> {
        if !self.finds.wants_more(height) {
            return Vec::new();
        }
        let after = self.finds.ask();
        vec![self.ask(after)]
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
        self.finds.begin();
        vec![self.ask(None)]
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        let height = rows_in(split(world.body()).0);
        if self.finds.press(key, height) {
            return Some(self.more(height));
        }
        let row = self.finds.selected();
        match (key, row) {
            (Key::Enter, Some(row)) => {
                open(Files::around(self.spot.clone(), row.partition, row.raw.as_bytes()))
            }
            (Key::Char('d'), Some(row)) => open(Sheet::new(Topic::File(Box::new(row.clone())))),
            (Key::Char(' '), Some(row)) => {
                self.marked.toggle(row);
                self.finds.press(Key::Down, height);
                Some(self.more(height))
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
        let height = rows_in(split(world.body()).0);
        match reply {
            Ok(Answer::Files(page)) => {
                self.finds.learn(page, height);
                // A search that takes long answers with what it has, also with nothing.
                self.more(height)
            }
            Ok(_) => Vec::new(),
            Err(failure) => {
                self.finds.fail(failure.text);
                Vec::new()
            }
        }
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.finds.fit(rows_in(split(world.body()).0));
        Vec::new()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        if self.finds.rows.is_empty() {
            let text = frame::in_place(self.finds.waits(), self.finds.failed(), "Nothing fits.");
            frame::nothing(buffer, list, &text);
            return frame::detail(world, &self.finds.tally("file"), below, buffer);
        }
        let head = (world.theme, self.finds.list, self.finds.rows.len());
        let cells = |n: usize| cells(&self.finds.rows[n], &self.marked, true);
        table::render(head, &COLUMNS, cells, list, buffer);
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
