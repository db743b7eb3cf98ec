//! Whether compressing pays: it does while the network, or the limit set on it, is what the reader waits for.

use std::time::Duration;

/// Bytes of the disk after which the decision is looked at again: long enough to average over bursts, short enough
/// to follow a link that changes.
const WINDOW: u64 = 16 << 20;
/// Compress when at least this part of the time went into waiting for the wire...
const ON_PERCENT: u128 = 60;
/// ...and stop when less than this does: then the processors have become the narrow place.
const OFF_PERCENT: u128 = 20;

/// Watches one sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compression {
    on: bool,
    bytes: u64,
    waiting: Duration,
    total: Duration,
}

impl Compression {
    /// Records that `bytes` of the disk took `total` from being asked for to being sent, of which `waiting` was
    /// spent on the wire, and says whether to compress from now on.
    pub fn observe(&mut self, bytes: u64, waiting: Duration, total: Duration) -> bool {
        self.bytes += bytes;
        self.waiting += waiting;
        self.total += total;
        if self.bytes >= WINDOW {
            let percent = self.waiting.as_nanos() * 100 / self.total.as_nanos().max(1);
            self.on = if self.on { percent >= OFF_PERCENT } else { percent >= ON_PERCENT };
            (self.bytes, self.waiting, self.total) = (0, Duration::ZERO, Duration::ZERO);
        }
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_wire_turns_it_on_and_slow_processors_turn_it_off() {
        let mut compression = Compression::default();
        let second = Duration::from_secs(1);
        assert!(!compression.observe(WINDOW / 2, second, second));
        assert!(compression.observe(WINDOW / 2, second, second));
        assert!(compression.observe(WINDOW, second / 2, second));
        assert!(!compression.observe(WINDOW, second / 10, second));
        assert!(!compression.observe(WINDOW, second / 2, second));
    }
}
