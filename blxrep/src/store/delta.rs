//! Writing a delta: the extents of a point's rounds as they arrive, then its index and its change set.

use super::append::AppendFile;
use super::base::{check_holes, facts};
use super::catalog::key;
use super::layout::Names;
use super::publish::{Parts, ReadyPoint, Step};
use super::{Claim, Right, Store, StoreError};
use crate::format::changes;
use crate::format::delta::{ENTRY_BYTES, Extent, MAX_EXTENTS, put_entry};
use crate::format::header::{CutFacts, FileHeader, FileKind, HEADER_END};
use crate::format::overlay::{Run, flatten};
use crate::format::trailer::{Digest, Trailer};
use crate::io::storage::Storage;
use crate::model::comparison::common_granules;
use crate::model::encoding::{Encoding, is_zero};
use crate::model::ids::{DiskId, Epoch, GenerationId, PointId};
use crate::model::point::{CutSummary, Disk, Point, PointDigests, PointKind};
use crate::model::units::GranuleSize;
use crate::view::extent::{ExtentFile, payload_of};
use std::ops::Range;
use std::path::Path;

/// Bytes that newer ones replaced may stay in a file when they are at most this part of it.
const SUPERSEDED_PART: u64 = 10;
/// Index entries and ranges are put into a file so many at a time.
const PIECE_ENTRIES: usize = 4096;
/// What is cut out of an extent is packed at the speed of the disk.
const ZSTD_LEVEL: i32 = 1;

/// What a delta is made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaSpec {
    pub point: PointId,
    /// The newest point of the disk.
    pub parent: PointId,
    pub epoch: Epoch,
}

/// The open delta of a disk. Dropped unfinished, it is gone.
#[derive(Debug)]
pub struct DeltaWriter {
    spec: DeltaSpec,
    disk: Disk,
    generation: GenerationId,
    sequence: u64,
    number: u64,
    /// Bytes of the disk at the parent: what only one of the two sizes has as a whole must be sent.
    parent_bytes: u64,
    extents: Extents,
    delta: Names,
    changes: Names,
    parts: Parts,
    claim: Claim,
}

impl Store {
    /// Opens a delta on the newest point of a disk.
    pub fn begin_delta(&self, disk: DiskId, spec: DeltaSpec) -> Result<DeltaWriter, StoreError> {
        let disk = self.disk(disk)?;
        let claim = self.claim(Right::Write, disk.id)?;
        let parent = self.point(spec.parent)?;
        let generation = self.generation(disk.id, parent.generation)?;
        let refuse = |why: String| Err(StoreError::Refused(why));
        if self.newest_point(disk.id)?.is_none_or(|newest| newest.id != parent.id) {
            return refuse(format!("point {} is not the newest of disk {}", parent.id, disk.device));
        }
        if self.db().get::<Point>(&key(spec.point.0))?.is_some() {
            return refuse(format!("point {} is published already", spec.point));
        }
        if generation.granule_shift != disk.granule_shift {
            return refuse(format!(
                "{} is now tracked in granules of 2^{} bytes and its image was made with 2^{}: take a new snapshot",
                disk.device, disk.granule_shift, generation.granule_shift
            ));
        }
        self.forget_half_restored(&disk)?;
        let granule = self.granule_of(disk.id, disk.granule_shift)?;
        let delta = self.layout().delta(disk.id, generation.id, spec.point, 0);
        let changes = self.layout().changes(disk.id, generation.id, spec.point, 0);
        self.storage().create_dir(&self.layout().disk_deltas(disk.id))?;
        self.storage().create_dir(&self.layout().deltas(disk.id, generation.id))?;
        let parts = Parts::new(self.storage(), [&delta.part, &changes.part]);
        Ok(DeltaWriter {
            spec,
            generation: generation.id,
            sequence: parent.sequence + 1,
            number: self.next_number(disk.id)?,
            parent_bytes: parent.disk_bytes,
            extents: Extents::create(self.storage(), &delta.part, granule, disk.bytes)?,
            delta,
            changes,
            parts,
            claim,
            disk,
        })
    }
}

impl DeltaWriter {
    #[must_use]
    pub const fn point(&self) -> PointId {
        self.spec.point
    }

    /// Whether this is the open delta of that point, for a disk that is still as it was.
    #[must_use]
    pub fn is_of(&self, spec: &DeltaSpec, disk: &Disk) -> bool {
        let geometry = |disk: &Disk| (disk.id, disk.bytes, disk.granule_shift);
        self.spec == *spec && geometry(&self.disk) == geometry(disk)
    }

    /// Whether most of what was received is still seen: else it is less to begin anew.
    #[must_use]
    pub fn is_worth_keeping(&self) -> bool {
        let runs = &self.extents.runs;
        self.extents.ascending && !runs.is_empty()
            || superseded(runs, &flatten(runs.clone()), self.extents.file.position())
                < self.extents.body_bytes() / 2
    }

    /// Bytes received so far, as they are stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.extents.file.position()
    }

    /// Adds the content of whole granules. What was added for a granule before is replaced.
    pub fn append(
        &mut self,
        range: Range<u64>,
        encoding: Encoding,
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Refused(format!("point {}: {why}", self.spec.point)));
        if self.extents.count >= MAX_EXTENTS {
            return refuse(format!("it has {MAX_EXTENTS} extents, more cannot be kept: take a new snapshot"));
        }
        let extent = Extent {
            start: range.start,
            bytes: range.end.saturating_sub(range.start),
            encoding,
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc,
        };
        if let Err(e) = extent.check(self.extents.granule, self.disk.bytes) {
            return refuse(e.to_string());
        }
        if crc32c::crc32c(payload) != payload_crc {
            return refuse(format!(
                "the payload for bytes {}..{} was damaged on its way",
                range.start, range.end
            ));
        }
        self.extents.add(&extent, payload)
    }

    /// Ends the delta: it holds `granules` granules and stands for the cut in `summary`.
    pub fn finish(mut self, summary: CutSummary, granules: u64) -> Result<ReadyPoint, StoreError> {
        let storage = self.claim.store.storage().clone();
        let (superseded, mut seen) = self.extents.seen();
        check_holes(&summary, self.disk.bytes)?;
        self.check(&seen, granules)?;
        if superseded > self.extents.body_bytes() / SUPERSEDED_PART {
            let path = self.delta.published.with_added_extension("new.part");
            self.parts.add(&path);
            let mut kept = self.extents.rewritten(&storage, &path, &seen)?;
            storage.rename(&path, &self.delta.part)?;
            seen = kept.seen().1;
            self.extents = kept;
        }
        let half_restored = self.claim.store.half_restored(&self.disk)?;
        let header = |kind| self.header(kind, facts(&summary, half_restored));
        let (changes_header, delta_header) = (header(FileKind::Changes), header(FileKind::Delta));
        let bytes = seen.iter().map(|run| self.extents.bytes_of(run)).sum();
        let changes_file = AppendFile::create(&storage, &self.changes.part)?;
        let (changes, changes_stored) = write_changes(changes_file, &changes_header, &seen)?;
        let (delta, delta_stored) = write_index(self.extents, &delta_header, &seen)?;
        let point = Point {
            id: self.spec.point,
            disk: self.disk.id,
            generation: self.generation,
            kind: PointKind::Delta,
            parent: Some(self.spec.parent),
            sequence: self.sequence,
            number: self.number,
            epoch: self.spec.epoch,
            published: summary.at,
            summary,
            bytes,
            stored: delta_stored + changes_stored,
            disk_bytes: self.disk.bytes,
            digests: PointDigests::Delta { delta, changes },
            edition: 0,
            half_restored,
        };
        Ok(ReadyPoint::new(point, [self.delta, self.changes], Step::Delta(self.parts), self.claim))
    }

    /// Whether everything arrived.
    fn check(&self, seen: &[Run], announced: u64) -> Result<(), StoreError> {
        let held: u64 = seen.iter().map(|run| u64::from(run.len())).sum();
        if held != announced {
            return Err(StoreError::Refused(format!(
                "point {} holds {held} granules and {announced} were announced: it must be sent again",
                self.spec.point
            )));
        }
        let granule = self.extents.granule;
        let common = common_granules(granule, self.disk.bytes, self.parent_bytes);
        let new = granule.count(self.disk.bytes).saturating_sub(u64::from(common));
        let held_new: u64 =
            seen.iter().map(|run| u64::from(run.end.saturating_sub(run.start.max(common)))).sum();
        if new != held_new {
            return Err(StoreError::Refused(format!(
                "the size of {} changed to {} bytes: its next point must carry all granules from {common} on, and holds \
                 {held_new} of {new}",
                self.disk.device, self.disk.bytes
            )));
        }
        Ok(())
    }

    fn header(&self, kind: FileKind, cut: CutFacts) -> FileHeader {
        FileHeader {
            kind,
            store: self.claim.store.id(),
            agent: self.disk.agent.clone(),
            identity: self.disk.identity.clone(),
            disk: self.disk.id,
            generation: self.generation,
            point: self.spec.point,
            parent: Some(self.spec.parent),
            sequence: self.sequence,
            number: self.number,
            epoch: self.spec.epoch,
            disk_bytes: self.disk.bytes,
            granule: self.extents.granule,
            device: self.disk.device.clone(),
            edition: 0,
            cut: Some(cut),
        }
    }
}

/// The body of a delta while it grows.
#[derive(Debug)]
pub(super) struct Extents {
    file: AppendFile,
    granule: GranuleSize,
    disk_bytes: u64,
    /// One run per extent, in the order of arrival.
    runs: Vec<Run>,
    pub count: u64,
    /// No extent started below the end of the one before it: there are no overlaps.
    ascending: bool,
}

impl Extents {
    pub fn create(
        storage: &Storage,
        path: &Path,
        granule: GranuleSize,
        disk_bytes: u64,
    ) -> Result<Self, StoreError> {
        let file = AppendFile::create(storage, path)?;
        Ok(Self { file, granule, disk_bytes, runs: Vec::new(), count: 0, ascending: true })
    }

    fn add(&mut self, extent: &Extent, payload: &[u8]) -> Result<(), StoreError> {
        let granules = self.granule.touched(extent.range());
        let run =
            Run { start: granules.start, end: granules.end, skip: 0, layer: 0, at: self.file.position() };
        self.ascending &= self.runs.last().is_none_or(|last| last.end <= run.start);
        self.file.put(&extent.encode())?;
        self.file.put(payload)?;
        self.runs.push(run);
        self.count += 1;
        Ok(())
    }

    fn body_bytes(&self) -> u64 {
        self.file.position() - HEADER_END
    }

    pub fn bytes_of(&self, run: &Run) -> u64 {
        let range = self.granule.byte_range(run.start..run.end, self.disk_bytes);
        range.end - range.start
    }

    /// Takes the runs and returns how many bytes of the body newer ones replaced, and what is seen of the rest.
    pub fn seen(&mut self) -> (u64, Vec<Run>) {
        let runs = std::mem::take(&mut self.runs);
        if self.ascending {
            return (0, runs);
        }
        let seen = flatten(runs.clone());
        (superseded(&runs, &seen, self.file.position()), seen)
    }

    /// The same content, as far as it is seen, in a new file.
    fn rewritten(mut self, storage: &Storage, path: &Path, seen: &[Run]) -> Result<Self, StoreError> {
        let mut kept = Self::create(storage, path, self.granule, self.disk_bytes)?;
        let source = ExtentFile {
            granule: self.granule,
            disk_bytes: self.disk_bytes,
            end: self.file.position(),
            file: self.file.flushed_file()?,
        };
        let mut stored = Vec::new();
        for run in seen {
            kept.add_run(&source, run, &mut stored)?;
        }
        Ok(kept)
    }

    /// Adds what a run of another file shows, checked. `stored` is room for it.
    pub fn add_run(
        &mut self,
        source: &ExtentFile<'_>,
        run: &Run,
        stored: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let extent = source.read(run.at, u64::from(run.len()) << self.granule.shift(), stored)?;
        source.check_run(run, &extent)?;
        let payload = payload_of(stored);
        let wanted = self.granule.byte_range(run.start..run.end, self.disk_bytes);
        if extent.range() == wanted {
            return self.add(&extent, payload);
        }
        let (extent, payload) = cut(source, run.at, &extent, payload, &wanted)?;
        self.add(&extent, &payload)
    }
}

/// A part of an extent as an extent of its own, stored in whichever way is smaller.
fn cut(
    source: &ExtentFile<'_>,
    at: u64,
    extent: &Extent,
    payload: &[u8],
    wanted: &Range<u64>,
) -> Result<(Extent, Vec<u8>), StoreError> {
    let part = |encoding, payload: Vec<u8>| {
        let extent = Extent {
            start: wanted.start,
            bytes: wanted.end - wanted.start,
            encoding,
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: crc32c::crc32c(&payload),
        };
        (extent, payload)
    };
    if extent.encoding == Encoding::Zero {
        return Ok(part(Encoding::Zero, Vec::new()));
    }
    let mut content = Vec::new();
    source.unpack(at, extent, payload, &mut content)?;
    let within = |byte: u64| usize::try_from(byte - extent.start).unwrap_or(usize::MAX);
    let bytes = &content[within(wanted.start)..within(wanted.end)];
    if is_zero(bytes) {
        return Ok(part(Encoding::Zero, Vec::new()));
    }
    match zstd::bulk::compress(bytes, ZSTD_LEVEL) {
        Ok(packed) if packed.len() < bytes.len() => Ok(part(Encoding::Zstd, packed)),
        _ => Ok(part(Encoding::Raw, bytes.to_vec())),
    }
}

/// Bytes of the extents in `runs` (in the order of arrival, the last one ending at `end`) that are not seen.
fn superseded(runs: &[Run], seen: &[Run], end: u64) -> u64 {
    let mut by_place: Vec<(u64, u32)> = seen.iter().map(|run| (run.at, run.len())).collect();
    by_place.sort_unstable();
    let mut pieces = by_place.into_iter().peekable();
    let ends = runs.iter().skip(1).map(|run| run.at).chain([end]);
    let mut lost = 0;
    for (run, end) in runs.iter().zip(ends) {
        let mut visible = 0;
        while let Some((_, granules)) = pieces.next_if(|(at, _)| *at == run.at) {
            visible += u64::from(granules);
        }
        let granules = u64::from(run.len());
        let stored = u128::from(end - run.at) * u128::from(granules - visible) / u128::from(granules.max(1));
        lost += u64::try_from(stored).unwrap_or(u64::MAX);
    }
    lost
}

/// Completes a delta with its index. Returns its root and the bytes it takes.
pub(super) fn write_index(
    extents: Extents,
    header: &FileHeader,
    seen: &[Run],
) -> Result<(Digest, u64), StoreError> {
    let items = extents.count;
    let mut file = extents.file;
    let body_bytes = file.position() - HEADER_END;
    let body_digest = file.digest();
    for piece in seen.chunks(PIECE_ENTRIES) {
        let mut bytes = Vec::with_capacity(piece.len() * ENTRY_BYTES);
        piece.iter().for_each(|run| put_entry(&mut bytes, run));
        file.put(&bytes)?;
    }
    let index_entries = seen.len() as u64;
    let index_bytes = file.position() - HEADER_END - body_bytes;
    let index_digest = file.digest();
    let trailer = Trailer { items, body_bytes, index_entries, index_bytes, body_digest, index_digest };
    file.finish(header, &trailer)
}

/// Writes a change set. Returns its root and the bytes it takes.
pub(super) fn write_changes(
    mut file: AppendFile,
    header: &FileHeader,
    seen: &[Run],
) -> Result<(Digest, u64), StoreError> {
    let mut items = 0;
    let mut bytes = Vec::new();
    for run in seen.chunk_by(|a, b| a.end == b.start) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        let sectors = changes::sectors_of(header.granule, first.start..last.end, header.disk_bytes);
        changes::put_range(&mut bytes, &sectors);
        items += 1;
        if bytes.len() >= PIECE_ENTRIES * changes::RANGE_BYTES {
            file.put(&bytes)?;
            bytes.clear();
        }
    }
    file.put(&bytes)?;
    let body_bytes = file.position() - HEADER_END;
    let body_digest = file.digest();
    let index_digest = file.digest();
    let trailer = Trailer { items, body_bytes, index_entries: 0, index_bytes: 0, body_digest, index_digest };
    file.finish(header, &trailer)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::ids::CutId;
    use crate::model::point::{Consistency, Coverage};
    use proptest::prelude::*;

    pub(crate) fn point() -> Point {
        let summary = CutSummary {
            hooks: Vec::new(),
            cut: CutId(1),
            at: jiff::Timestamp::UNIX_EPOCH,
            consistency: Consistency::Quiet,
            coverage: Coverage::Proven,
            notes: Vec::new(),
            rounds: Vec::new(),
            freeze_ms: None,
            group: Vec::new(),
            holes: Default::default(),
        };
        Point {
            id: PointId(1),
            disk: DiskId(1),
            generation: GenerationId(1),
            kind: PointKind::Delta,
            parent: Some(PointId(2)),
            sequence: 1,
            number: 1,
            epoch: Epoch(1),
            published: summary.at,
            summary,
            bytes: 0,
            stored: 0,
            disk_bytes: 4096,
            digests: PointDigests::Delta { delta: [0; 32], changes: [0; 32] },
            edition: 0,
            half_restored: None,
        }
    }

    proptest! {
        #[test]
        fn superseded_bytes_are_those_of_hidden_granules(
            extents in proptest::collection::vec((0u32..60, 1u32..8), 1..20)
        ) {
            // Extents of 100 bytes per granule, one behind the other.
            let mut at = 1024;
            let runs: Vec<Run> = extents
                .into_iter()
                .map(|(start, len)| {
                    let run = Run { start, end: start + len, skip: 0, layer: 0, at };
                    at += u64::from(len) * 100;
                    run
                })
                .collect();
            let total: u32 = runs.iter().map(Run::len).sum();
            let mut disk = [false; 80];
            runs.iter().for_each(|run| disk[run.start as usize..run.end as usize].fill(true));
            let visible = disk.iter().filter(|granule| **granule).count();
            let lost = superseded(&runs, &flatten(runs.clone()), at);
            prop_assert_eq!(lost, u64::from(total) * 100 - visible as u64 * 100);
        }
    }
}
