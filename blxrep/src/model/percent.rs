//! A share, as people write it: `5%`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// Hundredths of a percent that are everything.
const WHOLE: u32 = 10_000;

/// A part of a whole that is neither nothing nor more than all: `0.01%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, example = "5%")]
pub struct Percent(u32);

impl Percent {
    /// Whether `number`, drawn evenly from all numbers, is in the share.
    #[must_use]
    pub const fn takes(self, number: u64) -> bool {
        number % (WHOLE as u64) < self.0 as u64
    }
}

/// A text that is no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no share: expected 0.01% to 100%, as 5% or 0.5%")]
pub struct PercentError(String);

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        hundredths(text).filter(|share| (1..=WHOLE).contains(share)).map(Self).ok_or_else(|| {
            // Whoever wrote it knows how it went on.
            PercentError(text.chars().take(20).collect())
        })
    }
}

fn hundredths(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) || number.ends_with('.') {
        return None;
    }
    let part: u32 = format!("{part:0<2}").parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match part {
            0 => write!(f, "{whole}%"),
            part if part.is_multiple_of(10) => write!(f, "{whole}.{}%", part / 10),
            part => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_shown_as_they_are_written() {
        for text in ["5%", "0.5%", "0.01%", "12.25%", "100%"] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), text);
        }
        assert_eq!(" 10 %".parse(), Ok(Percent(1000)));
        for bad in
            ["", "5", "%", "0%", "0.001%", "100.01%", "-1%", "1e2%", "5.%", ".5%", "99999999999%", "+5%"]
        {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_takes_so_many() {
        let taken = (0..20_000).filter(|number| Percent(250).takes(*number)).count();
        assert_eq!(taken, 500);
    }
}
