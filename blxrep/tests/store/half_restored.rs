//! Points of a disk that a restore has not finished say so, until the disk is whole again.

use crate::fixture::*;
use blxrep::model::encoding::Encoding;
use blxrep::model::granules::GranuleSet;
use blxrep::model::ids::{ActionId, DiskId, DiskIdentity, PointId};
use blxrep::model::point::{Disk, Point};
use blxrep::model::restoration::{Agreed, DeviceMark, DeviceTarget, DiskMark, Restoration, Target, Undo};
use blxrep::model::retention::Step;
use blxrep::store::Store;
use blxrep::store::consolidate::Outcome;
use blxrep::store::delta::{DeltaSpec, DeltaWriter};
use blxrep::store::restorations::RestorationRow;
use std::ops::Range;

const DISK: u64 = 16 * 4096;

struct House {
    folder: Folder,
    store: Store,
    disk: Disk,
    next: u64,
}

impl House {
    fn new() -> Self {
        let folder = Folder::in_memory();
        let store = folder.open();
        let disk = add_disk(&store, DISK).unwrap();
        base(&store, disk.id, &noise(1, DISK as usize));
        Self { folder, store, disk, next: 1 }
    }

    fn begin(&mut self) -> DeltaWriter {
        self.next += 1;
        let parent = self.newest().id;
        let spec = DeltaSpec { point: PointId(self.next << 40), parent, epoch: EPOCH };
        let mut writer = self.store.begin_delta(self.disk.id, spec).unwrap();
        append(&mut writer, &noise(self.next, DISK as usize), 0..4096, Encoding::Raw).unwrap();
        writer
    }

    fn seal(&self, writer: DeltaWriter) -> Option<ActionId> {
        let mut held = GranuleSet::new();
        held.insert_range(0..1);
        publish(&self.store, writer.finish(summary(self.next), held.len()).unwrap()).unwrap().half_restored
    }

    fn point(&mut self) -> Option<ActionId> {
        let writer = self.begin();
        self.seal(writer)
    }

    fn newest(&self) -> Point {
        self.store.newest_point(self.disk.id).unwrap().unwrap()
    }

    fn touch(&self, action: u64, bytes: Range<u64>) -> RestorationRow {
        let row = restore(&self.disk, self.newest().id, action, bytes);
        self.store.put_restoration(&row).unwrap();
        row
    }

    fn succeed(&self, row: &RestorationRow) {
        self.store.end_half_restored(row).unwrap();
        self.store.forget_restoration(row.action).unwrap();
    }

    /// With the catalog as it is at the time, or without any.
    fn rebuild(self, keep_catalog: bool) -> Self {
        let Self { folder, store, disk, next } = self;
        drop(store);
        if !keep_catalog {
            std::fs::remove_file(folder.path().join("blxrep.redb")).unwrap();
        }
        Store::rebuild_catalog(&folder.path(), false).unwrap();
        let store = folder.open();
        Self { folder, store, disk, next }
    }
}

/// One that has begun to write these bytes of the disk.
fn restore(disk: &Disk, point: PointId, action: u64, bytes: Range<u64>) -> RestorationRow {
    let target = DeviceTarget {
        device: "/dev/x".to_owned(),
        bytes: bytes.end - bytes.start,
        whole: true,
        full: false,
    };
    let device = DeviceMark {
        disk: DiskMark::Hardware(DiskIdentity::Serial("other".to_owned())),
        partition: None,
        start: bytes.start / 512,
        bytes: bytes.end - bytes.start,
    };
    let agreed = Agreed { device, protects: Some(disk.identity.clone()) };
    RestorationRow {
        action: ActionId(action),
        agent: disk.agent.clone(),
        restoration: Restoration { point, target: Target::Device(target), agreed: Some(agreed) },
        partition: None,
        paths: Vec::new(),
        allow_holes: false,
        undo: Undo::None,
        touched: true,
        durable_blocks: 0,
    }
}

#[test]
fn points_are_marked_from_the_first_byte_to_the_end_of_a_restore() {
    let mut house = House::new();
    assert_eq!(house.point(), None);
    let untouched = RestorationRow { touched: false, ..restore(&house.disk, house.newest().id, 5, 0..DISK) };
    house.store.put_restoration(&untouched).unwrap();
    assert_eq!(house.point(), None, "nothing was written yet");
    let row = house.touch(5, 0..DISK);
    assert_eq!(house.point(), Some(ActionId(5)));
    // It failed, or was cancelled.
    house.store.forget_restoration(row.action).unwrap();
    assert_eq!(house.point(), Some(ActionId(5)));
    house.store = {
        drop(std::mem::replace(&mut house.store, Folder::in_memory().open()));
        house.folder.open()
    };
    assert_eq!(house.point(), Some(ActionId(5)), "after a restart");
    let again = house.touch(6, 0..DISK);
    house.succeed(&again);
    assert_eq!(house.point(), None);
}

/// The cut of a point may lie anywhere between its begin and its seal.
#[test]
fn a_point_that_was_open_meanwhile_is_marked() {
    let mut house = House::new();
    let open = house.begin();
    let row = house.touch(5, 0..DISK);
    house.succeed(&row);
    assert_eq!(house.seal(open), Some(ActionId(5)), "all of it within one point");
    let row = house.touch(6, 0..DISK);
    let open = house.begin();
    house.succeed(&row);
    assert_eq!(house.seal(open), Some(ActionId(6)), "its end within one point");
    assert_eq!(house.point(), None);
}

#[test]
fn only_a_restore_of_as_much_makes_a_disk_whole() {
    let mut house = House::new();
    house.touch(5, 4096..3 * 4096);
    for part in [0..4096, 4096..2 * 4096, 2 * 4096..DISK] {
        let row = house.touch(6, part);
        house.succeed(&row);
        assert_eq!(house.point(), Some(ActionId(5)));
    }
    let row = house.touch(7, 0..3 * 4096);
    house.succeed(&row);
    assert_eq!(house.point(), None);
}

#[test]
fn a_person_may_take_the_disk_for_what_it_is() {
    let mut house = House::new();
    house.touch(5, 0..DISK);
    house.store.accept_half_restored(&house.disk, |action| action == ActionId(5)).unwrap();
    assert_eq!(house.point(), Some(ActionId(5)), "a restore goes on writing");
    house.store.accept_half_restored(&house.disk, |_| false).unwrap();
    let image = base(&house.store, house.disk.id, &noise(9, DISK as usize));
    assert_eq!(image.half_restored, None);
    house.touch(6, 0..DISK);
    let image = base(&house.store, house.disk.id, &noise(10, DISK as usize));
    assert_eq!(image.half_restored, Some(ActionId(6)), "one that nobody asked for");
}

#[test]
fn another_disk_is_not_meant() {
    let mut house = House::new();
    let other = Disk { identity: DiskIdentity::Serial("elsewhere".to_owned()), ..house.disk.clone() };
    house.store.put_restoration(&restore(&other, house.newest().id, 5, 0..DISK)).unwrap();
    assert_eq!(house.point(), None);
}

fn marks(store: &Store) -> Vec<Option<ActionId>> {
    store.points(&Default::default()).unwrap().iter().map(|point| point.half_restored).collect()
}

#[test]
fn the_mark_is_in_the_files_and_a_disk_stays_half_restored() {
    let mut house = House::new();
    house.touch(5, 0..DISK);
    let before = [house.point(), house.point()];
    assert_eq!(before, [Some(ActionId(5)); 2]);
    let mut house = house.rebuild(false);
    assert_eq!(marks(&house.store), [None, before[0], before[1]]);
    assert_eq!(house.point(), Some(ActionId(5)), "the disk is what it was");
    let row = house.touch(6, 0..DISK);
    house.succeed(&row);
    // Its end is known only to the catalog, while the newest point is of before.
    let mut house = house.rebuild(true);
    assert_eq!(house.point(), None);
    let mut house = house.rebuild(false);
    assert_eq!(house.point(), None, "the newest point says that it is whole");
}

#[test]
fn consolidation_carries_the_mark() {
    let mut house = House::new();
    house.point();
    let row = house.touch(5, 0..DISK);
    house.store.forget_restoration(row.action).unwrap();
    house.point();
    let row = house.touch(6, 0..DISK);
    house.succeed(&row);
    house.point();
    let points = house.store.points(&Default::default()).unwrap();
    let generation = points[0].generation;
    let (disk, [base, first, marked]) = (house.disk.id, [points[0].id, points[1].id, points[2].id]);
    consolidate(&house.store, disk, &Step::Merge { generation, points: vec![first], into: marked });
    assert_eq!(marks(&house.store), [None, Some(ActionId(5)), None]);
    let house = house.rebuild(false);
    assert_eq!(marks(&house.store), [None, Some(ActionId(5)), None], "merged");
    consolidate(&house.store, disk, &Step::Fold { generation, base, into: marked });
    assert_eq!(marks(&house.rebuild(false).store), [Some(ActionId(5)), None], "folded");
}

fn consolidate(store: &Store, disk: DiskId, step: &Step) {
    assert_eq!(carry_out(store, disk, step).unwrap(), Outcome::Done);
    // Else a rebuild finds what was let go.
    store.collect().unwrap();
}
