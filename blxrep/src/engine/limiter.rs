//! The bandwidth limit: a token bucket over time that is passed in.

use std::time::{Duration, Instant};

/// Bytes that may pass at once after a pause: a fifth of a second's worth, so that a pause or a lower limit acts
/// within that time.
const BURST_PARTS: u64 = 5;

/// Grants bytes at a rate. `None` grants everything.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    rate: Option<u64>,
    /// The instant at which everything granted so far has been paid for.
    paid: Instant,
}

impl Limiter {
    #[must_use]
    pub fn new(rate: Option<u64>, now: Instant) -> Self {
        Self { rate: rate.filter(|r| *r > 0), paid: now }
    }

    /// Changes the rate from now on.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        *self = Self::new(rate, now);
    }

    /// Grants `bytes` and says how long to wait before they may be sent.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let burst = Duration::from_secs(1) / u32::try_from(BURST_PARTS).unwrap_or(1);
        let earliest = now.checked_sub(burst).unwrap_or(now);
        self.paid = self.paid.max(earliest) + cost(bytes, rate);
        self.paid.saturating_duration_since(now)
    }
}

fn cost(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Instant::now();
        let mut now = start;
        let mut limiter = Limiter::new(Some(1_000_000), now);
        for _ in 0..100 {
            now += limiter.take(100_000, now);
        }
        let took = (now - start).as_secs_f64();
        assert!((9.7..=10.0).contains(&took), "{took}");
    }

    #[test]
    fn no_limit_never_waits() {
        let now = Instant::now();
        assert_eq!(Limiter::new(None, now).take(u64::MAX, now), Duration::ZERO);
        assert_eq!(Limiter::new(Some(0), now).take(1, now), Duration::ZERO);
    }
}
