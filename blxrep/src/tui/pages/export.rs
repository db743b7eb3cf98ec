//! Where a point is to be served as a network block device, and how.

use super::form::{Choice, Field, Form};
use super::{Mounts, nothing};
use crate::api::exports::ExportBody;
use crate::api::types::PointRow;
use crate::model::part_id::PartId;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{heading, line};
use crate::tui::words::moment;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const KEYS: [Hint; 3] = [
    hint("Up Down", "field", "the field above, below"),
    hint("<- ->", "choose", "the choice before, after; moves in a text"),
    hint("Enter", "serve", "have the dispatcher serve it"),
];

const ADDRESS: usize = 0;
const CLIENTS: usize = 1;

#[derive(Debug)]
pub struct Export {
    point: PointRow,
    /// 0 is the whole disk.
    partition: PartId,
    form: Form,
    /// The dispatcher was told to.
    waits: bool,
    failed: Option<String>,
}

impl Export {
    #[must_use]
    pub fn new(point: PointRow, partition: PartId) -> Self {
        let address = format!("unix:/run/blxrep-{}.sock", super::points::short(point.id));
        let clients = ["read only", "write, too; what they write is not kept"];
        let form = Form::new(vec![
            Field::text("at", &address, "unix: and a path on the dispatcher's host, or 127.0.0.1:PORT"),
            Field::choice("clients", Choice::new(clients.map(str::to_owned).to_vec())),
        ]);
        Self { point, partition, form, waits: false, failed: None }
    }

    fn named(&self) -> String {
        let disk = format!("{} of {}", self.point.device, self.point.agent);
        match &self.partition {
            &PartId::DISK => format!("the whole disk {disk}"),
            part => format!("{} of {disk}", part.described()),
        }
    }

    fn serve(&mut self) -> Vec<Order> {
        (self.waits, self.failed) = (true, None);
        let (point, address) = (self.point.id.to_string(), self.form.text(ADDRESS).to_owned());
        let (partition, writable) = (self.partition.clone(), self.form.choice(CLIENTS) == 1);
        // Who leaves before it serves does not want it.
        vec![Order::Load(Ask::Export(ExportBody { point, address, partition, writable }))]
    }
}

impl Page for Export {
    fn name(&self) -> &'static str {
        "Export"
    }

    fn crumb(&self, _: &World) -> String {
        format!("export {}", super::points::short(self.point.id))
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn press(&mut self, key: Key, _: &World) -> Option<Vec<Order>> {
        match key {
            // Not left to the keys of every page: those are not asked while somebody types.
            Key::Esc => Some(vec![Order::Back]),
            _ if self.waits => nothing(),
            Key::Enter => Some(self.serve()),
            // In a text every letter is meant as one.
            key if self.form.press(key) || self.form.is_text() => nothing(),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        self.waits = false;
        match reply {
            Ok(Answer::Exported(row)) => {
                let said = format!("Point {} is served at {}.", row.point, row.uri);
                vec![Order::Replace(Box::new(Mounts::default())), Order::Say(said)]
            }
            Ok(_) => Vec::new(),
            Err(failure) => {
                self.failed = Some(failure.text);
                Vec::new()
            }
        }
    }

    fn is_typing(&self) -> bool {
        self.form.is_text()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let title =
            if self.waits { "Export: the point is being opened" } else { "Export: serve a block device" };
        heading(buffer, area, title, world.theme);
        let below = |area: Rect, lines: u16| Rect {
            y: area.y + lines.min(area.height),
            height: area.height.saturating_sub(lines),
            ..area
        };
        let named = format!(" {}, as it was at {}", self.named(), moment(self.point.cut));
        line(buffer, below(area, 1), &named, world.theme.strong());
        let fields = below(area, 3);
        let used = self.form.draw(world.theme, fields, buffer);
        let text = match &self.failed {
            Some(why) => format!("! {why}"),
            None => format!(
                "For clients of the NBD protocol, as nbdcopy, qemu and the kernel's nbd-client. It goes on until it is ended on \
                 the page behind M, or the dispatcher ends. `blxrep export {} --to FILE --format qcow2` on the dispatcher's \
                 host makes an image file instead.",
                self.point.id
            ),
        };
        frame::detail(world, &text, below(fields, used + 1), buffer);
    }
}
