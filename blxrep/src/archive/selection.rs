//! Which parts of a tree are wanted. Pure.

use super::entry::Name;
use crate::model::part_id::PartId;
use std::collections::BTreeMap;

/// What is wanted of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It and everything in it.
    All,
    /// Only something in it.
    Some(BTreeMap<Name, Selection>),
}

impl Default for Selection {
    fn default() -> Self {
        Self::Some(BTreeMap::new())
    }
}

impl Selection {
    /// Wants one more path.
    pub fn add(&mut self, path: &[Name]) {
        match (self, path) {
            (Self::All, _) => {}
            (all, []) => *all = Self::All,
            (Self::Some(parts), [first, rest @ ..]) => parts.entry(first.clone()).or_default().add(rest),
        }
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Some(parts) if parts.is_empty())
    }
}

/// A path of a point as people write it, in its components. `None` if it leads upwards.
#[must_use]
pub fn path(bytes: &[u8]) -> Option<Vec<Name>> {
    bytes
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(Name::new)
        .collect()
}

/// `[PARTITION:]PATH` in its two parts. What is before the colon is a path where it names no part of a disk.
#[must_use]
pub fn place(bytes: &[u8]) -> (Option<PartId>, &[u8]) {
    let colon = bytes.iter().position(|byte| *byte == b':');
    let part = colon.and_then(|at| {
        let id = std::str::from_utf8(&bytes[..at]).ok()?.parse().ok()?;
        Some((id, &bytes[at + 1..]))
    });
    part.map_or((None, bytes), |(id, path)| (Some(id), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<Name> {
        path(text.as_bytes()).unwrap()
    }

    #[test]
    fn paths_have_components() {
        assert_eq!(names("/etc//nginx/./x/").len(), 3);
        assert_eq!(names("/"), []);
        assert_eq!(path(b"/etc/../x"), None);
        assert_eq!(path(b"a\0"), None);
    }

    #[test]
    fn a_partition_is_told_from_a_path() {
        let number = |n| Some(PartId::Partition(n));
        let volume = |name: &str| Some(PartId::Volume(name.to_owned()));
        assert_eq!(place(b"2:/etc"), (number(2), &b"/etc"[..]));
        assert_eq!(place(b"vg0-root:/etc"), (volume("vg0-root"), &b"/etc"[..]));
        assert_eq!(place(b"/vg0-root:/etc"), (None, &b"/vg0-root:/etc"[..]));
        assert_eq!(place(b"etc:x"), (None, &b"etc:x"[..]));
        assert_eq!(place(b"/a:b"), (None, &b"/a:b"[..]));
        assert_eq!(place(b":x"), (None, &b":x"[..]));
        assert_eq!(place(b"99999999999:x"), (None, &b"99999999999:x"[..]));
        assert_eq!(place(b"0:"), (number(0), &b""[..]));
    }

    #[test]
    fn a_folder_contains_what_is_in_it() {
        let mut selection = Selection::default();
        selection.add(&names("/a/b/c"));
        selection.add(&names("/a/b"));
        selection.add(&names("/a/b/d"));
        selection.add(&names("/x"));
        let Selection::Some(top) = &selection else { panic!() };
        let Selection::Some(a) = &top[&names("a")[0]] else { panic!() };
        assert_eq!(a[&names("b")[0]], Selection::All);
        assert_eq!(top.len(), 2);
        selection.add(&[]);
        assert_eq!(selection, Selection::All);
    }
}
