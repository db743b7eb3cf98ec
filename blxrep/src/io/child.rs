//! Ends of child processes, waited for no longer than one can wait: a process that hangs in the kernel does not die of
//! being killed.

use std::process::Child;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether a process has ended within this time.
pub fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Ok(None) => return false,
            // An error: nobody to wait for any more.
            _ => return true,
        }
    }
}

/// Kills a process. A thread of its own waits for its end, and ends with this process at the latest.
pub fn kill(mut child: Child) {
    // It may have ended already; then this does nothing.
    let _ = child.kill();
    let waiter = std::thread::Builder::new().name("reaper".to_owned());
    if let Err(error) = waiter.spawn(move || child.wait()) {
        tracing::warn!(%error, "no thread waits for a child that was killed: it stays in the list of processes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn one_that_does_not_end_is_not_waited_for() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let path = std::path::PathBuf::from(format!("/proc/{}", child.id()));
        assert!(!ends_within(&mut child, Duration::from_millis(50)));
        kill(child);
        while path.exists() {
            std::thread::sleep(LOOK_EVERY);
        }
        let mut child = Command::new("true").spawn().unwrap();
        assert!(ends_within(&mut child, Duration::from_secs(60)));
    }
}
