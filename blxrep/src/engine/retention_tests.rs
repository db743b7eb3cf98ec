//! A year by a clock that is only said, and random histories against rules that are only written down.

use super::*;
use proptest::prelude::*;

const EPOCH: i64 = 1_767_225_600; // 2026-01-01, a Thursday.

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(EPOCH + second).unwrap()
}

fn candidate(id: u64, second: i64) -> Candidate {
    Candidate {
        point: PointId(id),
        disk: DiskId(1),
        generation: GenerationId(1),
        sequence: id,
        number: id,
        cut: CutId(id),
        published: at(second),
        is_base: id == 0,
        is_fuzzy: false,
        is_viewed: false,
        is_restored: false,
        stored: 10,
        held: 20,
    }
}

/// Carries out steps on points alone, as strictly as the store does.
fn carry_out(points: &mut Vec<Candidate>, steps: &[Planned]) {
    for Planned { disk, step, .. } in steps {
        let of = |p: &Candidate| p.disk == *disk && p.generation == step.generation();
        let mut family: Vec<Candidate> = points.iter().copied().filter(of).collect();
        family.sort_by_key(|p| p.sequence);
        let position = |id: &PointId| family.iter().position(|p| p.point == *id).unwrap();
        let dropped: Vec<PointId> = match step {
            Step::Expire { .. } => family.iter().map(|p| p.point).collect(),
            Step::Trim { points, .. } => {
                assert_eq!(position(&points[0]) + points.len(), family.len());
                assert!(position(&points[0]) > 0);
                points.clone()
            }
            Step::Merge { points, into, .. } => {
                assert!(points.len() < MERGE_AT_ONCE && !points.is_empty());
                assert!(position(&points[0]) > 0, "the base is no delta");
                assert_eq!(position(&points[0]) + points.len(), position(into));
                points.clone()
            }
            Step::Fold { base, into, .. } => {
                assert_eq!((position(base), position(into)), (0, 1));
                vec![*base]
            }
        };
        points.retain(|p| !dropped.contains(&p.point));
        if let Step::Fold { into, .. } = step {
            points.iter_mut().filter(|p| p.point == *into).for_each(|p| p.is_base = true);
        }
    }
}

/// Plans and carries out until nothing is left to do; says how often.
fn consolidate(now: Timestamp, rules: &Retention, points: &mut Vec<Candidate>) -> u32 {
    for round in 0..20 {
        let planned = plan(now, rules, points, u64::MAX);
        if planned.steps.is_empty() {
            assert_eq!(planned.dropped(), 0, "what should go has no step");
            return round;
        }
        carry_out(points, &planned.steps);
    }
    panic!("it never ends");
}

#[test]
fn a_year_of_points_thins_out_as_the_table_says() {
    let rules = Retention::default();
    // Every second for the first half hour, then every ten minutes.
    let seconds = (0..1800).chain((1800..365 * 86_400).step_by(600));
    let hour = 3600;
    let day = 86_400;
    // Seconds since the first point, and how many there are then.
    let table = [
        (1799, 600 + 1 + 20),
        (2 * hour, 30 + 9 + 1),
        (2 * day, 12 + 48 + 1),
        (30 * day, 12 + 48 + 29),
        (364 * day, 12 + 48 + 29 + 48),
    ];
    let mut points = Vec::new();
    let mut found = Vec::new();
    for (id, second) in (0..).zip(seconds) {
        points.push(candidate(id, second));
        let is_listed = table.iter().any(|(at, _)| *at == second);
        if second % (6 * hour) == 0 || is_listed || points.len() > 1500 {
            consolidate(at(second), &rules, &mut points);
        }
        if is_listed {
            found.push((second, points.len()));
        }
        assert!(points.len() <= 1500, "{} points after {second} s", points.len());
    }
    println!("second, points: {found:?}");
    for ((second, wanted), (_, count)) in table.into_iter().zip(&found) {
        // The edges of spans are within an hour, a day or a week.
        assert!(count.abs_diff(wanted) <= 5, "{count} points after {second} s, not about {wanted}");
    }
}

#[test]
fn points_every_second_stay_bounded() {
    let rules = Retention::default();
    let mut points = Vec::new();
    for second in 0..3 * 3600 {
        points.push(candidate(second as u64, second));
        if second % 64 == 0 {
            consolidate(at(second), &rules, &mut points);
            assert!(points.len() <= 850, "{} points after {second} s", points.len());
        }
    }
    let rules = Retention { max_points: 100, ..rules };
    consolidate(at(3 * 3600), &rules, &mut points);
    assert_eq!(points.len(), 100);
    assert_eq!(points.last().unwrap().published, at(3 * 3600 - 1));
}

/// A fold that does not come to its end keeps its generation, but not for ever.
#[test]
fn a_generation_without_its_base_still_expires() {
    let rules = Retention { delete_after: Some(Duration::from_secs(3600)), ..Retention::default() };
    let of = |generation, second| Candidate {
        generation: GenerationId(generation),
        is_base: generation == 2 && second == 5000,
        ..candidate(second as u64, second)
    };
    let points = [of(1, 10), of(1, 20), of(2, 5000)];
    let young = plan(at(3000), &rules, &points, u64::MAX);
    assert_eq!(young.steps, [], "one of its points stays");
    let old = plan(at(5000), &rules, &points, u64::MAX);
    let steps: Vec<Step> = old.steps.into_iter().map(|planned| planned.step).collect();
    assert_eq!(steps, [Step::Expire { generation: GenerationId(1) }]);
}

#[test]
fn where_there_is_little_room_little_is_done_at_a_time() {
    let rules = Retention { max_points: 2, ..Retention::default() };
    let all: Vec<Candidate> = (0..40).map(|id| candidate(id, id as i64)).collect();
    for (room, left) in [(0, 40), (19, 40), (20, 2), (35, 2), (u64::MAX, 2)] {
        let mut points = all.clone();
        for _ in 0..40 {
            let planned = plan(at(100), &rules, &points, room);
            assert!(planned.steps.iter().all(|step| step.room <= room), "{room}: {planned:?}");
            carry_out(&mut points, &planned.steps);
        }
        assert_eq!(points.len(), left, "with room for {room} bytes");
    }
    // What only frees room needs none.
    let of_older = Candidate { generation: GenerationId(2), sequence: 0, is_base: true, ..all[39] };
    let points: Vec<Candidate> = all[..2].iter().copied().chain([of_older]).collect();
    let planned = plan(at(100), &Retention { max_points: 1, ..rules }, &points, 0);
    assert!(matches!(planned.steps[..], [Planned { step: Step::Expire { .. }, .. }]), "{planned:?}");
}

#[test]
fn a_long_run_is_merged_in_several_passes() {
    let rules = Retention {
        all: Duration::ZERO,
        minutely: Duration::ZERO,
        hourly: Duration::ZERO,
        ..Retention::default()
    };
    let mut points: Vec<Candidate> = (0..5000).map(|id| candidate(id, id as i64)).collect();
    assert_eq!(consolidate(at(5000), &rules, &mut points), 2);
    assert_eq!(points.iter().map(|p| p.point.0).collect::<Vec<_>>(), [0, 4999]);
    points[0].published = at(-40 * 86_400);
    let rules = Retention { weekly: Duration::ZERO, ..rules };
    consolidate(at(5000), &rules, &mut points);
    assert_eq!(points.len(), 1);
    assert!(points[0].is_base);
}

#[test]
fn disks_of_one_cut_keep_the_same_points() {
    let rules = Retention { all: Duration::ZERO, minutely: Duration::ZERO, ..Retention::default() };
    let mut points = Vec::new();
    for second in (0..86_400).step_by(300) {
        let id = second as u64;
        points.push(candidate(id, second));
        let second_disk =
            Candidate { point: PointId(1 << 40 | id), disk: DiskId(2), ..candidate(id, second) };
        points.push(second_disk);
        // A point of its own now and then, older within its hour.
        if second % 7200 == 300 {
            let own = PointId(1 << 50 | id);
            let cut = CutId(1 << 50 | id);
            points.push(Candidate {
                point: own,
                cut,
                sequence: id - 1,
                published: at(second - 300),
                ..second_disk
            });
        }
    }
    let planned = plan(at(86_400), &rules, &points, u64::MAX);
    let kept = |disk: u64| -> Vec<CutId> {
        let kept = planned.verdicts.iter().zip(&points);
        kept.filter(|(v, p)| v.reason.keeps() && p.disk == DiskId(disk)).map(|(_, p)| p.cut).collect()
    };
    assert_eq!(kept(1), kept(2));
    assert_eq!(kept(1).len(), 25);
}

#[test]
fn nothing_goes_by_the_clock_alone_but_what_is_to_be_deleted() {
    let rules = Retention::default();
    let points: Vec<Candidate> = (0..50).map(|id| candidate(id, id as i64)).collect();
    let later = at(10_000 * 86_400);
    assert_eq!(plan(later, &rules, &points, u64::MAX).dropped(), 0, "the agent was off for years");
    assert_eq!(plan(at(-86_400), &rules, &points, u64::MAX).dropped(), 0, "the clock was set back");
    let rules = Retention { delete_after: Some(Duration::from_secs(86_400)), ..rules };
    let planned = plan(later, &rules, &points, u64::MAX);
    assert_eq!(planned.dropped(), 49);
    assert!(planned.verdicts[..49].iter().all(|v| v.reason == Reason::Expired));
}

#[test]
fn the_newest_is_what_was_published_last_whatever_the_clock_said() {
    let rules = Retention { all: Duration::ZERO, max_points: 1, ..Retention::default() };
    let mut points: Vec<Candidate> = (0..6).map(|id| candidate(id, 1000 + id as i64)).collect();
    points[5].published = at(10);
    let planned = plan(at(2000), &rules, &points, u64::MAX);
    assert_eq!(planned.verdicts[5].reason, Reason::Newest);
    assert_eq!(consolidate(at(2000), &rules, &mut points), 1);
    assert_eq!(points.iter().map(|p| p.point.0).collect::<Vec<_>>(), [5]);
}

#[test]
fn a_proven_point_stands_for_its_hour_and_a_viewed_one_stays() {
    let rules = Retention { all: Duration::ZERO, minutely: Duration::ZERO, ..Retention::default() };
    let mut points: Vec<Candidate> = (0..8).map(|id| candidate(id, id as i64 * 400)).collect();
    points[0].is_fuzzy = true;
    points[5].is_viewed = true;
    let reasons: Vec<Reason> =
        plan(at(10_000), &rules, &points, u64::MAX).verdicts.iter().map(|v| v.reason).collect();
    use Reason::{Newest, NotNeeded, OneOf, Viewed};
    let week = OneOf(Bucket::Week);
    assert_eq!(reasons, [NotNeeded, week, NotNeeded, NotNeeded, NotNeeded, Viewed, NotNeeded, Newest]);
}

fn any_rules() -> impl Strategy<Value = Retention> {
    let span = |most: u64| (0..most).prop_map(Duration::from_secs);
    let delete_after = proptest::option::of(span(40 * 86_400));
    (span(4000), span(20_000), span(300_000), span(4_000_000), span(9_000_000), delete_after, 1usize..60)
        .prop_map(|(all, minutely, hourly, daily, weekly, delete_after, max_points)| Retention {
            all,
            minutely,
            hourly,
            daily,
            weekly,
            delete_after,
            max_points,
        })
}

fn any_points() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (
        0u64..20_000,
        0u64..3,
        any::<bool>(),
        proptest::bool::weighted(0.05),
        proptest::bool::weighted(0.02),
    );
    proptest::collection::vec(one, 1..120).prop_map(|steps| {
        let mut points = Vec::new();
        let mut second = 0;
        let mut state = [(1u64, 0u64); 2];
        for (id, (gap, disk, fuzzy, viewed, anew)) in (0u64..).zip(steps) {
            second += gap as i64 * gap as i64 / 4000;
            // Disk 2 stands for a cut of both.
            for disk in if disk == 2 { vec![0, 1] } else { vec![disk] } {
                let (generation, next) = &mut state[disk as usize];
                if anew && *next > 0 {
                    (*generation, *next) = (*generation + 1, 0);
                }
                points.push(Candidate {
                    point: PointId(id * 2 + disk),
                    disk: DiskId(disk),
                    generation: GenerationId(*generation * 2 + disk),
                    sequence: *next,
                    number: id,
                    cut: CutId(id),
                    published: at(second),
                    is_base: *next == 0,
                    is_fuzzy: fuzzy,
                    is_viewed: viewed,
                    is_restored: false,
                    stored: 1,
                    held: 20,
                });
                *next += 1;
            }
        }
        points
    })
}

/// What has to be kept, said as plainly as can be: for each point, whether some rule wants it.
fn wanted(now: Timestamp, rules: &Retention, points: &[Candidate], p: &Candidate) -> bool {
    let same_disk = || points.iter().filter(|o| o.disk == p.disk);
    if p.is_viewed || same_disk().all(|o| o.number <= p.number) {
        return true;
    }
    let reference = points.iter().map(|o| o.published).max().unwrap().min(now);
    let age = |from: Timestamp, o: &Candidate| from.as_second() - o.published.as_second();
    let within = |o: &Candidate, span: Duration| age(reference, o) <= span.as_secs() as i64;
    if rules.delete_after.is_some_and(|span| age(now, p) > span.as_secs() as i64) {
        return false;
    }
    if within(p, rules.all) {
        return true;
    }
    let quality = |o: &Candidate| {
        let of_cut: Vec<&Candidate> = points.iter().filter(|x| x.cut == o.cut).collect();
        (of_cut.iter().any(|x| x.is_fuzzy), usize::MAX - of_cut.len(), o.published, o.sequence, o.point)
    };
    let second = |o: &Candidate| o.published.as_second();
    let weeks = |seconds: i64| (seconds + 3 * 86_400) / 604_800;
    let spans = [
        (rules.minutely, second(p) / 60 * 60, 60),
        (rules.hourly, second(p) / 3600 * 3600, 3600),
        (rules.daily, second(p) / 86_400 * 86_400, 86_400),
        (rules.weekly, weeks(second(p)) * 604_800 - 3 * 86_400, 604_800),
    ];
    spans.iter().any(|(span, start, length)| {
        let beside = |o: &Candidate| (*start..start + length).contains(&second(o)) && within(o, *span);
        within(p, *span) && same_disk().filter(|o| beside(o)).all(|o| quality(o) >= quality(p))
    })
}

proptest! {
    #[test]
    fn what_is_kept_is_what_a_rule_wants(rules in any_rules(), points in any_points(), late in 0i64..900_000) {
        let now = points.last().unwrap().published + SignedDuration::from_secs(late);
        let uncapped = Retention { max_points: usize::MAX, ..rules };
        let planned = plan(now, &uncapped, &points, u64::MAX);
        for (verdict, point) in planned.verdicts.iter().zip(&points) {
            prop_assert_eq!(verdict.reason.keeps(), wanted(now, &rules, &points, point), "{:?} {:?}", verdict, point);
        }
    }

    #[test]
    fn carried_out_a_plan_leaves_what_is_kept(rules in any_rules(), points in any_points()) {
        let now = points.last().unwrap().published;
        let kept: Vec<PointId> =
            plan(now, &rules, &points, u64::MAX).verdicts.iter().filter(|v| v.reason.keeps()).map(|v| v.point).collect();
        let mut left = points.clone();
        carry_out(&mut left, &plan(now, &rules, &points, u64::MAX).steps);
        let mut ids: Vec<PointId> = left.iter().map(|p| p.point).collect();
        prop_assert_eq!(&ids, &kept);
        consolidate(now, &rules, &mut left);
        ids.retain(|id| left.iter().any(|p| p.point == *id));
        for disk in [DiskId(0), DiskId(1)] {
            let of_disk = points.iter().filter(|p| p.disk == disk);
            let newest = of_disk.max_by_key(|p| p.number).map(|p| p.point);
            prop_assert!(newest.is_none_or(|newest| ids.contains(&newest)));
        }
    }
}
