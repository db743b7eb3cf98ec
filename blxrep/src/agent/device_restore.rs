//! One attempt at a restore onto a device: passes over all of it, until one finds nothing that differs from the point.
//!
//! ```text
//!              +------------------- window after window ------------------+
//! digester --> Conversation --> what differs --> Want --> data --> writer --> durable
//! ```
//!
//! The first pass begins where an earlier attempt has come to, and writes. The next one goes over everything, past the
//! page cache: what this attempt has written or found equal must be so. Below where it began others may have written
//! meanwhile, and that is put right once. A full restore writes without comparing in its first pass.

use super::conversation::{Conversation, Verdict};
use super::pace::Pace;
use super::preflight::{Cleared, Refusal};
use super::restore::{Heard, Means, RestoreError, Wire};
use crate::io::device_writer::{DeviceWriter, WriteError};
use crate::io::digester::Digester;
use crate::io::source::DiskSource;
use crate::model::comparison::{Compared, Grid, Key, Wanted};
use crate::model::granules::GranuleSet;
use crate::model::ids::PointId;
use crate::model::units::GranuleSize;
use crate::wire::frame::Data;
use crate::wire::restore::{MAX_WANTED, ToAgent, ToDispatcher};
use bytes::Bytes;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Frames that wait for the writing thread, each of at most 1 MiB.
const WAITING_FRAMES: usize = 4;
/// Blocks that the digester hands over at once, at most.
const PIECE_BLOCKS: usize = 4;

/// A device that this process has for itself.
#[derive(Debug)]
pub struct Held {
    node: PathBuf,
    source: Arc<DiskSource>,
    writer: DeviceWriter,
}

impl Held {
    /// Takes the device. Blocks.
    pub fn take(cleared: &Cleared) -> Result<Self, Refusal> {
        let node = PathBuf::from(&cleared.node);
        let whole = cleared.mark.partition.is_none();
        let writer = DeviceWriter::open(&node, cleared.number, whole)?;
        let passing = |error: &dyn std::fmt::Display| Refusal::Passing(error.to_string());
        let source = DiskSource::open(&node, false).map_err(|e| passing(&e))?;
        if source.device_number().map_err(|e| passing(&e))? != cleared.number {
            return Err(WriteError::Another(cleared.node.clone()).into());
        }
        Ok(Self { node, source: Arc::new(source), writer })
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Another(_) => Self::Lasting(error.to_string()),
            _ => Self::Passing(error.to_string()),
        }
    }
}

/// What the dispatcher says that it is about.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub granule: GranuleSize,
    pub bytes: u64,
    pub key: Key,
    /// Where the first pass begins.
    pub from: u32,
    /// The first pass does not compare.
    pub full: bool,
    /// The device becomes a whole disk.
    pub whole: bool,
}

/// Where a pass begins, and what may still be put right in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passes {
    /// Where the first one began.
    began: u32,
    from: u32,
    /// Blocks below may be written to. What differs behind was written by this attempt, or found equal by it.
    below: u32,
}

impl Passes {
    /// `from` is where an earlier attempt has come to. If that had written all, nothing is known of what happened to the
    /// device since: it is gone over from the start.
    const fn new(from: u32, blocks: u32) -> Self {
        let began = if from < blocks { from } else { 0 };
        Self { began, from: began, below: blocks }
    }

    fn next(&mut self) {
        self.below = if self.below > self.began { self.began } else { 0 };
        self.from = 0;
    }
}

/// An attempt.
pub struct DeviceRestore<'a> {
    wire: &'a mut Wire,
    node: PathBuf,
    source: Arc<DiskSource>,
    /// `None` while a thread writes.
    writer: Option<DeviceWriter>,
    grid: Grid,
    aim: Aim,
    pace: Pace,
    readers: usize,
    /// Bytes that came and are on stable storage.
    written: u64,
    touched: bool,
}

impl<'a> DeviceRestore<'a> {
    pub fn new(wire: &'a mut Wire, held: Held, aim: Aim, means: &Means) -> Self {
        let Held { node, source, writer } = held;
        Self {
            wire,
            node,
            source,
            writer: Some(writer),
            grid: Grid::new(aim.granule, aim.bytes, aim.bytes),
            aim,
            pace: means.pace.clone(),
            readers: means.readers,
            written: 0,
            touched: false,
        }
    }

    /// Returns how many bytes were written once a whole pass has found nothing that differs. `far` becomes true when
    /// something was made durable.
    pub async fn run(&mut self, far: &mut bool) -> Result<u64, RestoreError> {
        let mut passes = Passes::new(self.aim.from, self.grid.blocks());
        if self.aim.full {
            self.fill(passes.from, far).await?;
            passes.next();
        }
        while self.pass(passes.from, passes.below, far).await? > 0 || passes.from > 0 {
            passes.next();
        }
        let (writer, whole) = (self.writer.take().ok_or(RestoreError::Stopping)?, self.aim.whole);
        let read_anew = tokio::task::spawn_blocking(move || {
            writer.read_anew(whole);
            writer
        });
        self.writer = Some(read_anew.await.map_err(|_| RestoreError::Stopping)?);
        Ok(self.written)
    }

    /// Whether something was asked for to be written.
    pub const fn has_touched(&self) -> bool {
        self.touched
    }

    /// The device, for the next attempt; `None` if the thread that had it is gone.
    pub fn into_held(self) -> Option<Held> {
        Some(Held { node: self.node, source: self.source, writer: self.writer? })
    }

    /// Writes everything from a block on.
    async fn fill(&mut self, from: u32, far: &mut bool) -> Result<(), RestoreError> {
        let mut next = from;
        while next < self.grid.blocks() {
            let step = u32::try_from(MAX_WANTED).unwrap_or(u32::MAX);
            let end = next.saturating_add(step).min(self.grid.blocks());
            let wanted: Vec<Wanted> = (next..end).map(|block| self.grid.whole(block)).collect();
            self.fetch(wanted).await?;
            self.durable(end, far).await?;
            next = end;
        }
        Ok(())
    }

    /// Compares everything from a block on, and fetches what differs. Returns how many granules did. That something
    /// differs at or behind `below` is an error.
    async fn pass(&mut self, from: u32, below: u32, far: &mut bool) -> Result<u64, RestoreError> {
        let mut digester = Digester::start(&self.source, self.grid, self.aim.key, from, self.readers)?;
        let mut conversation = Conversation::new(from);
        let mut compared = Compared::new(PointId(0), &self.grid, self.grid.granules());
        compared.next = from;
        let (mut all_read, mut fed, mut differing) = (false, 0, 0);
        loop {
            let full = fed + PIECE_BLOCKS > MAX_WANTED;
            if (all_read || full) && conversation.is_idle() {
                let found = std::mem::replace(&mut compared.differing, GranuleSet::new());
                differing += found.len();
                self.mend(&found, below).await?;
                if below > 0 {
                    self.durable(compared.next, far).await?;
                }
                fed = 0;
                if all_read {
                    break;
                }
                continue;
            }
            tokio::select! {
                biased;
                said = self.wire.hear() => {
                    let verdict = verdict(said?)?;
                    conversation.hear(verdict, &self.grid, &mut compared).map_err(RestoreError::Garbled)?;
                }
                piece = digester.next(), if !all_read && !full && conversation.has_room() => match piece {
                    Some(piece) => {
                        let bytes = self.grid.bytes_of(piece.blocks.clone());
                        fed += piece.blocks.len();
                        conversation.add(&piece, &self.grid, &self.aim.key);
                        // As for an image: what is read counts.
                        self.pace.wait(bytes.end - bytes.start).await;
                    }
                    None => all_read = true,
                },
            }
            let last = all_read || fed + PIECE_BLOCKS > MAX_WANTED;
            while let Some((first, digests)) = conversation.next_message(last) {
                self.wire.say(&ToDispatcher::Blocks { first, digests }).await?;
            }
        }
        if compared.next != self.grid.blocks() {
            return Err(RestoreError::Short(compared.next));
        }
        self.settle(&conversation).await?;
        Ok(differing)
    }

    /// Both sides say what they heard of the other.
    async fn settle(&mut self, conversation: &Conversation) -> Result<(), RestoreError> {
        let (count, digest) = conversation.asked();
        self.wire.say(&ToDispatcher::Compared { count, digest }).await?;
        match self.wire.hear().await? {
            ToAgent::Settled { count, digest } if (count, digest) == conversation.heard() => Ok(()),
            _ => Err(RestoreError::Garbled("verdicts that are not those that came")),
        }
    }

    /// Fetches and writes the granules of a window that differ.
    async fn mend(&mut self, differing: &GranuleSet, below: u32) -> Result<(), RestoreError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for granule in differing.iter() {
            let block = granule / self.grid.block_granules();
            let bit = 1 << (granule % self.grid.block_granules());
            match wanted.last_mut() {
                Some(last) if last.0 == block => last.1 |= bit,
                _ => wanted.push((block, bit)),
            }
        }
        if let Some((block, _)) = wanted.iter().find(|(block, _)| *block >= below) {
            let bytes = self.grid.bytes_of(*block..*block + 1);
            return Err(RestoreError::Failed(format!(
                "{}: bytes {}..{} were written and read back differently: do not use the device",
                self.node.display(),
                bytes.start,
                bytes.end
            )));
        }
        if wanted.is_empty() { Ok(()) } else { self.fetch(wanted).await }
    }

    /// Has what is wanted sent, and writes it. It is on stable storage afterwards.
    async fn fetch(&mut self, wanted: Vec<Wanted>) -> Result<(), RestoreError> {
        let ranges = self.grid.ranges_of(&wanted).unwrap_or_default();
        self.touched = true;
        self.wire.say(&ToDispatcher::Want(wanted)).await?;
        let (give, frames) = mpsc::channel(WAITING_FRAMES);
        let writer = self.writer.take().ok_or(RestoreError::Stopping)?;
        let writing = tokio::task::spawn_blocking(move || write(writer, frames));
        let taken = self.take(give, ranges).await;
        // Also after an error: only then is the device free.
        let (writer, written) = writing.await.map_err(|_| RestoreError::Stopping)?;
        self.writer = Some(writer);
        // What the device says comes first: a queue that nobody takes from is only what follows.
        written?;
        self.written += taken?;
        Ok(())
    }

    /// Takes data until their end. Only what was asked for is let through, in order.
    async fn take(
        &mut self,
        give: mpsc::Sender<(Data, Bytes)>,
        ranges: Vec<Range<u64>>,
    ) -> Result<u64, RestoreError> {
        let wanted: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let mut left = ranges.into_iter();
        let mut due = left.next().unwrap_or(0..0);
        loop {
            match self.wire.receive().await? {
                Heard::Data(data, payload) => {
                    let end = data.offset.saturating_add(u64::from(data.raw_length));
                    if data.offset != due.start || end > due.end {
                        return Err(RestoreError::Garbled("data that were not asked for"));
                    }
                    due.start = end;
                    if due.is_empty() {
                        due = left.next().unwrap_or(0..0);
                    }
                    let length = payload.len();
                    if give.send((data, payload)).await.is_err() {
                        return Err(RestoreError::Stopping);
                    }
                    self.wire.took(length).await?;
                }
                Heard::End if due.is_empty() => return Ok(wanted),
                Heard::End => return Err(RestoreError::Garbled("an end before all that was asked for")),
                Heard::Said(_) => return Err(RestoreError::Garbled("a word among data")),
            }
        }
    }

    async fn durable(&mut self, block: u32, far: &mut bool) -> Result<(), RestoreError> {
        *far = true;
        self.wire.say(&ToDispatcher::Durable { block, written: self.written }).await
    }
}

/// The writing thread.
fn write(
    mut writer: DeviceWriter,
    mut frames: mpsc::Receiver<(Data, Bytes)>,
) -> (DeviceWriter, Result<(), WriteError>) {
    while let Some((data, payload)) = frames.blocking_recv() {
        if let Err(error) = writer.put(&data, &payload) {
            return (writer, Err(error));
        }
    }
    let synced = writer.sync();
    (writer, synced)
}

fn verdict(said: ToAgent) -> Result<Verdict, RestoreError> {
    match said {
        ToAgent::Differs { block, granules } => Ok(Verdict::Differs { block, granules }),
        ToAgent::Judged { through } => Ok(Verdict::Judged { through }),
        _ => Err(RestoreError::Garbled("something else than a verdict")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where passes begin and below what they may write, until the last, which only looks.
    fn all(from: u32, blocks: u32) -> Vec<(u32, u32)> {
        let mut passes = Passes::new(from, blocks);
        let mut seen = vec![(passes.from, passes.below)];
        while passes.below > 0 {
            passes.next();
            seen.push((passes.from, passes.below));
        }
        seen
    }

    #[test]
    fn every_block_can_be_put_right_before_a_difference_is_the_devices_fault() {
        assert_eq!(all(0, 9), [(0, 9), (0, 0)]);
        assert_eq!(all(4, 9), [(4, 9), (0, 4), (0, 0)]);
        assert_eq!(all(9, 9), [(0, 9), (0, 0)], "broken off when all was written, and changed since");
        for from in 0..=12 {
            let written: u32 = all(from, 9).iter().map(|(from, below)| below.saturating_sub(*from)).sum();
            assert_eq!(written, 9, "from {from}: each block once");
        }
    }
}
