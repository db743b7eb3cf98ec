//! What lies on a disk, part by part, and how the files of each part can be shown on this host. Pure.
//!
//! A part is the whole disk where it has no partitions, a partition, or a volume: an md array, a logical volume of LVM, a
//! partition within one of them. How a part is mounted follows from its superblock: it also says whether the kernel would
//! have to write to it first (replay its journal).

use super::assembly::Assembly;
use super::extents::Extents;
use super::part_id::PartId;
use super::partition_table::{self, Fetch, Table, TableId, u32_at, u64_at};
use super::superblock::{self, Superblock};
use serde::{Deserialize, Serialize};

/// Sizes of logical blocks that disks with partition tables have.
const BLOCKS: [u32; 2] = [512, 4096];
/// Types of MBR entries that hold the logical partitions.
const EXTENDED: [&str; 3] = ["0x05", "0x0f", "0x85"];
/// Most parts of a disk; what lies deeper than they is not looked for.
const MAX_PARTS: usize = 512;
/// Most places of the disk that all parts together are made of. They are told from one process to another.
const MAX_PLACES: usize = 16 << 10;
/// What is advised where this host cannot do it.
pub(super) const IN_A_VM: &str = "`blxrep export POINT --nbd` gives the disk to a virtual machine that can";

/// What lies on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// `None` if there is no partition table.
    pub table: Option<TableId>,
    pub parts: Vec<Part>,
}

/// A partition or a volume; partition 0 is the whole disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub id: PartId,
    pub bytes: u64,
    /// Where its bytes lie on the disk. None if it cannot be opened; then `access` says why.
    pub extents: Extents,
    /// As `blkid` calls it: `ext4`, `swap`, `LVM2_member`. Empty where nothing is known.
    pub kind: String,
    pub label: String,
    /// Of the filesystem, as `blkid` shows it. Empty if it has none.
    pub uuid: String,
    /// What the table says of it: a GUID, or a byte as `0x83`. Empty for what is in no table.
    pub type_code: String,
    /// Name that a GPT gives it.
    pub name: String,
    pub access: Access,
}

/// Whether the files of a part can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    Mount(Mounting),
    /// Why not, and what to do.
    Never(String),
}

/// How a filesystem is mounted, read-only in any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounting {
    /// The kernel's name of it.
    pub driver: String,
    pub options: String,
    /// The kernel may write before it shows the files: it is given a layer to write to.
    pub replay: bool,
    /// Options with which it is shown without a replay, should that fail.
    pub unreplayed: Option<String>,
}

impl Part {
    /// A part of which no more is known than where it is.
    #[must_use]
    pub fn unknown(id: PartId, extents: impl Into<Extents>) -> Self {
        let none = String::new;
        let why = "nothing that this program knows lies there: no filesystem to show".to_owned();
        let (extents, access) = (extents.into(), Access::Never(why));
        Self {
            id,
            bytes: extents.bytes(),
            extents,
            kind: none(),
            label: none(),
            uuid: none(),
            type_code: none(),
            name: none(),
            access,
        }
    }

    /// Whether it may be a disk itself, as of a virtual machine: a volume that no table calls a partition.
    fn may_have_table(&self) -> bool {
        matches!(self.id, PartId::Volume(_)) && self.kind.is_empty() && self.type_code.is_empty()
    }

    #[must_use]
    pub fn mounting(&self) -> Option<&Mounting> {
        match &self.access {
            Access::Mount(mounting) => Some(mounting),
            Access::Never(_) => None,
        }
    }
}

/// Why there is no such part.
#[derive(Debug, thiserror::Error)]
pub enum NoPart {
    #[error("no {}, only {known}", id.described())]
    Unknown { id: PartId, known: String },
    #[error("no {} that can be opened: {why}", id.described())]
    Closed { id: PartId, why: String },
}

impl Contents {
    /// The part that is meant.
    pub fn part(&self, id: &PartId) -> Result<&Part, NoPart> {
        let Some(part) = self.parts.iter().find(|part| part.id == *id) else {
            let known: Vec<String> = self.parts.iter().map(|part| part.id.to_string()).collect();
            return Err(NoPart::Unknown { id: id.clone(), known: known.join(", ") });
        };
        match &part.access {
            Access::Never(why) if part.extents.is_empty() => {
                Err(NoPart::Closed { id: id.clone(), why: why.clone() })
            }
            _ => Ok(part),
        }
    }
}

/// Looks through a disk. What cannot be read counts as not being there; the caller knows what its `fetch` refused.
pub fn survey(fetch: &mut Fetch<'_>, disk_bytes: u64) -> Contents {
    let disk = Part::unknown(PartId::DISK, 0..disk_bytes);
    let Contents { table, parts: mut found } = partitions(fetch, &disk);
    if found.is_empty() {
        found.push(look(fetch, disk));
    }
    let (mut parts, mut assembly, mut places) = (Vec::new(), Assembly::default(), 0);
    // Volumes hold partitions, arrays hold volumes, and the other way round. Groups come when nothing else is left, for
    // their members may lie in any of those.
    while !found.is_empty() && parts.len() < MAX_PARTS {
        let mut within = Vec::new();
        for mut part in found {
            places += part.extents.count();
            if places > MAX_PLACES {
                part.extents = Extents::default();
                part.access = Access::Never("it lies in too many pieces".to_owned());
            }
            // A partition within a volume may be called as another volume is.
            part.id = part.id.unless(|id| parts.iter().any(|known: &Part| known.id == *id));
            assembly.learn(fetch, parts.len(), &part);
            if part.may_have_table() {
                within.extend(partitions(fetch, &part).parts);
                if !within.is_empty() {
                    part.access = Access::Never("it has partitions of its own".to_owned());
                }
            }
            parts.push(part);
        }
        let room = MAX_PARTS.saturating_sub(parts.len());
        found = within;
        found.truncate(room);
        if found.is_empty() {
            found = assembly.arrays(fetch, &mut parts, room);
        }
        if found.is_empty() {
            found = assembly.volumes(fetch, &mut parts, room);
        }
    }
    Contents { table, parts }
}

/// The partitions within a part, by the table that makes most sense.
fn partitions(fetch: &mut Fetch<'_>, outer: &Part) -> Contents {
    let mut found: Vec<Contents> = Vec::new();
    for block in BLOCKS {
        let mut within = |at, length| outer.extents.fetch(fetch, at, length);
        if let Some(table) = partition_table::parse(&mut within, outer.bytes, block) {
            found.push(Contents { parts: entries(fetch, outer, &table), table: Some(table.id) });
        }
    }
    // The first of the best: the same bytes read with another block size lead to places where nothing is.
    let best = found.into_iter().reduce(|best, next| if worth(&next) > worth(&best) { next } else { best });
    best.unwrap_or(Contents { table: None, parts: Vec::new() })
}

/// How much a reading of the table makes sense.
fn worth(contents: &Contents) -> (bool, usize) {
    let known = contents.parts.iter().filter(|part| !part.kind.is_empty()).count();
    (matches!(contents.table, Some(TableId::Gpt(_))), known)
}

fn entries(fetch: &mut Fetch<'_>, outer: &Part, table: &Table) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for entry in &table.entries {
        let start = entry.first_sector * super::units::SECTOR_BYTES;
        let range = start..start + entry.sectors * super::units::SECTOR_BYTES;
        let Some(extents) = outer.extents.slice(range) else { continue };
        let (type_code, name) = (entry.kind.clone(), entry.name.clone());
        let part = Part { type_code, name, ..Part::unknown(outer.id.partition(entry.number), extents) };
        if EXTENDED.contains(&entry.kind.as_str()) {
            let access = Access::Never("an extended partition: it only holds the logical ones".to_owned());
            parts.push(Part { access, ..part });
        } else {
            parts.push(look(fetch, part));
        }
    }
    parts
}

/// Looks for a superblock in a part.
pub(super) fn look(fetch: &mut Fetch<'_>, part: Part) -> Part {
    let mut within = |at, length| part.extents.fetch(fetch, at, length);
    let Some(found) = superblock::detect(&mut within, part.bytes) else { return part };
    let access = access(&found, &mut within);
    Part { kind: found.kind.to_owned(), label: found.label, uuid: found.uuid, access, ..part }
}

fn access(found: &Superblock, fetch: &mut Fetch<'_>) -> Access {
    let mount = |driver: &str, options: &str, replay: bool, unreplayed: Option<&str>| {
        Access::Mount(Mounting {
            driver: driver.to_owned(),
            options: options.to_owned(),
            replay,
            unreplayed: unreplayed.map(str::to_owned),
        })
    };
    match found.kind {
        "ext2" | "ext3" | "ext4" => ext(fetch, mount),
        // Whether the log is clean only its own driver can tell. The same filesystem may be mounted on this host.
        "xfs" => mount("xfs", "nouuid", true, Some("nouuid,norecovery")),
        "btrfs" => btrfs(fetch, mount),
        "vfat" => mount("vfat", "utf8", false, None),
        "swap" => Access::Never("a swap area: it has no files".to_owned()),
        // What they belong to is said when it was put together.
        "LVM2_member" => Access::Never(format!(
            "a physical volume of LVM: no whole description of a group that it belongs to lies on this disk; {IN_A_VM}"
        )),
        "linux_raid_member" => Access::Never(format!("a member of an md array; {IN_A_VM}")),
        "crypto_LUKS" => Access::Never(format!("encrypted: its key is not here; {IN_A_VM}")),
        "jbd" => Access::Never("the journal of a filesystem that lies elsewhere: it has no files".to_owned()),
        other => Access::Never(format!("{other} is not mounted by this program; {IN_A_VM}")),
    }
}

/// The superblock's own setting may be to panic when an error is found: on the host that only looks, too.
const EXT_OPTIONS: &str = "errors=continue";

fn ext(fetch: &mut Fetch<'_>, mount: impl Fn(&str, &str, bool, Option<&str>) -> Access) -> Access {
    const HAS_JOURNAL: u32 = 0x4;
    const NEEDS_RECOVERY: u32 = 0x4;
    let sb = fetch(1024, 1024).unwrap_or_default();
    let has = |at, flag| u32_at(&sb, at).is_some_and(|flags| flags & flag != 0);
    let unreplayed = format!("{EXT_OPTIONS},noload");
    match (has(0x5c, HAS_JOURNAL), has(0x60, NEEDS_RECOVERY)) {
        (false, _) => mount("ext4", EXT_OPTIONS, false, None),
        (true, false) => mount("ext4", &unreplayed, false, None),
        (true, true) => mount("ext4", EXT_OPTIONS, true, Some(&unreplayed)),
    }
}

fn btrfs(fetch: &mut Fetch<'_>, mount: impl Fn(&str, &str, bool, Option<&str>) -> Access) -> Access {
    let sb = fetch(64 << 10, 4096).unwrap_or_default();
    let devices = u64_at(&sb, 0x88).unwrap_or(1);
    if devices > 1 {
        return Access::Never(format!(
            "one of {devices} devices of a btrfs: its other devices are not part of this point; export the points of one \
             cut to a virtual machine with `blxrep export POINT --nbd`"
        ));
    }
    // From the top, so that every subvolume is a folder, whichever one the system starts from.
    let log_tree = u64_at(&sb, 0x60).is_some_and(|log| log != 0);
    let unreplayed = log_tree.then_some("subvolid=5,rescue=nologreplay");
    mount("btrfs", "subvolid=5", log_tree, unreplayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: usize = 16 << 20;

    fn surveyed(image: &[u8]) -> Contents {
        let mut fetch =
            |at, length: usize| image.get(usize::try_from(at).ok()?..)?.get(..length).map(<[u8]>::to_vec);
        survey(&mut fetch, image.len() as u64)
    }

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn ext4(image: &mut [u8], at: usize, needs_recovery: bool) {
        put(image, at + 1024 + 0x38, &[0x53, 0xef]);
        image[at + 1024 + 0x5c] = 4;
        image[at + 1024 + 0x60] = 0x40 | if needs_recovery { 4 } else { 0 };
    }

    fn mbr(image: &mut [u8], entries: &[(u8, u32, u32)]) {
        for (index, (kind, first, blocks)) in entries.iter().enumerate() {
            let at = 446 + 16 * index;
            image[at + 4] = *kind;
            put(image, at + 8, &first.to_le_bytes());
            put(image, at + 12, &blocks.to_le_bytes());
        }
        put(image, 510, &[0x55, 0xaa]);
    }

    #[test]
    fn a_disk_without_a_table_is_part_0() {
        let mut image = vec![0; DISK];
        ext4(&mut image, 0, false);
        let contents = surveyed(&image);
        assert_eq!(contents.table, None);
        let whole = Extents::from(0..DISK as u64);
        assert_eq!((&contents.parts[0].id, &contents.parts[0].extents), (&PartId::DISK, &whole));
        let mounting = contents.parts[0].mounting().unwrap();
        assert_eq!((mounting.driver.as_str(), mounting.replay), ("ext4", false));
        assert_eq!(mounting.options, "errors=continue,noload");
        let nothing = surveyed(&vec![0; DISK]);
        assert!(matches!(&nothing.parts[..], [Part { id: PartId::DISK, access: Access::Never(_), .. }]));
    }

    #[test]
    fn partitions_are_found_with_either_block_size() {
        for block in [512, 4096] {
            let mut image = vec![0; DISK];
            mbr(&mut image, &[(0x83, 256, 512), (0x82, 768, 100), (0x05, 900, 100)]);
            ext4(&mut image, 256 * block, true);
            put(&mut image, 768 * block + 4086, b"SWAPSPACE2");
            let contents = surveyed(&image);
            let start = |index: usize| contents.parts[index].extents.find(0).unwrap().start;
            assert_eq!((start(0), start(1)), (256 * block as u64, 768 * block as u64), "{block}");
            let mounting = contents.parts[0].mounting().unwrap();
            assert!(mounting.replay && mounting.unreplayed.as_deref() == Some("errors=continue,noload"));
            assert!(matches!(&contents.parts[1].access, Access::Never(why) if why.contains("swap")));
            assert!(matches!(&contents.parts[2].access, Access::Never(why) if why.contains("extended")));
        }
    }

    #[test]
    fn what_cannot_be_shown_says_why() {
        let mut image = vec![0; DISK];
        put(&mut image, 512, b"LABELONE");
        put(&mut image, 512 + 24, b"LVM2 001");
        let part = &surveyed(&image).parts[0];
        assert_eq!(part.kind, "LVM2_member");
        assert!(matches!(&part.access, Access::Never(why) if why.contains("export")));
    }

    #[test]
    fn a_btrfs_says_whether_its_log_is_to_be_replayed() {
        let with = |log: u64, devices: u64| {
            let mut image = vec![0; DISK];
            put(&mut image, 65536 + 64, b"_BHRfS_M");
            put(&mut image, 65536 + 0x60, &log.to_le_bytes());
            put(&mut image, 65536 + 0x88, &devices.to_le_bytes());
            surveyed(&image).parts[0].clone()
        };
        assert!(!with(0, 1).mounting().unwrap().replay);
        assert!(with(4096, 1).mounting().unwrap().replay);
        assert!(matches!(with(0, 2).access, Access::Never(why) if why.contains("one of 2 devices")));
    }

    proptest! {
        #[test]
        fn any_bytes_give_parts_within_the_disk(
            edits in prop::collection::vec((0usize..70_000, any::<u8>()), 1..40)
        ) {
            let mut image = vec![0; 1 << 20];
            mbr(&mut image, &[(0x83, 8, 512), (0x05, 600, 900)]);
            for (at, value) in edits {
                image[at] = value;
            }
            for part in surveyed(&image).parts {
                prop_assert!(part.extents.find(part.bytes - 1).is_some_and(|place| place.end <= 1 << 20));
            }
        }
    }
}
