//! How values of the API are shown to people: the same on the command line and on the screen. Pure.

use jiff::{Timestamp, tz::TimeZone};
use std::fmt;

/// An instant to the second, in UTC: `2026-11-03T12:00:03Z`.
#[derive(Clone, Copy, Debug)]
pub struct Clock(pub Timestamp);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0.to_zoned(TimeZone::UTC);
        write!(f, "{:04}-{:02}-{:02}T", t.year(), t.month(), t.day())?;
        write!(f, "{:02}:{:02}:{:02}Z", t.hour(), t.minute(), t.second())
    }
}

/// A length of time in its two largest units: `4 s`, `2 min 5 s`, `3 h 10 min`, `5 d 2 h`.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
        let first = UNITS.iter().position(|(seconds, _)| self.0 >= *seconds).unwrap_or(UNITS.len() - 1);
        let (seconds, name) = UNITS[first];
        write!(f, "{} {name}", self.0 / seconds)?;
        match UNITS.get(first + 1) {
            Some((smaller, name)) if self.0 % seconds >= *smaller => {
                write!(f, " {} {name}", self.0 % seconds / smaller)
            }
            _ => Ok(()),
        }
    }
}

/// Whole seconds from `then` to `now`; 0 if the clock went back.
#[must_use]
pub fn seconds_between(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second() - then.as_second()).unwrap_or(0)
}

/// How much of `total` is done; `None` while the total is not known.
#[must_use]
pub fn percent(done: u64, total: u64) -> Option<u8> {
    let share = u128::from(done.min(total)) * 100;
    u8::try_from(share.checked_div(u128::from(total))?).ok()
}

/// Text from an agent, made harmless for a terminal: control characters become spaces.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        let shown = [0, 59, 60, 125, 3_600, 11_400, 86_399, 86_400, 440_000].map(|s| Span(s).to_string());
        let expected =
            ["0 s", "59 s", "1 min", "2 min 5 s", "1 h", "3 h 10 min", "23 h 59 min", "1 d", "5 d 2 h"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn clocks_stop_at_the_second() {
        let at: Timestamp = "2026-11-03T12:00:03.987654321Z".parse().unwrap();
        assert_eq!(Clock(at).to_string(), "2026-11-03T12:00:03Z");
    }

    #[test]
    fn percent_needs_a_total_and_ends_at_100() {
        assert_eq!(
            [percent(1, 0), percent(0, 3), percent(1, 3), percent(9, 3)],
            [None, Some(0), Some(33), Some(100)]
        );
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
    }

    #[test]
    fn an_escape_sequence_from_an_agent_does_nothing() {
        assert_eq!(printable("web1\u{1b}[2J\n\u{9b}31m"), "web1 [2J  31m");
    }
}
