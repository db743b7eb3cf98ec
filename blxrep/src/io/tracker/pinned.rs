//! What one version of the programs has pinned: its folder, its object, and the disks in it.

use super::disk::{DiskTracker, Shared};
use super::inflight::Table;
use super::maps::Words;
use super::object::{self, Object};
use super::stat::StatFiles;
use super::store::{RECORD_WORDS, RecordStore};
use super::{DiskSpec, TrackerError, bpffs, granules, reporting};
use crate::model::ids::DiskIdentity;
use crate::model::tracking::{EpochRecord, Reporting};
use blxrep_ebpf::{MAX_DISKS, bitmap_words, device_key};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Everything in one `v<ABI>` folder.
#[derive(Debug)]
pub struct Pinned {
    pub version: u32,
    pub folder: PathBuf,
    pub object: Object,
    pub shared: Arc<Shared>,
}

/// A slot with its record.
pub type Found = (u32, RecordStore);

impl Pinned {
    /// Opens what is pinned. An error means that something is missing or of another kind.
    pub fn open(version: u32, folder: &Path) -> Result<Self, TrackerError> {
        let object = Object::adopt(folder)?;
        let shared = Shared {
            slots: object.slots()?,
            table: object.table()?,
            control: object.control()?,
            programs: object.program_fds()?,
            started: Instant::now(),
        };
        Ok(Self { version, folder: folder.to_path_buf(), object, shared: Arc::new(shared) })
    }

    /// Frees the slots whose attach was cut short.
    pub fn clear_half_made(&mut self) -> Result<(), TrackerError> {
        for name in bpffs::names(&self.folder)? {
            let Some(slot) = bpffs::half_made_name(&name).and_then(|n| n.strip_prefix("disk-")?.parse().ok())
            else {
                continue;
            };
            if slot < MAX_DISKS {
                self.clear_slot(slot)?;
            }
            bpffs::remove(&self.folder.join(name))?;
        }
        Ok(())
    }

    pub fn disk_folder(&self, slot: u32) -> PathBuf {
        self.folder.join(format!("disk-{slot}"))
    }

    /// Slots that have a whole folder.
    pub fn slots(&self) -> Result<Vec<u32>, TrackerError> {
        let names = bpffs::names(&self.folder)?;
        let slots = names.iter().filter_map(|name| name.strip_prefix("disk-")?.parse().ok());
        Ok(slots.filter(|slot| *slot < MAX_DISKS).collect())
    }

    pub fn record(&self, slot: u32) -> Option<RecordStore> {
        let map = object::open_map(&self.disk_folder(slot).join("record")).ok()?;
        RecordStore::load(Words::map(map.fd(), RECORD_WORDS, "the record").ok()?)
    }

    /// Identities of the disks that are pinned.
    pub fn tracked(&self) -> Result<Vec<DiskIdentity>, TrackerError> {
        Ok(self.slots()?.into_iter().filter_map(|slot| Some(self.record(slot)?.get().identity)).collect())
    }

    pub fn find(&self, identity: &DiskIdentity) -> Result<Option<Found>, TrackerError> {
        let found = self.slots()?.into_iter().filter_map(|slot| Some((slot, self.record(slot)?)));
        Ok(found.into_iter().find(|(_, record)| record.get().identity == *identity))
    }

    /// Why what is pinned cannot be adopted.
    pub fn mismatch(&self, slot: u32, record: &EpochRecord, spec: &DiskSpec) -> Option<String> {
        let differs = |what: &str, was: &dyn std::fmt::Debug, is: &dyn std::fmt::Debug| {
            Some(format!("{what} was {was:?} when tracking began and is {is:?} now"))
        };
        if record.boot_id != spec.boot_id {
            Some("the host was rebooted".into())
        } else if record.disk_bytes != spec.bytes {
            differs("the disk's size", &record.disk_bytes, &spec.bytes)
        } else if record.diskseq != spec.diskseq {
            differs("the device's sequence number", &record.diskseq, &spec.diskseq)
        } else if record.device != (spec.major, spec.minor) {
            differs("the device number", &record.device, &(spec.major, spec.minor))
        } else if !self.object.tracks(device_key(spec.major, spec.minor), slot) {
            Some("another disk has taken over its device number".into())
        } else if !self.object.has_hooks(reporting(spec) == Reporting::Bios) {
            Some("the pins of its hooks were removed: what was written since was not seen".into())
        } else {
            None
        }
    }

    /// A handle to the maps of a disk that is pinned.
    pub fn adopt(&self, (slot, record): Found, spec: &DiskSpec) -> Result<DiskTracker, TrackerError> {
        let reporting = reporting(spec);
        if reporting == Reporting::Bios {
            self.object.rely_on_bio_hooks();
        }
        let folder = self.disk_folder(slot);
        let now = record.get();
        let granules = granules(now.granule, spec)?;
        let map = |name: &str| {
            let map = object::open_map(&folder.join(name))?;
            Words::map(map.fd(), bitmap_words(u64::from(granules)), name)
        };
        Ok(DiskTracker {
            slot,
            granule: now.granule,
            granules,
            reporting,
            hooks: self.object.hooks(reporting == Reporting::Bios)?,
            shared: Arc::clone(&self.shared),
            issued: map("issued")?,
            completed: map("completed")?,
            pending: map("pending")?,
            files: StatFiles::open(&spec.sysfs)?,
            record,
            suspects: Mutex::new(None),
        })
    }

    /// Frees a slot: device, bitmaps, pins, entries in the table. Requests that are still in flight complete untracked.
    pub fn clear_slot(&mut self, slot: u32) -> Result<(), TrackerError> {
        self.object.forget_slot(slot)?;
        // This also waits for the programs that found the device a moment ago.
        self.object.clear_bitmaps(slot)?;
        let table = Table(self.shared.table.get());
        for entry in table.entries(slot) {
            table.take(&entry);
        }
        bpffs::remove(&self.disk_folder(slot))
    }
}
