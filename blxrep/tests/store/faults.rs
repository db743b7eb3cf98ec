//! Every operation on the filesystem fails once, and the store is whole afterwards.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::ids::PointId;
use blxrep::store::catalog::PointFilter;
use blxrep::store::{Store, StoreError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DISK: usize = 6 * 4096 + 512;

/// How a fault goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One operation fails, those after it do not.
    Once,
    /// Nothing works any more: the process might as well be dead.
    Forever,
}

/// Counts operations and fails the `nth`.
fn failing(nth: u64, fault: Fault) -> (Storage, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let storage = Storage::gated(move |action, path| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let fails = match fault {
            Fault::Once => number == nth,
            Fault::Forever => number >= nth,
        };
        if fails { Err(io::Error::other(format!("injected: {action} {}", path.display()))) } else { Ok(()) }
    });
    (storage, count)
}

/// The states of a disk that is backed up: a base, two deltas, a second base.
fn states() -> Vec<Vec<u8>> {
    let mut states = vec![noise(1, DISK)];
    states[0][4096..8192].fill(0);
    let mut next = states[0].clone();
    next[..8192].copy_from_slice(&noise(2, 8192));
    states.push(next.clone());
    next[4096..12288].fill(0);
    states.push(next.clone());
    states.push(noise(3, DISK));
    states
}

/// Makes the points that are not there yet. Puts down each as soon as it is published.
fn work(store: &Store, states: &[Vec<u8>], published: &mut Vec<PointId>) -> Result<(), StoreError> {
    let disk = add_disk(store, DISK as u64)?.id;
    for step in published.len()..states.len() {
        let ready = match step {
            0 => make_base(store, disk, &states[0], 4096)?,
            1 => make_delta(store, disk, &states[1], &[0..1, 0..2])?,
            2 => make_delta(store, disk, &states[2], &[1..3])?,
            _ => make_base(store, disk, &states[3], 8192)?,
        };
        published.push(publish(store, ready)?.id);
    }
    Ok(())
}

/// A commit that failed may have happened: the newest point may be one that nobody was told of.
fn check(store: &Store, states: &[Vec<u8>], published: &mut Vec<PointId>, context: &str) {
    let there: Vec<PointId> =
        store.points(&PointFilter::default()).unwrap().into_iter().map(|point| point.id).collect();
    assert!(there.starts_with(published), "{context}: a published point is gone");
    assert!(there.len() <= published.len() + 1, "{context}: points appeared");
    for (point, state) in there.iter().zip(states) {
        assert_eq!(&read(store, *point).unwrap(), state, "{context}: point {point}");
    }
    let report = store.verify(None, quietly()).unwrap();
    assert!(report.is_clean(), "{context}: {report:?}");
    *published = there;
}

fn run(fault: Fault, nth: u64) -> bool {
    let folder = Folder::in_memory();
    let states = states();
    let mut published = Vec::new();
    let (storage, count) = failing(nth, fault);
    let mut context = format!("{fault:?} {nth}");
    // Opened twice, so that opening is failed as well, with work before and after it.
    for _ in 0..2 {
        let half = published.len() + 2;
        let worked = folder.open_on(storage.clone()).and_then(|store| {
            let first = work(&store, &states[..half], &mut published);
            // The process lives on and its callers try again; a catalog that failed to commit stays shut.
            if first.is_err() && fault == Fault::Once {
                work(&store, &states[..half], &mut published)
            } else {
                first
            }
        });
        if let Err(error) = worked {
            context = format!("{context}: {error}");
            break;
        }
    }
    let reached = count.load(Ordering::SeqCst) > nth;
    let (store, report) = folder.open_reported();
    assert_eq!(report.missing, Vec::<std::path::PathBuf>::new(), "{context}");
    check(&store, &states, &mut published, &context);
    work(&store, &states, &mut published).unwrap_or_else(|e| panic!("{context}: then {e}"));
    check(&store, &states, &mut published, &context);
    assert_eq!(published.len(), states.len());
    assert_eq!(folder.files(".part"), Vec::<std::path::PathBuf>::new(), "{context}");
    reached
}

fn run_all(fault: Fault) {
    let mut nth = 0;
    while run(fault, nth) {
        nth += 1;
    }
    assert!(nth > 200, "only {nth} operations were failed");
}

#[test]
fn one_failure_anywhere_loses_nothing() {
    run_all(Fault::Once);
}

#[test]
fn death_anywhere_loses_nothing() {
    run_all(Fault::Forever);
}
