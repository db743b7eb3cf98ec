//! Names of things. Random ids are 64 bits, shown as 16 hex digits; 0 is never used.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("`{0}` is not an id: expected 16 hex digits, as `blxrep points` prints them")]
    NotHex(String),
    #[error(
        "`{0}` cannot name an agent: use 1 to 64 letters, digits, `.`, `_` or `-`, starting with a letter or digit"
    )]
    BadAgent(String),
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
        #[schema(value_type = String, pattern = "^[0-9a-f]+$")]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let value = <$repr>::from_str_radix(text, 16).map_err(|_| IdError::NotHex(text.to_owned()))?;
                if value == 0 || text.len() != $width || text.starts_with('+') {
                    return Err(IdError::NotHex(text.to_owned()));
                }
                Ok(Self(value))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <$repr>::deserialize(d).map(Self)
                }
            }
        }
    };
}

hex_id!(
    /// One recovery point of one disk.
    PointId, u64, 16
);
hex_id!(
    /// The cut that the points of a group share.
    CutId, u64, 16
);
hex_id!(
    /// One action.
    ActionId, u64, 16
);
hex_id!(
    /// One base image and the deltas on top of it.
    GenerationId, u64, 16
);
hex_id!(
    /// One protected disk of one agent, as the dispatcher's catalog names it.
    DiskId, u64, 16
);
hex_id!(
    /// The store under one data directory.
    StoreId, u128, 32
);
hex_id!(
    /// A tracking epoch: made at each fresh attach and pinned with the maps.
    Epoch, u128, 32
);

/// Name of an agent: 1 to 64 letters, digits, `.`, `_` or `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
pub struct AgentId(String);

impl AgentId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if ok { Ok(Self(text.to_owned())) } else { Err(IdError::BadAgent(text.chars().take(80).collect())) }
    }
}

impl<'de> Deserialize<'de> for AgentId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({})", self.0)
    }
}

/// What makes a disk the same disk after a reboot: the first of WWN or EUI, serial, GPT GUID, MBR signature, or
/// the name that the configuration gives it. Never a `/dev` name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskIdentity {
    Wwn(String),
    Serial(String),
    Gpt(String),
    Mbr(String),
    /// Given in the agent's configuration (`disks: [{device: ..., name: ...}]`).
    Named(String),
}

impl DiskIdentity {
    /// Whether a person may mean this disk: by the whole identity, or by its value without the kind.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        let (Self::Wwn(value)
        | Self::Serial(value)
        | Self::Gpt(value)
        | Self::Mbr(value)
        | Self::Named(value)) = self;
        value == text || self.to_string() == text
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wwn(v) => write!(f, "wwn:{v}"),
            Self::Serial(v) => write!(f, "serial:{v}"),
            Self::Gpt(v) => write!(f, "gpt:{v}"),
            Self::Mbr(v) => write!(f, "mbr:{v}"),
            Self::Named(v) => write!(f, "name:{v}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_text_and_refuse_everything_else() {
        let id = PointId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string(), "00abcdef01234567");
        assert_eq!(id.to_string().parse::<PointId>(), Ok(id));
        for bad in ["", "0", "0000000000000000", "+0abcdef01234567", "00abcdef0123456", "zzabcdef01234567"] {
            assert!(bad.parse::<PointId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_disk_is_called_by_its_name_alone_too() {
        let disk = DiskIdentity::Named("data".to_owned());
        assert!(disk.is_called("data") && disk.is_called("name:data"));
        assert!(!disk.is_called("serial:data") && !disk.is_called("dat") && !disk.is_called("name:"));
    }

    #[test]
    fn an_agent_name_cannot_be_a_path() {
        for good in ["web1", "web10", "a_b", "a-b", "db.example.com"] {
            assert_eq!(good.parse::<AgentId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }
}
