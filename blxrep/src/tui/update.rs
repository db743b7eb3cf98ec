//! What an event changes, and what is to be done about it. Pure.

use super::model::{Data, Model, Pane};
use jiff::Timestamp;

/// What happens to the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time goes on.
    Tick(Timestamp),
    Key(Key),
    /// The terminal has another size.
    Resized,
    /// The dispatcher answered.
    Loaded(Box<Data>),
    /// It did not, for this reason.
    Failed(String),
}

/// What a person wants, whatever key they pressed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Quit,
    /// Closes what is open, else quits.
    Back,
    Help,
    NextPane,
    PreviousPane,
    Up,
    Down,
    Top,
    Bottom,
}

/// What is to be done outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the dispatcher for everything; ends in `Loaded` or `Failed`.
    Fetch,
    Quit,
}

/// Applies one event.
#[must_use]
pub fn update(model: &mut Model, event: Event) -> Vec<Effect> {
    match event {
        Event::Tick(now) => {
            model.now = now;
            // A dispatcher that answers slowly is asked less often.
            if !std::mem::replace(&mut model.fetching, true) {
                return vec![Effect::Fetch];
            }
        }
        Event::Key(key) => return press(model, key),
        Event::Resized => {}
        Event::Loaded(data) => load(model, *data),
        Event::Failed(why) => {
            model.fetching = false;
            model.trouble = Some(why);
        }
    }
    Vec::new()
}

/// Takes new rows; a selected row stays selected where it went. The first row stands for "the newest".
fn load(model: &mut Model, data: Data) {
    for pane in Pane::ALL {
        let ids = data.ids(pane);
        let at = model.selection.of_mut(pane);
        let selected =
            model.data.as_ref().filter(|_| *at > 0).and_then(|old| old.ids(pane).into_iter().nth(*at));
        let moved_to = selected.and_then(|id| ids.iter().position(|other| *other == id));
        *at = moved_to.unwrap_or(*at).min(ids.len().saturating_sub(1));
    }
    model.now = model.now.max(data.at);
    model.fetching = false;
    model.trouble = None;
    model.data = Some(data);
}

fn press(model: &mut Model, key: Key) -> Vec<Effect> {
    let rows = model.data.as_ref().map_or(0, |data| data.ids(model.focus).len());
    let at = model.selection.of_mut(model.focus);
    match key {
        Key::Quit => return vec![Effect::Quit],
        Key::Back if !model.help => return vec![Effect::Quit],
        Key::Back => model.help = false,
        Key::Help => model.help = !model.help,
        Key::NextPane => model.focus = model.focus.next(),
        Key::PreviousPane => model.focus = model.focus.previous(),
        Key::Up => *at = at.saturating_sub(1),
        Key::Down => *at = (*at + 1).min(rows.saturating_sub(1)),
        Key::Top => *at = 0,
        Key::Bottom => *at = rows.saturating_sub(1),
    }
    Vec::new()
}
