//! Parallel reads of a disk, turned into frames in the order in which they were asked for.
//!
//! ```text
//!              batch k to worker k mod W          frames of batch k
//! pieces -> feeder ==================> W workers ==================> Reader::next, in order
//!                                        |  ^
//!                               pread,   |  | buffers come back when their
//!                       zeroes, zstd, crc|  | last frame has been sent
//!                                        pool
//! ```
//!
//! Memory is the pool: [`buffers`] of one batch each. Everything else is bounded by it.

use super::buffer::{ALIGN, BufferPool, PooledBuf};
use super::priority;
use super::source::{DiskSource, SourceError};
use crate::model::encoding::{Encoding, is_zero};
use crate::model::holes::Holes;
use crate::model::units::GranuleSize;
use crate::wire::frame::{Data, HEADER_BYTES};
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Bytes of one read of a full image.
pub const IMAGE_PIECE: u32 = 1 << 20;
/// Bytes of one extent of a delta: what has to be decompressed and checked to read one granule of it.
pub const DELTA_PIECE: u32 = 128 << 10;
/// Pieces of one batch: with a page of headroom each, a batch of 4 KiB pieces fills a buffer.
const BATCH_PIECES: usize = 128;
/// Bytes of a buffer: one image piece, or many small ones, each with a page in front for its frame header.
const BUFFER_BYTES: usize = IMAGE_PIECE as usize + ALIGN;
/// Zeroes inside a piece that are worth a frame of their own: fewer would cost more frames than they save bytes.
const ZERO_RUN: usize = 16 << 10;
/// Level of zstd: the fastest of the ordinary ones.
const ZSTD_LEVEL: i32 = 1;
/// Payloads shorter than this are not compressed: the stored form is hardly ever smaller by what it costs.
const ZSTD_MIN: usize = 1024;

/// How to read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Reads in flight.
    pub workers: usize,
    /// Frames begin and end at multiples of it, or where pieces do.
    pub granule: GranuleSize,
    /// Whether workers compress; may change while they run.
    pub compress: Arc<AtomicBool>,
    /// Batches that the one who takes them may keep without stopping the workers.
    pub hold: usize,
    /// Where sectors that cannot be read are noted before the frames that have zeroes for them are handed out.
    pub holes: HoleNotes,
}

/// What a pass could not read, shared with its workers.
#[derive(Clone, Debug, Default)]
pub struct HoleNotes(Arc<Mutex<Holes>>);

impl HoleNotes {
    /// What was noted since the last call.
    #[must_use]
    pub fn take(&self) -> Holes {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, holes: &Holes) {
        if !holes.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).add_all(holes);
        }
    }
}

impl Options {
    /// Batches in memory: one being read by each worker, one that waits to be taken, one being sent, and what is held.
    const fn buffers(&self) -> usize {
        self.workers * 2 + 1 + self.hold
    }
}

/// Batches that these pieces will come in.
#[must_use]
pub fn batches(pieces: impl Iterator<Item = Range<u64>>) -> usize {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(|| Some(next_batch(&mut pieces)).filter(|batch| !batch.is_empty())).count()
}

/// One data frame, ready for the wire.
#[derive(Clone, Debug)]
pub struct ReadFrame {
    /// Header and payload.
    pub bytes: Bytes,
    /// Bytes of the disk that it carries.
    pub range: Range<u64>,
}

type Batch = Vec<Range<u64>>;
type Read = Result<Vec<ReadFrame>, SourceError>;

/// A pass over some pieces of a disk. Dropping it stops the threads.
#[derive(Debug)]
pub struct Reader {
    outputs: Vec<mpsc::Receiver<Read>>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    /// Starts to read `pieces` (half-open byte ranges of at most [`IMAGE_PIECE`] bytes, aligned to the granule).
    pub fn start(
        disk: &Arc<DiskSource>,
        pieces: impl Iterator<Item = Range<u64>> + Send + 'static,
        options: &Options,
    ) -> std::io::Result<Self> {
        let workers = options.workers.max(1);
        let pool = BufferPool::new(options.buffers(), BUFFER_BYTES);
        let mut reader = Self { outputs: Vec::new(), next: 0, threads: Vec::new() };
        let mut inputs = Vec::new();
        for index in 0..workers {
            let (feed, batches) = std_mpsc::sync_channel::<(PooledBuf, Batch)>(1);
            let (frames, output) = mpsc::channel::<Read>(1);
            inputs.push(feed);
            reader.outputs.push(output);
            let (disk, options) = (Arc::clone(disk), options.clone());
            let work = move || worker(&disk, &options, &batches, &frames);
            reader.threads.push(std::thread::Builder::new().name(format!("read-{index}")).spawn(work)?);
        }
        let feed = move || feeder(pieces, &inputs, &pool);
        reader.threads.push(std::thread::Builder::new().name("read-feed".to_owned()).spawn(feed)?);
        Ok(reader)
    }

    /// The frames of the next batch; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Read> {
        let output = self.outputs.get_mut(self.next)?;
        let frames = output.recv().await?;
        self.next = (self.next + 1) % self.outputs.len();
        Some(frames)
    }
}

/// Deals batches, each with the buffer it will be read into, to the workers in turn. A buffer is taken here and
/// not in the workers: batches get buffers in order, so the one that is due next always has one.
fn feeder(
    pieces: impl Iterator<Item = Range<u64>>,
    inputs: &[std_mpsc::SyncSender<(PooledBuf, Batch)>],
    pool: &BufferPool,
) {
    let mut pieces = pieces.peekable();
    for input in inputs.iter().cycle() {
        let batch = next_batch(&mut pieces);
        if batch.is_empty() {
            return;
        }
        let Some(buffer) = pool.take() else { return };
        if input.send((buffer, batch)).is_err() {
            return;
        }
    }
}

fn next_batch(pieces: &mut std::iter::Peekable<impl Iterator<Item = Range<u64>>>) -> Batch {
    let mut batch = Batch::new();
    let mut room = BUFFER_BYTES;
    while batch.len() < BATCH_PIECES {
        let Some(piece) = pieces.next_if(|p| slot_bytes(p) <= room) else {
            break;
        };
        room -= slot_bytes(&piece);
        batch.push(piece);
    }
    batch
}

/// What a piece takes in a buffer: a page whose end holds the frame header, then its bytes.
fn slot_bytes(piece: &Range<u64>) -> usize {
    let len = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX / 2);
    ALIGN + len.next_multiple_of(ALIGN)
}

fn worker(
    disk: &DiskSource,
    options: &Options,
    batches: &std_mpsc::Receiver<(PooledBuf, Batch)>,
    frames: &mpsc::Sender<Read>,
) {
    if disk.idle
        && let Err(error) = priority::set_idle()
    {
        tracing::debug!(%error, "reads go on at the usual priority");
    }
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
    while let Ok((mut buffer, batch)) = batches.recv() {
        let mut zstd = compressor.as_mut().filter(|_| options.compress.load(Ordering::Relaxed));
        let read = read_batch(disk, &mut buffer, &batch, &options.holes)
            .map(|()| to_frames(buffer, &batch, options.granule, &mut zstd));
        let failed = read.is_err();
        if frames.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

fn read_batch(
    disk: &DiskSource,
    buffer: &mut PooledBuf,
    batch: &Batch,
    notes: &HoleNotes,
) -> Result<(), SourceError> {
    let bytes = buffer.as_mut();
    let mut holes = Holes::new();
    let mut at = 0;
    for piece in batch {
        let start = at + ALIGN;
        at += slot_bytes(piece);
        let len = usize::try_from(piece.end - piece.start).unwrap_or(0);
        disk.read_around(&mut bytes[start..start + len], piece.start, &mut holes)?;
    }
    notes.add(&holes);
    Ok(())
}

type Zstd<'a, 'b> = Option<&'a mut zstd::bulk::Compressor<'b>>;

/// Splits every piece at long runs of zeroes, and writes each header right in front of its payload: into the page
/// before the piece, or over the end of the zeroes that it follows.
fn to_frames(
    mut buffer: PooledBuf,
    batch: &Batch,
    granule: GranuleSize,
    zstd: &mut Zstd<'_, '_>,
) -> Vec<ReadFrame> {
    let mut frames = Vec::new();
    // Places of raw payloads inside the buffer; they become slices of it once it is no longer written to.
    let mut raw = Vec::new();
    let bytes = buffer.as_mut();
    let mut slot = 0;
    for piece in batch {
        let start = slot + ALIGN;
        slot += slot_bytes(piece);
        let len = usize::try_from(piece.end - piece.start).unwrap_or(0);
        for (run, zero) in zero_runs(&bytes[start..start + len], granule) {
            let range = piece.start + run.start as u64..piece.start + run.end as u64;
            if zero {
                frames.push(ReadFrame { bytes: zero_frame(&range), range });
                continue;
            }
            let (from, to) = (start + run.start, start + run.end);
            if let Some(packed) = zstd.as_mut().and_then(|z| compressed(z, &range, &bytes[from..to])) {
                frames.push(ReadFrame { bytes: packed, range });
                continue;
            }
            let place = from - HEADER_BYTES..to;
            seal(Encoding::Raw, &range, &mut bytes[place.clone()]);
            raw.push((frames.len(), place));
            frames.push(ReadFrame { bytes: Bytes::new(), range });
        }
    }
    let shared = Bytes::from_owner(buffer);
    for (index, place) in raw {
        frames[index].bytes = shared.slice(place);
    }
    frames
}

/// Makes frames of bytes that are in memory.
#[derive(Default)]
pub struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("zstd", &self.zstd.is_some()).finish()
    }
}

impl Packer {
    /// Frames of `content`, which begins at byte `start` and is at most [`IMAGE_PIECE`] long.
    pub fn pack(
        &mut self,
        start: u64,
        content: &[u8],
        granule: GranuleSize,
        compress: bool,
    ) -> Vec<ReadFrame> {
        if compress && self.zstd.is_none() {
            self.zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let runs = zero_runs(content, granule).into_iter();
        let frames = runs.map(|(run, zero)| {
            let range = start + run.start as u64..start + run.end as u64;
            let zstd = self.zstd.as_mut().filter(|_| compress);
            let bytes = match zero {
                true => zero_frame(&range),
                false => zstd
                    .and_then(|zstd| compressed(zstd, &range, &content[run.clone()]))
                    .unwrap_or_else(|| raw_frame(&range, &content[run])),
            };
            ReadFrame { bytes, range }
        });
        frames.collect()
    }

    /// The frame of a range that is zero, at most 1 GiB long.
    #[must_use]
    pub fn zero(range: &Range<u64>) -> ReadFrame {
        ReadFrame { bytes: zero_frame(range), range: range.clone() }
    }
}

fn raw_frame(range: &Range<u64>, payload: &[u8]) -> Bytes {
    let mut message = vec![0; HEADER_BYTES];
    message.extend_from_slice(payload);
    seal(Encoding::Raw, range, &mut message);
    Bytes::from(message)
}

/// Writes the header in front of the payload. The lengths are the reader's own, so they fit: a frame that was not
/// sealed would be refused by the channel.
fn seal(encoding: Encoding, range: &Range<u64>, message: &mut [u8]) {
    let raw_length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
    let sealed = Data { encoding, offset: range.start, raw_length }.seal(message);
    debug_assert!(sealed.is_ok(), "{sealed:?}");
}

fn zero_frame(range: &Range<u64>) -> Bytes {
    let mut message = [0; HEADER_BYTES];
    seal(Encoding::Zero, range, &mut message);
    Bytes::copy_from_slice(&message)
}

/// A frame with the payload compressed, if that is smaller by at least an eighth.
fn compressed(zstd: &mut zstd::bulk::Compressor<'_>, range: &Range<u64>, payload: &[u8]) -> Option<Bytes> {
    if payload.len() < ZSTD_MIN {
        return None;
    }
    // A destination of seven eighths: what does not fit is not worth it, and zstd stops there.
    let mut message = vec![0; HEADER_BYTES + payload.len() / 8 * 7];
    let packed = zstd.compress_to_buffer(payload, &mut message[HEADER_BYTES..]).ok()?;
    message.truncate(HEADER_BYTES + packed);
    seal(Encoding::Zstd, range, &mut message);
    Some(Bytes::from(message))
}

/// Cuts bytes, which begin at a granule, into runs of granules that are all zero (at least [`ZERO_RUN`] long, or
/// everything) and runs that are not.
fn zero_runs(bytes: &[u8], granule: GranuleSize) -> Vec<(Range<usize>, bool)> {
    let step = usize::try_from(granule.bytes()).unwrap_or(usize::MAX);
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for start in (0..bytes.len()).step_by(step) {
        let end = start.saturating_add(step).min(bytes.len());
        let zero = is_zero(&bytes[start..end]);
        match runs.last_mut() {
            Some((run, was_zero)) if *was_zero == zero => run.end = end,
            _ => runs.push((start..end, zero)),
        }
    }
    let whole = bytes.len();
    let mut merged: Vec<(Range<usize>, bool)> = Vec::with_capacity(runs.len());
    for (run, zero) in runs {
        let zero = zero && (run.len() >= ZERO_RUN || run.len() == whole);
        match merged.last_mut() {
            Some((last, was_zero)) if *was_zero == zero => last.end = run.end,
            _ => merged.push((run, zero)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn short_zero_runs_stay_inside_data() {
        let mut bytes = vec![0u8; 64 << 10];
        let fine = GranuleSize::default();
        assert_eq!(zero_runs(&bytes, fine), vec![(0..65536, true)]);
        bytes[0] = 1;
        bytes[9000] = 1;
        assert_eq!(zero_runs(&bytes, fine), vec![(0..12288, false), (12288..65536, true)]);
        assert_eq!(zero_runs(&[0; 512], fine), vec![(0..512, true)]);
        // Of coarser granules no frame holds a part.
        let coarse = GranuleSize::from_shift(14).unwrap();
        assert_eq!(zero_runs(&bytes, coarse), vec![(0..16384, false), (16384..65536, true)]);
    }

    #[tokio::test]
    async fn frames_come_in_order_and_hold_what_the_disk_holds() {
        let mut file = tempfile::NamedTempFile::new_in(".").unwrap();
        let mut content = vec![0u8; (3 << 20) + 512];
        for (i, byte) in content.iter_mut().enumerate().filter(|(i, _)| i / 300_000 % 2 == 0) {
            *byte = u8::try_from(i % 251).unwrap();
        }
        file.write_all(&content).unwrap();
        file.flush().unwrap();
        let disk = Arc::new(DiskSource::open(file.path(), true).unwrap());
        for compress in [false, true] {
            let end = content.len() as u64;
            let mut pieces: Vec<Range<u64>> =
                (0..end).step_by(4096 * 3).map(|s| s..(s + 4096 * 3).min(end)).collect();
            pieces.insert(0, 0..1 << 20);
            let options = Options {
                granule: GranuleSize::default(),
                workers: 3,
                compress: Arc::new(AtomicBool::new(compress)),
                hold: 0,
                holes: HoleNotes::default(),
            };
            let mut reader = Reader::start(&disk, pieces.clone().into_iter(), &options).unwrap();
            let mut covered = Vec::new();
            while let Some(frames) = reader.next().await {
                for f in frames.unwrap() {
                    check(&f, &content);
                    covered.push(f.range);
                }
            }
            let mut at = covered.iter().map(|r| r.start..r.end).peekable();
            for piece in pieces {
                let mut from = piece.start;
                while from < piece.end {
                    let next = at.next().unwrap();
                    assert_eq!(next.start, from);
                    from = next.end;
                }
            }
            assert!(at.next().is_none());
        }
    }

    fn check(f: &ReadFrame, content: &[u8]) {
        let (header, payload) = crate::wire::frame::open(&f.bytes).unwrap();
        let crate::wire::frame::Kind::Data(header) = header.kind else { panic!("not a data frame") };
        let expected =
            &content[usize::try_from(f.range.start).unwrap()..usize::try_from(f.range.end).unwrap()];
        assert_eq!(header.offset, f.range.start);
        assert_eq!(header.raw_length as usize, expected.len());
        match header.encoding {
            Encoding::Raw => assert_eq!(payload, expected),
            Encoding::Zstd => assert_eq!(zstd::bulk::decompress(payload, expected.len()).unwrap(), expected),
            Encoding::Zero => assert!(payload.is_empty() && expected.iter().all(|b| *b == 0)),
        }
    }
}
