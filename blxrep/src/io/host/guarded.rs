//! A way to a folder that nobody but root and this user can lead elsewhere.

use rustix::io::Errno;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Symbolic links on a way, as in the kernel.
const MAX_LINKS: usize = 40;

/// Why a folder cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum Unguarded {
    #[error("{} does not exist: make it", .0.display())]
    Missing(PathBuf),
    #[error("{}: {source}", path.display())]
    Unknown { path: PathBuf, source: io::Error },
    #[error(
        "user {user} owns {0} and could put another folder in the place of what is in it: `chown root {0}`, or choose one that \
         lies elsewhere",
        folder.display()
    )]
    Owner { folder: PathBuf, user: u32 },
    #[error(
        "others may write to {0} and could put another folder in the place of what is in it: `chmod go-w {0}`, or choose one \
         that lies elsewhere",
        folder.display()
    )]
    Writable { folder: PathBuf },
}

/// The folder that a path leads to, without links. Each folder on the way is judged, also those that links lead through;
/// the last one is not: what is in it is not the way to it.
pub fn guarded(path: &Path) -> Result<PathBuf, Unguarded> {
    let unknown = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Unguarded::Missing(path),
            _ => Unguarded::Unknown { path, source },
        }
    };
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let mut rest: Vec<PathBuf> = names(path);
    while let Some(name) = rest.pop() {
        if name == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(name);
        let entry = next.symlink_metadata().map_err(unknown(&next))?;
        judge(&at, &at.symlink_metadata().map_err(unknown(&at))?, &entry)?;
        if !entry.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            let source = io::Error::other("more symbolic links than may follow each other");
            return Err(Unguarded::Unknown { path: path.to_owned(), source });
        }
        let target = next.read_link().map_err(unknown(&next))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    Ok(at)
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<PathBuf> {
    let names = path.components().rev();
    names
        .filter(|name| matches!(name, Component::Normal(_) | Component::ParentDir))
        .map(|name| PathBuf::from(name.as_os_str()))
        .collect()
}

/// Whether others could replace an entry of a folder.
fn judge(path: &Path, folder: &Metadata, entry: &Metadata) -> Result<(), Unguarded> {
    let own = rustix::process::geteuid().as_raw();
    let is_ours = |user| user == 0 || user == own;
    if !is_ours(folder.uid()) {
        return Err(Unguarded::Owner { folder: path.to_owned(), user: folder.uid() });
    }
    // Where it is sticky, only the owners of the folder and of the entry can.
    let is_kept = folder.mode() & 0o1000 != 0 && is_ours(entry.uid());
    if is_kept {
        return Ok(());
    }
    let by_group = folder.mode() & 0o020 != 0 && (folder.gid() != 0 || has_acl(path)?);
    if by_group || folder.mode() & 0o002 != 0 {
        return Err(Unguarded::Writable { folder: path.to_owned() });
    }
    Ok(())
}

/// Whether a folder has an access control list. Then the bits of its group are the mask of all that the list names, and
/// `chmod g-w` takes the right to write from each of them.
fn has_acl(folder: &Path) -> Result<bool, Unguarded> {
    match rustix::fs::lgetxattr(folder, c"system.posix_acl_access", &mut [0_u8; 0]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(Unguarded::Unknown { path: folder.to_owned(), source: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, create_dir_all, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn open_to_all(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_way_that_others_can_change_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        create_dir_all(root.join("shared/inner")).unwrap();
        create_dir(root.join("own")).unwrap();
        symlink("../own", root.join("shared/link")).unwrap();
        symlink(root.join("shared/link"), root.join("through")).unwrap();
        let of = |path: &str| guarded(&root.join(path));
        assert_eq!(of("shared/inner").unwrap(), root.join("shared/inner"));
        assert_eq!(of("through").unwrap(), root.join("own"));
        open_to_all(&root.join("shared"), 0o777);
        for path in ["shared/inner", "shared/link", "through"] {
            let why = of(path).unwrap_err().to_string();
            assert!(why.contains("chmod go-w") && why.contains("/shared"), "{path}: {why}");
        }
        assert!(of("shared").is_ok(), "what is restored into may be anybody's");
        open_to_all(&root.join("shared"), 0o1777);
        assert!(of("shared/inner").is_ok(), "sticky");
    }

    #[test]
    fn a_way_that_an_access_control_list_lets_others_change_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap().join("listed");
        create_dir_all(folder.join("inner")).unwrap();
        open_to_all(&folder, 0o755);
        // The owner may do all, user 12345 too, the group and others may read; the mask lets through all.
        let entries: [(u16, u16, u32); 5] = [(1, 7, !0), (2, 7, 12345), (4, 5, !0), (16, 7, !0), (32, 5, !0)];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        let name = c"system.posix_acl_access";
        if let Err(error) = rustix::fs::setxattr(&folder, name, &list, rustix::fs::XattrFlags::empty()) {
            eprintln!("skipped: {} takes no access control lists: {error}", folder.display());
            return;
        }
        let group = folder.symlink_metadata().unwrap();
        assert_eq!(group.mode() & 0o777, 0o775, "the bits of its group are the mask");
        let why = guarded(&folder.join("inner")).unwrap_err().to_string();
        assert!(why.contains("chmod go-w") && why.contains("/listed"), "{why}");
        open_to_all(&folder, 0o755);
        assert!(guarded(&folder.join("inner")).is_ok(), "the mask lets nobody write");
    }

    #[test]
    fn a_way_that_another_user_owns_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("theirs");
        create_dir_all(folder.join("inner")).unwrap();
        // Only root can give a folder away.
        if std::os::unix::fs::chown(&folder, Some(12345), None).is_ok() {
            let why = guarded(&folder.join("inner")).unwrap_err().to_string();
            assert!(why.contains("user 12345 owns"), "{why}");
            assert!(guarded(&folder).is_ok());
        }
    }

    #[test]
    fn a_way_that_leads_nowhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(guarded(&dir.path().join("a")).unwrap_err().to_string().contains("symbolic links"));
        let why = guarded(&dir.path().join("none/x")).unwrap_err().to_string();
        assert!(why.ends_with("none does not exist: make it"), "{why}");
        assert_eq!(guarded(Path::new("/")).unwrap(), Path::new("/"));
    }
}
