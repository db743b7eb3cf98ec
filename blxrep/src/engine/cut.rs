//! The cut: how rounds over a dirty set become a recovery point.
//!
//! One cut covers a group of disks. Each round is
//!
//! 1. [`sweep`]: issued of every disk (the cut is the instant this starts), a second look at issued, the tables of
//!    requests in flight, then completed of every disk. The order is what makes the point a state the disks had;
//!    no step may be swapped, joined or left out.
//! 2. [`OpenPoint::form`]: what has to be read now.
//! 3. the reads, done by the caller.
//! 4. [`OpenPoint::validate`] with another look at issued, after the last read has finished: what may have been
//!    overwritten while it was read is *contaminated*.
//!
//! When nothing is contaminated on any disk of the group and the audit proves the issue witness, the point is
//! `quiet`. Otherwise another round makes a new cut, until `plan::Plan::next` says that it is not worth it.
//!
//! Invariant of [`OpenPoint`]: `valid` is a subset of `read`, `read` of `carried`, and the content that was sent last
//! for a valid granule is its content at the instant of the latest sweep. [`OpenPoint::check`] holds a label against it.

use crate::model::bitmap::Bitmap;
use crate::model::granules::GranuleSet;
use crate::model::point::Consistency;

/// The witnesses of one disk. The agent's tracker implements it over the kernel's maps, tests over vectors.
pub trait Witnesses {
    fn issued(&self) -> Bitmap<'_>;
    fn completed(&self) -> Bitmap<'_>;
    /// Swept, and not yet durable at the dispatcher.
    fn pending(&self) -> Bitmap<'_>;
    /// Granules of the requests that are in flight now.
    fn in_flight(&self) -> GranuleSet;
}

/// What one sweep found on one disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Swept {
    pub issued: GranuleSet,
    /// Issued bits that were set again right after the sweep of issued, dirty or not.
    pub again: GranuleSet,
    pub in_flight: GranuleSet,
    pub completed: GranuleSet,
    /// Swept earlier and not acknowledged.
    pub pending: GranuleSet,
}

/// One step of a sweep. Each is taken on every disk of the group before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Moves issued bits into pending. The cut is the instant at which this begins on the first disk.
    Issued,
    /// Looks at issued again, without clearing.
    Again,
    /// Walks the table of requests in flight.
    InFlight,
    /// Moves completed bits into pending.
    Completed,
}

impl Step {
    /// The order is what makes the point a state the disks had.
    pub const ORDER: [Self; 4] = [Self::Issued, Self::Again, Self::InFlight, Self::Completed];

    /// Takes the step on one disk.
    pub fn take<W: Witnesses + ?Sized>(self, disk: &W, swept: &mut Swept) {
        match self {
            Self::Issued => swept.issued = disk.issued().sweep_into(&disk.pending()),
            Self::Again => swept.again = disk.issued().peek(),
            Self::InFlight => swept.in_flight = disk.in_flight(),
            Self::Completed => {
                swept.completed = disk.completed().sweep_into(&disk.pending());
                swept.pending = disk.pending().peek();
            }
        }
    }
}

/// Step 1 for the whole group. The cut is the instant at which this is called.
pub fn sweep<W: Witnesses + ?Sized>(group: &[&W]) -> Vec<Swept> {
    let mut swept = vec![Swept::default(); group.len()];
    for step in Step::ORDER {
        for (disk, swept) in group.iter().zip(&mut swept) {
            step.take(*disk, swept);
        }
    }
    swept
}

/// Clears what a published point carried from pending. Nothing was swept since the last read of that point (one
/// open point per disk), and what is in flight stays: its completion may be lost.
pub fn acknowledge<W: Witnesses + ?Sized>(disk: &W, carried: &GranuleSet) {
    let in_flight = disk.in_flight();
    disk.pending().clear(&(carried - &in_flight));
}

/// The point that is being formed on one disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenPoint {
    carried: GranuleSet,
    /// Read for this point at least once, validly or not.
    read: GranuleSet,
    valid: GranuleSet,
}

impl OpenPoint {
    /// An empty point.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A point that carries the whole disk of `granules`, because coverage was lost.
    #[must_use]
    pub fn whole(granules: u32) -> Self {
        Self { carried: GranuleSet::full(granules), ..Self::default() }
    }

    /// Makes the point carry the whole disk. What was read validly stays valid only as far as the witnesses are
    /// to be believed, which is what was just lost: nothing is.
    pub fn widen(&mut self, granules: u32) {
        *self = Self::whole(granules);
    }

    /// Every granule the point carries: its change set.
    #[must_use]
    pub fn carried(&self) -> &GranuleSet {
        &self.carried
    }

    /// Granules that still have to be read.
    #[must_use]
    pub fn missing(&self) -> GranuleSet {
        &self.carried - &self.valid
    }

    /// Step 2: takes in a sweep and says what has to be read for the cut that it began.
    pub fn form(&mut self, swept: &Swept) -> GranuleSet {
        for moved in [&swept.issued, &swept.again, &swept.in_flight, &swept.completed] {
            self.valid.subtract(moved);
            self.carried.union_with(moved);
        }
        self.carried.union_with(&swept.pending);
        self.missing()
    }

    /// Step 4: `read` was read after `swept`, and `issued` was looked at after the last read had finished.
    /// Returns what is contaminated: set again during the sweep, or overwritten while it was read.
    pub fn validate(&mut self, swept: &Swept, read: &GranuleSet, issued: &GranuleSet) -> GranuleSet {
        let mut contaminated = read & issued;
        contaminated.union_with(&swept.again);
        self.read.union_with(read);
        self.valid.union_with(read);
        self.valid.subtract(&contaminated);
        contaminated
    }

    /// What was sent last of these granules did not arrive: they have to be read again.
    pub fn lose(&mut self, lost: &GranuleSet) {
        self.read.subtract(lost);
        self.valid.subtract(lost);
    }

    /// The last look before a point is sealed, whatever led there: how many granules it would name without their
    /// content, or call proven without a valid read. 0 is the only good answer.
    #[must_use]
    pub fn check(&self, consistency: Consistency) -> u64 {
        match consistency {
            Consistency::Fuzzy => (&self.carried - &self.read).len(),
            Consistency::Quiet | Consistency::Frozen => self.missing().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blxrep_ebpf::bitmap_words;
    use std::cell::RefCell;
    use std::sync::atomic::AtomicU64;

    const GRANULES: u32 = 256;

    struct Disk {
        issued: Vec<AtomicU64>,
        completed: Vec<AtomicU64>,
        pending: Vec<AtomicU64>,
        in_flight: RefCell<GranuleSet>,
    }

    impl Disk {
        fn new() -> Self {
            let words = || (0..bitmap_words(u64::from(GRANULES))).map(|_| AtomicU64::new(0)).collect();
            Self { issued: words(), completed: words(), pending: words(), in_flight: RefCell::default() }
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
            self.in_flight.borrow().clone()
        }
    }

    fn set(items: &[u32]) -> GranuleSet {
        items.iter().copied().collect()
    }

    #[test]
    fn every_witness_makes_a_granule_dirty() {
        let disk = Disk::new();
        disk.issued().mark(&set(&[1]));
        disk.completed().mark(&set(&[2]));
        disk.pending().mark(&set(&[3]));
        *disk.in_flight.borrow_mut() = set(&[4]);
        let swept = sweep(&[&disk]);
        let mut point = OpenPoint::new();
        assert_eq!(point.form(&swept[0]), set(&[1, 2, 3, 4]));
        assert_eq!(disk.pending().peek(), set(&[1, 2, 3]));
    }

    #[test]
    fn what_was_read_stays_valid_until_a_witness_moves_it() {
        let mut point = OpenPoint::new();
        let first = Swept { issued: set(&[1, 2, 3]), pending: set(&[1, 2, 3]), ..Swept::default() };
        let read = point.form(&first);
        assert_eq!(point.validate(&first, &read, &set(&[2])), set(&[2]));
        assert_eq!(point.missing(), set(&[2]));
        let second = Swept { completed: set(&[3]), pending: set(&[1, 2, 3]), ..Swept::default() };
        assert_eq!(point.form(&second), set(&[2, 3]));
    }

    /// The connection breaks in the middle of a round: the point goes on with what had arrived.
    #[test]
    fn what_arrived_before_a_break_stays_valid_until_a_witness_moves_it() {
        let mut point = OpenPoint::new();
        let first = Swept { issued: set(&[1, 2, 3, 4]), pending: set(&[1, 2, 3, 4]), ..Swept::default() };
        point.form(&first);
        point.validate(&first, &set(&[1, 2, 3]), &set(&[]));
        point.lose(&set(&[3]));
        assert_eq!((point.missing(), point.check(Consistency::Fuzzy)), (set(&[3, 4]), 2));
        let second = Swept { completed: set(&[2]), pending: set(&[1, 2, 3, 4]), ..Swept::default() };
        let read = point.form(&second);
        assert_eq!(read, set(&[2, 3, 4]));
        point.validate(&second, &read, &set(&[]));
        assert_eq!((point.check(Consistency::Quiet), point.carried()), (0, &set(&[1, 2, 3, 4])));
    }

    #[test]
    fn a_bit_set_again_during_the_sweep_contaminates_although_it_is_not_dirty() {
        let mut point = OpenPoint::new();
        let swept = Swept { issued: set(&[1]), again: set(&[9]), pending: set(&[1]), ..Swept::default() };
        let read = point.form(&swept);
        assert_eq!(point.validate(&swept, &read, &set(&[])), set(&[9]));
        assert!(point.missing().contains(9));
    }

    #[test]
    fn a_write_after_the_cut_to_a_granule_read_earlier_does_not_contaminate() {
        let mut point = OpenPoint::new();
        let first = Swept { issued: set(&[1, 2]), pending: set(&[1, 2]), ..Swept::default() };
        let read = point.form(&first);
        point.validate(&first, &read, &set(&[2]));
        let second = Swept { issued: set(&[2]), pending: set(&[1, 2]), ..Swept::default() };
        let read = point.form(&second);
        assert_eq!(read, set(&[2]));
        assert!(point.validate(&second, &read, &set(&[1])).is_empty());
    }

    #[test]
    fn a_point_is_not_sealed_with_what_was_never_read_nor_called_proven_with_what_is_not_valid() {
        let mut point = OpenPoint::new();
        let swept = Swept { issued: set(&[1, 2]), pending: set(&[1, 2]), ..Swept::default() };
        let read = point.form(&swept);
        assert_eq!(point.check(Consistency::Fuzzy), 2, "swept, and not read");
        point.validate(&swept, &read, &set(&[2]));
        assert_eq!(point.check(Consistency::Fuzzy), 0, "read, if not validly");
        assert_eq!((point.check(Consistency::Quiet), point.check(Consistency::Frozen)), (1, 1));
        let read = point.form(&swept);
        point.validate(&swept, &read, &set(&[]));
        assert_eq!(point.check(Consistency::Quiet), 0);
        point.widen(GRANULES);
        assert_eq!(
            point.check(Consistency::Fuzzy),
            u64::from(GRANULES),
            "nothing that was read counts any more"
        );
    }

    #[test]
    fn an_acknowledgement_leaves_what_is_in_flight_pending() {
        let disk = Disk::new();
        disk.pending().mark(&set(&[1, 2, 3]));
        *disk.in_flight.borrow_mut() = set(&[2]);
        acknowledge(&disk, &set(&[1, 2]));
        assert_eq!(disk.pending().peek(), set(&[2, 3]));
    }
}
