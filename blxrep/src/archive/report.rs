//! What became of a restore.

use super::shown;
use serde::Serialize;

/// Problems that are told one by one.
pub const MAX_PROBLEMS: usize = 1000;

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub folders: u64,
    pub files: u64,
    /// Further names of files.
    pub links: u64,
    pub symlinks: u64,
    /// Fifos, sockets and devices.
    pub special: u64,
    /// Bytes of data written.
    pub bytes: u64,
    /// Left as they were, because something of that name existed.
    pub skipped: u64,
    /// Found to be there already, just as they should be.
    pub same: u64,
    pub failed: u64,
    /// The first of those that failed or were skipped.
    pub problems: Vec<Problem>,
}

/// What became of one entry that was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub path: String,
    pub why: String,
    /// It should have been restored.
    pub failed: bool,
}

impl Report {
    /// Whether all that should be restored was.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.failed == 0
    }

    pub(super) fn problem(&mut self, path: &[u8], why: &str, failed: bool) {
        *(if failed { &mut self.failed } else { &mut self.skipped }) += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { path: shown(path), why: why.to_owned(), failed });
        }
    }
}
