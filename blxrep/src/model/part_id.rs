//! How the parts of a disk are named: partitions by their number, volumes as the kernel would name their devices.
//!
//! ```text
//! 0            the whole disk
//! 3            the partition with this number in the disk's table
//! vg0-root     a logical volume: its group, a dash, its own name; dashes within either are doubled, as device-mapper does
//! md-home      an md array by its name without the host, or by its UUID where it has none that can be typed
//! md-homep2    a partition within an array or a logical volume
//! ...~2        the second with a name that is taken
//! ```
//!
//! Names of volumes have a dash, so that none is a number, and none is taken for the first component of a path.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Longest name of a volume. Device-mapper's are up to 127 bytes; partitions and twins have a few more.
const MAX_NAME: usize = 160;

/// What tells a part of a disk from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartId {
    Partition(u32),
    Volume(String),
}

/// A text that names no part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no part of a disk: give a partition's number, or a volume's name as `vg-lv` or `md-NAME`"
)]
pub struct PartIdError(String);

impl PartId {
    /// The whole disk.
    pub const DISK: Self = Self::Partition(0);

    /// A logical volume; `None` if device-mapper would not take the name.
    #[must_use]
    pub fn logical(group: &str, volume: &str) -> Option<Self> {
        let name = format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"));
        (is_lvm_name(group) && is_lvm_name(volume) && name.len() <= 127).then_some(Self::Volume(name))
    }

    /// An md array.
    #[must_use]
    pub fn array(name: &str, uuid: &str) -> Self {
        Self::Volume(format!("md-{}", if is_lvm_name(name) { name } else { uuid }))
    }

    /// The partition with a number within this part.
    #[must_use]
    pub fn partition(&self, number: u32) -> Self {
        match self {
            Self::Partition(_) => Self::Partition(number),
            Self::Volume(name) => Self::Volume(format!("{name}p{number}")),
        }
    }

    /// This name, or the next one like it that is not taken.
    #[must_use]
    pub fn unless(self, mut taken: impl FnMut(&Self) -> bool) -> Self {
        let Self::Volume(name) = &self else { return self };
        let mut others = (2..).map(|n: u32| Self::Volume(format!("{name}~{n}")));
        let free = |id: &Self| !taken(id);
        [self.clone()].into_iter().chain(&mut others).find(free).unwrap_or(self)
    }

    /// With what it is: `the disk`, `partition 3`, `volume vg0-root`.
    #[must_use]
    pub fn described(&self) -> String {
        match self {
            Self::Partition(0) => "the disk".to_owned(),
            Self::Partition(number) => format!("partition {number}"),
            Self::Volume(name) => format!("volume {name}"),
        }
    }
}

/// What LVM allows as a name: it is a name of a file, too.
fn is_lvm_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['-', '.']) && name.bytes().all(|b| b != b'~' && is_in_names(b))
}

const fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'_' | b'.' | b'-' | b'~')
}

impl Default for PartId {
    fn default() -> Self {
        Self::DISK
    }
}

impl From<u32> for PartId {
    fn from(number: u32) -> Self {
        Self::Partition(number)
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(number) => number.fmt(f),
            Self::Volume(name) => name.fmt(f),
        }
    }
}

impl FromStr for PartId {
    type Err = PartIdError;

    fn from_str(text: &str) -> Result<Self, PartIdError> {
        let strange = || PartIdError(text.chars().take(80).collect());
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Self::Partition).map_err(|_| strange());
        }
        let is_volume = text.contains('-')
            && !text.starts_with(['-', '.'])
            && text.len() <= MAX_NAME
            && text.bytes().all(is_in_names);
        is_volume.then(|| Self::Volume(text.to_owned())).ok_or_else(strange)
    }
}

impl ToSchema for PartId {}

impl PartialSchema for PartId {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A partition's number, 0 for the whole disk, or a volume's name."))
            .examples(["3", "vg0-root", "md-home"])
            .into()
    }
}

impl Serialize for PartId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartId {
    /// From text. Where the format tells numbers from text, a number is a partition's, too.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = PartId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a partition's number or a volume's name")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PartId, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PartId, E> {
                u32::try_from(number).map(PartId::Partition).map_err(E::custom)
            }
        }
        if d.is_human_readable() { d.deserialize_any(Visitor) } else { d.deserialize_str(Visitor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn volume(name: &str) -> PartId {
        PartId::Volume(name.to_owned())
    }

    #[test]
    fn names_are_those_of_device_mapper() {
        assert_eq!(PartId::logical("vg-0", "a-b").unwrap().to_string(), "vg--0-a--b");
        for bad in ["", "-a", ".", "..", "a/b", "a b", "a~2", "é", "a\n"] {
            assert_eq!(PartId::logical("vg", bad), None, "{bad:?}");
        }
        assert_eq!(PartId::logical("vg", &"x".repeat(125)), None);
        assert_eq!(PartId::array("home", "0a-0b"), volume("md-home"));
        assert_eq!(PartId::array("a/b", "0a-0b"), volume("md-0a-0b"));
        assert_eq!(PartId::array("home", "").partition(2), volume("md-homep2"));
        assert_eq!(PartId::DISK.partition(2), PartId::Partition(2));
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let taken = [volume("a-b"), volume("a-b~2")];
        assert_eq!(volume("a-b").unless(|id| taken.contains(id)), volume("a-b~3"));
        assert_eq!(volume("a-c").unless(|id| taken.contains(id)), volume("a-c"));
    }

    #[test]
    fn text_is_told_apart() {
        assert_eq!("12".parse(), Ok(PartId::Partition(12)));
        assert_eq!("vg0-root".parse(), Ok(volume("vg0-root")));
        for bad in ["", "root", "-1", "4294967296", "a-b/c", "vg root-x", ".a-b"] {
            assert!(bad.parse::<PartId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_may_have_numbers() {
        let read = |text: &str| serde_json::from_str::<PartId>(text).ok();
        assert_eq!(read("3"), Some(PartId::Partition(3)));
        assert_eq!(read("\"3\""), Some(PartId::Partition(3)));
        assert_eq!(read("\"vg-lv\""), Some(volume("vg-lv")));
        assert_eq!([read("-1"), read("1.5"), read("\"x\""), read("[]")], [None, None, None, None]);
        assert_eq!(serde_json::to_string(&PartId::Partition(3)).unwrap(), "\"3\"");
    }

    proptest! {
        #[test]
        fn names_survive_the_way(group in "[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,20}", lv in "[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,20}") {
            let id = PartId::logical(&group, &lv).unwrap().partition(7);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
