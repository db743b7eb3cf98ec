//! Neighbouring deltas become one: what is seen of them from the newest, in a new file.

use super::append::AppendFile;
use super::base::facts;
use super::catalog::{Generation, Work};
use super::consolidate::{Outcome, check_revision, drop_points, moved_on};
use super::delta::{Extents, write_changes, write_index};
use super::garbage::discard_delta;
use super::layout::Names;
use super::publish::Parts;
use super::restore::Progress;
use super::{Store, StoreError};
use crate::format::header::{FileHeader, FileKind};
use crate::format::overlay::{Run, flatten};
use crate::model::ids::PointId;
use crate::model::point::{Point, PointDigests};
use crate::model::units::GranuleSize;
use crate::view::deltas::Deltas;
use crate::view::index::load;
use crate::view::{DeltaFiles, StoredFile};

/// Entries of all indexes that are merged at a time, 24 bytes each and as much again for what is seen of them.
const MAX_ENTRIES: u64 = 1 << 20;

impl Store {
    /// Merges deltas that follow each other: all but the last of `members` go. If all are in too many pieces, fewer
    /// are merged, the oldest, and the rest stays for a later call.
    pub(super) fn merge(
        &self,
        generation: &Generation,
        members: &[Point],
        progress: Progress<'_>,
    ) -> Result<Outcome, StoreError> {
        let members = self.mergeable(members)?;
        let (Some(into), true) = (members.last(), members.len() > 1) else {
            return Ok(Outcome::TooFragmented);
        };
        let edition = generation.revision + 1;
        let row = moved_on(generation, Some(Work::Merge { into: into.id, edition }));
        self.db().write(|tx| {
            check_revision(tx, generation)?;
            Ok::<_, StoreError>(tx.put(&row)?)
        })?;
        let files = [
            self.layout().delta(into.disk, into.generation, into.id, edition),
            self.layout().changes(into.disk, into.generation, into.id, edition),
        ];
        let parts = Parts::new(self.storage(), [&files[0].part, &files[1].part]);
        let merged = self.write_merged(&row, members, &files, edition, progress)?;
        for names in &files {
            self.storage().rename(&names.part, &names.published)?;
        }
        drop(parts);
        self.storage().sync_dir(&self.layout().deltas(into.disk, into.generation))?;
        self.commit_merge(&row, members, &merged)
    }

    fn commit_merge(
        &self,
        row: &Generation,
        members: &[Point],
        merged: &Point,
    ) -> Result<Outcome, StoreError> {
        let (dropped, last) = members.split_at(members.len() - 1);
        let next = moved_on(row, None);
        self.db().write(|tx| {
            check_revision(tx, row)?;
            drop_points(tx, row.disk, dropped)?;
            for point in dropped.iter().chain(last) {
                discard_delta(tx, point, next.revision)?;
            }
            tx.put(merged)?;
            Ok::<_, StoreError>(tx.put(&next)?)
        })?;
        Ok(Outcome::Done)
    }

    /// The first of `members`, as many as can be merged at a time.
    fn mergeable<'a>(&self, members: &'a [Point]) -> Result<&'a [Point], StoreError> {
        let mut entries = 0;
        for (count, point) in members.iter().enumerate() {
            entries += self.stored_delta(point)?.trailer.index_entries;
            if entries > MAX_ENTRIES {
                return Ok(&members[..count]);
            }
        }
        Ok(members)
    }

    /// Opens the delta of a point and proves that it is the one.
    pub(super) fn stored_delta(&self, point: &Point) -> Result<StoredFile, StoreError> {
        let [names, _] = self.delta_names(point);
        let PointDigests::Delta { delta, .. } = point.digests else { return Err(self.bad_row(point)) };
        Ok(StoredFile::open(self.storage(), &names.published, FileKind::Delta, &delta)?)
    }

    /// Writes the merged files and returns the row that the point gets.
    fn write_merged(
        &self,
        generation: &Generation,
        members: &[Point],
        files: &[Names; 2],
        edition: u32,
        progress: Progress<'_>,
    ) -> Result<Point, StoreError> {
        let (Some(first), Some(into)) = (members.first(), members.last()) else {
            return Err(StoreError::Refused("nothing is to be merged".to_owned()));
        };
        let granule = self.granule_of(into.disk, generation.granule_shift)?;
        let mut body = Extents::create(self.storage(), &files[0].part, granule, into.disk_bytes)?;
        self.copy_runs(members, granule, &mut body, progress)?;
        let seen = body.seen().1;
        let header = |kind| self.header_of(into, kind, first.parent, granule, edition);
        let (delta_header, changes_header) = (header(FileKind::Delta)?, header(FileKind::Changes)?);
        let bytes = seen.iter().map(|run| body.bytes_of(run)).sum();
        let changes_file = AppendFile::create(self.storage(), &files[1].part)?;
        let (changes, changes_stored) = write_changes(changes_file, &changes_header, &seen)?;
        let (delta, delta_stored) = write_index(body, &delta_header, &seen)?;
        Ok(Point {
            parent: first.parent,
            bytes,
            stored: delta_stored + changes_stored,
            digests: PointDigests::Delta { delta, changes },
            edition,
            ..into.clone()
        })
    }

    /// Copies what is seen of the members' deltas, one file after the other.
    fn copy_runs(
        &self,
        members: &[Point],
        granule: GranuleSize,
        body: &mut Extents,
        progress: Progress<'_>,
    ) -> Result<(), StoreError> {
        let mut runs: Vec<Run> = Vec::new();
        let mut files = Vec::new();
        for (layer, point) in (0..).zip(members) {
            load(&self.stored_delta(point)?, layer, &mut runs)?;
            if let PointDigests::Delta { delta, .. } = point.digests {
                let path = self.delta_names(point)[0].published.clone();
                files.push(DeltaFiles { path, root: delta, position: point.sequence });
            }
        }
        let mut seen = flatten(runs);
        // Where the disk became smaller, what was behind its end is not kept.
        let into_bytes = members.last().map_or(0, |into| into.disk_bytes);
        let end = u32::try_from(granule.count(into_bytes)).unwrap_or(u32::MAX);
        seen.iter_mut().for_each(|run| run.end = run.end.min(end));
        seen.retain(|run| !run.is_empty());
        seen.sort_unstable_by_key(|run| (run.layer, run.at, run.start));
        let total = seen.iter().map(|run| body.bytes_of(run)).sum();
        let (mut done, mut stored) = (0, Vec::new());
        let mut deltas = Deltas::new(self.storage(), &files);
        for run in &seen {
            body.add_run(&deltas.extents(run.layer)?, run, &mut stored)?;
            done += body.bytes_of(run);
            progress.step(done, total)?;
        }
        Ok(())
    }

    /// What the header of an edition of a point's file says, with another parent perhaps.
    pub(super) fn header_of(
        &self,
        point: &Point,
        kind: FileKind,
        parent: Option<PointId>,
        granule: GranuleSize,
        edition: u32,
    ) -> Result<FileHeader, StoreError> {
        let disk = self.disk(point.disk)?;
        Ok(FileHeader {
            kind,
            store: self.id(),
            agent: disk.agent,
            identity: disk.identity,
            disk: point.disk,
            generation: point.generation,
            point: point.id,
            parent,
            sequence: point.sequence,
            number: point.number,
            epoch: point.epoch,
            disk_bytes: point.disk_bytes,
            granule,
            device: disk.device,
            edition,
            cut: Some(facts(&point.summary, point.half_restored)),
        })
    }

    /// Removes what a merge that did not come to its end has written.
    pub(super) fn drop_merge(&self, generation: &Generation) -> Result<(), StoreError> {
        let Some(Work::Merge { into, edition }) = generation.work else { return Ok(()) };
        let (disk, id) = (generation.disk, generation.id);
        for names in
            [self.layout().delta(disk, id, into, edition), self.layout().changes(disk, id, into, edition)]
        {
            self.storage().remove(&names.part)?;
            self.storage().remove(&names.published)?;
        }
        self.storage().sync_dir(&self.layout().deltas(disk, id))?;
        let cleared = moved_on(generation, None);
        self.db().write(|tx| {
            check_revision(tx, generation)?;
            Ok(tx.put(&cleared)?)
        })
    }
}
