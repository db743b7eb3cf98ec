//! Watches whether the data directory takes writes. While it does not, no point is begun; everything goes on by itself
//! when it does again.

use crate::store::Store;
use std::time::{Duration, Instant};

/// How often the store is asked whether a write has failed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Waits between attempts to write, doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Trouble that comes back within this time is the same: there was room for an attempt, not for a point.
const SAME_TROUBLE: Duration = Duration::from_secs(120);

/// Runs until it is dropped.
pub async fn watch(store: Store) {
    let mut wait = FIRST_WAIT;
    let mut over: Option<Instant> = None;
    loop {
        let Some(trouble) = store.trouble() else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        tracing::error!(%trouble, "points are not written for now");
        if over.is_none_or(|over| over.elapsed() > SAME_TROUBLE) {
            wait = FIRST_WAIT;
        }
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            let store = store.clone();
            // A thread that ended unexpectedly has found nothing out.
            if tokio::task::spawn_blocking(move || store.try_room()).await.unwrap_or(false) {
                break;
            }
        }
        tracing::info!("the data directory can be written again");
        over = Some(Instant::now());
    }
}
