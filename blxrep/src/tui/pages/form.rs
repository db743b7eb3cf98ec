//! Fields that a person fills in. Pure.

use crate::tui::key::Key;
use crate::tui::prompt::{edit, field_of};
use crate::tui::table::line;
use crate::tui::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tui_input::Input;

/// Columns of what a field is.
const LABEL: u16 = 18;

/// One of a few.
#[derive(Clone, Debug)]
pub struct Choice {
    choices: Vec<String>,
    at: usize,
}

impl Choice {
    /// The first is chosen.
    #[must_use]
    pub fn new(choices: Vec<String>) -> Self {
        Self { choices, at: 0 }
    }
}

#[derive(Clone, Debug)]
enum Value {
    Choice(Choice),
    Text { input: Box<Input>, advice: &'static str },
}

/// A field: what it is, and what it holds.
#[derive(Clone, Debug)]
pub struct Field {
    label: &'static str,
    value: Value,
    shown: bool,
}

impl Field {
    #[must_use]
    pub fn choice(label: &'static str, choice: Choice) -> Self {
        Self { label, value: Value::Choice(choice), shown: true }
    }

    #[must_use]
    pub fn text(label: &'static str, text: &str, advice: &'static str) -> Self {
        let input = Box::new(Input::new(text.to_owned()));
        Self { label, value: Value::Text { input, advice }, shown: true }
    }
}

/// Fields below each other, one of which is in focus.
#[derive(Clone, Debug)]
pub struct Form {
    fields: Vec<Field>,
    at: usize,
}

impl Form {
    #[must_use]
    pub fn new(fields: Vec<Field>) -> Self {
        Self { fields, at: 0 }
    }

    /// What a text holds; empty for a field that is none.
    #[must_use]
    pub fn text(&self, field: usize) -> &str {
        match self.fields.get(field).map(|field| &field.value) {
            Some(Value::Text { input, .. }) => input.value(),
            _ => "",
        }
    }

    /// Which choice is made; 0 for a field that has none, or that is not shown.
    #[must_use]
    pub fn choice(&self, field: usize) -> usize {
        match self.fields.get(field).filter(|field| field.shown).map(|field| &field.value) {
            Some(Value::Choice(choice)) => choice.at,
            _ => 0,
        }
    }

    /// Whether a text is in focus.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.fields.get(self.at).is_some_and(|field| matches!(field.value, Value::Text { .. }))
    }

    /// Shows only some of the fields.
    pub fn show(&mut self, shown: impl Fn(usize) -> bool) {
        for (n, field) in self.fields.iter_mut().enumerate() {
            field.shown = shown(n);
        }
    }

    /// False for keys that mean nothing here.
    pub fn press(&mut self, key: Key) -> bool {
        let shown = |(n, field): (usize, &Field)| field.shown.then_some(n);
        match key {
            Key::Down | Key::Tab => {
                let below = self.fields.iter().enumerate().filter_map(shown).find(|n| *n > self.at);
                self.at = below.unwrap_or(self.at);
            }
            Key::Up | Key::BackTab => {
                let above = self.fields.iter().enumerate().filter_map(shown).rfind(|n| *n < self.at);
                self.at = above.unwrap_or(self.at);
            }
            key => match self.fields.get_mut(self.at).map(|field| &mut field.value) {
                Some(Value::Text { input, .. }) => edit(input, key),
                Some(Value::Choice(choice)) => match key {
                    Key::Left => choice.at = choice.at.saturating_sub(1),
                    Key::Right | Key::Char(' ') => {
                        choice.at = (choice.at + 1).min(choice.choices.len().saturating_sub(1));
                    }
                    _ => return false,
                },
                None => return false,
            },
        }
        true
    }

    /// Draws it; returns how many lines it took.
    pub fn draw(&self, theme: Theme, area: Rect, buffer: &mut Buffer) -> u16 {
        let mut y = area.y;
        for (n, field) in self.fields.iter().enumerate().filter(|(_, field)| field.shown) {
            if y >= area.bottom() {
                break;
            }
            let focused = n == self.at;
            let row = Rect { y, height: 1, ..area };
            let mark = if focused { "> " } else { "  " };
            line(
                buffer,
                row,
                &format!("{mark}{}", field.label),
                if focused { theme.strong() } else { theme.plain() },
            );
            let value = Rect { x: row.x + LABEL, width: row.width.saturating_sub(LABEL + 1), ..row };
            let style = if focused { theme.selected() } else { theme.plain() };
            match &field.value {
                Value::Choice(Choice { choices, at }) => {
                    let text = choices.get(*at).map_or("", String::as_str);
                    let (before, after) =
                        (if *at > 0 { "<" } else { " " }, if at + 1 < choices.len() { ">" } else { " " });
                    line(buffer, value, &format!("{before} {text} {after}"), style);
                }
                Value::Text { input, advice } => {
                    let cursor = field_of(input, value, buffer, style);
                    if focused {
                        // Where the next letter goes, on a field that is reversed.
                        if let Some(cell) = buffer.cell_mut(cursor) {
                            cell.set_style(theme.cursor());
                        }
                        y += 1;
                        line(buffer, Rect { y, ..value }, advice, theme.quiet());
                    }
                }
            }
            y += 1;
        }
        y - area.y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_not_shown_are_passed_over_and_hold_nothing() {
        let choice = |label| Field::choice(label, Choice::new(vec!["a".into(), "b".into()]));
        let mut form = Form::new(vec![choice("one"), choice("two"), Field::text("three", "/x", "")]);
        form.press(Key::Down);
        form.press(Key::Right);
        assert_eq!(form.choice(1), 1);
        form.show(|n| n != 1);
        assert_eq!(form.choice(1), 0);
        form.press(Key::Up);
        form.press(Key::Tab);
        assert!(form.is_text() && form.press(Key::Char('y')));
        assert_eq!(form.text(2), "/xy");
        assert!(!form.press(Key::Enter) || form.text(2) == "/xy");
    }
}
