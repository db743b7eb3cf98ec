//! md arrays and LVM's volume groups, put together from members that lie on one disk.

use super::contents::{Access, IN_A_VM, Part, look};
use super::extents::Extents;
use super::part_id::PartId;
use super::partition_table::Fetch;
use super::{lvm, md};
use std::collections::{BTreeMap, BTreeSet};

/// Volumes of a group that are named where the group is.
const MAX_NAMED: usize = 8;

/// What was found of arrays and groups so far. Parts are given by their place in the list of all.
#[derive(Default)]
pub struct Assembly {
    members: Vec<(usize, md::Member)>,
    physical: Vec<(usize, lvm::Label)>,
    /// The newest description of each group, by the group's id.
    groups: BTreeMap<String, lvm::Group>,
    /// Arrays and groups that were put together, by id.
    done: BTreeSet<String>,
}

impl Assembly {
    /// Looks at a part for what it is a member of.
    pub fn learn(&mut self, fetch: &mut Fetch<'_>, place: usize, part: &Part) {
        let mut within = |at, length| part.extents.fetch(fetch, at, length);
        match part.kind.as_str() {
            "linux_raid_member" => {
                let found = md::Superblock::find(&mut within, part.bytes);
                self.members.extend(found.map(|superblock| (place, superblock.member(part.bytes))));
            }
            "LVM2_member" => {
                let head = within(0, 4 * 512).unwrap_or_default();
                let Some(label) = lvm::Label::find(&head) else { return };
                if let Some(group) = label.group(&mut within) {
                    let newest = self.groups.get(&group.id).is_none_or(|known| known.seqno < group.seqno);
                    if newest {
                        self.groups.insert(group.id.clone(), group);
                    }
                }
                self.physical.push((place, label));
            }
            _ => {}
        }
    }

    /// The arrays that were not put together before, `room` of them at most. Says of their members what they belong to.
    pub fn arrays(&mut self, fetch: &mut Fetch<'_>, parts: &mut [Part], room: usize) -> Vec<Part> {
        let Self { members, done, .. } = self;
        let mut arrays: Vec<Part> = Vec::new();
        for (_, member) in &*members {
            if arrays.len() >= room {
                break;
            }
            if !done.insert(member.uuid.clone()) {
                continue;
            }
            let id = PartId::array(&member.name, &member.uuid);
            let id = id.unless(|id| parts.iter().chain(&arrays).any(|part| part.id == *id));
            let all = members.iter().filter(|(_, other)| other.uuid == member.uuid);
            let usable = all.clone().filter_map(|(place, member)| {
                let content = member.content.as_ref().ok()?.clone();
                Some((member.events, parts.get(*place)?.extents.slice(content)?))
            });
            // The first of the newest: others may have been left behind by the array.
            let newest = usable.reduce(|best, next| if next.0 > best.0 { next } else { best });
            for (place, member) in all {
                let why = match (&member.content, &newest) {
                    (Ok(_), Some(_)) => format!("a member of an md array, which is {id} here"),
                    (Ok(_), None) => format!("a member of an md array that is larger than it; {IN_A_VM}"),
                    (Err(why), _) => format!("a member of an md array: {why}; {IN_A_VM}"),
                };
                set(parts, *place, why);
            }
            arrays.extend(newest.map(|(_, extents)| look(fetch, Part::unknown(id, extents))));
        }
        arrays
    }

    /// The logical volumes of groups that were not put together before, `room` of them at most. Says of their physical
    /// volumes what they belong to.
    pub fn volumes(&mut self, fetch: &mut Fetch<'_>, parts: &mut [Part], room: usize) -> Vec<Part> {
        let mut volumes: Vec<Part> = Vec::new();
        let mut at_hand: BTreeMap<String, Extents> = BTreeMap::new();
        for (place, label) in &self.physical {
            let Some(part) = parts.get(*place) else { continue };
            at_hand.entry(label.id.clone()).or_insert_with(|| part.extents.clone());
        }
        for group in self.groups.values() {
            if !self.done.insert(group.id.clone()) {
                continue;
            }
            let first = volumes.len();
            for logical in &group.logical {
                if volumes.len() >= room {
                    break;
                }
                let Some(id) = PartId::logical(&group.name, &logical.name) else { continue };
                let id = id.unless(|id| parts.iter().chain(&volumes).any(|part| part.id == *id));
                volumes.push(match group.extents(logical, &at_hand) {
                    Ok(extents) => look(fetch, Part::unknown(id, extents)),
                    Err(why) => Part {
                        bytes: logical.bytes,
                        access: Access::Never(format!("{why}; {IN_A_VM}")),
                        ..Part::unknown(id, Extents::default())
                    },
                });
            }
            let named = named(&volumes[first..], group.logical.len());
            let ids: BTreeSet<&str> = group.physical_ids().collect();
            for (place, _) in self.physical.iter().filter(|(_, label)| ids.contains(label.id.as_str())) {
                let group: String = group.name.chars().filter(|c| !c.is_control()).take(128).collect();
                set(parts, *place, format!("a physical volume of LVM, of the group {group}: {named}"));
            }
        }
        volumes
    }
}

fn set(parts: &mut [Part], place: usize, why: String) {
    if let Some(part) = parts.get_mut(place) {
        part.access = Access::Never(why);
    }
}

/// The volumes of a group, which has `count`: those that there was no room for are not among the parts.
fn named(volumes: &[Part], count: usize) -> String {
    let names: Vec<String> = volumes.iter().take(MAX_NAMED).map(|part| part.id.to_string()).collect();
    match (names.is_empty(), count.saturating_sub(names.len())) {
        (true, 0) => "it has no volumes".to_owned(),
        (true, count) => format!("none of its {count} volumes is shown"),
        (_, 0) => format!("its volumes are {}", names.join(", ")),
        (_, more) => format!("its volumes are {} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    //! `tests/disks` has what Debian's lvm2 and mdadm made on virtual disks, compressed. There each logical volume and
    //! each array was written to through the kernel: every 32 KiB it says its own name and the byte that it is at.

    use super::*;
    use crate::model::contents::{Contents, survey};
    use crate::model::partition_table::{crc, u32_at, u64_at};
    use proptest::prelude::*;

    /// A partition table with two physical volumes.
    const LVM: &[u8] = include_bytes!("../../tests/disks/lvm.img.zst");
    /// The same, with a text that goes over the end of the ring that it lies in.
    const RING: &[u8] = include_bytes!("../../tests/disks/lvm-ring.img.zst");
    /// Mirrors of versions 1.2, 1.0 and 0.90.
    const MD: &[u8] = include_bytes!("../../tests/disks/md.img.zst");
    /// Where the metadata areas of both physical volumes begin.
    const AREAS: [usize; 2] = [2048 * 512 + 4096, 24576 * 512 + 4096];

    fn disk(packed: &[u8]) -> Vec<u8> {
        zstd::bulk::decompress(packed, 64 << 20).unwrap()
    }

    fn surveyed(disk: &[u8]) -> Contents {
        let mut fetch = reader(disk);
        survey(&mut fetch, disk.len() as u64)
    }

    fn reader(disk: &[u8]) -> impl FnMut(u64, usize) -> Option<Vec<u8>> {
        |at, length| disk.get(usize::try_from(at).ok()?..)?.get(..length).map(<[u8]>::to_vec)
    }

    fn part<'a>(contents: &'a Contents, id: &str) -> &'a Part {
        contents.part(&id.parse().unwrap()).unwrap()
    }

    fn why<'a>(contents: &'a Contents, id: &str) -> &'a str {
        match &contents.parts.iter().find(|part| part.id.to_string() == id).unwrap().access {
            Access::Never(why) => why,
            Access::Mount(_) => "",
        }
    }

    /// Reads what was stamped from byte `first` on, and returns how many stamps there were.
    fn stamps(disk: &[u8], part: &Part, name: &str, first: u64) -> usize {
        let places = (first..part.bytes).step_by(32 << 10);
        for at in places.clone() {
            let found = part.extents.fetch(&mut reader(disk), at, 512).unwrap();
            let wanted = format!("{name} at {at}.");
            assert_eq!(String::from_utf8_lossy(&found[..wanted.len()]), wanted);
        }
        places.count()
    }

    #[test]
    fn logical_volumes_are_read_as_device_mapper_wrote_them() {
        let disk = disk(LVM);
        let contents = surveyed(&disk);
        let mut ids: Vec<String> = contents.parts.iter().map(|part| part.id.to_string()).collect();
        ids.sort();
        let volumes = ["a--b", "fast", "pool", "root", "snap", "thin", "twin"];
        let named = volumes.map(|name| format!("vg--0-{name}"));
        assert_eq!(ids, [&["1".to_owned(), "2".to_owned()][..], &named].concat());
        assert_eq!(stamps(&disk, part(&contents, "vg--0-root"), "root", 0), 64);
        assert_eq!(stamps(&disk, part(&contents, "vg--0-fast"), "fast", 0), 32);
        assert_eq!(stamps(&disk, part(&contents, "vg--0-a--b"), "a-b", 0), 16);
        assert_eq!(part(&contents, "vg--0-root").extents.count(), 3);
        assert!(why(&contents, "1").contains("of the group vg-0: its volumes are vg--0-root, "));
        assert_eq!(why(&contents, "1"), why(&contents, "2"));
    }

    #[test]
    fn other_volumes_say_why_they_are_not_opened() {
        let contents = surveyed(&disk(LVM));
        for (id, kind) in [
            ("thin", "type thin:"),
            ("pool", "type thin-pool:"),
            ("twin", "type raid1:"),
            ("snap", "it holds only what a-b lost since"),
        ] {
            let id = format!("vg--0-{id}");
            assert!(why(&contents, &id).contains(kind), "{id}: {}", why(&contents, &id));
            let none = contents.part(&id.parse().unwrap()).unwrap_err().to_string();
            assert!(none.contains(&format!("no volume {id} that can be opened")), "{none}");
        }
    }

    #[test]
    fn a_volume_whose_other_half_is_elsewhere_says_so() {
        let mut disk = disk(LVM);
        // The label of the second volume.
        disk[24576 * 512..][..4096].fill(0);
        let contents = surveyed(&disk);
        assert!(
            why(&contents, "vg--0-fast")
                .contains("BBBBBB11112222333344445555666666 (/dev/vda2 when it was last seen)")
        );
        assert!(part(&contents, "vg--0-a--b").extents.count() == 1);
    }

    #[test]
    fn either_copy_of_the_text_is_enough_and_the_newest_counts() {
        let whole = disk(RING);
        let areas = [2048 * 512 + 4096, 45056 * 512 + 4096];
        let ids = |disk: &[u8]| surveyed(disk).parts.into_iter().map(|part| part.id).collect::<Vec<_>>();
        let known = ids(&whole);
        assert_eq!(known.len(), 6, "{known:?}");
        for damaged in areas {
            let mut disk = whole.clone();
            disk[damaged + 600] ^= 1;
            assert_eq!(ids(&disk), known);
        }
        let mut disk = whole.clone();
        areas.iter().for_each(|area| disk[area + 600] ^= 1);
        let contents = surveyed(&disk);
        assert_eq!(contents.parts.len(), 3);
        assert!(why(&contents, "1").contains("no whole description"), "{}", why(&contents, "1"));
    }

    #[test]
    fn arrays_hold_filesystems_partitions_and_groups() {
        let disk = disk(MD);
        let contents = surveyed(&disk);
        let root = part(&contents, "md-root");
        assert_eq!((root.kind.as_str(), root.label.as_str()), ("ext4", "inmd"));
        let first = root.extents.find(0).unwrap().start;
        assert_eq!(first, (2048 + 2048) * 512, "of the member that the array did not leave behind");
        assert!(why(&contents, "2").contains("which is md-root here"));
        let halves = [part(&contents, "md-diskp1"), part(&contents, "md-diskp2")];
        assert_eq!(halves.map(|half| (half.bytes, half.type_code.as_str())), [(1 << 20, "0x83"); 2]);
        stamps(&disk, part(&contents, "md-disk"), "disk", 65536);
        let start = |part: &Part| part.extents.find(0).unwrap().start;
        assert_eq!(start(halves[1]), start(part(&contents, "md-disk")) + 4096 * 512);
        assert_eq!(stamps(&disk, part(&contents, "inner-data"), "data", 0), 16);
        stamps(&disk, part(&contents, "inner-vm"), "vm", 32768);
        assert_eq!(part(&contents, "inner-vmp1").bytes, 512 << 10);
        let old = contents.parts.iter().find(|part| part.kind == "LVM2_member").unwrap();
        assert!(why(&contents, &old.id.to_string()).contains("of the group inner"), "{old:?}");
    }

    #[test]
    fn a_damaged_superblock_of_an_array_opens_nothing() {
        let mut disk = disk(MD);
        for member in [2048, 10240] {
            disk[member * 512 + 4096 + 200] ^= 1;
        }
        let contents = surveyed(&disk);
        assert!(contents.parts.iter().all(|part| part.id.to_string() != "md-root"));
        assert!(why(&contents, "1").contains("its superblock is damaged"), "{}", why(&contents, "1"));
    }

    #[test]
    fn members_of_other_levels_and_half_copies_say_so() {
        let whole = disk(MD);
        // The level, nothing, and the features: the sum of all words changes by as much.
        for (field, by, wanted) in
            [(72, 1, "its array is a raid0"), (152, 0, ""), (8, u32::MAX - 1, "still being copied")]
        {
            let mut disk = whole.clone();
            for member in [2048, 10240] {
                let at = member * 512 + 4096;
                for place in [at + field, at + 216] {
                    let less = u32_at(&disk, place).unwrap().wrapping_sub(by);
                    disk[place..place + 4].copy_from_slice(&less.to_le_bytes());
                }
            }
            let contents = surveyed(&disk);
            let array = contents.parts.iter().any(|part| part.id.to_string() == "md-root");
            assert_eq!(array, wanted.is_empty());
            assert!(why(&contents, "1").contains(wanted), "{}", why(&contents, "1"));
        }
    }

    /// Changes a byte of the text in a metadata area and makes its checksums right again.
    fn forge(disk: &mut [u8], area: usize, at: usize, byte: u8) {
        let offset = area + usize::try_from(u64_at(disk, area + 40).unwrap()).unwrap();
        let length = usize::try_from(u64_at(disk, area + 48).unwrap()).unwrap();
        disk[offset + at % length] = byte;
        let seed = 0xf597_a6cf;
        let checksum = crc(seed, &disk[offset..offset + length]);
        disk[area + 56..area + 60].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc(seed, &disk[area + 4..area + 512]);
        disk[area..area + 4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(u32_at(disk, area), Some(checksum));
    }

    /// A disk that is one physical volume, of the group `vg`; its extents of 4 KiB begin at 4 MiB.
    fn group_of(volumes: &str) -> Vec<u8> {
        const EXTENTS: usize = 2048;
        const AREA: usize = 4096;
        let id = |letter: &str| letter.repeat(32);
        let text = format!(
            "vg {{ id = \"{}\" seqno = 1 extent_size = 8 physical_volumes {{ pv0 {{ id = \"{}\" pe_start = 8192 \
             pe_count = {EXTENTS} }} }} logical_volumes {{ {volumes} }} }} \
             contents = \"Text Format Volume Group\" version = 1",
            id("G"),
            id("A")
        );
        let mut disk = vec![0; (4 << 20) + EXTENTS * 4096];
        let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
        put(512, b"LABELONE");
        put(512 + 20, &32u32.to_le_bytes());
        put(512 + 24, b"LVM2 001");
        put(512 + 32, id("A").as_bytes());
        // Where its data are, then its metadata area, each list with a place of zero at its end.
        for (index, word) in [4 << 20, 0, 0, 0, AREA as u64, (4 << 20) - AREA as u64].into_iter().enumerate()
        {
            put(512 + 72 + 8 * index, &word.to_le_bytes());
        }
        put(AREA + 4, b"\x20LVM2\x20x[5A%r0N*>\x01");
        for (at, word) in
            [(24, AREA as u64), (32, (4 << 20) - AREA as u64), (40, 512), (48, text.len() as u64)]
        {
            put(AREA + at, &word.to_le_bytes());
        }
        put(AREA + 512, text.as_bytes());
        let checksum = crc(0xf597_a6cf, &disk[512 + 20..1024]);
        disk[512 + 16..512 + 20].copy_from_slice(&checksum.to_le_bytes());
        let first = disk[AREA + 512];
        forge(&mut disk, AREA, 0, first);
        disk
    }

    fn linear(name: &str, first: usize, extents: usize) -> String {
        format!(
            "{name} {{ status = [\"VISIBLE\"] segment_count = 1 segment1 {{ start_extent = 0 extent_count = {extents} \
             type = \"striped\" stripe_count = 1 stripes = [\"pv0\", {first}] }} }} "
        )
    }

    #[test]
    fn volumes_beyond_the_limit_are_not_looked_for() {
        let disk = group_of(&(0..2000).map(|n| linear(&format!("lv{n}"), n, 1)).collect::<String>());
        let (mut whole, mut late) = (reader(&disk), 0);
        let beyond = (4 << 20) + 600 * 4096..(4 << 20) + 1900 * 4096;
        let mut fetch = |at, length| {
            late += usize::from(beyond.contains(&at));
            whole(at, length)
        };
        let contents = survey(&mut fetch, disk.len() as u64);
        assert_eq!(contents.parts.len(), 512);
        assert_eq!(late, 0, "reads of volumes that are not among the parts");
        assert!(why(&contents, "0").contains("vg-lv7 and 1992 more"), "{}", why(&contents, "0"));
    }

    #[test]
    fn a_text_of_many_volumes_of_one_name_is_no_group() {
        let disk = group_of(&"lv { status = [\"VISIBLE\"] segment_count = 0 } ".repeat(39_900));
        let contents = surveyed(&disk);
        assert_eq!(contents.parts.len(), 1);
        assert!(why(&contents, "0").contains("no whole description"), "{}", why(&contents, "0"));
    }

    #[test]
    fn every_part_has_a_name_of_its_own() {
        for volumes in [["vm", "vmp1"], ["vmp1", "vm"]] {
            let first = |name| if name == "vm" { 0 } else { 64 };
            let mut disk = group_of(&volumes.map(|name| linear(name, first(name), 64)).concat());
            // A table with one partition, from the eighth sector on.
            let table = &mut disk[4 << 20..][..512];
            table[446..][..16].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0]);
            table[510..].copy_from_slice(&[0x55, 0xaa]);
            let contents = surveyed(&disk);
            let mut ids: Vec<String> = contents.parts.iter().map(|part| part.id.to_string()).collect();
            ids.sort();
            assert_eq!(ids, ["0", "vg-vm", "vg-vmp1", "vg-vmp1~2"]);
            let start = |id| part(&contents, id).extents.find(0).unwrap().start;
            assert_eq!(start("vg-vmp1"), (4 << 20) + 64 * 4096);
            assert_eq!(start("vg-vmp1~2"), (4 << 20) + 8 * 512);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn forged_texts_give_parts_within_the_disk(
            edits in prop::collection::vec((0usize..8000, prop::sample::select(&b"0123456789{}[]\",=# apv\n"[..])), 1..4)
        ) {
            thread_local!(static WHOLE: Vec<u8> = disk(LVM));
            let mut disk = WHOLE.with(Vec::clone);
            for (at, byte) in edits {
                AREAS.iter().for_each(|area| forge(&mut disk, *area, at, byte));
            }
            let parts = surveyed(&disk).parts;
            prop_assert_eq!(parts.iter().map(|part| &part.id).collect::<BTreeSet<_>>().len(), parts.len());
            for part in parts {
                let mut at = 0;
                while let Some(place) = part.extents.find(at) {
                    prop_assert!(place.start < place.end && place.end <= disk.len() as u64);
                    at += place.end - place.start;
                }
                prop_assert!(part.extents.is_empty() || at == part.bytes);
            }
        }
    }
}
