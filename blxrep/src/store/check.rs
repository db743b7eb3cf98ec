//! Checking the files of one point, byte for byte, as they are on the disk.

use super::base::{digest_of, read_pieces};
use super::catalog::{Generation, GenerationState};
use super::restore::Progress;
use super::sample::Sample;
use super::verify::set_of;
use super::{Store, StoreError};
use crate::format::FormatError;
use crate::format::changes::{RangeReader, sectors_of};
use crate::format::delta::EXTENT_HEADER_BYTES;
use crate::format::header::{FileKind, HEADER_END};
use crate::format::overlay::Run;
use crate::format::sidecar::WORD_BYTES;
use crate::format::trailer::Digest;
use crate::io::storage::{Access, Storage};
use crate::model::encoding::{Encoding, is_zero};
use crate::model::granules::GranuleSet;
use crate::model::ids::PointId;
use crate::model::point::{Point, PointDigests};
use crate::model::units::GranuleSize;
use crate::view::extent::{ExtentFile, payload_of};
use crate::view::image::{CHUNK_BYTES, Image};
use crate::view::index::load;
use crate::view::{BaseFiles, StoredFile, ViewError};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

const LOST_SUMS: &str = "without these checksums no point of the generation can be restored, although its image may be \
                         whole: put the file back from a copy, or take a new snapshot";
const STUCK_FOLD: &str = "; the oldest point of this generation is being folded into the image, and that cannot be ended \
                          before the file is put back from a copy: until then nothing of the generation is consolidated";
const WRONG_GRANULE: &str = "granules have other checksums than the sidecar says";

/// What is wrong with a file.
#[derive(Debug)]
pub(super) struct Damage {
    pub offset: u64,
    pub sectors: Range<u64>,
    /// What cannot be read of it.
    pub granules: GranuleSet,
    /// The point itself is affected although its content can be read.
    pub only_here: bool,
    pub what: String,
}

impl Damage {
    /// The row itself is wrong: its files cannot even be looked for.
    fn of_row(what: &dyn Display) -> Self {
        let what = format!("{what}; {}", super::REMEDY);
        Self { offset: 0, sectors: 0..0, granules: GranuleSet::new(), only_here: true, what }
    }
}

/// How far a verification is.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    progress: Progress<'a>,
    total: u64,
    done: u64,
    read: u64,
    /// `None` if everything is read.
    sample: Option<Sample>,
}

impl<'a> Meter<'a> {
    pub fn new(progress: Progress<'a>, total: u64, sample: Option<Sample>) -> Self {
        Self { progress, total, done: 0, read: 0, sample }
    }

    /// Bytes that were read.
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// Bytes that were read or passed over.
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Whether every byte is read.
    pub const fn is_thorough(&self) -> bool {
        self.sample.is_none()
    }

    /// Whether a piece of a point's file is to be read.
    fn takes(&self, point: PointId, piece: u64, pieces: u64) -> bool {
        self.sample.is_none_or(|sample| sample.takes(point.0, piece, pieces))
    }

    fn advance(&mut self, bytes: u64, read: u64) -> Result<(), StoreError> {
        self.done += bytes;
        self.read += read;
        self.progress.step(self.done, self.total.max(self.done))
    }
}

type Checked = Vec<(PathBuf, Vec<Damage>)>;

impl Store {
    /// Checks the files of a point. Only a cancelled or impossible check is an error: what is found is returned.
    pub(super) fn check_files(&self, point: &Point, meter: &mut Meter<'_>) -> Result<Checked, StoreError> {
        let shift = match self.generation(point.disk, point.generation) {
            Ok(generation) => generation.granule_shift,
            Err(e) => return Ok(vec![(self.layout().catalog(), vec![Damage::of_row(&e)])]),
        };
        let disk = Geometry { granule: self.granule_of(point.disk, shift)?, bytes: point.disk_bytes };
        match point.digests {
            PointDigests::Base { sidecar } => {
                let sidecar_path = self.layout().sidecar(point.disk, point.generation, point.edition);
                let files = BaseFiles {
                    image: self.layout().image(point.disk, point.generation).published,
                    sidecar: sidecar_path.published,
                    root: sidecar,
                    bytes: point.disk_bytes,
                };
                self.check_base(&files, point.id, disk, None, meter)
            }
            PointDigests::Delta { delta, changes } => {
                let [delta_path, changes_path] = self.delta_names(point).map(|names| names.published);
                let (held, damages) = self.check_delta(&delta_path, &delta, point.id, disk, meter)?;
                let changes = self.check_changes(&changes_path, &changes, disk, held.as_ref());
                Ok(vec![(delta_path, damages), (changes_path, changes)])
            }
        }
    }

    /// Checks the image of a generation into which the delta of `into` is being folded, where it has to be right.
    pub(super) fn check_folding(
        &self,
        generation: &Generation,
        into: &Point,
        meter: &mut Meter<'_>,
    ) -> Result<Checked, StoreError> {
        let GenerationState::Published { sidecar, edition } = generation.state else { return Ok(Vec::new()) };
        let granule = self.granule_of(generation.disk, generation.granule_shift)?;
        let files = BaseFiles {
            image: self.layout().image(generation.disk, generation.id).published,
            sidecar: self.layout().sidecar(generation.disk, generation.id, edition).published,
            root: sidecar,
            bytes: generation.bytes,
        };
        // A delta that cannot be read is reported with its point.
        let moving = self.granules_of(into).unwrap_or_default();
        let disk = Geometry { granule, bytes: generation.bytes };
        let mut checked = self.check_base(&files, into.id, disk, Some(&moving), meter)?;
        for damage in checked.iter_mut().flat_map(|(_, damages)| damages) {
            damage.what.push_str(STUCK_FOLD);
        }
        Ok(checked)
    }

    /// Checks an image but for the granules that are `moving`, which no view takes from it.
    fn check_base(
        &self,
        files: &BaseFiles,
        point: PointId,
        disk: Geometry,
        moving: Option<&GranuleSet>,
        meter: &mut Meter<'_>,
    ) -> Result<Checked, StoreError> {
        self.forget(&files.sidecar);
        let mut image = match Image::open(self.storage(), files, disk.granule) {
            Ok(image) => image,
            Err(e) => {
                let file = e.path().unwrap_or(&files.sidecar).to_owned();
                // The image may be good, but no byte of it can be told from a wrong one any more.
                let what = if file == files.sidecar { format!("{e}; {LOST_SUMS}") } else { e.to_string() };
                return Ok(vec![(file, vec![disk.all(0, &what)])]);
            }
        };
        let mut damages = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let mut words = Vec::new();
        let mut at = 0;
        while at < disk.bytes {
            let range = at..(at + CHUNK_BYTES).min(disk.bytes);
            let taken = meter.takes(point, at / CHUNK_BYTES, disk.bytes.div_ceil(CHUNK_BYTES));
            let checked = image.words(disk.granule.touched(range.clone()), &mut words).and_then(|()| {
                hasher.update(&words);
                if taken { wrong_granules(&mut image, range.clone(), &words) } else { Ok(Vec::new()) }
            });
            match checked {
                Ok(wrong) => wrong
                    .into_iter()
                    .filter(|granule| moving.is_none_or(|moving| !moving.contains(*granule)))
                    .for_each(|granule| disk.add_granule(&mut damages, granule)),
                Err(e) => damages.push(disk.damage(at, disk.granule.touched(range.clone()), &e)),
            }
            let length = range.end - at;
            meter.advance(length, if taken { length } else { 0 })?;
            at = range.end;
        }
        let length = self.storage().length(&files.image)?.unwrap_or(0);
        if length > disk.bytes && moving.is_none() {
            damages.push(disk.here(&format!("it is {length} bytes long and should be {}", disk.bytes)));
        }
        let mut sidecar = Vec::new();
        if *hasher.finalize().as_bytes() != image.body_digest() {
            let mut damage = disk.all(HEADER_END, &"its checksums are not those that were sealed");
            if !damages.is_empty() {
                // The granules that disagree with their checksums are the ones.
                damage.granules = GranuleSet::new();
                damages.iter().for_each(|found| damage.granules.union_with(&found.granules));
            }
            sidecar.push(damage);
        }
        Ok(vec![(files.image.clone(), damages), (files.sidecar.clone(), sidecar)])
    }

    /// Also returns what the delta holds, if that can be told.
    fn check_delta(
        &self,
        path: &Path,
        root: &Digest,
        point: PointId,
        disk: Geometry,
        meter: &mut Meter<'_>,
    ) -> Result<(Option<GranuleSet>, Vec<Damage>), StoreError> {
        self.forget(path);
        let mut runs = Vec::new();
        let opened = StoredFile::open(self.storage(), path, FileKind::Delta, root);
        let stored = match opened.and_then(|stored| load(&stored, 0, &mut runs).map(|()| stored)) {
            Ok(stored) => stored,
            Err(e) => return Ok((None, vec![disk.all(0, &e)])),
        };
        let held = set_of(&runs);
        let extents = stored.trailer.items;
        let (mut damages, read) =
            wrong_extents(&stored, runs, disk, |extent| meter.takes(point, extent, extents));
        let length = stored.trailer.file_bytes().unwrap_or(0);
        if meter.sample.is_some() {
            meter.advance(length, read.min(length))?;
            return Ok((Some(held), damages));
        }
        let body = HEADER_END..stored.trailer.index_at();
        match digest_of(&stored.file, body.clone()) {
            Ok(digest) if digest == stored.trailer.body_digest => {}
            Ok(_) if !damages.is_empty() => {}
            Ok(_) => damages.push(disk.damage(body.start, 0..0, &"bytes that no point shows were changed")),
            Err(e) => damages.push(disk.damage(body.start, 0..0, &e)),
        }
        meter.advance(length, length)?;
        Ok((Some(held), damages))
    }

    /// A change set that is wrong costs no content: it is what a rebuild and a consolidation would go by.
    fn check_changes(
        &self,
        path: &Path,
        root: &Digest,
        disk: Geometry,
        held: Option<&GranuleSet>,
    ) -> Vec<Damage> {
        self.forget(path);
        match read_changes(self.storage(), path, root, disk) {
            Ok(set) if held.is_none_or(|held| *held == set) => Vec::new(),
            Ok(_) => vec![disk.here(&"it names other sectors than the delta holds")],
            Err(e) => vec![disk.here(&e)],
        }
    }

    /// Lets the next read come from the disk and not from memory.
    fn forget(&self, path: &Path) {
        if let Ok(file) = self.storage().open(path, Access::Read) {
            file.forget_cache();
        }
    }
}

/// The granules of a chunk that have another checksum than they should.
fn wrong_granules(image: &mut Image, range: Range<u64>, words: &[u8]) -> Result<Vec<u32>, ViewError> {
    let sidecar = *image.sidecar();
    if is_zero(words) && image.is_hole(range.clone())? {
        return Ok(Vec::new());
    }
    let bytes = image.raw_chunk(range.start)?;
    let first = sidecar.granule().touched(range).start;
    let chunk = usize::try_from(sidecar.granule().bytes()).unwrap_or(usize::MAX);
    let granules = (first..).zip(bytes.chunks(chunk).zip(words.chunks(WORD_BYTES)));
    Ok(granules
        .filter(|(granule, (content, word))| sidecar.first_wrong(*granule, content, word).is_some())
        .map(|(granule, _)| granule)
        .collect())
}

/// Reads and unpacks every extent that is seen and chosen; also returns how many bytes those take.
fn wrong_extents(
    stored: &StoredFile,
    mut runs: Vec<Run>,
    disk: Geometry,
    chosen: impl Fn(u64) -> bool,
) -> (Vec<Damage>, u64) {
    let source = ExtentFile::of(stored);
    let (mut extent_bytes, mut content) = (Vec::new(), Vec::new());
    let (mut damages, mut read) = (Vec::new(), 0);
    runs.sort_unstable_by_key(|run| (run.at, run.start));
    for (number, same) in (0..).zip(runs.chunk_by(|a, b| a.at == b.at)) {
        let Some(first) = same.first().filter(|_| chosen(number)) else { continue };
        let checked = source
            .read(first.at, u64::from(first.len()) << disk.granule.shift(), &mut extent_bytes)
            .and_then(|extent| {
                read += (EXTENT_HEADER_BYTES as u64) + u64::from(extent.payload);
                same.iter().try_for_each(|run| source.check_run(run, &extent))?;
                match extent.encoding {
                    Encoding::Zero | Encoding::Raw => Ok(()),
                    Encoding::Zstd => {
                        source.unpack(first.at, &extent, payload_of(&extent_bytes), &mut content)
                    }
                }
            });
        if let Err(e) = checked {
            let mut damage = disk.damage(first.at, first.start..first.end, &e);
            damage.granules = set_of(same);
            damages.push(damage);
        }
    }
    (damages, read)
}

fn read_changes(
    storage: &Storage,
    path: &Path,
    root: &Digest,
    disk: Geometry,
) -> Result<GranuleSet, StoreError> {
    let stored = StoredFile::open(storage, path, FileKind::Changes, root)?;
    let mut reader = RangeReader::new(disk.granule, disk.bytes);
    let mut set = GranuleSet::new();
    let body = HEADER_END..stored.trailer.index_at();
    read_pieces(&stored.file, body.clone(), |offset, piece| {
        let format = |source| ViewError::Format { path: path.to_owned(), offset, source };
        Ok(reader.feed(piece, &mut set).map_err(format)?)
    })?;
    if digest_of(&stored.file, body)? == stored.trailer.body_digest {
        Ok(set)
    } else {
        let source = FormatError::Checksum { part: "the change set" };
        Err(ViewError::Format { path: path.to_owned(), offset: HEADER_END, source }.into())
    }
}

/// A disk as one point sees it.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    granule: GranuleSize,
    bytes: u64,
}

impl Geometry {
    fn damage(self, offset: u64, granules: Range<u32>, what: &dyn Display) -> Damage {
        let mut set = GranuleSet::new();
        set.insert_range(granules.clone());
        let sectors = sectors_of(self.granule, granules, self.bytes);
        Damage { offset, sectors, granules: set, only_here: false, what: what.to_string() }
    }

    /// Nothing can be read.
    fn all(self, offset: u64, what: &dyn Display) -> Damage {
        self.damage(offset, self.granule.touched(0..self.bytes), what)
    }

    /// The content can be read; the point is affected all the same.
    fn here(self, what: &dyn Display) -> Damage {
        Damage { only_here: true, ..self.damage(0, 0..0, what) }
    }

    /// Adds a granule of an image, to the damage before it if they touch.
    fn add_granule(self, damages: &mut Vec<Damage>, granule: u32) {
        let damage =
            self.damage(u64::from(granule) << self.granule.shift(), granule..granule + 1, &WRONG_GRANULE);
        match damages.last_mut() {
            Some(last) if last.sectors.end == damage.sectors.start && last.what == WRONG_GRANULE => {
                last.sectors.end = damage.sectors.end;
                last.granules.insert(granule);
            }
            _ => damages.push(damage),
        }
    }
}
