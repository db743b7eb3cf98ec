//! Reading a point at any offset.

use super::deltas::Deltas;
use super::extent::payload_of;
use super::image::Image;
use super::index::Index;
use super::recent::Recent;
use super::{Chain, ViewError};
use crate::format::overlay::Run;
use crate::io::storage::Storage;
use crate::model::encoding::Encoding;
use crate::model::holes::Holes;
use crate::model::units::GranuleSize;
use crate::store::lease::ViewLease;
use std::ops::Range;
use std::sync::Arc;

/// Longest stretch that [`PointReader::next_stretch`] returns, so that its caller shows progress.
const MAX_STRETCH_BYTES: u64 = 1 << 30;

/// Shorter zeroes in a delta are taken for data by [`PointReader::next_stretch`].
const MIN_ZERO_BYTES: u64 = 64 << 10;
/// Reads of this length and more are looked at as a whole before they begin: their pieces may be in many files.
const AHEAD_BYTES: usize = 128 << 10;
/// How far in front of a reader that goes from front to back the kernel is told what comes next.
const STREAM_AHEAD_BYTES: u64 = 4 << 20;
/// Memory for the content of extents of which only a part was asked for: the rest may be next.
const CONTENTS_BYTES: usize = 16 << 20;

/// What a stretch of a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Known to be zero without reading it.
    Zero,
    Data,
}

/// An open point. Reads are checked; what is damaged is an error that names file and offset.
#[derive(Debug)]
pub struct PointReader {
    storage: Storage,
    chain: Arc<Chain>,
    image: Image,
    deltas: Deltas,
    index: Index,
    granule: GranuleSize,
    disk_bytes: u64,
    /// What is not known of the disk. Reading it is an error, as it was on the disk.
    holes: Holes,
    /// Extents by their place: the delta's position in the chain, and where in its file.
    contents: Recent<(u32, u64), Unpacked>,
    /// The extent that was read last, as it is stored.
    stored: Vec<u8>,
    /// Where what the kernel was told to read ends, for a reader that goes from front to back.
    told: Option<u64>,
    /// Keeps the files where they are.
    _lease: Option<ViewLease>,
}

/// The content of an extent.
#[derive(Debug)]
struct Unpacked {
    /// Its first byte on the disk.
    start: u64,
    bytes: Vec<u8>,
}

impl Unpacked {
    fn copy(&self, at: u64, out: &mut [u8]) {
        let skip = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        out.copy_from_slice(&self.bytes[skip..skip + out.len()]);
    }
}

impl PointReader {
    pub fn open(storage: &Storage, chain: &Chain) -> Result<Self, ViewError> {
        let index = Index::open(storage, chain)?;
        Self::of(storage, Arc::new(chain.clone()), Deltas::new(storage, &chain.deltas), index)
    }

    /// The same point once more, to be read at the same time.
    pub fn another(&self) -> Result<Self, ViewError> {
        Self::of(&self.storage, Arc::clone(&self.chain), self.deltas.another(), self.index.another())
    }

    fn of(storage: &Storage, chain: Arc<Chain>, deltas: Deltas, index: Index) -> Result<Self, ViewError> {
        Ok(Self {
            storage: storage.clone(),
            image: Image::open(storage, &chain.base, chain.granule)?,
            deltas,
            index,
            granule: chain.granule,
            disk_bytes: chain.bytes,
            holes: chain.holes.clone(),
            chain,
            contents: Recent::new(CONTENTS_BYTES),
            stored: Vec::new(),
            told: None,
            _lease: None,
        })
    }

    /// The same, holding the lease under which its chain was asked for.
    #[must_use]
    pub fn under(self, lease: ViewLease) -> Self {
        Self { _lease: Some(lease), ..self }
    }

    /// Prepares for reads from front to back: the image is read in whole chunks, past the page cache, and what lies in
    /// deltas is on its way before it is asked for.
    pub fn stream(&mut self) {
        self.image.stream();
        self.told = Some(0);
    }

    /// What is not known of the disk.
    #[must_use]
    pub const fn holes(&self) -> &Holes {
        &self.holes
    }

    /// Gives out zeroes for what is not known. For who has been told of it and wants the rest all the same.
    pub fn fill_holes(&mut self) {
        self.holes = Holes::new();
    }

    #[must_use]
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    #[must_use]
    pub const fn granule(&self) -> GranuleSize {
        self.granule
    }

    /// Fills `out` with the disk's bytes from `offset` on.
    pub fn read_at(&mut self, offset: u64, mut out: &mut [u8]) -> Result<(), ViewError> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.disk_bytes {
            return Err(ViewError::BehindEnd { range: offset..end, disk_bytes: self.disk_bytes });
        }
        if let Some(hole) = self.holes.within(&(offset..end)) {
            return Err(ViewError::Hole(hole));
        }
        match self.told {
            Some(told) => {
                let until = (end + STREAM_AHEAD_BYTES).min(self.disk_bytes);
                // Behind a jump nothing tells yet that the reader goes on there: stripes are read in turns.
                let ahead = if (offset..=until).contains(&told) { told..until } else { offset..end };
                self.told = Some(ahead.end);
                // What is wrong there is said when it is read.
                let _ = self.expect(ahead);
            }
            None if out.len() >= AHEAD_BYTES => self.expect(offset..end)?,
            None => {}
        }
        let mut at = offset;
        while !out.is_empty() {
            let (run, until) = self.place(at)?;
            let n = usize::try_from(until - at).unwrap_or(usize::MAX).min(out.len());
            let (now, rest) = out.split_at_mut(n);
            match run {
                None => self.image.read_at(at, now)?,
                Some(run) => self.read_run(&run, at, now)?,
            }
            at += n as u64;
            out = rest;
        }
        Ok(())
    }

    /// Lets the kernel read at once what is then read piece by piece, from many places.
    fn expect(&mut self, range: Range<u64>) -> Result<(), ViewError> {
        let mut at = range.start;
        while at < range.end {
            let (run, until) = self.place(at)?;
            if let Some(run) = run.filter(|_| until < range.end || at > range.start) {
                self.deltas.extents(run.layer)?.expect(&run);
            }
            at = until;
        }
        Ok(())
    }

    /// What the bytes from `at` on are, and up to where. `None` at the end of the disk.
    pub fn next_stretch(&mut self, at: u64) -> Result<Option<(Range<u64>, Content)>, ViewError> {
        if at >= self.disk_bytes {
            return Ok(None);
        }
        let (run, until) = self.place(at)?;
        let until = until.min(at.saturating_add(MAX_STRETCH_BYTES));
        // A hole is data: who takes it for zeroes does not ask for it, and hears of nothing.
        let until = match self.holes.within(&(at..until)) {
            Some(hole) if hole.start <= at => return Ok(Some((at..until.min(hole.end), Content::Data))),
            Some(hole) => hole.start,
            None => until,
        };
        let (zero, end) = match run {
            None => self.image.stretch(at, until)?,
            // Not worth a look: what follows is read with it.
            Some(_) if until - at < MIN_ZERO_BYTES => (false, until),
            Some(run) => {
                let source = self.deltas.extents(run.layer)?;
                (source.header(run.at)?.encoding == Encoding::Zero, until)
            }
        };
        Ok(Some((at..end, if zero { Content::Zero } else { Content::Data })))
    }

    /// The stretches of the whole disk.
    pub fn stretches(&mut self) -> impl Iterator<Item = Result<(Range<u64>, Content), ViewError>> + '_ {
        let mut at = Some(0);
        std::iter::from_fn(move || {
            let next = self.next_stretch(at?).transpose();
            at = match &next {
                Some(Ok((range, _))) => Some(range.end),
                _ => None,
            };
            next
        })
    }

    /// The run that holds byte `at`, or `None` if the image does, and where that ends.
    fn place(&mut self, at: u64) -> Result<(Option<Run>, u64), ViewError> {
        let (run, until) = self.index.place(self.granule.touched(at..at + 1).start)?;
        Ok((run, (u64::from(until) << self.granule.shift()).min(self.disk_bytes)))
    }

    /// Fills `out` from byte `at` of the disk, which is within `run`.
    fn read_run(&mut self, run: &Run, at: u64, out: &mut [u8]) -> Result<(), ViewError> {
        if let Some(content) = self.contents.get((run.layer, run.at)) {
            content.copy(at, out);
            return Ok(());
        }
        let source = self.deltas.extents(run.layer)?;
        let wanted = self.granule.byte_range(run.start..run.end, source.disk_bytes);
        let extent = source.read(run.at, wanted.end - wanted.start, &mut self.stored)?;
        source.check_run(run, &extent)?;
        let payload = payload_of(&self.stored);
        if extent.encoding == Encoding::Zero {
            out.fill(0);
        } else if extent.range() == (at..at + out.len() as u64) {
            source.unpack_into(run.at, &extent, payload, out)?;
        } else {
            let mut bytes = vec![0; usize::try_from(extent.bytes).unwrap_or(0)];
            source.unpack_into(run.at, &extent, payload, &mut bytes)?;
            let weight = bytes.len();
            let content = Unpacked { start: extent.start, bytes };
            self.contents.put((run.layer, run.at), content, weight).copy(at, out);
        }
        Ok(())
    }
}
