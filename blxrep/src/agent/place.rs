//! Whether files may be restored to a folder of this host, and what that would do: judged by where the folder really is
//! and by this agent's own configuration.

use super::preflight::Judge;
use crate::io::host::resolve_folder;
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
        let resolved = resolve_folder(asked)
            .map_err(|e| format!("cannot restore to it: {e}; only the last folder of a path is made"))?;
        let allowed = self.authority.allowed.paths.iter().filter_map(|path| path.canonicalize().ok());
        let allowed: Vec<PathBuf> = allowed.collect();
        let (outer, way) = self.authority.folder(asked, &resolved, &allowed).map_err(|e| e.to_string())?;
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
