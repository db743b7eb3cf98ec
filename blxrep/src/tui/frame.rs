//! The screen as it is drawn from a model: where one is, how things are, the page, and its keys. Pure.

use super::model::{BANNER_LINES, HEAD_LINES, World};
use super::table::{line, width_of};
use super::update::{Model, Overlay};
use super::words::count;
use super::wrap::wrap;
use crate::api::text::{Clock, Span, printable, seconds_between};
use crate::api::types::{ActionRow, DiskState};
use crate::model::action::{ActionKind, ActionState};
use crate::model::point::Coverage;
use crate::model::units::ByteCount;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::Text;
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Widget, Wrap};

/// What every page can be drawn on.
pub const MIN_WIDTH: u16 = 80;
pub const MIN_HEIGHT: u16 = 24;
/// A store that is full later than this needs no word on the line that says how things are.
const SOON_FULL_DAYS: u64 = 90;

/// Keys that mean the same on every page.
const ANYWHERE: &str = "\
Enter Esc      go in, go back
Up Down k j    the row above, below
PgUp PgDn g G  a page up, down; the first row, the last
a M u          actions; what is mounted and served; what the store takes
Ctrl-R Ctrl-L  ask again; draw again
? q Ctrl-C     this help; leave";

const WORDS: &str = "\
lag            age of the newest published point
backlog        bytes changed and not yet published
coverage       whether all changes are known: proven, or unknown and why
quiet          proven consistent without a freeze
frozen         filesystems were frozen at the cut
fuzzy          neither proven nor frozen";

/// Draws everything.
pub fn view(model: &Model, frame: &mut Frame<'_>) {
    let area = frame.area();
    let world = &model.world;
    if area.width < MIN_WIDTH || area.height < MIN_HEIGHT {
        let text = format!(
            "The terminal is too small: {} x {}, and {MIN_WIDTH} x {MIN_HEIGHT} is needed. q leaves.",
            area.width, area.height
        );
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    }
    let rows = |y: u16, height: u16| Rect { x: 0, y, width: area.width, height };
    let buffer = frame.buffer_mut();
    crumbs(model, rows(0, 1), buffer);
    status(world, rows(1, 1), buffer);
    let body = world.body();
    match (&world.data, &world.trouble) {
        (None, None) => line(buffer, body, &format!(" Asking {} ...", world.socket), Style::new()),
        (None, Some(trouble)) => banner(world, trouble, body, buffer),
        (Some(_), None) => model.page().draw(world, body, buffer),
        (Some(_), Some(trouble)) => {
            banner(world, trouble, rows(HEAD_LINES, BANNER_LINES), buffer);
            model.page().draw(world, body, buffer);
        }
    }
    let foot = rows(area.height - 1, 1);
    let cursor = match model.page().prompt() {
        Some(prompt) => Some(prompt.draw(world.theme, foot, buffer)),
        None => {
            keys(model, foot, buffer);
            None
        }
    };
    if let Some(notice) = &model.notice {
        self::notice(world, notice, body, buffer);
    }
    match &model.overlay {
        Some(Overlay::Help(list)) => help(model, list.top(), area, buffer),
        Some(Overlay::Question(question)) => ask(world, &question.text, area, buffer),
        None => {}
    }
    if let (Some(cursor), None) = (cursor, &model.overlay) {
        frame.set_cursor_position(cursor);
    }
}

/// Where one is; what does not fit is left out at its beginning.
fn crumbs(model: &Model, area: Rect, buffer: &mut Buffer) {
    let style = model.world.theme.bar();
    let clock = format!("{} ", Clock(model.world.now));
    let room = area.width.saturating_sub(width_of(&clock) + 2);
    let mut crumbs = model.crumbs();
    let text = |crumbs: &[String], cut: bool| {
        format!(" blxrep{} › {}", if cut { " › …" } else { "" }, crumbs.join(" › "))
    };
    let mut shown = text(&crumbs, false);
    while width_of(&shown) > room && crumbs.len() > 1 {
        crumbs.remove(0);
        shown = text(&crumbs, true);
    }
    buffer.set_style(area, style);
    line(buffer, Rect { width: room, ..area }, &shown, style);
    let x = area.right().saturating_sub(width_of(&clock));
    buffer.set_stringn(x, area.y, clock, usize::from(area.width), style);
}

/// How things are, in one line: trouble, lag, coverage, what goes on, room.
fn status(world: &World, area: Rect, buffer: &mut Buffer) {
    let Some(data) = &world.data else { return };
    let mut said = Vec::new();
    let problems = data.disks.iter().filter(|disk| disk.state == DiskState::Problem).count();
    if problems > 0 {
        said.push(format!("! {}", count(problems as u64, "problem")));
    }
    said.push(share("agents", data.status.agents_online, data.status.agents));
    if let Some(oldest) = data.disks.iter().filter_map(|disk| disk.newest_cut).min() {
        said.push(format!("lag {}", Span(seconds_between(oldest, world.now))));
    }
    let kept = data.disks.iter().filter(|disk| disk.points > 0);
    let proven = kept.clone().filter(|disk| disk.coverage == Coverage::Proven).count();
    said.push(share("coverage", proven as u64, kept.count() as u64));
    let goes_on = |row: &&ActionRow| row.kind != ActionKind::Live && !row.state.is_final();
    let actions = data.actions.iter().filter(goes_on).count();
    if actions > 0 {
        said.push(format!("◐ {}", count(actions as u64, "action")));
    }
    let paused = data.actions.iter().filter(|row| row.state == ActionState::Paused).count();
    if paused > 0 {
        said.push(format!("= {paused} paused"));
    }
    said.extend(room(world));
    let text = format!(" {}", said.join("  "));
    line(buffer, area, &text, world.theme.row(&text));
}

/// `agents 2/2`, and a mark if it is not all of them.
fn share(what: &str, good: u64, all: u64) -> String {
    format!("{}{what} {good}/{all}", if good < all { "! " } else { "" })
}

/// Bytes free, and for how long if that is not for long.
fn room(world: &World) -> Option<String> {
    let status = &world.data.as_ref()?.status;
    let free = ByteCount(status.free_bytes?);
    Some(match status.days_to_full.filter(|days| *days <= SOON_FULL_DAYS) {
        Some(days) => format!("{free} free ({days} d)"),
        None => format!("{free} free"),
    })
}

/// What is wrong, and how old the rows below are.
fn banner(world: &World, trouble: &str, area: Rect, buffer: &mut Buffer) {
    let known = match &world.data {
        Some(data) => {
            let age = Span(seconds_between(data.at, world.now));
            format!("Last good data: {}, {age} ago", Clock(data.at))
        }
        None => "No data yet".to_owned(),
    };
    let text = format!("! NO CONNECTION. {known}. Trying again: {}", printable(trouble));
    paragraph(&text, world.theme.trouble(), area, buffer);
}

/// The keys of the page, as many as there is room for; the last ones are always there.
fn keys(model: &Model, area: Rect, buffer: &mut Buffer) {
    let style = model.world.theme.bar();
    let last = if model.waits() { "  … asking   ? help   q leave " } else { "  ? help   q leave " };
    let room = area.width.saturating_sub(width_of(last));
    let mut text = String::new();
    for hint in model.page().keys().iter().filter(|hint| !hint.short.is_empty()) {
        let more = format!("{}{} {}", if text.is_empty() { " " } else { "   " }, hint.keys, hint.short);
        if width_of(&text) + width_of(&more) + 1 > room {
            break;
        }
        text.push_str(&more);
    }
    line(buffer, area, &text, style);
    let x = area.right().saturating_sub(width_of(last));
    buffer.set_stringn(x, area.y, last, usize::from(area.width), style);
}

/// Over the last lines of the page, where a list tells of its selected row.
fn notice(world: &World, text: &str, body: Rect, buffer: &mut Buffer) {
    let lines = wrap(&printable(text), body.width.saturating_sub(4));
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(body.height);
    let area = Rect { y: body.bottom().saturating_sub(height), height, ..body };
    Clear.render(area, buffer);
    for (y, text) in (area.y..area.bottom()).zip(lines) {
        line(buffer, Rect { y, ..area }, &format!(" ▌ {text}"), world.theme.strong());
    }
}

fn ask(world: &World, text: &str, area: Rect, buffer: &mut Buffer) {
    let text = format!("{}\n\ny yes   n no", printable_lines(text));
    boxed(world, " Sure? ", &text, 0, area, buffer);
}

/// Control characters go, ends of lines stay.
fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn help_text(model: &Model) -> String {
    let mut text = format!("{}:\n", model.page().name());
    for hint in model.page().keys() {
        text.push_str(&format!("{:<14} {}\n", hint.keys, hint.long));
    }
    format!("{text}\nAnywhere:\n{ANYWHERE}\n\nWords:\n{WORDS}")
}

/// Lines of the help of the page that is seen, as they are broken to fit the screen.
#[must_use]
pub fn help_lines(model: &Model) -> usize {
    box_lines("", &help_text(model), model.world.size.0).len()
}

/// How many of them are seen at once.
#[must_use]
pub fn help_height(model: &Model) -> usize {
    usize::from(model.world.size.1.saturating_sub(4)).min(help_lines(model))
}

fn help(model: &Model, top: usize, area: Rect, buffer: &mut Buffer) {
    let more = if help_lines(model) > help_height(model) { ", Down shows more" } else { "" };
    let title = format!(" Help: Esc closes it{more} ");
    boxed(&model.world, &title, &help_text(model), top, area, buffer);
}

/// Columns of a box, as wide as its text has to be, on a screen of so many.
fn box_width(title: &str, text: &str, screen: u16) -> u16 {
    let widest = Text::raw(text).width().max(Text::raw(title).width());
    u16::try_from(widest).unwrap_or(u16::MAX).saturating_add(4).min(screen.saturating_sub(2))
}

/// The lines of a box's text, broken to fit it.
fn box_lines(title: &str, text: &str, screen: u16) -> Vec<String> {
    wrap(text, box_width(title, text, screen).saturating_sub(4))
}

/// Text in a box in the middle of the screen.
fn boxed(world: &World, title: &str, text: &str, top: usize, area: Rect, buffer: &mut Buffer) {
    let lines = box_lines(title, text, area.width);
    let width = box_width(title, text, area.width);
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let inner = area.centered(Constraint::Length(width), Constraint::Length(height.min(area.height - 2)));
    Clear.render(inner, buffer);
    let block =
        Block::bordered().title(title).padding(Padding::horizontal(1)).title_style(world.theme.strong());
    let seen = Text::from_iter(lines.into_iter().skip(top));
    Paragraph::new(seen).block(block).render(inner, buffer);
}

/// Text from edge to edge, in as many lines as there are.
fn paragraph(text: &str, style: Style, area: Rect, buffer: &mut Buffer) {
    let lines = wrap(text, area.width.saturating_sub(2));
    for (y, text) in (area.y..area.bottom()).zip(lines) {
        line(buffer, Rect { y, ..area }, &format!(" {text}"), style);
    }
}

/// For a page that has nothing to show.
pub fn nothing(buffer: &mut Buffer, area: Rect, text: &str) {
    paragraph(&printable(text), Style::new(), area, buffer);
}

/// What is said of the selected row, below a list.
pub fn detail(world: &World, text: &str, area: Rect, buffer: &mut Buffer) {
    paragraph(&printable(text), world.theme.row(text), area, buffer);
}

/// Words that a page shows in place of rows: that it waits, why it failed, or that there is nothing.
#[must_use]
pub fn in_place(waits: bool, failed: Option<&str>, empty: &str) -> String {
    match failed {
        Some(why) => format!("! {why}"),
        None if waits => "Asking the dispatcher ...".to_owned(),
        None => empty.to_owned(),
    }
}
