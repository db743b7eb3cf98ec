//! The screen as it is drawn from a model. Pure.
//!
//! Everything can be read without colour: states are words with a symbol, the pane in focus has a mark, the selected
//! row is reversed.

use super::model::{Data, Model, Pane};
use super::panes;
use crate::api::text::{Clock, Span, printable, seconds_between};
use crate::model::units::ByteCount;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Wrap};

/// Below this no row of every pane fits.
const MIN_WIDTH: u16 = 60;
const MIN_HEIGHT: u16 = 16;
/// Lines for what is said of the selected row.
const DETAIL_LINES: u16 = 2;
/// A lost connection and its reason.
const BANNER_LINES: u16 = 2;

const HELP: &str = "\
q, Esc, Ctrl-C   leave
Tab, Shift-Tab   next, previous list
Up, Down, k, j   select a row; its details are below
Home, End, g, G  first, last row
?                this help

lag       age of the newest published point
backlog   bytes changed and not yet published
coverage  whether all changes are known: proven,
          or unknown and why
quiet     proven consistent without a freeze
frozen    filesystems were frozen at the cut
fuzzy     neither proven nor frozen

This screen only shows. `blxrep help` lists what can
be done.";

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        let text = format!("The terminal is too small: {MIN_WIDTH} x {MIN_HEIGHT} is needed. q leaves.");
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    }
    let banner_lines = if model.trouble.is_some() { BANNER_LINES } else { 0 };
    let [top, banner, body, detail, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(banner_lines),
        Constraint::Fill(1),
        Constraint::Length(DETAIL_LINES),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title(model), top);
    if let Some(trouble) = &model.trouble {
        frame.render_widget(disconnected(model, trouble), banner);
    }
    match &model.data {
        Some(data) => lists(model, data, frame, body, detail),
        None if model.trouble.is_none() => frame.render_widget(format!("Asking {} ...", model.socket), body),
        None => {}
    }
    frame
        .render_widget(Line::from(" q leave   Tab next list   Up/Down select   ? help").style(bar()), bottom);
    if model.help {
        help(frame, area);
    }
}

fn lists(model: &Model, data: &Data, frame: &mut Frame<'_>, body: Rect, detail: Rect) {
    // Disks and points are looked at most.
    let weights = [2, 3, 3, 2].map(Constraint::Fill);
    let areas: [Rect; 4] = Layout::vertical(weights).areas(body);
    for (pane, area) in Pane::ALL.into_iter().zip(areas) {
        panes::render(model, data, pane, frame, area);
    }
    let text = printable(&panes::detail(model, data));
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), detail);
}

fn bar() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// A store that is full later than this needs no word on the head line.
const SOON_FULL_DAYS: u64 = 90;

/// The dispatcher in one line.
fn title(model: &Model) -> Paragraph<'static> {
    let mut text = format!(" blxrep  {}", Clock(model.now));
    if let Some(data) = &model.data {
        let status = &data.status;
        text.push_str(&format!("  agents {}/{} online", status.agents_online, status.agents));
        if let Some(free) = status.free_bytes {
            text.push_str(&format!("  {} free", ByteCount(free)));
            if let Some(days) = status.days_to_full.filter(|days| *days <= SOON_FULL_DAYS) {
                text.push_str(&format!(", full in {days} d"));
            }
        }
        let up = Span(seconds_between(status.started, data.at));
        text.push_str(&format!("  up {up}  {}  {}", printable(&status.listen), printable(&status.data_dir)));
    }
    Paragraph::new(text).style(bar())
}

/// What is wrong, and how old the rows below are.
fn disconnected(model: &Model, trouble: &str) -> Paragraph<'static> {
    let known = match &model.data {
        Some(data) => {
            let age = Span(seconds_between(data.at, model.now));
            format!("Last good data: {}, {age} ago", Clock(data.at))
        }
        None => "No data yet".to_owned(),
    };
    let lines = [format!(" ! NO CONNECTION. {known}."), format!("   Trying again: {}", printable(trouble))];
    let style = Style::new().fg(Color::Black).bg(Color::Yellow);
    Paragraph::new(Text::from_iter(lines)).style(style)
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let text = Text::raw(HELP);
    let width = u16::try_from(text.width()).unwrap_or(u16::MAX).saturating_add(4);
    let height = u16::try_from(text.height()).unwrap_or(u16::MAX).saturating_add(2);
    let block = Block::bordered().title(" Help ").padding(Padding::horizontal(1));
    let inner = area.centered(Constraint::Max(width), Constraint::Max(height));
    frame.render_widget(Clear, inner);
    frame.render_widget(Paragraph::new(text).block(block), inner);
}
