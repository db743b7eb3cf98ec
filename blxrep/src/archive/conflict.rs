//! What is done where something is in the way. Pure.

use super::entry::Kind;

pub use crate::model::restoration::Conflict as Policy;

/// What exists under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Folder,
    /// Anything else.
    Other,
}

/// What is done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Create,
    /// The folder is there already: what is in it is restored into it.
    Enter,
    Replace,
    Skip,
    /// It gets another name.
    OtherName,
    Refuse(&'static str),
}

/// Decides.
#[must_use]
pub const fn decide(policy: Policy, incoming: &Kind, existing: Option<Existing>) -> Decision {
    let folder = matches!(incoming, Kind::Folder { .. });
    match (existing, policy) {
        (None, _) => Decision::Create,
        (Some(Existing::Folder), _) if folder => Decision::Enter,
        (Some(_), Policy::Skip) => Decision::Skip,
        (Some(_), Policy::Rename) => Decision::OtherName,
        (Some(Existing::Folder), Policy::Overwrite) => {
            Decision::Refuse("a folder is in the way, and folders are never removed")
        }
        (Some(Existing::Other), Policy::Overwrite) => Decision::Replace,
    }
}

/// The other names that an entry may get, in order: `NAME.restored`, `NAME.restored-2`, and so on. The name is cut
/// where it would become too long.
pub fn other_names(name: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (1u32..1000).map(|n| {
        let ending = if n == 1 { ".restored".to_owned() } else { format!(".restored-{n}") };
        let kept = name.len().min(super::entry::MAX_NAME_BYTES - ending.len());
        [&name[..kept], ending.as_bytes()].concat()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_conflict_has_one_answer() {
        let (file, folder) = (Kind::File { bytes: 0 }, Kind::Folder { selected: true });
        let all = [Policy::Skip, Policy::Overwrite, Policy::Rename];
        for policy in all {
            assert_eq!(decide(policy, &file, None), Decision::Create);
            assert_eq!(decide(policy, &folder, Some(Existing::Folder)), Decision::Enter);
        }
        let of = |incoming: &Kind, existing| all.map(|policy| decide(policy, incoming, Some(existing)));
        let [skip, replace, other] = of(&file, Existing::Other);
        assert_eq!([skip, replace, other], [Decision::Skip, Decision::Replace, Decision::OtherName]);
        assert_eq!(of(&folder, Existing::Other), [Decision::Skip, Decision::Replace, Decision::OtherName]);
        assert!(matches!(of(&file, Existing::Folder)[1], Decision::Refuse(_)));
    }

    #[test]
    fn other_names_fit() {
        let names: Vec<_> = other_names(b"a").take(2).collect();
        assert_eq!(names, [b"a.restored".to_vec(), b"a.restored-2".to_vec()]);
        assert!(other_names(&[b'n'; 255]).all(|name| name.len() <= 255));
    }
}
