//! What was sent of an open point, as far as the dispatcher may not have it: so that the point goes on, over the next
//! connection, behind what it has.

use crate::model::granules::GranuleSet;
use crate::wire::chain::Chain;
use crate::wire::frame::HEADER_BYTES;
use std::collections::VecDeque;
use std::ops::Range;

/// One frame.
#[derive(Clone, Debug)]
struct Frame {
    /// The point's frames up to this one.
    after: Chain,
    /// Bytes of the connection up to its end.
    bytes: u64,
    granules: Range<u32>,
}

/// The frames of a point in their order. Those that the dispatcher has taken are only counted; of the others there are
/// no more than the link's credit allows.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    taken: Chain,
    tail: VecDeque<Frame>,
}

impl Sent {
    /// A frame is about to be sent, which is the connection's up to `bytes`; the dispatcher has said that it has `taken`
    /// bytes of that.
    pub fn note(&mut self, header: &[u8; HEADER_BYTES], granules: Range<u32>, bytes: u64, taken: u64) {
        while let Some(frame) = self.tail.pop_front_if(|frame| frame.bytes <= taken) {
            self.taken = frame.after;
        }
        let mut after = self.tail.back().map_or(self.taken, |frame| frame.after);
        after.add(header);
        self.tail.push_back(Frame { after, bytes, granules });
    }

    /// The dispatcher has the frames of this chain. Returns the granules of those that follow it, which are lost; `None`
    /// if it is no chain of this point. What is sent next is on another connection.
    pub fn resume(&mut self, kept: &Chain) -> Option<GranuleSet> {
        let known = match self.taken == *kept {
            true => 0,
            false => 1 + self.tail.iter().position(|frame| frame.after == *kept)?,
        };
        let mut lost = GranuleSet::new();
        self.tail.drain(..).skip(known).for_each(|frame| lost.insert_range(frame.granules));
        self.taken = *kept;
        Some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(frames: &[u8]) -> Chain {
        let mut chain = Chain::default();
        frames.iter().for_each(|frame| chain.add(&[*frame; HEADER_BYTES]));
        chain
    }

    /// Three frames of 100 bytes; the first was taken when the third is sent.
    fn sent() -> Sent {
        let mut sent = Sent::default();
        for (frame, taken) in [(1u8, 0), (2, 0), (3, 100)] {
            let granule = u32::from(frame) * 10;
            sent.note(&[frame; HEADER_BYTES], granule..granule + 2, u64::from(frame) * 100, taken);
        }
        sent
    }

    #[test]
    fn what_follows_the_frames_that_are_kept_is_lost() {
        let lost = |kept: &[u8]| sent().resume(&chain(kept)).map(|lost| lost.iter().collect::<Vec<_>>());
        assert_eq!(lost(&[1, 2, 3]), Some(vec![]));
        assert_eq!(lost(&[1, 2]), Some(vec![30, 31]));
        assert_eq!(lost(&[1]), Some(vec![20, 21, 30, 31]));
        assert_eq!(lost(&[]), None, "it has said that it has more");
        assert_eq!(lost(&[1, 3]), None, "what another life has sent");
        assert_eq!(lost(&[1, 2, 3, 4]), None);
    }

    #[test]
    fn a_point_goes_on_over_more_than_one_connection() {
        let mut sent = sent();
        assert!(sent.resume(&chain(&[1, 2])).is_some());
        // The connection's bytes count from 0 again.
        sent.note(&[7; HEADER_BYTES], 70..71, 100, 0);
        sent.note(&[8; HEADER_BYTES], 80..81, 200, 100);
        assert_eq!(sent.tail.len(), 1);
        assert_eq!(sent.resume(&chain(&[1, 2, 7])), Some([80].into_iter().collect()));
        assert_eq!(sent.resume(&chain(&[1, 2, 7])), Some(GranuleSet::new()), "nothing was sent since");
    }
}
