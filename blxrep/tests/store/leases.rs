//! Leases of views: held by readers, seen across processes, gone with whoever held them.

use crate::fixture::*;
use blxrep::model::ids::GenerationId;
use blxrep::store::Store;
use blxrep::store::lease::ViewLease;
use blxrep::view::ViewPlace;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Where a process that only holds a lease finds its store and place.
const HOLD: &str = "BLXREP_TEST_HOLD";

#[test]
fn a_reader_holds_a_lease_while_it_is_open() {
    let folder = Folder::new();
    let store = folder.open();
    let mut content = noise(1, 8 * 4096);
    let disk = add_disk(&store, content.len() as u64).unwrap().id;
    let base = base(&store, disk, &content);
    content[..4096].fill(7);
    let point = delta(&store, disk, &content, &[0..1]);
    assert_eq!(store.views(base.generation).unwrap(), []);
    let place = |sequence| ViewPlace { generation: base.generation, revision: 0, sequence };
    let first = store.open_point(base.id).unwrap();
    let second = store.open_point(point.id).unwrap();
    let third = store.open_point(point.id).unwrap();
    assert_eq!(store.views(base.generation).unwrap(), [place(0), place(1)]);
    drop((first, second));
    wait_for_views(&store, base.generation, &[place(1)]);
    drop(third);
    wait_for_views(&store, base.generation, &[]);
    drop(store);
    let (_, report) = folder.open_reported();
    assert!(report.removed.is_empty() && report.quarantined.is_empty(), "{report:?}");
}

#[test]
fn a_lease_of_another_process_is_seen_and_gone_when_it_is_killed() {
    if let Ok(path) = std::env::var(HOLD) {
        return hold(std::path::Path::new(&path));
    }
    let folder = Folder::new();
    let store = folder.open();
    let content = noise(1, 8 * 4096);
    let disk = add_disk(&store, content.len() as u64).unwrap().id;
    let base = base(&store, disk, &content);
    let place = store.chain(base.id).unwrap().place;
    std::fs::write(folder.path().join("place"), base.generation.0.to_string()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "leases::a_lease_of_another_process_is_seen_and_gone_when_it_is_killed",
            "--nocapture",
        ])
        .env(HOLD, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held")), "the process did not take its lease");
    assert_eq!(store.views(base.generation).unwrap(), [place]);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_views(&store, base.generation, &[]);
}

/// Other tests may have copies of what is open for a moment, see [`carry_out`].
fn wait_for_views(store: &Store, generation: GenerationId, wanted: &[ViewPlace]) {
    for _ in 0..100 {
        if store.views(generation).unwrap() == wanted {
            return;
        }
        wait_a_little();
    }
    panic!("{:?} are held, not {wanted:?}", store.views(generation));
}

/// The other process: takes the lease of a base and waits for its end.
fn hold(data_dir: &std::path::Path) {
    let generation = std::fs::read_to_string(data_dir.join("place")).unwrap().parse().unwrap();
    let generation = blxrep::model::ids::GenerationId(generation);
    let _lease = ViewLease::take_in(data_dir, ViewPlace { generation, revision: 0, sequence: 0 }).unwrap();
    println!("held");
    let _ = std::io::stdin().read_line(&mut String::new());
}
