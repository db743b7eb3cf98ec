//! States in words, each with a symbol of its own, so that no colour is needed to tell them apart. Pure.

use crate::api::text::{Span, percent, printable};
use crate::api::types::{ActionRow, DiskState, PointRow};
use crate::model::action::ActionState;
use crate::model::point::{Consistency, Coverage};
use crate::model::units::ByteCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What is not known or does not apply.
pub const NONE: &str = "-";

#[must_use]
pub const fn disk_state(state: DiskState) -> &'static str {
    match state {
        DiskState::Offered => "○ offered",
        DiskState::Imaging => "◐ imaging",
        DiskState::Protected => "● protected",
        DiskState::Paused => "= paused",
        DiskState::Excluded => "- excluded",
        DiskState::Problem => "! problem",
        DiskState::Absent => "? absent",
    }
}

#[must_use]
pub fn coverage(coverage: &Coverage) -> String {
    match coverage {
        Coverage::Proven => "● proven".to_owned(),
        Coverage::Unknown(reason) => printable(&format!("! unknown: {reason}")),
    }
}

#[must_use]
pub const fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Frozen => "■ frozen",
        Consistency::Quiet => "● quiet",
        Consistency::Fuzzy => "○ fuzzy",
    }
}

#[must_use]
pub const fn action_state(state: ActionState) -> &'static str {
    match state {
        ActionState::Queued => "○ queued",
        ActionState::Running => "◐ running",
        ActionState::Paused => "= paused",
        ActionState::Succeeded => "● succeeded",
        ActionState::Failed => "! failed",
        ActionState::Cancelled => "x cancelled",
    }
}

/// `[####------]`; empty while the total is not known.
#[must_use]
pub fn bar(done: u64, total: u64, cells: usize) -> String {
    let Some(percent) = percent(done, total) else { return String::new() };
    let filled = usize::from(percent) * cells / 100;
    format!("[{}{}]", "#".repeat(filled), "-".repeat(cells - filled))
}

/// `41 % of 4.00 GiB`, or the bytes while the total is not known.
#[must_use]
pub fn progress(row: &ActionRow) -> String {
    match percent(row.done, row.total) {
        None if row.done == 0 => NONE.to_owned(),
        None => ByteCount(row.done).to_string(),
        Some(percent) => format!("{percent:>3} % of {}", ByteCount(row.total)),
    }
}

/// What sets a point apart from others, as `base, ! damaged, 2 holes`; empty for most.
#[must_use]
pub fn marks(row: &PointRow) -> String {
    let mut said = Vec::new();
    if !row.damage.is_empty() {
        said.push("! damaged".to_owned());
    }
    if row.half_restored.is_some() {
        said.push("! half restored".to_owned());
    }
    match row.holes.sectors().count() {
        0 => {}
        1 => said.push("! 1 hole".to_owned()),
        n => said.push(format!("! {n} holes")),
    }
    if row.coverage != Coverage::Proven {
        said.push("coverage unknown".to_owned());
    }
    if row.hooks.iter().any(|hook| !hook.succeeded()) {
        said.push("a hook failed".to_owned());
    }
    if row.parent.is_none() {
        said.push("base".to_owned());
    }
    said.join(", ")
}

/// A length of time, or that it is not known.
#[must_use]
pub fn span(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| NONE.to_owned(), |seconds| Span(seconds).to_string())
}

/// A size, or that it is not known.
#[must_use]
pub fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| NONE.to_owned(), |bytes| ByteCount(bytes).to_string())
}

/// `11-03 11:59:56`: an instant in the heading of a page.
#[must_use]
pub fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%m-%d %H:%M:%S").to_string()
}

/// `10,000`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 point`, `2 points`, `10,000 points`.
#[must_use]
pub fn count(n: u64, one: &str) -> String {
    let many = one.strip_suffix('y').map_or_else(|| format!("{one}s"), |stem| format!("{stem}ies"));
    format!("{} {}", grouped(n), if n == 1 { one } else { &many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_can_be_read() {
        let shown = [0, 1, 999, 1_000, 1_234_567].map(|n| count(n, "point"));
        assert_eq!(shown, ["0 points", "1 point", "999 points", "1,000 points", "1,234,567 points"]);
    }

    #[test]
    fn a_bar_is_full_at_its_end_only() {
        assert_eq!((bar(1, 0, 4).as_str(), bar(99, 100, 4).as_str()), ("", "[###-]"));
        assert_eq!(bar(100, 100, 4), "[####]");
    }
}
