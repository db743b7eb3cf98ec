//! The oldest delta goes into the base image.
//!
//! ```text
//! begin   the delta is proven as a whole; no view of the base or of a point that went before is open
//! commit  the base's point goes, the generation says that a fold is under way
//!         no such view was opened meanwhile: else it waits
//! write   the delta's content goes into the image in place; a new sidecar is written beside the old one
//! commit  the delta's point is the base, with the new sidecar; the old sidecar and the delta are garbage
//! ```
//!
//! Between the commits the image holds the old or the new content of each granule that the delta covers, and the old one
//! of all others. Every view that can be open is of this point or a later one, and takes those granules from a delta.
//! So whatever happens, it reads the same; and writing begins again from the start, with the same content.

use super::base::{digest_of, sidecar_trailer};
use super::catalog::{Garbage, GarbageFile, Generation, GenerationState, Work};
use super::consolidate::{Outcome, check_revision, drop_points, moved_on};
use super::garbage::discard_delta;
use super::restore::Progress;
use super::{Store, StoreError};
use crate::format::FormatError;
use crate::format::header::{FileKind, HEADER_END};
use crate::format::overlay::Run;
use crate::format::sidecar::{Sidecar, WORD_BYTES};
use crate::format::trailer::Digest;
use crate::io::buffer::AlignedBuffer;
use crate::io::storage::{Access, DataFile};
use crate::model::comparison::common_granules;
use crate::model::encoding::{Encoding, MAX_PAYLOAD_BYTES, is_zero};
use crate::model::point::{Point, PointDigests, PointKind};
use crate::view::extent::{ExtentFile, payload_of};
use crate::view::index::each;
use crate::view::{StoredFile, ViewError};
use std::ops::Range;
use std::path::Path;

/// Words of the sidecar that are copied at once.
const WORDS: u32 = 64 << 10;

impl Store {
    /// Folds `into`, the delta on the base, into the image. `base` goes.
    pub(super) fn begin_fold(
        &self,
        generation: &Generation,
        base: &Point,
        into: &Point,
        progress: Progress<'_>,
    ) -> Result<Outcome, StoreError> {
        if into.parent != Some(generation.base) {
            return Err(self.bad_row(into));
        }
        if self.is_viewed_below(generation, into)? {
            return Ok(Outcome::InUse);
        }
        // Damage is found while the base is still there: nothing begins with it.
        let granule = self.granule_of(generation.disk, generation.granule_shift)?;
        let common = common_granules(granule, generation.bytes, into.disk_bytes);
        prove(&self.stored_delta(into)?, common, progress)?;
        self.prove_base(generation)?;
        let edition = generation.revision + 1;
        let begun = moved_on(generation, Some(Work::Fold { into: into.id, edition }));
        self.db().write(|tx| {
            check_revision(tx, generation)?;
            drop_points(tx, generation.disk, std::slice::from_ref(base))?;
            Ok::<_, StoreError>(tx.put(&begun)?)
        })?;
        self.continue_fold(&begun, progress)
    }

    /// What is carried over from the base is whole: the sidecar's words, and an image to write to.
    fn prove_base(&self, generation: &Generation) -> Result<(), StoreError> {
        let GenerationState::Published { sidecar, edition } = generation.state else { return Ok(()) };
        let (disk, id) = (generation.disk, generation.id);
        let path = self.layout().sidecar(disk, id, edition).published;
        let sums = StoredFile::open(self.storage(), &path, FileKind::Sidecar, &sidecar)?;
        if digest_of(&sums.file, HEADER_END..sums.trailer.index_at())? != sums.trailer.body_digest {
            let source = FormatError::Checksum { part: "the sidecar" };
            return Err(StoreError::Format { path, source });
        }
        let image = self.layout().image(disk, id).published;
        match self.storage().length(&image)? {
            Some(length) if length >= generation.bytes => Ok(()),
            _ => Err(StoreError::Refused(format!(
                "{} is missing or cut off: `blxrep verify` names the points that are affected",
                image.display()
            ))),
        }
    }

    /// Goes on with a fold whose beginning is in the catalog.
    pub(super) fn continue_fold(
        &self,
        begun: &Generation,
        progress: Progress<'_>,
    ) -> Result<Outcome, StoreError> {
        let (Some(Work::Fold { into, edition }), GenerationState::Published { sidecar, edition: old }) =
            (begun.work, begun.state)
        else {
            return Ok(Outcome::Done);
        };
        let into = self.point(into)?;
        if self.is_viewed_below(begun, &into)? {
            return Ok(Outcome::InUse);
        }
        let root = self.write_fold(begun, &into, sidecar, [old, edition], progress)?;
        let (disk, id) = (begun.disk, begun.id);
        let next = Generation {
            base: into.id,
            bytes: into.disk_bytes,
            state: GenerationState::Published { sidecar: root, edition },
            ..moved_on(begun, None)
        };
        let base = Point {
            kind: PointKind::Base,
            parent: None,
            bytes: into.disk_bytes,
            stored: self.stored_base(&next, edition)?,
            digests: PointDigests::Base { sidecar: root },
            edition,
            ..into.clone()
        };
        self.db().write(|tx| {
            check_revision(tx, begun)?;
            discard_delta(tx, &into, next.revision)?;
            let (revision, file) = (next.revision, GarbageFile::Sidecar { edition: old });
            tx.put(&Garbage { disk, generation: id, revision, sequence: 0, file })?;
            tx.put(&base)?;
            Ok::<_, StoreError>(tx.put(&next)?)
        })?;
        self.trim_image(&next)?;
        Ok(Outcome::Done)
    }

    /// Whether a view is open that takes bytes from the image which the fold will change: of a point before `into`,
    /// also of one that was given up since.
    fn is_viewed_below(&self, generation: &Generation, into: &Point) -> Result<bool, StoreError> {
        Ok(self.views(generation.id)?.iter().any(|view| view.sequence < into.sequence))
    }

    /// Writes image and new sidecar, durably; returns the sidecar's root.
    fn write_fold(
        &self,
        begun: &Generation,
        into: &Point,
        root: Digest,
        [old, edition]: [u32; 2],
        progress: Progress<'_>,
    ) -> Result<Digest, StoreError> {
        let (disk, id) = (begun.disk, begun.id);
        let granule = self.granule_of(disk, begun.granule_shift)?;
        let delta = self.stored_delta(into)?;
        let old_path = self.layout().sidecar(disk, id, old).published;
        let old = StoredFile::open(self.storage(), &old_path, FileKind::Sidecar, &root)?;
        let format = |source| StoreError::Format { path: old_path.clone(), source };
        let sidecar = Sidecar::new(granule, into.disk_bytes).map_err(format)?;
        let image = self.storage().open(&self.layout().image(disk, id).published, Access::Write)?;
        if image.length()? < into.disk_bytes {
            image.set_len(into.disk_bytes)?;
        }
        let names = self.layout().sidecar(disk, id, edition);
        let sums = self.storage().open(&names.part, Access::Replace)?;
        sums.set_len(sidecar.file_bytes())?;
        // Its name says that the image is being changed, also to who has lost the catalog.
        self.storage().sync_dir(&self.layout().images(disk))?;
        let mut fold = Fold {
            image,
            sums,
            sidecar,
            old: &old,
            old_granules: u32::try_from(granule.count(begun.bytes)).unwrap_or(u32::MAX),
            common: common_granules(granule, begun.bytes, into.disk_bytes),
            old_hash: blake3::Hasher::new(),
            new_hash: blake3::Hasher::new(),
            at: 0,
            buffer: AlignedBuffer::new(MAX_PAYLOAD_BYTES),
            scratch: Scratch::default(),
        };
        let mut done = 0;
        each(&delta, |runs| {
            for run in runs {
                fold.run(&ExtentFile::of(&delta), run)?;
                done += u64::from(run.len()) << granule.shift();
                progress.step(done.min(into.bytes), into.bytes)?;
            }
            Ok::<_, StoreError>(())
        })?;
        let body = fold.finish()?;
        let header = self.header_of(into, FileKind::Sidecar, None, granule, edition)?.encode();
        let (trailer, root) = sidecar_trailer(&fold.sidecar, body).encode(&header);
        fold.sums.write_at(&header, 0)?;
        fold.sums.write_at(&trailer, HEADER_END + fold.sidecar.body_bytes())?;
        fold.image.sync()?;
        fold.sums.sync()?;
        self.storage().rename(&names.part, &names.published)?;
        self.storage().sync_dir(&self.layout().images(disk))?;
        Ok(root)
    }

    fn stored_base(&self, generation: &Generation, edition: u32) -> Result<u64, StoreError> {
        let image = self.layout().image(generation.disk, generation.id).published;
        let sidecar = self.layout().sidecar(generation.disk, generation.id, edition).published;
        let allocated = |path: &Path| Ok::<_, StoreError>(self.storage().allocated(path)?.unwrap_or(0));
        Ok(allocated(&image)? + allocated(&sidecar)?)
    }

    /// Cuts off what is left of a larger disk behind the end of an image: no view takes anything from there.
    pub(super) fn trim_image(&self, generation: &Generation) -> Result<(), StoreError> {
        let path = self.layout().image(generation.disk, generation.id).published;
        if self.storage().length(&path)?.is_some_and(|bytes| bytes > generation.bytes) {
            let image = self.storage().open(&path, Access::Write)?;
            image.set_len(generation.bytes)?;
            image.sync()?;
        }
        Ok(())
    }
}

/// Reads and unpacks every extent of a delta that is seen. It has to hold all granules from `common` on, which the
/// image does not have as they are.
fn prove(delta: &StoredFile, common: u32, progress: Progress<'_>) -> Result<(), StoreError> {
    let source = ExtentFile::of(delta);
    let mut scratch = Scratch::default();
    let mut held = 0;
    each(delta, |runs| {
        for run in runs {
            scratch.content(&source, run)?;
            held += u64::from(run.end.saturating_sub(run.start.max(common)));
            progress.step(0, 0)?;
        }
        Ok::<_, StoreError>(())
    })?;
    let needed = source.granule.count(source.disk_bytes).saturating_sub(u64::from(common));
    if held == needed { Ok(()) } else { Err(incomplete(delta.file.path())) }
}

fn incomplete(path: &Path) -> StoreError {
    StoreError::Refused(format!(
        "{} is of a disk that had another size before and does not carry all that is new: take a new snapshot",
        path.display()
    ))
}

/// Room for an extent as it is stored and as it is.
#[derive(Debug, Default)]
struct Scratch {
    stored: Vec<u8>,
    content: Vec<u8>,
}

impl Scratch {
    /// The bytes of a run, checked; `None` if they are zero.
    fn content(&mut self, source: &ExtentFile<'_>, run: &Run) -> Result<Option<&[u8]>, ViewError> {
        let wanted = source.granule.byte_range(run.start..run.end, source.disk_bytes);
        let extent = source.read(run.at, wanted.end - wanted.start, &mut self.stored)?;
        source.check_run(run, &extent)?;
        let whole = match extent.encoding {
            Encoding::Zero => return Ok(None),
            Encoding::Raw => payload_of(&self.stored),
            Encoding::Zstd => {
                source.unpack(run.at, &extent, payload_of(&self.stored), &mut self.content)?;
                &self.content
            }
        };
        let within = |byte: u64| usize::try_from(byte - extent.start).unwrap_or(usize::MAX);
        Ok(Some(&whole[within(wanted.start)..within(wanted.end)]).filter(|bytes| !is_zero(bytes)))
    }
}

/// One pass over the delta: the image in place, the new sidecar from front to back.
struct Fold<'a> {
    image: DataFile,
    sums: DataFile,
    sidecar: Sidecar,
    /// Where the words of other granules come from,
    old: &'a StoredFile,
    old_granules: u32,
    /// up to this one: those that the disk had as a whole in both sizes.
    common: u32,
    /// Over all words of the old sidecar: what is carried over was not damaged before.
    old_hash: blake3::Hasher,
    new_hash: blake3::Hasher,
    /// Words of granules before this one are written.
    at: u32,
    buffer: AlignedBuffer,
    scratch: Scratch,
}

impl Fold<'_> {
    fn run(&mut self, source: &ExtentFile<'_>, run: &Run) -> Result<(), StoreError> {
        self.carry(self.at..run.start, true)?;
        self.carry(run.start..run.end, false)?;
        let bytes = source.granule.byte_range(run.start..run.end, source.disk_bytes);
        let Self { scratch, image, sidecar, buffer, sums, new_hash, .. } = self;
        match scratch.content(source, run)? {
            None => {
                image.punch(bytes)?;
                zero_words(new_hash, run.start..run.end);
            }
            Some(content) => {
                buffer.fill(content.len()).copy_from_slice(content);
                image.write_at(buffer.as_slice(), bytes.start)?;
                let mut words = Vec::new();
                sidecar.append_words(run.start, content, &mut words);
                sums.write_at(&words, sidecar.words_at(run.start..run.end).start)?;
                new_hash.update(&words);
            }
        }
        self.at = run.end;
        Ok(())
    }

    /// Reads the old words of some granules, and carries them over if they stay.
    fn carry(&mut self, granules: Range<u32>, stay: bool) -> Result<(), StoreError> {
        if stay && !granules.is_empty() && granules.end > self.common {
            return Err(incomplete(self.image.path()));
        }
        let mut words = Vec::new();
        let mut at = granules.start;
        let end = granules.end.min(self.old_granules);
        while at < end {
            let piece = at..end.min(at + WORDS);
            let place = self.sidecar.words_at(piece.clone());
            words.resize(piece.len() * WORD_BYTES, 0);
            self.old.file.read_at(&mut words, place.start)?;
            self.old_hash.update(&words);
            if stay {
                self.new_hash.update(&words);
                // What is zero is a hole there already.
                if !is_zero(&words) {
                    self.sums.write_at(&words, place.start)?;
                }
            }
            at = piece.end;
        }
        Ok(())
    }

    /// Carries over the rest; returns the digest of the new words.
    fn finish(&mut self) -> Result<Digest, StoreError> {
        let granules = self.sidecar.granules();
        self.carry(self.at..granules, true)?;
        // What was behind the end of a disk that became smaller.
        self.carry(granules..self.old_granules, false)?;
        if *self.old_hash.finalize().as_bytes() != self.old.trailer.body_digest {
            let source = FormatError::Checksum { part: "the sidecar" };
            return Err(StoreError::Format { path: self.old.file.path().to_owned(), source });
        }
        Ok(*self.new_hash.finalize().as_bytes())
    }
}

/// Adds the words of zeroes to a digest; they are a hole in the new sidecar.
fn zero_words(hash: &mut blake3::Hasher, granules: Range<u32>) {
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut left = granules.len() * WORD_BYTES;
    while left > 0 {
        let n = left.min(ZEROES.len());
        hash.update(&ZEROES[..n]);
        left -= n;
    }
}
