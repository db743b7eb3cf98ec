//! Reading a base image, each granule checked against its sidecar.

use super::recent::Recent;
use super::{BaseFiles, StoredFile, ViewError};
use crate::format::header::FileKind;
use crate::format::sidecar::{Sidecar, WORD_BYTES};
use crate::format::trailer::Digest;
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{Access, DataFile, Storage};
use crate::model::encoding::is_zero;
use crate::model::units::GranuleSize;
use std::ops::Range;

/// Bytes that are read and checked at once; a multiple of every granule.
const CHUNK_LENGTH: usize = 1 << 20;
/// [`CHUNK_LENGTH`] as a position.
pub const CHUNK_BYTES: u64 = CHUNK_LENGTH as u64;
/// Granules whose words are read at once: 16 KiB of words for 16 MiB of granules of 4 KiB.
const PAGE_GRANULES: u32 = 4096;
/// Memory for words: those of 4 GiB in granules of 4 KiB.
const WORDS_BYTES: usize = 4 << 20;
/// Words that are looked through at once for a hole.
const HOLE_GRANULES: u32 = 64 << 10;

/// An open base image.
#[derive(Debug)]
pub struct Image {
    file: DataFile,
    sums: StoredFile,
    sidecar: Sidecar,
    scratch: Vec<u8>,
    chunk: Option<Chunk>,
    /// The sidecar's words, in pages.
    words: Recent<u32, Vec<u8>>,
    /// Words that are looked through for a hole.
    hole: Vec<u8>,
    /// The stretch that was asked for last, and whether it is a hole.
    mapped: (bool, Range<u64>),
}

fn read_words(
    sums: &StoredFile,
    sidecar: &Sidecar,
    granules: Range<u32>,
    words: &mut Vec<u8>,
) -> Result<(), ViewError> {
    let at = sidecar.words_at(granules);
    words.resize(usize::try_from(at.end - at.start).unwrap_or(0), 0);
    Ok(sums.file.read_at(words, at.start)?)
}

/// A chunk of the image as it is on the disk.
#[derive(Debug)]
struct Chunk {
    start: u64,
    buffer: AlignedBuffer,
}

impl Chunk {
    /// No chunk yet.
    fn new() -> Self {
        Self { start: u64::MAX, buffer: AlignedBuffer::new(CHUNK_LENGTH) }
    }

    fn load(&mut self, file: &DataFile, start: u64, disk_bytes: u64) -> Result<(), ViewError> {
        if self.start != start {
            let length = usize::try_from(disk_bytes - start).unwrap_or(usize::MAX);
            self.start = u64::MAX;
            file.read_direct_at(self.buffer.fill(length), start)?;
            self.start = start;
        }
        Ok(())
    }

    fn part(&self, bytes: &Range<u64>) -> &[u8] {
        let within = |byte: u64| usize::try_from(byte - self.start).unwrap_or(usize::MAX);
        &self.buffer.as_slice()[within(bytes.start)..within(bytes.end)]
    }
}

impl Image {
    pub fn open(storage: &Storage, files: &BaseFiles, granule: GranuleSize) -> Result<Self, ViewError> {
        let sums = StoredFile::open(storage, &files.sidecar, FileKind::Sidecar, &files.root)?;
        let sidecar = Sidecar::new(granule, files.bytes).map_err(|e| sums.format(0, e))?;
        let agrees = (sums.header.granule, sums.header.disk_bytes, sums.trailer.body_bytes)
            == (granule, files.bytes, sidecar.body_bytes());
        if !agrees {
            return Err(ViewError::Foreign { path: files.sidecar.clone() });
        }
        let file = storage.open(&files.image, Access::Stream)?;
        let length = file.length()?;
        // Longer it is while a larger or smaller disk is folded into it.
        if length < files.bytes {
            let what = format!("it is {length} bytes long and should be {}", files.bytes);
            let disk = length.min(files.bytes)..files.bytes;
            return Err(ViewError::Rotten { path: files.image.clone(), offset: length, disk, what });
        }
        Ok(Self {
            file,
            sums,
            sidecar,
            scratch: Vec::new(),
            chunk: None,
            words: Recent::new(WORDS_BYTES),
            hole: Vec::new(),
            mapped: (false, 0..0),
        })
    }

    #[must_use]
    pub const fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// Fills `out` from `offset`. What is behind the image's end is zero.
    pub fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<(), ViewError> {
        let inside = self.sidecar.disk_bytes().saturating_sub(offset);
        let inside = usize::try_from(inside).unwrap_or(usize::MAX).min(out.len());
        let (mut out, behind) = out.split_at_mut(inside);
        behind.fill(0);
        let mut at = offset;
        while !out.is_empty() {
            let chunk_end = (at / CHUNK_BYTES + 1) * CHUNK_BYTES;
            let n = usize::try_from(chunk_end - at).unwrap_or(usize::MAX).min(out.len());
            let (now, rest) = out.split_at_mut(n);
            self.read_chunk(at, now)?;
            at += n as u64;
            out = rest;
        }
        Ok(())
    }

    /// Reads whole chunks past the page cache from here on: for those who read from front to back.
    pub fn stream(&mut self) {
        self.chunk = Some(Chunk::new());
    }

    /// Reads within one chunk.
    fn read_chunk(&mut self, at: u64, out: &mut [u8]) -> Result<(), ViewError> {
        let granules = self.sidecar.granule().touched(at..at + out.len() as u64);
        let whole = self.sidecar.granule().byte_range(granules.clone(), self.sidecar.disk_bytes());
        let skip = usize::try_from(at - whole.start).unwrap_or(0);
        if let Some(mut chunk) = self.chunk.take() {
            let loaded = chunk.load(&self.file, at / CHUNK_BYTES * CHUNK_BYTES, self.sidecar.disk_bytes());
            let checked = loaded.is_ok().then(|| {
                out.copy_from_slice(&chunk.part(&whole)[skip..skip + out.len()]);
                self.check(granules.clone(), chunk.part(&whole))
            });
            self.chunk = Some(chunk);
            if let Some(checked) = checked {
                return checked;
            }
            // A chunk that cannot be read may hold what is asked for all the same.
        }
        if whole == (at..at + out.len() as u64) {
            self.file.read_at(out, at)?;
            return self.check(granules, out);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(usize::try_from(whole.end - whole.start).unwrap_or(0), 0);
        self.file.read_at(&mut scratch, whole.start)?;
        self.check(granules, &scratch)?;
        out.copy_from_slice(&scratch[skip..skip + out.len()]);
        self.scratch = scratch;
        Ok(())
    }

    /// The bytes of the chunk that starts at `at`, as they are on the disk, unchecked.
    pub fn raw_chunk(&mut self, at: u64) -> Result<&[u8], ViewError> {
        let chunk = self.chunk.get_or_insert_with(Chunk::new);
        chunk.load(&self.file, at, self.sidecar.disk_bytes())?;
        Ok(chunk.buffer.as_slice())
    }

    /// Checks whole granules of one chunk.
    fn check(&mut self, granules: Range<u32>, bytes: &[u8]) -> Result<(), ViewError> {
        let (sums, sidecar) = (&self.sums, &self.sidecar);
        let page = granules.start / PAGE_GRANULES * PAGE_GRANULES;
        let words = self.words.get_or_put(page, || {
            let mut words = Vec::new();
            read_words(
                sums,
                sidecar,
                page..sidecar.granules().min(page.saturating_add(PAGE_GRANULES)),
                &mut words,
            )?;
            let weight = words.len();
            Ok::<_, ViewError>((words, weight))
        })?;
        let word = |granule: u32| (granule - page) as usize * WORD_BYTES;
        let words = &words[word(granules.start)..word(granules.end)];
        let wrong = sidecar.first_wrong(granules.start, bytes, words);
        let Some(granule) = wrong else { return Ok(()) };
        let disk = sidecar.granule().byte_range(granule..granule + 1, sidecar.disk_bytes());
        Err(ViewError::Rotten {
            path: self.file.path().to_owned(),
            offset: disk.start,
            disk,
            what: "a granule has another checksum than its sidecar says".to_owned(),
        })
    }

    /// Reads the sidecar's words of some granules.
    pub fn words(&self, granules: Range<u32>, words: &mut Vec<u8>) -> Result<(), ViewError> {
        read_words(&self.sums, &self.sidecar, granules, words)
    }

    /// Digest that the sidecar's words should have.
    #[must_use]
    pub const fn body_digest(&self) -> Digest {
        self.sums.trailer.body_digest
    }

    /// Whether the image has a hole in all of a range.
    pub fn is_hole(&self, range: Range<u64>) -> Result<bool, ViewError> {
        Ok(self.file.extent_at(range.start, range.end)? == (true, range.end))
    }

    /// Whether `at` is in a hole, and where that or the data ends. What a view takes from an image never changes
    /// while it is open, and the filesystem walks all of a long stretch to find its end.
    fn hole_or_data(&mut self, at: u64) -> Result<(bool, u64), ViewError> {
        let (hole, range) = &self.mapped;
        if range.contains(&at) {
            return Ok((*hole, range.end));
        }
        let (hole, end) = self.file.extent_at(at, self.sidecar.disk_bytes())?;
        self.mapped = (hole, at..end);
        Ok((hole, end))
    }

    /// Whether the bytes from `at` on are zero because the image has a hole there (and its sidecar agrees), and
    /// up to where, at most to `end`. Both are at the edges of granules or at the disk's end.
    pub fn stretch(&mut self, at: u64, end: u64) -> Result<(bool, u64), ViewError> {
        let disk_end = self.sidecar.disk_bytes();
        if at >= disk_end {
            return Ok((true, end));
        }
        let end = end.min(disk_end);
        let granule = self.sidecar.granule().bytes();
        let (hole, until) = self.hole_or_data(at)?;
        let until = until.min(end);
        if !hole {
            // Where data ends within a granule, the granule is data.
            return Ok((false, until.next_multiple_of(granule).min(end)));
        }
        let until = if until == end { end } else { until / granule * granule };
        if until <= at {
            return Ok((false, (at + granule).min(end)));
        }
        let hole = self.sidecar.granule().touched(at..until);
        let looked = hole.start..hole.end.min(hole.start.saturating_add(HOLE_GRANULES));
        let mut words = std::mem::take(&mut self.hole);
        self.words(looked.clone(), &mut words)?;
        let zero = match is_zero(&words) {
            true => looked.len(),
            false => words.as_chunks().0.iter().take_while(|word| **word == [0; WORD_BYTES]).count(),
        };
        self.hole = words;
        if zero == 0 {
            // The sidecar says that something was here: reading it names the damage.
            return Ok((false, (at + granule).min(end)));
        }
        let zero = hole.start..hole.start + u32::try_from(zero).unwrap_or(0);
        Ok((true, self.sidecar.granule().byte_range(zero, disk_end).end.min(end)))
    }
}
