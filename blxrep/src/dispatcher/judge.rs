//! One side of a comparison: the digests that an agent sends, judged in order by a thread that reads the point, and
//! what was said of them, counted.

use super::comparer::{Blocks, Comparer, Judgement};
use crate::io::random;
use crate::model::comparison::{Digest, Grid, Key};
use crate::view::part::PartReader;
use crate::wire::snapshot::{MAX_BLOCKS, MAX_UNJUDGED};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;

/// A count and a digest of what was said, in order.
#[derive(Default)]
struct Tally {
    count: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    fn digest(&self) -> (u64, [u8; 32]) {
        (self.count, *self.hasher.finalize().as_bytes())
    }
}

/// The thread that reads the point has ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread that reads the point has died: see the dispatcher's log")]
pub struct ReaderDied;

/// A key for one comparison.
pub fn new_key() -> Key {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&random::wide_id().to_le_bytes());
    key[16..].copy_from_slice(&random::wide_id().to_le_bytes());
    Key(key)
}

/// Judges pass after pass over a part of a point.
pub struct Judge {
    grid: Grid,
    queue: mpsc::Sender<Blocks>,
    judged: mpsc::Receiver<Judgement>,
    thread: JoinHandle<u64>,
    /// The block that must come next; the agent chooses where a pass begins.
    next: Option<u32>,
    /// Blocks of this pass that differ.
    differing: u64,
    /// Blocks that were taken and not told.
    unjudged: u32,
    blocks: Tally,
    verdicts: Tally,
}

impl Judge {
    /// Starts the thread.
    pub fn start(reader: PartReader, grid: Grid, key: Key) -> Self {
        let (queue, blocks) = mpsc::channel(MAX_UNJUDGED);
        let (verdicts, judged) = mpsc::channel(1);
        let comparer = Comparer::new(reader, grid, key);
        let thread = tokio::task::spawn_blocking(move || comparer.run(blocks, &verdicts));
        let (blocks, verdicts) = (Tally::default(), Tally::default());
        Self { grid, queue, judged, thread, next: None, differing: 0, unjudged: 0, blocks, verdicts }
    }

    /// Takes in what the agent sent; the error says what is wrong with it.
    pub fn take(&mut self, first: u32, digests: Vec<Digest>) -> Result<(), &'static str> {
        let count = u32::try_from(digests.len()).unwrap_or(u32::MAX);
        let end = first.saturating_add(count);
        let fits = digests.len() <= MAX_BLOCKS && count > 0 && end <= self.grid.blocks();
        if !fits || self.next.is_some_and(|next| next != first) {
            return Err("blocks that do not follow");
        }
        self.next = Some(end);
        self.unjudged += count;
        self.blocks.count += u64::from(count);
        self.blocks.hasher.update(digests.as_flattened());
        match self.queue.try_send(Blocks { first, digests }) {
            // The agent waits for verdicts before it sends more.
            Err(TrySendError::Full(_)) => Err("too many blocks at once"),
            // That the thread is gone is no fault of the agent's, and told when its verdicts are asked for.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// The next judgement, to be told to the agent as it is. Cancel-safe.
    pub async fn judged(&mut self) -> Result<Judgement, ReaderDied> {
        let judgement = self.judged.recv().await.ok_or(ReaderDied)?;
        for (block, granules) in &judgement.differing {
            self.verdicts.count += 1;
            self.verdicts.hasher.update(&block.to_le_bytes()).update(granules.as_flattened());
        }
        self.differing += judgement.differing.len() as u64;
        self.verdicts.count += 1;
        self.verdicts.hasher.update(&judgement.through.to_le_bytes());
        self.unjudged -= judgement.count;
        Ok(judgement)
    }

    /// Whether everything that came was judged.
    pub const fn is_idle(&self) -> bool {
        self.unjudged == 0
    }

    /// Whether this pass has gone over all blocks, and none differs.
    pub fn is_whole(&self) -> bool {
        self.blocks.count == u64::from(self.grid.blocks()) && self.differing == 0 && self.is_idle()
    }

    /// Ends a pass: compares what the agent says that it sent with what came, and answers the same of the verdicts.
    pub fn settle(&mut self, theirs: (u64, [u8; 32])) -> Result<(u64, [u8; 32]), &'static str> {
        let whole = self.next.is_none_or(|next| next == self.grid.blocks());
        if self.blocks.digest() != theirs || !whole || !self.is_idle() {
            return Err("an end that does not fit what came");
        }
        (self.next, self.differing) = (None, 0);
        self.blocks = Tally::default();
        Ok(std::mem::take(&mut self.verdicts).digest())
    }

    /// Ends the thread. Returns how many granules of the point could not be read.
    pub async fn end(self) -> u64 {
        drop((self.queue, self.judged));
        self.thread.await.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::units::GranuleSize;

    /// A judge whose thread is gone.
    fn dead() -> Judge {
        let (queue, _) = mpsc::channel(MAX_UNJUDGED);
        let (_, judged) = mpsc::channel(1);
        let bytes = 64 << 20;
        let (blocks, verdicts) = (Tally::default(), Tally::default());
        Judge {
            grid: Grid::new(GranuleSize::default(), bytes, bytes),
            queue,
            judged,
            thread: tokio::task::spawn_blocking(|| panic!("a fault of the program")),
            next: None,
            differing: 0,
            unjudged: 0,
            blocks,
            verdicts,
        }
    }

    #[tokio::test]
    async fn a_thread_that_dies_is_told_and_nothing_passes_for_judged() {
        let mut judge = dead();
        assert_eq!(judge.take(0, vec![[0; 16]; 2]), Ok(()), "the agent did nothing wrong");
        assert_eq!(judge.judged().await.unwrap_err(), ReaderDied);
        assert!(!judge.is_idle() && !judge.is_whole());
        let (count, digest) = judge.blocks.digest();
        assert!(judge.settle((count, digest)).is_err(), "a pass cannot end");
        assert_eq!(judge.end().await, 0);
    }
}
