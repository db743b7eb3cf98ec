//! `.sum`: one checksum per granule of a raw image.
//!
//! The word of a granule is the CRC32C of its bytes XOR the CRC32C of as many zeroes, so that a granule of
//! zeroes has the word 0: where the image has a hole, the sidecar may have one too.

use super::FormatError;
use super::header::HEADER_END;
use super::trailer::TRAILER_LENGTH;
use crate::model::units::GranuleSize;
use std::ops::Range;

/// Bytes of one word.
pub const WORD_BYTES: usize = 4;

/// Where the words of an image are, and what they should be.
#[derive(Clone, Copy, Debug)]
pub struct Sidecar {
    granule: GranuleSize,
    disk_bytes: u64,
    count: u32,
    zero_full: u32,
    zero_last: u32,
}

impl Sidecar {
    pub fn new(granule: GranuleSize, disk_bytes: u64) -> Result<Self, FormatError> {
        let count = granule.count(disk_bytes);
        let Ok(count) = u32::try_from(count) else {
            return Err(FormatError::Limit {
                part: "the image",
                field: "the number of granules",
                value: count,
                limit: u64::from(u32::MAX),
            });
        };
        let zero_full = crc_of_zeroes(granule.bytes());
        let last = disk_bytes % granule.bytes();
        let zero_last = if last == 0 { zero_full } else { crc_of_zeroes(last) };
        Ok(Self { granule, disk_bytes, count, zero_full, zero_last })
    }

    #[must_use]
    pub const fn granules(&self) -> u32 {
        self.count
    }

    #[must_use]
    pub const fn granule(&self) -> GranuleSize {
        self.granule
    }

    #[must_use]
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Bytes of all words.
    #[must_use]
    pub const fn body_bytes(&self) -> u64 {
        self.count as u64 * WORD_BYTES as u64
    }

    /// Length of the complete file.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        HEADER_END + self.body_bytes() + TRAILER_LENGTH
    }

    /// Where the words of `granules` are in the file.
    #[must_use]
    pub fn words_at(&self, granules: Range<u32>) -> Range<u64> {
        let at = |granule: u32| HEADER_END + u64::from(granule) * WORD_BYTES as u64;
        at(granules.start)..at(granules.end)
    }

    /// Appends the words of whole granules: `bytes` starts with granule `first`, and ends with a granule's or the
    /// disk's end.
    pub fn append_words(&self, first: u32, bytes: &[u8], out: &mut Vec<u8>) {
        for (granule, content) in (first..).zip(bytes.chunks(self.chunk())) {
            out.extend_from_slice(&self.word(granule, content).to_le_bytes());
        }
    }

    /// The first granule of `bytes` (as in [`Self::append_words`]) that has another word than it should.
    #[must_use]
    pub fn first_wrong(&self, first: u32, bytes: &[u8], words: &[u8]) -> Option<u32> {
        let words = words.as_chunks::<WORD_BYTES>().0;
        let chunks = bytes.chunks(self.chunk());
        if chunks.len() != words.len() {
            return Some(first);
        }
        (first..)
            .zip(chunks.zip(words))
            .find(|(granule, (content, word))| self.word(*granule, content).to_le_bytes() != **word)
            .map(|(granule, _)| granule)
    }

    fn word(&self, granule: u32, content: &[u8]) -> u32 {
        let zero = if granule + 1 == self.count { self.zero_last } else { self.zero_full };
        crc32c::crc32c(content) ^ zero
    }

    fn chunk(&self) -> usize {
        usize::try_from(self.granule.bytes()).unwrap_or(usize::MAX)
    }
}

fn crc_of_zeroes(len: u64) -> u32 {
    const ZEROES: [u8; 4096] = [0; 4096];
    let (mut crc, mut left) = (0, len);
    while left > 0 {
        let n = left.min(ZEROES.len() as u64);
        crc = crc32c::crc32c_append(crc, &ZEROES[..usize::try_from(n).unwrap_or(0)]);
        left -= n;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_have_the_word_zero_and_others_do_not() {
        let sidecar = Sidecar::new(GranuleSize::default(), 3 * 4096 + 512).unwrap();
        assert_eq!(sidecar.granules(), 4);
        let mut disk = vec![0; 3 * 4096 + 512];
        let mut words = Vec::new();
        sidecar.append_words(0, &disk, &mut words);
        assert_eq!(words, [0; 16]);
        disk[4096] = 1;
        disk[3 * 4096] = 1;
        assert_eq!(sidecar.first_wrong(0, &disk, &words), Some(1));
        assert_eq!(sidecar.first_wrong(2, &disk[8192..], &words[8..]), Some(3));
        words.clear();
        sidecar.append_words(0, &disk, &mut words);
        assert_eq!(sidecar.first_wrong(0, &disk, &words), None);
        assert_eq!(sidecar.first_wrong(0, &disk, &words[..12]), Some(0));
    }

    #[test]
    fn a_disk_with_too_many_granules_is_refused() {
        assert!(Sidecar::new(GranuleSize::default(), 1 << 44).is_err());
        assert!(Sidecar::new(GranuleSize::default(), (1 << 44) - 4096).is_ok());
    }
}
