//! How both ends of a connection know that the other is still there.
//!
//! Either end says something at least every [`BEAT_EVERY`], whatever its tasks are doing, and gives the connection up
//! when nothing was heard for [`SILENCE`]. TCP's own probes do not do: a middlebox, a proxy or a stopped process
//! answers them for a peer that has long gone.
//!
//! Pure: instants are handed in.

use std::time::{Duration, Instant};

/// The longest that an end says nothing. Two beats may be late before the third is missed.
pub const BEAT_EVERY: Duration = Duration::from_secs(4);
/// A peer that was not heard for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Who was busy with something else and listens again, takes in what has come meanwhile before it calls that silence.
const GRACE: Duration = Duration::from_secs(3);

/// What one end has heard of the other.
#[derive(Clone, Copy, Debug)]
pub struct Hearing {
    heard: Instant,
    /// Until when to listen, once it was late when listening began again.
    grace: Option<Instant>,
}

impl Hearing {
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { heard: now, grace: None }
    }

    /// Something came in, any byte, at `at`. Earlier news changes nothing.
    pub fn heard(&mut self, at: Instant) {
        if at > self.heard {
            (self.heard, self.grace) = (at, None);
        }
    }

    /// Until when to listen, for who begins to listen now. Asking again does not move it: who listens in short turns
    /// gives up at the same time as who listens in one.
    pub fn deadline(&mut self, now: Instant) -> Instant {
        let due = self.heard + SILENCE;
        if now + GRACE <= due {
            return due;
        }
        (*self.grace.get_or_insert(now + GRACE)).max(due)
    }

    /// Whether the peer is gone: nothing was heard, and the deadline that was given out has passed.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        let due = self.heard + SILENCE;
        now >= self.grace.map_or(due, |grace| grace.max(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_half_open_connection_is_found_within_thirty_seconds_however_often_it_is_asked() {
        let start = Instant::now();
        for turn in [1, 7, 100, 900, 3000, 40_000] {
            let (mut hearing, mut now) = (Hearing::new(start), start);
            // Each turn listens for a while, is interrupted by other work, and listens again.
            loop {
                let deadline = hearing.deadline(now);
                let next = now + Duration::from_millis(turn);
                if deadline <= next {
                    now = deadline;
                    break;
                }
                now = next;
            }
            assert!(hearing.is_over(now), "turns of {turn} ms");
            let found = now - start;
            // Who was away for longer than that listens for the grace.
            let away = Duration::from_millis(turn).saturating_sub(seconds(30));
            assert!(found >= SILENCE && found <= seconds(30) + away, "turns of {turn} ms: {found:?}");
        }
    }

    #[test]
    fn every_sign_of_life_puts_the_end_off() {
        let start = Instant::now();
        let mut hearing = Hearing::new(start);
        for beat in 1..100 {
            let now = start + BEAT_EVERY * beat;
            assert!(hearing.deadline(now) > now);
            assert!(!hearing.is_over(now));
            hearing.heard(now);
        }
        hearing.heard(start);
        assert_eq!(hearing.deadline(start + BEAT_EVERY * 99), start + BEAT_EVERY * 99 + SILENCE);
    }

    #[test]
    fn who_was_away_reads_what_has_come_first() {
        let start = Instant::now();
        let mut hearing = Hearing::new(start);
        let back = start + seconds(300);
        let deadline = hearing.deadline(back);
        assert!(deadline > back && deadline < back + seconds(30));
        assert!(!hearing.is_over(back));
        hearing.heard(back);
        assert_eq!(hearing.deadline(back), back + SILENCE);
    }

    #[test]
    fn a_few_beats_may_be_late() {
        assert!(BEAT_EVERY * 3 < SILENCE);
        assert!(SILENCE + GRACE < seconds(30));
    }
}
