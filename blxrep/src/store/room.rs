//! Whether the data directory takes writes: what is in the way, and a look whether it still is.

use super::Store;
use crate::io::storage::{Access, StorageError};
use crate::model::units::ByteCount;
use std::path::Path;

/// What is written to see whether writes work.
const PROBE_BYTES: usize = 1 << 20;
/// Free bytes from which on it is worth while to go on: less than one extent of every disk would be full again at once.
const ENOUGH_BYTES: u64 = 8 << 20;
const PROBE: &str = "PROBE";

impl Store {
    /// Why nothing can be written, if a write has failed for that and none was seen to work since.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.storage().trouble()?;
        let root = self.data_dir().display();
        Some(match (trouble.no_room, free_bytes(self.data_dir())) {
            (true, Some(free)) => {
                format!(
                    "no room in {root}: {} free; it goes on by itself when there is room",
                    ByteCount(free)
                )
            }
            (true, None) => format!("no room in {root}; it goes on by itself when there is room"),
            (false, _) => {
                format!("{root} cannot be written: {}; it goes on by itself when it can", trouble.what)
            }
        })
    }

    /// Bytes that work which can wait may take, so that points go on beside it.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        free_bytes(self.data_dir()).map_or(u64::MAX, |free| free.saturating_sub(ENOUGH_BYTES))
    }

    /// Tries to write. Whether the trouble is over.
    pub fn try_room(&self) -> bool {
        let Some(trouble) = self.storage().trouble() else { return true };
        let enough = free_bytes(self.data_dir()).is_none_or(|free| free >= ENOUGH_BYTES);
        let over = (enough || !trouble.no_room) && self.probe().is_ok();
        if over {
            self.storage().settle();
        }
        over
    }

    fn probe(&self) -> Result<(), StorageError> {
        let path = self.data_dir().join(PROBE);
        let written = self.storage().open(&path, Access::Replace).and_then(|file| {
            // Not zeroes: a filesystem that compresses would have room for those.
            let bytes: Vec<u8> =
                (0..PROBE_BYTES).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            file.write_at(&bytes, 0)?;
            file.sync()
        });
        let removed = self.storage().remove(&path);
        written.and(removed)
    }
}

/// Bytes that may still be written to the filesystem of `path`.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::storage::Storage;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI32, Ordering};

    #[test]
    fn trouble_lasts_until_a_write_works() {
        let dir = tempfile::tempdir().unwrap();
        let code = Arc::new(AtomicI32::new(0));
        let errno = Arc::clone(&code);
        let storage = Storage::gated(move |action, _| match errno.load(Ordering::SeqCst) {
            code if code != 0 && action == "write" => Err(io::Error::from_raw_os_error(code)),
            _ => Ok(()),
        });
        let data = dir.path().join("data");
        let (store, _) = Store::open_with(storage, &data, Arc::new(|| 7)).unwrap();
        assert_eq!(store.trouble(), None);
        assert!(store.try_room());
        for (with, words) in
            [(rustix::io::Errno::NOSPC, "no room in "), (rustix::io::Errno::IO, "Input/output error")]
        {
            code.store(with.raw_os_error(), Ordering::SeqCst);
            assert!(store.probe().is_err());
            let trouble = store.trouble().unwrap();
            assert!(trouble.contains(words) && trouble.contains("goes on by itself"), "{trouble}");
            assert!(!store.try_room());
            code.store(0, Ordering::SeqCst);
            assert!(store.trouble().is_some(), "nobody has tried yet");
            assert!(store.try_room());
            assert_eq!(store.trouble(), None);
        }
        assert!(!data.join(PROBE).exists());
    }
}
