//! What is explored: a few disks of a few granules, a few writes, and how much may go wrong.

/// Granules of all disks together; sets of them are the bits of a byte.
pub const MAX_GRANULES: usize = 4;
/// A granule is written and read in two parts, so that it can be torn.
pub const PARTS: usize = 2;
pub const MAX_PARTS: usize = MAX_GRANULES * PARTS;
pub const MAX_WRITES: usize = 4;
pub const MAX_DISKS: usize = 2;
/// Places of the table: a write has one for its request, and a discard in parts one more for each part.
pub const PLACES: usize = 6;

/// A set of granules or of writes.
pub type Mask = u8;

/// A write: parts `start..start + parts` of the group, within one disk.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub start: usize,
    pub parts: usize,
    /// The write that its issuer has waited for.
    pub after: Option<usize>,
    /// Address of its request, and with it the place in the table; a later write may get the same one.
    pub key: usize,
    /// Whether it is a discard whose granules are ranges of their own: the table has them one by one, in the places
    /// that follow.
    pub scattered: bool,
}

/// A world to explore.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub name: &'static str,
    /// Granules of each disk.
    pub disks: &'static [usize],
    pub writes: &'static [Write],
    /// Events that do not reach the programs.
    pub losses: u8,
    /// Times that the agent is killed, or its connection is lost.
    pub breaks: u8,
    /// Points that the agent forms, one after the other.
    pub points: u8,
    /// Times that the disks are compared with the newest point, after a gap or without one.
    pub rescans: u8,
    /// Rounds after which a point is given up.
    pub rounds: u32,
    /// Whether stale entries of the table are retired from user space.
    pub retires: bool,
    /// Whether nothing happens between the marks of an issue and its entry in the table.
    pub prompt: bool,
    /// Whether a point goes on after its connection broke.
    pub drafts: bool,
}

impl World {
    pub fn granules(&self) -> usize {
        self.disks.iter().sum()
    }

    /// The first granule of a disk.
    pub fn first(&self, disk: usize) -> usize {
        self.disks[..disk].iter().sum()
    }

    pub fn disk_of(&self, granule: usize) -> usize {
        (0..self.disks.len()).rev().find(|disk| self.first(*disk) <= granule).unwrap()
    }

    /// The granules of a disk.
    pub fn mask_of(&self, disk: usize) -> Mask {
        ((1 << self.disks[disk]) - 1) << self.first(disk)
    }
}

impl Write {
    pub const fn to(start: usize, parts: usize, key: usize) -> Self {
        Self { start, parts, after: None, key, scattered: false }
    }

    pub const fn scattered(self) -> Self {
        Self { scattered: true, ..self }
    }

    pub const fn then(self, after: usize) -> Self {
        Self { after: Some(after), ..self }
    }

    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.parts
    }

    /// The granules it touches, in the order in which the programs mark them.
    pub fn granules(&self) -> std::ops::Range<usize> {
        self.start / PARTS..(self.start + self.parts).div_ceil(PARTS)
    }

    pub fn mask(&self) -> Mask {
        self.granules().fold(0, |mask, granule| mask | 1 << granule)
    }

    /// The places of the table that it uses.
    pub fn places(&self) -> std::ops::RangeInclusive<usize> {
        self.key..=self.key + if self.scattered { self.granules().len() } else { 0 }
    }

    pub fn sectors(&self) -> u64 {
        self.parts as u64 * 4
    }
}
