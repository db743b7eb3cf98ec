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
//!
//! After an upgrade to another ABI there are two such folders for a while: new programs are attached at once, each disk
//! goes over when it is tracked (`handover`), and the old programs are detached when none is left with them.

mod bpffs;
pub mod btf;
mod canary;
mod disk;
mod error;
mod handover;
mod inflight;
mod maps;
mod object;
mod pinned;
mod probe;
mod record;
mod refuse;
mod renew;
mod stat;
mod store;

pub use disk::DiskTracker;
pub use error::TrackerError;
pub use inflight::Inflight;
pub use probe::{Probe, probes};

use crate::model::bitmap::Bitmap;
use crate::model::ids::{AgentId, DiskIdentity, Epoch};
use crate::model::tracking::{AGENT_WORDS, Baseline, BaselineSearch, EpochRecord, Reporting};
use crate::model::units::GranuleSize;
use blxrep_ebpf::{
    ABI_VERSION, DiskRef, MAX_BUCKETS, MAX_DISKS, bitmap_groups, bitmap_words, device_key, mode,
};
use bpffs::PinDir;
use disk::Slot;
use maps::Words;
use pinned::Pinned;
use stat::StatFiles;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store::{RECORD_WORDS, RecordStore};

/// How long a fresh attach waits for samples that agree on a baseline, which also proves that what was in flight at
/// attach has ended. Long enough for a slow disk's queue to drain once.
const BASELINE_WAIT: Duration = Duration::from_secs(20);
/// Versions whose maps and records have the layouts that this one reads, so that an upgraded agent takes over what they
/// know; their programs need not be these. Whoever changes a layout empties this list, or teaches this folder the old
/// one. Version 0 is no release's: upgrades are rehearsed with it, by pins that were renamed.
const READABLE_ABIS: [u32; 1] = [0];
/// What a disk of which nothing is pinned has behind it.
const BEGINS: &str = "nothing was pinned of this disk: a first start, a reboot, or removed pins";
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
    /// Likewise, in maps of another version until now.
    TakenOver { version: u32 },
    /// Nothing is known of what changed before now.
    Fresh { reason: String },
}

/// All programs and maps of one agent.
#[derive(Debug)]
pub struct Tracker {
    options: TrackerOptions,
    pins: PinDir,
    current: Pinned,
    /// Versions whose programs still track disks, for those that were not taken over yet.
    former: Vec<Pinned>,
    /// Versions whose maps cannot be read here, and which are gone.
    unreadable: Vec<String>,
    /// Why a disk of which nothing is pinned begins.
    begins: &'static str,
}

/// Where a new slot's knowledge comes from.
enum Origin<'a> {
    /// Nothing is known of what changed before now, for this reason.
    New(Epoch, String),
    /// All that another version knows.
    From(&'a DiskTracker),
}

impl Tracker {
    /// Adopts the pins of this ABI version if all are there, else loads and attaches. Only then are other versions looked
    /// at: those that can be read go on until their disks have gone over, the others are removed.
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
        let mut current = match Pinned::open(ABI_VERSION, &folder) {
            Ok(pinned) => pinned,
            Err(_) => {
                bpffs::remove(&folder)?;
                bpffs::make_whole(&folder, |half_made| object::load_into(half_made, &options))?;
                Pinned::open(ABI_VERSION, &folder)?
            }
        };
        // A canary that was out when the last agent died.
        current.shared.control.get()[0].store(0, Ordering::SeqCst);
        current.clear_half_made()?;
        let mut tracker =
            Self { options, pins, current, former: Vec::new(), unreadable: Vec::new(), begins: BEGINS };
        tracker.find_former()?;
        tracker.retire_former()?;
        Ok(tracker)
    }

    /// Looks for pins of other versions.
    fn find_former(&mut self) -> Result<(), TrackerError> {
        for name in bpffs::names(self.pins.path())? {
            let folder = self.pins.path().join(&name);
            if folder == self.current.folder {
                continue;
            }
            let version = name.strip_prefix('v').and_then(|version| version.parse().ok());
            let readable = version.filter(|version| READABLE_ABIS.contains(version));
            if let Some(Ok(former)) = readable.map(|version| Pinned::open(version, &folder)) {
                self.former.push(former);
                continue;
            }
            if version.is_some() {
                self.unreadable.push(name);
            }
            bpffs::remove(&folder)?;
        }
        Ok(())
    }

    /// Lets go what other versions have of disks that are tracked here by now, and detaches those that have nothing
    /// left.
    fn retire_former(&mut self) -> Result<(), TrackerError> {
        let here = self.current.tracked()?;
        for mut former in std::mem::take(&mut self.former) {
            for slot in former.slots()? {
                if former.record(slot).is_none_or(|record| here.contains(&record.get().identity)) {
                    former.clear_slot(slot)?;
                }
            }
            if former.slots()?.is_empty() {
                bpffs::remove(&former.folder)?;
            } else {
                self.former.push(former);
            }
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
        let reason = match self.current.find(&spec.identity)? {
            None => match self.take_over(spec)? {
                Ok((disk, version)) => return Ok((Arc::new(disk), Attach::TakenOver { version })),
                Err(reason) => reason,
            },
            Some((slot, record)) => match self.current.mismatch(slot, &record.get(), spec) {
                None => return Ok((Arc::new(self.current.adopt((slot, record), spec)?), Attach::Adopted)),
                Some(reason) => {
                    self.current.clear_slot(slot)?;
                    reason
                }
            },
        };
        let disk = self.begin(spec, Origin::New(epoch_if_fresh, reason.clone()))?;
        self.retire_former()?;
        Ok((Arc::new(disk), Attach::Fresh { reason }))
    }

    /// Takes a disk over from another version, or says why it has to begin anew.
    fn take_over(&mut self, spec: &DiskSpec) -> Result<Result<(DiskTracker, u32), String>, TrackerError> {
        for former in &self.former {
            let Some((slot, record)) = former.find(&spec.identity)? else { continue };
            if let Some(reason) = former.mismatch(slot, &record.get(), spec) {
                return Ok(Err(reason));
            }
            let (known, version) = (former.adopt((slot, record), spec)?, former.version);
            return Ok(match self.begin(spec, Origin::From(&known)) {
                Ok(disk) => {
                    self.retire_former()?;
                    Ok((disk, version))
                }
                // Their tables never agreed: the old programs have lost something that cannot be named.
                Err(TrackerError::NeverSettled { .. }) => Err(format!(
                    "the programs of version {version} and those that take their place never agreed on what is in flight"
                )),
                Err(error) => return Err(error),
            });
        }
        Ok(Err(match self.unreadable.as_slice() {
            [] => self.begins.to_owned(),
            names => format!(
                "the pins of another version of this program ({}) cannot be read by this one",
                names.join(", ")
            ),
        }))
    }

    /// Stops tracking a disk and forgets it.
    pub fn untrack(&mut self, identity: &DiskIdentity) -> Result<(), TrackerError> {
        for pinned in std::iter::once(&mut self.current).chain(&mut self.former) {
            if let Some((slot, _)) = pinned.find(identity)? {
                pinned.clear_slot(slot)?;
            }
        }
        self.retire_former()
    }

    /// Identities of the disks that are pinned.
    pub fn tracked(&self) -> Result<Vec<DiskIdentity>, TrackerError> {
        self.current.tracked()
    }

    /// Detaches and unpins everything of this agent.
    pub fn remove_all(self) -> Result<(), TrackerError> {
        bpffs::remove(self.pins.path())
    }

    /// Name, runs and nanoseconds of each program; 0 unless the sysctl `kernel.bpf_stats_enabled` is on.
    pub fn run_times(&self) -> Result<Vec<(&'static str, u64, u64)>, TrackerError> {
        self.current.object.run_times()
    }

    /// A fresh attach. The order matters: bitmaps, device, hooks, canary, baseline; the record makes it an epoch.
    fn begin(&mut self, spec: &DiskSpec, origin: Origin<'_>) -> Result<DiskTracker, TrackerError> {
        let taken = self.current.slots()?;
        let slot = (0..MAX_DISKS).find(|slot| !taken.contains(slot));
        let slot =
            slot.ok_or_else(|| TrackerError::TooManyDisks { node: spec.node.clone(), max: MAX_DISKS })?;
        // What a half-made attach may have left under this number.
        self.current.clear_slot(slot)?;
        let folder = self.current.disk_folder(slot);
        let made = bpffs::make_whole(&folder, |half_made| self.fill(slot, spec, &origin, half_made));
        if made.is_err() {
            // The first error is the one to report; the next attach clears the slot as well.
            let _ = self.current.clear_slot(slot);
        }
        made
    }

    fn fill(
        &mut self,
        slot: u32,
        spec: &DiskSpec,
        origin: &Origin<'_>,
        folder: &Path,
    ) -> Result<DiskTracker, TrackerError> {
        let granule = match origin {
            Origin::New(..) => GranuleSize::for_disk(spec.bytes, self.options.max_map_bytes),
            Origin::From(former) => former.granule(),
        };
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
        let pending = Words::map(pending.fd(), words, "pending")?;
        let (object, shared) = (&mut self.current.object, Arc::clone(&self.current.shared));
        Slot::new(&shared, slot).reset(granule, granules);
        object.set_bitmaps(slot, &issued, &completed)?;
        let mode = if reporting == Reporting::Bios { mode::BIO } else { mode::REQUEST };
        object.set_disk(device_key(spec.major, spec.minor), DiskRef { slot, mode })?;
        if reporting == Reporting::Bios {
            object.attach_bio_hooks()?;
        }
        canary::send(&spec.node, &shared.control, &Slot::new(&shared, slot))?;
        // From here on the programs see every change.
        let first = match origin {
            Origin::New(epoch, why) => {
                let baseline = find_baseline(&files, &Slot::new(&shared, slot), shared.started, &spec.node)?;
                let first = first_record(*epoch, spec, granule, baseline);
                EpochRecord { gap: Some(why.clone()), ..first }
            }
            Origin::From(former) => {
                let bits = Bitmap::new(pending.get(), granules)
                    .ok_or_else(|| TrackerError::TooLarge { node: spec.node.clone(), bytes: spec.bytes })?;
                handover::carry(former, &bits);
                handover::record(former, &Slot::new(&shared, slot), &shared.programs, &spec.node)?
            }
        };
        Ok(DiskTracker {
            slot,
            granule,
            granules,
            reporting,
            hooks: object.hooks(reporting == Reporting::Bios)?,
            shared,
            issued: Words::map(issued.fd(), words, "issued")?,
            completed: Words::map(completed.fd(), words, "completed")?,
            pending,
            files,
            record: RecordStore::create(Words::map(record.fd(), RECORD_WORDS, "the record")?, &first)?,
            suspects: Mutex::new(None),
        })
    }
}

fn first_record(epoch: Epoch, spec: &DiskSpec, granule: GranuleSize, baseline: Baseline) -> EpochRecord {
    EpochRecord {
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
        gap: None,
        matched: None,
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
