//! Every file of a data directory, by what its header says. Names are not trusted: they only tell where a file lies.

use super::super::layout::{Layout, PART};
use super::{LeftOut, MOVING};
use crate::format::FormatError;
use crate::format::header::{FileHeader, FileKind};
use crate::format::overlay::Run;
use crate::format::trailer::Digest;
use crate::io::storage::{Access, Storage, StorageError};
use crate::store::StoreError;
use crate::view::index::load;
use crate::view::{StoredFile, ViewError};
use std::path::{Path, PathBuf};

/// Folders within folders that are looked into: `incremental/<disk>/<generation>`, or a folder of these in quarantine.
const MAX_DEPTH: u32 = 3;

/// A file with a proven header and trailer, and for a delta a proven index.
#[derive(Clone, Debug)]
pub struct Found {
    pub path: PathBuf,
    /// Set aside earlier: counts only where nothing else fits.
    pub quarantined: bool,
    pub header: FileHeader,
    pub root: Digest,
    /// Bytes that it takes in the store.
    pub stored: u64,
    /// Bytes of the disk that a delta holds.
    pub held: u64,
}

/// A file without a header, as images are.
#[derive(Clone, Debug)]
pub struct Raw {
    pub path: PathBuf,
    pub quarantined: bool,
    pub bytes: u64,
    pub stored: u64,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Scan {
    pub files: Vec<Found>,
    pub raws: Vec<Raw>,
    /// Files in place that are no complete file of a store.
    pub unfit: Vec<LeftOut>,
}

pub fn scan(storage: &Storage, layout: &Layout) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    for folder in [layout.snapshots(), layout.incrementals()] {
        scan.walk(storage, &folder, false, 0)?;
    }
    scan.walk(storage, &layout.quarantine(), true, 0)?;
    Ok(scan)
}

impl Scan {
    fn walk(
        &mut self,
        storage: &Storage,
        folder: &Path,
        quarantined: bool,
        depth: u32,
    ) -> Result<(), StoreError> {
        for entry in storage.list(folder)? {
            let path = folder.join(&entry.name);
            if !entry.is_dir {
                self.take(storage, path, quarantined)?;
            } else if depth < MAX_DEPTH {
                self.walk(storage, &path, quarantined, depth + 1)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, storage: &Storage, path: PathBuf, quarantined: bool) -> Result<(), StoreError> {
        let file = storage.open(&path, Access::Read)?;
        let (bytes, stored) = (file.length()?, file.allocated()?);
        let mut magic = [0; 8];
        if bytes >= magic.len() as u64 {
            file.read_at(&mut magic, 0)?;
        }
        let has = |ending: &str| path.extension().is_some_and(|e| e == ending);
        let Some(kind) = FileKind::from_magic(magic) else {
            // A sidecar whose first bytes are gone is still known by its name, for the report.
            if has("sum") || has("bak") || has("cst") {
                self.leave(
                    &path,
                    quarantined,
                    "it does not begin as a file of a store does: it is damaged or cut short",
                );
            } else {
                self.raws.push(Raw { path, quarantined, bytes, stored });
            }
            return Ok(());
        };
        if is_part(&path) {
            self.leave(&path, quarantined, half_written(kind));
            return Ok(());
        }
        match look(storage, &path) {
            Ok((found, root, held)) => {
                self.files.push(Found { path, quarantined, header: found.header, root, stored, held });
            }
            Err(ViewError::Storage(e)) if !is_short(&e) => return Err(e.into()),
            Err(e) => self.leave(&path, quarantined, &e.to_string()),
        }
        Ok(())
    }

    /// What lies in quarantine has been reported when it was put there.
    fn leave(&mut self, path: &Path, quarantined: bool, reason: &str) {
        if !quarantined {
            self.unfit.push(LeftOut::new(path, reason));
        }
    }
}

impl Scan {
    /// The new checksums of a fold into the image of a base that did not come to its end: they lie beside the old ones
    /// from before the image is changed until it is done.
    pub fn cut_off_fold(&self, base: &FileHeader, layout: &Layout) -> Option<&Path> {
        let folder = layout.images(base.disk);
        let start = format!("{}-", base.generation);
        let raws = self.raws.iter().filter(|raw| !raw.quarantined).map(|raw| raw.path.as_path());
        let mut paths = raws.chain(self.unfit.iter().map(|left| left.file.as_path()));
        paths.find(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            path.parent() == Some(&folder)
                && name.starts_with(&start)
                && name.contains(".sum.")
                && is_part(path)
        })
    }
}

impl Raw {
    /// Whether this may be the image with the published name `home`: it lies there, is on its way there, or was set
    /// aside from there.
    pub fn may_be(&self, home: &Path, layout_root: &Path) -> bool {
        if !self.quarantined {
            return self.path == home || self.path == home.with_added_extension(MOVING);
        }
        let Ok(there) = self.path.strip_prefix(layout_root.join("quarantine")) else { return false };
        let Ok(home) = home.strip_prefix(layout_root) else { return false };
        let flat = |path: &Path| path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("-");
        let (there, home) = (flat(there), flat(home));
        there == home
            || there
                .strip_prefix(&home)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| rest.parse::<u32>().is_ok())
    }
}

/// Whether a file was not whole when it was last written, also if a rebuild died while it was giving it another name.
fn is_part(path: &Path) -> bool {
    let has = |path: &Path, ending| path.extension().is_some_and(|e| e == ending);
    has(path, PART) || has(path, MOVING) && path.file_stem().is_some_and(|stem| has(Path::new(stem), PART))
}

fn half_written(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Sidecar => {
            "its image was never published and is taken anew, or its fold was not done and is begun again"
        }
        FileKind::Delta | FileKind::Changes => "its point was never published: the agent sends it again",
    }
}

/// Proves header and trailer, and the index of a delta; returns how much of the disk it holds.
fn look(storage: &Storage, path: &Path) -> Result<(StoredFile, Digest, u64), ViewError> {
    let (stored, root) = StoredFile::look(storage, path)?;
    let mut held = 0;
    if stored.header.kind == FileKind::Delta {
        for run in runs(&stored)? {
            let bytes = stored.header.granule.byte_range(run.start..run.end, stored.header.disk_bytes);
            held += bytes.end - bytes.start;
        }
    }
    if stored.header.cut.is_none() {
        let source = FormatError::Field { part: "the file header", field: "the cut", value: 0 };
        return Err(ViewError::Format { path: path.to_owned(), offset: 0, source });
    }
    Ok((stored, root, held))
}

/// The proven index of a delta.
pub fn runs(stored: &StoredFile) -> Result<Vec<Run>, ViewError> {
    let mut runs = Vec::new();
    load(stored, 0, &mut runs)?;
    Ok(runs)
}

fn is_short(error: &StorageError) -> bool {
    error.source.kind() == std::io::ErrorKind::UnexpectedEof
}
