//! The four lists: which columns they have, what a row says, and what is said of the selected one. Pure.

use super::model::{Data, Model, Pane};
use crate::api::text::{Clock, Span, percent, printable, seconds_between};
use crate::api::types::{ActionRow, AgentRow, DiskRow, DiskState, PointRow};
use crate::model::action::ActionState;
use crate::model::point::{Consistency, Coverage};
use crate::model::units::ByteCount;
use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Borders, HighlightSpacing, Paragraph, Row, Table, TableState};

/// From here on there is room for the columns that are good to know.
const WIDE: u16 = 110;
/// Cells of a progress bar.
const BAR_CELLS: u64 = 10;
/// No name takes more than this from the others.
const MAX_CELL: usize = 34;

/// A column: its header, its side, whether only a wide screen has it, and whether it takes what the others leave.
struct Column {
    header: &'static str,
    side: Alignment,
    wide: bool,
    rest: bool,
}

const fn left(header: &'static str) -> Column {
    Column { header, side: Alignment::Left, wide: false, rest: false }
}

const fn right(header: &'static str) -> Column {
    Column { side: Alignment::Right, ..left(header) }
}

const fn rest(header: &'static str) -> Column {
    Column { rest: true, ..left(header) }
}

const fn wide(column: Column) -> Column {
    Column { wide: true, ..column }
}

const AGENTS: [Column; 8] = [
    left("AGENT"),
    left("STATE"),
    left("SEEN"),
    right("DISKS"),
    right("CPUS"),
    right("MEMORY"),
    wide(left("KERNEL")),
    wide(rest("DISTRIBUTION")),
];

const DISKS: [Column; 9] = [
    left("AGENT"),
    left("DEVICE"),
    left("STATE"),
    right("LAG"),
    right("BACKLOG"),
    right("POINTS"),
    wide(right("SIZE")),
    wide(left("IDENTITY")),
    rest("COVERAGE"),
];

const POINTS: [Column; 9] = [
    left("CUT"),
    left("AGENT"),
    left("DEVICE"),
    left("KIND"),
    left("CONSISTENCY"),
    right("BYTES"),
    wide(right("STORED")),
    wide(right("ROUNDS")),
    wide(left("ID")),
];

const ACTIONS: [Column; 7] = [
    left("KIND"),
    left("AGENT"),
    left("DEVICE"),
    left("STATE"),
    left("PROGRESS"),
    wide(left("UPDATED")),
    wide(left("ID")),
];

/// Draws one list.
pub fn render(model: &Model, data: &Data, pane: Pane, frame: &mut Frame<'_>, area: Rect) {
    let (name, empty, columns, rows) = content(model, data, pane);
    let mark = if model.focus == pane { "▶" } else { " " };
    let style = if model.focus == pane { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    let title = Line::from(format!("{mark} {name} ({}) ", rows.len())).style(style);
    let block = Block::new().borders(Borders::TOP).title(title);
    if rows.is_empty() {
        return frame.render_widget(Paragraph::new(format!("  {empty}")).block(block), area);
    }
    let shown: Vec<usize> = (0..columns.len()).filter(|i| area.width >= WIDE || !columns[*i].wide).collect();
    let cell = |column: usize, text: &str| Text::from(text.to_owned()).alignment(columns[column].side);
    let header = Row::new(shown.iter().map(|i| cell(*i, columns[*i].header)));
    let table_rows = rows.iter().map(|row| Row::new(shown.iter().map(|i| cell(*i, &row[*i]))));
    let widths = shown.iter().map(|i| width(&columns[*i], rows.iter().map(|row| row[*i].as_str())));
    let selected = if model.focus == pane { Modifier::REVERSED } else { Modifier::empty() };
    let table = Table::new(table_rows, widths)
        .header(header.style(Style::new().add_modifier(Modifier::DIM)))
        .column_spacing(2)
        .highlight_symbol(if model.focus == pane { "> " } else { "  " })
        .highlight_spacing(HighlightSpacing::Always)
        .row_highlight_style(Style::new().add_modifier(selected))
        .block(block);
    let mut state = TableState::new().with_selected(model.selection.of(pane));
    frame.render_stateful_widget(table, area, &mut state);
}

/// Everything that there is to say about the selected row of the list in focus.
pub fn detail(model: &Model, data: &Data) -> String {
    let at = model.selection.of(model.focus);
    let said = match model.focus {
        Pane::Agents => data.agents.get(at).map(agent_detail),
        Pane::Disks => data.disks.get(at).map(disk_detail),
        Pane::Points => data.points.get(at).map(point_detail),
        Pane::Actions => data.actions.get(at).map(action_detail),
    };
    said.unwrap_or_default()
}

type Content = (&'static str, &'static str, &'static [Column], Vec<Vec<String>>);

fn content(model: &Model, data: &Data, pane: Pane) -> Content {
    let now = model.now;
    match pane {
        Pane::Agents => {
            let rows = data.agents.iter().map(|row| agent_cells(row, now)).collect();
            ("Agents", "No agent has connected yet.", &AGENTS, rows)
        }
        Pane::Disks => {
            let rows = data.disks.iter().map(|row| disk_cells(row, now)).collect();
            ("Disks", "No disk is known yet.", &DISKS, rows)
        }
        Pane::Points => {
            let rows = data.points.iter().map(point_cells).collect();
            ("Newest points", "No point is published yet.", &POINTS, rows)
        }
        Pane::Actions => {
            let rows = data.actions.iter().map(action_cells).collect();
            ("Actions", "Nothing has been done yet.", &ACTIONS, rows)
        }
    }
}

/// As wide as its widest cell, within bounds.
fn width<'a>(column: &Column, cells: impl Iterator<Item = &'a str>) -> Constraint {
    if column.rest {
        return Constraint::Fill(1);
    }
    let widest = cells.map(|cell| Text::raw(cell).width()).max().unwrap_or(0).min(MAX_CELL);
    Constraint::Length(u16::try_from(widest.max(column.header.len())).unwrap_or(u16::MAX))
}

fn agent_cells(row: &AgentRow, now: Timestamp) -> Vec<String> {
    vec![
        row.id.to_string(),
        if row.online { "● online" } else { "○ offline" }.to_owned(),
        row.last_seen.map_or("never".to_owned(), |t| format!("{} ago", Span(seconds_between(t, now)))),
        row.disks.to_string(),
        row.cpus.to_string(),
        ByteCount(row.memory).to_string(),
        printable(&row.kernel),
        printable(&row.distribution),
    ]
}

fn disk_cells(row: &DiskRow, now: Timestamp) -> Vec<String> {
    // The age goes on while the dispatcher is silent.
    let lag = row.newest_cut.map(|cut| Span(seconds_between(cut, now)).to_string());
    vec![
        row.agent.to_string(),
        printable(&row.device),
        disk_state(row.state).to_owned(),
        lag.unwrap_or_else(none),
        row.backlog.map_or_else(none, |bytes| ByteCount(bytes).to_string()),
        row.points.to_string(),
        ByteCount(row.bytes).to_string(),
        printable(&row.identity),
        coverage(&row.coverage),
    ]
}

fn point_cells(row: &PointRow) -> Vec<String> {
    vec![
        Clock(row.cut).to_string(),
        row.agent.to_string(),
        printable(&row.device),
        row.kind.to_string(),
        consistency(row.consistency).to_owned(),
        ByteCount(row.bytes).to_string(),
        ByteCount(row.stored).to_string(),
        row.rounds.to_string(),
        row.id.to_string(),
    ]
}

fn action_cells(row: &ActionRow) -> Vec<String> {
    vec![
        row.kind.to_string(),
        row.agent.as_ref().map_or_else(none, ToString::to_string),
        row.device.as_deref().map_or_else(none, printable),
        action_state(row.state).to_owned(),
        progress(row),
        Clock(row.updated).to_string(),
        row.id.to_string(),
    ]
}

fn none() -> String {
    "-".to_owned()
}

fn disk_state(state: DiskState) -> &'static str {
    match state {
        DiskState::Offered => "○ offered",
        DiskState::Imaging => "◐ imaging",
        DiskState::Protected => "● protected",
        DiskState::Paused => "◌ paused",
        DiskState::Excluded => "- excluded",
        DiskState::Problem => "! problem",
        DiskState::Absent => "? absent",
    }
}

fn coverage(coverage: &Coverage) -> String {
    match coverage {
        Coverage::Proven => "● proven".to_owned(),
        Coverage::Unknown(reason) => printable(&format!("! unknown: {reason}")),
    }
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Frozen => "● frozen",
        Consistency::Quiet => "● quiet",
        Consistency::Fuzzy => "! fuzzy",
    }
}

fn action_state(state: ActionState) -> &'static str {
    match state {
        ActionState::Queued => "○ queued",
        ActionState::Running => "◐ running",
        ActionState::Paused => "= paused",
        ActionState::Succeeded => "● succeeded",
        ActionState::Failed => "! failed",
        ActionState::Cancelled => "x cancelled",
    }
}

/// `[####------]  41 %`, or the bytes while the total is not known.
fn progress(row: &ActionRow) -> String {
    match percent(row.done, row.total) {
        None if row.done == 0 => none(),
        None => ByteCount(row.done).to_string(),
        Some(percent) => {
            let filled = u64::from(percent) * BAR_CELLS / 100;
            let cells: String = (0..BAR_CELLS).map(|cell| if cell < filled { '#' } else { '-' }).collect();
            format!("[{cells}] {percent:>3} %  {}", ByteCount(row.total))
        }
    }
}

fn agent_detail(row: &AgentRow) -> String {
    let address = row.address.as_deref().unwrap_or("no address");
    format!("{}: {}, {}, kernel {}, {address}", row.id, row.hostname, row.distribution, row.kernel)
}

fn disk_detail(row: &DiskRow) -> String {
    let mut said = vec![format!("{} {} {} {}", row.agent, row.device, row.identity, ByteCount(row.bytes))];
    said.extend(row.problem.iter().map(|problem| format!("problem: {problem}")));
    if let Coverage::Unknown(reason) = &row.coverage {
        said.push(format!("coverage unknown: {reason}"));
    }
    said.extend(row.notes.iter().map(|note| format!("note: {note}")));
    said.join("; ")
}

fn point_detail(row: &PointRow) -> String {
    let mut said = vec![format!(
        "{} {} {}, {} rounds, coverage {}",
        row.id, row.agent, row.device, row.rounds, row.coverage
    )];
    said.extend(row.freeze_ms.map(|ms| format!("frozen for {ms} ms")));
    said.extend(row.notes.iter().cloned());
    said.join("; ")
}

fn action_detail(row: &ActionRow) -> String {
    let reason = if row.reason.is_empty() { "" } else { ": " };
    format!("{} {}, begun {}, {}{reason}{}", row.kind, row.id, Clock(row.created), row.state, row.reason)
}
