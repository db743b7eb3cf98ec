//! A comparison of a disk with its newest point, by digests, over `/ws/snapshot`. What it is for is the business of
//! `rescan` and `verify_source`.
//!
//! ```text
//! digester ── pieces ──> blocks ──> dispatcher
//!                          │            │ Differs, Judged
//!                          └ unjudged ──┴──> Compared
//! ```
//!
//! Of blocks that are not judged yet, the digests of their granules are kept: a few KiB per MiB of the disk, and at most
//! [`MAX_UNJUDGED`] messages.

use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::unit::Unit;
use crate::io::digester::{Digester, Piece};
use crate::model::comparison::{Compared, Digest, Grid, Key};
use crate::model::ids::PointId;
use crate::wire::hello::Channel;
use crate::wire::snapshot::{MAX_BLOCKS, MAX_FOUND, MAX_UNJUDGED, Purpose, ToAgent, ToDispatcher};
use std::collections::VecDeque;
use std::sync::Arc;

/// Why a comparison ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nobody wants it now; it begins again when a person says so.
    #[error("{0}")]
    Held(String),
    #[error("the dispatcher refused the comparison: {0}")]
    Refused(String),
    #[error("cannot start the reading threads: {0}")]
    Threads(#[from] std::io::Error),
    #[error("the reading threads ended at block {0}: see the agent's log")]
    Short(u32),
    #[error("the dispatcher's answers do not add up: {0}")]
    Garbled(&'static str),
    #[error("{0}")]
    Record(String),
}

type CompareLink = Link<ToDispatcher, ToAgent>;

/// A comparison that the dispatcher has agreed to.
pub struct Comparison {
    link: CompareLink,
    pub point: PointId,
    pub grid: Grid,
    key: Key,
}

impl Comparison {
    /// Asks the dispatcher which point it is.
    pub async fn ask(
        unit: &Unit,
        dialer: &Dialer,
        pace: Pace,
        purpose: Purpose,
    ) -> Result<Self, CompareError> {
        let (connection, _) = dialer.dial(Channel::Snapshot).await.map_err(LinkError::from)?;
        let mut link: CompareLink = Link::new(connection, pace);
        let (disk, device) = (unit.identity.clone(), unit.device());
        let (bytes, granule_shift) = (unit.bytes(), unit.granule().shift());
        link.say(&ToDispatcher::Compare { purpose, disk, device, bytes, granule_shift }).await?;
        match link.hear().await? {
            ToAgent::Against { point, bytes: then, key } => {
                let grid = Grid::new(unit.granule(), bytes, then);
                Ok(Self { link, point, grid, key: Key(key) })
            }
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            ToAgent::Refuse { reason } => Err(CompareError::Refused(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }

    /// Compares everything that `compared` has not judged yet. What it has when this ends early counts as well.
    pub async fn run(
        &mut self,
        unit: &Arc<Unit>,
        pace: &Pace,
        readers: usize,
        compared: &mut Compared,
    ) -> Result<(), CompareError> {
        let mut digester = Digester::start(&unit.source, self.grid, self.key, compared.next, readers)?;
        let mut conversation = Conversation::new(compared.next);
        let mut all_read = false;
        loop {
            let done = all_read && conversation.batch.is_empty();
            if done && conversation.unjudged.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                said = self.link.hear() => conversation.hear(said?, &self.grid, compared)?,
                piece = digester.next(), if !all_read && conversation.has_room() => match piece {
                    Some(piece) => {
                        let bytes = self.grid.bytes_of(piece.blocks.clone());
                        conversation.add(&piece, &self.grid, &self.key);
                        // As for an image: what is read counts.
                        pace.wait(bytes.end - bytes.start).await;
                    }
                    None => all_read = true,
                },
            }
            while let Some(message) = conversation.next_message(all_read) {
                self.link.say(&message).await?;
            }
        }
        if compared.next != self.grid.blocks() {
            return Err(CompareError::Short(compared.next));
        }
        self.settle(conversation).await
    }

    /// Both sides say what they heard of the other.
    async fn settle(&mut self, conversation: Conversation) -> Result<(), CompareError> {
        let (sent, digest) = (conversation.sent, *conversation.blocks.finalize().as_bytes());
        self.link.say(&ToDispatcher::Compared { count: sent, digest }).await?;
        match self.link.hear().await? {
            ToAgent::Settled { count, digest } => {
                let ours = *conversation.verdicts.finalize().as_bytes();
                let fits = (count, digest) == (conversation.judged, ours);
                if fits { Ok(()) } else { Err(CompareError::Garbled("their digest is another")) }
            }
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }

    /// Says what came of it, and waits until the dispatcher has noted that.
    pub async fn found(
        mut self,
        granules: u64,
        ranges: impl Iterator<Item = (u32, u32)>,
    ) -> Result<(), CompareError> {
        let ranges = ranges.take(MAX_FOUND).collect();
        self.link.say(&ToDispatcher::Found { granules, ranges }).await?;
        match self.link.hear().await? {
            ToAgent::Noted => Ok(()),
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }
}

/// What was said and heard.
struct Conversation {
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
    fn new(first: u32) -> Self {
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

    /// Whether one more piece may be taken: a message of it could be sent.
    fn has_room(&self) -> bool {
        self.under_way.len() < MAX_UNJUDGED && self.batch.len() < MAX_BLOCKS
    }

    fn add(&mut self, piece: &Piece, grid: &Grid, key: &Key) {
        let step = usize::try_from(grid.block_granules()).unwrap_or(1);
        for granules in piece.granules.chunks(step) {
            self.batch.push(key.block(granules));
            self.unjudged.push_back(granules.to_vec());
        }
    }

    /// The next message, if one is full, or nothing follows.
    fn next_message(&mut self, last: bool) -> Option<ToDispatcher> {
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
        Some(ToDispatcher::Blocks { first, digests })
    }

    fn hear(&mut self, said: ToAgent, grid: &Grid, compared: &mut Compared) -> Result<(), CompareError> {
        match said {
            ToAgent::Differs { block, granules } => {
                let index = block.checked_sub(compared.next).and_then(|i| usize::try_from(i).ok());
                let ours = index.and_then(|index| self.unjudged.get(index));
                let ours = ours.ok_or(CompareError::Garbled("a block that was not asked about differs"))?;
                self.verdicts.update(&block.to_le_bytes()).update(granules.as_flattened());
                self.judged += 1;
                if !compared.judge(grid.granules_of(block), ours, &granules) {
                    return Err(CompareError::Garbled("a block has another number of granules"));
                }
                Ok(())
            }
            ToAgent::Judged { through } if self.under_way.front() == Some(&through) => {
                self.under_way.pop_front();
                let count = usize::try_from(through - compared.next).unwrap_or(0);
                self.unjudged.drain(..count.min(self.unjudged.len()));
                self.verdicts.update(&through.to_le_bytes());
                self.judged += 1;
                compared.next = through;
                Ok(())
            }
            ToAgent::Judged { .. } => Err(CompareError::Garbled("blocks that were not sent are judged")),
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            ToAgent::Refuse { reason } => Err(CompareError::Refused(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let ToDispatcher::Blocks { first, digests } = message else { panic!("{message:?}") };
                assert_eq!(digests.len(), MAX_BLOCKS);
                ends.push(first + 64);
            }
        }
        assert_eq!(ends.len(), MAX_UNJUDGED);
        let wrong = conversation.hear(ToAgent::Judged { through: ends[1] }, &grid, &mut compared);
        assert!(matches!(wrong, Err(CompareError::Garbled(_))), "out of order");
        conversation.hear(ToAgent::Judged { through: ends[0] }, &grid, &mut compared).unwrap();
        assert_eq!((compared.next, conversation.has_room()), (64, true));
        conversation.add(&piece(next..next + 1), &grid, &KEY);
        let last = conversation.next_message(true);
        assert!(
            matches!(last, Some(ToDispatcher::Blocks { first, digests }) if first == next && digests.len() == 1)
        );
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
        let differs = ToAgent::Differs { block: 2, granules: theirs };
        conversation.hear(differs, &grid, &mut compared).unwrap();
        conversation.hear(ToAgent::Judged { through: 4 }, &grid, &mut compared).unwrap();
        assert_eq!(compared.differing.iter().collect::<Vec<_>>(), vec![2 * 64 + 5]);
        let unasked =
            conversation.hear(ToAgent::Differs { block: 2, granules: vec![] }, &grid, &mut compared);
        assert!(matches!(unasked, Err(CompareError::Garbled(_))));
    }
}
