//! The order checker: is this image a state that the disk had?
//!
//! Writers (see `stamper`) fill whole granules with *stamps*: who wrote, where, and a sequence number. Each write is
//! logged with the times taken just before it was issued and just after it completed. Writes of one granule never
//! overlap in time, so each granule has an order of its own.
//!
//! **The rule.** A crash at time T leaves every write that completed before T, no write issued after T, and of the
//! writes in flight at T any part. An image is a state the disk had if such a T exists. A later T can only ask for
//! more writes to be there, so the earliest T that allows everything visible is the one to try: the latest issue
//! time among all visible writes, over all disks of the group. Then:
//!
//! > every write that completed before T is visible, or overwritten by a later write of its granule that is.
//!
//! It is applied to every stamp-sized piece of every granule by itself, so a torn granule needs no rule of its own.
//! Where pieces show an older write *a* and a newer one *b*, the write that follows *a* must not have completed
//! before T. If that is *b*, then *b* was issued at or before T (by the choice of T) and had not completed: it was in
//! flight, and the tear is legal. If another write lies between, it completed before *b* was issued, so before T: a
//! violation. The oldest write seen in a granule is the strictest, so it is the only one to test.
//!
//! The logged times enclose the true ones (logged issue <= true issue, true completion <= logged completion), so
//! "completed before T" in the log implies it in truth: nothing right is ever rejected. Equal times prove nothing and
//! are let pass.
//!
//! An old state is a state, too, and an empty disk always was one. A [`Window`] closes that hole: a point must hold
//! what had completed before it was asked for, and nothing issued after it was there.

use std::fmt;
use std::io::{self, Read};

/// What one stamp-checked granule holds.
pub const GRANULE: usize = 4096;
/// A block device keeps these whole; a torn one is counted apart.
pub const SECTOR: usize = 512;
/// Length of a stamp; it is repeated through the granule, so that a tear shows wherever it is.
pub const STAMP: usize = 32;
/// Violations that are described; the rest is counted.
const SHOWN: usize = 12;

const MAGIC: u64 = u64::from_le_bytes(*b"blxstamp");

/// One logged write. Times are nanoseconds since the writers started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Position in the order of all writes, from 1. Rises within each granule.
    pub sequence: u64,
    pub writer: u32,
    pub disk: u32,
    /// First granule and number of granules.
    pub granule: u64,
    pub granules: u32,
    pub issued: u64,
    /// `u64::MAX` for a write that never returned.
    pub completed: u64,
}

/// Fills `buffer` (whole granules, starting at `granule`) with the stamps of one write.
pub fn fill(buffer: &mut [u8], disk: u32, granule: u64, writer: u32, sequence: u64) {
    for (index, block) in (granule..).zip(buffer.chunks_exact_mut(GRANULE)) {
        for stamp in block.chunks_exact_mut(STAMP) {
            stamp[..8].copy_from_slice(&MAGIC.to_le_bytes());
            stamp[8..12].copy_from_slice(&disk.to_le_bytes());
            stamp[12..16].copy_from_slice(&writer.to_le_bytes());
            stamp[16..24].copy_from_slice(&index.to_le_bytes());
            stamp[24..].copy_from_slice(&sequence.to_le_bytes());
        }
    }
}

/// The times between which a point was made: it holds what completed before `from` and nothing issued after `until`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: u64,
    pub until: u64,
}

impl Window {
    /// No demand.
    pub const ANY: Self = Self { from: 0, until: u64::MAX };
}

/// Why a log cannot be judged by: the writers are at fault, not the image.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("writes {0} and {1} of disk {2}, granule {3} overlap in time: the writers must lock granules")]
    Overlap(u64, u64, u32, u64),
    #[error("write {0} lies outside of disk {1}: the log does not belong to these disks")]
    Outside(u64, u32),
}

/// The part of a write that lies in one granule.
#[derive(Clone, Copy, Debug)]
struct Piece {
    granule: u64,
    sequence: u64,
    issued: u64,
    completed: u64,
}

/// Everything that was written, per disk in the order of (granule, sequence).
#[derive(Debug)]
pub struct History {
    disks: Vec<Vec<Piece>>,
}

impl History {
    /// Sorts a log of `disks` disks and makes sure that the writers kept their promise.
    pub fn new(log: &[Write], disks: usize) -> Result<Self, HistoryError> {
        let mut sorted: Vec<Vec<Piece>> = vec![Vec::new(); disks];
        for write in log {
            let pieces = sorted
                .get_mut(write.disk as usize)
                .ok_or(HistoryError::Outside(write.sequence, write.disk))?;
            pieces.extend((write.granule..).take(write.granules as usize).map(|granule| Piece {
                granule,
                sequence: write.sequence,
                issued: write.issued,
                completed: write.completed,
            }));
        }
        for (disk, pieces) in (0..).zip(&mut sorted) {
            pieces.sort_unstable_by_key(|p| (p.granule, p.sequence));
            if let Some([a, b]) = pieces
                .array_windows()
                .find(|[a, b]| a.granule == b.granule && (a.sequence == b.sequence || a.completed > b.issued))
            {
                return Err(HistoryError::Overlap(a.sequence, b.sequence, disk, a.granule));
            }
        }
        Ok(Self { disks: sorted })
    }

    /// Judges the images of a group of disks, given as (disk number, content from its first byte to its end).
    pub fn check<R: Read>(&self, images: &mut [(u32, R)], window: Window) -> io::Result<Verdict> {
        let mut verdict = Verdict { at: window.from, ..Verdict::default() };
        let mut behind = Vec::new();
        let mut block = [0; GRANULE];
        for (disk, image) in images {
            let pieces = self.disks.get(*disk as usize).map_or(&[][..], Vec::as_slice);
            let mut granules = 0;
            while read_granule(image, &mut block)? {
                let found = look(&block, *disk, granules);
                judge_seen(&mut verdict, &mut behind, pieces, *disk, granules, &found, window);
                granules += 1;
            }
            if pieces.last().is_some_and(|last| last.granule >= granules) {
                verdict.reject(Violation::Short { disk: *disk, granules });
            }
        }
        for late in behind {
            if late.missing.completed < verdict.at {
                verdict.reject(Violation::Missing(late));
            }
        }
        Ok(verdict)
    }
}

/// Notes what one granule shows: the latest issue time, and the first write that it does not show.
fn judge_seen(
    verdict: &mut Verdict,
    behind: &mut Vec<Missing>,
    pieces: &[Piece],
    disk: u32,
    granule: u64,
    found: &Look,
    window: Window,
) {
    if found.foreign {
        verdict.reject(Violation::Foreign { disk, granule });
    }
    verdict.torn_granules += u64::from(found.sequences.len() > 1);
    verdict.torn_sectors += found.torn_sectors;
    let start = pieces.partition_point(|p| p.granule < granule);
    let own = &pieces[start..start + pieces[start..].partition_point(|p| p.granule == granule)];
    for &sequence in found.sequences.iter().filter(|s| **s != 0) {
        match own.binary_search_by_key(&sequence, |p| p.sequence) {
            Ok(at) if own[at].issued > window.until => {
                verdict.reject(Violation::Future { disk, granule, sequence });
            }
            Ok(at) => verdict.at = verdict.at.max(own[at].issued),
            Err(_) => verdict.reject(Violation::Unlogged { disk, granule, sequence }),
        }
    }
    verdict.stamped += u64::from(found.sequences.iter().any(|s| *s != 0));
    let Some(&oldest) = found.sequences.first() else {
        return;
    };
    if let Some(next) = own.get(own.partition_point(|p| p.sequence <= oldest)) {
        behind.push(Missing { disk, granule, shown: oldest, missing: Missed::of(next) });
    }
}

/// What the stamps of one granule say.
struct Look {
    /// Sequences seen, sorted; 0 stands for a piece never written.
    sequences: Vec<u64>,
    /// A piece is neither empty nor a stamp of this granule of this disk.
    foreign: bool,
    torn_sectors: u64,
}

fn look(block: &[u8; GRANULE], disk: u32, granule: u64) -> Look {
    let mut found = Look { sequences: Vec::new(), foreign: false, torn_sectors: 0 };
    let mut previous = None;
    for sector in block.chunks_exact(SECTOR) {
        let first = &sector[..STAMP];
        found.torn_sectors += u64::from(sector.chunks_exact(STAMP).any(|stamp| stamp != first));
        for stamp in sector.chunks_exact(STAMP) {
            if previous == Some(stamp) {
                continue;
            }
            previous = Some(stamp);
            match sequence_of(stamp, disk, granule) {
                Some(sequence) => found.sequences.push(sequence),
                None => found.foreign = true,
            }
        }
    }
    found.sequences.sort_unstable();
    found.sequences.dedup();
    found
}

/// The sequence in a stamp of this place; 0 for zeroes, `None` for anything else.
fn sequence_of(stamp: &[u8], disk: u32, granule: u64) -> Option<u64> {
    let word = |at: usize| stamp.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    if stamp.iter().all(|b| *b == 0) {
        return Some(0);
    }
    let place = word(0)? == MAGIC && word(8)? as u32 == disk && word(16)? == granule;
    word(24).filter(|sequence| place && *sequence != 0)
}

/// Reads the next granule, padded with zeroes at the end of the image; `false` when there is none.
fn read_granule(image: &mut impl Read, block: &mut [u8; GRANULE]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < GRANULE {
        match image.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    block[filled..].fill(0);
    Ok(filled > 0)
}

/// The write that a granule should show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    pub sequence: u64,
    pub issued: u64,
    pub completed: u64,
}

impl Missed {
    fn of(piece: &Piece) -> Self {
        Self { sequence: piece.sequence, issued: piece.issued, completed: piece.completed }
    }
}

/// A granule whose oldest piece shows `shown`, though `missing` came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    pub disk: u32,
    pub granule: u64,
    pub shown: u64,
    pub missing: Missed,
}

/// Why an image is not a state that the disk had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A write that completed before T is not there (nor a later one over it).
    Missing(Missing),
    /// A write was issued only after the window.
    Future { disk: u32, granule: u64, sequence: u64 },
    /// A stamp of this place that nobody wrote.
    Unlogged { disk: u32, granule: u64, sequence: u64 },
    /// Neither empty nor a stamp of this place.
    Foreign { disk: u32, granule: u64 },
    /// The image ends after so many granules, before the last one written.
    Short { disk: u32, granules: u64 },
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// T: the earliest time at which a crash could have left this.
    pub at: u64,
    /// Granules that show a write.
    pub stamped: u64,
    /// Granules that show more than one state; legal for writes in flight at T.
    pub torn_granules: u64,
    /// The same within a sector. A disk keeps sectors whole; memory behind a loop device does not.
    pub torn_sectors: u64,
    pub violations: u64,
    /// The first of them.
    pub examples: Vec<Violation>,
}

impl Verdict {
    pub fn is_legal(&self) -> bool {
        self.violations == 0
    }

    fn reject(&mut self, violation: Violation) {
        self.violations += 1;
        if self.examples.len() < SHOWN {
            self.examples.push(violation);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T = {:.6} s, {} granules stamped, ", self.at as f64 / 1e9, self.stamped)?;
        write!(f, "{} torn ({} within a sector), ", self.torn_granules, self.torn_sectors)?;
        if self.is_legal() {
            return f.write_str("a state the disk had");
        }
        write!(f, "{} VIOLATIONS:", self.violations)?;
        self.examples.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| ns as f64 / 1e9;
        match self {
            Self::Missing(Missing { disk, granule, shown, missing }) => write!(
                f,
                "disk {disk} granule {granule}: shows write {shown}, but write {} ({:.6} to {:.6} s) completed before T",
                missing.sequence,
                seconds(missing.issued),
                seconds(missing.completed)
            ),
            Self::Future { disk, granule, sequence } => {
                write!(
                    f,
                    "disk {disk} granule {granule}: write {sequence} was issued after the point was there"
                )
            }
            Self::Unlogged { disk, granule, sequence } => {
                write!(f, "disk {disk} granule {granule}: nobody wrote {sequence} there")
            }
            Self::Foreign { disk, granule } => {
                write!(f, "disk {disk} granule {granule}: neither empty nor a stamp of this place")
            }
            Self::Short { disk, granules } => {
                write!(
                    f,
                    "disk {disk}: the image ends after {granules} granules, before the last one written"
                )
            }
        }
    }
}
