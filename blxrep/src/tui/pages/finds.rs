//! What was found in points: rows that come page by page. More is asked for when a person gets near the end.

use super::{rows_in, split};
use crate::api::browse::{ChangeRow, FileRow, Findings, PartitionRow};
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::Key;
use crate::tui::list::List;
use crate::tui::model::World;
use crate::tui::page::Order;
use crate::tui::table::{self, Column};
use crate::tui::words::count;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Rows that are asked for at once.
pub const PAGE: u32 = 500;
/// Rows that are kept; whoever wants more looks for something narrower.
const MOST: usize = 100_000;

/// What comes in pages.
pub trait Found: Sized {
    /// The page that is in an answer; `None` if it answers something else.
    fn page(answer: Answer) -> Option<Findings<Self>>;
}

impl Found for FileRow {
    fn page(answer: Answer) -> Option<Findings<Self>> {
        if let Answer::Files(page) = answer { Some(page) } else { None }
    }
}

impl Found for ChangeRow {
    fn page(answer: Answer) -> Option<Findings<Self>> {
        if let Answer::Changes(page) = answer { Some(page) } else { None }
    }
}

impl Found for PartitionRow {
    fn page(answer: Answer) -> Option<Findings<Self>> {
        if let Answer::Partitions(page) = answer { Some(page) } else { None }
    }
}

/// How many rows of a list are seen.
fn height(world: &World) -> usize {
    rows_in(split(world.body()).0)
}

/// A question, and all that was answered so far.
#[derive(Debug)]
pub struct Finds<T> {
    /// For the first page.
    question: Ask,
    rows: Vec<T>,
    list: List,
    next: Option<String>,
    waits: bool,
    failed: Option<String>,
    said: Vec<String>,
}

impl<T> Finds<T> {
    #[must_use]
    pub fn new(question: Ask) -> Self {
        let (rows, list, said) = (Vec::new(), List::default(), Vec::new());
        Self { question, rows, list, next: None, waits: false, failed: None, said }
    }

    #[must_use]
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    #[must_use]
    pub fn selected(&self) -> Option<&T> {
        self.rows.get(self.list.at())
    }

    /// Everything is asked for, whatever is there.
    pub fn begin(&mut self) -> Vec<Order> {
        *self = Self { waits: true, ..Self::new(self.question.clone()) };
        vec![Order::Load(self.question.clone())]
    }

    /// Something else is asked for.
    pub fn ask(&mut self, question: Ask) -> Vec<Order> {
        self.question = question;
        self.begin()
    }

    /// The page behind what is there; `None` if there is none, it is asked for already, or the last one failed.
    pub fn next(&mut self) -> Option<Order> {
        let next = self.next.clone().filter(|_| !self.waits && self.failed.is_none())?;
        self.waits = true;
        Some(Order::Load(self.question.clone().behind(Some(next))))
    }

    /// The next page, if a person gets to the end of what is there. A search or comparison that takes long answers with
    /// what it has, also with nothing.
    fn more(&mut self, height: usize) -> Vec<Order> {
        let near = self.list.at() + 2 * height >= self.rows.len();
        near.then(|| self.next()).flatten().into_iter().collect()
    }

    pub fn select(&mut self, at: usize, world: &World) -> Vec<Order> {
        self.list.select(at, self.rows.len(), height(world));
        self.more(height(world))
    }

    /// Moves as the key says; `None` for keys that do not move.
    pub fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        let moved = self.list.press(key, self.rows.len(), height(world));
        moved.then(|| {
            // Who still moves towards what could not be read asks for it again.
            self.failed.take_if(|_| self.next.is_some());
            self.more(height(world))
        })
    }

    /// The screen has another size.
    pub fn fit(&mut self, world: &World) -> Vec<Order> {
        self.select(self.list.at(), world)
    }

    /// `3 of 500 files, more to come`, and what one should know of them.
    #[must_use]
    pub fn tally(&self, one: &str) -> String {
        let more = match (&self.next, self.waits) {
            (_, true) => ", looking for more",
            (Some(_), false) => ", more to come",
            (None, false) => "",
        };
        let at = (self.list.at() + 1).min(self.rows.len());
        let said = self.said.iter().map(|text| format!("; {text}")).collect::<String>();
        let failed = self.failed.as_ref().map_or_else(String::new, |why| format!("; ! {why}"));
        format!("{at} of {}{more}{failed}{said}", count(self.rows.len() as u64, one))
    }

    /// The rows; in their place `empty` where nothing was found, or why there is nothing yet.
    pub fn draw(
        &self,
        (world, empty): (&World, &str),
        columns: &[Column],
        cells: impl Fn(&T) -> Vec<String>,
        area: Rect,
        buffer: &mut Buffer,
    ) {
        if self.rows.is_empty() {
            let text = frame::in_place(self.waits, self.failed.as_deref(), empty);
            return frame::nothing(buffer, area, &text);
        }
        let head = (world.theme, self.list, self.rows.len());
        table::render(head, columns, |n| cells(&self.rows[n]), area, buffer);
    }
}

impl<T: Found> Finds<T> {
    /// Takes in an answer.
    pub fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        match reply.map(T::page) {
            Ok(Some(page)) => self.learn(page, height(world)),
            Ok(None) => Vec::new(),
            Err(failure) => {
                (self.waits, self.failed) = (false, Some(failure.text));
                Vec::new()
            }
        }
    }

    fn learn(&mut self, page: Findings<T>, height: usize) -> Vec<Order> {
        (self.waits, self.failed) = (false, None);
        self.rows.extend(page.items);
        self.next = page.next.filter(|_| self.rows.len() < MOST);
        self.said.extend(page.notes);
        self.said.extend(page.unread.into_iter().map(|what| format!("! not read: {what}")));
        self.said.truncate(MOST);
        self.list.select(self.list.at(), self.rows.len(), height);
        self.more(height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::browse::{DiffQuery, How};
    use crate::model::ids::PointId;
    use crate::tui::ask::Failure;
    use crate::tui::theme::Theme;

    fn asked(orders: &[Order]) -> Option<&str> {
        match orders {
            [] => None,
            [Order::Load(Ask::Diff { query, .. })] => Some(query.after.as_deref().unwrap_or("the first")),
            other => panic!("{other:?}"),
        }
    }

    fn page(rows: usize, next: Option<&str>) -> Reply {
        let (path, raw, what) = ("/a".to_owned(), b"/a".to_vec().into(), Vec::new());
        let row = ChangeRow { partition: 1.into(), path, raw, kind: None, change: How::Added, what };
        let (items, next) = (vec![row; rows], next.map(str::to_owned));
        Ok(Answer::Changes(Findings { items, next, notes: Vec::new(), unread: Vec::new() }))
    }

    #[test]
    fn more_is_asked_for_near_the_end() {
        let world = World::new(String::new(), jiff::Timestamp::UNIX_EPOCH, Theme { colour: false });
        let mut finds = Finds::<ChangeRow>::new(Ask::Diff { point: PointId(1), query: DiffQuery::default() });
        assert_eq!(asked(&finds.begin()), Some("the first"));
        assert_eq!(
            asked(&finds.answer(page(5, Some("5")), &world)),
            Some("5"),
            "they do not fill the screen"
        );
        assert_eq!(asked(&finds.fit(&world)), None, "they are asked for already");
        assert_eq!(asked(&finds.answer(page(95, Some("100")), &world)), None);
        assert_eq!(finds.tally("file"), "1 of 100 files, more to come");
        assert_eq!(asked(&finds.press(Key::End, &world).unwrap()), Some("100"));
        assert_eq!(asked(&finds.answer(Err(Failure::of("gone".to_owned())), &world)), None);
        assert_eq!(asked(&finds.fit(&world)), None, "what failed is not asked for all the time");
        assert_eq!(finds.tally("file"), "100 of 100 files, more to come; ! gone");
        assert_eq!(asked(&finds.press(Key::Down, &world).unwrap()), Some("100"), "but by who goes on");
        assert_eq!(asked(&finds.answer(page(1, None), &world)), None);
        assert_eq!(finds.tally("file"), "100 of 101 files");
        assert!(finds.press(Key::Enter, &world).is_none());
    }
}
