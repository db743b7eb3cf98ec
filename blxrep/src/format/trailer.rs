//! The trailer that every file of the store ends with. A file is complete if and only if it is valid.

use super::FormatError;
use super::bytes::Cursor;
use super::header::{FileHeader, HEADER_BYTES, HEADER_END};

/// Length of a trailer.
pub const TRAILER_BYTES: usize = 8 + 4 * 8 + 3 * 32;
/// [`TRAILER_BYTES`] as a length in a file.
pub const TRAILER_LENGTH: u64 = TRAILER_BYTES as u64;
const MAGIC: [u8; 8] = *b"blxrEND\n";
const ROOT_AT: usize = TRAILER_BYTES - 32;
const PART: &str = "the file trailer";

/// BLAKE3 digest.
pub type Digest = [u8; 32];

/// What is between header and trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Checksums, ranges or extents in the body.
    pub items: u64,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Entries of the index between body and trailer (only deltas have one).
    pub index_entries: u64,
    /// Their bytes.
    pub index_bytes: u64,
    pub body_digest: Digest,
    pub index_digest: Digest,
}

impl Trailer {
    /// The trailer's bytes and the root of the file, which is the last 32 of them.
    ///
    /// The header takes part in the root and not in a digest of its own, because the facts of the cut are put
    /// into it last, when the body is long written.
    #[must_use]
    pub fn encode(&self, header: &[u8; HEADER_BYTES]) -> ([u8; TRAILER_BYTES], Digest) {
        let mut out = [0; TRAILER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        let counts = [self.items, self.body_bytes, self.index_entries, self.index_bytes];
        for (slot, value) in out[8..40].as_chunks_mut::<8>().0.iter_mut().zip(counts) {
            *slot = value.to_le_bytes();
        }
        out[40..72].copy_from_slice(&self.body_digest);
        out[72..ROOT_AT].copy_from_slice(&self.index_digest);
        let root = root(header, &out[..ROOT_AT]);
        out[ROOT_AT..].copy_from_slice(&root);
        (out, root)
    }

    /// Checks header and trailer of a file of `file_bytes` against each other; returns them and the root.
    pub fn parse(
        header: &[u8; HEADER_BYTES],
        trailer: &[u8; TRAILER_BYTES],
        file_bytes: u64,
    ) -> Result<(FileHeader, Self, Digest), FormatError> {
        let mut c = Cursor::new(PART, trailer);
        if c.array()? != MAGIC {
            return Err(FormatError::Magic { part: PART });
        }
        let parsed = Self {
            items: c.u64()?,
            body_bytes: c.u64()?,
            index_entries: c.u64()?,
            index_bytes: c.u64()?,
            body_digest: c.array()?,
            index_digest: c.array()?,
        };
        let stored: Digest = c.array()?;
        if stored != root(header, &trailer[..ROOT_AT]) {
            return Err(FormatError::Checksum { part: PART });
        }
        if parsed.file_bytes() != Some(file_bytes) {
            return Err(FormatError::Field {
                part: PART,
                field: "the length of the file",
                value: file_bytes,
            });
        }
        Ok((FileHeader::parse(header)?, parsed, stored))
    }

    /// Length of a file with this trailer; `None` if no file can be that long.
    #[must_use]
    pub fn file_bytes(&self) -> Option<u64> {
        (HEADER_END + TRAILER_LENGTH).checked_add(self.body_bytes)?.checked_add(self.index_bytes)
    }

    /// Where the index begins.
    #[must_use]
    pub const fn index_at(&self) -> u64 {
        HEADER_END + self.body_bytes
    }
}

fn root(header: &[u8; HEADER_BYTES], fields: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(fields);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::header::FileKind;
    use super::super::header::tests::sample;
    use super::*;

    #[test]
    fn every_flipped_bit_of_header_and_trailer_is_found() {
        let header = sample(FileKind::Delta).encode();
        let trailer = Trailer {
            items: 3,
            body_bytes: 5000,
            index_entries: 2,
            index_bytes: 40,
            body_digest: [1; 32],
            index_digest: [2; 32],
        };
        let (bytes, root) = trailer.encode(&header);
        let length = trailer.file_bytes().unwrap();
        let (parsed_header, parsed, parsed_root) = Trailer::parse(&header, &bytes, length).unwrap();
        assert_eq!((parsed_header, parsed, parsed_root), (sample(FileKind::Delta), trailer, root));
        assert!(Trailer::parse(&header, &bytes, length - 1).is_err());
        for bit in 0..TRAILER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Trailer::parse(&header, &bad, length).is_err(), "trailer bit {bit}");
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = header;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Trailer::parse(&bad, &bytes, length).is_err(), "header bit {bit}");
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let header = sample(FileKind::Delta).encode();
        let trailer = Trailer {
            items: 0,
            body_bytes: u64::MAX,
            index_entries: 0,
            index_bytes: u64::MAX,
            body_digest: [0; 32],
            index_digest: [0; 32],
        };
        let (bytes, _) = trailer.encode(&header);
        assert!(Trailer::parse(&header, &bytes, 4096).is_err());
    }
}
