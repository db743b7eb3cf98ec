//! Shared locks on single bytes of a file, as marks that vanish with whoever set them: they belong to the open file
//! description (`F_OFD_SETLK`), so the kernel drops them when it is closed or its process dies, and they count
//! between two openings within one process, too.

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Bytes that can be locked.
const END: i64 = i64::MAX;

/// Locks the byte at `at`. Others may lock it likewise.
pub fn share(file: &File, at: u64) -> io::Result<()> {
    let start = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let lock = lock_of(libc::F_RDLCK, start, start.saturating_add(1));
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// The bytes that other openings of the file hold with [`share`], in order, each once.
pub fn shared(file: &File) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut open = vec![(0, END)];
    // The kernel names any one lock that is in the way: what is left and right of it is asked for again.
    while let Some((start, end)) = open.pop() {
        if start >= end {
            continue;
        }
        let mut lock = lock_of(libc::F_WRLCK, start, end);
        fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut lock))?;
        if i32::from(lock.l_type) != libc::F_UNLCK {
            let at = lock.l_start.clamp(start, end - 1);
            found.extend(u64::try_from(at));
            open.extend([(start, at), (at + 1, end)]);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn lock_of(kind: i32, start: i64, end: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: end - start,
        // Has to be 0 for locks of an open file description.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn bytes_are_held_until_their_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let places = [0, 7, 8, 1 << 40, (1 << 63) - 2];
        let holders: Vec<File> = places.iter().map(|_| open()).collect();
        for (holder, place) in holders.iter().zip(places) {
            share(holder, place).unwrap();
        }
        let second = open();
        share(&second, 7).unwrap();
        let looker = File::open(&path).unwrap();
        let wait_for = |bytes: &[u64]| {
            // As below.
            while shared(&looker).unwrap() != bytes {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        assert_eq!(shared(&looker).unwrap(), places);
        drop(holders);
        wait_for(&[7]);
        drop(second);
        wait_for(&[]);
        assert!(share(&looker, u64::MAX).is_err());
    }

    #[test]
    fn a_lock_does_not_go_over_to_a_program_that_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        share(&file, 3).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        drop(file);
        // Another test may be between fork and exec just now, with copies of all that is open.
        let looker = File::open(&path).unwrap();
        while !shared(&looker).unwrap().is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "the lock is gone when the program has ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
