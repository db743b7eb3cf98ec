//! What is said of a disk's blocks in a comparison, and heard of them. Which connection it goes over is its owner's
//! business.
//!
//! Of blocks that are not judged yet, the digests of their granules are kept: a few KiB per MiB of the disk, and at most
//! [`MAX_UNJUDGED`] messages.

use crate::io::digester::Piece;
use crate::model::comparison::{Compared, Digest, Grid, Key};
use crate::wire::snapshot::{MAX_BLOCKS, MAX_UNJUDGED};
use std::collections::VecDeque;

/// What the dispatcher says of blocks.
#[derive(Debug)]
pub enum Verdict {
    /// This one differs, and these are the digests of its granules in the point.
    Differs { block: u32, granules: Vec<Digest> },
    /// All below this one are judged.
    Judged { through: u32 },
}

/// What was said and heard in one pass.
pub struct Conversation {
    /// First block of the batch that is being filled.
    first: u32,
    batch: Vec<Digest>,
    /// Digests of the granules of blocks that are not judged, the oldest first.
    unjudged: VecDeque<Vec<Digest>>,
    /// Ends of the messages that are not judged.
    under_way: VecDeque<u32>,
    sent: u64,
    blocks: blake3::Hasher,
    judged: u64,
    verdicts: blake3::Hasher,
}

impl Conversation {
    pub fn new(first: u32) -> Self {
        Self {
            first,
            batch: Vec::with_capacity(MAX_BLOCKS),
            unjudged: VecDeque::new(),
            under_way: VecDeque::new(),
            sent: 0,
            blocks: blake3::Hasher::new(),
            judged: 0,
            verdicts: blake3::Hasher::new(),
        }
    }

    /// Everything that was taken in is sent and judged.
    pub fn is_idle(&self) -> bool {
        self.batch.is_empty() && self.unjudged.is_empty()
    }

    /// What was sent: how many digests, and the digest of them.
    pub fn asked(&self) -> (u64, [u8; 32]) {
        (self.sent, *self.blocks.finalize().as_bytes())
    }

    /// What was heard of it.
    pub fn heard(&self) -> (u64, [u8; 32]) {
        (self.judged, *self.verdicts.finalize().as_bytes())
    }

    /// Whether one more piece may be taken: a message of it could be sent.
    pub fn has_room(&self) -> bool {
        self.under_way.len() < MAX_UNJUDGED && self.batch.len() < MAX_BLOCKS
    }

    pub fn add(&mut self, piece: &Piece, grid: &Grid, key: &Key) {
        let step = usize::try_from(grid.block_granules()).unwrap_or(1);
        for granules in piece.granules.chunks(step) {
            self.batch.push(key.block(granules));
            self.unjudged.push_back(granules.to_vec());
        }
    }

    /// The next message, if one is full, or nothing follows: its first block, and digests.
    pub fn next_message(&mut self, last: bool) -> Option<(u32, Vec<Digest>)> {
        let full = self.batch.len() >= MAX_BLOCKS || (last && !self.batch.is_empty());
        if !full || self.under_way.len() >= MAX_UNJUDGED {
            return None;
        }
        let rest = self.batch.split_off(self.batch.len().min(MAX_BLOCKS));
        let digests = std::mem::replace(&mut self.batch, rest);
        let first = self.first;
        self.first += u32::try_from(digests.len()).unwrap_or(0);
        self.under_way.push_back(self.first);
        self.sent += digests.len() as u64;
        self.blocks.update(digests.as_flattened());
        Some((first, digests))
    }

    /// Takes in a verdict. The error says what is wrong with it.
    pub fn hear(
        &mut self,
        verdict: Verdict,
        grid: &Grid,
        compared: &mut Compared,
    ) -> Result<(), &'static str> {
        match verdict {
            Verdict::Differs { block, granules } => {
                let index = block.checked_sub(compared.next).and_then(|i| usize::try_from(i).ok());
                let ours = index.and_then(|index| self.unjudged.get(index));
                let ours = ours.ok_or("a block that was not asked about differs")?;
                self.verdicts.update(&block.to_le_bytes()).update(granules.as_flattened());
                self.judged += 1;
                if !compared.judge(grid.granules_of(block), ours, &granules) {
                    return Err("a block has another number of granules");
                }
                Ok(())
            }
            Verdict::Judged { through } if self.under_way.front() == Some(&through) => {
                self.under_way.pop_front();
                let count = usize::try_from(through - compared.next).unwrap_or(0);
                self.unjudged.drain(..count.min(self.unjudged.len()));
                self.verdicts.update(&through.to_le_bytes());
                self.judged += 1;
                compared.next = through;
                Ok(())
            }
            Verdict::Judged { .. } => Err("blocks that were not sent are judged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::PointId;
    use crate::model::units::GranuleSize;

    const KEY: Key = Key([1; 32]);

    fn grid(blocks: u64) -> Grid {
        Grid::new(GranuleSize::default(), blocks * (256 << 10), blocks * (256 << 10))
    }

    fn piece(blocks: std::ops::Range<u32>) -> Piece {
        let granules =
            blocks.clone().flat_map(|b| (0..64).map(move |g| KEY.granule(&[b as u8, g]))).collect();
        Piece { blocks, granules }
    }

    #[test]
    fn messages_are_full_but_for_the_last_and_no_more_than_allowed_are_under_way() {
        let grid = grid(1000);
        let mut conversation = Conversation::new(0);
        let mut compared = Compared::new(PointId(1), &grid, 64000);
        let mut next = 0;
        let mut ends = Vec::new();
        while conversation.has_room() {
            conversation.add(&piece(next..next + 4), &grid, &KEY);
            next += 4;
            while let Some(message) = conversation.next_message(false) {
                let (first, digests) = message;
                assert_eq!(digests.len(), MAX_BLOCKS);
                ends.push(first + 64);
            }
        }
        assert_eq!(ends.len(), MAX_UNJUDGED);
        let wrong = conversation.hear(Verdict::Judged { through: ends[1] }, &grid, &mut compared);
        assert!(wrong.is_err(), "out of order");
        conversation.hear(Verdict::Judged { through: ends[0] }, &grid, &mut compared).unwrap();
        assert_eq!((compared.next, conversation.has_room()), (64, true));
        conversation.add(&piece(next..next + 1), &grid, &KEY);
        let last = conversation.next_message(true);
        assert!(matches!(last, Some((first, digests)) if first == next && digests.len() == 1));
    }

    #[test]
    fn only_what_differs_within_a_block_that_differs_is_kept() {
        let grid = grid(4);
        let mut conversation = Conversation::new(0);
        let mut compared = Compared::new(PointId(1), &grid, 256);
        conversation.add(&piece(0..4), &grid, &KEY);
        conversation.next_message(true).unwrap();
        let mut theirs = piece(2..3).granules;
        theirs[5] = KEY.granule(b"another");
        let differs = Verdict::Differs { block: 2, granules: theirs };
        conversation.hear(differs, &grid, &mut compared).unwrap();
        conversation.hear(Verdict::Judged { through: 4 }, &grid, &mut compared).unwrap();
        assert_eq!(compared.differing.iter().collect::<Vec<_>>(), vec![2 * 64 + 5]);
        let unasked =
            conversation.hear(Verdict::Differs { block: 2, granules: vec![] }, &grid, &mut compared);
        assert!(unasked.is_err());
    }
}
