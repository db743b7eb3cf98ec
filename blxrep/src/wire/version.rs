//! Versions of the protocol: what the two ends offer, and the one they speak.
//!
//! The hello carries a range from each side and is laid out the same in every version, so that programs of
//! any two ages can at least tell each other why they cannot talk.

use std::fmt;

/// Half of an agreement: every version from `min` to `max` (both included) is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    pub min: u16,
    pub max: u16,
}

/// What this program speaks. Version 1: the first.
pub const SUPPORTED: VersionRange = VersionRange { min: 1, max: 1 };

impl VersionRange {
    /// The newest version that both ranges hold.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 9)), Some(3));
        assert_eq!(range(2, 9).common(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).common(range(1, 1)), Some(1));
        assert_eq!(range(1, 1).common(range(2, 9)), None);
        assert_eq!(range(3, 2).common(range(1, 9)), None, "an empty range");
    }

    #[test]
    fn ranges_read_as_words() {
        assert_eq!(VersionRange { min: 1, max: 1 }.to_string(), "1");
        assert_eq!(VersionRange { min: 1, max: 4 }.to_string(), "1 to 4");
    }
}
