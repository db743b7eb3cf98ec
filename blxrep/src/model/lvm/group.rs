//! A volume group as its text describes it, and where the bytes of its logical volumes lie.

use super::text::{Section, Value};
use crate::model::extents::Extents;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most places of the disk that one volume is made of. Each is in memory for every reader.
const MAX_PLACES: usize = 4096;
/// Most logical volumes, hidden ones among them: about as many as the longest text that is read can describe.
const MAX_VOLUMES: usize = 8192;
/// Most stripes, as in LVM.
const MAX_STRIPES: u64 = 128;
/// Sectors of an extent: 4 EiB of them would overflow.
const MAX_EXTENT_SECTORS: u64 = 1 << 31;
const SECTOR_BYTES: u64 = crate::model::units::SECTOR_BYTES;

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: String,
    pub name: String,
    /// Grows with every change.
    pub seqno: u64,
    extent_bytes: u64,
    /// By the names that segments use.
    physical: BTreeMap<String, Physical>,
    /// Those that people see.
    pub logical: Vec<Logical>,
}

/// A physical volume, as its group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Physical {
    id: String,
    /// What its device was called when the text was written.
    device: String,
    /// First byte of its first extent.
    start: u64,
    extents: u64,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    pub name: String,
    pub bytes: u64,
    /// Its segments one after the other, or why they cannot be followed.
    segments: Result<Vec<Segment>, String>,
}

/// A stretch of a logical volume: areas of physical ones, striped if there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    areas: Vec<Area>,
    /// Extents of each area.
    extents: u64,
    /// Bytes of a stripe.
    chunk: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    physical: String,
    first: u64,
}

impl Group {
    /// The group that a text describes. `None` if it does not make sense, or has too much.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let root = Section::parse(text)?;
        if root.text("contents") != Some("Text Format Volume Group") || root.number("version") != Some(1) {
            return None;
        }
        let (name, group) = root.sections().next()?;
        let extent_sectors = group.number("extent_size").filter(|n| (1..=MAX_EXTENT_SECTORS).contains(n))?;
        let extent_bytes = extent_sectors * SECTOR_BYTES;
        let logical = match group.section("logical_volumes") {
            Some(volumes) => Logical::all(volumes, extent_bytes)?,
            None => Vec::new(),
        };
        let group = Self {
            id: id(group)?,
            name: name.to_owned(),
            seqno: group.number("seqno")?,
            extent_bytes,
            physical: Physical::all(group.section("physical_volumes")?)?,
            logical,
        };
        group.extents_are_used_once().then_some(group)
    }

    /// The ids of its physical volumes.
    pub fn physical_ids(&self) -> impl Iterator<Item = &str> {
        self.physical.values().map(|physical| physical.id.as_str())
    }

    /// Where the bytes of a logical volume lie, given where those of the physical ones do, by id. The error says why
    /// that cannot be told.
    pub fn extents(&self, logical: &Logical, at_hand: &BTreeMap<String, Extents>) -> Result<Extents, String> {
        let mut extents = Extents::default();
        for segment in logical.segments.as_ref().map_err(Clone::clone)? {
            let areas = segment.areas.iter().map(|area| self.area(area, segment.extents, at_hand));
            let areas = areas.collect::<Result<Vec<_>, _>>()?;
            let striped = Extents::striped(segment.chunk, &areas);
            extents.append(striped.ok_or("its stripes do not lie as this program can follow them")?);
            if extents.count() > MAX_PLACES {
                return Err(format!("it lies in more than {MAX_PLACES} pieces"));
            }
        }
        Ok(extents)
    }

    fn area(
        &self,
        area: &Area,
        extents: u64,
        at_hand: &BTreeMap<String, Extents>,
    ) -> Result<Extents, String> {
        let physical = self.physical.get(&area.physical).ok_or_else(|| {
            let other = short(&area.physical);
            format!("it is made of {other}, which is no physical volume but another layer of LVM")
        })?;
        let place = at_hand.get(&physical.id).ok_or_else(|| {
            let Physical { id, device, .. } = physical;
            format!("a part of it lies on another disk: on the physical volume {id} ({device} when it was last seen)")
        })?;
        let within = physical.bytes_of(area.first, extents, self.extent_bytes);
        within.and_then(|range| place.slice(range)).ok_or_else(|| {
            "its extents lie behind the end of a physical volume: its metadata are damaged".to_owned()
        })
    }

    /// No byte belongs to two logical volumes, or twice to one.
    fn extents_are_used_once(&self) -> bool {
        let mut used: BTreeMap<&str, Vec<Range<u64>>> = BTreeMap::new();
        for segment in self.logical.iter().filter_map(|logical| logical.segments.as_ref().ok()).flatten() {
            for area in &segment.areas {
                let range = area.first..area.first.saturating_add(segment.extents);
                used.entry(&area.physical).or_default().push(range);
            }
        }
        used.values_mut().all(|ranges| {
            ranges.sort_by_key(|range| range.start);
            ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
        })
    }
}

impl Physical {
    /// Those of a group by their names. `None` if two have a name or an id in common: they would be one place, and extents
    /// of both the same bytes.
    fn all(volumes: &Section) -> Option<BTreeMap<String, Self>> {
        let all = volumes.sections().map(|(name, section)| Some((name.to_owned(), Self::read(section)?)));
        let all: BTreeMap<String, Self> = all.collect::<Option<_>>()?;
        let unique = are_unique(volumes.sections().map(|(name, _)| name))
            && are_unique(all.values().map(|physical| physical.id.as_str()));
        unique.then_some(all)
    }

    fn read(section: &Section) -> Option<Self> {
        Some(Self {
            id: id(section)?,
            device: short(section.text("device").unwrap_or("unknown")),
            start: section.number("pe_start")?.checked_mul(SECTOR_BYTES)?,
            extents: section.number("pe_count")?,
        })
    }

    /// Its bytes that some of its extents are.
    fn bytes_of(&self, first: u64, extents: u64, extent_bytes: u64) -> Option<Range<u64>> {
        let end = first.checked_add(extents).filter(|end| *end <= self.extents)?;
        let byte = |extent: u64| extent.checked_mul(extent_bytes)?.checked_add(self.start);
        Some(byte(first)?..byte(end)?)
    }
}

impl Logical {
    /// Those of a group that people see. `None` if there are too many, or two of one name.
    fn all(volumes: &Section, extent_bytes: u64) -> Option<Vec<Self>> {
        if volumes.sections().count() > MAX_VOLUMES || !are_unique(volumes.sections().map(|(name, _)| name)) {
            return None;
        }
        // The volume that says so is itself not seen, and its origin does not say it.
        let segments = volumes.sections().flat_map(|(_, volume)| volume.sections());
        let merging =
            segments.filter(|(_, segment)| is_snapshot(segment) && segment.text("merging_store").is_some());
        let merged_into: BTreeSet<&str> = merging.filter_map(|(_, segment)| segment.text("origin")).collect();
        let seen = volumes.sections().filter(|(_, volume)| has(volume, "status", "VISIBLE"));
        let all = seen.map(|(name, volume)| {
            let mut logical = Self::read(name, volume, extent_bytes)?;
            if merged_into.contains(name) {
                logical.segments = Err("a snapshot is being merged into it".to_owned());
            }
            Some(logical)
        });
        let all: Vec<Self> = all.collect::<Option<_>>()?;
        are_unique(all.iter().map(|logical| logical.name.as_str())).then_some(all)
    }

    fn read(name: &str, section: &Section, extent_bytes: u64) -> Option<Self> {
        // What people see as a snapshot is the hidden volume that a volume of another name points to.
        let first = section.section("segment1").filter(|segment| is_snapshot(segment));
        let name = first.and_then(|first| first.text("cow_store")).unwrap_or(name);
        let count = section.number("segment_count")?;
        let (mut extents, mut segments) = (0u64, Ok(Vec::new()));
        for number in 1..=count {
            let segment = section.section(&format!("segment{number}"))?;
            // Without gaps, in order.
            if segment.number("start_extent")? != extents {
                return None;
            }
            let length = segment.number("extent_count").filter(|n| *n > 0)?;
            extents = extents.checked_add(length)?;
            match (&mut segments, Segment::read(segment, length)) {
                (Ok(known), Ok(segment)) => known.push(segment?),
                (Ok(_), Err(why)) => segments = Err(why),
                (Err(_), _) => {}
            }
        }
        Some(Self { name: name.to_owned(), bytes: extents.checked_mul(extent_bytes)?, segments })
    }
}

impl Segment {
    /// `Ok(None)` if it does not make sense, an error if it is of a kind that is not followed.
    fn read(section: &Section, length: u64) -> Result<Option<Self>, String> {
        match section.text("type") {
            Some("striped" | "linear") => Ok(Self::striped(section, length)),
            Some(_) if is_snapshot(section) => {
                let origin = short(section.text("origin").unwrap_or_default());
                Err(format!("a snapshot of LVM: it holds only what {origin} lost since"))
            }
            Some(kind) => {
                // Some have flags behind their name.
                let kind = short(kind.split('+').next().unwrap_or_default());
                Err(format!("a volume of LVM of type {kind}: only linear and striped ones are opened"))
            }
            None => Ok(None),
        }
    }

    fn striped(section: &Section, length: u64) -> Option<Self> {
        let count = section
            .number("stripe_count")
            .filter(|n| (1..=MAX_STRIPES).contains(n) && length.is_multiple_of(*n))?;
        let areas = section.list("stripes")?.as_chunks::<2>().0.iter().map(|area| match area {
            [Value::Text(physical), Value::Number(first)] => {
                Some(Area { physical: physical.clone(), first: *first })
            }
            _ => None,
        });
        let areas: Vec<Area> = areas.collect::<Option<_>>()?;
        let chunk = match count {
            1 => 0,
            _ => section.number("stripe_size")?.checked_mul(SECTOR_BYTES)?,
        };
        (areas.len() as u64 == count).then_some(Self { areas, extents: length / count, chunk })
    }
}

/// Types may have flags behind their name.
fn is_snapshot(segment: &Section) -> bool {
    segment.text("type").and_then(|kind| kind.split('+').next()) == Some("snapshot")
}

fn are_unique<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let mut known = BTreeSet::new();
    names.all(|name| known.insert(name))
}

fn has(section: &Section, list: &str, flag: &str) -> bool {
    section
        .list(list)
        .unwrap_or_default()
        .iter()
        .any(|value| matches!(value, Value::Text(text) if text == flag))
}

/// The 32 characters of an id, without the dashes that texts have between its groups.
fn id(section: &Section) -> Option<String> {
    let id: String = section.text("id")?.chars().filter(|c| *c != '-').collect();
    (id.len() == 32).then_some(id)
}

/// What people are told of a text that may be anything.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAA-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa";
    const B: &str = "BBBBBB-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb";

    /// A group with extents of 4 KiB on two volumes of ten of them, from their eighth sector on.
    fn text(volumes: &str) -> String {
        format!(
            "vg {{ id = \"GGGGGG-gggg-gggg-gggg-gggg-gggg-gggggg\" seqno = 3 extent_size = 8\n\
             physical_volumes {{ pv0 {{ id = \"{A}\" device = \"/dev/sda\" pe_start = 8 pe_count = 10 }}\n\
             pv1 {{ id = \"{B}\" pe_start = 8 pe_count = 10 }} }}\n\
             logical_volumes {{ {volumes} }} }}\n\
             contents = \"Text Format Volume Group\" version = 1"
        )
    }

    fn volume(name: &str, segments: &str) -> String {
        let count = segments.matches("start_extent").count();
        format!("{name} {{ status = [\"VISIBLE\"] segment_count = {count} {segments} }} ")
    }

    fn segment(number: u64, start: u64, count: u64, stripes: &str) -> String {
        let columns = stripes.matches("pv").count();
        format!(
            "segment{number} {{ start_extent = {start} extent_count = {count} type = \"striped\" \
             stripe_count = {columns} stripe_size = 2 stripes = [{stripes}] }} "
        )
    }

    fn parsed(volumes: &str) -> Option<Group> {
        Group::parse(text(volumes).as_bytes())
    }

    fn placed(volumes: &str, pieces: &[(&str, u64)]) -> Result<Extents, String> {
        let group = parsed(volumes).unwrap();
        let places =
            pieces.iter().map(|(id, start)| (id.replace('-', ""), Extents::from(*start..start + 11 * 4096)));
        group.extents(&group.logical[0], &places.collect())
    }

    #[test]
    fn segments_lie_one_after_the_other() {
        let segments = segment(1, 0, 2, "\"pv1\", 3") + &segment(2, 2, 4, "\"pv0\", 0, \"pv1\", 7");
        let extents = placed(&volume("lv", &segments), &[(A, 0), (B, 1 << 20)]).unwrap();
        assert_eq!(extents.bytes(), 6 * 4096);
        assert_eq!(extents.find(0), Some((1 << 20) + 4 * 4096..(1 << 20) + 6 * 4096));
        assert_eq!(extents.find(2 * 4096 + 1024), Some((1 << 20) + 8 * 4096..(1 << 20) + 8 * 4096 + 1024));
    }

    #[test]
    fn what_does_not_add_up_is_no_group() {
        let one = |stripes: &str| volume("lv", &segment(1, 0, 2, stripes));
        assert!(parsed(&one("\"pv0\", 0")).is_some());
        let gap = segment(1, 0, 2, "\"pv0\", 0") + &segment(2, 3, 1, "\"pv0\", 3");
        let twice = one("\"pv0\", 0") + &volume("other", &segment(1, 0, 1, "\"pv0\", 1"));
        for (what, volumes) in [
            ("a gap", volume("lv", &gap)),
            ("an extent of two volumes", twice),
            ("an extent twice in one", one("\"pv0\", 0, \"pv0\", 0")),
            ("no stripes", one("")),
            ("a stripe without its place", one("\"pv0\"")),
            ("a segment that is missing", "lv { status = [\"VISIBLE\"] segment_count = 9 }".to_owned()),
            ("a part of an extent", volume("lv", &segment(1, 0, 3, "\"pv0\", 0, \"pv1\", 0"))),
            ("an extent count that overflows", volume("lv", &segment(1, 0, u64::MAX, "\"pv0\", 0"))),
        ] {
            assert_eq!(parsed(&volumes), None, "{what}");
        }
        let good = text("");
        assert!(Group::parse(good.as_bytes()).is_some(), "a group need not have volumes");
        let one_id = good.replace(B, A);
        assert_eq!(Group::parse(one_id.as_bytes()), None, "two physical volumes of one id");
        let one_name = good.replace("pv1", "pv0");
        assert_eq!(Group::parse(one_name.as_bytes()), None, "two physical volumes of one name");
        for (from, to) in [
            ("extent_size = 8", "extent_size = 0"),
            ("version = 1", "version = 2"),
            ("-gggg", ""),
            ("pe_start", "x"),
        ] {
            assert_eq!(Group::parse(good.replacen(from, to, 1).as_bytes()), None, "{to}");
        }
    }

    fn snapshot(status: &str, store: &str) -> String {
        format!(
            "snapshot0 {{ status = [{status}] segment_count = 1 segment1 {{ start_extent = 0 extent_count = 1 \
             type = \"snapshot\" origin = \"lv\" {store} = \"snap\" }} }} "
        )
    }

    #[test]
    fn names_of_volumes_are_unique_and_not_too_many() {
        let empty = |name: &str| volume(name, "");
        assert_eq!(parsed(&empty("lv").repeat(2)), None);
        let hidden = empty("lv").replace("VISIBLE", "READ");
        assert_eq!(parsed(&(empty("lv") + &hidden)), None);
        let shown = snapshot("\"VISIBLE\"", "cow_store");
        assert!(parsed(&(shown.clone() + &empty("snap").replace("VISIBLE", "READ"))).is_some());
        assert_eq!(parsed(&(shown + &empty("snap"))), None, "a snapshot is seen under the name of its store");
        let volumes = |count: usize| (0..count).map(|n| empty(&format!("lv{n}"))).collect::<String>();
        assert_eq!(parsed(&volumes(8192)).map(|group| group.logical.len()), Some(8192));
        assert_eq!(parsed(&volumes(8193)), None);
    }

    #[test]
    fn what_a_snapshot_is_being_merged_into_is_not_opened() {
        let origin = volume("lv", &segment(1, 0, 2, "\"pv0\", 0"));
        let other = volume("other", &segment(1, 0, 2, "\"pv0\", 2"));
        // While it is merged, LVM says of the snapshot that it is not to be seen.
        let merged = snapshot("\"READ\"", "merging_store");
        for flags in ["", "+FLAG"] {
            let merged = merged.replace("\"snapshot\"", &format!("\"snapshot{flags}\""));
            for volumes in [format!("{origin}{merged}"), format!("{merged}{origin}")] {
                let why = placed(&volumes, &[(A, 0)]).unwrap_err();
                assert!(why.contains("a snapshot is being merged into it"), "{why}");
            }
        }
        assert!(placed(&(other + &merged), &[(A, 0)]).is_ok());
        let kept = snapshot("\"VISIBLE\"", "cow_store");
        assert!(placed(&(origin + &kept), &[(A, 0)]).is_ok());
    }

    #[test]
    fn what_is_not_at_hand_is_named() {
        let lv = |stripes: &str| volume("lv", &segment(1, 0, 2, stripes));
        let missing = placed(&lv("\"pv0\", 0"), &[]).unwrap_err();
        assert!(missing.contains("AAAAAAaaaaaaaaaaaaaaaaaaaaaaaaaa (/dev/sda when"), "{missing}");
        let behind = placed(&lv("\"pv0\", 9"), &[(A, 0)]).unwrap_err();
        assert!(behind.contains("behind the end"), "{behind}");
        let layered = volume("lv", &segment(1, 0, 1, "\"pvmove0\", 0"));
        assert!(placed(&layered, &[(A, 0)]).unwrap_err().contains("pvmove0, which is no physical volume"));
        let typed =
            volume("lv", &segment(1, 0, 1, "\"pv0\", 0").replace("striped", "cache+CACHE_USES_CACHEVOL"));
        assert!(placed(&typed, &[]).unwrap_err().contains("of type cache:"));
    }
}
