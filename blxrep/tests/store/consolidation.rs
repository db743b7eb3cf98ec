//! Points go, and those that stay read the same: merged, folded, trimmed, expired, with views open and anything cut off.

use crate::fixture::*;
use blxrep::io::storage::Storage;
use blxrep::model::ids::{ActionId, DiskId, GenerationId, PointId};
use blxrep::model::point::{Point, PointKind};
use blxrep::model::restoration::{Conflict, FilesTarget, Restoration, Target, Undo};
use blxrep::model::retention::Step;
use blxrep::store::catalog::PointFilter;
use blxrep::store::consolidate::Outcome;
use blxrep::store::restorations::RestorationRow;
use blxrep::store::restore::Progress;
use blxrep::store::{Store, StoreError};
use proptest::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

const GRANULES: usize = 12;
/// The last granule is shorter.
const DISK: usize = GRANULES * 4096 - 3584;

/// A base and deltas on it, and what each point should read as.
struct History {
    folder: Folder,
    store: Store,
    disk: DiskId,
    generation: GenerationId,
    points: Vec<(PointId, Vec<u8>)>,
}

impl History {
    fn new() -> Self {
        let folder = Folder::in_memory();
        let store = folder.open();
        let content = noise(1, DISK);
        let disk = add_disk(&store, content.len() as u64).unwrap().id;
        let base = base(&store, disk, &content);
        Self { folder, store, disk, generation: base.generation, points: vec![(base.id, content)] }
    }

    fn with_deltas(count: u32) -> Self {
        let mut history = Self::new();
        for i in 0..count {
            let start = i % (GRANULES as u32 - 2);
            history.change(&[start..start + 2], u64::from(i) + 10);
        }
        history
    }

    /// One more point: the granules get new noise, every third of them zeroes.
    fn change(&mut self, granules: &[Range<u32>], tag: u64) -> PointId {
        let mut content = self.points.last().unwrap().1.clone();
        for granule in granules.iter().flat_map(Clone::clone) {
            let start = granule as usize * 4096;
            let end = content.len().min(start + 4096);
            match (u64::from(granule) + tag) % 3 {
                0 => content[start..end].fill(0),
                _ => content[start..end].copy_from_slice(&noise(tag + u64::from(granule), end - start)),
            }
        }
        let point = delta(&self.store, self.disk, &content, granules);
        self.points.push((point.id, content));
        point.id
    }

    /// The same, but what both sizes have as a whole is as it was and not in the point, except one granule.
    fn resize_in_part(&mut self, bytes: usize, tag: u64) -> PointId {
        let mut content = self.points.last().unwrap().1.clone();
        let common = content.len().min(bytes) / 4096;
        content.resize(common * 4096, 0);
        content.extend(noise(tag, bytes - common * 4096));
        content[4096..8192].copy_from_slice(&noise(tag + 1, 4096));
        add_disk(&self.store, bytes as u64).unwrap();
        let changed = [1..2, common as u32..bytes.div_ceil(4096) as u32];
        let changed: Vec<_> = changed.into_iter().filter(|run| !run.is_empty()).collect();
        let point = delta(&self.store, self.disk, &content, &changed);
        self.points.push((point.id, content));
        point.id
    }

    /// One more point, of a disk that has become larger or smaller.
    fn resize(&mut self, bytes: usize, tag: u64) -> PointId {
        let content = noise(tag, bytes);
        add_disk(&self.store, bytes as u64).unwrap();
        let whole = 0..bytes.div_ceil(4096) as u32;
        let point = delta(&self.store, self.disk, &content, &[whole]);
        self.points.push((point.id, content));
        point.id
    }

    fn id(&self, position: usize) -> PointId {
        self.points[position].0
    }

    fn merge(&mut self, range: Range<usize>) -> Outcome {
        let dropped: Vec<PointId> = self.points[range.clone()].iter().map(|(id, _)| *id).collect();
        let into = self.id(range.end);
        let step = Step::Merge { generation: self.generation, points: dropped, into };
        let outcome = carry_out(&self.store, self.disk, &step).unwrap();
        if outcome == Outcome::Done {
            self.points.drain(range);
        }
        outcome
    }

    fn fold_step(&self) -> Step {
        Step::Fold { generation: self.generation, base: self.id(0), into: self.id(1) }
    }

    fn fold(&mut self) -> Outcome {
        let outcome = carry_out(&self.store, self.disk, &self.fold_step()).unwrap();
        if outcome == Outcome::Done {
            self.points.remove(0);
        }
        outcome
    }

    fn rows(&self) -> Vec<Point> {
        self.store.points(&PointFilter::default()).unwrap()
    }

    /// All points are there, read as they should, and verify.
    fn check(&self) {
        let there: Vec<PointId> = self.rows().into_iter().map(|point| point.id).collect();
        let wanted: Vec<PointId> = self.points.iter().map(|(id, _)| *id).collect();
        assert_eq!(there, wanted);
        for (id, content) in &self.points {
            assert!(read(&self.store, *id).unwrap() == *content, "point {id}");
        }
        let report = self.store.verify(None, quietly()).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }

    /// The same after a restart, which finds nothing that does not belong there.
    fn check_again(mut self) -> Self {
        self.check();
        let Self { folder, store, .. } = self;
        drop(store);
        let (store, report) = folder.open_reported();
        assert_eq!(report, blxrep::store::recovery::OpenReport::default());
        self = Self { folder, store, ..self };
        self.check();
        self
    }

    /// Files that stay because of open views.
    fn collect(&self) -> u64 {
        self.store.collect().unwrap().in_use
    }

    /// No view is open, so nothing stays.
    fn collect_all(&self) {
        for _ in 0..100 {
            if self.collect() == 0 {
                return;
            }
            wait_a_little();
        }
        panic!("files stay");
    }
}

#[test]
fn neighbours_are_merged_and_the_newest_content_wins() {
    let mut history = History::with_deltas(8);
    assert_eq!(history.merge(2..5), Outcome::Done);
    history.check();
    assert_eq!(history.folder.files(".bak").len(), 8 + 1, "the old ones are still there");
    history.collect_all();
    assert_eq!(history.folder.files(".bak").len(), 5);
    assert_eq!(history.folder.files(".cst").len(), 5);
    let rows = history.rows();
    assert_eq!(rows[2].parent, Some(rows[1].id));
    assert_eq!(history.merge(1..4), Outcome::Done);
    history.change(&[0..1], 99);
    history.check_again();
}

#[test]
fn the_oldest_delta_is_folded_into_the_image() {
    let mut history = History::with_deltas(4);
    for left in (1..=4).rev() {
        assert_eq!(history.fold(), Outcome::Done);
        let rows = history.rows();
        assert_eq!((rows[0].kind, rows[0].parent, rows.len()), (PointKind::Base, None, left));
        history = history.check_again();
    }
    history.collect_all();
    assert_eq!(history.folder.files(".bak"), Vec::<PathBuf>::new());
    assert_eq!(history.folder.files(".sum").len(), 1);
    let image = std::fs::read(&history.folder.files(".img")[0]).unwrap();
    assert!(image == history.points[0].1, "the image is what losetup would show");
    history.change(&[3..4], 50);
    history.check_again();
}

#[test]
fn zeroes_are_punched() {
    let mut history = History::new();
    let content = vec![0; DISK];
    let point = delta(&history.store, history.disk, &content, &[0..GRANULES as u32]);
    history.points.push((point.id, content));
    history.fold();
    use std::os::unix::fs::MetadataExt;
    // A hole is whole blocks: the disk's last granule is part of one.
    assert!(std::fs::metadata(&history.folder.files(".img")[0]).unwrap().blocks() <= 8);
    history.check_again();
}

#[test]
fn a_disk_that_changed_its_size_is_folded_and_merged() {
    for bytes in [DISK + 5 * 4096, DISK - 3 * 4096 - 512] {
        let mut history = History::with_deltas(2);
        history.resize(bytes, 7);
        history.change(&[0..2], 60);
        history.merge(2..3);
        history.check();
        history.fold();
        history = history.check_again();
        history.fold();
        history = history.check_again();
        assert_eq!(std::fs::metadata(&history.folder.files(".img")[0]).unwrap().len(), bytes as u64);
        history.fold();
        history.check_again();
    }
}

#[test]
fn a_disk_that_sent_only_what_was_new_of_its_size_is_folded_and_merged() {
    let sizes = [DISK + 5 * 4096, DISK - 3 * 4096 - 512, 8 * 4096, DISK + 3 * 4096, DISK];
    for merged in [false, true] {
        let mut history = History::with_deltas(2);
        for (tag, bytes) in (100..).step_by(10).zip(sizes) {
            history.resize_in_part(bytes, tag);
            history.change(&[2..4], tag + 5);
        }
        history.check();
        if merged {
            for at in [7, 5, 2] {
                assert_eq!(history.merge(at..at + 2), Outcome::Done);
                history.check();
            }
        }
        while history.points.len() > 1 {
            let mut reader = history.store.open_point(history.points.last().unwrap().0).unwrap();
            assert_eq!(history.fold(), Outcome::Done);
            let mut found = vec![0; reader.disk_bytes() as usize];
            reader.read_at(0, &mut found).unwrap();
            assert!(found == history.points.last().unwrap().1, "a view that was open meanwhile");
            history.check();
            drop(reader);
            history = history.check_again();
        }
        let image = std::fs::read(&history.folder.files(".img")[0]).unwrap();
        assert!(image == history.points[0].1);
    }
}

#[test]
fn a_view_reads_on_while_files_are_replaced_below_it() {
    let mut history = History::with_deltas(6);
    let viewed: Vec<(PointId, Vec<u8>)> = history.points[3..].to_vec();
    let mut readers: Vec<_> = viewed.iter().map(|(id, _)| history.store.open_point(*id).unwrap()).collect();
    let check = |readers: &mut [blxrep::view::PointReader]| {
        for (reader, (id, content)) in readers.iter_mut().zip(&viewed) {
            let mut found = vec![0; content.len()];
            reader.read_at(0, &mut found).unwrap();
            assert!(found == *content, "view of {id}");
        }
    };
    check(&mut readers);
    for _ in 0..3 {
        assert_eq!(history.fold(), Outcome::Done);
        check(&mut readers);
    }
    assert_eq!(history.merge(1..2), Outcome::Done, "a point that is viewed may go: its view stays");
    assert!(history.collect() > 0, "files of open views stay");
    check(&mut readers);
    assert_eq!(
        history.store.carry_out(history.disk, &history.fold_step(), quietly()).unwrap(),
        Outcome::InUse
    );
    check(&mut readers);
    drop(readers);
    history.collect_all();
    assert_eq!(history.fold(), Outcome::Done);
    history.collect_all();
    history.check_again();
}

#[test]
fn the_base_is_not_changed_below_a_view_of_it() {
    let mut history = History::with_deltas(2);
    let reader = history.store.open_point(history.id(0)).unwrap();
    let refused = history.store.carry_out(history.disk, &history.fold_step(), quietly());
    assert_eq!(refused.unwrap(), Outcome::InUse);
    history.check();
    drop(reader);
    assert_eq!(history.fold(), Outcome::Done);
    history.check_again();
}

/// Lets a step go on until its progress was told `after` times.
fn cut_off(history: &History, step: &Step, after: u64) -> Result<Outcome, StoreError> {
    let (told, cancel) = (AtomicU64::new(0), AtomicBool::new(false));
    let report = |_, _| {
        if told.fetch_add(1, Ordering::Relaxed) == after {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    history.store.carry_out(history.disk, step, Progress { report: &report, cancel: &cancel })
}

#[test]
fn a_fold_that_was_cut_off_goes_on_and_nobody_sees_it() {
    let mut history = History::with_deltas(5);
    history.merge(1..3);
    let step = history.fold_step();
    // Proving the delta tells its progress, too: the base is there until that has ended.
    let mut begun = false;
    for after in 0.. {
        match cut_off(&history, &step, after) {
            Err(StoreError::Cancelled) if history.rows().len() == history.points.len() => history.check(),
            Err(StoreError::Cancelled) => {
                begun = true;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(begun, "no cut was late enough");
    let (base, _) = history.points.remove(0);
    assert!(history.store.open_point(base).is_err(), "it may be half gone");
    history = history.check_again();
    assert_eq!(history.store.carry_out(history.disk, &step, quietly()).unwrap(), Outcome::InUse);
    let mut reader = history.store.open_point(history.id(0)).unwrap();
    history.change(&[1..2], 77);
    while history.store.resume_work(history.disk, quietly()).unwrap() == Outcome::InUse {
        wait_a_little();
    }
    let mut found = vec![0; DISK];
    reader.read_at(0, &mut found).unwrap();
    assert!(found == history.points[0].1);
    drop(reader);
    history.collect_all();
    history.check_again();
}

/// The sidecar that a fold goes by rots while it is under way: that is said, and the generation goes all the same once
/// nothing of it is kept.
#[test]
fn a_fold_that_cannot_be_ended_does_not_keep_its_generation() {
    let mut history = History::with_deltas(3);
    let step = history.fold_step();
    let is_begun = |after| {
        matches!(cut_off(&history, &step, after), Err(StoreError::Cancelled)) && history.rows().len() == 3
    };
    (0..100).find(|after| is_begun(*after)).expect("no cut was late enough");
    let sidecar = history.folder.files(".sum").remove(0);
    let mut bytes = std::fs::read(&sidecar).unwrap();
    bytes[1024 + 40] ^= 1;
    std::fs::write(&sidecar, bytes).unwrap();
    assert!(history.store.resume_work(history.disk, quietly()).is_err());
    let found = history.store.verify(None, quietly()).unwrap().findings;
    let named = found.iter().find(|finding| finding.file == sidecar).expect("it is found");
    assert!(named.what.contains("cannot be ended"), "{named:?}");
    assert_eq!(named.points, [history.id(1), history.id(2), history.id(3)]);

    let content = noise(500, DISK);
    let next = base(&history.store, history.disk, &content);
    let expire = Step::Expire { generation: history.generation };
    assert_eq!(history.store.carry_out(history.disk, &expire, quietly()).unwrap(), Outcome::Done);
    history.points = vec![(next.id, content)];
    history.collect_all();
    let left = history.folder.files(".sum").len() + history.folder.files(".part").len();
    assert_eq!((history.folder.files(".img").len(), left), (1, 1), "nothing else is left of it");
    history.check_again();
}

/// A verification finds a fold under way, which ends while its image is being looked at: the image is shorter then, and
/// its checksums are in another file.
#[test]
fn a_fold_that_ends_beside_a_verification_is_no_damage() {
    let mut history = History::new();
    history.resize(DISK - 3 * 4096, 40);
    drop(history.store);
    let (asked, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
    let sidecar = history.folder.files(".sum").remove(0);
    let gate = {
        let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
        move |action: &'static str, path: &Path| {
            if action == "open" && path == sidecar && asked.swap(false, Ordering::SeqCst) {
                // The fold goes on, and has ended.
                answer.wait();
                answer.wait();
            }
            Ok(())
        }
    };
    history.store = history.folder.open_on(Storage::gated(gate)).unwrap();
    let (store, disk, step) = (history.store.clone(), history.disk, history.fold_step());
    let fold = {
        let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
        std::thread::spawn(move || {
            let (begun, paused) =
                (|| store.points(&PointFilter::default()).unwrap().len() == 1, AtomicBool::new(false));
            let report = |_, _| {
                if begun() && !paused.swap(true, Ordering::SeqCst) {
                    asked.store(true, Ordering::SeqCst);
                    answer.wait();
                }
            };
            let progress = Progress { report: &report, cancel: &AtomicBool::new(false) };
            let outcome = store.carry_out(disk, &step, progress);
            answer.wait();
            outcome
        })
    };
    while !asked.load(Ordering::SeqCst) {
        wait_a_little();
    }
    let report = history.store.verify(None, quietly()).unwrap();
    assert_eq!(fold.join().unwrap().unwrap(), Outcome::Done);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.checked_points, report.files), (1, 3), "catalog, image and checksums");
    history.points.remove(0);
    history.check_again();
}

#[test]
fn a_merge_that_was_cut_off_leaves_nothing() {
    let history = History::with_deltas(5);
    let step = Step::Merge {
        generation: history.generation,
        points: vec![history.id(1), history.id(2)],
        into: history.id(3),
    };
    assert!(matches!(cut_off(&history, &step, 1), Err(StoreError::Cancelled)));
    assert_eq!(history.folder.files(".part"), Vec::<PathBuf>::new());
    assert_eq!(history.store.resume_work(history.disk, quietly()).unwrap(), Outcome::Done);
    history.check_again();
}

#[test]
fn old_generations_shrink_and_go() {
    let mut history = History::with_deltas(4);
    let next = base(&history.store, history.disk, &noise(500, DISK));
    history.points.push((next.id, noise(500, DISK)));
    let last = vec![history.id(3), history.id(4)];
    let step = Step::Trim { generation: history.generation, points: last };
    assert_eq!(history.store.carry_out(history.disk, &step, quietly()).unwrap(), Outcome::Done);
    history.points.drain(3..5);
    history = history.check_again();
    let reader = history.store.open_point(history.id(1)).unwrap();
    let step = Step::Expire { generation: history.generation };
    assert_eq!(history.store.carry_out(history.disk, &step, quietly()).unwrap(), Outcome::Done);
    history.points.drain(..3);
    history = history.check_again();
    assert!(history.collect() > 0);
    assert_eq!(history.folder.files(".img").len(), 2, "the view is open");
    drop(reader);
    history.collect_all();
    history = history.check_again();
    assert_eq!(history.folder.files(".img").len(), 1);
    assert_eq!(history.folder.files(".bak"), Vec::<PathBuf>::new());
    history.change(&[0..1], 3);
    history.check_again();
}

#[test]
fn the_newest_point_never_goes() {
    let history = History::with_deltas(2);
    let (generation, disk) = (history.generation, history.disk);
    for step in [
        Step::Expire { generation },
        Step::Trim { generation, points: vec![history.id(2)] },
        Step::Trim { generation, points: vec![history.id(1)] },
        Step::Merge { generation, points: vec![history.id(2)], into: history.id(1) },
        Step::Merge { generation, points: vec![history.id(0)], into: history.id(1) },
        Step::Fold { generation, base: history.id(1), into: history.id(2) },
    ] {
        let refused = history.store.carry_out(disk, &step, quietly());
        assert!(matches!(refused, Err(StoreError::Refused(_)) | Ok(Outcome::Stale)), "{step:?}: {refused:?}");
    }
    history.check_again();
}

/// What an open restore needs is not let go, whatever was planned before it began.
#[test]
fn the_points_of_an_open_restore_stay_until_it_has_ended() {
    let mut history = History::with_deltas(4);
    let next = base(&history.store, history.disk, &noise(500, DISK));
    history.points.push((next.id, noise(500, DISK)));
    let restore = |action, point, undo| RestorationRow {
        action: ActionId(action),
        agent: "web1".parse().unwrap(),
        restoration: Restoration {
            point,
            target: Target::Files(FilesTarget {
                folder: "/x".to_owned(),
                conflict: Conflict::Skip,
                dry_run: false,
            }),
            agreed: None,
        },
        partition: None,
        paths: vec![b"1:".to_vec()],
        allow_holes: false,
        undo,
        touched: false,
        durable_blocks: 0,
    };
    history.store.begin_restoration(&restore(1, history.id(0), Undo::None)).unwrap();
    history.store.begin_restoration(&restore(2, next.id, Undo::Made(history.id(4)))).unwrap();
    let gone = history.store.begin_restoration(&restore(3, PointId(77), Undo::None));
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    let generation = history.generation;
    for step in [
        Step::Expire { generation },
        Step::Trim { generation, points: vec![history.id(4)] },
        history.fold_step(),
    ] {
        let refused = history.store.carry_out(history.disk, &step, quietly());
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{step:?}: {refused:?}");
    }
    assert_eq!(history.merge(1..2), Outcome::Done, "others go");
    history = history.check_again();
    history.store.forget_restoration(ActionId(1)).unwrap();
    assert_eq!(history.fold(), Outcome::Done);
    history.check_again();
}

#[test]
fn damage_is_not_folded_nor_merged() {
    for ending in [".bak", ".sum"] {
        let history = History::with_deltas(3);
        let file = history.folder.files(ending).remove(0);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[1024 + 40] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let damaged =
            history.rows().into_iter().position(|row| file.to_string_lossy().contains(&row.id.to_string()));
        let position = damaged.unwrap_or(0);
        if position > 1 {
            let points = (1..position).map(|i| history.id(i)).collect();
            let step = Step::Merge { generation: history.generation, points, into: history.id(position) };
            assert!(history.store.carry_out(history.disk, &step, quietly()).is_err());
            assert_eq!(history.rows().len(), 4);
        } else {
            let error = history.store.carry_out(history.disk, &history.fold_step(), quietly()).unwrap_err();
            assert!(
                error.to_string().contains("damaged") || error.to_string().contains("checksum"),
                "{error}"
            );
            assert_eq!(history.rows().len(), 4, "the base goes only when its sidecar is proven");
        }
        assert!(
            !history.store.verify(None, quietly()).unwrap().is_clean(),
            "it is found afterwards as before"
        );
    }
}

#[test]
fn points_are_published_while_others_are_consolidated() {
    let mut history = History::with_deltas(6);
    let (store, disk) = (history.store.clone(), history.disk);
    let mut content = history.points.last().unwrap().1.clone();
    let writer = std::thread::spawn(move || {
        let mut made = Vec::new();
        for i in 0..30u64 {
            let granule = (i % 10) as u32;
            content[granule as usize * 4096..][..4096].copy_from_slice(&noise(1000 + i, 4096));
            made.push((delta(&store, disk, &content, &[granule..granule + 1]).id, content.clone()));
        }
        made
    });
    while !writer.is_finished() {
        let rows = history.rows();
        let ids: Vec<PointId> = rows.iter().map(|row| row.id).collect();
        let generation = history.generation;
        if ids.len() > 3 {
            let step = Step::Merge { generation, points: vec![ids[1]], into: ids[2] };
            history.store.carry_out(disk, &step, quietly()).unwrap();
            let step = Step::Fold { generation, base: ids[0], into: ids[2] };
            history.store.carry_out(disk, &step, quietly()).unwrap();
            history.store.collect().unwrap();
        }
    }
    history.points.extend(writer.join().unwrap());
    let left: Vec<PointId> = history.rows().into_iter().map(|row| row.id).collect();
    history.points.retain(|(id, _)| left.contains(id));
    assert!(history.points.len() < 37);
    history.check_again();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_merged_and_folded_the_rest_reads_the_same(
        changes in proptest::collection::vec(
            (proptest::collection::vec((0u32..GRANULES as u32, 1u32..4), 1..4), 0u64..1000), 1..9),
        steps in proptest::collection::vec((any::<bool>(), 0usize..8, 1usize..4), 1..7),
    ) {
        let mut history = History::new();
        for (runs, tag) in changes {
            let runs: Vec<Range<u32>> =
                runs.into_iter().map(|(start, len)| start..(start + len).min(GRANULES as u32)).collect();
            history.change(&runs, tag);
        }
        for (fold, start, count) in steps {
            let last = history.points.len() - 1;
            if fold && last >= 1 {
                prop_assert_eq!(history.fold(), Outcome::Done);
            } else if last >= 2 {
                let start = 1 + start % (last - 1);
                history.merge(start..(start + count).min(last));
            }
            history.check();
            history.store.collect().unwrap();
        }
        history.check_again();
    }
}
