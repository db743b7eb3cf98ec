//! Verifications of a part, of a sample, and what is remembered of them.

use crate::fixture::*;
use blxrep::model::ids::{DiskId, DiskIdentity, PointId};
use blxrep::model::verification::Scope;
use blxrep::store::Store;
use blxrep::store::catalog::DiskOffer;
use blxrep::store::sample::Sample;
use blxrep::store::verify::VerifyReport;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Twelve chunks of an image, and a sector.
const DISK: usize = (12 << 20) + 512;

fn disk(store: &Store, agent: &str) -> DiskId {
    let agent = agent.parse().unwrap();
    let identity = DiskIdentity::Serial("one".to_owned());
    let bytes = DISK as u64;
    let offer =
        DiskOffer { agent: &agent, identity: &identity, device: "/dev/sda", bytes, granule_shift: 12 };
    store.upsert_disk(&offer, now()).unwrap().id
}

struct House {
    folder: Folder,
    store: Store,
    /// Of the first agent a base and two deltas, then a base of the second.
    points: [PointId; 4],
}

fn house() -> House {
    let folder = Folder::in_memory();
    let store = folder.open();
    let mut content = noise(1, DISK);
    let web = disk(&store, "web1");
    let first = base(&store, web, &content).id;
    content[..4096].copy_from_slice(&noise(2, 4096));
    let second = delta(&store, web, &content, &[0..1]).id;
    let runs: Vec<_> = (0..40u32).map(|n| n * 2..n * 2 + 1).collect();
    let third = delta(&store, web, &content, &runs).id;
    let other = base(&store, disk(&store, "db"), &content).id;
    House { folder, store, points: [first, second, third, other] }
}

impl House {
    fn verify(&self, scope: Scope, sample: Option<Sample>) -> VerifyReport {
        let report = self.store.verify_part(&scope, sample, quietly()).unwrap();
        self.store.keep_damages(&report, now()).unwrap();
        report
    }

    fn damaged(&self) -> Vec<PointId> {
        let mut points: Vec<PointId> = self.store.damages().unwrap().into_keys().collect();
        points.sort_by_key(|point| self.points.iter().position(|known| known == point));
        points
    }
}

fn flip(file: &Path, byte: u64) {
    let handle = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut bytes = [0];
    handle.read_exact_at(&mut bytes, byte).unwrap();
    handle.write_all_at(&[bytes[0] ^ 4], byte).unwrap();
}

fn sample(seed: u64) -> Option<Sample> {
    Some(Sample { share: "10%".parse().unwrap(), seed })
}

#[test]
fn one_agent_is_verified_without_the_others() {
    let house = house();
    let web = house.verify(Scope::Agent("web1".parse().unwrap()), None);
    let db = house.verify(Scope::Agent("db".parse().unwrap()), None);
    assert_eq!((web.checked_points, db.checked_points), (3, 1));
    assert_eq!((db.bytes, db.of_bytes), (DISK as u64, DISK as u64));
    let image = house.folder.files(".img").into_iter().find(|path| {
        flip(path, 5 << 20);
        let found = !house.verify(Scope::Agent("db".parse().unwrap()), None).is_clean();
        flip(path, 5 << 20);
        found
    });
    assert!(image.is_some(), "the image of the agent is not read");
    assert_eq!(house.verify(Scope::Agent("nobody".parse().unwrap()), None).checked_points, 0);
}

#[test]
fn damage_is_remembered_until_it_is_found_healed() {
    let house = house();
    let store = &house.store;
    assert_eq!(house.damaged(), vec![]);
    let generation = store.point(house.points[0]).unwrap().generation;
    let image = house.folder.files(&format!("{generation}.img")).remove(0);
    // Granule 0 is in both deltas, granule 300 in none.
    flip(&image, 100);
    flip(&image, 300 * 4096 + 9);
    house.verify(Scope::Store, None);
    assert_eq!(house.damaged(), house.points[..3]);
    let rows: BTreeMap<_, _> = store.damages().unwrap();
    assert_eq!(rows[&house.points[0]].what.len(), 2, "{rows:?}");
    assert_eq!(rows[&house.points[2]].what.len(), 1, "{rows:?}");
    assert!(rows[&house.points[2]].what[0].contains("sectors 2400..2408"), "{rows:?}");

    flip(&image, 300 * 4096 + 9);
    for seed in 0..3 {
        house.verify(Scope::Store, sample(seed));
    }
    assert_eq!(house.damaged(), house.points[..3], "a sample does not find anything healed");
    house.verify(Scope::Agent("db".parse().unwrap()), None);
    assert_eq!(house.damaged(), house.points[..3], "nor does what reads something else");
    house.verify(Scope::Point(house.points[1]), None);
    assert_eq!(house.damaged(), [house.points[0], house.points[2]], "the second delta was not read");
    let path = house.folder.path();
    let House { store, folder, points } = house;
    drop(store);
    let house = House { store: Store::open(&path, seed()).unwrap().0, folder, points };
    assert_eq!(house.damaged(), [house.points[0], house.points[2]], "over a restart");
    flip(&image, 100);
    assert!(house.verify(Scope::Store, None).is_clean());
    assert_eq!(house.damaged(), vec![]);
}

#[test]
fn a_sample_reads_a_part_and_finds_everything_in_time() {
    let house = house();
    let image = house.folder.files(".img").remove(0);
    let all = house.verify(Scope::Store, None);
    let one = house.verify(Scope::Store, sample(1));
    assert!(one.is_clean() && one.bytes > 0 && one.bytes < all.bytes / 2, "{one:?}");
    assert_eq!(one.of_bytes, all.of_bytes);
    assert_eq!(house.verify(Scope::Store, sample(1)).bytes, one.bytes);
    flip(&image, (7 << 20) + 3);
    let found = |seed| !house.store.verify_part(&Scope::Store, sample(seed), quietly()).unwrap().is_clean();
    let hits = (0..200).filter(|seed| found(*seed)).count();
    assert!(
        (10..100).contains(&hits),
        "{hits} of 200 samples of 10% of 13 chunks, at least one of each image"
    );
    flip(&image, (7 << 20) + 3);
    // What says what is right is read each time.
    for ending in [".sum", ".cst"] {
        for file in house.folder.files(ending) {
            flip(&file, 1030);
            assert!((0..5).all(found), "{}", file.display());
            flip(&file, 1030);
        }
    }
}

#[test]
fn lost_checksums_are_said_to_be_what_they_are() {
    let house = house();
    let generation = house.store.point(house.points[0]).unwrap().generation;
    std::fs::remove_file(house.folder.files(&format!("{generation}.sum")).remove(0)).unwrap();
    let report = house.verify(Scope::Store, None);
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert_eq!(finding.points, house.points[..3]);
    for words in ["No such file", "although its image may be whole", "put the file back from a copy"] {
        assert!(finding.what.contains(words), "{finding:?}");
    }
}
