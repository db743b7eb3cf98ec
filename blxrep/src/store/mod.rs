//! The data directory: what is written, published, found again after a crash, restored and verified.
//!
//! All calls block; they are made from threads. A [`Store`] is a handle that is cheap to clone.
//!
//! ```text
//! begin_base  -> BaseWriter  -> seal   -> ReadyPoint \
//!                                                      publish -> Point (visible from here on)
//! begin_delta -> DeltaWriter -> finish -> ReadyPoint /
//! ```
//!
//! Invariants:
//! - A point exists if and only if its row in the catalog exists. Its files are complete, synced and under their
//!   final names before the row is committed.
//! - A published file never changes, but for the image of a base while a fold is under way, and then only where
//!   every view that can be open takes its bytes from a delta (`fold.rs`).
//! - One open base or delta per disk. An open base has a row from its first byte and survives everything; an open
//!   delta lives in its writer and is gone with it.

mod ahead;
mod append;
pub mod base;
pub mod catalog;
mod check;
pub mod consolidate;
pub mod continuity;
pub mod damage;
pub mod delta;
mod fold;
mod garbage;
pub mod half_restored;
mod indexes;
pub mod layout;
pub mod lease;
mod merge;
pub mod publish;
mod quarantine;
pub mod rebuild;
pub mod recovery;
pub mod restorations;
pub mod restore;
pub mod room;
pub mod sample;
pub mod verify;

use crate::format::{FormatError, mark};
use crate::io::db::{Db, DbError};
use crate::io::storage::{Access, DataFile, Storage, StorageError};
use crate::model::ids::{DiskId, PointId, StoreId};
use crate::model::point::{Point, PointDigests};
use crate::model::units::GranuleSize;
use crate::view::{BaseFiles, Chain, DeltaFiles, PointReader, ViewError, ViewPlace};
use catalog::{Generation, GenerationState, Owner, generation_key};
use layout::{Layout, Names};
use lease::ViewLease;
use recovery::OpenReport;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What to do about a catalog that cannot be used.
const REMEDY: &str = "run `blxrep catalog rebuild`, which makes a new one from the files beside it, or put back a copy of \
                      blxrep.redb that fits them";
/// A child of this process holds its locks between fork and exec, also those that were given up meanwhile.
const LOCK_TRIES: u32 = 25;
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// How often the files of a point may be replaced while it is being opened: once is rare.
const MAX_MOVES: u32 = 16;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("{}: {source}", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error("{}: {source}; {REMEDY}", path.display())]
    Mark { path: PathBuf, source: FormatError },
    #[error("data directory {} is in use by {}; stop that dispatcher or choose another --data-dir", path.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    InUse { path: PathBuf, holder: Option<u32> },
    #[error("catalog {} cannot be used: {reason}; {REMEDY}", path.display())]
    Catalog { path: PathBuf, reason: String },
    /// What is asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What is asked for must not or cannot be done; says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// What is asked for was being replaced all the time; another try may find it at rest.
    #[error("{0}; try again")]
    Moving(String),
    /// The caller's cancel flag was set.
    #[error("cancelled")]
    Cancelled,
}

impl StoreError {
    /// Whether the same may work later, without anybody mending what is stored: no file that is there could be opened or
    /// read this moment, or it was being replaced.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Moving(_) | Self::Cancelled => true,
            Self::Storage(error) | Self::View(ViewError::Storage(error)) => !error.is_not_found(),
            Self::Db(_) | Self::InUse { .. } => true,
            _ => false,
        }
    }
}

/// Source of random ids; never 0.
pub type Seed = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Handle to an open data directory.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    id: StoreId,
    storage: Storage,
    seed: Seed,
    /// Disks with an open base or delta, and disks whose files are being replaced.
    busy: Mutex<HashSet<(Right, DiskId)>>,
    /// Held while merged indexes are made.
    indexing: Mutex<()>,
    /// Points that were published since the store was opened.
    publications: AtomicU64,
    // Closed before the lock below is given up: fields drop in this order.
    db: Db,
    _lock: DataFile,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("root", &self.layout.root())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a data directory, or makes a store of an empty or missing one, and puts in order what a crash left.
    pub fn open(data_dir: &Path, seed: Seed) -> Result<(Self, OpenReport), StoreError> {
        Self::open_with(Storage::default(), data_dir, seed)
    }

    /// As [`Self::open`], on the given storage.
    pub fn open_with(
        storage: Storage,
        data_dir: &Path,
        seed: Seed,
    ) -> Result<(Self, OpenReport), StoreError> {
        let storage = storage.watching(data_dir);
        storage.create_dir(data_dir)?;
        let layout = Layout::new(data_dir);
        let lock = lock(&storage, &layout)?;
        let (id, db, created) = match read_mark(&lock)? {
            Some(id) => (id, open_catalog(&storage, &layout, id)?, false),
            None => found(&storage, &layout, &lock, &seed)?,
        };
        for directory in [layout.snapshots(), layout.incrementals(), layout.quarantine(), layout.leases()] {
            storage.create_dir(&directory)?;
        }
        let inner = Inner {
            indexing: Mutex::default(),
            publications: AtomicU64::new(0),
            layout,
            id,
            storage,
            seed,
            busy: Mutex::default(),
            db,
            _lock: lock,
        };
        let store = Self(Arc::new(inner));
        let mut report = store.recover()?;
        report.created = created;
        Ok((store, report))
    }

    #[must_use]
    pub fn id(&self) -> StoreId {
        self.0.id
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.0.layout.root()
    }

    /// Whether the catalog can no longer be written until the store is opened again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.db.is_lost()
    }

    /// Points that were published since the store was opened.
    #[must_use]
    pub fn publications(&self) -> u64 {
        self.0.publications.load(Ordering::Relaxed)
    }

    fn db(&self) -> &Db {
        &self.0.db
    }

    fn storage(&self) -> &Storage {
        &self.0.storage
    }

    fn layout(&self) -> &Layout {
        &self.0.layout
    }

    fn random_id(&self) -> u64 {
        random(&self.0.seed)
    }

    /// Reserves a disk for one writer, or for one who replaces files.
    fn claim(&self, right: Right, disk: DiskId) -> Result<Claim, StoreError> {
        if !self.busy().insert((right, disk)) {
            return Err(StoreError::Refused(match right {
                Right::Write => {
                    format!("disk {disk} has an open point already; wait until it is published or given up")
                }
                Right::Replace => {
                    format!("disk {disk} is being consolidated already; wait until that is done or cancel it")
                }
            }));
        }
        Ok(Claim { store: self.clone(), right, disk })
    }

    fn busy(&self) -> MutexGuard<'_, HashSet<(Right, DiskId)>> {
        // The set is whole after every call, also one that panicked.
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a point for reading, as the bytes of its disk. The files that it is made of stay while it is open.
    pub fn open_point(&self, id: PointId) -> Result<PointReader, StoreError> {
        let mut chain = self.chain(id)?;
        for _ in 0..MAX_MOVES {
            let lease = ViewLease::take(self.storage(), self.layout(), chain.place)?;
            let now = self.chain(id)?;
            if now.place == chain.place {
                return Ok(PointReader::open(self.storage(), &chain)?.under(lease));
            }
            chain = now;
        }
        Err(self.moving(id))
    }

    /// The files that a point is made of. They stay there only while somebody holds a [`ViewLease`] on their place,
    /// taken before the chain was asked for: who has no lease yet takes one on the chain's place, asks for the
    /// chain again, and begins anew if the place is another then.
    pub fn chain(&self, id: PointId) -> Result<Chain, StoreError> {
        for _ in 0..MAX_MOVES {
            let point = self.point(id)?;
            let before = self.db().get::<Generation>(&generation_key(point.disk, point.generation))?;
            let Some(before) = before else { continue };
            let chain = self.chain_in(&point, &before);
            // Rows are read one by one: they fit each other if nothing was replaced meanwhile.
            let after = self.db().get::<Generation>(&generation_key(point.disk, point.generation))?;
            if after.is_some_and(|after| after.revision == before.revision) {
                return chain;
            }
        }
        Err(self.moving(id))
    }

    fn chain_in(&self, point: &Point, generation: &Generation) -> Result<Chain, StoreError> {
        let GenerationState::Published { sidecar, edition } = generation.state else {
            return Err(self.bad_row(point));
        };
        let mut deltas = Vec::new();
        let mut at = point.clone();
        while at.id != generation.base {
            let (PointDigests::Delta { delta, .. }, Some(parent)) = (at.digests, at.parent) else {
                return Err(self.bad_row(&at));
            };
            let path = self.delta_names(&at)[0].published.clone();
            deltas.push(DeltaFiles { path, root: delta, position: at.sequence });
            if parent == generation.base {
                break;
            }
            let parent = self.point(parent)?;
            if parent.sequence >= at.sequence || parent.generation != at.generation {
                return Err(self.bad_row(&at));
            }
            at = parent;
        }
        deltas.reverse();
        let base = BaseFiles {
            image: self.layout().image(point.disk, generation.id).published,
            sidecar: self.layout().sidecar(point.disk, generation.id, edition).published,
            root: sidecar,
            bytes: generation.bytes,
        };
        let granule = self.granule_of(point.disk, generation.granule_shift)?;
        let place =
            ViewPlace { generation: generation.id, revision: generation.revision, sequence: point.sequence };
        let holes = point.summary.holes.clone();
        let indexes = self.layout().indexes(generation.id);
        Ok(Chain { base, deltas, bytes: point.disk_bytes, granule, holes, place, indexes })
    }

    /// Delta and change set of a point.
    fn delta_names(&self, point: &Point) -> [Names; 2] {
        let (disk, generation, edition) = (point.disk, point.generation, point.edition);
        [
            self.layout().delta(disk, generation, point.id, edition),
            self.layout().changes(disk, generation, point.id, edition),
        ]
    }

    fn moving(&self, point: PointId) -> StoreError {
        StoreError::Moving(format!("the files of point {point} were replaced {MAX_MOVES} times"))
    }

    fn bad_row(&self, point: &Point) -> StoreError {
        let reason = format!("point {} is neither a base nor a delta on an older point", point.id);
        StoreError::Catalog { path: self.layout().catalog(), reason }
    }

    fn granule_of(&self, disk: DiskId, shift: u32) -> Result<GranuleSize, StoreError> {
        GranuleSize::from_shift(shift).ok_or_else(|| StoreError::Catalog {
            path: self.layout().catalog(),
            reason: format!("disk {disk} has a granule of 2^{shift} bytes"),
        })
    }
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Right {
    /// To make the disk's next point.
    Write,
    /// To replace files of its points by others.
    Replace,
}

/// A right that only one has for a disk; given up when dropped. Not to be confused with the lease of a view.
#[derive(Debug)]
struct Claim {
    store: Store,
    right: Right,
    disk: DiskId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.busy().remove(&(self.right, self.disk));
    }
}

fn random(seed: &Seed) -> u64 {
    seed().max(1)
}

/// Takes the data directory for this process.
fn lock(storage: &Storage, layout: &Layout) -> Result<DataFile, StoreError> {
    let lock = storage.open(&layout.mark(), Access::Keep)?;
    let mut holder = None;
    for _ in 0..LOCK_TRIES {
        if lock.try_lock()? {
            return Ok(lock);
        }
        holder = lock.lock_holder();
        if holder.is_some_and(|pid| pid != std::process::id()) {
            break;
        }
        std::thread::sleep(LOCK_WAIT);
    }
    Err(StoreError::InUse { path: layout.root().to_owned(), holder })
}

/// `None` if the mark was never written: the directory is new, or was being made when something died.
fn read_mark(file: &DataFile) -> Result<Option<StoreId>, StoreError> {
    let mut bytes = [0; mark::MARK_BYTES];
    if file.length()? < bytes.len() as u64 {
        return Ok(None);
    }
    file.read_at(&mut bytes, 0)?;
    if bytes == [0; mark::MARK_BYTES] {
        return Ok(None);
    }
    let damaged = |source| StoreError::Mark { path: file.path().to_owned(), source };
    mark::parse(&bytes).map(Some).map_err(damaged)
}

/// Makes a store: the catalog first, under another name until it is whole, then the mark.
fn found(
    storage: &Storage,
    layout: &Layout,
    lock: &DataFile,
    seed: &Seed,
) -> Result<(StoreId, Db, bool), StoreError> {
    let path = layout.catalog();
    let created = storage.length(&path)?.is_none();
    if created {
        for directory in [layout.snapshots(), layout.incrementals()] {
            if !storage.list(&directory)?.is_empty() {
                let reason = format!("it is missing, and {} is not empty", directory.display());
                return Err(StoreError::Catalog { path, reason });
            }
        }
        let store = StoreId(u128::from(random(seed)) << 64 | u128::from(random(seed)));
        let part = path.with_added_extension(layout::PART);
        Db::create(storage, &part)?.write::<_, DbError>(|tx| tx.put(&Owner { store }))?;
        storage.rename(&part, &path)?;
        storage.sync_dir(layout.root())?;
    }
    let db = read_catalog(storage, layout)?;
    let id = owner(&db)?;
    lock.write_at(&mark::encode(id), 0)?;
    lock.sync()?;
    storage.sync_dir(layout.root())?;
    Ok((id, db, created))
}

fn open_catalog(storage: &Storage, layout: &Layout, id: StoreId) -> Result<Db, StoreError> {
    let db = read_catalog(storage, layout)?;
    let owner = owner(&db)?;
    if owner != id {
        let reason = format!("it belongs to store {owner}, this directory is store {id}");
        return Err(StoreError::Catalog { path: layout.catalog(), reason });
    }
    Ok(db)
}

fn read_catalog(storage: &Storage, layout: &Layout) -> Result<Db, StoreError> {
    let path = layout.catalog();
    match Db::open(storage, &path) {
        Ok(db) => Ok(db),
        Err(DbError::File(e)) if e.is_not_found() => {
            Err(StoreError::Catalog { path, reason: "it is missing".to_owned() })
        }
        Err(DbError::Damaged { reason, .. }) => {
            Err(StoreError::Catalog { path, reason: format!("it is damaged ({reason})") })
        }
        Err(e) => Err(e.into()),
    }
}

fn owner(db: &Db) -> Result<StoreId, StoreError> {
    match db.get::<Owner>(&[]) {
        Ok(Some(owner)) => Ok(owner.store),
        Ok(None) => Err(StoreError::Catalog {
            path: db.path().to_owned(),
            reason: "it names no store: it is not a catalog of blxrep".to_owned(),
        }),
        Err(e) => Err(StoreError::Catalog { path: db.path().to_owned(), reason: e.to_string() }),
    }
}
