//! Reading extents of a delta, checked.

use super::{StoredFile, ViewError};
use crate::format::FormatError;
use crate::format::delta::{EXTENT_HEADER_BYTES, Extent};
use crate::format::overlay::Run;
use crate::io::storage::DataFile;
use crate::model::encoding::MAX_PAYLOAD_BYTES;
use crate::model::units::GranuleSize;

/// Longest extent: what is read at once at most.
const MAX_EXTENT_BYTES: usize = EXTENT_HEADER_BYTES + MAX_PAYLOAD_BYTES;

/// The payload in the bytes of an extent.
#[must_use]
pub fn payload_of(extent: &[u8]) -> &[u8] {
    extent.get(EXTENT_HEADER_BYTES..).unwrap_or_default()
}

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

    /// Lets the kernel read what a run needs. Only a wish.
    pub fn expect(&self, run: &Run) {
        let bytes = (u64::from(run.len()) << self.granule.shift()) + EXTENT_HEADER_BYTES as u64;
        self.file.expect(run.at..(run.at + bytes).min(self.end));
    }

    /// Reads the header of the extent at `at`.
    pub fn header(&self, at: u64) -> Result<Extent, ViewError> {
        let mut header = [0; EXTENT_HEADER_BYTES];
        self.file.read_at(&mut header, at)?;
        self.parse(at, Some(&header))
    }

    fn parse(&self, at: u64, header: Option<&[u8; EXTENT_HEADER_BYTES]>) -> Result<Extent, ViewError> {
        let format = |source| ViewError::Format { path: self.file.path().to_owned(), offset: at, source };
        let part = "an extent's header";
        let need = EXTENT_HEADER_BYTES as u64;
        let header = header.ok_or_else(|| format(FormatError::Short { part, need, have: 0 }))?;
        let extent = Extent::parse(header, self.granule, self.disk_bytes).map_err(format)?;
        if at + need + u64::from(extent.payload) > self.end {
            return Err(self.rotten(at, &extent, "its payload runs past the end of the body".to_owned()));
        }
        Ok(extent)
    }

    /// Reads the extent at `at`; its payload, as it is stored, is behind the header in `bytes`. Most extents are
    /// no longer than `guess` bytes and are read at once.
    pub fn read(&self, at: u64, guess: u64, bytes: &mut Vec<u8>) -> Result<Extent, ViewError> {
        let there = self.end.saturating_sub(at).min(guess + EXTENT_HEADER_BYTES as u64);
        let there = usize::try_from(there).unwrap_or(0).clamp(EXTENT_HEADER_BYTES, MAX_EXTENT_BYTES);
        bytes.resize(there, 0);
        self.file.read_at(bytes, at)?;
        let extent = self.parse(at, bytes.first_chunk())?;
        let whole = EXTENT_HEADER_BYTES + usize::try_from(extent.payload).unwrap_or(0);
        bytes.resize(whole, 0);
        if whole > there {
            self.file.read_at(&mut bytes[there..], at + there as u64)?;
        }
        if crc32c::crc32c(payload_of(bytes)) != extent.payload_crc {
            return Err(self.rotten(at, &extent, "an extent's payload has a wrong checksum".to_owned()));
        }
        Ok(extent)
    }

    /// Unpacks a payload with content (not a zero extent: those may be long) into `content`.
    pub fn unpack(
        &self,
        at: u64,
        extent: &Extent,
        payload: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<(), ViewError> {
        content.resize(usize::try_from(extent.bytes).unwrap_or(0).min(MAX_PAYLOAD_BYTES), 0);
        self.unpack_into(at, extent, payload, content)
    }

    /// The same, into memory of just its length.
    pub fn unpack_into(
        &self,
        at: u64,
        extent: &Extent,
        payload: &[u8],
        content: &mut [u8],
    ) -> Result<(), ViewError> {
        extent.encoding.decode_into(payload, content).map_err(|e| self.rotten(at, extent, e.to_string()))
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
