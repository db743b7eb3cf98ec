//! Reading every byte that points depend on, and naming what is wrong and which points it touches.

use super::catalog::{AgentRow, Garbage, Generation, Moment, Owner, Work, key};
use super::check::{Damage, Meter};
use super::damage::Damaged;
use super::restore::Progress;
use super::sample::Sample;
use super::{MAX_MOVES, Store, StoreError};
use crate::format::overlay::Run;
use crate::io::db::{DbError, Record};
use crate::model::action::Action;
use crate::model::granules::GranuleSet;
use crate::model::ids::{DiskId, GenerationId, PointId};
use crate::model::point::{Disk, Point, PointDigests, PointKind};
use crate::model::verification::Scope;
use crate::view::index::load;
use crate::view::{StoredFile, ViewError};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

/// Findings that a report names; more only say again that a file or disk is lost.
const MAX_FINDINGS: usize = 1000;

/// Whether a point is to be verified.
type IsWanted = Box<dyn Fn(&Point) -> bool>;

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

impl Finding {
    /// Where and what it is, and what of the disk is lost.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { offset, sectors, what, .. } = self;
        match sectors.is_empty() {
            true => format!("byte {offset}: {what}"),
            false => format!("byte {offset}: {what}; sectors {}..{} of the disk", sectors.start, sectors.end),
        }
    }
}

/// What a verification saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Points whose own files were read.
    pub checked_points: u64,
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that there are; more than were read if only a sample was.
    pub of_bytes: u64,
    /// Points of which every byte was read.
    #[serde(skip)]
    pub cleared: BTreeSet<PointId>,
    /// At most 1000; `more` counts the rest.
    pub findings: Vec<Finding>,
    pub more: u64,
    /// Points that only findings beyond those are of.
    #[serde(skip)]
    unnamed: BTreeSet<PointId>,
}

impl Store {
    /// Verifies the catalog and all files, or those that one point depends on.
    pub fn verify(&self, point: Option<PointId>, progress: Progress<'_>) -> Result<VerifyReport, StoreError> {
        self.verify_part(&point.map_or(Scope::Store, Scope::Point), None, progress)
    }

    /// Verifies the catalog, and the files of `scope` or a sample of what they hold. Headers, trailers, indexes,
    /// checksums and change sets are always read as a whole.
    pub fn verify_part(
        &self,
        scope: &Scope,
        sample: Option<Sample>,
        progress: Progress<'_>,
    ) -> Result<VerifyReport, StoreError> {
        let mut report = VerifyReport::default();
        self.verify_catalog(&mut report);
        let generations = self.points_by_generation(&mut report);
        let wanted = self.wanted(scope)?;
        let points = generations.values().flatten().filter(|point| wanted(point));
        let total = points.map(|point| self.bytes_to_check(point)).sum();
        let mut meter = Meter::new(progress, total, sample);
        for ((disk, id), family) in &generations {
            self.verify_generation((*disk, *id), family, &wanted, &mut meter, &mut report)?;
        }
        report.bytes = meter.read();
        report.of_bytes = meter.done();
        let unnamed = std::mem::take(&mut report.unnamed);
        report.cleared.retain(|point| !unnamed.contains(point));
        Ok(report)
    }

    /// Verifies the points of a generation that are wanted.
    fn verify_generation(
        &self,
        (disk, id): (DiskId, GenerationId),
        family: &[Point],
        wanted: &IsWanted,
        meter: &mut Meter<'_>,
        report: &mut VerifyReport,
    ) -> Result<(), StoreError> {
        for _ in 0..MAX_MOVES {
            // What consolidation does meanwhile, it does with other files.
            let Some((generation, _hold)) = self.hold(disk, id)? else { return Ok(()) };
            let family = self.still_there(family);
            if self.has_moved(&generation)? {
                continue;
            }
            let wanted = || family.iter().filter(|point| wanted(point));
            let into = match generation.work {
                Some(Work::Fold { into, .. }) => wanted().find(|point| point.id == into),
                _ => None,
            };
            if let Some(into) = into {
                let checked = self.check_folding(&generation, into, meter)?;
                // The fold that was under way may have come to its end meanwhile: what was seen then means nothing.
                if checked.iter().any(|(_, damages)| !damages.is_empty()) && self.has_moved(&generation)? {
                    continue;
                }
                for (path, damages) in checked {
                    report.files += 1;
                    self.note(report, &path, &family, into, damages);
                }
            }
            for point in wanted() {
                report.checked_points += 1;
                for (path, damages) in self.check_files(point, meter)? {
                    report.files += 1;
                    self.note(report, &path, &family, point, damages);
                }
                if meter.is_thorough() {
                    report.cleared.insert(point.id);
                }
            }
            return Ok(());
        }
        Err(StoreError::Moving(format!("generation {id} changed {MAX_MOVES} times")))
    }

    /// Whether files of a generation were replaced since its row was read.
    fn has_moved(&self, seen: &Generation) -> Result<bool, StoreError> {
        let now = self.db().get::<Generation>(&seen.key())?;
        Ok(now.is_none_or(|now| now.revision != seen.revision))
    }

    /// Whether the files of a point are in scope.
    fn wanted(&self, scope: &Scope) -> Result<IsWanted, StoreError> {
        Ok(match scope {
            Scope::Store => Box::new(|_| true),
            Scope::Agent(agent) => {
                let disks = self.disks()?.into_iter().filter(|disk| disk.agent == *agent);
                let disks: BTreeSet<DiskId> = disks.map(|disk| disk.id).collect();
                Box::new(move |point| disks.contains(&point.disk))
            }
            Scope::Point(id) => {
                let wanted = self.point(*id)?;
                Box::new(move |point| {
                    (wanted.disk, wanted.generation) == (point.disk, point.generation)
                        && point.sequence <= wanted.sequence
                })
            }
        })
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
            self.scan_all::<Damaged>(),
            self.db().check().and_then(|found| match found {
                None => Ok(()),
                Some(reason) => Err(DbError::Damaged { path: self.layout().catalog(), reason }),
            }),
        ];
        for error in checks.into_iter().filter_map(Result::err) {
            self.blame_catalog(report, Vec::new(), &error.to_string());
        }
        self.cross_check(report);
    }

    /// Rows that are whole must also fit each other: one that was replayed from an older page does not. What seems not to
    /// is looked at again, for points come and go meanwhile.
    fn cross_check(&self, report: &mut VerifyReport) {
        let (Ok(points), Ok(moments)) = (self.db().all::<Point>(), self.db().all::<Moment>()) else {
            return; // Said before.
        };
        for point in &points {
            let has_generation = |point: &Point| {
                !matches!(self.generation(point.disk, point.generation), Err(StoreError::NotFound(_)))
            };
            let is_there = || self.db().get::<Point>(&key(point.id.0)).is_ok_and(|now| now.is_some());
            if !has_generation(point) && is_there() {
                let what =
                    format!("point {} is of generation {}, which is not there", point.id, point.generation);
                self.blame_catalog(report, vec![point.id], &what);
            }
        }
        let known: BTreeMap<PointId, &Point> = points.iter().map(|point| (point.id, point)).collect();
        let mut counted = BTreeSet::new();
        for moment in &moments {
            let fits = |point: &Point| (point.disk, point.number) == (moment.disk, moment.number);
            if known.get(&moment.point).is_some_and(|point| fits(point)) {
                counted.insert(moment.point);
            } else if self.moment_at(moment.disk, moment.number) == Some(moment.point)
                && !self.db().get::<Point>(&key(moment.point.0)).ok().flatten().is_some_and(|now| fits(&now))
            {
                let Moment { disk, number, point } = moment;
                let what = format!("place {number} of disk {disk} names point {point}, which is not there");
                self.blame_catalog(report, vec![*point], &what);
            }
        }
        for point in points.iter().filter(|point| !counted.contains(&point.id)) {
            let is_there = self.db().get::<Point>(&key(point.id.0)).is_ok_and(|now| now.is_some());
            if is_there && self.moment_at(point.disk, point.number) != Some(point.id) {
                let what = format!("point {} has no place among those of its disk", point.id);
                self.blame_catalog(report, vec![point.id], &what);
            }
        }
    }

    fn moment_at(&self, disk: DiskId, number: u64) -> Option<PointId> {
        let found = self.db().get::<Moment>(&[key(disk.0), key(number)].concat()).ok().flatten();
        found.map(|moment| moment.point)
    }

    fn blame_catalog(&self, report: &mut VerifyReport, points: Vec<PointId>, what: &str) {
        let what = format!("{what}; {}", super::REMEDY);
        report.add(Finding { file: self.layout().catalog(), offset: 0, sectors: 0..0, points, what });
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
            self.unnamed.extend(finding.points);
        }
    }
}
