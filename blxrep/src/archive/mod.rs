//! Files on their way from a point to where they are wanted.
//!
//! ```text
//! walk (a mounted tree) ---> Sink ---> target (a folder that nothing leaves)
//!                             ^ \----> plan   (what would be done)
//!        decode (bytes) -----/   \---> encode (bytes)
//! ```
//!
//! What travels is a tree, entered and left folder by folder, and each name is a single component: there are no paths
//! that could lead elsewhere. [`stream`] is the same as bytes, for a tree and a target on different hosts; its bytes are
//! hostile to whoever reads them.

pub mod conflict;
pub mod diff;
mod dress;
pub mod entry;
pub mod glob;
mod links;
pub mod plan;
pub mod root;
pub mod selection;
pub mod staging;
pub mod stream;
pub mod target;
pub mod walk;
pub mod watched;
pub mod xattr;

pub use entry::{Entry, Kind, Meta, Name, Time};

use std::fmt;
use std::io;

/// Folders within folders, at most: each that is open takes a descriptor.
pub const MAX_DEPTH: usize = 512;
/// Bytes of a file in one piece.
pub const PIECE_BYTES: usize = 1 << 20;
/// Files with several names that are kept in mind at a time. A name of one more is restored as a file of its own.
pub const MAX_LINKS: usize = 1 << 20;

/// Why a restore ended before its end. What concerns one file only is no such error: it is told, and the rest goes on.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot {action} {what}: {source}")]
    Io { action: &'static str, what: String, source: io::Error },
    /// The stream is damaged, of another version, or was not made by this program.
    #[error("the stream of files cannot be used: {0}")]
    Stream(String),
    #[error("{0}")]
    Refused(String),
    #[error("interrupted")]
    Interrupted,
}

impl ArchiveError {
    pub(crate) fn errno(
        action: &'static str,
        what: impl fmt::Display,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let what = what.to_string();
        move |source| Self::Io { action, what, source: source.into() }
    }
}

/// What became of an entry that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The data of the file, or what is in the folder, shall follow.
    Content,
    /// It shall not; nothing of it follows, not even its end.
    Nothing,
}

/// Who takes a tree. The order of calls is that of the tree: a folder is entered by [`Sink::entry`] and left by
/// [`Sink::leave`]; after a file its data, in ascending order, then [`Sink::end_file`].
pub trait Sink {
    /// The root of the tree is wanted itself. Comes first, if at all.
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError>;

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError>;

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError>;

    /// The file is whole. What was not given as data is zero.
    fn end_file(&mut self) -> Result<(), ArchiveError>;

    fn leave(&mut self) -> Result<(), ArchiveError>;

    /// Something could not be read: the entry of this name, or, without one, the rest of the open file, which is then
    /// no longer open, or of the open folder.
    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError>;

    /// All of it was given.
    fn end(&mut self) -> Result<(), ArchiveError>;
}

/// Bytes of a name or path as text that no two of them share: what is not printable UTF-8 is escaped, and so is the
/// backslash.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() || reorders(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Characters that are not seen, or that change the order in which others are.
const fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_shown_without_harm() {
        assert_eq!(shown("plain é 漢".as_bytes()), "plain é 漢");
        assert_eq!(shown(b"a\x1b[31m\n\\x41\xff"), "a\\u{1b}[31m\\n\\\\x41\\xff");
        assert_eq!(shown("\u{202e}txt".as_bytes()), "\\u{202e}txt");
    }

    proptest! {
        #[test]
        fn no_two_names_look_the_same(
            a in prop::collection::vec(any::<u8>(), 0..6), b in prop::collection::vec(any::<u8>(), 0..6)
        ) {
            prop_assert_eq!(a == b, shown(&a) == shown(&b));
        }
    }
}
