//! `STORE`: the file that makes a directory a store and says which one.

use super::FormatError;
use super::bytes::Cursor;
use crate::model::ids::StoreId;

/// Length of the mark.
pub const MARK_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"blxrSTO\n";
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = MARK_BYTES - 4;
const PART: &str = "the store's mark";

#[must_use]
pub fn encode(store: StoreId) -> [u8; MARK_BYTES] {
    let mut out = [0; MARK_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..28].copy_from_slice(&store.0.to_le_bytes());
    let crc = crc32c::crc32c(&out[..CHECKSUM_AT]);
    out[CHECKSUM_AT..].copy_from_slice(&crc.to_le_bytes());
    out
}

pub fn parse(bytes: &[u8; MARK_BYTES]) -> Result<StoreId, FormatError> {
    let mut c = Cursor::new(PART, &bytes[..CHECKSUM_AT]);
    if c.array()? != MAGIC {
        return Err(FormatError::Magic { part: PART });
    }
    let version = c.u32()?;
    if version != VERSION {
        return Err(FormatError::Version { part: PART, found: version, known: VERSION });
    }
    if bytes[CHECKSUM_AT..] != crc32c::crc32c(&bytes[..CHECKSUM_AT]).to_le_bytes() {
        return Err(FormatError::Checksum { part: PART });
    }
    let store = StoreId(c.u128()?);
    c.rest_is_zero()?;
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let good = encode(StoreId(0x1234));
        assert_eq!(parse(&good), Ok(StoreId(0x1234)));
        for bit in 0..MARK_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }
}
