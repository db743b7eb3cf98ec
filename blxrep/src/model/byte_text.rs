//! Bytes that may not be text, as text: names of files in JSON and in queries.
//!
//! `%` and two hex digits are one byte; every other character stands for its own UTF-8 bytes. Bytes that are no UTF-8,
//! control characters and the `%` itself are written with `%`, so most names look like themselves. What a person writes
//! need not be the shortest way: `%2Fetc` and `/etc` are the same bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// Bytes, written as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, example = "/home/ada/100%25")]
pub struct ByteText(Vec<u8>);

/// A text that stands for no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` has a `%` without two hex digits behind it: a `%` itself is written as %25")]
pub struct ByteTextError(String);

impl ByteText {
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<&[u8]> for ByteText {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for ByteText {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ByteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '%' || c.is_control() {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
                } else {
                    fmt::Write::write_char(f, c)?;
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
        }
        Ok(())
    }
}

impl FromStr for ByteText {
    type Err = ByteTextError;

    fn from_str(text: &str) -> Result<Self, ByteTextError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            let (byte, after) = match (first, after) {
                (b'%', [high, low, after @ ..]) => {
                    (hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low), after)
                }
                (b'%', _) => (None, after),
                _ => (Some(*first), after),
            };
            // Whoever wrote it knows how it went on.
            bytes.push(byte.ok_or_else(|| ByteTextError(text.chars().take(80).collect()))?);
            rest = after;
        }
        Ok(Self(bytes))
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl Serialize for ByteText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn most_names_look_like_themselves() {
        let shown = |bytes: &[u8]| ByteText::from(bytes).to_string();
        assert_eq!(shown("/etc/café 漢 a+b&c".as_bytes()), "/etc/café 漢 a+b&c");
        assert_eq!(shown(b"100%\n\xff\x80"), "100%25%0A%FF%80");
        assert_eq!("/%65tc%2f%ff".parse(), Ok(ByteText::from(&b"/etc/\xff"[..])));
        for bad in ["%", "a%4", "%4é", "%+1", "100% sure"] {
            assert!(bad.parse::<ByteText>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_the_way(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = ByteText::from(bytes);
            prop_assert_eq!(text.to_string().parse(), Ok(text));
        }
    }
}
