//! The bandwidth limit of the agent: one bucket that all its disks draw from.

use crate::engine::limiter::Limiter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest sleep before the limit is looked at again, so that a new limit acts within it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Handle on the shared limiter; clones share it.
#[derive(Clone, Debug)]
pub struct Pace {
    limiter: Arc<Mutex<Limiter>>,
}

impl Pace {
    /// A limit in bytes per second; `None` is no limit.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self { limiter: Arc::new(Mutex::new(Limiter::new(rate, Instant::now()))) }
    }

    /// Changes the limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.lock().set_rate(rate, Instant::now());
    }

    /// Returns when `bytes` may be sent. What a dropped call had drawn stays drawn: the limit is never exceeded.
    pub async fn wait(&self, bytes: u64) {
        let mut left = self.lock().take(bytes, Instant::now());
        while left > Duration::ZERO {
            let nap = left.min(LOOK_AGAIN);
            tokio::time::sleep(nap).await;
            left -= nap;
            if self.lock().take(0, Instant::now()) == Duration::ZERO {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
