//! Writing the base of a generation: a raw image that grows from the front while rounds overwrite what is there.

use super::catalog::{Generation, GenerationState};
use super::layout::Names;
use super::publish::{ReadyPoint, Step};
use super::{Claim, Right, Store, StoreError};
use crate::format::header::{CutFacts, FileHeader, FileKind, HEADER_END, KeptHoles};
use crate::format::sidecar::Sidecar;
use crate::format::trailer::{Digest, Trailer};
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{Access, DataFile};
use crate::io::write_behind::WriteBehind;
use crate::model::ids::{ActionId, DiskId, Epoch, GenerationId, PointId};
use crate::model::point::{Coverage, CutSummary, Disk, Point, PointDigests, PointKind};
use crate::model::tracking::Imaged;
use std::ops::Range;
use std::sync::Arc;

/// Contiguous data is gathered up to this before it is written; a multiple of every granule. Past 1 MiB a longer
/// write gains little, and three of these fit the 8 MiB that a disk in transfer may take.
const BUFFER_BYTES: usize = 2 << 20;
/// Words of a short run of zeroes are written, not punched: punching less than this waits for the sidecar's
/// dirty pages, and gives back no blocks to speak of.
const PUNCH_WORDS_FROM: u64 = 64 << 10;
static NO_WORDS: [u8; PUNCH_WORDS_FROM as usize] = [0; PUNCH_WORDS_FROM as usize];

/// What a base is made under; a resumed one must agree.
#[derive(Clone, Copy, Debug)]
pub struct BaseSpec {
    pub action: ActionId,
    pub epoch: Epoch,
    pub bytes: u64,
    pub granule_shift: u32,
}

/// The open base of a disk. Dropped, it stays open: a later [`Store::begin_base`] goes on where it was durable.
#[derive(Debug)]
pub struct BaseWriter {
    row: Generation,
    disk: Disk,
    /// Position that the point will have among those of the disk.
    number: u64,
    claim: Claim,
    sidecar: Sidecar,
    image: WriteBehind,
    sums: DataFile,
    files: [Names; 2],
    /// Contiguous data that belongs at `buffered_at` of the disk.
    buffer: AlignedBuffer,
    buffered_at: u64,
    words: Vec<u8>,
    /// Everything below was received.
    front: u64,
    /// Nothing from here on was ever written: zeroes are there already.
    untouched_from: u64,
}

impl Store {
    /// Goes on with the open base of a disk if it was begun under the same epoch, size and granule; else begins
    /// it again, or a new one if none is open.
    pub fn begin_base(&self, disk: DiskId, spec: BaseSpec) -> Result<BaseWriter, StoreError> {
        let disk = self.disk(disk)?;
        let claim = self.claim(Right::Write, disk.id)?;
        self.forget_half_restored(&disk)?;
        let granule = self.granule_of(disk.id, spec.granule_shift)?;
        let sidecar = Sidecar::new(granule, spec.bytes)
            .map_err(|e| StoreError::Refused(format!("disk {}: {e}", disk.device)))?;
        let open = self.open_base(disk.id)?;
        let row = self.open_generation(&disk, &spec, open.as_ref(), &sidecar)?;
        self.db().write(|tx| tx.put(&row))?;
        self.base_writer(disk, claim, row, sidecar)
    }

    /// Of the open base of a disk, only that counts which its agent knows to have sent and what it still knows all changes
    /// of. The rest is received again.
    pub fn limit_base(&self, disk: DiskId, imaged: Option<Imaged>) -> Result<(), StoreError> {
        let Some(row) = self.open_base(disk)? else { return Ok(()) };
        let durable = goes_on_at(row.durable(), Imaged::sent_of(imaged, row.base), row.bytes);
        if durable < row.durable() {
            let state = GenerationState::Open { durable };
            self.db().write(|tx| tx.put(&Generation { state, ..row }))?;
        }
        Ok(())
    }

    fn open_base(&self, disk: DiskId) -> Result<Option<Generation>, StoreError> {
        let is_open = |g: &Generation| matches!(g.state, GenerationState::Open { .. });
        Ok(self.generations(disk)?.into_iter().find(is_open))
    }

    /// The base that an image of this action has become, if it was published.
    pub fn base_of(&self, disk: DiskId, action: ActionId) -> Result<Option<PointId>, StoreError> {
        let is_its =
            |g: &Generation| g.action == action && matches!(g.state, GenerationState::Published { .. });
        Ok(self.generations(disk)?.into_iter().find(is_its).map(|generation| generation.base))
    }

    fn open_generation(
        &self,
        disk: &Disk,
        spec: &BaseSpec,
        open: Option<&Generation>,
        sidecar: &Sidecar,
    ) -> Result<Generation, StoreError> {
        let durable = match open {
            Some(row) if row.same_as(spec) && self.parts_are_whole(row, sidecar)? => row.durable(),
            _ => 0,
        };
        Ok(Generation {
            id: open.map_or_else(|| GenerationId(self.random_id()), |row| row.id),
            disk: disk.id,
            base: open.map_or_else(|| PointId(self.random_id()), |row| row.base),
            action: spec.action,
            epoch: spec.epoch,
            bytes: spec.bytes,
            granule_shift: spec.granule_shift,
            state: GenerationState::Open { durable },
            revision: 0,
            work: None,
        })
    }

    /// Whether the files of an open base are there with the lengths that they were made with.
    fn parts_are_whole(&self, row: &Generation, sidecar: &Sidecar) -> Result<bool, StoreError> {
        let image = self.storage().length(&self.layout().image(row.disk, row.id).part)?;
        let sums = self.storage().length(&self.layout().sidecar(row.disk, row.id, 0).part)?;
        Ok(image == Some(sidecar.disk_bytes()) && sums == Some(sidecar.file_bytes()))
    }

    fn base_writer(
        &self,
        disk: Disk,
        claim: Claim,
        row: Generation,
        sidecar: Sidecar,
    ) -> Result<BaseWriter, StoreError> {
        self.storage().create_dir(&self.layout().images(disk.id))?;
        let files = [self.layout().image(disk.id, row.id), self.layout().sidecar(disk.id, row.id, 0)];
        let resumed = row.durable() > 0;
        let access = if resumed { Access::Write } else { Access::Replace };
        let image = self.storage().open(&files[0].part, access)?;
        let sums = self.storage().open(&files[1].part, access)?;
        let mut image = WriteBehind::new(Arc::new(image), BUFFER_BYTES)?;
        let buffer = image.buffer()?;
        let writer = BaseWriter {
            front: row.durable(),
            untouched_from: if resumed { row.bytes } else { 0 },
            row,
            number: self.next_number(disk.id)?,
            disk,
            claim,
            sidecar,
            image,
            sums,
            files,
            buffer,
            buffered_at: 0,
            words: Vec::new(),
        };
        if !resumed {
            writer.sums.write_at(&writer.header(None).encode(), 0)?;
            writer.image.file().set_len(writer.sidecar.disk_bytes())?;
            writer.sums.set_len(writer.sidecar.file_bytes())?;
        }
        Ok(writer)
    }
}

/// Where an image goes on that is here up to `durable`, and that its agent knows to have sent up to `sent`. More than that can
/// be here only if the agent's machine was set back: what lies above was then read from a later state of the disk, and once
/// the end was reached anything below may have been sent again from there.
const fn goes_on_at(durable: u64, sent: u64, bytes: u64) -> u64 {
    if durable <= sent {
        durable
    } else if durable < bytes {
        sent
    } else {
        0
    }
}

impl Generation {
    /// Offset below which an open image is on stable storage.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        match self.state {
            GenerationState::Open { durable } => durable,
            GenerationState::Published { .. } => self.bytes,
        }
    }

    fn same_as(&self, spec: &BaseSpec) -> bool {
        (self.epoch, self.bytes, self.granule_shift) == (spec.epoch, spec.bytes, spec.granule_shift)
    }
}

impl BaseWriter {
    /// The point that the base will be.
    #[must_use]
    pub const fn point(&self) -> PointId {
        self.row.base
    }

    #[must_use]
    pub const fn generation(&self) -> GenerationId {
        self.row.id
    }

    /// Everything below this offset survives a crash; where an interrupted image goes on.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.row.durable()
    }

    /// Everything below this offset was received.
    #[must_use]
    pub const fn front(&self) -> u64 {
        self.front
    }

    /// Writes whole granules, in the first pass or over what an earlier round wrote.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let range = self.checked(offset, bytes.len() as u64)?;
        if offset != self.buffered_at + self.buffer.len() as u64 {
            self.flush()?;
            self.buffered_at = offset;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.buffer.append(rest);
            rest = &rest[taken..];
            if self.buffer.space() == 0 {
                self.flush()?;
            }
        }
        self.received(range);
        Ok(())
    }

    /// Makes whole granules zero, also over older data.
    pub fn write_zeroes(&mut self, range: Range<u64>) -> Result<(), StoreError> {
        let range = self.checked(range.start, range.end.saturating_sub(range.start))?;
        self.flush()?;
        if range.start < self.untouched_from {
            self.image.drain()?;
            self.image.file().punch(range.start..range.end.min(self.untouched_from))?;
            let words = self.sidecar.words_at(self.sidecar.granule().touched(range.clone()));
            let length = words.end - words.start;
            if length < PUNCH_WORDS_FROM {
                self.sums.write_at(&NO_WORDS[..usize::try_from(length).unwrap_or(0)], words.start)?;
            } else {
                self.sums.punch(words)?;
            }
        }
        self.received(range);
        Ok(())
    }

    fn received(&mut self, range: Range<u64>) {
        if range.start <= self.front {
            self.front = self.front.max(range.end);
        }
    }

    fn checked(&self, start: u64, length: u64) -> Result<Range<u64>, StoreError> {
        let granule = self.sidecar.granule().bytes();
        let disk = self.sidecar.disk_bytes();
        let end = start.saturating_add(length);
        let whole = start.is_multiple_of(granule) && (end.is_multiple_of(granule) || end == disk);
        if length == 0 || end > disk || !whole {
            return Err(StoreError::Refused(format!(
                "bytes {start}..{end} are no whole granules of {granule} bytes on {} of {disk} bytes",
                self.disk.device
            )));
        }
        Ok(start..end)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let end = self.buffered_at + self.buffer.len() as u64;
        let granules = self.sidecar.granule().touched(self.buffered_at..end);
        self.words.clear();
        self.sidecar.append_words(granules.start, self.buffer.as_slice(), &mut self.words);
        self.untouched_from = self.untouched_from.max(end);
        self.sums.write_at(&self.words, self.sidecar.words_at(granules).start)?;
        let empty = self.image.buffer()?;
        self.image.submit(std::mem::replace(&mut self.buffer, empty), self.buffered_at)?;
        self.buffered_at = end;
        Ok(())
    }

    /// Brings what was received to stable storage. Returns the offset below which everything is there.
    pub fn checkpoint(&mut self) -> Result<u64, StoreError> {
        self.flush()?;
        self.image.drain()?;
        self.image.file().sync()?;
        self.sums.sync()?;
        if self.durable() != self.front {
            self.row.state = GenerationState::Open { durable: self.front };
            self.claim.store.db().write(|tx| tx.put(&self.row))?;
        }
        Ok(self.front)
    }

    /// Ends the base: it stands for the cut in `summary`.
    pub fn seal(mut self, summary: CutSummary) -> Result<ReadyPoint, StoreError> {
        self.flush()?;
        if self.front != self.sidecar.disk_bytes() {
            return Err(StoreError::Refused(format!(
                "the image of {} is not whole: it was received up to byte {} of {}",
                self.disk.device,
                self.front,
                self.sidecar.disk_bytes()
            )));
        }
        check_holes(&summary, self.sidecar.disk_bytes())?;
        self.image.drain()?;
        self.image.file().sync()?;
        let half_restored = self.claim.store.half_restored(&self.disk)?;
        let root = self.complete_sidecar(facts(&summary, half_restored))?;
        let point = Point {
            id: self.row.base,
            disk: self.disk.id,
            generation: self.row.id,
            kind: PointKind::Base,
            parent: None,
            sequence: 0,
            number: self.number,
            epoch: self.row.epoch,
            published: summary.at,
            summary,
            bytes: self.row.bytes,
            stored: self.image.file().allocated()? + self.sums.allocated()?,
            disk_bytes: self.row.bytes,
            digests: PointDigests::Base { sidecar: root },
            edition: 0,
            half_restored,
        };
        Ok(ReadyPoint::new(point, self.files, Step::Base(self.row), self.claim))
    }

    fn complete_sidecar(&self, cut: CutFacts) -> Result<Digest, StoreError> {
        let body = digest_of(&self.sums, HEADER_END..HEADER_END + self.sidecar.body_bytes())?;
        let trailer = sidecar_trailer(&self.sidecar, body);
        let header = self.header(Some(cut)).encode();
        let (bytes, root) = trailer.encode(&header);
        self.sums.write_at(&header, 0)?;
        self.sums.write_at(&bytes, trailer.index_at())?;
        self.sums.sync()?;
        Ok(root)
    }

    fn header(&self, cut: Option<CutFacts>) -> FileHeader {
        FileHeader {
            kind: FileKind::Sidecar,
            store: self.claim.store.id(),
            agent: self.disk.agent.clone(),
            identity: self.disk.identity.clone(),
            disk: self.disk.id,
            generation: self.row.id,
            point: self.row.base,
            parent: None,
            sequence: 0,
            number: self.number,
            epoch: self.row.epoch,
            disk_bytes: self.row.bytes,
            granule: self.sidecar.granule(),
            device: self.disk.device.clone(),
            edition: 0,
            cut,
        }
    }
}

/// The trailer of a sidecar.
pub(super) fn sidecar_trailer(sidecar: &Sidecar, body_digest: Digest) -> Trailer {
    Trailer {
        items: u64::from(sidecar.granules()),
        body_bytes: sidecar.body_bytes(),
        index_entries: 0,
        index_bytes: 0,
        body_digest,
        index_digest: *blake3::hash(&[]).as_bytes(),
    }
}

/// Refuses holes that cannot be.
pub(super) fn check_holes(summary: &CutSummary, disk_bytes: u64) -> Result<(), StoreError> {
    match summary.holes.are_sound(disk_bytes) {
        true => Ok(()),
        false => Err(StoreError::Refused(
            "the point names unreadable sectors that its disk cannot have".to_owned(),
        )),
    }
}

/// What a file's header says of a cut.
pub(super) fn facts(summary: &CutSummary, half_restored: Option<ActionId>) -> CutFacts {
    CutFacts {
        cut: summary.cut,
        at: summary.at,
        consistency: summary.consistency,
        proven: summary.coverage == Coverage::Proven,
        holes: KeptHoles::of(&summary.holes),
        half_restored,
    }
}

/// BLAKE3 of a part of a file.
pub(super) fn digest_of(file: &DataFile, range: Range<u64>) -> Result<Digest, StoreError> {
    let mut hasher = blake3::Hasher::new();
    read_pieces(file, range, |_, piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(*hasher.finalize().as_bytes())
}

/// Calls `f` with successive pieces of a part of a file, and where each is.
pub(super) fn read_pieces(
    file: &DataFile,
    range: Range<u64>,
    mut f: impl FnMut(u64, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        file.read_at(&mut buffer[..length], at)?;
        f(at, &buffer[..length])?;
        at += length as u64;
    }
    Ok(())
}

/// Bytes read at once from a file that is read through: a multiple of the lengths of ranges and index entries.
const PIECE_BYTES: usize = 80 << 10;

#[cfg(test)]
mod tests {
    use super::goes_on_at;

    #[test]
    fn an_image_goes_on_behind_what_its_agent_has_sent() {
        assert_eq!(goes_on_at(64, 80, 100), 64, "some was under way");
        assert_eq!(goes_on_at(64, u64::MAX, 100), 64, "killed in a round, and the dispatcher, too");
        assert_eq!(goes_on_at(64, 0, 100), 0, "begun anew");
        assert_eq!(goes_on_at(64, 48, 100), 48, "set back while it was streamed");
        assert_eq!(goes_on_at(100, 48, 100), 0, "set back, and rounds went over what is below");
        assert_eq!(goes_on_at(100, u64::MAX, 100), 100, "killed in a round");
    }
}
