//! The eBPF object: loaded, pinned, attached, or adopted from pins.

use super::btf::kernel_layout;
use super::maps::Words;
use super::{TrackerError, TrackerOptions};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use aya::programs::{BtfTracePoint, links::FdLink, links::PinnedLink};
use aya::{Btf, Ebpf, EbpfLoader, Endianness, Pod, VerifierLogLevel};
use blxrep_ebpf::{
    BitmapGroup, Control, DiskRef, DiskSlot, InflightBucket, KernelLayout, MAX_DISKS, globals, maps, programs,
};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Built by `cargo xtask build-ebpf` and committed, with a digest of its sources beside it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../blxrep-ebpf/object/blxrep.bpf.o"));

/// `BPF_F_MMAPABLE`: the array can be mapped into memory.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_INNER_MAP`: an array of its own size inside an array of maps.
const INNER_MAP: u32 = 1 << 12;

/// Types of the ABI as aya wants them.
macro_rules! pod {
    ($name:ident($inner:ty)) => {
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name($inner);
        // SAFETY: plain integers without padding (sizes are tested beside the definitions).
        unsafe impl Pod for $name {}
    };
}
pod!(PodLayout(KernelLayout));
pod!(PodRef(DiskRef));
pod!(PodGroup(BitmapGroup));

/// Buckets of the table: the default is 32768 entries in 1 MiB, see `blxrep_ebpf::BUCKET_ENTRIES`.
pub const DEFAULT_BUCKETS: u32 = 2048;

/// Name of the bitmap that free slots have.
const NOTHING: &str = "nothing";

/// Pinned or loaded: programs and the maps that all disks share.
#[derive(Debug)]
pub struct Object {
    folder: PathBuf,
    disks: HashMap<MapData, u64, PodRef>,
    issued: ArrayOfMaps<MapData>,
    completed: ArrayOfMaps<MapData>,
    programs: Vec<BtfTracePoint>,
    /// A disk depends on the bio hooks.
    needs_bios: AtomicBool,
}

impl std::fmt::Debug for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Pinned links and their inodes. Nothing but its pin keeps a hook attached, and one that is attached anew has another.
#[derive(Debug)]
pub struct Hooks(Vec<(PathBuf, u64)>);

impl Hooks {
    /// Whether these very hooks are attached still.
    pub fn are_attached(&self) -> bool {
        self.0.iter().all(|(path, inode)| fs::metadata(path).is_ok_and(|link| link.ino() == *inode))
    }
}

/// Loads the object and pins it in `folder`: maps, all programs, and the links of the request hooks.
pub fn load_into(folder: &Path, options: &TrackerOptions) -> Result<(), TrackerError> {
    let layout = PodLayout(kernel_layout(&options.btf)?);
    let mut object = EbpfLoader::new()
        // Errors alone: a walk through every path fills any buffer, and older kernels then fail for want of room.
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(globals::LAYOUT, &layout, true)
        .override_global(globals::BUCKETS, &options.buckets, true)
        .map_max_entries(maps::INFLIGHT, options.buckets)
        .load(OBJECT)
        .map_err(|e| TrackerError::bpf("load the eBPF object", &e))?;
    for name in maps::ALL {
        let map = object.map(name).ok_or_else(|| missing("map", name))?;
        map.pin(folder.join(name)).map_err(|e| TrackerError::bpf(format!("pin the map {name}"), &e))?;
    }
    new_bitmap(1, &folder.join(NOTHING))?;
    let btf = Btf::parse_file(&options.btf, Endianness::default())
        .map_err(|e| TrackerError::bpf(format!("read {}", options.btf.display()), &e))?;
    for name in programs::REQUEST.iter().chain(&programs::BIO) {
        load_program(&mut object, name, &btf, folder)?;
    }
    programs::REQUEST.iter().try_for_each(|name| attach(folder, folder, name))
}

fn load_program(object: &mut Ebpf, name: &str, btf: &Btf, folder: &Path) -> Result<(), TrackerError> {
    let program = object.program_mut(name).ok_or_else(|| missing("program", name))?;
    let program: &mut BtfTracePoint =
        program.try_into().map_err(|e| TrackerError::bpf(format!("use the program {name}"), &e))?;
    program.load(name, btf).map_err(|e| TrackerError::bpf(format!("load the program {name}"), &e))?;
    program
        .pin(program_pin(folder, name))
        .map_err(|e| TrackerError::bpf(format!("pin the program {name}"), &e))
}

fn missing(kind: &str, name: &str) -> TrackerError {
    TrackerError::Bpf {
        action: format!("find the {kind} {name}"),
        reason: "the embedded object lacks it".into(),
    }
}

fn program_pin(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("program_{name}"))
}

fn link_pin(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("link_{name}"))
}

/// Attaches the pinned program `name` and pins the link.
fn attach(programs: &Path, links: &Path, name: &str) -> Result<(), TrackerError> {
    let failed = |e: &dyn std::error::Error| TrackerError::bpf(format!("attach to the tracepoint {name}"), e);
    let mut program = BtfTracePoint::from_pin(program_pin(programs, name)).map_err(|e| failed(&e))?;
    let id = program.attach().map_err(|e| failed(&e))?;
    let link: FdLink = program.take_link(id).map_err(|e| failed(&e))?.into();
    link.pin(link_pin(links, name)).map_err(|e| failed(&e))?;
    Ok(())
}

impl Object {
    /// Opens everything that [`load_into`] has pinned. An error means that something is missing or of another kind.
    pub fn adopt(folder: &Path) -> Result<Self, TrackerError> {
        for name in programs::REQUEST {
            PinnedLink::from_pin(link_pin(folder, name))
                .map_err(|e| TrackerError::bpf(format!("adopt the link of {name}"), &e))?;
        }
        let programs = programs::REQUEST.iter().chain(&programs::BIO).map(|name| {
            BtfTracePoint::from_pin(program_pin(folder, name))
                .map_err(|e| TrackerError::bpf(format!("adopt the program {name}"), &e))
        });
        let typed = |e: &dyn std::error::Error| TrackerError::bpf("adopt the maps", e);
        Ok(Self {
            disks: HashMap::try_from(Map::HashMap(pinned(folder, maps::DISKS)?)).map_err(|e| typed(&e))?,
            issued: ArrayOfMaps::try_from(Map::ArrayOfMaps(pinned(folder, maps::ISSUED)?))
                .map_err(|e| typed(&e))?,
            completed: ArrayOfMaps::try_from(Map::ArrayOfMaps(pinned(folder, maps::COMPLETED)?))
                .map_err(|e| typed(&e))?,
            programs: programs.collect::<Result<_, _>>()?,
            needs_bios: AtomicBool::new(false),
            folder: folder.to_path_buf(),
        })
    }

    /// Whether the links of all hooks that disks depend on are pinned: nothing else keeps them.
    pub fn is_attached(&self) -> bool {
        self.has_hooks(self.needs_bios.load(Ordering::Relaxed))
    }

    /// Whether the links of the hooks that a disk depends on are pinned.
    pub fn has_hooks(&self, bios: bool) -> bool {
        self.pins(bios).all(|link| link.exists())
    }

    /// Pins of the hooks that a disk depends on.
    fn pins(&self, bios: bool) -> impl Iterator<Item = PathBuf> {
        let names = programs::REQUEST.iter().chain(if bios { &programs::BIO[..] } else { &[] });
        names.map(|name| link_pin(&self.folder, name))
    }

    /// The hooks that a disk depends on, as they are attached now.
    pub fn hooks(&self, bios: bool) -> Result<Hooks, TrackerError> {
        let links = self.pins(bios).map(|path| {
            let inode = fs::metadata(&path).map_err(TrackerError::io("look at", &path))?.ino();
            Ok((path, inode))
        });
        links.collect::<Result<_, _>>().map(Hooks)
    }

    /// The slots of all disks.
    pub fn slots(&self) -> Result<Words, TrackerError> {
        self.words(maps::SLOTS, u64::from(MAX_DISKS) * (size_of::<DiskSlot>() as u64 / 8))
    }

    /// The in-flight table, as large as it was made.
    pub fn table(&self) -> Result<Words, TrackerError> {
        let map = pinned(&self.folder, maps::INFLIGHT)?;
        let info =
            map.info().map_err(|e| TrackerError::bpf("ask for the size of the in-flight table", &e))?;
        let words = u64::from(info.max_entries()) * (size_of::<InflightBucket>() as u64 / 8);
        Words::map(map.fd(), words, maps::INFLIGHT)
    }

    /// The words that tell the programs what to look for.
    pub fn control(&self) -> Result<Words, TrackerError> {
        self.words(maps::CONTROL, size_of::<Control>() as u64 / 8)
    }

    fn words(&self, name: &str, count: u64) -> Result<Words, TrackerError> {
        Words::map(pinned(&self.folder, name)?.fd(), count, name)
    }

    /// Attaches the bio hooks, once there is a disk that needs them.
    pub fn attach_bio_hooks(&self) -> Result<(), TrackerError> {
        self.rely_on_bio_hooks();
        let missing = programs::BIO.iter().filter(|name| !link_pin(&self.folder, name).exists());
        missing.into_iter().try_for_each(|name| attach(&self.folder, &self.folder, name))
    }

    /// There is a disk that nothing is known of without them.
    pub fn rely_on_bio_hooks(&self) {
        self.needs_bios.store(true, Ordering::Relaxed);
    }

    /// Hands the programs the bitmaps of a slot. Returns when every program that runs uses them (the kernel waits for
    /// that when an array of maps changes).
    pub fn set_bitmaps(
        &mut self,
        slot: u32,
        issued: &MapData,
        completed: &MapData,
    ) -> Result<(), TrackerError> {
        self.issued
            .set(slot, issued, 0)
            .and_then(|()| self.completed.set(slot, completed, 0))
            .map_err(|e| TrackerError::bpf("hand over the bitmaps", &e))
    }

    /// Takes the bitmaps away from the programs.
    pub fn clear_bitmaps(&mut self, slot: u32) -> Result<(), TrackerError> {
        let nothing = pinned(&self.folder, NOTHING)?;
        self.set_bitmaps(slot, &nothing, &nothing)
    }

    /// From now on, requests of this device are tracked.
    pub fn set_disk(&mut self, key: u64, disk: DiskRef) -> Result<(), TrackerError> {
        self.disks.insert(key, PodRef(disk), 0).map_err(|e| TrackerError::bpf("enter the disk", &e))
    }

    /// From now on they are not. Programs that run meanwhile may still use the old entry.
    pub fn forget_slot(&mut self, slot: u32) -> Result<(), TrackerError> {
        let keys: Vec<u64> =
            self.disks.iter().flatten().filter(|(_, d)| d.0.slot == slot).map(|(k, _)| k).collect();
        for key in keys {
            self.disks.remove(&key).map_err(|e| TrackerError::bpf("forget the disk", &e))?;
        }
        Ok(())
    }

    /// Whether requests of this device are tracked in `slot`.
    pub fn tracks(&self, key: u64, slot: u32) -> bool {
        self.disks.get(&key, 0).is_ok_and(|disk| disk.0.slot == slot)
    }

    /// The programs, for [`recursion_misses`].
    pub fn program_fds(&self) -> Result<Vec<OwnedFd>, TrackerError> {
        let failed = |e: &dyn std::error::Error| TrackerError::bpf("keep a program open", e);
        let fds = self.programs.iter().map(|program| {
            let fd = program.fd().map_err(|e| failed(&e))?;
            fd.as_fd().try_clone_to_owned().map_err(|e| failed(&e))
        });
        fds.collect()
    }

    /// Runs and nanoseconds of each program; 0 unless the sysctl `kernel.bpf_stats_enabled` is on.
    pub fn run_times(&self) -> Result<Vec<(&'static str, u64, u64)>, TrackerError> {
        let names = programs::REQUEST.iter().chain(&programs::BIO);
        let times = names.zip(&self.programs).map(|(name, program)| {
            let text = fdinfo(program.fd().map_err(|e| TrackerError::bpf("ask a program", &e))?.as_fd())?;
            Ok((*name, fdinfo_field(&text, "run_cnt:"), fdinfo_field(&text, "run_time_ns:")))
        });
        times.collect()
    }
}

/// Events that the kernel skipped because a program was running already, over all programs.
pub fn recursion_misses(programs: &[OwnedFd]) -> Result<u64, TrackerError> {
    programs.iter().map(|program| Ok(fdinfo_field(&fdinfo(program.as_fd())?, "recursion_misses:"))).sum()
}

fn fdinfo(program: BorrowedFd<'_>) -> Result<String, TrackerError> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
    fs::read_to_string(&path).map_err(TrackerError::io("read", &path))
}

fn fdinfo_field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

fn pinned(folder: &Path, name: &str) -> Result<MapData, TrackerError> {
    MapData::from_pin(folder.join(name)).map_err(|e| TrackerError::bpf(format!("adopt the map {name}"), &e))
}

/// Makes a bitmap map of `groups` entries, pinned at `path`.
pub fn new_bitmap(groups: u32, path: &Path) -> Result<MapData, TrackerError> {
    new_array::<PodGroup>(groups, MMAPABLE | INNER_MAP, path)
}

/// Makes an array of words that only user space uses, pinned at `path`.
pub fn new_words(words: u32, path: &Path) -> Result<MapData, TrackerError> {
    new_array::<u64>(words, MMAPABLE, path)
}

/// aya gives access to a map that it made only through a pin.
fn new_array<T: Pod>(entries: u32, flags: u32, path: &Path) -> Result<MapData, TrackerError> {
    let what = || format!("make a map of {entries} entries at {}", path.display());
    let made = Array::<MapData, T>::create(entries, flags).map_err(|e| TrackerError::bpf(what(), &e))?;
    made.pin(path).map_err(|e| TrackerError::bpf(what(), &e))?;
    open_map(path)
}

/// The map pinned at `path`.
pub fn open_map(path: &Path) -> Result<MapData, TrackerError> {
    MapData::from_pin(path).map_err(|e| TrackerError::bpf(format!("adopt the map at {}", path.display()), &e))
}
