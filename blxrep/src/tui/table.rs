//! Tables of which only the rows that are seen are made: ten thousand rows cost as much as twenty. Pure.

use super::list::List;
use super::theme::Theme;
use crate::api::text::printable;
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;

/// Blanks between two columns.
const GAP: u16 = 2;
/// Columns in front of a row: which one is selected can be seen without reversed colours.
const MARK: u16 = 2;

/// A column: its header, its side, its bounds, and from which width of the table on there is room for it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    header: &'static str,
    side: Alignment,
    least: u16,
    most: u16,
    from: u16,
    /// It takes what the others leave.
    rest: bool,
}

/// Text.
#[must_use]
pub const fn left(header: &'static str, least: u16, most: u16) -> Column {
    Column { header, side: Alignment::Left, least, most, from: 0, rest: false }
}

/// A figure.
#[must_use]
pub const fn right(header: &'static str, least: u16, most: u16) -> Column {
    Column { side: Alignment::Right, ..left(header, least, most) }
}

/// Text that takes what the others leave; every table has one such column, its last.
#[must_use]
pub const fn rest(header: &'static str) -> Column {
    Column { rest: true, ..left(header, 0, 0) }
}

/// A column that only tables of this width have.
#[must_use]
pub const fn from(width: u16, column: Column) -> Column {
    Column { from: width, ..column }
}

/// Draws a header and the rows that are seen. `row` makes the cells of the n-th of `len` rows.
pub fn render(
    (theme, list, len): (Theme, List, usize),
    columns: &[Column],
    row: impl Fn(usize) -> Vec<String>,
    area: Rect,
    buffer: &mut Buffer,
) {
    draw((theme, len), (list.top(), Some(list.at())), columns, row, area, buffer);
}

/// The first of `len` rows, none of which is selected.
pub fn unselected(
    theme: Theme,
    len: usize,
    columns: &[Column],
    row: impl Fn(usize) -> Vec<String>,
    area: Rect,
    buffer: &mut Buffer,
) {
    draw((theme, len), (0, None), columns, row, area, buffer);
}

fn draw(
    (theme, len): (Theme, usize),
    (top, selected): (usize, Option<usize>),
    columns: &[Column],
    row: impl Fn(usize) -> Vec<String>,
    area: Rect,
    buffer: &mut Buffer,
) {
    if area.height < 2 {
        return;
    }
    let seen = top..len.min(top + usize::from(area.height - 1));
    let rows: Vec<Vec<String>> =
        seen.clone().map(|n| row(n).iter().map(|cell| printable(cell)).collect()).collect();
    let shown: Vec<usize> = (0..columns.len()).filter(|i| area.width >= columns[*i].from).collect();
    let widths = widths(columns, &shown, &rows, area.width);
    let mut line = |y: u16, style: Style, mark: &str, cells: &dyn Fn(usize) -> String| {
        let at = Rect { y, height: 1, ..area };
        buffer.set_style(at, style);
        buffer.set_stringn(at.x, y, mark, usize::from(area.width), style);
        let mut x = at.x + MARK;
        for (i, width) in shown.iter().zip(&widths) {
            let width = (*width).min(at.right().saturating_sub(x));
            cell(buffer, (x, y, width), &cells(*i), columns[*i].side, style);
            x = x.saturating_add(width + GAP);
        }
    };
    line(area.y, theme.quiet(), "", &|i| columns[i].header.to_owned());
    for (y, (n, cells)) in (area.y + 1..).zip(seen.zip(&rows)) {
        let style = theme.row(&cells.join(" "));
        let (mark, style) =
            if Some(n) == selected { ("> ", style.patch(theme.selected())) } else { ("", style) };
        line(y, style, mark, &|i| cells.get(i).cloned().unwrap_or_default());
    }
}

/// As wide as the widest cell that is seen, within the column's bounds.
fn widths(columns: &[Column], shown: &[usize], rows: &[Vec<String>], width: u16) -> Vec<u16> {
    let natural = |i: usize| {
        let column = &columns[i];
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| width_of(cell));
        let widest = cells.chain([width_of(column.header)]).max().unwrap_or(0);
        if column.rest { 0 } else { widest.clamp(column.least, column.most.max(column.least)) }
    };
    let mut widths: Vec<u16> = shown.iter().map(|i| natural(*i)).collect();
    let gaps = GAP * u16::try_from(shown.len().saturating_sub(1)).unwrap_or(0);
    let taken: u16 = widths.iter().sum::<u16>() + MARK + gaps;
    if let Some(last) = shown.iter().position(|i| columns[*i].rest) {
        widths[last] = width.saturating_sub(taken);
    }
    widths
}

/// Columns of the terminal that a text takes.
#[must_use]
pub fn width_of(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

fn cell(buffer: &mut Buffer, (x, y, width): (u16, u16, u16), text: &str, side: Alignment, style: Style) {
    let taken = width_of(text);
    if taken > width {
        // What is cut off is seen to be.
        let (end, _) = buffer.set_stringn(x, y, text, usize::from(width.saturating_sub(1)), style);
        if width > 0 {
            buffer.set_stringn(end, y, "…", 1, style);
        }
        return;
    }
    let x = if side == Alignment::Right { x + width - taken } else { x };
    buffer.set_stringn(x, y, text, usize::from(width), style);
}

/// A line of text that is cut off where the area ends.
pub fn line(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    if area.height > 0 {
        let area = Rect { height: 1, ..area };
        buffer.set_style(area, style);
        cell(buffer, (area.x, area.y, area.width), &printable(text), Alignment::Left, style);
    }
}

/// A heading: a line with the text in it.
pub fn heading(buffer: &mut Buffer, area: Rect, text: &str, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let rule = "─".repeat(usize::from(area.width));
    buffer.set_stringn(area.x, area.y, rule, usize::from(area.width), theme.quiet());
    let text = format!(" {} ", printable(text));
    let style = Style::new().add_modifier(Modifier::BOLD);
    buffer.set_stringn(area.x + 1, area.y, text, usize::from(area.width.saturating_sub(2)), style);
}
