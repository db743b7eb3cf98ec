//! Times as people say them: `1h ago`, `yesterday 14:00`, `2026-11-02 09:30`. Pure. All of them are in UTC, as all times
//! that are shown.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// What can be typed, for the prompt.
pub const EXAMPLES: &str = "1h ago, 14:00, yesterday 14:00, monday, 2026-11-02 14:00 (UTC)";

const UNITS: [(&[&str], i64); 6] = [
    (&["s", "sec", "secs", "second", "seconds"], 1),
    (&["m", "min", "mins", "minute", "minutes"], 60),
    (&["h", "hour", "hours"], 3_600),
    (&["d", "day", "days"], 86_400),
    (&["w", "week", "weeks"], 7 * 86_400),
    (&["month", "months"], 30 * 86_400),
];
const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// The instant that a text means, seen from `now`. A time of day alone is the last one that has passed; a day alone is
/// its end, so that what was there on that day is found.
#[must_use]
pub fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim().to_lowercase();
    if text == "now" {
        return Some(now);
    }
    if let Ok(instant) = text.to_uppercase().parse::<Timestamp>() {
        return Some(instant);
    }
    if let Some(span) = text.strip_suffix("ago").or_else(|| text.strip_prefix('-')) {
        return now.checked_sub(SignedDuration::from_secs(seconds(span)?)).ok();
    }
    let here = now.to_zoned(TimeZone::UTC).datetime();
    let text = text.strip_suffix("utc").or_else(|| text.strip_suffix('z')).unwrap_or(&text);
    let instant = match &words(text)[..] {
        [only] => match (time(only), day(only, here.date())) {
            (Some(time), _) => last(time, here)?,
            (None, Some(day)) => day.tomorrow().ok()?.at(0, 0, 0, 0).checked_sub(1.second()).ok()?,
            (None, None) => return None,
        },
        [first, second] => day(first, here.date())?.to_datetime(time(second)?),
        _ => return None,
    };
    instant.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// `2026-11-02t14:00` in two words. Days have a `t` in their names, but not between digits.
fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
    let parts = |at: usize| chars[at] == 't' && is_digit(at.checked_sub(1)) && is_digit(Some(at + 1));
    let parted: String = (0..chars.len()).map(|at| if parts(at) { ' ' } else { chars[at] }).collect();
    parted.split_whitespace().map(str::to_owned).collect()
}

/// `90min`, `1h 30m`, `2 days`.
fn seconds(text: &str) -> Option<i64> {
    let mut sum: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(names, _)| names.contains(&&rest[..letters]))?;
        sum = sum.checked_add(number.checked_mul(*unit)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(sum)
}

/// `14:00`, `9:30:15`.
fn time(text: &str) -> Option<Time> {
    let mut parts = text.split(':').map(|part| part.parse::<i8>().ok().filter(|n| *n >= 0));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    if parts.next().is_some() { None } else { Time::new(hour, minute, second, 0).ok() }
}

/// `today`, `yesterday`, `monday` (the last one before today), `2026-11-02`, `11-02`.
fn day(text: &str, today: Date) -> Option<Date> {
    match text {
        "today" => return Some(today),
        "yesterday" => return today.yesterday().ok(),
        _ => {}
    }
    let weekday = WEEKDAYS.iter().find(|(short, _)| {
        text.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with("day"))
    });
    if let Some((_, weekday)) = weekday {
        return today.nth_weekday(-1, *weekday).ok();
    }
    if let Ok(date) = text.parse::<Date>() {
        return Some(date);
    }
    let (month, day) = text.split_once('-')?;
    let date = Date::new(today.year(), month.parse().ok()?, day.parse().ok()?).ok()?;
    // Points are in the past.
    if date > today { date.checked_sub(1.year()).ok() } else { Some(date) }
}

/// The last time that it was `time`.
fn last(time: Time, here: DateTime) -> Option<DateTime> {
    let today = here.date().to_datetime(time);
    if today <= here { Some(today) } else { here.date().yesterday().ok().map(|day| day.to_datetime(time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Tuesday.
    const NOW: &str = "2026-11-03T12:00:00Z";

    fn at(text: &str) -> Option<String> {
        parse(text, NOW.parse().unwrap()).map(|t| t.to_string())
    }

    #[test]
    fn times_are_understood() {
        let cases = [
            ("now", NOW),
            ("1h ago", "2026-11-03T11:00:00Z"),
            ("1 h 30 min ago", "2026-11-03T10:30:00Z"),
            ("-90m", "2026-11-03T10:30:00Z"),
            ("2 days ago", "2026-11-01T12:00:00Z"),
            ("9:30", "2026-11-03T09:30:00Z"),
            ("14:00", "2026-11-02T14:00:00Z"),
            ("yesterday 14:00", "2026-11-02T14:00:00Z"),
            ("Yesterday", "2026-11-02T23:59:59Z"),
            ("today 00:10", "2026-11-03T00:10:00Z"),
            ("monday 08:00", "2026-11-02T08:00:00Z"),
            ("tuesday 8:00", "2026-10-27T08:00:00Z"),
            ("thu", "2026-10-29T23:59:59Z"),
            ("2026-11-02", "2026-11-02T23:59:59Z"),
            ("2026-11-02 14:00:30", "2026-11-02T14:00:30Z"),
            ("2026-11-02T14:00", "2026-11-02T14:00:00Z"),
            ("2026-11-02T14:00:00Z", "2026-11-02T14:00:00Z"),
            ("2026-11-02 14:00 UTC", "2026-11-02T14:00:00Z"),
            ("12-24 18:00", "2025-12-24T18:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "ago",
            "h ago",
            "5 ago",
            "25:00",
            "soon",
            "1:2:3:4",
            "2026-13-01",
            "-",
            "99999999999999 d ago",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
