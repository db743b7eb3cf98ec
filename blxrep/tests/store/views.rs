//! Views of long chains: through merged indexes, without them, and with damaged ones, they read the same.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::ids::{DiskId, PointId};
use blxrep::store::Store;
use blxrep::view;
use blxrep::view::index::Index;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// A chain that is made of small changes, and every state that the disk had.
struct Chain {
    folder: Folder,
    store: Store,
    disk: DiskId,
    /// Every so many of them, and the newest.
    states: Vec<(PointId, Vec<u8>)>,
    every: u64,
    made: u64,
}

impl Chain {
    fn new(bytes: usize, every: u64) -> Self {
        let folder = Folder::in_memory();
        let store = folder.open();
        let mut content = noise(1, bytes);
        content[..bytes / 4].fill(0);
        let disk = add_disk(&store, bytes as u64).unwrap().id;
        let point = base(&store, disk, &content);
        Self { folder, store, disk, states: vec![(point.id, content)], every, made: 0 }
    }

    /// Publishes a delta of these runs, filled with zeroes, with what packs, or with what does not; makes the indexes
    /// that are then complete, as a dispatcher does.
    fn add(&mut self, runs: &[(u32, u32)], fill: u8, indexed: bool) {
        let mut content = self.newest_content();
        let number = self.made;
        let granules = (content.len() as u64).div_ceil(GRANULE) as u32;
        let mut held = Vec::new();
        for (start, length) in runs {
            let start = start % granules;
            let run = start..(start + length).min(granules);
            let bytes = run.start as usize * 4096..(run.end as usize * 4096).min(content.len());
            match fill {
                0 => content[bytes].fill(0),
                1 => content[bytes].fill(number as u8),
                _ => {
                    let fresh = noise(number + 5, bytes.len());
                    content[bytes].copy_from_slice(&fresh);
                }
            }
            held.push(run);
        }
        self.publish(content, &held, indexed);
    }

    /// The disk has another size: everything is sent.
    fn resize(&mut self, bytes: usize, indexed: bool) {
        let mut content = self.newest_content();
        content.resize(bytes, 0x77);
        add_disk(&self.store, bytes as u64).unwrap();
        let granules = (bytes as u64).div_ceil(GRANULE) as u32;
        let held: Vec<_> = (0..granules).step_by(100).map(|g| g..(g + 100).min(granules)).collect();
        self.publish(content, &held, indexed);
    }

    /// The content of the newest point, to be changed; kept as it is only where it is to be looked at.
    fn newest_content(&mut self) -> Vec<u8> {
        self.made += 1;
        match (self.made - 1) % self.every {
            0 => self.states[self.states.len() - 1].1.clone(),
            _ => self.states.pop().unwrap().1,
        }
    }

    fn publish(&mut self, content: Vec<u8>, held: &[std::ops::Range<u32>], indexed: bool) {
        let point = delta(&self.store, self.disk, &content, held);
        if indexed {
            self.store.index_published(&point).unwrap();
        }
        self.states.push((point.id, content));
    }

    fn newest(&self) -> PointId {
        self.states[self.states.len() - 1].0
    }

    /// Points read as the disk was.
    fn check(&self, context: &str) {
        for (point, content) in &self.states {
            assert!(read(&self.store, *point).unwrap() == *content, "{context}: point {point}");
        }
    }
}

fn flip(path: &Path, bit: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn views_equal_an_oracle(
        sectors in 8usize..640,
        changes in proptest::collection::vec(
            (proptest::collection::vec((0u32..90, 1u32..12), 1..5), 0u8..4, 0u8..30), 14..60
        ),
        indexed: bool,
    ) {
        let mut chain = Chain::new(sectors * 512, 7);
        for (runs, fill, resize) in changes {
            match resize {
                0 => chain.resize((sectors + 9) * 512, indexed),
                1 => chain.resize(sectors.div_ceil(2) * 512, indexed),
                _ => chain.add(&runs, fill, indexed),
            }
        }
        chain.check("as it was made");
        let made = chain.folder.files(".idx").len();
        prop_assert_eq!(made, if indexed { chain.made as usize / 16 } else { 0 });
        chain.store.index_all(chain.newest()).unwrap();
        prop_assert_eq!(chain.folder.files(".idx").len(), chain.made as usize / 16);
        chain.check("with all indexes");
    }
}

/// What reaches past the edge of the granules that are looked at together may be hidden there by what does not reach in.
#[test]
fn runs_that_cross_an_edge_hide_nothing_behind_it() {
    for fill in 0..4 {
        let mut chain = Chain::new(2300 * 4096, 1);
        for edge in [1024u32, 2048] {
            chain.add(&[(edge - 148, 250)], 1, false);
            chain.add(&[(edge - 188, 240)], fill, false);
            chain.add(&[(edge + 2, 10)], 3, false);
            chain.add(&[(edge - 30, 10)], 2, false);
        }
        chain.check("across edges");
    }
}

#[test]
fn a_long_chain_reads_the_same_with_and_without_indexes() {
    let mut chain = Chain::new(300 * 4096 + 512, 53);
    for n in 1..=530u32 {
        let runs = [(n * 37, 3), (n * n, 1), (n % 7 * 40, 40)];
        chain.add(&runs[..1 + n as usize % 3], (n % 4) as u8, true);
    }
    // 33 of 16, and 2 of 256.
    assert_eq!(chain.folder.files(".idx").len(), 35);
    chain.check("with indexes");
    // Some are missing, some are cut, some have a wrong bit, one is another's.
    let files = chain.folder.files(".idx");
    for (n, file) in files.iter().enumerate() {
        let bytes = std::fs::metadata(file).unwrap().len();
        match n % 4 {
            0 => std::fs::remove_file(file).unwrap(),
            1 => std::fs::File::options().write(true).open(file).unwrap().set_len(bytes / 2).unwrap(),
            2 => flip(file, n as u64 * 7919 % (bytes * 8)),
            _ => drop(std::fs::copy(&files[n - 1], file).unwrap()),
        }
    }
    chain.check("with damaged indexes");
    chain.store.index_all(chain.newest()).unwrap();
    assert_eq!(chain.folder.files(".idx").len(), 35);
    chain.check("with repaired indexes");
    std::fs::remove_dir_all(chain.folder.path().join("index")).unwrap();
    chain.check("without indexes");
    assert_eq!(chain.folder.files(".idx").len(), 0, "a view leaves nothing behind");
}

#[test]
fn any_bit_of_an_index_may_be_wrong() {
    let mut chain = Chain::new(40 * 4096, 1);
    for n in 1..=16u32 {
        chain.add(&[(n * 3, 2), (n, 1)], (n % 4) as u8, true);
    }
    let file = chain.folder.files(".idx").remove(0);
    let (point, content) = &chain.states[16];
    for bit in (0..std::fs::metadata(&file).unwrap().len() * 8).step_by(7) {
        flip(&file, bit);
        assert!(read(&chain.store, *point).unwrap() == *content, "bit {bit}");
        flip(&file, bit);
    }
}

/// What consolidation does to the oldest deltas: an index that was made with them serves without them.
#[test]
fn an_index_serves_when_its_oldest_deltas_were_folded() {
    let mut chain = Chain::new(60 * 4096, 1000);
    for n in 1..=32u32 {
        chain.add(&[(n * 7, 5), (n * 13, 2)], 2, true);
    }
    let whole = chain.store.chain(chain.newest()).unwrap();
    for folded in [1, 6, 15, 16, 17] {
        let through = view::Chain { deltas: whole.deltas[folded..].to_vec(), ..whole.clone() };
        let without = view::Chain { indexes: "nowhere".into(), ..through.clone() };
        let mut through = Index::open(&Storage::default(), &through).unwrap();
        let mut without = Index::open(&Storage::default(), &without).unwrap();
        for granule in 0..60 {
            let found = [&mut through, &mut without].map(|index| index.place(granule).unwrap().0);
            let placed = found.map(|run| run.map(|run| (run.layer, run.at, granule - run.start + run.skip)));
            assert_eq!(placed[0], placed[1], "{folded} folded, granule {granule}");
        }
    }
}

#[test]
fn a_rotten_block_is_an_error_whatever_the_index_says() {
    let mut chain = Chain::new(40 * 4096, 1);
    for n in 1..=20u32 {
        chain.add(&[(n, 2)], 2, true);
    }
    let newest = chain.newest();
    let files = chain.folder.files(".bak");
    let mut wrong = 0;
    for file in &files {
        // The payload of the first extent.
        flip(file, (1024 + 32 + 100) * 8);
        match read(&chain.store, newest) {
            Err(error) => {
                wrong += 1;
                assert!(error.to_string().contains("verify"), "{error}");
            }
            Ok(bytes) => assert!(bytes == chain.states[20].1, "damage was given out"),
        }
        flip(file, (1024 + 32 + 100) * 8);
    }
    assert!(wrong >= 19, "{wrong}: nearly every delta shows a granule");
}

#[test]
fn indexes_of_a_generation_that_is_no_more_are_removed() {
    let mut chain = Chain::new(40 * 4096, 1);
    (1..=16u32).for_each(|n| chain.add(&[(n, 2)], 2, true));
    let made = chain.folder.files(".idx");
    let foreign = chain.folder.path().join("index/00000000000000aa");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::copy(&made[0], foreign.join("1-0000000000000000.idx")).unwrap();
    let Chain { folder, store, .. } = chain;
    drop(store);
    let (_store, report) = folder.open_reported();
    assert_eq!((folder.files(".idx"), foreign.exists()), (made, false));
    assert!(report.quarantined.is_empty(), "{report:?}");
}

/// Prints what opening takes; decides nothing by it.
#[test]
fn a_view_over_a_thousand_deltas_opens_at_once() {
    const GRANULES: u32 = 8 << 10;
    let mut chain = Chain::new(GRANULES as usize * 4096, 10_000);
    let mut random = 1u64;
    for _ in 0..1000 {
        let runs: Vec<(u32, u32)> = (0..50)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((random >> 33) as u32 % GRANULES, 1)
            })
            .collect();
        chain.add(&runs, 2, true);
    }
    let open = |context: &str| {
        let began = Instant::now();
        let mut reader = chain.store.open_point(chain.newest()).unwrap();
        let opened = began.elapsed();
        let mut byte = [0; 4096];
        reader.read_at(77 * 4096, &mut byte).unwrap();
        println!(
            "1000 deltas of 50 granules, {context}: opened in {opened:?}, first block {:?}",
            began.elapsed()
        );
        assert_eq!(byte[..], chain.states.last().unwrap().1[77 * 4096..78 * 4096]);
    };
    open("with indexes");
    open("with indexes, once more");
    std::fs::remove_dir_all(chain.folder.path().join("index")).unwrap();
    open("without indexes");
}
