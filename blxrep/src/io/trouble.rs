//! What keeps writes below a directory from working: remembered when one fails, until one is seen to work.

use super::storage::StorageError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Operations that only look. One that fails says nothing of whether there is room.
const LOOKS: [&str; 8] =
    ["open", "look at", "list", "read", "measure", "look for holes in", "look for locks of", "lock"];

/// Why the last write that failed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The filesystem is full; else it or its device is broken.
    pub no_room: bool,
    /// What could not be done, and why.
    pub what: String,
}

/// Keeps the last trouble of writes below a directory.
#[derive(Debug)]
pub(super) struct Watch {
    root: PathBuf,
    last: Mutex<Option<Trouble>>,
}

impl Watch {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: Mutex::new(None) }
    }

    /// Takes note of an error, if it is one that others will meet as well.
    pub fn note(&self, error: &StorageError) {
        if !LOOKS.contains(&error.action) && error.path.starts_with(&self.root) && is_trouble(&error.source) {
            *self.lock() = Some(Trouble { no_room: is_no_room(&error.source), what: error.to_string() });
        }
    }

    pub fn last(&self) -> Option<Trouble> {
        self.lock().clone()
    }

    pub fn settle(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        // The value is whole after every call.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that there is no room, for anybody or for this user.
pub(super) fn is_no_room(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_one_of(error, &[Errno::NOSPC, Errno::DQUOT])
}

/// Whether an error says that the filesystem is full or does not work, and not that this one thing cannot be done.
fn is_trouble(error: &io::Error) -> bool {
    use rustix::io::Errno;
    is_no_room(error) || is_one_of(error, &[Errno::IO, Errno::ROFS, Errno::NODEV, Errno::NXIO, Errno::STALE])
}

fn is_one_of(error: &io::Error, codes: &[rustix::io::Errno]) -> bool {
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use crate::io::storage::{Access, Storage};
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    #[test]
    fn trouble_is_what_keeps_writes_below_a_folder_from_working() {
        let dir = tempfile::tempdir().unwrap();
        let code = Arc::new(std::sync::atomic::AtomicI32::new(0));
        let errno = Arc::clone(&code);
        let storage = Storage::gated(move |_, _| match errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        })
        .watching(&dir.path().join("data"));
        let (inside, outside) = (dir.path().join("data/f"), dir.path().join("f"));
        storage.create_dir(&dir.path().join("data")).unwrap();
        let [inside, outside] = [inside, outside].map(|path| storage.open(&path, Access::Create).unwrap());
        let fail = |with: rustix::io::Errno, f: &dyn Fn()| {
            code.store(with.raw_os_error(), Ordering::SeqCst);
            f();
            code.store(0, Ordering::SeqCst);
            let found = storage.trouble();
            storage.settle();
            found
        };
        use rustix::io::Errno;
        assert_eq!(fail(Errno::NOSPC, &|| assert!(outside.write_at(&[1], 0).is_err())), None, "elsewhere");
        assert_eq!(fail(Errno::IO, &|| assert!(inside.read_at(&mut [0], 0).is_err())), None, "a read");
        assert_eq!(fail(Errno::EXIST, &|| assert!(inside.sync().is_err())), None, "no trouble");
        let full = fail(Errno::NOSPC, &|| assert!(inside.write_at(&[1], 0).is_err())).unwrap();
        assert!(
            full.no_room && full.what.contains("cannot write ") && full.what.contains("data/f"),
            "{full:?}"
        );
        let broken = fail(Errno::IO, &|| assert!(inside.sync().is_err())).unwrap();
        assert!(!broken.no_room, "{broken:?}");
        assert_eq!(storage.trouble(), None);
    }
}
