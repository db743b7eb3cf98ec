//! The order checker accepts every state that a crash can leave, and rejects everything else.
//!
//! Histories are simulated: a disk that applies writes sector by sector, cut off at a chosen time. The last test uses
//! real writers and a real, naive copier.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the test may")]

mod support;

use anyhow::{Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use support::order::{GRANULE, History, SECTOR, Verdict, Violation, Window, Write, fill};
use support::stamper::{Plan, Random, Stamper};

const GRANULES: u64 = 16;
const DISKS: u32 = 2;

/// A log of overlapping writes to two small disks, and what a crash leaves of it.
struct Simulation {
    log: Vec<Write>,
    random: Random,
}

impl Simulation {
    /// Times advance by one per event; up to 6 writes are in flight, never two in one granule.
    fn new(seed: u64, writes: usize) -> Self {
        let mut random = Random(seed);
        let mut log: Vec<Write> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut clock = 0;
        while log.len() < writes || !open.is_empty() {
            clock += 1;
            if open.len() == 6 || log.len() == writes || (!open.is_empty() && random.below(2) == 0) {
                let ended = open.swap_remove(usize::try_from(random.below(open.len() as u64)).unwrap());
                log[ended].completed = clock;
                continue;
            }
            let granules = 1 + random.below(3);
            let granule = random.below(GRANULES - granules + 1);
            let disk = u32::try_from(random.below(u64::from(DISKS))).unwrap();
            let meets = |w: &Write| {
                w.disk == disk
                    && w.granule < granule + granules
                    && granule < w.granule + u64::from(w.granules)
            };
            if open.iter().any(|i| meets(&log[*i])) {
                continue;
            }
            open.push(log.len());
            log.push(Write {
                sequence: log.len() as u64 + 1,
                writer: 0,
                disk,
                granule,
                granules: u32::try_from(granules).unwrap(),
                issued: clock,
                completed: u64::MAX,
            });
        }
        Self { log, random }
    }

    fn end(&self) -> u64 {
        self.log.iter().map(|w| w.completed).max().unwrap()
    }

    /// The disks after a crash at `time`: completed writes whole, those in flight in any part, sector by sector.
    fn crash(&mut self, time: u64) -> Vec<Vec<u8>> {
        let mut images = vec![vec![0; usize::try_from(GRANULES).unwrap() * GRANULE]; DISKS as usize];
        let mut log = self.log.clone();
        log.sort_by_key(|w| w.issued);
        for write in log.iter().filter(|w| w.issued <= time) {
            let torn = write.completed >= time;
            apply(&mut images[write.disk as usize], write, |_| !torn || self.random.below(2) == 0);
        }
        images
    }

    fn history(&self) -> History {
        History::new(&self.log, DISKS as usize).unwrap()
    }
}

/// Puts those sectors of a write on an image that `keep` says.
fn apply(image: &mut [u8], write: &Write, mut keep: impl FnMut(usize) -> bool) {
    let mut block = vec![0; write.granules as usize * GRANULE];
    fill(&mut block, write.disk, write.granule, write.writer, write.sequence);
    let start = usize::try_from(write.granule).unwrap() * GRANULE;
    for (index, sector) in block.chunks(SECTOR).enumerate().filter(|(index, _)| keep(*index)) {
        image[start + index * SECTOR..][..SECTOR].copy_from_slice(sector);
    }
}

fn judge(history: &History, images: &[Vec<u8>]) -> Verdict {
    judge_within(history, images, Window::ANY)
}

fn judge_within(history: &History, images: &[Vec<u8>], window: Window) -> Verdict {
    let mut readers: Vec<_> = (0..).zip(images.iter().map(Vec::as_slice)).collect();
    history.check(&mut readers, window).unwrap()
}

/// One write of one granule of disk 0.
fn single(sequence: u64, granule: u64, issued: u64, completed: u64) -> Write {
    Write { sequence, writer: 0, disk: 0, granule, granules: 1, issued, completed }
}

#[test]
fn every_crash_state_is_accepted() {
    let (mut torn, mut stamped) = (0, 0);
    for seed in 0..200 {
        let mut run = Simulation::new(seed, 120);
        let history = run.history();
        for time in (0..=run.end()).step_by(7) {
            let images = run.crash(time);
            let verdict = judge_within(&history, &images, Window { from: time, until: time });
            assert!(verdict.is_legal(), "seed {seed}, crash at {time}: {verdict}");
            torn += verdict.torn_granules;
            stamped += verdict.stamped;
        }
    }
    assert!(torn > 1000 && stamped > torn, "the simulation must leave torn granules: {torn} of {stamped}");
}

/// Takes one visible, completed write back out of its granule, while later ones elsewhere stay.
#[test]
fn a_missing_write_is_found_wherever_it_was() {
    let covers = |w: &Write, v: &Write| {
        w.disk == v.disk && (w.granule..w.granule + u64::from(w.granules)).contains(&v.granule)
    };
    let mut found = 0;
    for seed in 0..200 {
        let mut run = Simulation::new(seed, 120);
        let history = run.history();
        let time = run.end() / 2;
        let mut images = run.crash(time);
        let latest = judge(&history, &images).at;
        let on_top =
            |v: &&Write| !run.log.iter().any(|w| covers(w, v) && (v.issued + 1..=time).contains(&w.issued));
        let done = run.log.iter().filter(|w| w.completed < latest && w.granules == 1);
        let Some(victim) = done.filter(on_top).max_by_key(|w| w.completed) else {
            continue;
        };
        let mut before = vec![0; images[0].len()];
        let older = run.log.iter().filter(|w| covers(w, victim) && w.issued < victim.issued);
        if let Some(previous) = older.max_by_key(|w| w.issued) {
            apply(&mut before, previous, |_| true);
        }
        let start = usize::try_from(victim.granule).unwrap() * GRANULE;
        images[victim.disk as usize][start..start + GRANULE].copy_from_slice(&before[start..start + GRANULE]);
        let verdict = judge(&history, &images);
        assert!(!verdict.is_legal(), "seed {seed}: write {} was taken out unseen", victim.sequence);
        found += 1;
    }
    assert!(found > 150, "only {found} of 200 histories had a write to take out");
}

#[test]
fn order_matters_only_where_it_was_certain() {
    // 1 completes before 2 is issued; 3 overlaps 2.
    let log = [single(1, 0, 10, 20), single(2, 1, 30, 50), single(3, 2, 40, 60)];
    let history = History::new(&log, 1).unwrap();
    let with = |shown: &[usize]| {
        let mut image = vec![0; 4 * GRANULE];
        shown.iter().for_each(|i| apply(&mut image, &log[*i], |_| true));
        judge(&history, &[image])
    };
    for legal in [&[][..], &[0], &[0, 1], &[0, 2], &[0, 1, 2]] {
        assert!(with(legal).is_legal(), "{legal:?}: {}", with(legal));
    }
    for illegal in [&[1][..], &[2], &[1, 2]] {
        let verdict = with(illegal);
        assert!(
            matches!(verdict.examples[..], [Violation::Missing(m)] if m.missing.sequence == 1),
            "{verdict}"
        );
    }
}

#[test]
fn a_tear_is_legal_only_while_the_write_was_in_flight() {
    let log = [single(1, 0, 10, 20), single(2, 0, 30, 40), single(3, 1, 35, 50), single(4, 2, 45, 60)];
    let history = History::new(&log, 1).unwrap();
    let torn_with = |later: usize| {
        let mut image = vec![0; 4 * GRANULE];
        apply(&mut image, &log[0], |_| true);
        apply(&mut image, &log[1], |sector| sector < 3);
        apply(&mut image, &log[later], |_| true);
        judge(&history, &[image])
    };
    let in_flight = torn_with(2);
    assert!(in_flight.is_legal() && in_flight.torn_granules == 1, "{in_flight}");
    let long_done = torn_with(3);
    assert!(!long_done.is_legal() && long_done.torn_granules == 1, "{long_done}");
    // A tear between writes that are not neighbours is never legal.
    let log = [single(1, 0, 10, 20), single(2, 0, 30, 40), single(3, 0, 50, 60)];
    let mut image = vec![0; GRANULE];
    apply(&mut image, &log[0], |_| true);
    apply(&mut image, &log[2], |sector| sector % 2 == 0);
    assert!(!judge(&History::new(&log, 1).unwrap(), &[image]).is_legal());
}

#[test]
fn a_sector_torn_inside_is_counted_apart() {
    let log = [single(1, 0, 10, 20), single(2, 0, 30, 40)];
    let mut image = vec![0; GRANULE];
    apply(&mut image, &log[0], |_| true);
    let mut newer = vec![0; GRANULE];
    apply(&mut newer, &log[1], |_| true);
    image[..64].copy_from_slice(&newer[..64]);
    let verdict = judge(&History::new(&log, 1).unwrap(), &[image]);
    assert_eq!((verdict.is_legal(), verdict.torn_granules, verdict.torn_sectors), (true, 1, 1));
}

/// Each disk alone is a state it had, together they are not.
#[test]
fn disks_of_a_group_are_judged_together() {
    let mut rejected = 0;
    for seed in 0..50 {
        let mut run = Simulation::new(seed, 200);
        let history = run.history();
        let (early, late) = (run.crash(run.end() / 4), run.crash(run.end() / 2));
        for (disk, image) in (0..).zip(&early) {
            assert!(history.check(&mut [(disk, image.as_slice())], Window::ANY).unwrap().is_legal());
        }
        let mixed = vec![early[0].clone(), late[1].clone()];
        rejected += u32::from(!judge(&history, &mixed).is_legal());
    }
    assert_eq!(rejected, 50);
}

#[test]
fn stale_and_future_states_are_rejected_by_their_window() {
    let mut run = Simulation::new(7, 120);
    let history = run.history();
    let middle = run.end() / 2;
    let images = run.crash(middle);
    assert!(judge_within(&history, &images, Window { from: middle, until: middle }).is_legal());
    let stale = judge_within(&history, &images, Window { from: run.end() + 1, until: u64::MAX });
    assert!(matches!(stale.examples[0], Violation::Missing(_)), "{stale}");
    let future = judge_within(&history, &images, Window { from: 0, until: middle / 2 });
    assert!(matches!(future.examples[0], Violation::Future { .. }), "{future}");
    let empty = vec![vec![0; images[0].len()]; 2];
    assert!(judge(&history, &empty).is_legal());
    assert!(!judge_within(&history, &empty, Window { from: middle, until: u64::MAX }).is_legal());
}

#[test]
fn strange_content_is_named() {
    let log = [single(1, 0, 10, 20), single(2, 3, 30, 40)];
    let history = History::new(&log, 1).unwrap();
    let mut right = vec![0; 4 * GRANULE];
    log.iter().for_each(|w| apply(&mut right, w, |_| true));
    assert!(judge(&history, std::slice::from_ref(&right)).is_legal());
    let spoilt = |spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut image = right.clone();
        spoil(&mut image);
        judge(&history, &[image]).examples
    };
    let moved = spoilt(&|image| image.copy_within(..GRANULE, GRANULE));
    assert!(matches!(moved[..], [Violation::Foreign { granule: 1, .. }]), "{moved:?}");
    let flipped = spoilt(&|image| image[100] ^= 1);
    assert!(matches!(
        flipped[0],
        Violation::Foreign { granule: 0, .. } | Violation::Unlogged { granule: 0, .. }
    ));
    let unlogged = spoilt(&|image| apply(image, &single(9, 0, 1, 2), |_| true));
    assert!(matches!(unlogged[..], [Violation::Unlogged { sequence: 9, .. }, ..]), "{unlogged:?}");
    let short = spoilt(&|image| image.truncate(2 * GRANULE));
    assert!(matches!(short[..], [Violation::Short { granules: 2, .. }]), "{short:?}");
}

#[test]
fn writers_that_break_their_promise_are_refused() {
    let overlapping = [single(1, 0, 10, 30), single(2, 0, 20, 40)];
    assert!(History::new(&overlapping, 1).is_err());
    assert!(History::new(&[Write { disk: 1, ..single(1, 0, 1, 2) }], 1).is_err());
}

/// The naive way to make a point: read everything in a row while writes go on. The checker must reject each one, and
/// must accept a copy made after the writers have stopped.
#[test]
fn a_naive_copier_is_caught_every_time() -> Result<()> {
    const BYTES: usize = 16 << 20;
    const SLICES: usize = 64;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("disk");
    let source = File::create_new(&path)?;
    source.set_len(BYTES as u64)?;
    let source = File::open(&path)?;
    let writers = Stamper::start(&[&path], Plan { rate: None, ..Plan::default() })?;
    let mut copies = Vec::new();
    for _ in 0..5 {
        let from = writers.now();
        let mut copy = vec![0; BYTES];
        for slice in 0..SLICES {
            let at = slice * (BYTES / SLICES);
            source.read_exact_at(&mut copy[at..at + BYTES / SLICES], at as u64)?;
            writers.wait_for(20)?;
        }
        copies.push((copy, Window { from, until: writers.now() }));
    }
    let log = writers.stop()?;
    let history = History::new(&log, 1)?;
    for (number, (copy, window)) in copies.iter().enumerate() {
        let verdict = history.check(&mut [(0, copy.as_slice())], *window)?;
        ensure!(!verdict.is_legal(), "naive copy {number} passed: {verdict}");
        println!("naive copy {number}: {} of {} granules misplaced", verdict.violations, BYTES / GRANULE);
    }
    let end = Window { from: log.iter().map(|w| w.completed).max().unwrap_or(0), until: u64::MAX };
    let mut quiesced = vec![0; BYTES];
    source.read_exact_at(&mut quiesced, 0)?;
    let verdict = history.check(&mut [(0, quiesced.as_slice())], end)?;
    ensure!(verdict.is_legal(), "a copy of the quiesced disk was rejected: {verdict}");
    Ok(())
}
