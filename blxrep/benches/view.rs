//! Views of a long chain beside the raw image of the same disk: what opening takes, and what reading does.
//!
//! Two chains of 1,000 deltas of 1,000 granules: scattered over all of the disk (no disk is written like this for long;
//! most of it is then in deltas, a granule here and a granule there), and within a tenth of it.

#![allow(clippy::unwrap_used, reason = "a bench may stop where it stands")]

use blxrep::io::storage::{Access, Storage};
use blxrep::model::encoding::Encoding;
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{ActionId, CutId, DiskId, DiskIdentity, Epoch, PointId};
use blxrep::model::point::{Consistency, Coverage, CutSummary};
use blxrep::store::Store;
use blxrep::store::base::BaseSpec;
use blxrep::store::catalog::DiskOffer;
use blxrep::store::delta::DeltaSpec;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const GRANULE: u64 = 4096;
const MIB: usize = 1 << 20;
const DELTAS: u64 = 1000;
const CHANGES: u64 = 1000;
const READS: u64 = 20_000;
const EPOCH: Epoch = Epoch(7);

/// xorshift: fast, and the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.as_chunks_mut::<8>().0 {
            *word = self.next().to_le_bytes();
        }
    }
}

fn summary(cut: u64) -> CutSummary {
    CutSummary {
        cut: CutId(cut),
        at: Timestamp::now(),
        consistency: Consistency::Quiet,
        coverage: Coverage::Proven,
        notes: Vec::new(),
        rounds: Vec::new(),
        freeze_ms: None,
        hooks: Vec::new(),
        group: Vec::new(),
        holes: Default::default(),
    }
}

fn add_disk(store: &Store, name: &str, bytes: u64) -> DiskId {
    let (agent, identity) = ("bench".parse().unwrap(), DiskIdentity::Serial(name.to_owned()));
    let offer =
        DiskOffer { agent: &agent, identity: &identity, device: "/dev/sda", bytes, granule_shift: 12 };
    store.upsert_disk(&offer, Timestamp::now()).unwrap().id
}

fn base(store: &Store, disk: DiskId, bytes: u64) {
    let spec = BaseSpec { action: ActionId(1), epoch: EPOCH, bytes, granule_shift: 12 };
    let mut writer = store.begin_base(disk, spec).unwrap();
    let mut random = Random(disk.0 | 1);
    let mut piece = vec![0; MIB];
    for at in (0..bytes).step_by(MIB) {
        random.fill(&mut piece);
        writer.write(at, &piece).unwrap();
    }
    let ready = writer.seal(summary(1)).unwrap();
    store.publish(vec![ready], Timestamp::now()).unwrap();
}

/// 1,000 deltas of granules below `reach`. Returns the newest point.
fn deltas(store: &Store, disk: DiskId, reach: u64) -> PointId {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    let mut random = Random(99);
    let mut content = vec![0; 4096];
    let mut parent = store.newest_point(disk).unwrap().unwrap().id;
    for _ in 0..DELTAS {
        let point = PointId(NEXT.fetch_add(1, Ordering::Relaxed));
        let mut held = GranuleSet::new();
        while held.len() < CHANGES {
            held.insert(u32::try_from(random.next() % (reach / GRANULE)).unwrap());
        }
        let mut writer = store.begin_delta(disk, DeltaSpec { point, parent, epoch: EPOCH }).unwrap();
        for granule in held.iter() {
            random.fill(&mut content);
            let at = u64::from(granule) * GRANULE;
            writer.append(at..at + GRANULE, Encoding::Raw, &content, crc32c::crc32c(&content)).unwrap();
        }
        let ready = writer.finish(summary(2), held.len()).unwrap();
        let published = store.publish(vec![ready], Timestamp::now()).unwrap().remove(0);
        store.index_published(&published).unwrap();
        parent = point;
    }
    parent
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Lets the next reads come from the disk.
fn forget(folder: &Path) {
    rustix::fs::sync();
    let mut found = Vec::new();
    files(folder, &mut found);
    for file in found {
        if let Ok(file) = Storage::default().open(&file, Access::Read) {
            file.forget_cache();
        }
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn offsets(bytes: u64) -> Vec<u64> {
    let mut random = Random(4242);
    (0..READS).map(|_| random.next() % (bytes / GRANULE) * GRANULE).collect()
}

fn measure(store: &Store, folder: &Path, name: &str, reach: u64, bytes: u64) {
    let disk = add_disk(store, name, bytes);
    base(store, disk, bytes);
    let point = deltas(store, disk, reach);
    let chain = store.chain(point).unwrap();
    let image = chain.base.image.clone();
    println!("view, {DELTAS} deltas of {CHANGES} granules {name}, disk of {} MiB", bytes >> 20);
    for how in ["cold", "warm"] {
        if how == "cold" {
            forget(folder);
        }
        let took = timed(|| drop(store.open_point(point).unwrap()));
        println!("  open, {how}: {took:.1?} (target: under 1 s)");
    }
    let raw = |access| Storage::default().open(&image, access).unwrap();
    for how in ["cold", "warm"] {
        let mut block = vec![0; 4096];
        let file = raw(Access::Read);
        let mut reader = store.open_point(point).unwrap();
        if how == "cold" {
            forget(folder);
        }
        let plain = timed(|| offsets(bytes).into_iter().for_each(|at| file.read_at(&mut block, at).unwrap()));
        if how == "cold" {
            forget(folder);
        }
        let view =
            timed(|| offsets(bytes).into_iter().for_each(|at| reader.read_at(at, &mut block).unwrap()));
        ratio(&format!("random 4 KiB, {how}"), plain, view, 0.7);
    }
    let mut piece = blxrep::io::buffer::AlignedBuffer::new(MIB);
    let file = raw(Access::Stream);
    let mut reader = store.open_point(point).unwrap();
    reader.stream();
    forget(folder);
    let plain = timed(|| {
        (0..bytes).step_by(MIB).for_each(|at| file.read_direct_at(piece.fill(MIB), at).unwrap());
    });
    forget(folder);
    let view = timed(|| {
        (0..bytes).step_by(MIB).for_each(|at| reader.read_at(at, piece.fill(MIB)).unwrap());
    });
    ratio("sequential, from the disk", plain, view, 0.8);
}

fn ratio(what: &str, plain: Duration, view: Duration, target: f64) {
    let ratio = plain.as_secs_f64() / view.as_secs_f64();
    println!("  {what}: raw {plain:.2?}, view {view:.2?}, ratio {ratio:.2} (target: {target})");
}

fn main() {
    // Cargo says `--bench`, and a folder to work in may come behind it.
    let parent = std::env::var_os("BLXREP_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let quick = std::env::var_os("BLXREP_BENCH_QUICK").is_some();
    let bytes: u64 = if quick { 512 << 20 } else { 4 << 30 };
    blxrep::io::limits::raise_open_files();
    for (name, part) in [("within a tenth of the disk", 10), ("scattered over the disk", 1)] {
        let folder = tempfile::tempdir_in(&parent).unwrap();
        let data = folder.path().join("data");
        let seed = AtomicU64::new(1);
        let seed = Arc::new(move || seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (store, _) = Store::open(&data, seed).unwrap();
        measure(&store, &data, name, bytes / part, bytes);
    }
}
