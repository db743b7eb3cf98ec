//! A point, or a part of one, for many readers at a time, and for writers that change nothing of it.

use super::ViewError;
use super::part::PartReader;
use super::reader::Content;
use super::scratch::{Place, Scratch, ScratchError};
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError, RwLock};

/// Readers of one point: each has its own memory and files, and more than the disks can answer at once help nobody.
const MAX_READERS: usize = 4;
/// The most that is looked at to tell what is zero.
const MAX_LOOK_BYTES: u64 = 1 << 30;

/// The same where something may be written over it, which is looked at block by block.
const MAX_SCRATCH_LOOK_BYTES: u64 = 16 << 20;

/// Why something is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// What is served: a part of a point.
#[derive(Debug)]
pub struct Served {
    readers: Readers,
    scratch: Option<RwLock<Scratch>>,
    bytes: u64,
}

/// Readers that wait for work. A new one is made when none is free and there are not enough yet.
#[derive(Debug)]
struct Readers {
    idle: Mutex<Idle>,
    freed: Condvar,
}

#[derive(Debug)]
struct Idle {
    readers: Vec<PartReader>,
    made: usize,
}

impl Readers {
    fn with<T>(&self, work: impl FnOnce(&mut PartReader) -> Result<T, ViewError>) -> Result<T, ViewError> {
        let mut reader = self.take();
        let done = work(&mut reader);
        self.lock().readers.push(reader);
        self.freed.notify_one();
        done
    }

    fn take(&self) -> PartReader {
        let mut idle = self.lock();
        loop {
            if let Some(reader) = idle.readers.pop() {
                // What the next caller will need is made now, while it is cheap to know how.
                if idle.readers.is_empty()
                    && idle.made < MAX_READERS
                    && let Ok(another) = reader.another()
                {
                    idle.made += 1;
                    idle.readers.push(another);
                }
                return reader;
            }
            idle = self.freed.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        // A list of whole readers, whatever happened to one.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    /// Serves a part of a point; with `scratch`, a layer over all of it, it can be written to.
    #[must_use]
    pub fn new(reader: PartReader, scratch: Option<Scratch>) -> Self {
        let bytes = reader.bytes();
        let idle = Mutex::new(Idle { readers: vec![reader], made: 1 });
        Self { readers: Readers { idle, freed: Condvar::new() }, scratch: scratch.map(RwLock::new), bytes }
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.scratch.is_some()
    }

    /// Fills `out` from `at`.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ServeError> {
        match &self.scratch {
            None => Ok(self.readers.with(|reader| reader.read_at(at, out))?),
            Some(scratch) => self.read_over(&scratch.read().unwrap_or_else(PoisonError::into_inner), at, out),
        }
    }

    fn read_over(&self, scratch: &Scratch, mut at: u64, mut out: &mut [u8]) -> Result<(), ServeError> {
        while !out.is_empty() {
            let (place, until) = scratch.place(at, at + out.len() as u64);
            let (now, rest) = out.split_at_mut(usize::try_from(until - at).unwrap_or(usize::MAX));
            match place {
                Place::Point => self.readers.with(|reader| reader.read_at(at, now))?,
                Place::Scratch => scratch.read(at, now)?,
                Place::Zero => now.fill(0),
            }
            out = rest;
            at = until;
        }
        Ok(())
    }

    /// Writes `bytes` at `at`; gone when what is served is closed.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<(), ServeError> {
        let Some(scratch) = &self.scratch else { return Ok(()) };
        let mut scratch = scratch.write().unwrap_or_else(PoisonError::into_inner);
        let range = at..at + bytes.len() as u64;
        let edges = scratch.edges(&range);
        if edges.is_empty() {
            return Ok(scratch.write(range.start, bytes)?);
        }
        let whole = edges.iter().fold(range.clone(), |all, e| all.start.min(e.start)..all.end.max(e.end));
        let within = |at: u64| usize::try_from(at - whole.start).unwrap_or(usize::MAX);
        let mut content = vec![0; within(whole.end)];
        for edge in edges {
            self.read_over(&scratch, edge.start, &mut content[within(edge.start)..within(edge.end)])?;
        }
        content[within(range.start)..within(range.end)].copy_from_slice(bytes);
        Ok(scratch.write(whole.start, &content)?)
    }

    /// Makes a range zero.
    pub fn zero(&self, at: u64, length: u64) -> Result<(), ServeError> {
        let (zeroed, end) = (self.discard(at, length)?, at + length);
        // What is left are parts of blocks, at both ends or in the middle of one.
        let rest = if zeroed.is_empty() { [at..end, end..end] } else { [at..zeroed.start, zeroed.end..end] };
        for part in rest.into_iter().filter(|part| !part.is_empty()) {
            self.write(part.start, &vec![0; usize::try_from(part.end - part.start).unwrap_or(0)])?;
        }
        Ok(())
    }

    /// Makes the blocks within a range zero; returns the range that was.
    pub fn discard(&self, at: u64, length: u64) -> Result<Range<u64>, ServeError> {
        let Some(scratch) = &self.scratch else { return Ok(at..at) };
        let mut scratch = scratch.write().unwrap_or_else(PoisonError::into_inner);
        Ok(scratch.zero(&(at..at + length))?)
    }

    /// Whether the bytes from `at` on are known to be zero, and up to where at most `end`.
    pub fn stretch(&self, at: u64, end: u64) -> Result<(bool, u64), ServeError> {
        let end = end.min(at + MAX_LOOK_BYTES);
        let mut until = end;
        if let Some(scratch) = &self.scratch {
            let scratch = scratch.read().unwrap_or_else(PoisonError::into_inner);
            let (place, ends) = scratch.place(at, end.min(at + MAX_SCRATCH_LOOK_BYTES));
            if place != Place::Point {
                return Ok((place == Place::Zero, ends));
            }
            until = ends;
        }
        let (zero, ends) = self.readers.with(|reader| {
            let found = reader.next_stretch(at)?;
            Ok(found.map_or((false, until), |(range, content)| (content == Content::Zero, range.end)))
        })?;
        Ok((zero, ends.clamp(at + 1, until)))
    }
}
