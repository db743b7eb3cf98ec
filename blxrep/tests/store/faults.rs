//! Every operation on the filesystem fails once, and the store is whole afterwards.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::ids::PointId;
use blxrep::model::retention::Step;
use blxrep::store::catalog::PointFilter;
use blxrep::store::consolidate::Outcome;
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

/// Makes a generation of a base and four deltas, and a second base; returns the points in their order.
fn prepare(folder: &Folder) -> Vec<(PointId, Vec<u8>)> {
    let store = folder.open();
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let mut content = noise(1, DISK);
    let mut points = vec![(base(&store, disk, &content).id, content.clone())];
    for (tag, granules) in [(2, 0..2), (3, 1..4), (4, 3..7), (5, 2..3)] {
        let bytes = granules.start as usize * 4096..(granules.end as usize * 4096).min(DISK);
        let fresh = if tag == 3 { vec![0; bytes.len()] } else { noise(tag, bytes.len()) };
        content[bytes].copy_from_slice(&fresh);
        points.push((delta(&store, disk, &content, &[granules]).id, content.clone()));
    }
    let last = noise(9, DISK);
    points.push((base(&store, disk, &last).id, last));
    points
}

/// Lets the first generation go, step after step, from wherever an earlier call came to.
fn tidy(store: &Store, points: &[(PointId, Vec<u8>)]) -> Result<(), StoreError> {
    let disk = store.disks()?[0].id;
    store.resume_work(disk, quietly())?;
    let id = |place: usize| points[place].0;
    let there = |place: usize| store.point(id(place)).ok();
    let Some(generation) = there(3).map(|point| point.generation) else {
        return store.collect().map(drop);
    };
    let steps = [
        (1, Step::Merge { generation, points: vec![id(1), id(2)], into: id(3) }),
        (0, Step::Fold { generation, base: id(0), into: id(3) }),
        (4, Step::Trim { generation, points: vec![id(4)] }),
        (3, Step::Expire { generation }),
    ];
    for (goes, step) in steps {
        if there(goes).is_some() {
            assert_eq!(carry_out(store, disk, &step)?, Outcome::Done, "{step:?}");
            store.collect()?;
        }
    }
    store.collect().map(drop)
}

fn check_tidied(store: &Store, points: &[(PointId, Vec<u8>)], context: &str) {
    let there = store.points(&PointFilter::default()).unwrap();
    assert_eq!(there.last().map(|point| point.id), points.last().map(|(id, _)| *id), "{context}");
    for point in there {
        let (_, content) = points.iter().find(|(id, _)| *id == point.id).unwrap();
        assert!(read(store, point.id).unwrap() == *content, "{context}: point {}", point.id);
    }
    let report = store.verify(None, quietly()).unwrap();
    assert!(report.is_clean(), "{context}: {report:?}");
}

fn run_tidy(fault: Fault, nth: u64) -> bool {
    let folder = Folder::in_memory();
    let points = prepare(&folder);
    let (storage, count) = failing(nth, fault);
    let mut context = format!("{fault:?} {nth}");
    let worked = folder.open_on(storage.clone()).and_then(|store| {
        let first = tidy(&store, &points);
        // A catalog that could not read its file once stays shut until it is opened again.
        let is_open = !store.is_lost() && store.points(&PointFilter::default()).is_ok();
        if first.is_err() && fault == Fault::Once && is_open {
            // The process lives on: what is there is right, and the next try gets through.
            check_tidied(&store, &points, &format!("{context}: meanwhile"));
            tidy(&store, &points).unwrap_or_else(|e| panic!("{context}: again: {e}"));
        }
        first
    });
    if let Err(error) = worked {
        context = format!("{context}: {error}");
    }
    let reached = count.load(Ordering::SeqCst) > nth;
    let (store, report) = folder.open_reported();
    assert_eq!(report.missing, Vec::<std::path::PathBuf>::new(), "{context}");
    assert_eq!(report.quarantined, Vec::<std::path::PathBuf>::new(), "{context}");
    check_tidied(&store, &points, &context);
    tidy(&store, &points).unwrap_or_else(|e| panic!("{context}: then {e}"));
    check_tidied(&store, &points, &context);
    assert_eq!(store.points(&PointFilter::default()).unwrap().len(), 1, "{context}");
    for (ending, left) in [(".img", 1), (".sum", 1), (".bak", 0), (".cst", 0), (".part", 0)] {
        assert_eq!(folder.files(ending).len(), left, "{context}: {ending}");
    }
    reached
}

fn tidy_all(fault: Fault) {
    let mut nth = 0;
    while run_tidy(fault, nth) {
        nth += 1;
    }
    println!("consolidation and expiry: {nth} operations failed, {fault:?}; 0 bad states");
    assert!(nth > 200, "only {nth} operations were failed");
}

#[test]
fn one_failure_anywhere_in_a_consolidation_loses_nothing() {
    tidy_all(Fault::Once);
}

#[test]
fn death_anywhere_in_a_consolidation_loses_nothing() {
    tidy_all(Fault::Forever);
}
