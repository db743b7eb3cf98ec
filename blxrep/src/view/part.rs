//! A part of a point as bytes of its own: a partition, a volume, or all of the disk.

use super::ViewError;
use super::reader::{Content, PointReader};
use crate::model::contents::{self, Contents, NoPart};
use crate::model::extents::Extents;
use crate::model::part_id::PartId;
use crate::model::units::GranuleSize;
use std::ops::Range;

/// Places of the disk that one stretch of a part goes over.
const MAX_PLACES: usize = 1024;
/// Failed reads that are told of one look through a disk.
const MAX_FAILED: usize = 64;

/// Why a part is not opened.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    None(#[from] NoPart),
}

/// Reads the part at positions that count from its first byte.
#[derive(Debug)]
pub struct PartReader {
    reader: PointReader,
    extents: Extents,
}

impl PartReader {
    /// The part with this name.
    pub fn open(mut reader: PointReader, id: &PartId) -> Result<Self, PartError> {
        if *id == PartId::DISK {
            return Ok(Self::whole(reader));
        }
        let (contents, failed) = survey(&mut reader);
        match contents.part(id) {
            Ok(part) => Ok(Self { reader, extents: part.extents.clone() }),
            // A table that cannot be read must not pass for one that is not there.
            Err(none) => Err(failed.into_iter().next().map_or(none.into(), PartError::from)),
        }
    }

    #[must_use]
    pub fn whole(reader: PointReader) -> Self {
        let extents = Extents::from(0..reader.disk_bytes());
        Self { reader, extents }
    }

    /// The same part once more, to be read at the same time.
    pub fn another(&self) -> Result<Self, ViewError> {
        let mut reader = self.reader.another()?;
        if self.reader.holes().is_empty() {
            reader.fill_holes();
        }
        Ok(Self { reader, extents: self.extents.clone() })
    }

    /// Prepares for reads from front to back.
    pub fn stream(&mut self) {
        self.reader.stream();
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.bytes()
    }

    #[must_use]
    pub const fn granule(&self) -> GranuleSize {
        self.reader.granule()
    }

    /// Fills `out` with the bytes from `at` on. They lie within the part.
    pub fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<(), ViewError> {
        read_at(&mut self.reader, &self.extents, at, out)
    }

    /// What the bytes from `at` on are, and up to where. `None` at the end.
    pub fn next_stretch(&mut self, at: u64) -> Result<Option<(Range<u64>, Content)>, ViewError> {
        next_stretch(&mut self.reader, &self.extents, at)
    }
}

/// Looks through the disk of a point. Tells also what could not be read, each failure once.
pub fn survey(reader: &mut PointReader) -> (Contents, Vec<ViewError>) {
    let (disk_bytes, mut failed) = (reader.disk_bytes(), Vec::<ViewError>::new());
    let mut fetch = |at: u64, length: usize| {
        let fits = at.checked_add(length as u64).is_some_and(|end| end <= disk_bytes);
        let mut bytes = vec![0; if fits { length } else { return None }];
        match reader.read_at(at, &mut bytes) {
            Ok(()) => Some(bytes),
            Err(error) => {
                let line = error.to_string();
                if failed.len() < MAX_FAILED && failed.iter().all(|known| known.to_string() != line) {
                    failed.push(error);
                }
                None
            }
        }
    };
    let contents = contents::survey(&mut fetch, disk_bytes);
    (contents, failed)
}

/// Fills `out` with a part's bytes from `at` on, for who reads several parts through one reader.
pub fn read_at(
    reader: &mut PointReader,
    extents: &Extents,
    mut at: u64,
    mut out: &mut [u8],
) -> Result<(), ViewError> {
    while !out.is_empty() {
        let Some(place) = extents.find(at) else {
            let range = at..at.saturating_add(out.len() as u64);
            return Err(ViewError::BehindPart { range, bytes: extents.bytes() });
        };
        let n = usize::try_from(place.end - place.start).unwrap_or(usize::MAX).min(out.len());
        let (now, rest) = out.split_at_mut(n);
        reader.read_at(place.start, now)?;
        at += n as u64;
        out = rest;
    }
    Ok(())
}

/// What a part's bytes from `at` on are, and up to where. `None` at its end.
pub fn next_stretch(
    reader: &mut PointReader,
    extents: &Extents,
    at: u64,
) -> Result<Option<(Range<u64>, Content)>, ViewError> {
    let (mut end, mut content) = (at, None);
    for _ in 0..MAX_PLACES {
        let Some(place) = extents.find(end) else { break };
        let Some((range, found)) = reader.next_stretch(place.start)? else { break };
        if content.is_some_and(|content| content != found) {
            break;
        }
        content = Some(found);
        end += range.end.min(place.end) - place.start;
        if range.end < place.end {
            break;
        }
    }
    Ok(content.map(|content| (at..end, content)))
}
