//! What both ends agree on of a point that goes on over another connection.

use super::frame::HEADER_BYTES;
use serde::{Deserialize, Serialize};

/// The data frames of a point, in their order: how many, and a digest of them. Each frame's header holds its payload's
/// checksum, so two ends with the same chain have the same content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub frames: u64,
    /// BLAKE3 over the digest before the last frame and that frame's header; zeroes before the first.
    pub digest: [u8; 32],
}

impl Chain {
    /// Adds one data frame, given its header's bytes.
    pub fn add(&mut self, header: &[u8; HEADER_BYTES]) {
        self.frames += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest).update(header);
        self.digest = *hasher.finalize().as_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_of_its_frames_in_their_order() {
        let of = |frames: &[u8]| {
            let mut chain = Chain::default();
            frames.iter().for_each(|frame| chain.add(&[*frame; HEADER_BYTES]));
            chain
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        let others: [&[u8]; 5] = [&[], &[1], &[2, 1], &[1, 3], &[1, 2, 2]];
        assert!(others.into_iter().all(|frames| of(frames) != of(&[1, 2])));
        assert_eq!(of(&[1, 2]).frames, 2);
    }
}
