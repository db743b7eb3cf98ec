//! Putting a data directory in order when it is opened: what a crash left is removed, kept or set aside.
//!
//! | found | is |
//! |---|---|
//! | temporary files of an open base | kept |
//! | final names of an open base (its publication was cut off) | given their temporary names back |
//! | other temporary files | removed |
//! | files of published points | kept |
//! | anything else | moved to `quarantine/` and reported, never deleted |

use super::catalog::{Generation, GenerationState};
use super::layout::{Names, PART};
use super::{Store, StoreError};
use crate::model::ids::{DiskId, GenerationId, PointId};
use crate::model::point::{Point, PointKind};
use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// Names that are tried for one file in quarantine.
const MAX_NAMES: u32 = 10_000;

/// What was done while a data directory was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The store did not exist before.
    pub created: bool,
    /// Temporary files that were removed.
    pub removed: Vec<PathBuf>,
    /// Files without a point: where they are now.
    pub quarantined: Vec<PathBuf>,
    /// Files of published points that are not there.
    pub missing: Vec<PathBuf>,
}

/// What may be in one directory.
#[derive(Debug, Default)]
struct Expected {
    /// Files and directories that belong there.
    keep: HashSet<PathBuf>,
    /// Files of open bases.
    open: Vec<Names>,
}

impl Store {
    pub(super) fn recover(&self) -> Result<OpenReport, StoreError> {
        let mut report = OpenReport::default();
        let mut points: HashMap<(DiskId, GenerationId), Vec<PointId>> = HashMap::new();
        self.db().scan::<Point>((Bound::Unbounded, Bound::Unbounded), false, |point| {
            if point.kind == PointKind::Delta {
                points.entry((point.disk, point.generation)).or_default().push(point.id);
            }
            true
        })?;
        let generations: Vec<Generation> = self.db().all()?;
        let disks: HashSet<DiskId> = generations.iter().map(|g| g.disk).collect();
        self.sweep(&self.layout().snapshots(), &self.disk_folders(&disks, true), &mut report)?;
        self.sweep(&self.layout().incrementals(), &self.disk_folders(&disks, false), &mut report)?;
        for disk in disks {
            let of_disk: Vec<&Generation> = generations.iter().filter(|g| g.disk == disk).collect();
            self.sweep(&self.layout().images(disk), &self.images_of(&of_disk), &mut report)?;
            let folders = of_disk.iter().map(|g| self.layout().deltas(disk, g.id)).collect();
            let expected = Expected { keep: folders, open: Vec::new() };
            self.sweep(&self.layout().disk_deltas(disk), &expected, &mut report)?;
            for generation in of_disk {
                let known = points.remove(&(disk, generation.id)).unwrap_or_default();
                let expected = self.deltas_of(generation, &known);
                self.sweep(&self.layout().deltas(disk, generation.id), &expected, &mut report)?;
            }
        }
        Ok(report)
    }

    fn disk_folders(&self, disks: &HashSet<DiskId>, images: bool) -> Expected {
        let folder = |disk: &DiskId| match images {
            true => self.layout().images(*disk),
            false => self.layout().disk_deltas(*disk),
        };
        Expected { keep: disks.iter().map(folder).collect(), open: Vec::new() }
    }

    fn images_of(&self, generations: &[&Generation]) -> Expected {
        let mut expected = Expected::default();
        for generation in generations {
            let files = [
                self.layout().image(generation.disk, generation.id),
                self.layout().sidecar(generation.disk, generation.id),
            ];
            match generation.state {
                GenerationState::Open { .. } => expected.open.extend(files),
                GenerationState::Published => expected.keep.extend(files.map(|names| names.published)),
            }
        }
        expected
    }

    fn deltas_of(&self, generation: &Generation, points: &[PointId]) -> Expected {
        let files = points.iter().flat_map(|point| {
            [
                self.layout().delta(generation.disk, generation.id, *point).published,
                self.layout().changes(generation.disk, generation.id, *point).published,
            ]
        });
        Expected { keep: files.collect(), open: Vec::new() }
    }

    fn sweep(
        &self,
        directory: &Path,
        expected: &Expected,
        report: &mut OpenReport,
    ) -> Result<(), StoreError> {
        let mut seen = 0;
        let mut changed = false;
        for entry in self.storage().list(directory)? {
            let path = directory.join(&entry.name);
            if expected.keep.contains(&path) {
                seen += 1;
            } else if let Some(names) = expected.open.iter().find(|names| names.published == path) {
                self.storage().rename(&path, &names.part)?;
                changed = true;
            } else if expected.open.iter().any(|names| names.part == path) {
                // Goes on when its agent comes back.
            } else if !entry.is_dir && path.extension().is_some_and(|e| e == PART) {
                self.storage().remove(&path)?;
                report.removed.push(path);
                changed = true;
            } else {
                report.quarantined.push(self.set_aside(&path)?);
                changed = true;
            }
        }
        if changed {
            self.storage().sync_dir(directory)?;
        }
        if seen < expected.keep.len() {
            self.note_missing(expected, report)?;
        }
        Ok(())
    }

    /// A folder that was never needed is not missing; a file is.
    fn note_missing(&self, expected: &Expected, report: &mut OpenReport) -> Result<(), StoreError> {
        for path in &expected.keep {
            if path.extension().is_some() && self.storage().length(path)?.is_none() {
                report.missing.push(path.clone());
            }
        }
        report.missing.sort();
        Ok(())
    }

    /// Moves a file or folder to the quarantine, under its path with dashes.
    fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let relative = path.strip_prefix(self.layout().root()).unwrap_or(path);
        let name: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let name = name.join("-");
        let quarantine = self.layout().quarantine();
        for attempt in 0..MAX_NAMES {
            let target = match attempt {
                0 => quarantine.join(&name),
                n => quarantine.join(format!("{name}.{n}")),
            };
            if self.storage().length(&target)?.is_none() {
                self.storage().rename(path, &target)?;
                self.storage().sync_dir(&quarantine)?;
                return Ok(target);
            }
        }
        Err(StoreError::Refused(format!(
            "{} holds {MAX_NAMES} files called {name}: look at them and remove what is not needed",
            quarantine.display()
        )))
    }
}
