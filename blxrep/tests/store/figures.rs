//! Thousands of faults in stored files: each that touches a byte which a point depends on is found, and none is given
//! out as if it were right. The figures are printed.

use crate::fixture::*;
use blxrep::model::ids::{DiskIdentity, PointId};
use blxrep::store::catalog::{DiskOffer, PointFilter};
use blxrep::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const GRANULES: usize = 24;
const DISK: usize = GRANULES * 4096 + 512;
const BLOCK: usize = 4096;

/// How many faults, in a test and in a soak.
fn count(short: u64, long: u64) -> u64 {
    if std::env::var_os("BLXREP_SOAK_SECONDS").is_some() { long } else { short }
}

/// Random numbers that can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }

    fn choose<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len() as u64) as usize]
    }
}

/// Two disks, one of them with two generations; images with holes; deltas of all encodings.
struct House {
    folder: Folder,
    points: Vec<(PointId, Vec<u8>)>,
}

fn house() -> House {
    let folder = Folder::in_memory();
    let store = folder.open();
    let mut points = Vec::new();
    for (number, agent) in (0..).zip(["web1", "db"]) {
        let agent = agent.parse().unwrap();
        let identity = DiskIdentity::Serial("one".to_owned());
        let offer = DiskOffer {
            agent: &agent,
            identity: &identity,
            device: "/dev/sda",
            bytes: DISK as u64,
            granule_shift: 12,
        };
        let disk = store.upsert_disk(&offer, now()).unwrap().id;
        let mut content = noise(number + 1, DISK);
        content[8 * 4096..12 * 4096].fill(0);
        for generation in 0..2 - number {
            points.push((base(&store, disk, &content).id, content.clone()));
            for step in 0..4u64 {
                let first = ((generation * 4 + step) * 5 % 20) as usize;
                content[first * 4096..(first + 1) * 4096].fill(step as u8 + 1);
                content[(first + 1) * 4096..(first + 2) * 4096].copy_from_slice(&noise(step + 77, 4096));
                content[(first + 2) * 4096..(first + 3) * 4096].fill(0);
                let first = first as u32;
                let runs = [first..first + 1, first + 1..first + 2, first + 2..first + 3];
                points.push((delta(&store, disk, &content, &runs).id, content.clone()));
            }
        }
    }
    drop(store);
    House { folder, points }
}

impl House {
    /// Every point reads right or not at all; whether all of them do.
    fn reads(&self, store: &Store, context: &str) -> bool {
        let mut all = true;
        for (point, content) in &self.points {
            match read(store, *point) {
                Ok(bytes) => assert!(bytes == *content, "{context}: point {point} reads wrong in silence"),
                Err(_) => all = false,
            }
        }
        all
    }

    fn data_files(&self) -> Vec<PathBuf> {
        [".img", ".sum", ".bak", ".cst"].iter().flat_map(|ending| self.folder.files(ending)).collect()
    }

    fn catalog(&self) -> PathBuf {
        self.folder.path().join("blxrep.redb")
    }
}

/// What a fault did, by kind.
#[derive(Default)]
struct Figures(BTreeMap<String, [u64; 3]>);

impl Figures {
    const FOUND: usize = 0;
    const UNUSED: usize = 1;
    const SAME: usize = 2;

    fn note(&mut self, kind: &str, what: usize) {
        self.0.entry(kind.to_owned()).or_default()[what] += 1;
    }

    fn print(&self) {
        for (kind, [found, unused, same]) in &self.0 {
            println!(
                "{kind}: {found} found, {unused} in bytes that nothing depends on, {same} changed nothing"
            );
        }
    }

    fn total(&self) -> u64 {
        self.0.values().flatten().sum()
    }
}

fn ending(path: &Path) -> String {
    path.extension().unwrap().to_string_lossy().into_owned()
}

fn flipped(bytes: &[u8], bit: u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[(bit / 8) as usize] ^= 1 << (bit % 8);
    out
}

/// Truncations, files in the place of others, blocks in the place of others.
fn spoil(
    dice: &mut Dice,
    path: &Path,
    bytes: &[u8],
    others: &[(PathBuf, Vec<u8>)],
) -> (&'static str, Vec<u8>) {
    let same_kind: Vec<_> = others.iter().filter(|(other, _)| ending(other) == ending(path)).collect();
    let (_, other) = dice.choose(&same_kind);
    let block = |bytes: &[u8], at: usize| bytes[at..(at + BLOCK).min(bytes.len())].to_vec();
    let blocks = |bytes: &[u8]| (bytes.len().div_ceil(BLOCK)) as u64;
    match dice.roll(5) {
        0 => ("truncation", bytes[..dice.roll(bytes.len() as u64) as usize].to_vec()),
        1 => ("extension", [bytes, &noise(dice.roll(1 << 20), 1 + dice.roll(5000) as usize)].concat()),
        2 => ("replayed file", other.clone()),
        3 => {
            // A block as it is at the same place of another file of the kind, such as the image before this one.
            let at = dice.roll(blocks(bytes).min(blocks(other))) as usize * BLOCK;
            let (mut out, fresh) = (bytes.to_vec(), block(other, at));
            let end = (at + fresh.len()).min(out.len());
            out[at..end].copy_from_slice(&fresh[..end - at]);
            ("replayed block", out)
        }
        _ => {
            let [a, b] = [0; 2].map(|_| dice.roll(blocks(bytes)) as usize * BLOCK);
            let (mut out, first, second) = (bytes.to_vec(), block(bytes, a), block(bytes, b));
            let length = first.len().min(second.len());
            out[a..a + length].copy_from_slice(&second[..length]);
            out[b..b + length].copy_from_slice(&first[..length]);
            ("swapped blocks", out)
        }
    }
}

/// Overwrites a file and no more: what is a hole stays one where nothing else is written.
fn put(path: &Path, before: &[u8], after: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(after.len() as u64).unwrap();
    for (number, piece) in after.chunks(512).enumerate() {
        let at = number * 512;
        if before.get(at..at + piece.len()) != Some(piece) {
            file.write_all_at(piece, at as u64).unwrap();
        }
    }
}

#[test]
fn faults_in_data_files_are_found() {
    let house = house();
    let store = house.folder.open();
    let files: Vec<_> =
        house.data_files().into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    let kinds: Vec<Vec<&(PathBuf, Vec<u8>)>> = ["img", "sum", "bak", "cst"]
        .map(|kind| files.iter().filter(|(path, _)| ending(path) == kind).collect())
        .into();
    let (mut dice, mut figures) = (Dice(1), Figures::default());
    let (flips, others) = (count(300, 8_000), count(120, 1_600));
    for number in 0..flips + others {
        let of_kind = &kinds[dice.roll(kinds.len() as u64) as usize];
        let (path, bytes) = *dice.choose(of_kind);
        let (kind, spoilt) = if number < flips {
            ("flipped bit", flipped(bytes, dice.roll(bytes.len() as u64 * 8)))
        } else {
            spoil(&mut dice, path, bytes, &files)
        };
        let kind = format!("{kind} in .{}", ending(path));
        if spoilt == *bytes {
            figures.note(&kind, Figures::SAME);
            continue;
        }
        put(path, bytes, &spoilt);
        let context = format!("{kind}, fault {number} in {}", path.display());
        house.reads(&store, &context);
        let report = store.verify(None, quietly()).unwrap();
        assert!(!report.is_clean(), "{context}: not found");
        assert!(report.findings.iter().any(|f| !f.points.is_empty()), "{context}: no point is named");
        figures.note(&kind, Figures::FOUND);
        put(path, &spoilt, bytes);
    }
    assert!(house.reads(&store, "put right again"));
    assert!(store.verify(None, quietly()).unwrap().is_clean());
    figures.print();
    assert_eq!(figures.total(), flips + others);
}

#[test]
fn faults_in_the_catalog_are_found_or_touch_nothing() {
    let house = house();
    let good = std::fs::read(house.catalog()).unwrap();
    let rows = house.folder.open().points(&PointFilter::default()).unwrap();
    // Opening it writes to it: this is how it lies there between two lives of the dispatcher.
    let other = self::house();
    let foreign = (other.catalog(), std::fs::read(other.catalog()).unwrap());
    let mut dice = Dice(2);
    let mut figures = Figures::default();
    let (flips, others) = (count(80, 2_000), count(40, 400));
    for number in 0..flips + others {
        let (kind, spoilt) = if number < flips {
            ("flipped bit", flipped(&good, dice.roll(good.len() as u64 * 8)))
        } else {
            spoil(&mut dice, &house.catalog(), &good, std::slice::from_ref(&foreign))
        };
        let kind = format!("{kind} in the catalog");
        if spoilt == good {
            figures.note(&kind, Figures::SAME);
            continue;
        }
        std::fs::write(house.catalog(), &spoilt).unwrap();
        let context = format!("{kind}, fault {number}");
        match Store::open(&house.folder.path(), seed()) {
            Err(StoreError::Catalog { .. } | StoreError::Db(_)) => figures.note(&kind, Figures::FOUND),
            Err(error) => panic!("{context}: {error}"),
            // The bit that says which of redb's last two commits counts: what the last one named was set aside.
            Ok((store, opened)) if !opened.quarantined.is_empty() => {
                drop(store);
                Store::rebuild_catalog(&house.folder.path(), false).unwrap();
                figures.note(&kind, Figures::FOUND);
            }
            Ok((store, _)) => {
                let found = !store.verify(None, quietly()).unwrap().is_clean();
                let whole = house.reads(&store, &context)
                    && store.points(&PointFilter::default()).is_ok_and(|now| now == rows);
                assert!(found || whole, "{context}: rows are gone or changed, and nothing says so");
                figures.note(&kind, if found { Figures::FOUND } else { Figures::UNUSED });
            }
        }
        std::fs::write(house.catalog(), &good).unwrap();
    }
    assert!(house.reads(&house.folder.open(), "put right again"));
    figures.print();
    assert_eq!(figures.total(), flips + others);
}
