//! A line of text that a person types at the bottom of the screen. Pure.

use super::key::Key;
use super::table::{line, width_of};
use super::theme::Theme;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use tui_input::{Input, InputRequest};

/// Longer than any path.
const MAX_CHARS: usize = 4_096;

/// Less of an advice says nothing.
const ADVICE: u16 = 16;

/// What came of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// It goes on.
    On,
    /// The text is as it is wanted.
    Done,
    /// The text is not wanted.
    Left,
}

/// A text that can be edited.
#[derive(Clone, Debug)]
pub struct Prompt {
    label: &'static str,
    /// What can be typed, or what was wrong with what was.
    advice: String,
    input: Input,
}

impl Prompt {
    #[must_use]
    pub fn new(label: &'static str, advice: &str, text: &str) -> Self {
        Self { label, advice: advice.to_owned(), input: Input::new(text.to_owned()) }
    }

    #[must_use]
    pub fn text(&self) -> &str {
        self.input.value()
    }

    /// Says what is wrong with the text.
    pub fn complain(&mut self, why: String) {
        self.advice = format!("! {why}");
    }

    pub fn press(&mut self, key: Key) -> Typed {
        match key {
            Key::Enter => return Typed::Done,
            Key::Esc => return Typed::Left,
            _ => edit(&mut self.input, key),
        }
        Typed::On
    }

    /// Draws it; says where the cursor is.
    pub fn draw(&self, theme: Theme, area: Rect, buffer: &mut Buffer) -> Position {
        let label = format!(" {}: ", self.label);
        let (x, _) = buffer.set_stringn(area.x, area.y, &label, usize::from(area.width), theme.strong());
        let room = area.right().saturating_sub(x);
        // The advice gets what the text leaves, and goes when that is too little to say anything.
        let taken = width_of(self.text()).saturating_add(1);
        let advice = room.saturating_sub(taken + 2);
        let field = Rect { x, width: if advice >= ADVICE { taken } else { room }, ..area };
        if advice >= ADVICE {
            let rest = Rect { x: field.right() + 2, width: advice, ..area };
            line(buffer, rest, &self.advice, theme.row(&self.advice).patch(theme.quiet()));
        }
        field_of(&self.input, field, buffer, Style::new())
    }
}

/// Changes a text as the key says.
pub fn edit(input: &mut Input, key: Key) {
    let request = match key {
        Key::Char(c) if input.value().chars().count() < MAX_CHARS => InputRequest::InsertChar(c),
        Key::Backspace => InputRequest::DeletePrevChar,
        Key::Delete => InputRequest::DeleteNextChar,
        Key::Left => InputRequest::GoToPrevChar,
        Key::Right => InputRequest::GoToNextChar,
        Key::Home | Key::Control('a') => InputRequest::GoToStart,
        Key::End | Key::Control('e') => InputRequest::GoToEnd,
        Key::Control('w') => InputRequest::DeletePrevWord,
        Key::Control('u') => InputRequest::DeleteFromStart,
        Key::Control('k') => InputRequest::DeleteTillEnd,
        _ => return,
    };
    input.handle(request);
}

/// Draws the part of a text that its cursor is in; says where the cursor is.
pub fn field_of(input: &Input, area: Rect, buffer: &mut Buffer, style: Style) -> Position {
    let width = usize::from(area.width.saturating_sub(1)).max(1);
    let scroll = input.visual_scroll(width);
    let mut skipped = 0;
    let seen: String = input
        .value()
        .chars()
        .skip_while(|c| {
            let skip = skipped < scroll;
            skipped += usize::from(width_of(c.encode_utf8(&mut [0; 4])));
            skip
        })
        .collect();
    buffer.set_style(Rect { height: 1, ..area }, style);
    buffer.set_stringn(area.x, area.y, seen, usize::from(area.width), style);
    let cursor = input.visual_cursor().saturating_sub(scroll);
    let x =
        area.x.saturating_add(u16::try_from(cursor).unwrap_or(u16::MAX)).min(area.right().saturating_sub(1));
    Position { x, y: area.y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_edited() {
        let mut prompt = Prompt::new("Jump to", "a time", "1h ago");
        for key in [Key::Home, Key::Delete, Key::Char('2'), Key::End, Key::Control('w'), Key::Char('é')] {
            assert_eq!(prompt.press(key), Typed::On);
        }
        assert_eq!(prompt.text(), "2h é");
        assert_eq!((prompt.press(Key::Enter), prompt.press(Key::Esc)), (Typed::Done, Typed::Left));
    }

    #[test]
    fn a_long_text_is_seen_where_its_cursor_is() {
        let mut prompt = Prompt::new("Path", "advice", &"漢字".repeat(40));
        let area = Rect::new(0, 0, 20, 1);
        let mut buffer = Buffer::empty(area);
        let at = prompt.draw(Theme { colour: false }, area, &mut buffer);
        assert!(at.x < 20 && at.x > 15, "{at:?}");
        prompt.press(Key::Home);
        let mut buffer = Buffer::empty(area);
        assert_eq!(prompt.draw(Theme { colour: false }, area, &mut buffer).x, 7);
    }
}
