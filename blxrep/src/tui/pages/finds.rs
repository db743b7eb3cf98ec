//! What was found in points, as it comes page by page: more is asked for when a person gets near the end.

use crate::api::browse::Findings;
use crate::tui::key::Key;
use crate::tui::list::List;
use crate::tui::words::count;

/// Rows that are asked for at once.
pub const PAGE: u32 = 500;
/// Rows that are kept; whoever wants more looks for something narrower.
const MOST: usize = 100_000;

#[derive(Debug)]
pub struct Finds<T> {
    pub rows: Vec<T>,
    pub list: List,
    next: Option<String>,
    waits: bool,
    failed: Option<String>,
    said: Vec<String>,
}

impl<T> Default for Finds<T> {
    fn default() -> Self {
        let (rows, list, said) = (Vec::new(), List::default(), Vec::new());
        Self { rows, list, next: None, waits: false, failed: None, said }
    }
}

impl<T> Finds<T> {
    #[must_use]
    pub fn selected(&self) -> Option<&T> {
        self.rows.get(self.list.at())
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    #[must_use]
    pub fn has_more(&self) -> bool {
        self.next.is_some()
    }

    /// The screen has another size.
    pub fn fit(&mut self, height: usize) {
        self.list.select(self.list.at(), self.rows.len(), height);
    }

    /// Rows are asked for; `after` which ones.
    pub fn ask(&mut self) -> Option<String> {
        self.waits = true;
        self.next.clone()
    }

    /// Everything is asked for anew.
    pub fn begin(&mut self) {
        *self = Self { waits: true, ..Self::default() };
    }

    pub fn fail(&mut self, why: String) {
        (self.waits, self.failed) = (false, Some(why));
    }

    /// Takes in a page. True if the next one shall be asked for at once.
    pub fn learn(&mut self, page: Findings<T>, height: usize) -> bool {
        (self.waits, self.failed) = (false, None);
        self.rows.extend(page.items);
        self.next = page.next.filter(|_| self.rows.len() < MOST);
        self.said.extend(page.notes);
        self.said.extend(page.unread.into_iter().map(|what| format!("! not read: {what}")));
        self.said.truncate(MOST);
        self.list.select(self.list.at(), self.rows.len(), height);
        self.wants_more(height)
    }

    /// Moves as the key says. True for keys that move.
    pub fn press(&mut self, key: Key, height: usize) -> bool {
        self.list.press(key, self.rows.len(), height)
    }

    /// Whether a person gets to the end of what is there, and there is more.
    #[must_use]
    pub fn wants_more(&self, height: usize) -> bool {
        self.next.is_some() && !self.waits && self.list.at() + 2 * height >= self.rows.len()
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
        format!("{at} of {}{more}{said}", count(self.rows.len() as u64, one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(items: std::ops::Range<u32>, next: Option<&str>) -> Findings<u32> {
        let next = next.map(str::to_owned);
        Findings { items: items.collect(), next, notes: Vec::new(), unread: Vec::new() }
    }

    #[test]
    fn more_is_asked_for_near_the_end() {
        let mut finds = Finds::default();
        finds.begin();
        assert!(finds.learn(page(0..5, Some("5")), 10), "they do not fill the screen");
        assert_eq!(finds.ask().as_deref(), Some("5"));
        assert!(!finds.wants_more(10), "they are asked for already");
        assert!(!finds.learn(page(5..100, Some("100")), 10));
        assert_eq!(finds.tally("file"), "1 of 100 files, more to come");
        finds.press(Key::End, 10);
        assert!(finds.wants_more(10));
        finds.ask();
        assert!(!finds.learn(page(100..101, None), 10));
        assert_eq!(finds.tally("file"), "100 of 101 files");
    }
}
