//! The protected host: disks, what the kernel's maps know of them, and the pinned records.

use blxrep::engine::cut::Witnesses;
use blxrep::model::bitmap::Bitmap;
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{DiskIdentity, Epoch, PointId};
use blxrep_ebpf::bitmap_words;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub const DISKS: usize = 2;
/// Of each disk; few, so that writes meet.
pub const GRANULES: u32 = 24;

/// What a disk holds: who wrote each granule last.
pub type Content = Vec<u64>;

/// A disk, as the kernel has it. A clone is what a snapshot of a virtual machine keeps.
#[derive(Debug)]
pub struct Disk {
    pub identity: DiskIdentity,
    pub content: Content,
    /// Writes that were issued and have not completed: what they write.
    pub in_flight: BTreeMap<u32, u64>,
    issued: Vec<AtomicU64>,
    completed: Vec<AtomicU64>,
    pending: Vec<AtomicU64>,
    pub record: Record,
}

/// What is pinned beside the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: Epoch,
    pub acked: Option<PointId>,
    pub open: Option<PointId>,
    pub matched: Option<PointId>,
    pub gap: bool,
}

impl Record {
    pub const fn fresh(epoch: Epoch) -> Self {
        Self { epoch, acked: None, open: None, matched: None, gap: true }
    }
}

impl Clone for Disk {
    fn clone(&self) -> Self {
        let copy = |words: &[AtomicU64]| {
            words.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect()
        };
        Self {
            identity: self.identity.clone(),
            content: self.content.clone(),
            in_flight: self.in_flight.clone(),
            issued: copy(&self.issued),
            completed: copy(&self.completed),
            pending: copy(&self.pending),
            record: self.record.clone(),
        }
    }
}

fn words() -> Vec<AtomicU64> {
    (0..bitmap_words(u64::from(GRANULES))).map(|_| AtomicU64::new(0)).collect()
}

fn one(granule: u32) -> GranuleSet {
    std::iter::once(granule).collect()
}

impl Disk {
    pub fn new(index: usize, epoch: Epoch) -> Self {
        Self {
            identity: DiskIdentity::Named(format!("disk {index}")),
            content: vec![0; GRANULES as usize],
            in_flight: BTreeMap::new(),
            issued: words(),
            completed: words(),
            pending: words(),
            record: Record::fresh(epoch),
        }
    }

    /// A write begins. A granule takes one at a time.
    pub fn issue(&mut self, granule: u32, value: u64) {
        if !self.in_flight.contains_key(&granule) {
            self.issued().mark(&one(granule));
            self.in_flight.insert(granule, value);
        }
    }

    /// The oldest write in flight is done.
    pub fn complete(&mut self) {
        if let Some((granule, value)) = self.in_flight.pop_first() {
            self.content[granule as usize] = value;
            self.completed().mark(&one(granule));
        }
    }

    /// A reboot: writes in flight are gone, and so is all that was pinned.
    pub fn reboot(&mut self, epoch: Epoch) {
        *self = Self {
            identity: self.identity.clone(),
            content: std::mem::take(&mut self.content),
            record: Record::fresh(epoch),
            in_flight: BTreeMap::new(),
            issued: words(),
            completed: words(),
            pending: words(),
        };
        self.lose_coverage();
    }

    /// Every granule may differ from what the dispatcher has.
    pub fn lose_coverage(&mut self) {
        self.pending().mark(&GranuleSet::full(GRANULES));
        (self.record.gap, self.record.matched) = (true, None);
    }

    /// Whether it has to be compared with the newest point before anything else.
    pub fn is_lost(&self) -> bool {
        self.record.gap && self.record.matched.is_none()
    }

    /// Everything that may differ from what the dispatcher has.
    pub fn dirty(&self) -> GranuleSet {
        let mut dirty = self.issued().peek();
        dirty.union_with(&self.completed().peek());
        dirty.union_with(&self.pending().peek());
        dirty.union_with(&self.in_flight());
        dirty
    }

    /// What it held at this instant: a write in flight may be there or not.
    pub fn state(&self) -> State {
        State { content: self.content.clone(), in_flight: self.in_flight.clone() }
    }
}

impl Witnesses for Disk {
    fn issued(&self) -> Bitmap<'_> {
        Bitmap::new(&self.issued, GRANULES).unwrap()
    }
    fn completed(&self) -> Bitmap<'_> {
        Bitmap::new(&self.completed, GRANULES).unwrap()
    }
    fn pending(&self) -> Bitmap<'_> {
        Bitmap::new(&self.pending, GRANULES).unwrap()
    }
    fn in_flight(&self) -> GranuleSet {
        self.in_flight.keys().copied().collect()
    }
}

/// A disk at an instant.
#[derive(Clone, Debug)]
pub struct State {
    content: Content,
    in_flight: BTreeMap<u32, u64>,
}

impl State {
    /// A granule of which `content` has something else than a crash at that instant leaves.
    pub fn first_difference(&self, content: &Content) -> Option<u32> {
        (0..GRANULES).find(|granule| {
            let (was, is) = (self.content[*granule as usize], content[*granule as usize]);
            was != is && self.in_flight.get(granule) != Some(&is)
        })
    }
}
