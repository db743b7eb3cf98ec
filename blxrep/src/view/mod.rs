//! A recovery point as the bytes of its disk: its base image and the deltas up to it, newest first.
//!
//! Everything that is read is checked against its checksum before it is given out.

pub mod copy;
pub mod deltas;
pub mod extent;
pub mod groups;
pub mod image;
pub mod index;
pub mod merged;
pub mod nbd;
pub mod part;
pub mod reader;
pub mod recent;
pub mod scratch;
pub mod served;
pub mod sources;

use crate::format::FormatError;
use crate::format::header::{FileHeader, FileKind, HEADER_BYTES};
use crate::format::trailer::{Digest, TRAILER_BYTES, TRAILER_LENGTH, Trailer};
use crate::io::storage::{Access, DataFile, Storage, StorageError};
use crate::model::holes::Holes;
use crate::model::ids::GenerationId;
use crate::model::units::GranuleSize;
pub use reader::PointReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a point cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{} is damaged at byte {offset}: {source}; `blxrep verify` names the points that are affected", path.display())]
    Format { path: PathBuf, offset: u64, source: FormatError },
    #[error("{} is damaged at byte {offset}: {what} (bytes {}..{} of the disk); `blxrep verify` names the points that are affected", path.display(), disk.start, disk.end)]
    Rotten { path: PathBuf, offset: u64, disk: Range<u64>, what: String },
    #[error("{} is not the file that the catalog knows under this name: its root differs", path.display())]
    Foreign { path: PathBuf },
    #[error("a stretch of the chain is in more than {max} pieces: take a new snapshot", max = crate::format::merged::MAX_RUNS)]
    TooManyRuns,
    #[error("bytes {}..{} are behind the end of the disk at {disk_bytes}", range.start, range.end)]
    BehindEnd { range: Range<u64>, disk_bytes: u64 },
    #[error("bytes {}..{} are behind the end of the part at {bytes}", range.start, range.end)]
    BehindPart { range: Range<u64>, bytes: u64 },
    #[error("bytes {}..{} of the disk could not be read when the point was made: what they were is not known", .0.start, .0.end)]
    Hole(Range<u64>),
}

/// A base image and its sidecar.
#[derive(Clone, Debug)]
pub struct BaseFiles {
    pub image: PathBuf,
    pub sidecar: PathBuf,
    pub root: Digest,
    /// Size of the disk when the image was made.
    pub bytes: u64,
}

/// The delta of a point.
#[derive(Clone, Debug)]
pub struct DeltaFiles {
    pub path: PathBuf,
    pub root: Digest,
    /// Position of its point in the generation, from 1 on; ascends along a chain and may leave some out.
    pub position: u64,
}

/// Where the lease of a view is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewPlace {
    pub generation: GenerationId,
    /// How often files of the generation were replaced by others when the view was opened.
    pub revision: u32,
    /// The point's position in the generation.
    pub sequence: u64,
}

/// The files that a point is made of.
#[derive(Clone, Debug)]
pub struct Chain {
    pub base: BaseFiles,
    /// Oldest first.
    pub deltas: Vec<DeltaFiles>,
    /// Size of the disk at the point.
    pub bytes: u64,
    pub granule: GranuleSize,
    /// What could not be read of the disk.
    pub holes: Holes,
    pub place: ViewPlace,
    /// Folder of the generation's merged indexes; need not exist.
    pub indexes: PathBuf,
}

/// A file of the store whose header and trailer are proven.
#[derive(Debug)]
pub struct StoredFile {
    pub file: DataFile,
    pub header: FileHeader,
    pub trailer: Trailer,
}

impl StoredFile {
    /// Opens a file and proves that it is the one with this root.
    pub fn open(storage: &Storage, path: &Path, kind: FileKind, root: &Digest) -> Result<Self, ViewError> {
        let (stored, found) = Self::look(storage, path)?;
        if found != *root || stored.header.kind != kind {
            return Err(ViewError::Foreign { path: path.to_owned() });
        }
        Ok(stored)
    }

    /// Opens a file that is complete and says what it is; which one it should be is not known. Also returns its root.
    pub fn look(storage: &Storage, path: &Path) -> Result<(Self, Digest), ViewError> {
        let file = storage.open(path, Access::Read)?;
        let format = |offset, source| ViewError::Format { path: path.to_owned(), offset, source };
        let length = file.length()?;
        let least = HEADER_BYTES as u64 + TRAILER_LENGTH;
        if length < least {
            return Err(format(0, FormatError::Short { part: "the file", need: least, have: length }));
        }
        let (mut header, mut trailer) = ([0; HEADER_BYTES], [0; TRAILER_BYTES]);
        let trailer_at = length - TRAILER_LENGTH;
        file.read_at(&mut header, 0)?;
        file.read_at(&mut trailer, trailer_at)?;
        let (header, trailer, found) =
            Trailer::parse(&header, &trailer, length).map_err(|e| format(trailer_at, e))?;
        Ok((Self { file, header, trailer }, found))
    }

    fn format(&self, offset: u64, source: FormatError) -> ViewError {
        ViewError::Format { path: self.file.path().to_owned(), offset, source }
    }
}

impl ViewError {
    /// The file that is damaged or cannot be read.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Storage(e) => Some(&e.path),
            Self::Format { path, .. } | Self::Rotten { path, .. } | Self::Foreign { path } => Some(path),
            Self::TooManyRuns | Self::BehindEnd { .. } | Self::BehindPart { .. } | Self::Hole(_) => None,
        }
    }
}
