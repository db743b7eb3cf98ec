//! What goes on, and what has ended.

use super::rows::Rows;
use super::{DETAILS, Sheet, Topic, nothing, open, rows_in, split};
use crate::api::text::{Clock, Span};
use crate::api::types::{ActionRow, Control};
use crate::model::action::{ActionKind, ActionState};
use crate::model::ids::ActionId;
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::model::World;
use crate::tui::page::{Order, Page, Question};
use crate::tui::table::{self, Column, from, left, rest, right};
use crate::tui::words::{NONE, action_state, bar, progress};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Cells of a progress bar.
const BAR: usize = 10;

const COLUMNS: [Column; 9] = [
    left("KIND", 8, 11),
    left("STATE", 11, 11),
    left("AGENT", 5, 16),
    left("DEVICE", 6, 16),
    from(110, left("PROGRESS", 12, 12)),
    right("DONE", 12, 18),
    from(100, left("UPDATED", 20, 20)),
    from(150, left("ID", 16, 16)),
    rest("RATE, TIME LEFT, REASON"),
];

const KEYS: [Hint; 5] = [
    hint("Enter", "details", "everything that is known of the selected action"),
    hint("p", "pause", "pause it; what changes meanwhile is kept in mind"),
    hint("r", "resume", "go on with it"),
    hint("c", "cancel", "stop it for good"),
    hint("d", "", DETAILS.long),
];

#[derive(Debug, Default)]
pub struct Actions {
    rows: Rows<ActionId>,
}

impl Actions {
    fn selected<'a>(&self, world: &'a World) -> Option<&'a ActionRow> {
        world.actions().get(self.rows.list.at())
    }
}

fn ids(world: &World) -> Vec<ActionId> {
    world.actions().iter().map(|row| row.id).collect()
}

impl Page for Actions {
    fn name(&self) -> &'static str {
        "Actions"
    }

    fn crumb(&self, _: &World) -> String {
        "actions".to_owned()
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if self.rows.press(key, &ids(world), rows_in(split(world.body()).0)) {
            return nothing();
        }
        let row = self.selected(world);
        let control = |control| Some(row.map(|row| control_order(row, control)).into_iter().collect());
        match key {
            Key::Enter | Key::Char('d') => match row {
                Some(row) => open(Sheet::new(Topic::Action(Box::new(row.clone()), None))),
                None => nothing(),
            },
            Key::Char('p') => control(Control::Pause),
            Key::Char('r') => control(Control::Resume),
            Key::Char('c') => control(Control::Cancel),
            _ => None,
        }
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        vec![Order::Say(match reply {
            Ok(Answer::Action(row)) => format!("The {} {} is {} now.", row.kind, row.id, row.state),
            Ok(_) => return Vec::new(),
            Err(failure) => format!("! {failure}"),
        })]
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.rows.settle(&ids(world), rows_in(split(world.body()).0));
        Vec::new()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let actions = world.actions();
        if actions.is_empty() {
            return frame::nothing(buffer, list, "Nothing has been done yet.");
        }
        let head = (world.theme, self.rows.list, actions.len());
        table::render(head, &COLUMNS, |n| cells(&actions[n], world), list, buffer);
        if let Some(row) = self.selected(world) {
            frame::detail(world, &said(row), below, buffer);
        }
    }
}

/// The first rows of the page, for another one: what goes on, and what ended last.
pub fn news(world: &World, area: Rect, buffer: &mut Buffer) {
    table::heading(buffer, Rect { height: area.height.min(1), ..area }, "Actions (a)", world.theme);
    let rows: Vec<&ActionRow> = world.actions().iter().filter(|row| row.kind != ActionKind::Live).collect();
    let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    if rows.is_empty() {
        return frame::nothing(buffer, below, "Nothing goes on but continuous protection.");
    }
    table::unselected(world.theme, rows.len(), &COLUMNS, |n| cells(rows[n], world), below, buffer);
}

/// Cancelling cannot be undone, so it is asked about; what makes no sense is said at once.
fn control_order(row: &ActionRow, control: Control) -> Order {
    let named = named(row);
    match (row.state, control) {
        (state, _) if state.is_final() => Order::Say(format!("The {named} has ended already: {state}.")),
        (ActionState::Paused, Control::Pause) => Order::Say(format!("The {named} is paused already.")),
        (ActionState::Running | ActionState::Queued, Control::Resume) => {
            Order::Say(format!("The {named} is not paused."))
        }
        (_, Control::Cancel) => {
            let text = format!("Cancel the {named}? {}", after_cancel(row.kind));
            Order::Confirm(Question { text, ask: Ask::Control(row.id, control) })
        }
        (_, Control::Pause | Control::Resume) => Order::Do(Ask::Control(row.id, control)),
    }
}

fn named(row: &ActionRow) -> String {
    match &row.device {
        Some(device) => format!("{} of {device} ({})", row.kind, row.id),
        None => format!("{} {}", row.kind, row.id),
    }
}

const fn after_cancel(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::Snapshot => {
            "What was received is kept; a later snapshot goes on with it if tracking has not begun anew."
        }
        ActionKind::Live => {
            "Tracking of the disk ends; a sync begins it anew, and the whole disk is read once."
        }
        ActionKind::Rescan => "The disk gets no point before it is compared with its newest one.",
        ActionKind::Restore => "What it has written is incomplete and must not be used.",
        ActionKind::Verify => "What it has found so far is not reported.",
        ActionKind::Consolidate => "What it has finished stays done.",
    }
}

fn cells(row: &ActionRow, world: &World) -> Vec<String> {
    vec![
        row.kind.to_string(),
        action_state(row.state).to_owned(),
        row.agent.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string),
        row.device.clone().unwrap_or_else(|| NONE.to_owned()),
        bar(row.done, row.total, BAR),
        progress(row),
        Clock(row.updated).to_string(),
        row.id.to_string(),
        pace_and_reason(row, world),
    ]
}

/// `200.0 MiB/s, 14 s left`; `None` while nothing moves, or is not known to.
#[must_use]
pub fn pace(row: &ActionRow, world: &World) -> Option<String> {
    let rate = world.rate(row.id).filter(|_| row.state == ActionState::Running)?;
    let left = row.total.saturating_sub(row.done).checked_div(rate).filter(|_| row.total > 0);
    let left = left.map_or_else(String::new, |left| format!(", {} left", Span(left)));
    Some(format!("{}/s{left}", ByteCount(rate)))
}

/// How fast it is, and what is said of it.
fn pace_and_reason(row: &ActionRow, world: &World) -> String {
    let reason = Some(row.reason.clone()).filter(|reason| !reason.is_empty());
    pace(row, world).into_iter().chain(reason).collect::<Vec<_>>().join("; ")
}

fn said(row: &ActionRow) -> String {
    let reason = if row.reason.is_empty() { "" } else { ": " };
    let bar = bar(row.done, row.total, 30);
    format!("{bar} {}, begun {}, {}{reason}{}", named(row), Clock(row.created), row.state, row.reason)
}
