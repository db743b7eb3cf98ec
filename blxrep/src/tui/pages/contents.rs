//! What lies on a point's disk: its partitions and volumes.

use super::finds::Finds;
use super::spot::Spot;
use super::{DETAILS, Export, Files, Found, Restore, Sheet, Topic, What, nothing, open, split};
use crate::api::browse::PartitionRow;
use crate::model::units::ByteCount;
use crate::tui::ask::{Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::prompt::{Prompt, Typed};
use crate::tui::table::{Column, from, left, rest, right};
use crate::tui::words::moment;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 6] = [
    right("PART", 6, 24),
    left("HOLDS", 8, 14),
    right("SIZE", 9, 10),
    left("LABEL", 8, 20),
    from(120, left("UUID", 16, 36)),
    rest("NOTE"),
];

const KEYS: [Hint; 6] = [
    hint("Enter", "files", "files of the selected partition"),
    hint("/", "find", "files by name, on all partitions"),
    hint("r", "restore", "the selected partition, to a file or a device"),
    hint("R", "disk", "restore the whole disk, to a file or a device"),
    hint("e", "export", "serve the selected partition as a network block device"),
    DETAILS,
];

#[derive(Debug)]
pub struct Contents {
    spot: Spot,
    finds: Finds<PartitionRow>,
    find: Option<Prompt>,
}

impl Contents {
    #[must_use]
    pub fn new(spot: Spot) -> Self {
        let finds = Finds::new(Ask::Partitions(spot.point().id));
        Self { spot, finds, find: None }
    }
}

impl Page for Contents {
    fn name(&self) -> &'static str {
        "Partitions"
    }

    fn crumb(&self, _: &World) -> String {
        moment(self.spot.point().cut)
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        self.finds.begin()
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if let Some(mut prompt) = self.find.take() {
            return match prompt.press(key) {
                Typed::Left => nothing(),
                Typed::Done => match Found::new(&self.spot, None, prompt.text()) {
                    Some(found) => open(found),
                    None => nothing(),
                },
                Typed::On => {
                    self.find = Some(prompt);
                    nothing()
                }
            };
        }
        if let Some(orders) = self.finds.press(key, world) {
            return Some(orders);
        }
        match (key, self.finds.selected()) {
            (Key::Char('R'), _) => open(Restore::new(self.spot.point().clone(), What::Disk, world)),
            (Key::Char('r'), Some(row)) => {
                let what = What::Partition(Box::new(row.clone()));
                open(Restore::new(self.spot.point().clone(), what, world))
            }
            (Key::Char('e'), Some(row)) => {
                open(Export::new(self.spot.point().clone(), row.partition.clone()))
            }
            (Key::Char('/'), _) => {
                self.find = Some(Prompt::new("Find", super::found::ADVICE, ""));
                nothing()
            }
            (Key::Enter, Some(row)) if row.browsable => {
                open(Files::new(self.spot.clone(), row.partition.clone()))
            }
            (Key::Enter, Some(row)) => {
                Some(vec![Order::Say(format!("! Its files cannot be shown: {}", row.note))])
            }
            (Key::Char('d'), Some(row)) => open(Sheet::new(Topic::Partition(Box::new(row.clone())))),
            (Key::Enter | Key::Char('r' | 'd' | 'e'), None) => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        let orders = self.finds.answer(reply, world);
        // Most people want the files of the largest one that has some.
        let largest = self.finds.rows().iter().enumerate().filter(|(_, row)| row.browsable);
        let largest = largest.max_by_key(|(_, row)| row.bytes).map_or(0, |(at, _)| at);
        self.finds.select(largest, world);
        orders
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.finds.fit(world)
    }

    fn prompt(&self) -> Option<&Prompt> {
        self.find.as_ref()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        self.finds.draw((world, "Nothing is on the disk."), &COLUMNS, cells, list, buffer);
        let Some(row) = self.finds.selected() else { return };
        let part = row.partition.described();
        let note = if row.note.is_empty() { row.type_code.clone() } else { row.note.clone() };
        let text = format!("{part}: {note}; {}", self.finds.tally("partition"));
        frame::detail(world, &text, below, buffer);
    }
}

fn cells(row: &PartitionRow) -> Vec<String> {
    vec![
        row.partition.to_string(),
        if row.kind.is_empty() { "unknown" } else { &row.kind }.to_owned(),
        ByteCount(row.bytes).to_string(),
        if row.label.is_empty() { row.name.clone() } else { row.label.clone() },
        row.uuid.clone(),
        if row.browsable { "● files".to_owned() } else { format!("- no files: {}", row.note) },
    ]
}
