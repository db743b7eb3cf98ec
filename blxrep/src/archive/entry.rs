//! One thing in a tree: a name, what it is, and what is said of it.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Longest name that Linux knows.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link: a path.
pub const MAX_TARGET_BYTES: usize = 4096;
/// Longest value of an extended attribute that Linux knows.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// All extended attributes of one file, with their names.
pub const MAX_XATTRS_BYTES: usize = 512 << 10;

/// A single component of a path: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// `None` if these bytes cannot be the name of a file.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = (1..=MAX_NAME_BYTES).contains(&bytes.len());
        let plain = !bytes.iter().any(|byte| matches!(byte, b'/' | 0)) && bytes != b"." && bytes != b"..";
        (fits && plain).then(|| Self(bytes.to_vec()))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", super::shown(&self.0))
    }
}

/// An instant as the kernel keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// What is said of a file besides its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions with set-user-id, set-group-id and sticky: 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub atime: Time,
    /// Extended attributes, ACLs and capabilities among them.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// With its namespace: `user.note`.
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only on the way to what was asked for unless it is `selected`.
    Folder {
        selected: bool,
    },
    File {
        bytes: u64,
    },
    /// Another name of an earlier entry, the one with this link number.
    Link {
        of: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Socket,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// One thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Name,
    pub kind: Kind,
    pub meta: Meta,
    /// Number by which later entries call it, if it has several names.
    pub link: Option<u64>,
}

/// What an entry is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    Folder,
    File,
    /// Another name of a file that was named before.
    Link,
    Symlink,
    Fifo,
    Socket,
    #[serde(rename = "character device")]
    CharDevice,
    #[serde(rename = "block device")]
    BlockDevice,
}

impl FileKind {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::File => "file",
            Self::Link => "link",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }
}

impl Kind {
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        match self {
            Self::Folder { .. } => FileKind::Folder,
            Self::File { .. } => FileKind::File,
            Self::Link { .. } => FileKind::Link,
            Self::Symlink { .. } => FileKind::Symlink,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
            Self::CharDevice { .. } => FileKind::CharDevice,
            Self::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }

    /// In a word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        self.kind().word()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
            assert_eq!(Name::new(bad), None);
        }
        for good in [&b"..."[..], b"-rf", b"\xff", b" ", &[b'x'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
    }
}
