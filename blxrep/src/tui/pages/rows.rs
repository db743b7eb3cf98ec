//! A list whose rows have ids: the selected row stays selected wherever it goes. Pure.

use crate::tui::key::Key;
use crate::tui::list::List;

#[derive(Clone, Debug)]
pub struct Rows<I> {
    pub list: List,
    id: Option<I>,
}

impl<I> Default for Rows<I> {
    fn default() -> Self {
        Self { list: List::default(), id: None }
    }
}

impl<I: Clone + PartialEq> Rows<I> {
    /// Other rows are there.
    pub fn settle(&mut self, ids: &[I], height: usize) {
        let at = self.id.as_ref().and_then(|id| ids.iter().position(|other| other == id));
        self.list.select(at.unwrap_or(self.list.at()), ids.len(), height);
        self.keep(ids);
    }

    /// Moves as the key says. False for keys that do not move.
    pub fn press(&mut self, key: Key, ids: &[I], height: usize) -> bool {
        let moved = self.list.press(key, ids.len(), height);
        self.keep(ids);
        moved
    }

    fn keep(&mut self, ids: &[I]) {
        self.id = ids.get(self.list.at()).cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selected_row_stays_selected() {
        let mut rows = Rows::default();
        rows.settle(&[1, 2, 3], 10);
        rows.press(Key::Down, &[1, 2, 3], 10);
        rows.settle(&[0, 1, 2, 3], 10);
        assert_eq!(rows.list.at(), 2);
        rows.settle(&[7], 10);
        assert_eq!(rows.list.at(), 0, "it is gone");
    }
}
