//! Points on an axis of time: which cells there are, and what each says. Pure.

use super::table::{heading, width_of};
use super::theme::Theme;
use crate::api::types::PointRow;
use crate::model::point::Consistency;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Lines that a time line takes.
pub const LINES: u16 = 5;
const DAY: i64 = 86_400;
/// Seconds that a cell can stand for, from near to far, and what that is called.
pub const STEPS: [(i64, &str); 10] = [
    (1, "1 s"),
    (10, "10 s"),
    (60, "1 min"),
    (300, "5 min"),
    (900, "15 min"),
    (3_600, "1 h"),
    (6 * 3_600, "6 h"),
    (DAY, "1 d"),
    (7 * DAY, "7 d"),
    (28 * DAY, "28 d"),
];
/// Seconds from one label of the axis to the next.
const TICKS: [i64; 13] = [
    60,
    300,
    900,
    1_800,
    3_600,
    3 * 3_600,
    6 * 3_600,
    12 * 3_600,
    DAY,
    7 * DAY,
    28 * DAY,
    84 * DAY,
    364 * DAY,
];
/// Cells between two labels, so that they can be read.
const APART: i64 = 12;

/// What a cell says of its points; of several the first of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Damaged,
    HalfRestored,
    Holes,
    Fuzzy,
    Quiet,
    Frozen,
}

impl Mark {
    #[must_use]
    pub fn of(point: &PointRow) -> Self {
        match point.consistency {
            _ if !point.damage.is_empty() => Self::Damaged,
            _ if point.half_restored.is_some() => Self::HalfRestored,
            _ if !point.holes.is_empty() => Self::Holes,
            Consistency::Fuzzy => Self::Fuzzy,
            Consistency::Quiet => Self::Quiet,
            Consistency::Frozen => Self::Frozen,
        }
    }

    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Damaged => "!",
            Self::HalfRestored => "x",
            Self::Holes => "%",
            Self::Fuzzy => "○",
            Self::Quiet => "●",
            Self::Frozen => "■",
        }
    }
}

/// What the symbols mean.
pub const LEGEND: &str = "● quiet  ■ frozen  ○ fuzzy  % holes  x mixture  ! damaged";

/// The part of time that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Number of the first cell, counted from the epoch.
    first: i64,
    /// Seconds per cell.
    cell: i64,
    cells: usize,
}

impl Axis {
    /// An axis that ends with the newest point, or further back by half its length as often as it takes to show the
    /// selected one: it stands still while one moves about in it.
    #[must_use]
    pub fn new(cell: i64, newest: Timestamp, selected: Timestamp, cells: usize) -> Self {
        let width = i64::try_from(cells.max(2)).unwrap_or(i64::MAX);
        let (newest, selected) = (bucket(newest, cell), bucket(selected, cell));
        let half = width / 2;
        let back = (newest - selected).max(0) / half;
        let last = newest - (back - 1).max(0) * half;
        Self { first: last - width + 1, cell, cells: cells.max(2) }
    }

    /// The cell of an instant, if it is seen.
    #[must_use]
    pub fn position(self, at: Timestamp) -> Option<usize> {
        usize::try_from(bucket(at, self.cell) - self.first).ok().filter(|n| *n < self.cells)
    }

    fn start_of(self, n: usize) -> Timestamp {
        let bucket = self.first.saturating_add(i64::try_from(n).unwrap_or(i64::MAX));
        Timestamp::from_second(bucket.saturating_mul(self.cell)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn ends(self) -> [Timestamp; 2] {
        [self.start_of(0), self.start_of(self.cells)]
    }

    /// Labels of the axis: `|12:00      |13:00`.
    fn labels(self) -> String {
        let tick = TICKS.into_iter().find(|tick| *tick >= self.cell * APART).unwrap_or(364 * DAY);
        let mut text = String::new();
        for n in 0..self.cells {
            let at = self.start_of(n);
            let width = usize::from(width_of(&text));
            // The part of an axis where a label begins may be longer than the label.
            if at.as_second().rem_euclid(tick) < self.cell && width <= n {
                text.push_str(&" ".repeat(n - width));
                text.push_str(&label(at, tick));
            }
        }
        text
    }
}

/// The number of the cell that an instant is in.
#[must_use]
pub fn bucket(at: Timestamp, cell: i64) -> i64 {
    at.as_second().div_euclid(cell)
}

/// The nearest step at which all points can be seen at once.
#[must_use]
pub fn fitting(oldest: Timestamp, newest: Timestamp, cells: usize) -> usize {
    let fits = |(cell, _): &(i64, &str)| {
        usize::try_from(bucket(newest, *cell) - bucket(oldest, *cell)).is_ok_and(|span| span < cells)
    };
    STEPS.iter().position(fits).unwrap_or(STEPS.len() - 1)
}

fn label(at: Timestamp, tick: i64) -> String {
    let t = at.to_zoned(TimeZone::UTC);
    if tick > 28 * DAY {
        format!("|{:04}-{:02}-{:02}", t.year(), t.month(), t.day())
    } else if tick >= DAY || (t.hour() == 0 && t.minute() == 0) {
        format!("|{:02}-{:02}", t.month(), t.day())
    } else {
        format!("|{:02}:{:02}", t.hour(), t.minute())
    }
}

/// A cell with points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub points: u32,
    pub mark: Mark,
}

/// The cells of an axis; `points` are sorted, the newest first.
#[must_use]
pub fn cells(axis: Axis, points: &[PointRow]) -> Vec<Option<Cell>> {
    let mut cells: Vec<Option<Cell>> = vec![None; axis.cells];
    let [start, end] = axis.ends();
    let first = points.partition_point(|point| point.cut >= end);
    let seen = points[first..].iter().take_while(|point| point.cut >= start);
    for point in seen {
        let Some(cell) = axis.position(point.cut).and_then(|n| cells.get_mut(n)) else { continue };
        let mark = Mark::of(point);
        let before = cell.unwrap_or(Cell { points: 0, mark });
        *cell = Some(Cell { points: before.points.saturating_add(1), mark: before.mark.min(mark) });
    }
    cells
}

/// Draws the axis: a heading, the marks, how many points each stands for, where one is, and the times.
pub fn render(
    (theme, axis, step): (Theme, Axis, &str),
    points: &[PointRow],
    selected: Timestamp,
    area: Rect,
    buffer: &mut Buffer,
) {
    let day = |at: Timestamp| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string();
    let [start, end] = axis.ends();
    let title = format!("Time line, {step} a cell: {} to {} UTC", day(start), day(end));
    heading(buffer, area, &title, theme);
    let cells = cells(axis, points);
    let mut put = |line: u16, n: usize, text: &str, style: Style| {
        let x = area.x.saturating_add(u16::try_from(n).unwrap_or(u16::MAX));
        if line < area.height && x < area.right() {
            buffer.set_stringn(x, area.y + line, text, usize::from(area.right() - x), style);
        }
    };
    for (n, cell) in cells.iter().enumerate() {
        match cell {
            None => put(1, n, "·", theme.quiet()),
            Some(cell) => {
                let style = if cell.mark <= Mark::Holes { theme.trouble() } else { Style::new() };
                put(1, n, cell.mark.symbol(), style);
                let many = char::from_digit(cell.points, 10).unwrap_or('+');
                put(2, n, &many.to_string(), theme.quiet());
            }
        }
    }
    if let Some(n) = axis.position(selected) {
        put(3, n, "▲", theme.strong());
    }
    put(4, 0, &axis.labels(), theme.quiet());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn labels_are_at_round_times_and_apart() {
        let newest = t("2026-11-03T12:00:00Z");
        for (cell, _) in STEPS {
            let labels = Axis::new(cell, newest, newest, 78).labels();
            let at: Vec<usize> = labels.match_indices('|').map(|(i, _)| i).collect();
            assert!(at.len() >= 2 || cell > 7 * DAY, "{cell}: `{labels}`");
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 12), "{cell}: `{labels}`");
        }
        let hours = Axis::new(300, newest, newest, 78).labels();
        assert!(hours.contains("|11:00      |12:00"), "`{hours}`");
        assert!(Axis::new(900, newest, newest, 78).labels().contains("|11-03"));
    }

    #[test]
    fn the_step_that_fits_is_the_nearest() {
        let newest = t("2026-11-03T12:00:00Z");
        let step = |oldest: &str| STEPS[fitting(t(oldest), newest, 78)].1;
        assert_eq!(step("2026-11-03T12:00:00Z"), "1 s");
        assert_eq!(step("2026-11-03T11:00:00Z"), "1 min");
        assert_eq!(step("2026-11-02T12:00:00Z"), "1 h");
        assert_eq!(step("1990-01-01T00:00:00Z"), "28 d");
    }

    proptest! {
        #[test]
        fn the_selected_point_is_always_seen(
            newest in 0i64..2_000_000_000, back in 0i64..200_000_000, cells in 0usize..300, step in 0usize..STEPS.len()
        ) {
            let at = |s: i64| Timestamp::from_second(s).unwrap();
            let selected = at((newest - back).max(0));
            let axis = Axis::new(STEPS[step].0, at(newest), selected, cells);
            prop_assert!(axis.position(selected).is_some());
        }
    }
}
