//! Bytes that changed on the disk are found by `verify` and never given out.

use crate::fixture::*;
use blxrep::model::ids::PointId;
use blxrep::store::{Store, StoreError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const DISK: usize = 12 * 4096 + 512;
/// Bits that are flipped in each file, spread over it.
const FLIPS: u64 = 120;

struct Backed {
    folder: Folder,
    store: Store,
    points: Vec<(PointId, Vec<u8>)>,
}

/// A base with a hole, and three deltas of which the last hides a part of the first.
fn backed() -> Backed {
    let folder = Folder::in_memory();
    let store = folder.open();
    let mut content = noise(1, DISK);
    content[8 * 4096..10 * 4096].fill(0);
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let mut points = vec![(
        publish(&store, make_base(&store, disk, &content, 4096).unwrap()).unwrap().id,
        content.clone(),
    )];
    for (number, runs) in [[0..2, 5..6], [8..9, 12..13], [0..1, 3..4]].into_iter().enumerate() {
        for run in &runs {
            let bytes = run.start as usize * 4096..(run.end as usize * 4096).min(DISK);
            // The first run of each packs well.
            let fresh = if run.start == runs[0].start {
                vec![number as u8 + 1; bytes.len()]
            } else {
                noise(number as u64 + 2, bytes.len())
            };
            content[bytes].copy_from_slice(&fresh);
        }
        points.push((delta(&store, disk, &content, &runs).id, content.clone()));
    }
    Backed { folder, store, points }
}

impl Backed {
    /// Every point reads right or not at all; returns those that do not read.
    fn broken(&self, context: &str) -> Vec<PointId> {
        let mut broken = Vec::new();
        for (point, content) in &self.points {
            match read(&self.store, *point) {
                Ok(bytes) => assert!(bytes == *content, "{context}: point {point} reads wrong"),
                Err(_) => broken.push(*point),
            }
        }
        broken
    }

    /// What verify says is exactly what is broken, or more where content reads in spite of it.
    fn check(&self, file: &Path, context: &str) {
        let broken = self.broken(context);
        let report = self.store.verify(None, quietly()).unwrap();
        assert!(!report.is_clean(), "{context}: not found");
        let named: Vec<PointId> = report.findings.iter().flat_map(|f| f.points.clone()).collect();
        for point in &broken {
            assert!(named.contains(point), "{context}: {point} is broken and not named: {report:?}");
        }
        let pair = |path: &Path| path.with_extension("");
        assert!(
            report.findings.iter().all(|f| pair(&f.file) == pair(file)),
            "{context}: another file is blamed: {report:?}"
        );
    }
}

fn flip(file: &Path, bit: u64) {
    let handle = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    handle.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    handle.write_all_at(&byte, bit / 8).unwrap();
}

fn flip_all(ending: &str) {
    let backed = backed();
    let files = backed.folder.files(ending);
    for (number, file) in files.iter().enumerate() {
        let bits = std::fs::metadata(file).unwrap().len() * 8;
        let flips = FLIPS / files.len() as u64;
        for step in 0..flips {
            // Spread over the file, at another bit of the byte each time.
            let bit = (step * bits / flips + step * 13 + number as u64).min(bits - 1);
            flip(file, bit);
            backed.check(file, &format!("{} bit {bit}", file.display()));
            flip(file, bit);
        }
    }
    assert_eq!(backed.broken("put right again"), Vec::new());
    assert!(backed.store.verify(None, quietly()).unwrap().is_clean());
}

#[test]
fn flips_in_images_are_found() {
    flip_all(".img");
}

#[test]
fn flips_in_sidecars_are_found() {
    flip_all(".sum");
}

#[test]
fn flips_in_deltas_are_found() {
    flip_all(".bak");
}

#[test]
fn flips_in_change_sets_are_found() {
    flip_all(".cst");
}

#[test]
fn only_points_that_show_the_damage_are_named() {
    let backed = backed();
    let delta = |n: usize| -> PathBuf {
        let name = format!("{}.bak", backed.points[n].0);
        backed.folder.files(".bak").into_iter().find(|path| path.ends_with(&name)).unwrap()
    };
    let named = |file: &Path, bit: u64| {
        flip(file, bit);
        let report = backed.store.verify(None, quietly()).unwrap();
        let one = backed.store.verify(Some(backed.points[0].0), quietly()).unwrap();
        flip(file, bit);
        assert_eq!(report.findings.len(), 1, "{report:?}");
        (report.findings[0].clone(), one.is_clean())
    };
    let ids = |range: std::ops::Range<usize>| -> Vec<PointId> {
        backed.points[range].iter().map(|(id, _)| *id).collect()
    };
    // Granule 3 of the image is hidden by the third delta, granule 7 by none.
    let image = backed.folder.files(".img").remove(0);
    let (finding, clean) = named(&image, 3 * 4096 * 8 + 5);
    assert_eq!((finding.points, finding.sectors, finding.offset), (ids(0..3), 24..32, 3 * 4096));
    assert!(!clean);
    assert_eq!(named(&image, 7 * 4096 * 8).0.points, ids(0..4));
    // The first delta's granules 0 and 1 are one extent; the third hides only granule 0.
    let (finding, clean) = named(&delta(1), (1024 + 40) * 8);
    assert_eq!(finding.points, ids(1..4));
    assert!(clean, "an older point does not depend on it");
}

#[test]
fn truncated_swapped_and_replayed_files_are_found() {
    let backed = backed();
    for ending in [".img", ".sum", ".bak", ".cst"] {
        for file in backed.folder.files(ending) {
            let kept = std::fs::read(&file).unwrap();
            for length in [0, 100, 1024, kept.len() / 2, kept.len() - 1] {
                std::fs::write(&file, &kept[..length]).unwrap();
                backed.check(&file, &format!("{} cut to {length}", file.display()));
            }
            std::fs::write(&file, [kept.as_slice(), b"x"].concat()).unwrap();
            backed.check(&file, &format!("{} with a byte more", file.display()));
            std::fs::write(&file, &kept).unwrap();
        }
    }
    let deltas = backed.folder.files(".bak");
    let kept = [std::fs::read(&deltas[0]).unwrap(), std::fs::read(&deltas[1]).unwrap()];
    std::fs::write(&deltas[0], &kept[1]).unwrap();
    backed.check(&deltas[0], "a whole delta in another's place");
    let error = read(&backed.store, backed.points[1].0).unwrap_err().to_string();
    assert!(error.contains("its root differs"), "{error}");
    std::fs::write(&deltas[0], &kept[0]).unwrap();
    assert_eq!(backed.broken("put right again"), Vec::new());
}

#[test]
fn data_in_a_hole_and_a_hole_in_data_are_found() {
    let backed = backed();
    let image = backed.folder.files(".img").remove(0);
    let kept = std::fs::read(&image).unwrap();
    let handle = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    handle.write_all_at(&[1], 9 * 4096 + 77).unwrap();
    backed.check(&image, "data in a hole");
    std::fs::write(&image, &kept).unwrap();
    handle.write_all_at(&[0; 4096], 4 * 4096).unwrap();
    rustix::fs::fallocate(
        &handle,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        4 * 4096,
        4096,
    )
    .unwrap();
    let report = backed.store.verify(None, quietly()).unwrap();
    assert_eq!(report.findings[0].sectors, 32..40, "{report:?}");
    backed.check(&image, "a hole in data");
}

#[test]
fn a_flip_in_the_catalog_is_refused_or_harmless() {
    let Backed { folder, store, points } = backed();
    drop(store);
    let catalog = folder.path().join("blxrep.redb");
    let good = std::fs::read(&catalog).unwrap();
    let bits = good.len() as u64 * 8;
    let mut refused = 0;
    for step in 0..100u64 {
        let bit = (step * bits / 100 + step * 12_289) % bits;
        flip(&catalog, bit);
        match folder.try_open() {
            Err(StoreError::Catalog { .. }) => refused += 1,
            Err(e) => panic!("bit {bit}: {e}"),
            Ok(store) => {
                for (point, content) in &points {
                    assert!(read(&store, *point).unwrap() == *content, "bit {bit}");
                }
            }
        }
        std::fs::write(&catalog, &good).unwrap();
    }
    assert!(refused > 0, "no flip of {bits} bits was noticed");
}

#[test]
fn a_flip_under_an_open_catalog_is_found_by_verify() {
    let backed = backed();
    let catalog = backed.folder.path().join("blxrep.redb");
    let bytes = std::fs::read(&catalog).unwrap();
    // The text of a note is in every point's row; some of its copies are in live pages.
    let places: Vec<usize> =
        bytes.windows(6).enumerate().filter(|(_, w)| w == b"a note").map(|(i, _)| i).collect();
    assert!(!places.is_empty());
    for place in &places {
        flip(&catalog, *place as u64 * 8);
    }
    let report = backed.store.verify(None, quietly()).unwrap();
    assert!(
        report.findings.iter().any(|f| f.file == catalog && f.what.contains("put back a copy")),
        "{report:?}"
    );
}
