//! Whether files may be restored to a folder of this host, and what that would do: judged by where the folder really is
//! and by this agent's own configuration.

use super::preflight::Judge;
use crate::io::host::{guarded, resolve_folder};
use crate::model::restoration::{Conflict, FilesTarget, Preflight};
use std::path::{Path, PathBuf};

/// A folder that may be written to: below one that the configuration allows, or that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the configuration allows; no link leads to it.
    pub outer: PathBuf,
    /// The way from there.
    pub way: PathBuf,
}

impl Judge {
    /// Looks at the target. The error says why it is refused and what to do. Blocks.
    pub fn place(&self, target: &FilesTarget) -> Result<(Place, Preflight), String> {
        let asked = Path::new(&target.folder);
        if !asked.is_absolute() || target.folder.contains('\0') {
            return Err(format!("`{}` is no absolute path of a folder", target.folder));
        }
        let (allowed, unfit) = self.allowed();
        let unfit =
            |place: &Path| unfit.iter().find(|(path, _)| place.starts_with(path)).map(|(_, why)| why.clone());
        let resolved = resolve_folder(asked).map_err(|e| {
            let missing = || format!("cannot restore to it: {e}; only the last folder of a path is made");
            unfit(asked).unwrap_or_else(missing)
        })?;
        let found = self.authority.folder(asked, &resolved, &allowed);
        let (outer, way) =
            found.map_err(|e| unfit(asked).or_else(|| unfit(&resolved)).unwrap_or_else(|| e.to_string()))?;
        let there = match resolved.metadata() {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(format!("{} is no folder: choose another target", target.folder));
            }
            Ok(_) => format!("{} exists", resolved.display()),
            Err(_) => format!("{} is made", resolved.display()),
        };
        let conflict = match target.conflict {
            Conflict::Skip => "what exists in it stays as it is",
            Conflict::Overwrite => "what exists in it is replaced where it has the name of a restored file",
            Conflict::Rename => "what is restored gets another name where its own exists",
        };
        let findings = vec![there, conflict.to_owned()];
        let preflight = Preflight { findings, overwrites: None, protects: None, device: None };
        Ok((Place { outer, way: way.to_owned() }, preflight))
    }

    /// The folders of the configuration, as they lead to; and those that cannot be used, each with the reason.
    fn allowed(&self) -> (Vec<PathBuf>, Vec<(&Path, String)>) {
        let (mut allowed, mut unfit) = (Vec::new(), Vec::new());
        for path in &self.authority.allowed.paths {
            match guarded(path) {
                Ok(folder) => allowed.push(folder),
                Err(why) => {
                    let why = format!(
                        "agent {} lets restores write to {}, and does not now: {why}",
                        self.authority.agent,
                        path.display()
                    );
                    unfit.push((path.as_path(), why));
                }
            }
        }
        (allowed, unfit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::restore::{Authority, RestoreConfig};
    use crate::io::host::HostOptions;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    fn judge(paths: &[PathBuf]) -> Judge {
        let allowed = RestoreConfig { paths: paths.to_vec(), ..RestoreConfig::default() };
        let authority =
            Authority { allowed, agent: "web1".to_owned(), file: "/etc/blxrep/config.yaml".into() };
        Judge {
            authority: Arc::new(authority),
            host: HostOptions::default(),
            protected: Vec::new(),
            kept: Vec::new(),
        }
    }

    fn target(folder: &Path) -> FilesTarget {
        FilesTarget { folder: folder.to_str().unwrap().to_owned(), conflict: Conflict::Skip, dry_run: false }
    }

    #[test]
    fn an_allowed_folder_that_cannot_be_used_is_told_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let judge = judge(&[root.join("missing"), root.join("open/inner")]);
        let refused = |path: &str| judge.place(&target(&root.join(path))).unwrap_err();
        for path in ["missing", "missing/a", "missing/a/b"] {
            let why = refused(path);
            assert!(why.contains("/missing does not exist: make it") && !why.contains("restore: {"), "{why}");
        }
        std::fs::create_dir_all(root.join("open/inner")).unwrap();
        std::fs::set_permissions(root.join("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused("open/inner/x").contains("chmod go-w"), "{}", refused("open/inner/x"));
        assert!(refused("open/other").contains("is not among what restores may write to"));
    }

    #[test]
    fn a_folder_is_allowed_by_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("in/a")).unwrap();
        std::fs::create_dir(root.join("inner")).unwrap();
        std::fs::write(root.join("in/file"), "").unwrap();
        symlink(root.join("inner"), root.join("in/out")).unwrap();
        symlink(root.join("in"), root.join("link")).unwrap();
        // The operator may name a link; what counts is where it leads.
        let judge = judge(&[root.join("link")]);
        let place = |path: &str| judge.place(&target(&root.join(path))).map(|(place, _)| place.way);
        assert_eq!(place("in"), Ok("".into()));
        assert_eq!(place("link/a/new"), Ok("a/new".into()));
        for refused in ["inner", "in/out", "in/out/x", "in/../inner", "new", "/", "/etc"] {
            let why = place(refused).unwrap_err();
            assert!(
                why.contains("is not among what restores may write to on agent web1"),
                "{refused}: {why}"
            );
        }
        assert!(place("in/file").unwrap_err().contains("no folder"));
        assert!(place("in/new/newer").unwrap_err().contains("only the last folder"));
        assert!(judge.place(&target(Path::new("in"))).unwrap_err().contains("absolute"));
        let (_, preflight) = judge.place(&target(&root.join("in/new"))).unwrap();
        assert!(preflight.findings[0].ends_with("in/new is made"), "{preflight:?}");
        assert!(!root.join("in/new").exists(), "looking makes nothing");
    }
}
