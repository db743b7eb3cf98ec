//! `.bak`: the content of what a point changed, as extents in the order of their arrival, and an index over them.
//!
//! An extent is a header of 32 bytes and its payload. Where rounds overlap, the index names the newest.

use super::FormatError;
use super::bytes::Cursor;
use super::header::HEADER_END;
use super::overlay::Run;
use super::trailer::Trailer;
use crate::model::encoding::{Encoding, MAX_PAYLOAD_BYTES};
use crate::model::units::GranuleSize;
use std::ops::Range;

/// Length of an extent's header.
pub const EXTENT_HEADER_BYTES: usize = 32;
/// Bytes of one entry of the index.
pub const ENTRY_BYTES: usize = 20;
/// Most extents of one delta: a pass over 16 TiB in reads of 1 MiB. The writer keeps 24 bytes for each.
pub const MAX_EXTENTS: u64 = 1 << 24;
/// Cutting overlaps at most doubles the number of runs.
pub const MAX_ENTRIES: u64 = 2 * MAX_EXTENTS;
/// Longest stretch of zeroes in one extent.
pub const MAX_ZERO_BYTES: u64 = 1 << 30;
const EXTENT: &str = "an extent's header";
const INDEX: &str = "the delta's index";

/// One extent: which bytes of the disk, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub bytes: u64,
    pub encoding: Encoding,
    pub payload: u32,
    /// CRC32C of the payload as it is stored.
    pub payload_crc: u32,
}

impl Extent {
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes
    }

    #[must_use]
    pub fn encode(&self) -> [u8; EXTENT_HEADER_BYTES] {
        let mut out = [0; EXTENT_HEADER_BYTES];
        out[..8].copy_from_slice(&self.start.to_le_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.payload.to_le_bytes());
        out[20] = self.encoding.code();
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Parses the header of an extent of a disk of `disk_bytes`.
    pub fn parse(
        bytes: &[u8; EXTENT_HEADER_BYTES],
        granule: GranuleSize,
        disk_bytes: u64,
    ) -> Result<Self, FormatError> {
        let mut c = Cursor::new(EXTENT, bytes);
        let (start, length, payload, code) = (c.u64()?, c.u64()?, c.u32()?, c.u8()?);
        let reserved: [u8; 3] = c.array()?;
        let (payload_crc, header_crc) = (c.u32()?, c.u32()?);
        if header_crc != crc32c::crc32c(&bytes[..28]) {
            return Err(FormatError::Checksum { part: EXTENT });
        }
        let field = |field, value| FormatError::Field { part: EXTENT, field, value };
        if reserved != [0; 3] {
            return Err(field("a reserved byte", 1));
        }
        let encoding = Encoding::from_code(code).ok_or(field("the encoding", u64::from(code)))?;
        let extent = Self { start, bytes: length, encoding, payload, payload_crc };
        extent.check(granule, disk_bytes)?;
        Ok(extent)
    }

    /// Whether the extent is whole granules of the disk and its lengths agree.
    pub fn check(&self, granule: GranuleSize, disk_bytes: u64) -> Result<(), FormatError> {
        let field = |field, value| FormatError::Field { part: EXTENT, field, value };
        let end = self.start.checked_add(self.bytes).ok_or(field("the length", self.bytes))?;
        if self.bytes == 0 || end > disk_bytes {
            return Err(field("the end", end));
        }
        let whole = self.start.is_multiple_of(granule.bytes())
            && (end.is_multiple_of(granule.bytes()) || end == disk_bytes);
        if !whole {
            return Err(field("the start or end within a granule", self.start));
        }
        let limit = match self.encoding {
            Encoding::Zero => MAX_ZERO_BYTES,
            Encoding::Raw | Encoding::Zstd => MAX_PAYLOAD_BYTES as u64,
        };
        if self.bytes > limit {
            return Err(FormatError::Limit { part: EXTENT, field: "the length", value: self.bytes, limit });
        }
        let payload = usize::try_from(self.payload).unwrap_or(usize::MAX);
        if !self.encoding.admits(payload, self.bytes) {
            return Err(field("the payload's length", u64::from(self.payload)));
        }
        Ok(())
    }
}

/// Appends an entry of the index.
pub fn put_entry(out: &mut Vec<u8>, run: &Run) {
    for value in [run.start, run.end, run.skip] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&run.at.to_le_bytes());
}

/// Reads an index from successive pieces and checks its order across pieces.
#[derive(Debug)]
pub struct IndexReader {
    granules: u64,
    extents: Range<u64>,
    entries: u64,
    end: u32,
}

impl IndexReader {
    /// Refuses a trailer whose counts cannot be.
    pub fn new(trailer: &Trailer, granule: GranuleSize, disk_bytes: u64) -> Result<Self, FormatError> {
        let limit = |field, value, limit| FormatError::Limit { part: INDEX, field, value, limit };
        if trailer.items > MAX_EXTENTS {
            return Err(limit("the number of extents", trailer.items, MAX_EXTENTS));
        }
        if trailer.index_entries > MAX_ENTRIES {
            return Err(limit("the number of entries", trailer.index_entries, MAX_ENTRIES));
        }
        if trailer.index_entries.checked_mul(ENTRY_BYTES as u64) != Some(trailer.index_bytes) {
            return Err(FormatError::Field { part: INDEX, field: "the length", value: trailer.index_bytes });
        }
        let extents = HEADER_END..trailer.index_at();
        Ok(Self { granules: granule.count(disk_bytes), extents, entries: 0, end: 0 })
    }

    /// Appends the entries in `piece`, which is a whole number of them, to `runs` as runs of `layer`.
    pub fn feed(&mut self, piece: &[u8], layer: u32, runs: &mut Vec<Run>) -> Result<(), FormatError> {
        for entry in piece.chunks(ENTRY_BYTES) {
            let mut c = Cursor::new(INDEX, entry);
            let run = Run { start: c.u32()?, end: c.u32()?, skip: c.u32()?, layer, at: c.u64()? };
            if run.start < self.end || run.is_empty() || u64::from(run.end) > self.granules {
                return Err(FormatError::Order { part: INDEX, entry: self.entries });
            }
            if !self.extents.contains(&run.at) || run.skip > run.start {
                return Err(FormatError::Field { part: INDEX, field: "an extent's place", value: run.at });
            }
            self.entries += 1;
            self.end = run.end;
            runs.push(run);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: u64 = 100 * 4096 + 512;

    fn extent() -> Extent {
        Extent { start: 8192, bytes: 8192, encoding: Encoding::Zstd, payload: 77, payload_crc: 0xdead_beef }
    }

    fn trailer(entries: u64) -> Trailer {
        Trailer {
            items: entries,
            body_bytes: 100_000,
            index_entries: entries,
            index_bytes: entries * ENTRY_BYTES as u64,
            body_digest: [0; 32],
            index_digest: [0; 32],
        }
    }

    #[test]
    fn every_flipped_bit_of_an_extents_header_is_found() {
        let good = extent().encode();
        assert_eq!(Extent::parse(&good, GranuleSize::default(), DISK), Ok(extent()));
        for bit in 0..EXTENT_HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Extent::parse(&bad, GranuleSize::default(), DISK).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn extents_that_cannot_be_are_refused() {
        let ok = |extent: Extent| extent.check(GranuleSize::default(), DISK).is_ok();
        assert!(ok(extent()));
        assert!(ok(Extent {
            start: 409_600,
            bytes: 512,
            encoding: Encoding::Raw,
            payload: 512,
            payload_crc: 0
        }));
        assert!(!ok(Extent { start: 512, ..extent() }), "starts within a granule");
        assert!(!ok(Extent { bytes: 512, ..extent() }), "ends within a granule");
        assert!(!ok(Extent { bytes: 0, ..extent() }), "is empty");
        assert!(!ok(Extent { start: u64::MAX - 4095, ..extent() }), "overflows");
        assert!(!ok(Extent { start: 409_600, ..extent() }), "ends behind the disk");
        assert!(!ok(Extent { encoding: Encoding::Raw, ..extent() }), "raw of another length");
        assert!(!ok(Extent { encoding: Encoding::Zero, ..extent() }), "zero with a payload");
        let huge = Extent { start: 0, bytes: 2 << 20, encoding: Encoding::Zstd, payload: 9, payload_crc: 0 };
        assert!(huge.check(GranuleSize::default(), 1 << 30).is_err(), "unpacks to more than a payload may");
    }

    #[test]
    fn an_index_out_of_order_is_refused() {
        let read = |runs: &[Run]| {
            let mut bytes = Vec::new();
            runs.iter().for_each(|run| put_entry(&mut bytes, run));
            let mut out = Vec::new();
            IndexReader::new(&trailer(runs.len() as u64), GranuleSize::default(), DISK)
                .and_then(|mut reader| reader.feed(&bytes, 0, &mut out))
                .map(|()| out)
        };
        let run = |start, end, at| Run { start, end, skip: 0, layer: 0, at };
        let good = vec![run(0, 3, 1024), run(3, 4, 9000), run(100, 101, 1024)];
        assert_eq!(read(&good), Ok(good));
        assert!(read(&[run(3, 4, 1024), run(0, 1, 1024)]).is_err());
        assert!(read(&[run(3, 3, 1024)]).is_err());
        assert!(read(&[run(100, 102, 1024)]).is_err());
        assert!(read(&[run(0, 1, 1023)]).is_err());
        assert!(read(&[run(0, 1, 101_024)]).is_err());
        let lying = Trailer { index_bytes: 7, ..trailer(1) };
        assert!(IndexReader::new(&lying, GranuleSize::default(), DISK).is_err());
        assert!(IndexReader::new(&trailer(u64::MAX / 20), GranuleSize::default(), DISK).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), disk in any::<u64>()) {
            if let Ok(mut reader) = IndexReader::new(&trailer(10), GranuleSize::default(), disk) {
                let _ = reader.feed(&bytes, 0, &mut Vec::new());
            }
            if let Some(header) = bytes.first_chunk::<EXTENT_HEADER_BYTES>() {
                prop_assert!(Extent::parse(header, GranuleSize::default(), disk).is_err());
            }
        }
    }
}
