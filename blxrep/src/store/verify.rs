//! Reading every byte that points depend on, and naming what is wrong and which points it touches.

use super::catalog::{AgentRow, Garbage, Generation, Moment, Owner, Work, key};
use super::check::{Damage, Meter};
use super::restore::Progress;
use super::{Store, StoreError};
use crate::format::overlay::Run;
use crate::io::db::{DbError, Record};
use crate::model::action::Action;
use crate::model::granules::GranuleSet;
use crate::model::ids::{DiskId, GenerationId, PointId};
use crate::model::point::{Disk, Point, PointDigests, PointKind};
use crate::view::index::load;
use crate::view::{StoredFile, ViewError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

/// Findings that a report names; more only say again that a file or disk is lost.
const MAX_FINDINGS: usize = 1000;

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: PathBuf,
    /// Byte of the file.
    pub offset: u64,
    /// Sectors of the disk whose content is lost; empty if it is none, or not known which.
    pub sectors: Range<u64>,
    /// Points that cannot be read right any more.
    pub points: Vec<PointId>,
    pub what: String,
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Points whose own files were read.
    pub checked_points: u64,
    pub files: u64,
    pub bytes: u64,
    /// At most 1000; `more` counts the rest.
    pub findings: Vec<Finding>,
    pub more: u64,
}

impl Store {
    /// Verifies the catalog and all files, or those that one point depends on.
    pub fn verify(&self, point: Option<PointId>, progress: Progress<'_>) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        self.verify_catalog(&mut report);
        let generations = self.points_by_generation(&mut report);
        let wanted = match point {
            None => None,
            Some(id) => Some(self.point(id)?),
        };
        let is_wanted = |point: &&Point| {
            wanted.as_ref().is_none_or(|wanted| {
                (wanted.disk, wanted.generation) == (point.disk, point.generation)
                    && point.sequence <= wanted.sequence
            })
        };
        let points = generations.values().flatten();
        let total = points.filter(is_wanted).map(|point| self.bytes_to_check(point)).sum();
        let mut meter = Meter::new(progress, total);
        for ((disk, id), family) in &generations {
            // What consolidation does meanwhile, it does with other files.
            let Some((generation, _hold)) = self.hold(*disk, *id)? else { continue };
            let family = &self.still_there(family);
            if let Some(Work::Fold { into, .. }) = generation.work
                && let Some(into) = family.iter().find(|point| point.id == into).filter(is_wanted)
            {
                for (path, damages) in self.check_folding(&generation, into, &mut meter)? {
                    report.files += 1;
                    self.note(&mut report, &path, family, into, damages);
                }
            }
            for point in family.iter().filter(is_wanted) {
                report.checked_points += 1;
                for (path, damages) in self.check_files(point, &mut meter)? {
                    report.files += 1;
                    self.note(&mut report, &path, family, point, damages);
                }
            }
        }
        report.bytes = meter.done();
        Ok(report)
    }

    /// Every record of every table is read and checked; then redb's own structure is.
    fn verify_catalog(&self, report: &mut VerifyReport) {
        report.files += 1;
        let checks = [
            self.scan_all::<Owner>(),
            self.scan_all::<AgentRow>(),
            self.scan_all::<Disk>(),
            self.scan_all::<Generation>(),
            self.scan_all::<Point>(),
            self.scan_all::<Moment>(),
            self.scan_all::<Action>(),
            self.scan_all::<Garbage>(),
            self.db().check().and_then(|found| match found {
                None => Ok(()),
                Some(reason) => Err(DbError::Damaged { path: self.layout().catalog(), reason }),
            }),
        ];
        for error in checks.into_iter().filter_map(Result::err) {
            report.add(Finding {
                file: self.layout().catalog(),
                offset: 0,
                sectors: 0..0,
                points: Vec::new(),
                what: format!("{error}; {}", super::REMEDY),
            });
        }
    }

    fn scan_all<R: Record>(&self) -> Result<(), DbError> {
        self.db().scan::<R>((Bound::Unbounded, Bound::Unbounded), false, |_| true)
    }

    /// The points of each generation by sequence. Those whose rows are damaged were reported before.
    fn points_by_generation(
        &self,
        report: &mut VerifyReport,
    ) -> BTreeMap<(DiskId, GenerationId), Vec<Point>> {
        let mut families: BTreeMap<(DiskId, GenerationId), Vec<Point>> = BTreeMap::new();
        let scan = self.db().scan::<Point>((Bound::Unbounded, Bound::Unbounded), false, |point| {
            families.entry((point.disk, point.generation)).or_default().push(point);
            true
        });
        if scan.is_err() {
            report.more += 1;
        }
        for family in families.values_mut() {
            family.sort_by_key(|point| point.sequence);
        }
        families
    }

    /// The rows of points as they are by now, without those that were given up.
    fn still_there(&self, points: &[Point]) -> Vec<Point> {
        let row = |point: &Point| self.db().get::<Point>(&key(point.id.0));
        // What cannot be read was reported before.
        points.iter().filter_map(|point| row(point).unwrap_or_else(|_| Some(point.clone()))).collect()
    }

    fn bytes_to_check(&self, point: &Point) -> u64 {
        match point.kind {
            PointKind::Base => point.disk_bytes,
            PointKind::Delta => {
                let [names, _] = self.delta_names(point);
                self.storage().length(&names.published).ok().flatten().unwrap_or(0)
            }
        }
    }

    fn note(
        &self,
        report: &mut VerifyReport,
        path: &Path,
        family: &[Point],
        point: &Point,
        damages: Vec<Damage>,
    ) {
        if damages.is_empty() {
            return;
        }
        let affected = self.affected(family, point, &damages);
        for (damage, points) in damages.into_iter().zip(affected) {
            report.add(Finding {
                file: path.to_owned(),
                offset: damage.offset,
                sectors: damage.sectors,
                points,
                what: damage.what,
            });
        }
    }

    /// For each damage the points that show it: from the damaged one on, until all of it was written anew.
    fn affected(&self, family: &[Point], from: &Point, damages: &[Damage]) -> Vec<Vec<PointId>> {
        let mut left: Vec<GranuleSet> = damages.iter().map(|damage| damage.granules.clone()).collect();
        let mut affected: Vec<Vec<PointId>> =
            damages.iter().map(|damage| if damage.only_here { vec![from.id] } else { Vec::new() }).collect();
        for point in family.iter().filter(|point| point.sequence >= from.sequence) {
            if point.sequence > from.sequence {
                // What cannot be read hides nothing.
                let hides = self.granules_of(point).unwrap_or_default();
                left.iter_mut().for_each(|left| left.subtract(&hides));
            }
            for (left, affected) in left.iter().zip(&mut affected) {
                if !left.is_empty() {
                    affected.push(point.id);
                }
            }
        }
        affected
    }

    /// What a delta holds, by its index.
    pub(super) fn granules_of(&self, point: &Point) -> Result<GranuleSet, ViewError> {
        let PointDigests::Delta { delta, .. } = point.digests else {
            return Ok(GranuleSet::new());
        };
        let [names, _] = self.delta_names(point);
        let kind = crate::format::header::FileKind::Delta;
        let stored = StoredFile::open(self.storage(), &names.published, kind, &delta)?;
        let mut runs = Vec::new();
        load(&stored, 0, &mut runs)?;
        Ok(set_of(&runs))
    }
}

pub(super) fn set_of(runs: &[Run]) -> GranuleSet {
    let mut set = GranuleSet::new();
    runs.iter().for_each(|run| set.insert_range(run.start..run.end));
    set
}

impl VerifyReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
