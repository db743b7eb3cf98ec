//! A random part of what is stored, the same for the same seed. Pure.

use crate::model::percent::Percent;

/// Which pieces are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub share: Percent,
    pub seed: u64,
}

impl Sample {
    /// Whether piece `piece` of the `pieces` of a file is in it. Of every file at least one is.
    #[must_use]
    pub fn takes(&self, file: u64, piece: u64, pieces: u64) -> bool {
        let of_file = mix(self.seed ^ mix(file));
        piece == of_file.checked_rem(pieces).unwrap_or(0)
            || self.share.takes(mix(of_file.wrapping_add(piece)))
    }
}

/// The finalizer of SplitMix64: neighbours become strangers.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_as_large_as_asked_for_and_different_for_each_seed() {
        let chosen = |seed| -> Vec<u64> {
            let sample = Sample { share: "5%".parse().unwrap(), seed };
            (0..20_000).filter(|piece| sample.takes(7, *piece, 20_000)).collect()
        };
        let (a, b) = (chosen(1), chosen(2));
        for chosen in [&a, &b] {
            assert!((800..1200).contains(&chosen.len()), "{}", chosen.len());
        }
        assert_eq!(a, chosen(1));
        let both = a.iter().filter(|piece| b.contains(piece)).count();
        assert!(both < 120, "{both} of {} are in both", a.len());
    }

    #[test]
    fn every_piece_is_taken_sooner_or_later_and_of_each_file_one() {
        let sample = |seed| Sample { share: "5%".parse().unwrap(), seed };
        for piece in 0..12 {
            assert!((0..400).any(|seed| sample(seed).takes(3, piece, 12)), "{piece}");
        }
        for file in 0..200 {
            assert!((0..12).any(|piece| sample(9).takes(file, piece, 12)), "{file}");
        }
    }
}
