//! What a test puts between the store and the filesystem: it fails operations, or keeps a record of all changes from
//! which it makes what a power cut would have left.

use std::io;
use std::ops::Range;
use std::path::Path;

/// A change that was made. Files are named by their inode, for they keep it when they are renamed.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A file was opened for writing; it was `made` by that, or perhaps emptied.
    Opened {
        path: &'a Path,
        file: u64,
        made: bool,
        emptied: bool,
    },
    Written {
        file: u64,
        offset: u64,
        bytes: &'a [u8],
    },
    Zeroed {
        file: u64,
        start: u64,
        end: u64,
    },
    Resized {
        file: u64,
        bytes: u64,
    },
    Synced {
        file: u64,
    },
    DirectoryMade {
        path: &'a Path,
    },
    DirectoryRemoved {
        path: &'a Path,
    },
    DirectorySynced {
        path: &'a Path,
    },
    Renamed {
        from: &'a Path,
        to: &'a Path,
    },
    Removed {
        path: &'a Path,
    },
}

/// Looks on, and may say no.
pub trait Witness: Send + Sync {
    /// Asked before each operation, which fails with the error.
    fn permit(&self, action: &'static str, path: &Path) -> io::Result<()>;

    /// Told of each change when it was made.
    fn saw(&self, change: Change<'_>) {
        let _ = change;
    }
}

/// A witness that only says no.
pub(super) struct Gate<F>(pub F);

impl<F> Witness for Gate<F>
where
    F: Fn(&'static str, &Path) -> io::Result<()> + Send + Sync,
{
    fn permit(&self, action: &'static str, path: &Path) -> io::Result<()> {
        (self.0)(action, path)
    }
}

impl Change<'_> {
    pub(super) const fn zeroed(file: u64, range: &Range<u64>) -> Self {
        Change::Zeroed { file, start: range.start, end: range.end }
    }
}
