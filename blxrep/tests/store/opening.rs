//! Opening a data directory: who may, what is refused, and what a crash left.

use crate::fixture::*;
use blxrep::store::{Store, StoreError};
use std::path::PathBuf;

#[test]
fn a_second_dispatcher_is_refused_and_told_who_is_there() {
    let folder = Folder::new();
    let store = folder.open();
    let error = folder.try_open().unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    let id = store.id();
    drop(store);
    assert_eq!(folder.open().id(), id);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    drop(folder.open());
    // Root may write anywhere but below a file.
    let below_a_file = folder.path().join("STORE").join("data");
    let error = Store::open(&below_a_file, seed()).unwrap_err().to_string();
    assert!(error.contains("cannot create directory") && error.contains("STORE/data"), "{error}");
    let nowhere = folder.path().join("no/such/parent");
    let error = Store::open(&nowhere, seed()).unwrap_err().to_string();
    assert!(error.contains("no/such/parent"), "{error}");
}

#[test]
fn a_missing_damaged_or_foreign_catalog_is_not_opened() {
    let folder = Folder::new();
    let other = Folder::new();
    drop(other.open());
    let store = folder.open();
    let disk = add_disk(&store, 4096).unwrap().id;
    let point = base(&store, disk, &noise(1, 4096)).id;
    drop(store);
    let catalog = folder.path().join("blxrep.redb");
    let kept = std::fs::read(&catalog).unwrap();
    let refused = |what: &str| {
        let error = folder.try_open().unwrap_err();
        assert!(matches!(error, StoreError::Catalog { .. }), "{what}: {error}");
        let text = error.to_string();
        assert!(text.contains(&catalog.display().to_string()), "{what}: {text}");
        assert!(text.contains("put back a copy of blxrep.redb"), "{what}: {text}");
    };
    std::fs::remove_file(&catalog).unwrap();
    refused("missing");
    std::fs::write(&catalog, b"").unwrap();
    refused("empty");
    std::fs::write(&catalog, noise(1, 100_000)).unwrap();
    refused("garbage");
    std::fs::write(&catalog, &kept[..kept.len() / 2]).unwrap();
    refused("half");
    std::fs::copy(other.path().join("blxrep.redb"), &catalog).unwrap();
    refused("foreign");
    // Not even a missing mark makes a new store of a directory that has images.
    std::fs::remove_file(&catalog).unwrap();
    std::fs::remove_file(folder.path().join("STORE")).unwrap();
    refused("gone with its mark");
    std::fs::write(&catalog, &kept).unwrap();
    let store = folder.open();
    assert_eq!(read(&store, point).unwrap(), noise(1, 4096), "nothing was lost by trying");
}

#[test]
fn a_damaged_mark_is_refused() {
    let folder = Folder::new();
    drop(folder.open());
    let mark = folder.path().join("STORE");
    let mut bytes = std::fs::read(&mark).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&mark, &bytes).unwrap();
    let error = folder.try_open().unwrap_err().to_string();
    assert!(error.contains("STORE") && error.contains("checksum"), "{error}");
}

#[test]
fn leftovers_are_removed_and_strangers_set_aside() {
    let folder = Folder::new();
    let (store, report) = folder.open_reported();
    assert!(report.created);
    let content = noise(1, 8192);
    let disk = add_disk(&store, 8192).unwrap().id;
    let point = base(&store, disk, &content);
    let second = delta(&store, disk, &content, &[0..1]);
    drop(store);
    let image = folder.files(".img").remove(0);
    let delta = folder.files(".bak").remove(0);
    let stray = delta.with_file_name("00000000000000aa.bak");
    let part = delta.with_file_name("00000000000000bb.bak.part");
    let strange_folder = folder.path().join("incremental/deadbeef");
    std::fs::write(&stray, b"somebody's").unwrap();
    std::fs::write(&part, b"half").unwrap();
    std::fs::create_dir(&strange_folder).unwrap();
    std::fs::write(image.with_file_name("notes.txt"), b"mine").unwrap();

    let (store, report) = folder.open_reported();
    assert!(!report.created);
    assert_eq!(report.removed, vec![part.clone()]);
    assert_eq!(report.quarantined.len(), 3, "{report:?}");
    assert!(!stray.exists() && !part.exists() && !strange_folder.exists());
    assert!(report.quarantined.iter().any(|path| std::fs::read(path).is_ok_and(|b| b == b"somebody's")));
    assert_eq!(report.missing, Vec::<PathBuf>::new());
    drop(store);

    // The same name again finds another place.
    std::fs::write(&stray, b"another").unwrap();
    let (store, report) = folder.open_reported();
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(
        folder.files("").iter().filter(|path| path.starts_with(folder.path().join("quarantine"))).count(),
        3
    );
    assert_eq!(read(&store, second.id).unwrap(), content);
    drop(store);

    std::fs::remove_file(&delta).unwrap();
    let (store, report) = folder.open_reported();
    assert_eq!(report.missing, vec![delta.clone()]);
    let error = store.open_point(second.id).unwrap_err().to_string();
    assert!(error.contains(&delta.display().to_string()), "{error}");
    assert_eq!(read(&store, point.id).unwrap(), content, "an older point is not touched by it");
    let findings = store.verify(None, quietly()).unwrap().findings;
    assert!(findings.iter().any(|f| f.file == delta && f.points == vec![second.id]), "{findings:?}");
}

#[test]
fn names_that_look_alike_never_meet() {
    use blxrep::model::ids::DiskIdentity;
    use blxrep::store::catalog::DiskOffer;
    let folder = Folder::new();
    let store = folder.open();
    let mut points = Vec::new();
    for (number, name) in ["web1", "web10", "a_b", "a-b"].into_iter().enumerate() {
        for (other, serial) in ["x/y", "x-y", "x_y", "x"].into_iter().enumerate() {
            let agent = name.parse().unwrap();
            let identity = DiskIdentity::Serial(serial.to_owned());
            let offer = DiskOffer {
                agent: &agent,
                identity: &identity,
                device: "/dev/x",
                bytes: 8192,
                granule_shift: 12,
            };
            let disk = store.upsert_disk(&offer, now()).unwrap();
            assert_eq!(store.upsert_disk(&offer, now()).unwrap(), disk, "the same offer is the same disk");
            let content = noise((number * 4 + other) as u64, 8192);
            points.push((base(&store, disk.id, &content).id, content));
        }
    }
    for (point, content) in points {
        assert_eq!(read(&store, point).unwrap(), content);
    }
}

#[test]
fn actions_and_agents_are_kept() {
    use blxrep::model::action::{Action, ActionKind, ActionState};
    use blxrep::model::host::Footprint;
    use blxrep::model::ids::{ActionId, DiskId};
    let folder = Folder::new();
    let store = folder.open();
    let agent = "web1".parse().unwrap();
    let footprint = Footprint { hostname: "web1.example.com".to_owned(), ..Footprint::default() };
    let first = now();
    store.upsert_agent(&agent, Footprint::default(), first).unwrap();
    store.upsert_agent(&agent, footprint.clone(), now()).unwrap();
    let mut action = Action {
        id: ActionId(0xabc0_0000_0000_0001),
        kind: ActionKind::Snapshot,
        agent: Some(agent.clone()),
        disk: Some(DiskId(1)),
        state: ActionState::Queued,
        reason: String::new(),
        created: first,
        updated: first,
        done: 0,
        total: 0,
    };
    store.put_action(&action).unwrap();
    action.state = ActionState::Running;
    store.put_action(&action).unwrap();
    let other = Action { id: ActionId(0xabc0_0000_0000_0002), ..action.clone() };
    store.put_action(&other).unwrap();
    drop(store);
    let store = folder.open();
    let row = store.agent(&agent).unwrap().unwrap();
    assert_eq!((row.footprint, row.first_seen), (footprint, first));
    assert!(row.last_seen > first);
    assert_eq!(store.actions().unwrap(), vec![action.clone(), other]);
    assert_eq!(store.find_action("abc0000000000001").unwrap(), action);
    let ambiguous = store.find_action("abc").unwrap_err().to_string();
    assert!(ambiguous.contains("several ids"), "{ambiguous}");
}

/// What a start costs with a thousand points is printed, not asserted.
#[test]
fn a_store_with_a_thousand_points_is_opened() {
    use blxrep::model::ids::DiskIdentity;
    use blxrep::store::catalog::{DiskOffer, PointFilter};
    let folder = Folder::in_memory();
    let store = folder.open();
    let agent = "web1".parse().unwrap();
    let content = noise(1, 8192);
    let disks: Vec<_> = (0..10)
        .map(|number| {
            let identity = DiskIdentity::Named(format!("disk{number}"));
            let offer = DiskOffer {
                agent: &agent,
                identity: &identity,
                device: "/dev/sda",
                bytes: 8192,
                granule_shift: 12,
            };
            store.upsert_disk(&offer, now()).unwrap().id
        })
        .collect();
    let bases = disks.iter().map(|disk| make_base(&store, *disk, &content, 4096).unwrap()).collect();
    store.publish(bases, now()).unwrap();
    for _ in 0..99 {
        let deltas = disks.iter().map(|disk| make_delta(&store, *disk, &content, &[0..1]).unwrap()).collect();
        store.publish(deltas, now()).unwrap();
    }
    drop(store);
    let since = std::time::Instant::now();
    let (store, report) = folder.open_reported();
    println!("a store with 1,000 points was open after {} ms", since.elapsed().as_millis());
    assert_eq!((report.missing, report.quarantined), (vec![], vec![]));
    assert_eq!(store.count_points(&PointFilter::default()).unwrap(), 1000);
    let newest = store.newest_point(disks[9]).unwrap().unwrap();
    assert_eq!((newest.sequence, read(&store, newest.id).unwrap()), (99, content));
    drop(store);
    // The same when all of it has to come from the files.
    std::fs::remove_file(folder.path().join("blxrep.redb")).unwrap();
    let since = std::time::Instant::now();
    let report = Store::rebuild_catalog(&folder.path(), false).unwrap();
    println!("its catalog was made anew in {} ms", since.elapsed().as_millis());
    assert_eq!((report.points, report.left_out), (1000, vec![]));
}
