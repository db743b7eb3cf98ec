//! Numbers with units, as people write them: durations, sizes, rates.

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::time::Duration;

/// No interval or age in a configuration is longer.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `30`, `30s`, `5m`, `2h`, `1d`, `1w`, `1y`. A bare number is seconds.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    let whole = Duration::from_secs(number.checked_mul(seconds)?);
    (whole <= MAX_DURATION).then_some(whole)
}

/// `4096`, `64KiB`, `50MB`, `2GiB`, `1TiB`. A bare number is `bare` bytes each.
#[must_use]
pub fn bytes(text: &str, bare: u64) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = match unit.trim_end_matches("/s") {
        "" => bare,
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// What a duration may look like.
const DURATION: &str = "a duration such as 30s, 5m, 2h or 1d (a bare number is seconds)";
/// What a rate may look like.
pub(crate) const RATE: &str =
    "a rate such as 500KiB, 50MiB or 100MB per second (a bare number is MB per second, 0 is no limit)";

/// Bytes per second, as [`RATE`] says.
#[must_use]
pub(crate) fn rate(text: &str) -> Option<u64> {
    bytes(text, 1_000_000)
}

/// A whole number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// Takes a YAML number or text and reads it with `read`.
struct Quantity<T> {
    read: fn(&str) -> Option<T>,
    expected: &'static str,
}

impl<T> Visitor<'_> for Quantity<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.read)(&number.to_string()).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

/// For `#[serde(deserialize_with)]`: a duration.
pub(super) fn whole_duration_field<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    d.deserialize_any(Quantity { read: duration, expected: DURATION })
}

/// For `#[serde(deserialize_with)]`: an optional duration.
pub(super) fn duration_field<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    whole_duration_field(d).map(Some)
}

/// For `#[serde(deserialize_with)]`: an optional size in bytes.
pub(super) fn bytes_field<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let expected = "a size such as 64KiB, 256MiB or 2GiB (a bare number is bytes)";
    d.deserialize_any(Quantity { read: |text| bytes(text, 1), expected }).map(Some)
}

/// For `#[serde(deserialize_with)]`: an optional rate in bytes per second.
pub(super) fn rate_field<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    d.deserialize_any(Quantity { read: rate, expected: RATE }).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        for (text, seconds) in
            [("30", 30), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("1 w", 604_800)]
        {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1s",
            "1.5h",
            "1M",
            "2 hours",
            "99999999999999999999s",
            "18446744073709551615y",
            "101y",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        assert_eq!(bytes("4096", 1), Some(4096));
        assert_eq!(bytes("100", 1_000_000), Some(100_000_000));
        assert_eq!(bytes("64KiB", 1), Some(65536));
        assert_eq!(bytes("50 MB/s", 1), Some(50_000_000));
        assert_eq!(bytes("2TiB", 1), Some(2 << 40));
        for bad in ["", "MiB", "1.5MiB", "1M", "99999999TiB", "-1"] {
            assert_eq!(bytes(bad, 1), None, "{bad}");
        }
    }
}
