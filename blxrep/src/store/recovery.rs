//! Putting a data directory in order when it is opened: what a crash left is removed, kept or set aside.
//!
//! | found | is |
//! |---|---|
//! | temporary files of an open base | kept |
//! | final names of an open base (its publication was cut off) | given their temporary names back |
//! | other temporary files | removed |
//! | files of published points | kept |
//! | files that a consolidation has replaced | removed, or kept while a view that may use them is open |
//! | files of a merge that was cut off | removed; it is begun again |
//! | the new sidecar of a fold that was cut off | given its temporary name back; the fold is carried out again |
//! | merged indexes of a generation that is no more | removed: they are a cache |
//! | anything else | moved to `quarantine/` and reported, never deleted |

use super::catalog::{Garbage, Generation, GenerationState, Work};
use super::layout::{Names, PART};
use super::quarantine::set_aside;
use super::{Store, StoreError};
use crate::model::ids::{DiskId, GenerationId, PointId};
use crate::model::point::{Point, PointKind};
use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

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
    /// Files that may be there and need not.
    spare: HashSet<PathBuf>,
}

impl Store {
    pub(super) fn recover(&self) -> Result<OpenReport, StoreError> {
        let mut report = OpenReport::default();
        let mut points: HashMap<(DiskId, GenerationId), Vec<(PointId, u32)>> = HashMap::new();
        self.db().scan::<Point>((Bound::Unbounded, Bound::Unbounded), false, |point| {
            if point.kind == PointKind::Delta {
                points.entry((point.disk, point.generation)).or_default().push((point.id, point.edition));
            }
            true
        })?;
        let generations: Vec<Generation> = self.db().all()?;
        // Before anything is touched.
        self.refuse_older_catalog(&self.named(&points, &generations)?, &generations)?;
        for generation in generations {
            self.drop_merge(&generation)?;
            if matches!(generation.state, GenerationState::Published { .. }) && generation.work.is_none() {
                self.trim_image(&generation)?;
            }
        }
        self.collect()?;
        let generations: Vec<Generation> = self.db().all()?;
        let garbage: Vec<Garbage> = self.db().all()?;
        let spare: HashSet<PathBuf> = garbage.iter().map(|row| self.garbage_path(row)).collect();
        let disks: HashSet<DiskId> =
            generations.iter().map(|g| g.disk).chain(garbage.iter().map(|row| row.disk)).collect();
        self.sweep(&self.layout().snapshots(), &self.disk_folders(&disks, true), &mut report)?;
        self.sweep(&self.layout().incrementals(), &self.disk_folders(&disks, false), &mut report)?;
        for disk in disks {
            let of_disk: Vec<&Generation> = generations.iter().filter(|g| g.disk == disk).collect();
            let images = Expected { spare: spare.clone(), ..self.images_of(&of_disk) };
            self.sweep(&self.layout().images(disk), &images, &mut report)?;
            let folder = |id| self.layout().deltas(disk, id);
            let folders = of_disk.iter().map(|g| folder(g.id)).collect();
            let leaving = garbage.iter().filter(|row| row.disk == disk).map(|row| folder(row.generation));
            let expected = Expected { keep: folders, spare: leaving.collect(), ..Expected::default() };
            self.sweep(&self.layout().disk_deltas(disk), &expected, &mut report)?;
            for generation in of_disk {
                let known = points.remove(&(disk, generation.id)).unwrap_or_default();
                let expected = Expected { spare: spare.clone(), ..self.deltas_of(generation, &known) };
                self.sweep(&self.layout().deltas(disk, generation.id), &expected, &mut report)?;
            }
        }
        self.sweep_indexes(&generations.iter().map(|g| g.id).collect())?;
        Ok(report)
    }

    /// Files that rows name, also of work that was cut off.
    fn named(
        &self,
        points: &HashMap<(DiskId, GenerationId), Vec<(PointId, u32)>>,
        generations: &[Generation],
    ) -> Result<HashSet<PathBuf>, StoreError> {
        let garbage: Vec<Garbage> = self.db().all()?;
        let mut named: HashSet<PathBuf> = garbage.iter().map(|row| self.garbage_path(row)).collect();
        for generation in generations {
            let (disk, id) = (generation.disk, generation.id);
            if let GenerationState::Published { edition, .. } = generation.state {
                named.insert(self.layout().sidecar(disk, id, edition).published);
            }
            match generation.work {
                None => {}
                Some(Work::Fold { edition, .. }) => {
                    named.insert(self.layout().sidecar(disk, id, edition).published);
                }
                Some(Work::Merge { into, edition }) => {
                    named.insert(self.layout().delta(disk, id, into, edition).published);
                }
            }
        }
        for ((disk, generation), points) in points {
            let delta = |(point, edition): &(PointId, u32)| {
                self.layout().delta(*disk, *generation, *point, *edition).published
            };
            named.extend(points.iter().map(delta));
        }
        Ok(named)
    }

    fn disk_folders(&self, disks: &HashSet<DiskId>, images: bool) -> Expected {
        let folder = |disk: &DiskId| match images {
            true => self.layout().images(*disk),
            false => self.layout().disk_deltas(*disk),
        };
        Expected { keep: disks.iter().map(folder).collect(), ..Expected::default() }
    }

    fn images_of(&self, generations: &[&Generation]) -> Expected {
        let mut expected = Expected::default();
        for generation in generations {
            let sidecar = |edition| self.layout().sidecar(generation.disk, generation.id, edition);
            let image = self.layout().image(generation.disk, generation.id);
            match generation.state {
                GenerationState::Open { .. } => expected.open.extend([image, sidecar(0)]),
                GenerationState::Published { edition, .. } => {
                    expected.keep.extend([image, sidecar(edition)].map(|names| names.published));
                }
            }
            if let Some(Work::Fold { edition, .. }) = generation.work {
                expected.open.push(sidecar(edition));
            }
        }
        expected
    }

    fn deltas_of(&self, generation: &Generation, points: &[(PointId, u32)]) -> Expected {
        let files = points.iter().flat_map(|(point, edition)| {
            [
                self.layout().delta(generation.disk, generation.id, *point, *edition).published,
                self.layout().changes(generation.disk, generation.id, *point, *edition).published,
            ]
        });
        Expected { keep: files.collect(), ..Expected::default() }
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
            } else if expected.open.iter().any(|names| names.part == path) || expected.spare.contains(&path) {
                // Goes on when its agent comes back, or goes when its last view is closed.
            } else if !entry.is_dir && path.extension().is_some_and(|e| e == PART) {
                self.storage().remove(&path)?;
                report.removed.push(path);
                changed = true;
            } else {
                report.quarantined.push(set_aside(self.storage(), self.layout(), &path)?);
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
}
