//! The folder that a restore writes to.

use super::ArchiveError;
use super::staging::{CONFINED, FOLDER};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::path::Path;

/// Without `NOFOLLOW`: for a path that may end in a link.
const FOLLOWED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub struct Root {
    pub(super) fd: OwnedFd,
    /// It was not there before.
    pub(super) made: bool,
}

impl Root {
    /// Opens a folder, or makes it. It may be reached by links.
    pub fn open(dir: &Path) -> Result<Self, ArchiveError> {
        let shown = dir.display();
        let made = match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(ArchiveError::errno("make", shown)(error)),
        };
        let fd =
            rustix::fs::open(dir, FOLLOWED, Mode::empty()).map_err(ArchiveError::errno("open", shown))?;
        Ok(Self { fd, made })
    }

    /// Opens a folder, if it is there. It may be reached by links.
    pub fn find(dir: &Path) -> Result<Option<Self>, ArchiveError> {
        match rustix::fs::open(dir, FOLLOWED, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, made: false })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ArchiveError::errno("open", dir.display())(error)),
        }
    }

    /// Opens a folder below another one, or that one itself, or makes it if only it is missing. No link leads to
    /// either, whoever may have put one there since they were looked at.
    pub fn open_within(outer: &Path, way: &Path) -> Result<Self, ArchiveError> {
        if let Some(found) = Self::find_within(outer, way)? {
            return Ok(found);
        }
        let shown = outer.join(way);
        let (Some(above), Some(name)) = (way.parent(), way.file_name()) else {
            return Err(ArchiveError::errno("open", shown.display())(Errno::NOENT));
        };
        let parent =
            below(outer, above).map_err(ArchiveError::errno("open the folder above", shown.display()))?;
        let made = match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(ArchiveError::errno("make", shown.display())(error)),
        };
        let fd = rustix::fs::openat2(&parent, name, FOLDER, Mode::empty(), CONFINED)
            .map_err(ArchiveError::errno("open", shown.display()))?;
        Ok(Self { fd, made })
    }

    /// The same without making it.
    pub fn find_within(outer: &Path, way: &Path) -> Result<Option<Self>, ArchiveError> {
        match below(outer, way) {
            Ok(fd) => Ok(Some(Self { fd, made: false })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ArchiveError::errno("open", outer.join(way).display())(error)),
        }
    }
}

fn below(outer: &Path, way: &Path) -> Result<OwnedFd, Errno> {
    let outer = rustix::fs::openat2(CWD, outer, FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let way = if way.as_os_str().is_empty() { Path::new(".") } else { way };
    rustix::fs::openat2(&outer, way, FOLDER, Mode::empty(), CONFINED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_the_last_folder_is_made_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(outer.join("in/a")).unwrap();
        std::fs::create_dir(outer.join("out")).unwrap();
        let within = |way: &str| Root::open_within(&outer.join("in"), Path::new(way));
        assert!(!within("").unwrap().made && !within("a").unwrap().made);
        assert!(within("a/new").unwrap().made && !within("a/new").unwrap().made);
        assert!(within("b/new").is_err() && !outer.join("in/b").exists(), "one level only");
        symlink(outer.join("out"), outer.join("in/link")).unwrap();
        symlink("a", outer.join("in/inside")).unwrap();
        symlink(outer.join("out/gone"), outer.join("in/dangling")).unwrap();
        for bad in
            ["link", "link/x", "dangling", "../out", "../out/x", "/", "/tmp", "inside", "inside/x", ".."]
        {
            assert!(within(bad).is_err(), "{bad}");
            assert!(!matches!(Root::find_within(&outer.join("in"), Path::new(bad)), Ok(Some(_))), "{bad}");
        }
        assert_eq!(std::fs::read_dir(outer.join("out")).unwrap().count(), 0);
        symlink("in", outer.join("also")).unwrap();
        assert!(
            Root::open_within(&outer.join("also"), Path::new("a")).is_err(),
            "the outer one is no link either"
        );
        assert!(!Root::open(&outer.join("also")).unwrap().made, "but a person may name one");
        assert!(Root::find(&outer.join("none")).unwrap().is_none());
    }
}
