//! What files this process may have open, and how many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What Linux gives a process that asks for nothing.
const USUAL: usize = 1024;

/// Raises the limit as far as this process may: programs that use `select` need it to be low, this one does not.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Only a wish: what needs many files asks how many there are.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Closes everything but standard input, output and error: what a child got from its parent by accident would be held
/// for as long as it lives, locks among it. For the very start of a child, when nothing of its own is open.
pub fn close_inherited() {
    // SAFETY: it touches descriptors only, and nothing of this process owns one above 2 yet. A kernel before 5.9 does
    // not know the call; then they stay open.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
}

/// The limit as it is.
#[must_use]
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(USUAL))
}
