//! The dispatcher's side of a restore onto a device: pass after pass, what the device holds is judged against the point,
//! and what the agent wants of the point is sent.
//!
//! ```text
//! Blocks ----> Judge (a thread) ----> Differs, Judged
//! Want ------> packing (a thread) --> data frames, end
//! Compared --> Settled; a whole pass in which nothing differed: Verified is believed
//! ```

use super::Shared;
use super::hub::Note;
use super::judge::{self, Judge, ReaderDied};
use super::restore_link::{RestoreError, RestoreLink};
use crate::engine::compression::Compression;
use crate::io::reader::{IMAGE_PIECE, Packer};
use crate::model::comparison::{Grid, Wanted};
use crate::model::ids::ActionId;
use crate::model::restoration::DeviceTarget;
use crate::model::units::GranuleSize;
use crate::store::StoreError;
use crate::store::restorations::RestorationRow;
use crate::store::restore::Consent;
use crate::view::part::PartReader;
use crate::view::reader::Content;
use crate::wire::restore::{MAX_WANTED, ToAgent, ToDispatcher};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Frames that wait to be sent, each of at most 1 MiB.
const READY_FRAMES: usize = 4;

/// Serves until the agent has found the device to be what the point is. Returns the bytes that it wrote.
pub async fn run(
    link: &mut RestoreLink,
    shared: &Shared,
    row: &RestorationRow,
    target: &DeviceTarget,
) -> Result<u64, RestoreError> {
    let (reader, source) = open(shared, row, target).await?;
    let grid = Grid::new(reader.granule(), target.bytes, target.bytes);
    let key = judge::new_key();
    // What an earlier attempt has written need not be sent again.
    let full = target.full && !row.touched;
    let from = row.durable_blocks.min(grid.blocks());
    let granule_shift = grid.granule().shift();
    link.say(&ToAgent::Device { granule_shift, bytes: target.bytes, key: key.0, from, full }).await?;
    let mut serving = Serving {
        shared,
        action: row.action,
        grid,
        judge: Judge::start(reader, grid, key),
        source: Some(source),
        touched: row.touched,
        passes: 0,
        settled: false,
        compression: Compression::default(),
        compress: Arc::new(AtomicBool::new(false)),
    };
    serving.progress(from);
    serving.run(link).await
}

/// Opens the point for the two that read it.
async fn open(
    shared: &Shared,
    row: &RestorationRow,
    target: &DeviceTarget,
) -> Result<(PartReader, PartReader), RestoreError> {
    let (point, partition, bytes) = (row.restoration.point, row.partition.clone(), target.bytes);
    let consent = Consent { overwrite: true, holes: row.allow_holes };
    let store = shared.store.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let part = store.open_part(point, partition.as_ref(), consent)?;
        if part.bytes() != bytes {
            return Err(StoreError::Refused(format!("{} has another size than was asked for", point)));
        }
        let another = part.another()?;
        Ok::<_, StoreError>((part, another))
    });
    Ok(opened.await.map_err(|_| RestoreError::Stopping)??)
}

struct Serving<'a> {
    shared: &'a Shared,
    action: ActionId,
    grid: Grid,
    judge: Judge,
    /// `None` while a thread reads from it.
    source: Option<PartReader>,
    touched: bool,
    /// Passes that were settled.
    passes: u64,
    /// The last pass went over everything, and nothing differed.
    settled: bool,
    compression: Compression,
    compress: Arc<AtomicBool>,
}

impl Serving<'_> {
    async fn run(&mut self, link: &mut RestoreLink) -> Result<u64, RestoreError> {
        loop {
            tokio::select! {
                judgement = self.judge.judged() => {
                    let judgement = judgement?;
                    self.progress(judgement.through);
                    for (block, granules) in judgement.differing {
                        link.say(&ToAgent::Differs { block, granules }).await?;
                    }
                    link.say(&ToAgent::Judged { through: judgement.through }).await?;
                }
                said = link.hear() => match said? {
                    ToDispatcher::Blocks { first, digests } => {
                        self.judge.take(first, digests).map_err(RestoreError::Unexpected)?;
                    }
                    ToDispatcher::Want(wanted) => self.send(link, &wanted).await?,
                    ToDispatcher::Durable { block, written: _ } => {
                        self.progress(block);
                        self.shared.note(Note::RestoreDurable { action: self.action, blocks: block }).await;
                    }
                    ToDispatcher::Compared { count, digest } => {
                        let whole = self.judge.is_whole();
                        let (count, digest) =
                            self.judge.settle((count, digest)).map_err(RestoreError::Unexpected)?;
                        self.settled = whole;
                        self.passes += 1;
                        link.say(&ToAgent::Settled { count, digest }).await?;
                    }
                    ToDispatcher::Verified { written } if self.settled => return Ok(written),
                    _ => return Err(RestoreError::Unexpected("a word")),
                },
            }
        }
    }

    /// Tells the hub: one part of two for the pass that writes, the other for the one that finds nothing.
    fn progress(&self, block: u32) {
        let bytes = self.grid.bytes();
        let done = bytes * self.passes.min(1) + self.grid.bytes_below(block);
        self.shared.progress(self.action, done, 2 * bytes);
    }

    /// Sends what the agent wants of the point.
    async fn send(&mut self, link: &mut RestoreLink, wanted: &[Wanted]) -> Result<(), RestoreError> {
        let unexpected = RestoreError::Unexpected("a wish");
        if !self.judge.is_idle() {
            return Err(unexpected);
        }
        let ranges = self.grid.ranges_of(wanted).filter(|_| wanted.len() <= MAX_WANTED).ok_or(unexpected)?;
        self.touch().await?;
        let (give, mut frames) = mpsc::channel(READY_FRAMES);
        let mut source = self.source.take().ok_or(RestoreError::Stopping)?;
        let compress = Arc::clone(&self.compress);
        let thread = tokio::task::spawn_blocking(move || {
            let packed = pack(&mut source, ranges, &compress, &give);
            (source, packed)
        });
        let (mut began, mut waited, mut bytes) = (Instant::now(), Duration::ZERO, 0);
        while let Some(frame) = frames.recv().await {
            let sending = Instant::now();
            bytes += frame.len() as u64;
            link.send(frame).await?;
            waited += sending.elapsed();
            let compress = self.compression.observe(bytes, waited, began.elapsed());
            self.compress.store(compress, Ordering::Relaxed);
            (began, waited, bytes) = (Instant::now(), Duration::ZERO, 0);
        }
        let (source, packed) = thread.await.map_err(|_| ReaderDied)?;
        self.source = Some(source);
        packed?;
        link.end().await
    }

    /// Before anything is written, the catalog says that it may have been.
    async fn touch(&mut self) -> Result<(), RestoreError> {
        if !self.touched {
            let (reply, kept) = oneshot::channel();
            self.shared.note(Note::Touch { action: self.action, reply }).await;
            kept.await.map_err(|_| RestoreError::Stopping)?.map_err(RestoreError::Held)?;
            self.touched = true;
        }
        Ok(())
    }
}

/// Reads ranges of the point and hands over their frames. What is known to be zero is not read.
fn pack(
    source: &mut PartReader,
    ranges: Vec<Range<u64>>,
    compress: &AtomicBool,
    give: &mpsc::Sender<Bytes>,
) -> Result<(), StoreError> {
    let mut packer = Packer::default();
    let mut content = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let stretch = source.next_stretch(at)?;
            let early = || StoreError::Refused("the point ends early".to_owned());
            let (stretch, what) = stretch.ok_or_else(early)?;
            let piece = at..stretch.end.min(range.end);
            let frames = match what {
                Content::Zero => vec![Packer::zero(&piece)],
                Content::Data => {
                    let piece = piece.start..piece.end.min(piece.start + u64::from(IMAGE_PIECE));
                    content.resize(usize::try_from(piece.end - piece.start).unwrap_or(0), 0);
                    source.read_at(piece.start, &mut content)?;
                    packer.pack(
                        piece.start,
                        &content,
                        GranuleSize::default(),
                        compress.load(Ordering::Relaxed),
                    )
                }
            };
            for frame in frames {
                at = frame.range.end;
                if give.blocking_send(frame.bytes).is_err() {
                    // The connection is gone, and whoever asked with it.
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
