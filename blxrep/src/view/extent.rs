//! Reading extents of a delta, checked.

use super::{StoredFile, ViewError};
use crate::format::delta::{EXTENT_HEADER_BYTES, Extent};
use crate::format::overlay::Run;
use crate::io::storage::DataFile;
use crate::model::units::GranuleSize;

/// A file with extents up to `end`.
#[derive(Debug)]
pub struct ExtentFile<'a> {
    pub file: &'a DataFile,
    pub granule: GranuleSize,
    pub disk_bytes: u64,
    /// Where the body ends.
    pub end: u64,
}

impl<'a> ExtentFile<'a> {
    /// The extents of a proven delta.
    #[must_use]
    pub fn of(stored: &'a StoredFile) -> Self {
        Self {
            file: &stored.file,
            granule: stored.header.granule,
            disk_bytes: stored.header.disk_bytes,
            end: stored.trailer.index_at(),
        }
    }

    /// Reads the header of the extent at `at`.
    pub fn header(&self, at: u64) -> Result<Extent, ViewError> {
        let mut header = [0; EXTENT_HEADER_BYTES];
        self.file.read_at(&mut header, at)?;
        let format = |source| ViewError::Format { path: self.file.path().to_owned(), offset: at, source };
        let extent = Extent::parse(&header, self.granule, self.disk_bytes).map_err(format)?;
        let end = at + EXTENT_HEADER_BYTES as u64 + u64::from(extent.payload);
        if end > self.end {
            return Err(self.rotten(at, &extent, "its payload runs past the end of the body".to_owned()));
        }
        Ok(extent)
    }

    /// Reads the extent at `at`, its payload as it is stored.
    pub fn read(&self, at: u64, payload: &mut Vec<u8>) -> Result<Extent, ViewError> {
        let extent = self.header(at)?;
        // At most MAX_PAYLOAD_BYTES: the header was checked.
        payload.resize(usize::try_from(extent.payload).unwrap_or(0), 0);
        self.file.read_at(payload, at + EXTENT_HEADER_BYTES as u64)?;
        if crc32c::crc32c(payload) != extent.payload_crc {
            return Err(self.rotten(at, &extent, "an extent's payload has a wrong checksum".to_owned()));
        }
        Ok(extent)
    }

    /// Unpacks a payload with content (not a zero extent: those may be long).
    pub fn unpack(&self, at: u64, extent: &Extent, payload: &[u8]) -> Result<Vec<u8>, ViewError> {
        let mut content = vec![0; usize::try_from(extent.bytes).unwrap_or(0)];
        extent
            .encoding
            .decode_into(payload, &mut content)
            .map_err(|e| ViewError::decode(self.file.path(), at, extent.range(), &e))?;
        Ok(content)
    }

    /// Whether an extent holds what a run of the index says.
    pub fn check_run(&self, run: &Run, extent: &Extent) -> Result<(), ViewError> {
        let start = u64::from(run.start.saturating_sub(run.skip)) << self.granule.shift();
        let end = self.granule.byte_range(run.start..run.end, self.disk_bytes).end;
        if extent.start == start && extent.range().end >= end {
            return Ok(());
        }
        Err(self.rotten(run.at, extent, "the index names it for other bytes".to_owned()))
    }

    fn rotten(&self, offset: u64, extent: &Extent, what: String) -> ViewError {
        ViewError::Rotten { path: self.file.path().to_owned(), offset, disk: extent.range(), what }
    }
}
