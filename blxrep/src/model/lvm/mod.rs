//! LVM2 as bytes: the label of a physical volume, its metadata areas, and the text in them.
//!
//! ```text
//! sector 0..4   label: LABELONE, its checksum, and behind it the volume's id and where its metadata areas are
//! an area       one sector of header, then a ring of texts; the header says which of them is valid
//! a text        describes the whole volume group; every area of every volume of the group has a copy
//! ```
//!
//! It is read here and not put together by the host: that has its own volume groups, and a copy of one of them beside
//! it is dangerous. The bytes are hostile: what does not add up is refused, and everything is bounded. Source of the
//! formats: LVM2 `lib/format_text/layout.h`, `lib/label/label.h`, `libdm/libdm-config.c`.

mod group;
mod text;

pub use group::{Group, Logical};

use super::partition_table::{Fetch, crc, u32_at, u64_at};
use super::superblock::text as text_of;
use std::ops::Range;

const SECTOR: usize = 512;
/// What LVM's checksums begin with.
const CRC_SEED: u32 = 0xf597_a6cf;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// Metadata areas of a volume: LVM makes two at most.
const MAX_AREAS: usize = 8;
/// Longest text. A group of thousands of volumes has less than 2 MiB.
const MAX_TEXT: u64 = 4 << 20;

/// The label of a physical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its 32 characters.
    pub id: String,
    areas: Vec<Range<u64>>,
    whole: bool,
}

impl Label {
    /// Looks for a label in the first sectors of a space.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Self> {
        let sector = head.chunks_exact(SECTOR).take(4).find(|sector| {
            sector.starts_with(b"LABELONE") && sector.get(24..32).is_some_and(|kind| kind == b"LVM2 001")
        })?;
        let header = sector.get(usize::try_from(u32_at(sector, 20)?).ok()?..)?;
        let id = text_of(header.get(..32)?);
        // Behind id and size: places of data, then of metadata areas, each list with a place of zero at its end.
        let places = header.get(40..)?.as_chunks::<16>().0;
        let mut places = places.iter().map(|raw| (u64_at(raw, 0).unwrap_or(0), u64_at(raw, 8).unwrap_or(0)));
        let data = places.by_ref().take_while(|place| place.0 != 0).count();
        let areas = places.take_while(|place| place.0 != 0).take(MAX_AREAS);
        let areas = areas.filter_map(|(at, bytes)| Some(at..at.checked_add(bytes)?)).collect();
        let whole = data > 0 && crc(CRC_SEED, &sector[20..]) == u32_at(sector, 16)?;
        Some(Self { id, areas, whole })
    }

    /// The newest description of its group that its own areas have. `None` in a volume without areas, and where none is
    /// whole: other volumes of the group may have it.
    pub fn group(&self, fetch: &mut Fetch<'_>) -> Option<Group> {
        if !self.whole {
            return None;
        }
        let texts = self.areas.iter().filter_map(|area| committed(fetch, area));
        texts.filter_map(|text| Group::parse(&text)).max_by_key(|group| group.seqno)
    }
}

/// The valid text of a metadata area, if its checksums are right.
fn committed(fetch: &mut Fetch<'_>, area: &Range<u64>) -> Option<Vec<u8>> {
    let header = fetch(area.start, SECTOR)?;
    let is_area = header.get(4..20)? == AREA_MAGIC && u32_at(&header, 20)? == 1;
    let size = u64_at(&header, 32)?;
    let in_place = u64_at(&header, 24)? == area.start && size <= area.end - area.start;
    if !is_area || !in_place || crc(CRC_SEED, &header[4..]) != u32_at(&header, 0)? {
        return None;
    }
    let (offset, length) = (u64_at(&header, 40)?, u64_at(&header, 48)?);
    let (checksum, flags) = (u32_at(&header, 56)?, u32_at(&header, 60)?);
    // An area may be told to be ignored, so that not every disk of many is written to.
    let ring = (SECTOR as u64..size).contains(&offset) && length <= size - SECTOR as u64;
    if !ring || length == 0 || length > MAX_TEXT || flags & 1 != 0 {
        return None;
    }
    let first = length.min(size - offset);
    let mut text = fetch(area.start + offset, usize::try_from(first).ok()?)?;
    if first < length {
        text.extend(fetch(area.start + SECTOR as u64, usize::try_from(length - first).ok()?)?);
    }
    (crc(CRC_SEED, &text) == checksum).then_some(text)
}
