//! What is in a point: its partitions and volumes, the files on them, and how those of two points differ.
//!
//! Names of files are bytes. Each is told twice: as text that a terminal can show (`path`, with escapes as `\n`, `\xff`
//! and `\\`), and as `raw`, which stands for exactly its bytes and is what a later request is given
//! ([`crate::model::byte_text`]).

pub use crate::archive::diff::How;
pub use crate::archive::entry::FileKind;

use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A part of a list of what was found in points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Findings<T> {
    pub items: Vec<T>,
    /// Ask for `after` this to get what follows, which may be nothing. `null` at the end. A search that takes long
    /// answers with what it has, also with nothing, and this.
    pub next: Option<String>,
    /// What one should know about what was looked at.
    pub notes: Vec<String>,
    /// What could not be read, and why: the list lacks it.
    pub unread: Vec<String>,
}

/// One partition, by its number, or one volume, by its name; partition 0 is a disk without partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionRow {
    pub partition: PartId,
    /// Where its first byte lies on the disk. Others of a volume may lie anywhere; of one that cannot be opened it is 0.
    pub start: u64,
    pub bytes: u64,
    /// What lies there, as `blkid` calls it: `ext4`, `swap`, `LVM2_member`. Empty where nothing is known.
    pub kind: String,
    /// Of the filesystem. Empty if it has none.
    pub label: String,
    /// Of the filesystem, as `blkid` shows it. Empty if it has none.
    pub uuid: String,
    /// What the partition table says of it: a GUID, or a byte as `0x83`. Empty for what is in no table.
    pub type_code: String,
    /// Name that a GPT gives it. Empty if it has none.
    pub name: String,
    /// Whether its files can be shown.
    pub browsable: bool,
    /// Why its files cannot be shown, and what to do. Empty if they can.
    pub note: String,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileRow {
    pub partition: PartId,
    /// Its own name, to be shown.
    pub name: String,
    /// From the root of its filesystem, to be shown.
    pub path: String,
    /// The same path, to be asked for.
    pub raw: ByteText,
    pub kind: FileKind,
    /// Four octal digits.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Length of its content, as the kernel tells it.
    pub bytes: u64,
    /// RFC 3339, or seconds since 1970 where the year has more than four digits.
    pub modified: String,
    /// Of a symbolic link, to be shown.
    pub target: Option<String>,
}

/// A difference between two points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeRow {
    pub partition: PartId,
    /// From the root of its filesystem, to be shown.
    pub path: String,
    /// The same path, to be asked for.
    pub raw: ByteText,
    /// As [`FileKind`]; `null` where it could not be told.
    pub kind: Option<FileKind>,
    pub change: How,
    /// Of `metadata`: which of `mode`, `owner`, `mtime`, `xattrs`. Of `failed`: why.
    pub what: Vec<String>,
}

/// The query of `GET /api/v1/points/{point}/files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct FilesQuery {
    /// May be left out where only one has files.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub partition: Option<PartId>,
    /// A folder, whose entries are listed, or a file; the root without it.
    #[serde(default)]
    pub path: Option<ByteText>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub after: Option<String>,
}

/// The query of `GET /api/v1/points/{point}/find`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct FindQuery {
    /// Compared with names, or with whole paths if it has a slash. `*` and `?` stand for any and for one byte, also a
    /// slash; `[a-c]` for one of a few.
    pub pattern: ByteText,
    /// All that have files without it.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub partition: Option<PartId>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub after: Option<String>,
}

/// The query of `GET /api/v1/points/{point}/diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// The other point: what it has more was added, and what it lacks was removed.
    pub with: String,
    /// All that both points have without it.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub partition: Option<PartId>,
    /// Only this file, or what is in this folder.
    #[serde(default)]
    pub path: Option<ByteText>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub after: Option<String>,
}
