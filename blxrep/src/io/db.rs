//! Typed records in a redb file. Knows nothing of what the records mean.
//!
//! Ordinary reads of redb do not check its pages, and a single flipped bit was seen to give wrong rows. So every
//! value carries a checksum over its table, its key and itself, and every open and every `verify` walks the whole
//! file (redb may panic on a damaged file that it opens on trust).

use super::storage::{Access, DataFile, Storage, StorageError};
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use redb::{ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// Longest record: a footprint with some hundred disks and interfaces is a tenth of it.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// The catalog is small and the page cache is behind it; redb's default of 1 GiB is the whole machine.
const CACHE_BYTES: usize = 4 << 20;
/// Room that is kept for the file behind its end: as much as it is long, for it grows by doubling, within these bounds.
const MIN_RESERVE: u64 = 4 << 20;
const MAX_RESERVE: u64 = 64 << 20;
const CHECKSUM_BYTES: usize = 4;
const CODEC: Configuration<LittleEndian, Varint, Limit<MAX_RECORD_BYTES>> =
    bincode::config::standard().with_limit::<MAX_RECORD_BYTES>();

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error(transparent)]
    File(#[from] StorageError),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: record {key} of table {table} is damaged: {reason}", path.display())]
    Record { path: PathBuf, table: &'static str, key: String, reason: String },
    #[error("{}: a record of table {table} is longer than {MAX_RECORD_BYTES} bytes and cannot be kept", path.display())]
    TooLong { path: PathBuf, table: &'static str },
    /// Whether the transaction is there can only be told after the file was opened again.
    #[error("{}: a transaction could not be completed: {reason}; restart the dispatcher", path.display())]
    Commit { path: PathBuf, reason: String },
    #[error("no room: what is kept free for {} cannot be had; make room on its filesystem", path.display())]
    NoRoom { path: PathBuf },
    #[error("{}: {reason}", path.display())]
    Failed { path: PathBuf, reason: String },
}

type Result<T> = std::result::Result<T, DbError>;

/// A type that is kept in a table of its own. Records sort by their key.
pub trait Record: Serialize + DeserializeOwned {
    const TABLE: &'static str;
    fn key(&self) -> Vec<u8>;
}

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn table_of(name: &'static str) -> Definition {
    TableDefinition::new(name)
}

/// An open database. Shared by threads; writers take turns.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    reserve: Arc<Reserve>,
    /// Written only by [`Self::check`], which must be alone.
    inner: RwLock<redb::Database>,
    /// An error of the file has ended all writing until it is opened again.
    lost: AtomicBool,
}

impl Db {
    /// Makes a new database. A file that is there is emptied.
    pub fn create(storage: &Storage, path: &Path) -> Result<Self> {
        Self::start(storage.open(path, Access::Replace)?)
    }

    /// Opens a database after a check of all of it.
    pub fn open(storage: &Storage, path: &Path) -> Result<Self> {
        let file = storage.open(path, Access::Write)?;
        if file.length()? == 0 {
            return Err(DbError::Damaged { path: path.to_owned(), reason: "it is empty".to_owned() });
        }
        Self::start(file)
    }

    fn start(file: DataFile) -> Result<Self> {
        let path = file.path().to_owned();
        let reserve = Arc::new(Reserve { file, end: AtomicU64::new(0) });
        let backend = Backend(Arc::clone(&reserve));
        let open = || {
            redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)
        };
        // The check covers what redb trusts; should a panic be left in it, a damaged file is still only an error.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        match opened {
            Ok(Ok(inner)) => {
                let lost = AtomicBool::new(false);
                Ok(Self { path, reserve, inner: RwLock::new(inner), lost })
            }
            Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(e)))) if !is_damage(&e) => {
                Err(failed(&path, e))
            }
            Ok(Err(e)) => Err(DbError::Damaged { path, reason: e.to_string() }),
            Err(_) => Err(DbError::Damaged { path, reason: "redb cannot make sense of it".to_owned() }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with<T>(&self, f: impl FnOnce(&redb::Database) -> std::result::Result<T, DbError>) -> Result<T> {
        let guard =
            self.inner.read().map_err(|_| failed(&self.path, "a thread died while it checked the file"))?;
        f(&guard)
    }

    pub fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>> {
        self.with(|db| {
            let tx = db.begin_read().map_err(|e| failed(&self.path, e))?;
            let table = match tx.open_table(table_of(R::TABLE)) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(e) => return Err(failed(&self.path, e)),
            };
            let value = table.get(key).map_err(|e| failed(&self.path, e))?;
            value.map(|value| decode::<R>(&self.path, key, value.value())).transpose()
        })
    }

    /// Records with keys in `range`, ascending.
    pub fn range<R: Record>(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Result<Vec<R>> {
        let mut out = Vec::new();
        self.scan(range, false, |record| {
            out.push(record);
            true
        })?;
        Ok(out)
    }

    /// The record with the greatest key in `range`.
    pub fn last<R: Record>(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Result<Option<R>> {
        let mut last = None;
        self.scan(range, true, |record| {
            last = Some(record);
            false
        })?;
        Ok(last)
    }

    pub fn all<R: Record>(&self) -> Result<Vec<R>> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    /// Calls `visit` with each record in `range`, from the end if `backwards`, until it returns `false`.
    pub fn scan<R: Record>(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        backwards: bool,
        mut visit: impl FnMut(R) -> bool,
    ) -> Result<()> {
        self.with(|db| {
            let tx = db.begin_read().map_err(|e| failed(&self.path, e))?;
            let table = match tx.open_table(table_of(R::TABLE)) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(e) => return Err(failed(&self.path, e)),
            };
            let mut entries = table.range::<&[u8]>(range).map_err(|e| failed(&self.path, e))?;
            while let Some(entry) = if backwards { entries.next_back() } else { entries.next() } {
                let (key, value) = entry.map_err(|e| failed(&self.path, e))?;
                if !visit(decode::<R>(&self.path, key.value(), value.value())?) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Carries out `f` in one transaction that is on stable storage when this returns. If `f` fails, nothing
    /// happened. Where the reserve is not whole, nothing is tried: a commit that meets the end of the disk could not be
    /// told from one that happened.
    pub fn write<T, E: From<DbError>>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.reserve.fill()?;
        self.write_in_reserve(f)
    }

    /// As [`Self::write`], also from the reserve: for small records that say how things stand. They replace older ones,
    /// so that they take no more and more of it.
    pub fn write_in_reserve<T, E: From<DbError>>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let guard =
            self.inner.read().map_err(|_| failed(&self.path, "a thread died while it checked the file"))?;
        let mut tx = guard.begin_write().map_err(|e| self.lose(e))?;
        tx.set_durability(redb::Durability::Immediate).map_err(|e| failed(&self.path, e))?;
        let value = f(&Transaction { tx: &tx, path: &self.path })?;
        tx.commit().map_err(|e| self.lose(e))?;
        Ok(value)
    }

    /// Whether nothing can be written any more, whatever room there is by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, error: impl ToString) -> DbError {
        self.lost.store(true, Ordering::Relaxed);
        DbError::Commit { path: self.path.clone(), reason: error.to_string() }
    }

    /// Walks the whole file. `Ok(Some(what))` says what is wrong with it.
    pub fn check(&self) -> Result<Option<String>> {
        let mut guard =
            self.inner.write().map_err(|_| failed(&self.path, "a thread died while it checked the file"))?;
        match guard.check_integrity() {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some("redb found damage and repaired it".to_owned())),
            Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(what))) => Ok(Some(what)),
            Err(e) => Err(failed(&self.path, e)),
        }
    }
}

/// An open transaction; gone with everything in it unless its closure returns `Ok`.
pub struct Transaction<'a> {
    tx: &'a redb::WriteTransaction,
    path: &'a Path,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Transaction<'_> {
    pub fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>> {
        let table = self.tx.open_table(table_of(R::TABLE)).map_err(|e| failed(self.path, e))?;
        let value = table.get(key).map_err(|e| failed(self.path, e))?;
        value.map(|value| decode::<R>(self.path, key, value.value())).transpose()
    }

    /// The record with the greatest key in `range`.
    pub fn last<R: Record>(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Result<Option<R>> {
        let table = self.tx.open_table(table_of(R::TABLE)).map_err(|e| failed(self.path, e))?;
        let mut entries = table.range::<&[u8]>(range).map_err(|e| failed(self.path, e))?;
        let Some(entry) = entries.next_back() else {
            return Ok(None);
        };
        let (key, value) = entry.map_err(|e| failed(self.path, e))?;
        decode::<R>(self.path, key.value(), value.value()).map(Some)
    }

    pub fn all<R: Record>(&self) -> Result<Vec<R>> {
        let table = self.tx.open_table(table_of(R::TABLE)).map_err(|e| failed(self.path, e))?;
        let entries = table.iter().map_err(|e| failed(self.path, e))?;
        entries
            .map(|entry| {
                let (key, value) = entry.map_err(|e| failed(self.path, e))?;
                decode::<R>(self.path, key.value(), value.value())
            })
            .collect()
    }

    /// Adds a record, in the place of one with the same key.
    pub fn put<R: Record>(&self, record: &R) -> Result<()> {
        let key = record.key();
        let value = encode(self.path, &key, record)?;
        let mut table = self.tx.open_table(table_of(R::TABLE)).map_err(|e| failed(self.path, e))?;
        table.insert(key.as_slice(), value.as_slice()).map_err(|e| failed(self.path, e))?;
        Ok(())
    }

    pub fn remove<R: Record>(&self, key: &[u8]) -> Result<()> {
        let mut table = self.tx.open_table(table_of(R::TABLE)).map_err(|e| failed(self.path, e))?;
        table.remove(key).map_err(|e| failed(self.path, e))?;
        Ok(())
    }
}

/// Whether an error tells of the file's content (redb's own, or the end of the file where there should be more)
/// and not of an operation that failed.
fn is_damage(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>());
    inner.is_none_or(|inner| inner.source.kind() == io::ErrorKind::UnexpectedEof)
}

fn failed(path: &Path, reason: impl ToString) -> DbError {
    DbError::Failed { path: path.to_owned(), reason: reason.to_string() }
}

fn encode<R: Record>(path: &Path, key: &[u8], record: &R) -> Result<Vec<u8>> {
    let mut value = vec![0; CHECKSUM_BYTES];
    bincode::serde::encode_into_std_write(record, &mut value, CODEC)
        .map_err(|e| failed(path, format!("a record of table {} cannot be encoded: {e}", R::TABLE)))?;
    if value.len() > MAX_RECORD_BYTES {
        return Err(DbError::TooLong { path: path.to_owned(), table: R::TABLE });
    }
    let crc = checksum(R::TABLE, key, &value[CHECKSUM_BYTES..]);
    value[..CHECKSUM_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(value)
}

fn decode<R: Record>(path: &Path, key: &[u8], value: &[u8]) -> Result<R> {
    let damaged = |reason: String| DbError::Record {
        path: path.to_owned(),
        table: R::TABLE,
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
        reason,
    };
    let Some((stored, bytes)) = value.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err(damaged("it is too short".to_owned()));
    };
    if u32::from_le_bytes(*stored) != checksum(R::TABLE, key, bytes) {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    match bincode::serde::decode_from_slice::<R, _>(bytes, CODEC) {
        Ok((record, used)) if used == bytes.len() => Ok(record),
        Ok(_) => Err(damaged("bytes are left over".to_owned())),
        Err(e) => Err(damaged(e.to_string())),
    }
}

fn checksum(table: &str, key: &[u8], bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), key);
    crc32c::crc32c_append(seed, bytes)
}

/// The file, and the blocks that are allocated for it behind its end, where no other file can take them: its
/// transactions do not fail for a full disk.
#[derive(Debug)]
struct Reserve {
    file: DataFile,
    /// Up to here blocks are allocated.
    end: AtomicU64,
}

impl Reserve {
    /// Makes it whole, if it is not.
    fn fill(&self) -> Result<()> {
        let length = self.file.length()?;
        let end = length + length.clamp(MIN_RESERVE, MAX_RESERVE);
        if self.end.load(Ordering::Acquire) >= end {
            return Ok(());
        }
        match self.file.preallocate(0..end) {
            // Where the filesystem cannot keep room, there is none to check either.
            Ok(_) => self.end.store(end, Ordering::Release),
            Err(e) if e.is_no_room() => return Err(DbError::NoRoom { path: self.file.path().to_owned() }),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

/// Lets redb work on a file of [`Storage`], so that its operations can be failed as all others. The store's own
/// lock keeps others out.
#[derive(Debug)]
struct Backend(Arc<Reserve>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.file.length().map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.file.read_at(out, offset).map_err(io::Error::other)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = self.0.file.set_len(len).map_err(io::Error::other);
        // A file that gets shorter gives all blocks behind its end back.
        self.0.end.fetch_min(len, Ordering::AcqRel);
        set
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.file.write_at(data, offset).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        id: u64,
        text: String,
    }

    impl Record for Row {
        const TABLE: &'static str = "rows";
        fn key(&self) -> Vec<u8> {
            self.id.to_be_bytes().to_vec()
        }
    }

    fn row(id: u64) -> Row {
        Row { id, text: format!("row {id}") }
    }

    fn filled(path: &Path) {
        let db = Db::create(&Storage::default(), path).unwrap();
        for id in 1..=40 {
            db.write::<_, DbError>(|tx| tx.put(&row(id))).unwrap();
        }
    }

    /// A full disk refuses a transaction before it begins, and the next one works when there is room.
    #[test]
    fn without_its_reserve_nothing_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let is_full = Arc::clone(&full);
        let storage = Storage::gated(move |action, _| {
            let fails = is_full.load(Ordering::SeqCst) && action == "keep room for";
            if fails {
                Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
            } else {
                Ok(())
            }
        });
        let path = dir.path().join("db");
        let db = Db::create(&storage, &path).unwrap();
        full.store(true, Ordering::SeqCst);
        let write = |id| db.write::<_, DbError>(|tx| tx.put(&row(id)));
        assert!(matches!(write(1), Err(DbError::NoRoom { .. })));
        assert!(!db.is_lost());
        db.write_in_reserve::<_, DbError>(|tx| tx.put(&row(2))).unwrap();
        full.store(false, Ordering::SeqCst);
        write(3).unwrap();
        full.store(true, Ordering::SeqCst);
        // It is whole now, and stays so until the file grows.
        write(4).unwrap();
        assert_eq!(db.all::<Row>().unwrap().len(), 3);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap()) * 512;
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(blocks >= length + MIN_RESERVE, "{blocks} bytes for {length}");
    }

    #[test]
    fn records_are_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        filled(&path);
        let db = Db::open(&Storage::default(), &path).unwrap();
        assert_eq!(db.get(&7u64.to_be_bytes()).unwrap(), Some(row(7)));
        assert_eq!(db.get::<Row>(&70u64.to_be_bytes()).unwrap(), None);
        assert_eq!(db.last((Bound::Unbounded, Bound::Unbounded)).unwrap(), Some(row(40)));
        let (from, to) = (3u64.to_be_bytes(), 5u64.to_be_bytes());
        let some: Vec<Row> = db.range((Bound::Included(&from), Bound::Excluded(&to))).unwrap();
        assert_eq!(some, vec![row(3), row(4)]);
        let error = db.write(|tx| {
            tx.put(&row(41))?;
            Err::<(), _>(failed(&path, "no"))
        });
        assert!(error.is_err());
        assert_eq!(db.all::<Row>().unwrap().len(), 40, "a failed transaction leaves nothing");
        assert_eq!(db.check().unwrap(), None);
    }

    #[test]
    fn a_record_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::create(&Storage::default(), &dir.path().join("db")).unwrap();
        let long = Row { id: 1, text: "x".repeat(MAX_RECORD_BYTES) };
        assert!(db.write::<_, DbError>(|tx| tx.put(&long)).is_err());
    }

    #[test]
    fn a_flipped_bit_never_gives_another_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        filled(&path);
        let good = std::fs::read(&path).unwrap();
        let bits = good.len() * 8;
        let mut found = 0;
        for step in 0..150 {
            let mut bad = good.clone();
            let bit = (step * 7_919_999 + 12_345) % bits;
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            match Db::open(&Storage::default(), &path).and_then(|db| db.all::<Row>()) {
                Ok(rows) => assert_eq!(rows, (1..=40).map(row).collect::<Vec<_>>(), "bit {bit}"),
                Err(_) => found += 1,
            }
        }
        assert!(found > 0, "no flip was found in {bits} bits");
    }
}
