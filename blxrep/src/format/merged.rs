//! `.idx`: the indexes of neighbouring deltas as one: which extent of which of them is seen where.
//!
//! A cache. It is made of nothing but the deltas' own indexes and can be made again from them at any time.
//! Layout: header, roots of the deltas, runs in blocks, a fence per block. The header's digest covers roots and
//! fences, and a fence its block, so that a file is opened without reading its runs and no run is used unchecked.

use super::FormatError;
use super::bytes::Cursor;
use super::overlay::Run;
use super::trailer::Digest;
use crate::model::units::GranuleSize;

/// Length of the header.
pub const HEAD_BYTES: usize = 64;
/// Bytes of a root.
pub const ROOT_BYTES: usize = 32;
/// Bytes of a run.
pub const RUN_BYTES: usize = 24;
/// Runs of a block: 6 KiB are read to find one.
pub const BLOCK_RUNS: usize = 256;
/// Bytes of a full block.
pub const BLOCK_BYTES: usize = BLOCK_RUNS * RUN_BYTES;
/// Bytes of a fence.
pub const FENCE_BYTES: usize = 8;
/// Most deltas under one index.
pub const MAX_LAYERS: u32 = 4096;
/// Most runs of one index: their fences take 8 MiB of memory.
pub const MAX_RUNS: u64 = 1 << 28;
const MAGIC: [u8; 8] = *b"blxrIDX\n";
const VERSION: u32 = 1;
/// Where the digest is in the header, and what it covers of it.
const DIGEST_AT: usize = 32;
const PART: &str = "the merged index";

/// What an index says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub granule: GranuleSize,
    /// Deltas that were merged.
    pub layers: u32,
    pub runs: u64,
}

/// The first granule of a block, and the CRC32C of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub start: u32,
    pub crc: u32,
}

impl Head {
    /// The header of a file with these roots (oldest first) and fences, as bytes.
    #[must_use]
    pub fn encode(&self, roots: &[Digest], fences: &[u8]) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.granule.shift().to_le_bytes());
        out[16..20].copy_from_slice(&self.layers.to_le_bytes());
        out[24..DIGEST_AT].copy_from_slice(&self.runs.to_le_bytes());
        let digest = digest(&out[..DIGEST_AT], roots.as_flattened(), fences);
        out[DIGEST_AT..].copy_from_slice(&digest);
        out
    }

    /// Parses the header of a file of `file_bytes`; [`Self::prove`] proves it.
    pub fn parse(bytes: &[u8; HEAD_BYTES], file_bytes: u64) -> Result<Self, FormatError> {
        let mut c = Cursor::new(PART, bytes);
        if c.array()? != MAGIC {
            return Err(FormatError::Magic { part: PART });
        }
        let (version, shift, layers, reserved, runs) = (c.u32()?, c.u32()?, c.u32()?, c.u32()?, c.u64()?);
        if version != VERSION {
            return Err(FormatError::Version { part: PART, found: version, known: VERSION });
        }
        let field = |field, value| FormatError::Field { part: PART, field, value };
        let granule = GranuleSize::from_shift(shift).ok_or(field("the granule", u64::from(shift)))?;
        if reserved != 0 {
            return Err(field("a reserved byte", u64::from(reserved)));
        }
        if layers == 0 || layers > MAX_LAYERS {
            return Err(field("the number of deltas", u64::from(layers)));
        }
        if runs > MAX_RUNS {
            return Err(field("the number of runs", runs));
        }
        let head = Self { granule, layers, runs };
        if head.end() != file_bytes {
            return Err(field("the length of the file", file_bytes));
        }
        Ok(head)
    }

    /// Whether header, roots and fences belong together, as they were written.
    pub fn prove(&self, head: &[u8; HEAD_BYTES], roots: &[u8], fences: &[u8]) -> Result<(), FormatError> {
        if head[DIGEST_AT..] == digest(&head[..DIGEST_AT], roots, fences) {
            Ok(())
        } else {
            Err(FormatError::Checksum { part: PART })
        }
    }

    /// Bytes of the roots.
    #[must_use]
    pub const fn roots_bytes(&self) -> u64 {
        self.layers as u64 * ROOT_BYTES as u64
    }

    #[must_use]
    pub const fn runs_at(&self) -> u64 {
        HEAD_BYTES as u64 + self.roots_bytes()
    }

    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.runs.div_ceil(BLOCK_RUNS as u64)
    }

    #[must_use]
    pub const fn fences_at(&self) -> u64 {
        self.runs_at() + self.runs * RUN_BYTES as u64
    }

    /// Length of the file.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.fences_at() + self.blocks() * FENCE_BYTES as u64
    }

    /// Runs of the block at position `block`.
    #[must_use]
    pub fn runs_of(&self, block: u64) -> usize {
        let left = self.runs.saturating_sub(block * BLOCK_RUNS as u64);
        usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_RUNS)
    }
}

/// BLAKE3 of the header's facts, the roots and the fences.
fn digest(facts: &[u8], roots: &[u8], fences: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in [facts, roots, fences] {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Appends a run.
pub fn put_run(out: &mut Vec<u8>, run: &Run) {
    for value in [run.start, run.end, run.skip, run.layer] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&run.at.to_le_bytes());
}

/// Appends the fence of a block.
pub fn put_fence(out: &mut Vec<u8>, block: &[u8]) {
    out.extend_from_slice(block.first_chunk::<4>().unwrap_or(&[0; 4]));
    out.extend_from_slice(&crc32c::crc32c(block).to_le_bytes());
}

/// Reads fences, which must ascend.
pub fn fences(bytes: &[u8]) -> Result<Vec<Fence>, FormatError> {
    let mut out: Vec<Fence> = Vec::with_capacity(bytes.len() / FENCE_BYTES);
    for entry in bytes.chunks(FENCE_BYTES) {
        let mut c = Cursor::new(PART, entry);
        let fence = Fence { start: c.u32()?, crc: c.u32()? };
        if out.last().is_some_and(|last| last.start >= fence.start) {
            return Err(FormatError::Order { part: PART, entry: out.len() as u64 });
        }
        out.push(fence);
    }
    Ok(out)
}

/// Appends the runs of a block, proven by its fence.
pub fn read_block(bytes: &[u8], fence: &Fence, layers: u32, out: &mut Vec<Run>) -> Result<(), FormatError> {
    if crc32c::crc32c(bytes) != fence.crc {
        return Err(FormatError::Checksum { part: PART });
    }
    let mut end = fence.start;
    for (entry, bytes) in (0..).zip(bytes.chunks(RUN_BYTES)) {
        let mut c = Cursor::new(PART, bytes);
        let run = Run { start: c.u32()?, end: c.u32()?, skip: c.u32()?, layer: c.u32()?, at: c.u64()? };
        if run.start < end || run.is_empty() || run.skip > run.start || run.layer >= layers {
            return Err(FormatError::Order { part: PART, entry });
        }
        end = run.end;
        out.push(run);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(runs: &[Run]) -> Vec<u8> {
        let mut bytes = Vec::new();
        runs.iter().for_each(|run| put_run(&mut bytes, run));
        bytes
    }

    fn run(start: u32, end: u32, layer: u32) -> Run {
        Run { start, end, skip: start / 2, layer, at: 1024 + u64::from(start) }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let runs = [run(3, 9, 0), run(9, 10, 1), run(40, 41, 0)];
        let body = block(&runs);
        let mut fence_bytes = Vec::new();
        put_fence(&mut fence_bytes, &body);
        let roots = [[7; ROOT_BYTES], [8; ROOT_BYTES]];
        let head = Head { granule: GranuleSize::default(), layers: 2, runs: 3 };
        let good = head.encode(&roots, &fence_bytes);
        let open = |head: &[u8; HEAD_BYTES], roots: &[u8], fence_bytes: &[u8], body: &[u8]| {
            let parsed = Head::parse(head, 64 + 64 + 72 + 8)?;
            parsed.prove(head, roots, fence_bytes)?;
            let fences = fences(fence_bytes)?;
            let mut out = Vec::new();
            read_block(body, &fences[0], parsed.layers, &mut out)?;
            Ok::<_, FormatError>(out)
        };
        assert_eq!(open(&good, roots.as_flattened(), &fence_bytes, &body), Ok(runs.to_vec()));
        let flipped = |bytes: &[u8], bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        for bit in 0..HEAD_BYTES * 8 {
            let head: [u8; HEAD_BYTES] = flipped(&good, bit).try_into().unwrap();
            assert!(open(&head, roots.as_flattened(), &fence_bytes, &body).is_err(), "header bit {bit}");
        }
        for bit in 0..64 * 8 {
            assert!(open(&good, &flipped(roots.as_flattened(), bit), &fence_bytes, &body).is_err(), "{bit}");
        }
        for bit in 0..fence_bytes.len() * 8 {
            assert!(open(&good, roots.as_flattened(), &flipped(&fence_bytes, bit), &body).is_err(), "{bit}");
        }
        for bit in 0..body.len() * 8 {
            assert!(open(&good, roots.as_flattened(), &fence_bytes, &flipped(&body, bit)).is_err(), "{bit}");
        }
    }

    #[test]
    fn runs_out_of_order_are_refused() {
        let read = |runs: &[Run]| {
            let bytes = block(runs);
            let fence = Fence { start: runs[0].start, crc: crc32c::crc32c(&bytes) };
            read_block(&bytes, &fence, 2, &mut Vec::new())
        };
        assert!(read(&[run(3, 9, 0), run(9, 10, 1)]).is_ok());
        assert!(read(&[run(3, 9, 0), run(8, 10, 1)]).is_err(), "they overlap");
        assert!(read(&[run(3, 3, 0)]).is_err(), "one is empty");
        assert!(read(&[run(3, 9, 2)]).is_err(), "of a delta that is not there");
        assert!(read(&[Run { skip: 4, ..run(3, 9, 0) }]).is_err(), "starts before the disk");
        assert!(fences(&[1, 0, 0, 0, 9, 9, 9, 9, 1, 0, 0, 0, 9, 9, 9, 9]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 64..300), length: u64) {
            prop_assert!(Head::parse(bytes.first_chunk().unwrap(), length).is_err());
            let _ = fences(&bytes);
            let fence = Fence { start: 0, crc: crc32c::crc32c(&bytes) };
            let _ = read_block(&bytes, &fence, 16, &mut Vec::new());
        }
    }
}
