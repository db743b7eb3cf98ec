//! Where a person is in a list. Pure.

use super::key::Key;

/// The selected row, and the first row that is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    at: usize,
    top: usize,
}

impl List {
    /// The selected row; 0 where there is none.
    #[must_use]
    pub const fn at(self) -> usize {
        self.at
    }

    /// The first row that is seen.
    #[must_use]
    pub const fn top(self) -> usize {
        self.top
    }

    /// Selects a row of `len`, of which `height` are seen. The list moves only as far as it has to, so that few lines
    /// are drawn anew.
    pub fn select(&mut self, at: usize, len: usize, height: usize) {
        let height = height.max(1);
        self.at = at.min(len.saturating_sub(1));
        self.top = self.top.min(self.at).max((self.at + 1).saturating_sub(height));
        // No empty lines below while there are rows above.
        self.top = self.top.min(len.saturating_sub(height));
    }

    /// Moves as the key says. False for keys that do not move.
    pub fn press(&mut self, key: Key, len: usize, height: usize) -> bool {
        let page = height.saturating_sub(1).max(1);
        let to = match key {
            Key::Up | Key::Char('k') => self.at.saturating_sub(1),
            Key::Down | Key::Char('j') => self.at.saturating_add(1),
            Key::PageUp | Key::Control('b') => self.at.saturating_sub(page),
            Key::PageDown | Key::Control('f') => self.at.saturating_add(page),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => len,
            _ => return false,
        };
        self.select(to, len, height);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_scrolls_only_at_its_edges() {
        let mut list = List::default();
        for _ in 0..4 {
            list.press(Key::Down, 10, 5);
        }
        assert_eq!((list.at(), list.top()), (4, 0));
        list.press(Key::Down, 10, 5);
        assert_eq!((list.at(), list.top()), (5, 1));
        list.press(Key::Up, 10, 5);
        assert_eq!((list.at(), list.top()), (4, 1), "the selection moves, the list does not");
        list.press(Key::End, 10, 5);
        assert_eq!((list.at(), list.top()), (9, 5));
        list.press(Key::PageUp, 10, 5);
        assert_eq!((list.at(), list.top()), (5, 5));
        assert!(!list.press(Key::Enter, 10, 5));
    }

    proptest! {
        #[test]
        fn the_selection_is_always_seen(
            moves in prop::collection::vec((0usize..40, 0usize..30, 0usize..12), 1..40)
        ) {
            let mut list = List::default();
            for (at, len, height) in moves {
                list.select(at, len, height);
                prop_assert!(list.at() < len.max(1));
                prop_assert!(list.top() <= list.at() && list.at() < list.top() + height.max(1));
                prop_assert!(list.top() == 0 || list.top() + height.max(1) <= len);
            }
        }
    }
}
