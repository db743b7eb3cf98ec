//! A store in a directory that vanishes, and a disk in memory that is backed up into it.

use blxrep::io::storage::Storage;
use blxrep::model::encoding::{Encoding, is_zero};
use blxrep::model::ids::{ActionId, AgentId, CutId, DiskId, DiskIdentity, Epoch, PointId};
use blxrep::model::point::{Consistency, Coverage, CutSummary, Disk, Point};
use blxrep::model::retention::Step;
use blxrep::model::units::GranuleSize;
use blxrep::store::base::BaseSpec;
use blxrep::store::catalog::DiskOffer;
use blxrep::store::consolidate::Outcome;
use blxrep::store::delta::{DeltaSpec, DeltaWriter};
use blxrep::store::publish::ReadyPoint;
use blxrep::store::recovery::OpenReport;
use blxrep::store::restore::Progress;
use blxrep::store::{Seed, Store, StoreError};
use jiff::Timestamp;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub const EPOCH: Epoch = Epoch(0x77);
pub const GRANULE: u64 = 4096;
static NEVER: AtomicBool = AtomicBool::new(false);

/// Nobody looks and nobody cancels.
pub fn quietly() -> Progress<'static> {
    Progress { report: &|_, _| {}, cancel: &NEVER }
}

/// Different ids in every test and every call.
pub fn seed() -> Seed {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Arc::new(|| NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub fn now() -> Timestamp {
    Timestamp::now()
}

pub struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Where waiting for the disk would be most of the test, and the disk is not what is tested.
    pub fn in_memory() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { dir: dir.unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn open(&self) -> Store {
        self.open_reported().0
    }

    pub fn open_reported(&self) -> (Store, OpenReport) {
        patiently(|| Store::open(&self.path(), seed())).unwrap()
    }

    pub fn try_open(&self) -> Result<Store, StoreError> {
        patiently(|| Store::open(&self.path(), seed())).map(|(store, _)| store)
    }

    pub fn open_on(&self, storage: Storage) -> Result<Store, StoreError> {
        patiently(|| Store::open_with(storage.clone(), &self.path(), seed())).map(|(store, _)| store)
    }

    /// All files whose names end so, sorted.
    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.path(), ending, &mut found);
        found.sort();
        found
    }
}

/// A test that starts a program has, between fork and exec, copies of all that other tests have open: what they have
/// just closed is locked for a moment still.
fn patiently<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 0..100 {
        match open() {
            Err(StoreError::InUse { holder: None, .. }) => wait_a_little(),
            done => return done,
        }
    }
    open()
}

pub fn wait_a_little() {
    std::thread::sleep(std::time::Duration::from_millis(10));
}

/// The step is carried out; as above, a view that was just closed may seem open for a moment.
pub fn carry_out(store: &Store, disk: DiskId, step: &Step) -> Result<Outcome, StoreError> {
    for _ in 0..100 {
        match store.carry_out(disk, step, quietly())? {
            Outcome::InUse => wait_a_little(),
            outcome => return Ok(outcome),
        }
    }
    Ok(Outcome::InUse)
}

fn collect(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), ending, found);
        } else if entry.file_name().to_string_lossy().ends_with(ending) {
            found.push(entry.path());
        }
    }
}

pub fn summary(number: u64) -> CutSummary {
    CutSummary {
        hooks: Vec::new(),
        cut: CutId(number),
        at: now(),
        consistency: Consistency::Quiet,
        coverage: Coverage::Proven,
        notes: vec!["a note".to_owned()],
        rounds: Vec::new(),
        freeze_ms: None,
        group: vec![DiskIdentity::Serial("x".to_owned())],
        holes: Default::default(),
    }
}

/// Registers a disk of an agent called `web1`.
pub fn add_disk(store: &Store, bytes: u64) -> Result<Disk, StoreError> {
    let agent: AgentId = "web1".parse().unwrap();
    let identity = DiskIdentity::Serial("S/N-1_a".to_owned());
    let offer =
        DiskOffer { agent: &agent, identity: &identity, device: "/dev/sda", bytes, granule_shift: 12 };
    store.upsert_disk(&offer, now())
}

pub fn spec(bytes: u64) -> BaseSpec {
    BaseSpec { action: ActionId(1), epoch: EPOCH, bytes, granule_shift: 12 }
}

/// Bytes that do not compress and differ by `tag`.
pub fn noise(tag: u64, len: usize) -> Vec<u8> {
    let mut state = tag.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Writes an image as an agent would: extents, zeroes left out. Does not publish.
pub fn make_base(
    store: &Store,
    disk: DiskId,
    content: &[u8],
    chunk: usize,
) -> Result<ReadyPoint, StoreError> {
    let mut writer = store.begin_base(disk, spec(content.len() as u64))?;
    let from = writer.durable() as usize;
    for (i, piece) in content[from..].chunks(chunk).enumerate() {
        let at = (from + i * chunk) as u64;
        if is_zero(piece) {
            writer.write_zeroes(at..at + piece.len() as u64)?;
        } else {
            writer.write(at, piece)?;
        }
        if i % 3 == 2 {
            writer.checkpoint()?;
        }
    }
    writer.seal(summary(1))
}

pub fn publish(store: &Store, ready: ReadyPoint) -> Result<Point, StoreError> {
    Ok(store.publish(vec![ready], now())?.remove(0))
}

pub fn base(store: &Store, disk: DiskId, content: &[u8]) -> Point {
    publish(store, make_base(store, disk, content, 64 << 10).unwrap()).unwrap()
}

/// Appends one range as an extent, packed in the given way where it can be.
pub fn append(
    writer: &mut DeltaWriter,
    content: &[u8],
    range: Range<u64>,
    how: Encoding,
) -> Result<(), StoreError> {
    let bytes = &content[range.start as usize..range.end as usize];
    let packed = match how {
        Encoding::Zero if is_zero(bytes) => Some((Encoding::Zero, Vec::new())),
        Encoding::Zstd => {
            let packed = zstd::bulk::compress(bytes, 1).unwrap();
            (packed.len() < bytes.len()).then_some((Encoding::Zstd, packed))
        }
        _ => None,
    };
    let (encoding, payload) = packed.unwrap_or((Encoding::Raw, bytes.to_vec()));
    writer.append(range, encoding, &payload, crc32c::crc32c(&payload))
}

/// A delta that holds these granules of `content`.
pub fn make_delta(
    store: &Store,
    disk: DiskId,
    content: &[u8],
    granules: &[Range<u32>],
) -> Result<ReadyPoint, StoreError> {
    let parent = store.newest_point(disk)?.unwrap().id;
    static NEXT: AtomicU64 = AtomicU64::new(1 << 60);
    let point = PointId(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut writer = store.begin_delta(disk, DeltaSpec { point, parent, epoch: EPOCH })?;
    let mut held = blxrep::model::granules::GranuleSet::new();
    for (i, run) in granules.iter().enumerate() {
        let range = GranuleSize::default().byte_range(run.clone(), content.len() as u64);
        let how = [Encoding::Zstd, Encoding::Raw, Encoding::Zero][i % 3];
        append(&mut writer, content, range, how)?;
        held.insert_range(run.clone());
    }
    writer.finish(summary(2), held.len())
}

pub fn delta(store: &Store, disk: DiskId, content: &[u8], granules: &[Range<u32>]) -> Point {
    publish(store, make_delta(store, disk, content, granules).unwrap()).unwrap()
}

/// All bytes of a point, read in pieces that fit no granule.
pub fn read(store: &Store, point: PointId) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.open_point(point)?;
    let mut out = vec![0xee; reader.disk_bytes() as usize];
    let mut at = 0;
    while at < out.len() {
        let n = (out.len() - at).min(100_003);
        reader.read_at(at as u64, &mut out[at..at + n])?;
        at += n;
    }
    Ok(out)
}
