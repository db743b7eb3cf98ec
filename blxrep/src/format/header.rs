//! The header that every file of the store starts with: what it is, whose it is, and where it belongs.

use super::FormatError;
use super::bytes::{Cursor, put_text};
use crate::model::holes::Holes;
use crate::model::ids::{
    ActionId, AgentId, CutId, DiskId, DiskIdentity, Epoch, GenerationId, PointId, StoreId,
};
use crate::model::point::Consistency;
use crate::model::units::GranuleSize;
use jiff::Timestamp;

/// A header is always this long; what is not used is zero.
pub const HEADER_BYTES: usize = 1024;
/// [`HEADER_BYTES`] as a position in a file.
pub const HEADER_END: u64 = HEADER_BYTES as u64;
/// Format version that this program writes and reads.
pub const VERSION: u32 = 1;
/// Longest disk identity that is kept: twice the longest that a WWN or serial may have.
pub const MAX_IDENTITY_BYTES: u16 = 512;
/// Longest agent name (see [`AgentId`]).
const MAX_AGENT_BYTES: u16 = 64;
/// Longest path of a device that is kept; the rest of a longer one is left out.
const MAX_DEVICE_BYTES: u16 = 128;
/// Ranges of unreadable sectors that a header has room for.
pub const MAX_KEPT_HOLES: usize = 8;
/// Position of the header's own checksum.
const CHECKSUM_AT: usize = HEADER_BYTES - 4;
const PART: &str = "the file header";

/// The three kinds of files with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `.sum`: a checksum per granule of a raw image.
    Sidecar,
    /// `.cst`: which sectors a point changed.
    Changes,
    /// `.bak`: their content at the cut.
    Delta,
}

impl FileKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Sidecar => *b"blxrSUM\n",
            Self::Changes => *b"blxrCST\n",
            Self::Delta => *b"blxrBAK\n",
        }
    }

    /// What a file that begins like this is.
    #[must_use]
    pub fn from_magic(magic: [u8; 8]) -> Option<Self> {
        [Self::Sidecar, Self::Changes, Self::Delta].into_iter().find(|kind| kind.magic() == magic)
    }
}

/// Sectors that could not be read, in as many ranges as a header has room for: of more, neighbours are joined, so that
/// nothing counts as read that was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptHoles {
    count: u8,
    ranges: [[u64; 2]; MAX_KEPT_HOLES],
}

impl KeptHoles {
    #[must_use]
    pub fn of(holes: &Holes) -> Self {
        let all: Vec<_> = holes.sectors().collect();
        // The widest gaps stay.
        let mut gaps: Vec<usize> = (1..all.len()).collect();
        gaps.sort_by_key(|i| std::cmp::Reverse(all[*i].start - all[i - 1].end));
        gaps.truncate(MAX_KEPT_HOLES - 1);
        gaps.sort_unstable();
        let starts = (!all.is_empty()).then_some(0).into_iter().chain(gaps.iter().copied());
        let ends = gaps.iter().copied().chain([all.len()]);
        let mut kept = Self::default();
        for (slot, (start, end)) in kept.ranges.iter_mut().zip(starts.zip(ends)) {
            *slot = [all[start].start, all[end - 1].end];
            kept.count += 1;
        }
        kept
    }

    /// The sectors, and perhaps more than those.
    #[must_use]
    pub fn holes(&self) -> Holes {
        let mut holes = Holes::new();
        self.ranges.iter().take(usize::from(self.count)).for_each(|[start, end]| holes.add(*start..*end));
        holes
    }

    /// Whether some may have been joined.
    #[must_use]
    pub fn are_rough(&self) -> bool {
        usize::from(self.count) == MAX_KEPT_HOLES
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.count);
        for bound in self.ranges.iter().take(usize::from(self.count)).flatten() {
            out.extend_from_slice(&bound.to_le_bytes());
        }
    }

    fn take(c: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let mut kept = Self { count: c.u8()?, ..Self::default() };
        let field = |value| FormatError::Field { part: PART, field: "a range of unreadable sectors", value };
        if usize::from(kept.count) > MAX_KEPT_HOLES {
            return Err(field(u64::from(kept.count)));
        }
        let mut before = None;
        for range in kept.ranges.iter_mut().take(usize::from(kept.count)) {
            *range = [c.u64()?, c.u64()?];
            if range[0] >= range[1] || before.is_some_and(|before| range[0] <= before) {
                return Err(field(range[0]));
            }
            before = Some(range[1]);
        }
        Ok(kept)
    }
}

/// The cut that a file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutFacts {
    pub cut: CutId,
    pub at: Timestamp,
    pub consistency: Consistency,
    /// Whether the dirty set behind the point was known to be complete.
    pub proven: bool,
    /// What could not be read of the disk.
    pub holes: KeptHoles,
    /// The restore onto the disk that was unfinished.
    pub half_restored: Option<ActionId>,
}

/// What a file is and whom it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub kind: FileKind,
    pub store: StoreId,
    pub agent: AgentId,
    pub identity: DiskIdentity,
    pub disk: DiskId,
    pub generation: GenerationId,
    pub point: PointId,
    /// `None` in the files of a base.
    pub parent: Option<PointId>,
    pub sequence: u64,
    /// Position among all points of the disk, in the order of publication.
    pub number: u64,
    pub epoch: Epoch,
    pub disk_bytes: u64,
    pub granule: GranuleSize,
    /// Where the agent saw the disk, as `/dev/sda`.
    pub device: String,
    /// Which making of the file this is, as its name says: 0 as it was received, others are of consolidation.
    pub edition: u32,
    /// `None` while the image is being made.
    pub cut: Option<CutFacts>,
}

impl FileHeader {
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&self.kind.magic());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.granule.shift().to_le_bytes());
        out.extend_from_slice(&self.store.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        for id in [self.disk.0, self.generation.0, self.point.0, self.parent.map_or(0, |p| p.0)] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.disk_bytes.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        put_cut(&mut out, self.cut);
        let (code, text) = identity_parts(&self.identity);
        out.push(code);
        put_text(&mut out, text, MAX_IDENTITY_BYTES);
        put_text(&mut out, self.agent.as_str(), MAX_AGENT_BYTES);
        put_text(&mut out, &self.device, MAX_DEVICE_BYTES);
        out.extend_from_slice(&self.edition.to_le_bytes());
        self.cut.map(|cut| cut.holes).unwrap_or_default().put(&mut out);
        let half_restored = self.cut.and_then(|cut| cut.half_restored);
        out.extend_from_slice(&half_restored.map_or(0, |action| action.0).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header[..out.len()].copy_from_slice(&out);
        let crc = crc32c::crc32c(&header[..CHECKSUM_AT]);
        header[CHECKSUM_AT..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FormatError> {
        let mut c = Cursor::new(PART, &bytes[..CHECKSUM_AT]);
        let kind = FileKind::from_magic(c.array()?).ok_or(FormatError::Magic { part: PART })?;
        let version = c.u32()?;
        if version != VERSION {
            return Err(FormatError::Version { part: PART, found: version, known: VERSION });
        }
        let stored = u32::from_le_bytes(Cursor::new(PART, &bytes[CHECKSUM_AT..]).array()?);
        if stored != crc32c::crc32c(&bytes[..CHECKSUM_AT]) {
            return Err(FormatError::Checksum { part: PART });
        }
        let field = |field, value| FormatError::Field { part: PART, field, value };
        let shift = c.u32()?;
        let granule = GranuleSize::from_shift(shift).ok_or(field("the granule shift", u64::from(shift)))?;
        let store = StoreId(c.u128()?);
        let epoch = Epoch(c.u128()?);
        let (disk, generation) = (DiskId(c.u64()?), GenerationId(c.u64()?));
        let (point, parent) = (PointId(c.u64()?), c.u64()?);
        let (sequence, disk_bytes, number) = (c.u64()?, c.u64()?, c.u64()?);
        let mut cut = take_cut(&mut c)?;
        let code = c.u8()?;
        let text = c.text("the disk identity", MAX_IDENTITY_BYTES)?.to_owned();
        let identity = identity_from(code, text).ok_or(field("the kind of identity", u64::from(code)))?;
        let agent = c.text("the agent", MAX_AGENT_BYTES)?;
        let agent = agent.parse().map_err(|_| FormatError::Text { part: PART, field: "the agent" })?;
        let device = c.text("the device", MAX_DEVICE_BYTES)?.to_owned();
        let edition = c.u32()?;
        let (holes, restore) = (KeptHoles::take(&mut c)?, c.u64()?);
        if let Some(cut) = &mut cut {
            cut.holes = holes;
            cut.half_restored = (restore != 0).then_some(ActionId(restore));
        } else if holes != KeptHoles::default() || restore != 0 {
            return Err(field("unreadable sectors or a restore without a cut", 1));
        }
        c.rest_is_zero()?;
        let parent = (parent != 0).then_some(PointId(parent));
        Ok(Self {
            kind,
            store,
            agent,
            identity,
            disk,
            generation,
            point,
            parent,
            sequence,
            number,
            epoch,
            disk_bytes,
            granule,
            device,
            edition,
            cut,
        })
    }
}

/// Cut id, seconds, nanoseconds, label (0 none, else consistency), proven.
fn put_cut(out: &mut Vec<u8>, cut: Option<CutFacts>) {
    let label = match cut.map(|c| c.consistency) {
        None => 0u8,
        Some(Consistency::Frozen) => 1,
        Some(Consistency::Quiet) => 2,
        Some(Consistency::Fuzzy) => 3,
    };
    out.extend_from_slice(&cut.map_or(0, |c| c.cut.0).to_le_bytes());
    out.extend_from_slice(&cut.map_or(0, |c| c.at.as_second()).to_le_bytes());
    out.extend_from_slice(&cut.map_or(0, |c| c.at.subsec_nanosecond()).to_le_bytes());
    out.push(label);
    out.push(u8::from(cut.is_some_and(|c| c.proven)));
}

fn take_cut(c: &mut Cursor<'_>) -> Result<Option<CutFacts>, FormatError> {
    let field = |field, value| FormatError::Field { part: PART, field, value };
    let (cut, seconds, nanos, label, proven) = (c.u64()?, c.i64()?, c.i32()?, c.u8()?, c.u8()?);
    if proven > 1 {
        return Err(field("the coverage", u64::from(proven)));
    }
    let consistency = match label {
        0 => return Ok(None),
        1 => Consistency::Frozen,
        2 => Consistency::Quiet,
        3 => Consistency::Fuzzy,
        _ => return Err(field("the consistency", u64::from(label))),
    };
    let at =
        Timestamp::new(seconds, nanos).map_err(|_| field("the second of the cut", seconds.unsigned_abs()))?;
    // These follow further behind.
    let (holes, half_restored) = (KeptHoles::default(), None);
    Ok(Some(CutFacts { cut: CutId(cut), at, consistency, proven: proven == 1, holes, half_restored }))
}

fn identity_parts(identity: &DiskIdentity) -> (u8, &str) {
    match identity {
        DiskIdentity::Wwn(v) => (1, v),
        DiskIdentity::Serial(v) => (2, v),
        DiskIdentity::Gpt(v) => (3, v),
        DiskIdentity::Mbr(v) => (4, v),
        DiskIdentity::Named(v) => (5, v),
    }
}

fn identity_from(code: u8, text: String) -> Option<DiskIdentity> {
    Some(match code {
        1 => DiskIdentity::Wwn(text),
        2 => DiskIdentity::Serial(text),
        3 => DiskIdentity::Gpt(text),
        4 => DiskIdentity::Mbr(text),
        5 => DiskIdentity::Named(text),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample(kind: FileKind) -> FileHeader {
        FileHeader {
            kind,
            store: StoreId(7),
            agent: "web1.example.com".parse().unwrap(),
            identity: DiskIdentity::Serial("S3X2NB0K".to_owned()),
            disk: DiskId(1),
            generation: GenerationId(2),
            point: PointId(3),
            parent: (kind != FileKind::Sidecar).then_some(PointId(9)),
            sequence: 4,
            number: 11,
            epoch: Epoch(5),
            disk_bytes: 1_000_448,
            granule: GranuleSize::default(),
            device: "/dev/sda".to_owned(),
            edition: 3,
            cut: Some(CutFacts {
                cut: CutId(6),
                at: "2026-11-05T10:11:12.000345678Z".parse().unwrap(),
                consistency: Consistency::Quiet,
                proven: true,
                holes: KeptHoles::default(),
                half_restored: Some(ActionId(8)),
            }),
        }
    }

    #[test]
    fn a_header_says_again_what_it_was_told() {
        for kind in [FileKind::Sidecar, FileKind::Changes, FileKind::Delta] {
            let header = sample(kind);
            assert_eq!(FileHeader::parse(&header.encode()), Ok(header));
        }
        let mut open = sample(FileKind::Sidecar);
        open.cut = None;
        assert_eq!(FileHeader::parse(&open.encode()), Ok(open));
    }

    #[test]
    fn the_longest_texts_fit() {
        let header = FileHeader {
            agent: "a".repeat(usize::from(MAX_AGENT_BYTES)).parse().unwrap(),
            identity: DiskIdentity::Serial("s".repeat(usize::from(MAX_IDENTITY_BYTES))),
            device: "d".repeat(usize::from(MAX_DEVICE_BYTES)),
            cut: sample(FileKind::Delta).cut.map(|cut| CutFacts { holes: KeptHoles::of(&many()), ..cut }),
            ..sample(FileKind::Delta)
        };
        assert_eq!(FileHeader::parse(&header.encode()), Ok(header));
    }

    /// Twenty holes, in two crowds.
    fn many() -> Holes {
        let mut holes = Holes::new();
        (0..10).for_each(|n| holes.add(n * 16..n * 16 + 1 + n));
        (0..10).for_each(|n| holes.add(5000 + n * 8..5000 + n * 8 + 2));
        holes
    }

    #[test]
    fn holes_are_kept_and_never_fewer() {
        let mut few = Holes::new();
        (0..MAX_KEPT_HOLES as u64).for_each(|n| few.add(n * 8..n * 8 + 3));
        assert_eq!(KeptHoles::of(&few).holes(), few);
        let kept = KeptHoles::of(&many());
        assert!(kept.are_rough());
        let mut both = kept.holes();
        both.add_all(&many());
        assert_eq!(both, kept.holes(), "none is lost");
        assert!(kept.holes().within(&(300 * 512..4900 * 512)).is_none(), "the widest gap stays");
        assert_eq!(KeptHoles::of(&Holes::new()), KeptHoles::default());
    }

    #[test]
    fn a_header_from_the_future_names_both_versions() {
        let mut bytes = sample(FileKind::Delta).encode();
        bytes[8] = 9;
        assert_eq!(
            FileHeader::parse(&bytes),
            Err(FormatError::Version { part: PART, found: 9, known: VERSION })
        );
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = sample(FileKind::Delta).encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused(noise in proptest::collection::vec(any::<u8>(), CHECKSUM_AT), kind in 0usize..3) {
            // With valid magic, version and checksum, so that the fields are reached.
            let kind = [FileKind::Sidecar, FileKind::Changes, FileKind::Delta][kind];
            let mut bytes = [0; HEADER_BYTES];
            bytes[..CHECKSUM_AT].copy_from_slice(&noise);
            bytes[..8].copy_from_slice(&kind.magic());
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
            bytes[CHECKSUM_AT..].copy_from_slice(&crc.to_le_bytes());
            prop_assert!(FileHeader::parse(&bytes).is_err());
        }
    }
}
