//! The catalog is lost, damaged or set back, and made again from the files.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::ids::{AgentId, DiskId, DiskIdentity, PointId};
use blxrep::model::point::{Coverage, Point};
use blxrep::model::retention::Step;
use blxrep::store::catalog::{DiskOffer, PointFilter};
use blxrep::store::continuity::{Continuity, Known};
use blxrep::store::rebuild::{REBUILT, RebuildReport};
use blxrep::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const GRANULES: usize = 20;
const DISK: usize = GRANULES * 4096 + 512;

/// A store and what each of its points must read as.
struct House {
    folder: Folder,
    points: Vec<(Point, Vec<u8>)>,
}

/// Small numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn disk_of(store: &Store, agent: &str, serial: &str, bytes: usize) -> DiskId {
    let agent: AgentId = agent.parse().unwrap();
    let identity = DiskIdentity::Serial(serial.to_owned());
    let device = format!("/dev/{serial}");
    let offer = DiskOffer {
        agent: &agent,
        identity: &identity,
        device: &device,
        bytes: bytes as u64,
        granule_shift: 12,
    };
    store.upsert_disk(&offer, now()).unwrap().id
}

impl House {
    /// A few disks of two agents, each with a base and up to `most` points on it, now and then a second base.
    fn random(seed: u64, most: u64) -> Self {
        let folder = Folder::in_memory();
        let store = folder.open();
        let mut house = Self { folder, points: Vec::new() };
        let mut dice = Dice(seed);
        for (agent, serial) in [("web1", "sda"), ("web1", "sdb"), ("db", "sda")] {
            let disk = disk_of(&store, agent, serial, DISK);
            let mut content = noise(dice.roll(1 << 30), DISK);
            content[4096..8192].fill(0);
            house.keep(base(&store, disk, &content), &content);
            for number in 0..dice.roll(most) + 1 {
                let first = dice.roll(GRANULES as u64) as usize;
                let last = (first + 1 + dice.roll(4) as usize).min(GRANULES);
                let fresh = noise(seed * 1000 + number, (last - first) * 4096);
                content[first * 4096..last * 4096].copy_from_slice(&fresh);
                let point = if number % 5 == 4 {
                    base(&store, disk, &content)
                } else {
                    delta(&store, disk, &content, &[first as u32..last as u32])
                };
                house.keep(point, &content);
            }
        }
        house
    }

    /// One disk: a base and `deltas` points, each of which changes another granule.
    fn chain(deltas: u32) -> Self {
        let folder = Folder::in_memory();
        let store = folder.open();
        let mut house = Self { folder, points: Vec::new() };
        let disk = add_disk(&store, DISK as u64).unwrap().id;
        let mut content = noise(1, DISK);
        house.keep(base(&store, disk, &content), &content);
        for number in 0..deltas {
            let at = number as usize * 4096;
            content[at..at + 4096].copy_from_slice(&noise(u64::from(number) + 2, 4096));
            house.keep(delta(&store, disk, &content, &[number..number + 1]), &content);
        }
        house
    }

    fn keep(&mut self, point: Point, content: &[u8]) {
        self.points.push((point, content.to_vec()));
    }

    fn catalog(&self) -> PathBuf {
        self.folder.path().join("blxrep.redb")
    }

    fn rebuild(&self) -> RebuildReport {
        Store::rebuild_catalog(&self.folder.path(), false).unwrap()
    }

    fn file(&self, point: usize, ending: &str) -> PathBuf {
        let name = format!("{}.{ending}", self.points[point].0.id);
        self.folder.files(&name).remove(0)
    }

    /// The first `count` points read as they should; no other is there.
    fn check(&self, count: usize, context: &str) -> Store {
        let (store, opened) = self.folder.open_reported();
        assert_eq!(opened.missing, Vec::<PathBuf>::new(), "{context}");
        let there = store.points(&PointFilter::default()).unwrap();
        assert_eq!(there.len(), count, "{context}");
        for (point, content) in &self.points[..count] {
            assert!(read(&store, point.id).unwrap() == *content, "{context}: point {} differs", point.id);
        }
        store
    }
}

/// What must come back whatever the catalog was; what it alone knows may differ.
fn lasting(point: &Point) -> Point {
    let mut point = point.clone();
    point.published = point.summary.at;
    (point.summary.notes, point.summary.group) = (Vec::new(), Vec::new());
    // Where the file lies decides how many blocks it takes.
    point.stored = 0;
    point
}

fn snapshot_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => collect(&entry.path(), found),
                false => drop(found.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(folder, &mut found);
    found
}

#[test]
fn a_lost_catalog_comes_back_from_the_files() {
    for seed in 0..12 {
        let house = House::random(seed, 12);
        let store = house.folder.open();
        let filter = PointFilter::default();
        let (before, disks) = (store.points(&filter).unwrap(), store.disks().unwrap());
        let id = store.id();
        drop(store);
        match seed % 3 {
            0 => std::fs::remove_file(house.catalog()).unwrap(),
            1 => std::fs::write(house.catalog(), noise(seed, 50_000)).unwrap(),
            _ => {
                let other = Folder::in_memory();
                drop(other.open());
                std::fs::copy(other.path().join("blxrep.redb"), house.catalog()).unwrap();
            }
        }
        let error = house.folder.try_open().unwrap_err().to_string();
        assert!(error.contains("blxrep catalog rebuild"), "{error}");
        let report = house.rebuild();
        assert_eq!(report.left_out, vec![], "seed {seed}");
        assert_eq!((report.points, report.agents, report.disks.len()), (before.len() as u64, 2, 3));
        assert_eq!(report.old_catalog.is_some(), seed % 3 != 0);
        let store = house.check(house.points.len(), &format!("seed {seed}"));
        assert_eq!(store.id(), id);
        let after = store.points(&filter).unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(lasting(before), lasting(after), "seed {seed}");
            assert_eq!(after.summary.notes, [REBUILT]);
        }
        let names = |disks: &[blxrep::model::point::Disk]| -> Vec<_> {
            disks
                .iter()
                .map(|d| (d.id, d.agent.clone(), d.identity.clone(), d.device.clone(), d.bytes))
                .collect()
        };
        assert_eq!(names(&store.disks().unwrap()), names(&disks));
        for disk in &disks {
            let newest = store.newest_point(disk.id).unwrap().unwrap().id;
            let known = Known { epoch: EPOCH, acked: Some(newest), open: None, matched: None };
            let goes_on = store.continuity(disk.id, &known).unwrap();
            assert_eq!(goes_on, Continuity::Continue { parent: newest });
        }
        assert!(store.verify(None, quietly()).unwrap().is_clean(), "seed {seed}");
        // And it goes on.
        let (_, content) = house.points.last().unwrap();
        let disk = house.points.last().unwrap().0.disk;
        let next = delta(&store, disk, content, &[3..4]);
        assert_eq!(read(&store, next.id).unwrap(), *content);
    }
}

#[test]
fn an_older_catalog_is_found_out_and_what_it_knew_is_kept() {
    let house = House::chain(2);
    let older = std::fs::read(house.catalog()).unwrap();
    let store = house.folder.open();
    let disk = house.points[0].0.disk;
    let mut content = house.points[2].1.clone();
    let mut newer = Vec::new();
    for number in 5..8u32 {
        content[number as usize * 4096..][..4096].copy_from_slice(&noise(u64::from(number), 4096));
        newer.push((delta(&store, disk, &content, &[number..number + 1]).id, content.clone()));
    }
    drop(store);
    let current = std::fs::read(house.catalog()).unwrap();
    std::fs::write(house.catalog(), &older).unwrap();
    let error = house.folder.try_open().unwrap_err().to_string();
    assert!(error.contains("older than the files") && error.contains("blxrep catalog rebuild"), "{error}");
    assert_eq!(house.folder.files(".bak").len(), 5, "nothing was touched");

    let report = house.rebuild();
    assert_eq!((report.points, report.details_kept), (6, 3));
    let store = house.folder.open();
    for (id, content) in house.points.iter().map(|(p, c)| (p.id, c)).chain(newer.iter().map(|(p, c)| (*p, c)))
    {
        assert!(read(&store, id).unwrap() == *content);
    }
    assert_eq!(store.point(house.points[1].0.id).unwrap().summary, house.points[1].0.summary);
    assert_eq!(store.point(newer[0].0).unwrap().summary.notes, [REBUILT]);
    drop(store);

    // One point behind may also be a publication that was cut off: its file is set aside, and comes back from there.
    std::fs::write(house.catalog(), &current).unwrap();
    let store = house.folder.open();
    let last = delta(&store, disk, &content, &[9..10]).id;
    drop(store);
    std::fs::write(house.catalog(), &current).unwrap();
    let (store, opened) = house.folder.open_reported();
    assert_eq!(opened.quarantined.len(), 2, "{opened:?}");
    drop(store);
    std::fs::remove_file(house.catalog()).unwrap();
    let report = house.rebuild();
    assert_eq!((report.points, report.moved.len()), (7, 2), "{report:?}");
    let store = house.folder.open();
    assert!(read(&store, last).unwrap() == content);
    assert_eq!(store.newest_point(disk).unwrap().unwrap().id, last);
}

#[test]
fn a_catalog_of_before_the_disk_was_known_is_not_opened() {
    let folder = Folder::in_memory();
    drop(folder.open());
    let older = std::fs::read(folder.path().join("blxrep.redb")).unwrap();
    let store = folder.open();
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let content = noise(1, DISK);
    let point = base(&store, disk, &content).id;
    drop(store);
    std::fs::write(folder.path().join("blxrep.redb"), older).unwrap();
    let error = folder.try_open().unwrap_err().to_string();
    assert!(error.contains("older than the files"), "{error}");
    Store::rebuild_catalog(&folder.path(), false).unwrap();
    assert!(read(&folder.open(), point).unwrap() == content);
}

#[test]
fn files_that_do_not_fit_are_named_and_set_aside() {
    let house = House::chain(4);
    std::fs::remove_file(house.catalog()).unwrap();
    let (lost, half, orphan) = (house.file(3, "bak"), house.file(4, "bak"), house.file(4, "cst"));
    let kept = std::fs::read(&half).unwrap();
    let bytes = std::fs::read(&lost).unwrap();
    std::fs::write(&half, &kept[..kept.len() / 2]).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let stranger = half.with_file_name("notes.txt");
    std::fs::write(&stranger, b"mine").unwrap();
    let part = half.with_file_name("00000000000000aa.bak.part");
    std::fs::write(&part, &kept[..2000]).unwrap();
    // A delta of another store.
    let other = House::chain(1);
    let foreign = half.with_file_name("00000000000000bb.bak");
    std::fs::copy(other.file(1, "bak"), &foreign).unwrap();

    let reason = |report: &RebuildReport, file: &Path| -> String {
        let left = report.left_out.iter().find(|left| left.file == file);
        let left = left.unwrap_or_else(|| panic!("{} is not reported: {report:?}", file.display()));
        assert!(report.dry_run || left.now.as_ref().is_some_and(|now| now.exists()), "{left:?}");
        left.reason.clone()
    };
    let untouched = snapshot_of(&house.folder.path());
    let report = Store::rebuild_catalog(&house.folder.path(), true).unwrap();
    assert_eq!(snapshot_of(&house.folder.path()), untouched, "a dry run changes nothing");
    assert_eq!((report.dry_run, report.points), (true, 3));
    assert_eq!(report.left_out.len(), 6, "{report:?}");

    let report = house.rebuild();
    assert_eq!(report.points, 3);
    assert!(reason(&report, &half).contains("is damaged"), "{report:?}");
    assert!(reason(&report, &orphan).contains("no delta that is a point"));
    assert!(reason(&report, &part).contains("never published"));
    assert!(reason(&report, &foreign).contains("belongs to store"));
    assert!(reason(&report, &stranger).contains("no file of a store"));
    drop(house.check(3, "what is whole"));

    // The lost file is found again and put back: the chain is whole as far as it goes.
    std::fs::write(&lost, bytes).unwrap();
    std::fs::write(&half, &kept).unwrap();
    house.rebuild();
    drop(house.check(5, "put back"));
}

#[test]
fn a_missing_parent_is_named() {
    let house = House::chain(3);
    std::fs::remove_file(house.catalog()).unwrap();
    std::fs::remove_file(house.file(2, "bak")).unwrap();
    let last = house.file(3, "bak");
    let report = house.rebuild();
    let left = report.left_out.iter().find(|left| left.file == last).unwrap();
    assert!(left.reason.contains(&format!("its parent {} is missing", house.points[2].0.id)), "{left:?}");
    drop(house.check(2, "up to the gap"));
}

#[test]
fn a_generation_without_its_checksums_is_left_out_as_a_whole() {
    let house = House::chain(2);
    std::fs::remove_file(house.catalog()).unwrap();
    let sums = house.folder.files(".sum").remove(0);
    let bytes = std::fs::read(&sums).unwrap();
    std::fs::remove_file(&sums).unwrap();
    let report = house.rebuild();
    assert_eq!(report.points, 0);
    let image =
        report.left_out.iter().find(|left| left.file.extension().is_some_and(|e| e == "img")).unwrap();
    assert!(image.reason.contains("without its checksums"), "{image:?}");
    assert!(report.left_out.iter().any(|left| left.reason.contains("has no base")), "{report:?}");
    // All of it comes back from the quarantine with the file that was missing.
    std::fs::create_dir_all(sums.parent().unwrap()).unwrap();
    std::fs::write(&sums, bytes).unwrap();
    let report = house.rebuild();
    assert_eq!((report.points, report.left_out.len()), (3, 0), "{report:?}");
    assert!(house.check(3, "put back").verify(None, quietly()).unwrap().is_clean());
}

#[test]
fn a_lost_change_set_is_made_again_as_it_was() {
    let house = House::chain(3);
    std::fs::remove_file(house.catalog()).unwrap();
    let (lost, damaged) = (house.file(1, "cst"), house.file(2, "cst"));
    let kept = [std::fs::read(&lost).unwrap(), std::fs::read(&damaged).unwrap()];
    std::fs::remove_file(&lost).unwrap();
    std::fs::write(&damaged, &kept[1][..1100]).unwrap();
    let report = house.rebuild();
    assert_eq!(report.rewritten, vec![lost.clone(), damaged.clone()]);
    assert_eq!([std::fs::read(&lost).unwrap(), std::fs::read(&damaged).unwrap()], kept);
    assert!(house.check(4, "made again").verify(None, quietly()).unwrap().is_clean());
}

#[test]
fn files_under_each_other_s_names_find_their_places() {
    let house = House::chain(3);
    let [a, b] = [house.file(1, "bak"), house.file(2, "bak")];
    let away = house.folder.path().join("away");
    std::fs::rename(&a, &away).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(&away, &b).unwrap();
    std::fs::remove_file(house.catalog()).unwrap();
    let report = house.rebuild();
    assert_eq!((report.points, report.moved.len(), report.left_out.len()), (4, 2, 0), "{report:?}");
    assert!(house.check(4, "put right").verify(None, quietly()).unwrap().is_clean());
}

#[test]
fn of_two_candidates_the_longer_chain_is_taken() {
    let house = House::chain(3);
    // Another child of the first delta, made in a copy that was set back to it.
    let copy = Folder::in_memory();
    let made = std::process::Command::new("cp").arg("-a").arg(house.folder.path()).arg(copy.path()).status();
    assert!(made.unwrap().success());
    for point in [2, 3] {
        for ending in ["bak", "cst"] {
            let there = house.file(point, ending);
            std::fs::remove_file(copy.path().join(there.strip_prefix(house.folder.path()).unwrap())).unwrap();
        }
    }
    std::fs::remove_file(copy.path().join("blxrep.redb")).unwrap();
    Store::rebuild_catalog(&copy.path(), false).unwrap();
    let store = copy.open();
    let rival = delta(&store, house.points[0].0.disk, &house.points[1].1, &[7..8]).id;
    drop(store);
    for ending in [".bak", ".cst"] {
        let made = copy.files(&format!("{rival}{ending}")).remove(0);
        std::fs::copy(&made, house.folder.path().join(made.strip_prefix(copy.path()).unwrap())).unwrap();
    }
    std::fs::remove_file(house.catalog()).unwrap();
    let report = house.rebuild();
    let left: Vec<_> = report.left_out.iter().filter(|left| left.reason.contains("two candidates")).collect();
    assert_eq!(left.len(), 1, "{report:?}");
    assert!(left[0].file.ends_with(format!("{rival}.bak")));
    drop(house.check(4, "the longer one"));
}

#[test]
fn the_mark_comes_back_too() {
    for damaged in [false, true] {
        let house = House::chain(1);
        let mark = house.folder.path().join("STORE");
        let id = house.folder.open().id();
        match damaged {
            true => std::fs::write(&mark, [7; 64]).unwrap(),
            false => std::fs::remove_file(&mark).unwrap(),
        }
        std::fs::remove_file(house.catalog()).unwrap();
        let error = house.folder.try_open().unwrap_err().to_string();
        assert!(error.contains("blxrep catalog rebuild"), "{error}");
        house.rebuild();
        assert_eq!(house.check(2, "with a new mark").id(), id);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let refused = |folder: &Path, words: &str| {
        let error = Store::rebuild_catalog(folder, false).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        error
    };
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), "holds no store");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    let house = House::chain(1);
    let store = house.folder.open();
    assert!(matches!(refused(&house.folder.path(), "in use by"), StoreError::InUse { .. }));
    drop(store);
    // The mark of another store beside these files.
    let other = Folder::in_memory();
    drop(other.open());
    std::fs::copy(other.path().join("STORE"), house.folder.path().join("STORE")).unwrap();
    refused(&house.folder.path(), "no file is of it");
}

#[test]
fn a_point_with_holes_whose_coverage_was_lost_says_so() {
    let folder = Folder::in_memory();
    let store = folder.open();
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let content = noise(1, DISK);
    let mut writer = store.begin_base(disk, spec(DISK as u64)).unwrap();
    writer.write(0, &content).unwrap();
    let mut summary = summary(1);
    summary.coverage = Coverage::Unknown("a test".to_owned());
    summary.holes.add(8..16);
    let holes = summary.holes.clone();
    let point = publish(&store, writer.seal(summary).unwrap()).unwrap().id;
    drop(store);
    std::fs::remove_file(folder.path().join("blxrep.redb")).unwrap();
    Store::rebuild_catalog(&folder.path(), false).unwrap();
    let summary = folder.open().point(point).unwrap().summary;
    assert_eq!(summary.holes, holes, "what could not be read is not called complete");
    let found = summary.coverage;
    assert!(matches!(&found, Coverage::Unknown(reason) if reason.contains("not in the files")), "{found:?}");
}

/// A house in disorder: its catalog is older, a file misplaced, a change set lost, strangers about.
fn disorder() -> House {
    let mut house = House::chain(2);
    let older = std::fs::read(house.catalog()).unwrap();
    let store = house.folder.open();
    let disk = house.points[0].0.disk;
    let content = house.points[2].1.clone();
    for run in [3..4, 4..5] {
        house.keep(delta(&store, disk, &content, &[run]), &content);
    }
    drop(store);
    std::fs::write(house.catalog(), older).unwrap();
    let [a, b] = [house.file(3, "bak"), house.file(4, "bak")];
    let away = house.folder.path().join("away");
    std::fs::rename(&a, &away).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(&away, &b).unwrap();
    std::fs::remove_file(house.file(1, "cst")).unwrap();
    std::fs::write(a.with_file_name("notes.txt"), b"mine").unwrap();
    house
}

#[test]
fn a_rebuild_that_fails_or_dies_anywhere_can_be_run_again() {
    for forever in [false, true] {
        let mut nth = 0;
        loop {
            let house = disorder();
            let count = Arc::new(AtomicU64::new(0));
            let counter = Arc::clone(&count);
            let storage = Storage::gated(move |action, path| {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let fails = if forever { number >= nth } else { number == nth };
                if fails {
                    Err(io::Error::other(format!("injected: {action} {}", path.display())))
                } else {
                    Ok(())
                }
            });
            let context = format!("operation {nth}, forever {forever}");
            let first = Store::rebuild_catalog_with(&storage, &house.folder.path(), false);
            if count.load(Ordering::SeqCst) <= nth {
                first.unwrap();
                drop(house.check(5, &context));
                break;
            }
            house.rebuild();
            let store = house.check(5, &context);
            assert!(store.verify(None, quietly()).unwrap().is_clean(), "{context}");
            let mine = house.folder.files("notes.txt").len();
            assert_eq!(mine, 1, "{context}: the stranger is gone");
            let newest = store.newest_point(house.points[0].0.disk).unwrap().unwrap().id;
            assert_eq!(newest, house.points[4].0.id, "{context}");
            nth += 1;
        }
        assert!(nth > 60, "only {nth} operations were failed");
        println!("{nth} operations failed, forever {forever}");
    }
}

#[test]
fn a_quarantined_point_that_was_replaced_stays_there() {
    let house = House::chain(2);
    let catalog = std::fs::read(house.catalog()).unwrap();
    let store = house.folder.open();
    let (disk, content) = (house.points[0].0.disk, house.points[2].1.clone());
    let lost: PointId = delta(&store, disk, &content, &[5..6]).id;
    drop(store);
    // Set back by one point: it is set aside, and another takes its place.
    std::fs::write(house.catalog(), catalog).unwrap();
    let store = house.folder.open();
    let taken = delta(&store, disk, &content, &[6..7]).id;
    drop(store);
    std::fs::remove_file(house.catalog()).unwrap();
    house.rebuild();
    let store = house.folder.open();
    assert_eq!(store.newest_point(disk).unwrap().unwrap().id, taken);
    assert!(matches!(store.point(lost), Err(StoreError::NotFound(_))));
}

/// Fails everything from the nth operation on: the process might as well be dead.
fn dies_at(nth: u64) -> (Storage, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let storage = Storage::gated(move |_, _| match counter.fetch_add(1, Ordering::SeqCst) >= nth {
        true => Err(io::Error::other("injected")),
        false => Ok(()),
    });
    (storage, count)
}

/// A step of a consolidation dies at each of its operations, and the catalog is lost then, again before anything was
/// gone on with, and once more after a dispatcher was started: what had to stay reads right, and what comes back although
/// it had gone reads right, too.
fn consolidation_dies(step: impl Fn(&House) -> Step, stays: impl Fn(usize) -> bool) -> u64 {
    let mut nth = 0;
    loop {
        let house = House::chain(4);
        let disk = house.points[0].0.disk;
        let (storage, count) = dies_at(nth);
        let worked = house.folder.open_on(storage).and_then(|store| {
            let opened = count.load(Ordering::SeqCst);
            store.carry_out(disk, &step(&house), quietly()).map(|_| opened)
        });
        let context = format!("dead at operation {nth}");
        for opens in [false, true, false] {
            std::fs::remove_file(house.catalog()).unwrap();
            house.rebuild();
            if opens {
                drop(house.folder.open());
            }
        }
        let (store, opened) = house.folder.open_reported();
        assert_eq!(opened.missing, Vec::<PathBuf>::new(), "{context}");
        let there: Vec<PointId> =
            store.points(&PointFilter::default()).unwrap().iter().map(|point| point.id).collect();
        for (number, (point, content)) in house.points.iter().enumerate() {
            assert!(there.contains(&point.id) || !stays(number), "{context}: point {number} is gone");
            if there.contains(&point.id) {
                assert!(read(&store, point.id).unwrap() == *content, "{context}: point {number} differs");
            }
        }
        store.resume_work(disk, quietly()).unwrap();
        assert!(store.verify(None, quietly()).unwrap().is_clean(), "{context}");
        let newest = house.points.last().unwrap();
        assert_eq!(store.newest_point(disk).unwrap().unwrap().id, newest.0.id, "{context}");
        let next = delta(&store, disk, &newest.1, &[9..10]);
        assert!(read(&store, next.id).unwrap() == newest.1, "{context}");
        if worked.is_ok() && count.load(Ordering::SeqCst) <= nth {
            return nth;
        }
        nth += 1;
    }
}

#[test]
fn a_fold_that_died_is_gone_on_with_although_its_catalog_is_lost() {
    let fold = |house: &House| Step::Fold {
        generation: house.points[0].0.generation,
        base: house.points[0].0.id,
        into: house.points[1].0.id,
    };
    let operations = consolidation_dies(fold, |number| number > 0);
    assert!(operations > 60, "{operations}");
}

#[test]
fn a_merge_that_died_costs_no_point_that_was_to_stay() {
    let merge = |house: &House| Step::Merge {
        generation: house.points[0].0.generation,
        points: vec![house.points[1].0.id, house.points[2].0.id],
        into: house.points[3].0.id,
    };
    let operations = consolidation_dies(merge, |number| !(1..3).contains(&number));
    assert!(operations > 60, "{operations}");
}

#[test]
fn a_catalog_of_before_a_consolidation_is_not_opened() {
    let house = House::chain(4);
    let older = std::fs::read(house.catalog()).unwrap();
    let store = house.folder.open();
    let disk = house.points[0].0.disk;
    let points = vec![house.points[1].0.id];
    let (generation, into) = (house.points[0].0.generation, house.points[2].0.id);
    store.carry_out(disk, &Step::Merge { generation, points, into }, quietly()).unwrap();
    store.collect().unwrap();
    let (base, into) = (house.points[0].0.id, house.points[2].0.id);
    store.carry_out(disk, &Step::Fold { generation, base, into }, quietly()).unwrap();
    store.collect().unwrap();
    drop(store);
    std::fs::write(house.catalog(), older).unwrap();
    let error = house.folder.try_open().unwrap_err().to_string();
    assert!(error.contains("older than the files"), "{error}");
    let report = house.rebuild();
    assert_eq!((report.points, report.details_kept), (3, 3), "{report:?}");
    let store = house.folder.open();
    for (point, content) in &house.points[2..] {
        assert!(read(&store, point.id).unwrap() == *content);
        assert_eq!(store.point(point.id).unwrap().summary, point.summary, "the old catalog knew more");
    }
    assert!(store.verify(None, quietly()).unwrap().is_clean());
    // A point that is looked into keeps its files where they are.
    let view = store.open_point(house.points[3].0.id).unwrap();
    drop(store);
    let error = Store::rebuild_catalog(&house.folder.path(), false).unwrap_err().to_string();
    assert!(error.contains("are being looked into"), "{error}");
    drop(view);
    house.rebuild();
}
