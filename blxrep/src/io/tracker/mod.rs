//! The eBPF tracker: what changed on which disk, known to the kernel and read from here.
//!
//! Programs, maps and links are pinned under bpffs, so tracking goes on while the agent is down. [`Tracker`] adopts
//! or loads them and decides nothing else; a [`DiskTracker`] is a handle to the maps of one disk, for which every
//! method is a few atomic reads. aya is used in this folder only, and memory of the kernel is mapped in `maps`
//! only.
//!
//! ```text
//! <pin-dir>/v<ABI>/            programs, links, shared maps; renamed to this name when all of them are there
//! <pin-dir>/v<ABI>/disk-<slot>/   issued, completed, pending, record of one disk; likewise
//! ```

mod bpffs;
pub mod btf;
mod canary;
mod disk;
mod error;
mod inflight;
mod maps;
mod object;
mod probe;
mod record;
mod refuse;
mod stat;
mod store;

pub use disk::DiskTracker;
pub use error::TrackerError;
pub use inflight::Inflight;
pub use probe::{Probe, probes};

use crate::model::ids::{AgentId, DiskIdentity, Epoch};
use crate::model::tracking::{AGENT_WORDS, Baseline, BaselineSearch, EpochRecord, Reporting};
use crate::model::units::GranuleSize;
use blxrep_ebpf::{
    ABI_VERSION, DiskRef, MAX_BUCKETS, MAX_DISKS, bitmap_groups, bitmap_words, device_key, mode,
};
use bpffs::PinDir;
use disk::{Shared, Slot};
use inflight::Table;
use maps::Words;
use object::Object;
use stat::StatFiles;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store::{RECORD_WORDS, RecordStore};

/// How long a fresh attach waits for samples that agree on a baseline, which also proves that what was in flight at
/// attach has ended. Long enough for a slow disk's queue to drain once.
const BASELINE_WAIT: Duration = Duration::from_secs(20);
/// Between two samples: as far apart as they must be to count.
const SAMPLE_PAUSE: Duration = Duration::from_micros(300);

/// Where to pin, and how much memory may be used.
#[derive(Clone, Debug)]
pub struct TrackerOptions {
    /// On bpffs, one per agent; no dots.
    pub pin_dir: PathBuf,
    /// The running kernel's BTF.
    pub btf: PathBuf,
    /// Bound of the three bitmaps of one disk; a larger disk gets a coarser granule.
    pub max_map_bytes: u64,
    /// Buckets of the in-flight table, 16 requests each.
    pub buckets: u32,
}

impl TrackerOptions {
    /// Name of an agent's directory on bpffs, where names may have no dots.
    #[must_use]
    pub fn folder_of(agent: &AgentId) -> String {
        bpffs::file_name(agent.as_str())
    }

    /// For a trial of what this kernel can do, beside the pins of agents.
    #[must_use]
    pub fn for_doctor() -> Self {
        Self::pinned_as("doctor")
    }

    /// Pins under `/sys/fs/bpf/blxrep/<agent>`, 100 MiB of maps per TiB of disk with room for 16 TiB.
    #[must_use]
    pub fn for_agent(agent: &AgentId) -> Self {
        Self::pinned_as(&Self::folder_of(agent))
    }

    fn pinned_as(folder: &str) -> Self {
        Self {
            pin_dir: Path::new("/sys/fs/bpf/blxrep").join(folder),
            btf: PathBuf::from("/sys/kernel/btf/vmlinux"),
            max_map_bytes: 1600 << 20,
            buckets: object::DEFAULT_BUCKETS,
        }
    }
}

/// A disk to track, as the host inventory found it.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    pub node: PathBuf,
    pub major: u32,
    pub minor: u32,
    /// `/sys/block/<name>`
    pub sysfs: PathBuf,
    pub bytes: u64,
    pub identity: DiskIdentity,
    pub boot_id: String,
    pub diskseq: Option<u64>,
}

/// How a disk came to be tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Its maps have known every change since the record's epoch began.
    Adopted,
    /// Nothing is known of what changed before now.
    Fresh { reason: String },
}

/// All programs and maps of one agent.
#[derive(Debug)]
pub struct Tracker {
    options: TrackerOptions,
    pins: PinDir,
    folder: PathBuf,
    object: Object,
    shared: Arc<Shared>,
}

impl Tracker {
    /// Adopts the pins of this ABI version if all are there, else loads and attaches; then removes what other versions
    /// have left, so that at no time nothing is attached.
    pub fn open(options: TrackerOptions) -> Result<Self, TrackerError> {
        if !(1..=MAX_BUCKETS).contains(&options.buckets) {
            return Err(TrackerError::Bpf {
                action: format!("make an in-flight table of {} buckets", options.buckets),
                reason: format!("there must be 1 to {MAX_BUCKETS}"),
            });
        }
        bpffs::mount_if_absent()?;
        let pins = PinDir::open(&options.pin_dir)?;
        let folder = pins.path().join(format!("v{ABI_VERSION}"));
        let object = match Object::adopt(&folder) {
            Ok(object) => object,
            Err(_) => {
                bpffs::remove(&folder)?;
                bpffs::make_whole(&folder, |half_made| object::load_into(half_made, &options))?;
                Object::adopt(&folder)?
            }
        };
        for name in bpffs::names(pins.path())? {
            let other = pins.path().join(name);
            if other != folder {
                bpffs::remove(&other)?;
            }
        }
        let shared = Shared {
            slots: object.slots()?,
            table: object.table()?,
            control: object.control()?,
            started: Instant::now(),
        };
        // A canary that was out when the last agent died.
        shared.control.get()[0].store(0, Ordering::SeqCst);
        let mut tracker = Self { options, pins, folder, object, shared: Arc::new(shared) };
        tracker.clear_half_made()?;
        Ok(tracker)
    }

    /// Frees the slots whose attach was cut short.
    fn clear_half_made(&mut self) -> Result<(), TrackerError> {
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

    /// Tracks a disk: adopts what is pinned for it if that still fits, else starts a new epoch.
    pub fn track(
        &mut self,
        spec: &DiskSpec,
        epoch_if_fresh: Epoch,
    ) -> Result<(Arc<DiskTracker>, Attach), TrackerError> {
        refuse::check(spec)?;
        let reason = match self.pinned_slot(&spec.identity)? {
            None => "tracking of this disk begins".to_owned(),
            Some((slot, record)) => match self.mismatch(slot, &record.get(), spec) {
                None => return Ok((Arc::new(self.adopt(slot, record, spec)?), Attach::Adopted)),
                Some(reason) => {
                    self.clear_slot(slot)?;
                    reason
                }
            },
        };
        Ok((Arc::new(self.begin(spec, epoch_if_fresh)?), Attach::Fresh { reason }))
    }

    /// Stops tracking a disk and forgets it.
    pub fn untrack(&mut self, identity: &DiskIdentity) -> Result<(), TrackerError> {
        match self.pinned_slot(identity)? {
            Some((slot, _)) => self.clear_slot(slot),
            None => Ok(()),
        }
    }

    /// Identities of the disks that are pinned.
    pub fn tracked(&self) -> Result<Vec<DiskIdentity>, TrackerError> {
        Ok(self.slots()?.into_iter().filter_map(|slot| Some(self.record(slot)?.get().identity)).collect())
    }

    /// Detaches and unpins everything of this agent.
    pub fn remove_all(self) -> Result<(), TrackerError> {
        bpffs::remove(self.pins.path())
    }

    /// Events that the kernel skipped because a program was already running on that CPU.
    pub fn recursion_misses(&self) -> Result<u64, TrackerError> {
        self.object.recursion_misses()
    }

    /// Name, runs and nanoseconds of each program; 0 unless the sysctl `kernel.bpf_stats_enabled` is on.
    pub fn run_times(&self) -> Result<Vec<(&'static str, u64, u64)>, TrackerError> {
        self.object.run_times()
    }

    fn disk_folder(&self, slot: u32) -> PathBuf {
        self.folder.join(format!("disk-{slot}"))
    }

    /// Slots that have a whole folder.
    fn slots(&self) -> Result<Vec<u32>, TrackerError> {
        let names = bpffs::names(&self.folder)?;
        let slots = names.iter().filter_map(|name| name.strip_prefix("disk-")?.parse().ok());
        Ok(slots.filter(|slot| *slot < MAX_DISKS).collect())
    }

    fn record(&self, slot: u32) -> Option<RecordStore> {
        let map = object::open_map(&self.disk_folder(slot).join("record")).ok()?;
        RecordStore::load(Words::map(map.fd(), RECORD_WORDS, "the record").ok()?)
    }

    fn pinned_slot(&self, identity: &DiskIdentity) -> Result<Option<(u32, RecordStore)>, TrackerError> {
        let found = self.slots()?.into_iter().filter_map(|slot| Some((slot, self.record(slot)?)));
        Ok(found.into_iter().find(|(_, record)| record.get().identity == *identity))
    }

    /// Why what is pinned cannot be adopted.
    fn mismatch(&self, slot: u32, record: &EpochRecord, spec: &DiskSpec) -> Option<String> {
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
        } else {
            None
        }
    }

    fn adopt(&self, slot: u32, record: RecordStore, spec: &DiskSpec) -> Result<DiskTracker, TrackerError> {
        let reporting = reporting(spec);
        if reporting == Reporting::Bios {
            self.object.attach_bio_hooks()?;
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
            shared: Arc::clone(&self.shared),
            issued: map("issued")?,
            completed: map("completed")?,
            pending: map("pending")?,
            files: StatFiles::open(&spec.sysfs)?,
            record,
            suspects: Mutex::new(None),
        })
    }

    /// A fresh attach. The order matters: bitmaps, device, hooks, canary, baseline; the record makes it an epoch.
    fn begin(&mut self, spec: &DiskSpec, epoch: Epoch) -> Result<DiskTracker, TrackerError> {
        let taken = self.slots()?;
        let slot = (0..MAX_DISKS).find(|slot| !taken.contains(slot));
        let slot =
            slot.ok_or_else(|| TrackerError::TooManyDisks { node: spec.node.clone(), max: MAX_DISKS })?;
        // What a half-made attach may have left under this number.
        self.clear_slot(slot)?;
        let folder = self.disk_folder(slot);
        let made = bpffs::make_whole(&folder, |half_made| self.fill(slot, spec, epoch, half_made));
        if made.is_err() {
            // The first error is the one to report; the next attach clears the slot as well.
            let _ = self.clear_slot(slot);
        }
        made
    }

    fn fill(
        &mut self,
        slot: u32,
        spec: &DiskSpec,
        epoch: Epoch,
        folder: &Path,
    ) -> Result<DiskTracker, TrackerError> {
        let granule = GranuleSize::for_disk(spec.bytes, self.options.max_map_bytes);
        let granules = granules(granule, spec)?;
        let reporting = reporting(spec);
        let words = bitmap_words(u64::from(granules));
        let too_large = |_| TrackerError::TooLarge { node: spec.node.clone(), bytes: spec.bytes };
        let groups = u32::try_from(bitmap_groups(u64::from(granules))).map_err(too_large)?;
        let files = StatFiles::open(&spec.sysfs)?;

        let issued = object::new_bitmap(groups, &folder.join("issued"))?;
        let completed = object::new_bitmap(groups, &folder.join("completed"))?;
        let pending = object::new_words(u32::try_from(words).map_err(too_large)?, &folder.join("pending"))?;
        let record_words = u32::try_from(RECORD_WORDS).map_err(too_large)?;
        let record = object::new_words(record_words, &folder.join("record"))?;
        Slot::new(&self.shared, slot).reset(granule, granules);
        self.object.set_bitmaps(slot, &issued, &completed)?;
        let mode = if reporting == Reporting::Bios { mode::BIO } else { mode::REQUEST };
        self.object.set_disk(device_key(spec.major, spec.minor), DiskRef { slot, mode })?;
        if reporting == Reporting::Bios {
            self.object.attach_bio_hooks()?;
        }
        canary::send(&spec.node, &self.shared.control, &Slot::new(&self.shared, slot))?;
        let clock = self.shared.started;
        let baseline = find_baseline(&files, &Slot::new(&self.shared, slot), clock, &spec.node)?;
        let first = EpochRecord {
            epoch,
            identity: spec.identity.clone(),
            device: (spec.major, spec.minor),
            disk_bytes: spec.bytes,
            granule,
            boot_id: spec.boot_id.clone(),
            diskseq: spec.diskseq,
            baseline,
            acknowledged: None,
            open: None,
            agent_words: [0; AGENT_WORDS],
        };
        Ok(DiskTracker {
            slot,
            granule,
            granules,
            reporting,
            shared: Arc::clone(&self.shared),
            issued: Words::map(issued.fd(), words, "issued")?,
            completed: Words::map(completed.fd(), words, "completed")?,
            pending: Words::map(pending.fd(), words, "pending")?,
            files,
            record: RecordStore::create(Words::map(record.fd(), RECORD_WORDS, "the record")?, &first)?,
            suspects: Mutex::new(None),
        })
    }

    /// Frees a slot: device, bitmaps, pins, entries in the table. Requests that are still in flight complete untracked.
    fn clear_slot(&mut self, slot: u32) -> Result<(), TrackerError> {
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

/// Bio-based disks have no hardware queues.
fn reporting(spec: &DiskSpec) -> Reporting {
    if spec.sysfs.join("mq").exists() { Reporting::Requests } else { Reporting::Bios }
}

fn granules(granule: GranuleSize, spec: &DiskSpec) -> Result<u32, TrackerError> {
    u32::try_from(granule.count(spec.bytes))
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| TrackerError::TooLarge { node: spec.node.clone(), bytes: spec.bytes })
}

/// Waits for samples that agree: then what was in flight at attach has ended, and the two witnesses can be compared.
fn find_baseline(
    files: &StatFiles,
    slot: &Slot<'_>,
    clock: Instant,
    node: &Path,
) -> Result<Baseline, TrackerError> {
    let deadline = Instant::now() + BASELINE_WAIT;
    let mut search = BaselineSearch::default();
    while Instant::now() < deadline {
        let sample =
            disk::sample(files, slot, clock).map_err(TrackerError::io("read the statistics of", node))?;
        if let Some(baseline) = search.offer(&sample) {
            return Ok(baseline);
        }
        std::thread::sleep(SAMPLE_PAUSE);
    }
    Err(TrackerError::NeverSettled { node: node.to_path_buf() })
}
