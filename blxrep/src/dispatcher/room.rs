//! Watches whether the data directory takes writes. While it does not, no point is begun; everything goes on by itself
//! when it does again.

use super::drafts::Drafts;
use crate::store::Store;
use std::time::{Duration, Instant};

/// How often the store is asked whether a write has failed, and while one has, how much is free.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Waits between attempts to write, doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Trouble that comes back within this time is the same, if no point was published between: there was room for an
/// attempt, not for a point.
const SAME_TROUBLE: Duration = Duration::from_secs(120);
/// So much more room than an attempt had that failed is worth another at once.
const MORE_BYTES: u64 = 8 << 20;

/// Runs until it is dropped.
pub async fn watch(store: Store, drafts: Drafts) {
    let mut patience = Patience::default();
    loop {
        let Some(trouble) = store.trouble() else {
            drafts.drop_old();
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        tracing::error!(%trouble, "points are not written for now");
        drafts.clear();
        patience.begin(Instant::now(), store.publications());
        loop {
            let until = Instant::now() + patience.next();
            while Instant::now() < until && !patience.is_worthwhile(store.spare_bytes()) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let tried = store.clone();
            // A thread that ended unexpectedly has found nothing out.
            if tokio::task::spawn_blocking(move || tried.try_room()).await.unwrap_or(false) {
                break;
            }
            patience.tried = store.spare_bytes();
        }
        tracing::info!("the data directory can be written again");
        patience.end(Instant::now(), store.publications(), store.spare_bytes());
    }
}

/// How long to wait before the next attempt.
#[derive(Debug, Default)]
struct Patience {
    wait: Duration,
    /// Bytes that were free when an attempt was made last.
    tried: u64,
    /// When the last trouble ended, and how many points had been published by then.
    over: Option<(Instant, u64)>,
}

impl Patience {
    /// There is trouble: is it new?
    fn begin(&mut self, now: Instant, published: u64) {
        let is_same = |(at, before): (Instant, u64)| now - at <= SAME_TROUBLE && published == before;
        if !self.over.is_some_and(is_same) {
            (self.wait, self.tried) = (FIRST_WAIT, 0);
        }
    }

    fn next(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// Whether there is enough more room to try at once.
    fn is_worthwhile(&self, free: u64) -> bool {
        free >= self.tried.saturating_add(MORE_BYTES)
    }

    fn end(&mut self, now: Instant, published: u64, free: u64) {
        (self.over, self.tried) = (Some((now, published)), free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn trouble_that_comes_back_is_waited_for_longer_unless_something_was_achieved_or_freed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::default();
        patience.begin(at(0), 7);
        assert_eq!([patience.next(), patience.next()], [FIRST_WAIT, 2 * FIRST_WAIT]);
        assert!(
            !patience.is_worthwhile(0) && patience.is_worthwhile(MORE_BYTES),
            "no attempt has failed yet"
        );
        // An attempt worked, and the point did not fit all the same.
        patience.end(at(5), 7, 100 * MIB);
        patience.begin(at(6), 7);
        assert_eq!(patience.next(), 4 * FIRST_WAIT);
        assert!(!patience.is_worthwhile(100 * MIB), "as much as before is not enough");
        assert!(patience.is_worthwhile(108 * MIB));
        for _ in 0..9 {
            patience.next();
        }
        assert_eq!(patience.next(), LONGEST_WAIT);
        // A point was published: the next trouble is another.
        patience.end(at(90), 7, 50 * MIB);
        patience.begin(at(91), 8);
        assert!(patience.next() == FIRST_WAIT && patience.is_worthwhile(20 * MIB));
        // So is one after a while.
        for _ in 0..9 {
            patience.next();
        }
        patience.end(at(100), 8, 50 * MIB);
        patience.begin(at(221), 8);
        assert_eq!(patience.next(), FIRST_WAIT);
    }
}
