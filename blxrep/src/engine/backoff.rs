//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// First wait, and the unit of growth.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait: an agent is back within this time after the dispatcher is.
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential, with jitter over the upper half, so that a hundred agents do not come back in step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After a connection that worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// After one that did not. `random` is any random number.
    pub fn next(&mut self, random: u64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(0).max(1);
        half + Duration::from_millis(random % spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(0) < FIRST);
        for random in 0..40 {
            assert!(backoff.next(random * 7919) <= LONGEST);
        }
        assert!(backoff.next(0) >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= FIRST);
    }
}
