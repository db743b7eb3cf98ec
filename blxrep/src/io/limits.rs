//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What Linux gives a process that asks for nothing.
const USUAL: usize = 1024;

/// Raises the limit as far as this process may: programs that use `select` need it to be low, this one does not.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Only a wish: what needs many files asks how many there are.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The limit as it is.
#[must_use]
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(USUAL))
}
