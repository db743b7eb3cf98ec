//! Makes merged indexes behind publications, so that views of long chains open at once. Nothing waits for it.

use crate::model::point::Point;
use crate::store::Store;
use crate::store::catalog::PointFilter;
use crate::view::groups::largest_level;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Points whose indexes are not made yet. More are not noted: what is missing is made with the next larger index, at
/// the next start, or by a view for itself.
const QUEUE: usize = 256;

/// Handle for the publisher. The thread ends when it is dropped.
#[derive(Clone, Debug)]
pub struct Indexer {
    points: SyncSender<Point>,
}

impl Indexer {
    /// The handle, and the thread to wait for.
    pub fn start(store: Store) -> io::Result<(Self, JoinHandle<()>)> {
        let (points, queue) = sync_channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("indexer".to_owned()).spawn(move || run(&store, &queue))?;
        Ok((Self { points }, thread))
    }

    /// A point was published.
    pub fn published(&self, point: &Point) {
        if largest_level(point.sequence) > 0 {
            // See `QUEUE`.
            let _ = self.points.try_send(point.clone());
        }
    }
}

fn run(store: &Store, queue: &Receiver<Point>) {
    if let Err(error) = index_newest(store) {
        tracing::warn!("indexes were not made: {error}; views take longer to open");
    }
    while let Ok(point) = queue.recv() {
        if let Err(error) = store.index_published(&point) {
            tracing::warn!(point = %point.id, "an index was not made: {error}; views take longer to open");
        }
    }
}

/// Makes good what was not done before: by an earlier version, or because it was stopped.
fn index_newest(store: &Store) -> Result<(), crate::store::StoreError> {
    for disk in store.disks()? {
        let filter = PointFilter { disk: Some(disk.id), newest: Some(1), ..PointFilter::default() };
        for point in store.points(&filter)? {
            store.index_all(point.id)?;
        }
    }
    Ok(())
}
