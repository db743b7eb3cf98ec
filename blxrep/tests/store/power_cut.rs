//! The power is cut after any change that the store makes, with a random part of what was not synced lost: whatever was
//! acknowledged is there and reads as it should, and everything goes on.

use crate::fixture::*;
use crate::tape::{Luck, Replay, Tape};
use blxrep::io::storage::Storage;
use blxrep::model::ids::{DiskId, GenerationId, PointId};
use blxrep::model::retention::Step;
use blxrep::store::catalog::PointFilter;
use blxrep::store::consolidate::Outcome;
use blxrep::store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;

const DISK: usize = 7 * 4096 + 512;
/// A seed whose luck saves nothing, and that does not ask for a second cut.
const LOSES_ALL: u64 = 2;

/// What the story of a store is made of.
#[derive(Clone, Debug)]
enum Act {
    /// A new generation with this content.
    Base(Vec<u8>),
    Delta(Vec<u8>, Vec<std::ops::Range<u32>>),
    /// These points, by their place in the story, go by such a step.
    Merge(Vec<usize>, usize),
    Fold(usize, usize),
    Trim(Vec<usize>),
    Expire(Vec<usize>),
    /// A merge is given up half-way.
    HalfMerge(Vec<usize>, usize),
    Collect,
}

/// What happened, and after which change: the points that were acknowledged and those that were to go.
#[derive(Debug, Default)]
struct Story {
    /// Published points: their content, and the number of changes when their publication was acknowledged.
    points: HashMap<PointId, (Vec<u8>, usize)>,
    order: Vec<PointId>,
    /// When a step began that lets a point go.
    leaving: HashMap<PointId, usize>,
}

fn acts() -> Vec<Act> {
    let mut content = noise(1, DISK);
    content[4096..8192].fill(0);
    let mut acts = vec![Act::Base(content.clone())];
    let mut change = |acts: &mut Vec<Act>, tag: u64, granules: std::ops::Range<u32>| {
        let range = granules.start as usize * 4096..(granules.end as usize * 4096).min(DISK);
        let fresh = if tag.is_multiple_of(4) { vec![0; range.len()] } else { noise(tag, range.len()) };
        content[range].copy_from_slice(&fresh);
        acts.push(Act::Delta(content.clone(), vec![granules]));
    };
    change(&mut acts, 2, 0..2);
    change(&mut acts, 3, 1..4);
    change(&mut acts, 4, 6..8);
    change(&mut acts, 5, 2..3);
    acts.push(Act::HalfMerge(vec![1, 2], 3));
    acts.push(Act::Merge(vec![2, 3], 4));
    acts.push(Act::Fold(0, 1));
    acts.push(Act::Collect);
    change(&mut acts, 6, 0..1);
    acts.push(Act::Fold(1, 4));
    change(&mut acts, 7, 3..7);
    acts.push(Act::Base(noise(9, DISK)));
    acts.push(Act::Trim(vec![6]));
    acts.push(Act::Collect);
    acts.push(Act::Expire(vec![4, 5]));
    acts.push(Act::Collect);
    acts
}

/// Carries out the acts and puts down what happened. `changes` is told how many there were so far.
fn play(store: &Store, acts: &[Act], changes: &dyn Fn() -> usize) -> Result<Story, StoreError> {
    let mut story = Story::default();
    let disk = add_disk(store, DISK as u64)?.id;
    let mut generations: Vec<GenerationId> = Vec::new();
    for act in acts {
        let oldest = generations.first().copied();
        let id = |place: &usize| story.order[*place];
        let ids = |places: &[usize]| places.iter().map(id).collect::<Vec<_>>();
        let step = match act {
            Act::Base(content) => {
                let point = publish(store, make_base(store, disk, content, 8192)?)?;
                generations.push(point.generation);
                story.order.push(point.id);
                story.points.insert(point.id, (content.clone(), changes()));
                continue;
            }
            Act::Delta(content, granules) => {
                let point = publish(store, make_delta(store, disk, content, granules)?)?;
                story.order.push(point.id);
                story.points.insert(point.id, (content.clone(), changes()));
                continue;
            }
            Act::Collect => {
                store.collect()?;
                continue;
            }
            Act::Merge(points, into) | Act::HalfMerge(points, into) => {
                Step::Merge { generation: oldest.unwrap(), points: ids(points), into: id(into) }
            }
            Act::Fold(base, into) => {
                Step::Fold { generation: oldest.unwrap(), base: id(base), into: id(into) }
            }
            Act::Trim(points) => Step::Trim { generation: oldest.unwrap(), points: ids(points) },
            Act::Expire(_) => Step::Expire { generation: oldest.unwrap() },
        };
        if matches!(act, Act::HalfMerge(..)) {
            let cancel = std::sync::atomic::AtomicBool::new(true);
            let progress = blxrep::store::restore::Progress { report: &|_, _| {}, cancel: &cancel };
            assert!(matches!(store.carry_out(disk, &step, progress), Err(StoreError::Cancelled)));
            assert_eq!(store.resume_work(disk, quietly())?, Outcome::Done);
            continue;
        }
        let gone = match (act, &step) {
            (Act::Expire(places), _) => ids(places),
            (_, Step::Merge { points, .. } | Step::Trim { points, .. }) => points.clone(),
            (_, Step::Fold { base, .. }) => vec![*base],
            _ => Vec::new(),
        };
        let begun = changes();
        story.leaving.extend(gone.into_iter().map(|point| (point, begun)));
        assert_eq!(carry_out(store, disk, &step)?, Outcome::Done);
    }
    Ok(story)
}

impl Story {
    /// What is there after a cut is right, and all that had to be there is.
    fn check(&self, store: &Store, cut: usize, context: &str) {
        let there = store.points(&PointFilter::default()).unwrap();
        for point in &there {
            let found =
                read(store, point.id).unwrap_or_else(|e| panic!("{context}: point {}: {e}", point.id));
            let (content, _) = self.points.get(&point.id).unwrap_or_else(|| panic!("{context}: a stranger"));
            assert!(found == *content, "{context}: point {} reads wrong", point.id);
        }
        for (id, (_, acknowledged)) in &self.points {
            let stays = *acknowledged <= cut && self.leaving.get(id).is_none_or(|begun| *begun >= cut);
            assert!(!stays || there.iter().any(|point| point.id == *id), "{context}: point {id} is gone");
        }
        let report = store.verify(None, quietly()).unwrap();
        assert!(report.is_clean(), "{context}: {report:?}");
    }
}

/// Ends what was under way, and makes one more point.
fn go_on(store: &Store, first: &[u8], context: &str) {
    let Some(disk) = store.disks().unwrap().first().map(|disk| disk.id) else { return };
    store.resume_work(disk, quietly()).unwrap_or_else(|e| panic!("{context}: {e}"));
    store.collect().unwrap_or_else(|e| panic!("{context}: {e}"));
    go_on_with_points(store, disk, first, context);
}

fn go_on_with_points(store: &Store, disk: DiskId, first: &[u8], context: &str) {
    let content = noise(77, DISK);
    let point = match store.newest_point(disk).unwrap() {
        // Goes on with the image that the story began, so it has to have the same content.
        None => return drop(publish(store, make_base(store, disk, first, 8192).unwrap()).unwrap()),
        Some(_) => make_delta(store, disk, &content, std::slice::from_ref(&(0..8))),
    };
    let point = point.and_then(|ready| publish(store, ready)).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(read(store, point.id).unwrap() == content, "{context}: the next point");
}

struct Explorer {
    folder: Folder,
    tape: Arc<Tape>,
    replay: Replay,
    story: Story,
    explored: u64,
    twice: u64,
}

impl Explorer {
    fn new() -> Self {
        Self::with(Tape::default().into())
    }

    fn with(tape: Arc<Tape>) -> Self {
        let folder = Folder::in_memory();
        let count = Arc::clone(&tape);
        let store = folder.open_on(Storage::witnessed(tape.clone())).unwrap();
        let story = play(&store, &acts(), &move || count.len()).unwrap();
        drop(store);
        Self { replay: tape.replay(), folder, tape, story, explored: 0, twice: 0 }
    }

    fn first(&self) -> Vec<u8> {
        self.story.points[&self.story.order[0]].0.clone()
    }

    /// A cut at any place, with nothing saved that was not synced.
    fn cut_late(&mut self, count: usize) {
        self.replay = self.tape.replay();
        self.cut(count, LOSES_ALL);
    }

    fn cut(&mut self, count: usize, seed: u64) {
        let context = format!("power cut after change {count} of {}, seed {seed}", self.tape.len());
        let after = Folder::in_memory();
        let mut luck = Luck::new(seed);
        let from = self.folder.path();
        // The directory above the store is not the store's: its name is there.
        std::fs::create_dir(after.path()).unwrap();
        self.replay.cut(count, &from, &after.path(), &mut luck);
        if seed % 4 == 3 {
            return self.cut_again(count, seed, &after, &context);
        }
        let (store, report) = after.open_reported();
        assert!(report.missing.is_empty(), "{context}: {report:?}");
        self.story.check(&store, count, &context);
        go_on(&store, &self.first(), &context);
        drop(store);
        let store = after.open();
        let there = store.points(&PointFilter::default()).unwrap();
        let last = there.last().map(|point| point.id);
        for point in there.iter().filter(|point| Some(point.id) != last) {
            assert!(read(&store, point.id).unwrap() == self.story.points[&point.id].0, "{context}: at last");
        }
        assert!(store.verify(None, quietly()).unwrap().is_clean(), "{context}: at last");
        self.explored += 1;
    }

    /// The power is cut once more, while the store is being put in order.
    fn cut_again(&mut self, count: usize, seed: u64, after: &Folder, context: &str) {
        let tape = Tape::of(&after.path());
        let store =
            after.open_on(Storage::witnessed(tape.clone())).unwrap_or_else(|e| panic!("{context}: {e}"));
        if let Some(disk) = store.disks().unwrap().first() {
            store.resume_work(disk.id, quietly()).unwrap();
            store.collect().unwrap();
        }
        drop(store);
        let mut luck = Luck::new(seed ^ 0x5555);
        let second = (seed as usize * 7919) % (tape.len() + 1);
        let context = format!("{context}, again after change {second} of {}", tape.len());
        let last = Folder::in_memory();
        std::fs::create_dir(last.path()).unwrap();
        tape.cut(second, &after.path(), &last.path(), &mut luck);
        let store = last.try_open().unwrap_or_else(|e| panic!("{context}: {e}"));
        self.story.check(&store, count, &context);
        go_on(&store, &self.first(), &context);
        (self.explored, self.twice) = (self.explored + 1, self.twice + 1);
    }
}

fn explore(seeds: impl Fn(usize) -> std::ops::Range<u64>) {
    let mut explorer = Explorer::new();
    let changes = explorer.tape.len();
    for count in 0..=changes {
        for seed in seeds(count) {
            explorer.cut(count, seed);
        }
    }
    let Explorer { explored, twice, .. } = explorer;
    println!("power cuts: {explored} states of {changes} changes explored, {twice} with a second cut; 0 bad");
    assert!(changes > 300, "only {changes} changes were recorded");
}

#[test]
fn a_power_cut_after_any_change_loses_nothing_that_was_acknowledged() {
    // Another luck each time that the count goes on, the same ones in every run.
    explore(|count| count as u64..count as u64 + 1);
}

/// The long version: many kinds of luck for each change. `BLXREP_SOAK_SECONDS` turns it on.
#[test]
fn a_power_cut_after_any_change_many_times() {
    if std::env::var_os("BLXREP_SOAK_SECONDS").is_some() {
        explore(|_| 1000..1040);
    }
}

/// The exploration would find it if the store did not sync what it has to.
#[test]
fn a_forgotten_fsync_is_found() {
    for part_of_name in
        [".img.part", ".sum.part", ".bak.part", ".cst.part", ".redb", "/snapshot/", "/incremental/"]
    {
        let mut explorer = Explorer::with(Tape::forgetting(part_of_name));
        let changes = explorer.tape.len();
        let found = (0..=changes).rev().find(|count| {
            // Nothing of the explorer but its counts is left behind by a panic.
            let cut = std::panic::AssertUnwindSafe(|| explorer.cut_late(*count));
            std::panic::catch_unwind(cut).is_err()
        });
        assert!(found.is_some(), "no power cut shows that {part_of_name} is not synced");
        println!(
            "a forgotten fsync of {part_of_name} is found by a power cut after change {found:?} of {changes}"
        );
    }
}

#[test]
fn the_story_plays_without_a_cut() {
    let explorer = Explorer::new();
    let store = explorer.folder.open();
    explorer.story.check(&store, usize::MAX, "no cut");
    assert!(store.points(&PointFilter::default()).unwrap().len() == 1);
    assert_eq!(explorer.folder.files(".img").len(), 1);
}
