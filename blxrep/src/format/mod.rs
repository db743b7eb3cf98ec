//! The files under the dispatcher's data directory, as bytes. Pure: bytes in, values out. `docs/formats.md`
//! describes the same from the outside.
//!
//! Every file but the raw image is `header | body | index | trailer`. The [`header`] says what the file is and
//! whom it belongs to, so that the catalog can be rebuilt from files alone. The [`trailer`] counts what is
//! between and ends with the *root*, a digest over header and trailer, which hold the digests of the rest. The
//! root is what the catalog keeps: header, trailer and index are proven when a file is opened, the body while it
//! is read (each extent and granule has its own checksum) and as a whole by `verify`.
//!
//! All integers are little-endian. Lengths are checked against named limits and the length of the file before
//! anything is allocated from them; no input makes a parser panic.

pub mod bytes;
pub mod changes;
pub mod delta;
pub mod header;
pub mod mark;
pub mod merged;
pub mod overlay;
pub mod qcow2;
pub mod sidecar;
pub mod trailer;

/// Why bytes are not the file they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("{part} ends early: {need} bytes are needed, {have} are there")]
    Short { part: &'static str, need: u64, have: u64 },
    #[error("{part} is not one: the magic bytes are wrong")]
    Magic { part: &'static str },
    #[error("{part} has format version {found}; this program reads version {known}")]
    Version { part: &'static str, found: u32, known: u32 },
    #[error("{part} has a wrong checksum")]
    Checksum { part: &'static str },
    #[error("{part}: {field} is {value}, which cannot be")]
    Field { part: &'static str, field: &'static str, value: u64 },
    #[error("{part}: {field} is no valid text")]
    Text { part: &'static str, field: &'static str },
    #[error("{part}: {field} of {value} is past the limit of {limit}")]
    Limit { part: &'static str, field: &'static str, value: u64, limit: u64 },
    #[error("{part} is out of order at entry {entry}")]
    Order { part: &'static str, entry: u64 },
}
