//! How a stretch of a disk's bytes is stored or sent: as it is, compressed, or as the mere fact that it is zero.

use serde::{Deserialize, Serialize};

/// Longest stretch that one payload stands for: the length of one read, and the most that a reader must unpack
/// to get at one byte. Zero stretches have no payload and may be longer.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// How payload bytes stand for disk bytes. The codes are in files and frames and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The bytes themselves.
    Raw,
    /// One zstd frame.
    Zstd,
    /// All zero; no payload.
    Zero,
}

/// Why a payload does not stand for the bytes it is said to stand for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a {encoding:?} payload of {payload} bytes cannot stand for {expected} bytes")]
    Length { encoding: Encoding, payload: usize, expected: usize },
    #[error("a zstd payload of {payload} bytes does not unpack to {expected} bytes: {reason}")]
    Zstd { payload: usize, expected: usize, reason: String },
}

impl Encoding {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Zero => 2,
        }
    }

    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Zero),
            _ => None,
        }
    }

    /// Whether a payload of `payload` bytes may stand for `raw` bytes of disk.
    #[must_use]
    pub const fn admits(self, payload: usize, raw: u64) -> bool {
        match self {
            Self::Raw => payload as u64 == raw && payload <= MAX_PAYLOAD_BYTES,
            Self::Zstd => payload > 0 && raw <= MAX_PAYLOAD_BYTES as u64 && (payload as u64) < raw,
            Self::Zero => payload == 0,
        }
    }

    /// Unpacks `payload` into `out`, which must be exactly as long as the stretch.
    pub fn decode_into(self, payload: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        if !self.admits(payload.len(), out.len() as u64) {
            return Err(DecodeError::Length { encoding: self, payload: payload.len(), expected: out.len() });
        }
        match self {
            Self::Raw => out.copy_from_slice(payload),
            Self::Zero => out.fill(0),
            Self::Zstd => {
                let expected = out.len();
                let reason = match zstd::bulk::decompress_to_buffer(payload, out) {
                    Ok(n) if n == expected => return Ok(()),
                    Ok(n) => format!("it unpacks to {n}"),
                    Err(e) => e.to_string(),
                };
                return Err(DecodeError::Zstd { payload: payload.len(), expected, reason });
            }
        }
        Ok(())
    }
}

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // In chunks, because the compiler compares those with vector instructions.
    let (chunks, tail) = bytes.as_chunks::<32>();
    chunks.iter().all(|chunk| *chunk == [0; 32]) && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_its_bytes_back() {
        let text = b"to be or not to be ".repeat(100);
        let packed = zstd::bulk::compress(&text, 1).unwrap();
        let mut out = vec![7; text.len()];
        Encoding::Zstd.decode_into(&packed, &mut out).unwrap();
        assert_eq!(out, text);
        Encoding::Zero.decode_into(&[], &mut out).unwrap();
        assert!(is_zero(&out));
        Encoding::Raw.decode_into(&text, &mut out).unwrap();
        assert_eq!(out, text);
    }

    #[test]
    fn a_payload_that_lies_about_its_length_is_refused() {
        let packed = zstd::bulk::compress(&[1; 4096], 1).unwrap();
        assert!(Encoding::Zstd.decode_into(&packed, &mut [0; 4095]).is_err());
        assert!(Encoding::Zstd.decode_into(&packed, &mut vec![0; 8192]).is_err());
        assert!(Encoding::Zstd.decode_into(b"no zstd frame", &mut [0; 4096]).is_err());
        assert!(Encoding::Raw.decode_into(&[1; 511], &mut [0; 512]).is_err());
        assert!(Encoding::Zero.decode_into(&[0], &mut [0; 512]).is_err());
    }

    #[test]
    fn one_set_bit_is_not_zero() {
        for len in [0, 1, 31, 32, 33, 100] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for i in 0..len {
                bytes[i] = 1;
                assert!(!is_zero(&bytes));
                bytes[i] = 0;
            }
        }
    }
}
