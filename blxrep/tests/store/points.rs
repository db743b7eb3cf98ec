//! Points are what was written, whatever comes after them.

use crate::fixture::*;
use blxrep::model::ids::PointId;
use blxrep::model::point::PointKind;
use blxrep::store::StoreError;
use blxrep::store::catalog::PointFilter;
use blxrep::store::continuity::{Continuity, Known};
use blxrep::store::delta::DeltaSpec;
use blxrep::view::reader::Content;
use proptest::prelude::*;

/// 40 granules and a sector more.
const DISK: usize = 40 * 4096 + 512;

#[test]
fn a_b_a_reads_a_b_a() {
    let folder = Folder::new();
    let store = folder.open();
    let a = noise(1, DISK);
    let mut b = a.clone();
    b[3 * 4096..5 * 4096].copy_from_slice(&noise(2, 2 * 4096));
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let points = [base(&store, disk, &a), delta(&store, disk, &b, &[3..5]), delta(&store, disk, &a, &[3..5])];
    for (point, content) in points.iter().zip([&a, &b, &a]) {
        assert_eq!(&read(&store, point.id).unwrap(), content);
    }
    let report = store.verify(None, quietly()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    drop(store);
    let store = folder.open();
    for (point, content) in points.iter().zip([&a, &b, &a]) {
        assert_eq!(&read(&store, point.id).unwrap(), content, "after a restart");
    }
    assert_eq!(store.newest_point(disk).unwrap().unwrap().id, points[2].id);
}

#[test]
fn rows_say_what_a_point_is() {
    let folder = Folder::new();
    let store = folder.open();
    let mut content = noise(1, DISK);
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let first = base(&store, disk, &content);
    content[..4096].fill(0);
    let second = delta(&store, disk, &content, &[0..1, 39..41]);
    assert_eq!((first.kind, first.parent, first.sequence), (PointKind::Base, None, 0));
    assert_eq!((second.kind, second.parent, second.sequence), (PointKind::Delta, Some(first.id), 1));
    assert_eq!((first.bytes, second.bytes), (DISK as u64, 2 * 4096 + 512));
    let all = store.points(&PointFilter::default()).unwrap();
    assert_eq!(all, vec![first.clone(), second.clone()]);
    let newest = PointFilter { newest: Some(1), disk: Some(disk), agent: None };
    assert_eq!(store.points(&newest).unwrap(), vec![second.clone()]);
    let of_another = PointFilter { agent: Some("web10".parse().unwrap()), ..PointFilter::default() };
    assert_eq!(store.points(&of_another).unwrap(), vec![]);
    assert_eq!(store.find_point(&second.id.to_string()[..12]).unwrap(), second);
    assert!(matches!(store.find_point("zz"), Err(StoreError::NotFound(_))));
    assert!(matches!(store.point(PointId(1)), Err(StoreError::NotFound(_))));
    assert_eq!(
        store
            .continuity(disk, &Known { epoch: EPOCH, acked: Some(second.id), open: None, matched: None })
            .unwrap(),
        Continuity::Continue { parent: second.id }
    );
}

#[test]
fn the_image_is_raw_and_sparse() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let store = folder.open();
    let mut content = vec![0; 4 << 20];
    content[1 << 20..(1 << 20) + 8192].copy_from_slice(&noise(1, 8192));
    let disk = add_disk(&store, content.len() as u64).unwrap().id;
    // First full of data, then zeroed in a round of the same image.
    let mut writer = store.begin_base(disk, spec(content.len() as u64)).unwrap();
    writer.write(0, &noise(2, content.len())).unwrap();
    writer.write_zeroes(0..content.len() as u64).unwrap();
    writer.write(1 << 20, &content[1 << 20..(1 << 20) + 8192]).unwrap();
    let point = publish(&store, writer.seal(summary(1)).unwrap()).unwrap();
    let image = folder.files(".img").remove(0);
    assert_eq!(std::fs::read(&image).unwrap(), content);
    assert!(std::fs::metadata(&image).unwrap().blocks() * 512 <= 64 << 10);
    let mut reader = store.open_point(point.id).unwrap();
    let data: u64 = reader
        .stretches()
        .map(Result::unwrap)
        .filter(|(_, content)| *content == Content::Data)
        .map(|(range, _)| range.end - range.start)
        .sum();
    assert!((8192..=64 << 10).contains(&data), "{data}");
}

#[test]
fn an_image_goes_on_where_it_was_durable() {
    let folder = Folder::new();
    let store = folder.open();
    let content = noise(3, DISK);
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let mut writer = store.begin_base(disk, spec(DISK as u64)).unwrap();
    let (point, generation) = (writer.point(), writer.generation());
    writer.write(0, &content[..8192]).unwrap();
    assert_eq!(writer.checkpoint().unwrap(), 8192);
    writer.write(8192, &content[8192..16384]).unwrap();
    assert_eq!((writer.durable(), writer.front()), (8192, 16384));
    drop(writer);
    drop(store);

    let (store, report) = folder.open_reported();
    assert_eq!(report.removed, Vec::<std::path::PathBuf>::new());
    let mut writer = store.begin_base(disk, spec(DISK as u64)).unwrap();
    assert_eq!((writer.point(), writer.generation(), writer.durable()), (point, generation, 8192));
    writer.write(8192, &content[8192..DISK - 512]).unwrap();
    let too_early = store.begin_base(disk, spec(DISK as u64)).unwrap_err();
    assert!(too_early.to_string().contains("open point"), "{too_early}");
    let error = writer.seal(summary(1)).unwrap_err();
    assert!(error.to_string().contains("not whole"), "{error}");

    // Another epoch begins again from nothing.
    let mut again = spec(DISK as u64);
    again.epoch = blxrep::model::ids::Epoch(99);
    let mut writer = store.begin_base(disk, again).unwrap();
    assert_eq!((writer.generation(), writer.durable()), (generation, 0));
    let other = noise(4, DISK - 4096);
    writer.write_zeroes(0..4096).unwrap();
    writer.write(4096, &other).unwrap();
    let point = publish(&store, writer.seal(summary(1)).unwrap()).unwrap();
    assert_eq!(read(&store, point.id).unwrap(), [vec![0; 4096], other].concat());
}

#[test]
fn data_that_is_no_whole_granules_is_refused() {
    let folder = Folder::new();
    let store = folder.open();
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let mut writer = store.begin_base(disk, spec(DISK as u64)).unwrap();
    for (at, len) in [(512, 4096), (0, 512), (40 * 4096, 4096), (u64::MAX - 511, 512), (0, 0)] {
        assert!(writer.write(at, &vec![1; len]).is_err(), "{at} {len}");
        assert!(writer.write_zeroes(at..at.saturating_add(len as u64)).is_err(), "{at} {len}");
    }
    drop(writer);
    let content = noise(1, DISK);
    let point = base(&store, disk, &content);
    let spec = DeltaSpec { point: PointId(5), parent: point.id, epoch: EPOCH };
    let mut writer = store.begin_delta(disk, spec).unwrap();
    assert!(append(&mut writer, &content, 512..4096, blxrep::model::encoding::Encoding::Raw).is_err());
    let raw = blxrep::model::encoding::Encoding::Raw;
    let damaged = writer.append(0..4096, raw, &content[..4096], 1).unwrap_err();
    assert!(damaged.to_string().contains("damaged on its way"), "{damaged}");
    append(&mut writer, &content, 0..8192, raw).unwrap();
    let error = writer.finish(summary(2), 3).unwrap_err();
    assert!(error.to_string().contains("2 granules and 3 were announced"), "{error}");
    assert_eq!(folder.files(".part"), Vec::<std::path::PathBuf>::new(), "an unfinished delta is gone");
    let stale = DeltaSpec { point: PointId(6), parent: PointId(6), epoch: EPOCH };
    assert!(store.begin_delta(disk, stale).is_err());
}

#[test]
fn a_group_is_published_together_or_not_at_all() {
    let folder = Folder::new();
    let store = folder.open();
    let content = noise(1, DISK);
    let one = add_disk(&store, DISK as u64).unwrap();
    let agent = "web10".parse().unwrap();
    let offer = blxrep::store::catalog::DiskOffer {
        agent: &agent,
        identity: &one.identity,
        device: "/dev/sda",
        bytes: DISK as u64,
        granule_shift: 12,
    };
    let two = store.upsert_disk(&offer, now()).unwrap();
    assert_ne!(one.id, two.id, "the same serial on another agent is another disk");
    let bases = [one.id, two.id].map(|disk| make_base(&store, disk, &content, 8192).unwrap());
    assert_eq!(store.publish(bases.into(), now()).unwrap().len(), 2);

    // The same point once more, as after a lost acknowledgement that nobody noticed.
    let id = delta(&store, two.id, &content, &[0..1]).id;
    let error = store.begin_delta(two.id, DeltaSpec { point: id, parent: id, epoch: EPOCH }).unwrap_err();
    assert!(error.to_string().contains("published already"), "{error}");
    // One id for two disks: the second cannot be published, so the first is not either.
    let before = store.points(&PointFilter::default()).unwrap();
    let twins = [one.id, two.id].map(|disk| {
        let parent = store.newest_point(disk).unwrap().unwrap().id;
        let spec = DeltaSpec { point: PointId(4), parent, epoch: EPOCH };
        let mut writer = store.begin_delta(disk, spec).unwrap();
        append(&mut writer, &content, 0..4096, blxrep::model::encoding::Encoding::Raw).unwrap();
        writer.finish(summary(3), 1).unwrap()
    });
    assert!(store.publish(twins.into(), now()).is_err());
    assert_eq!(store.points(&PointFilter::default()).unwrap(), before);
    assert_eq!(folder.files(".bak").len(), 1);
    assert_eq!(folder.files(".part"), Vec::<std::path::PathBuf>::new());
    drop(store);
    let (store, report) = folder.open_reported();
    assert_eq!(report.missing, Vec::<std::path::PathBuf>::new());
    for point in before {
        assert_eq!(read(&store, point.id).unwrap(), content);
    }
}

#[test]
fn a_resized_disk_goes_on_with_a_point_of_what_is_new() {
    let folder = Folder::new();
    let store = folder.open();
    let small = noise(1, DISK);
    let disk = add_disk(&store, DISK as u64).unwrap().id;
    let first = base(&store, disk, &small);
    let mut large = noise(2, DISK + 10 * 4096);
    large[8192..DISK].copy_from_slice(&small[8192..]);
    add_disk(&store, large.len() as u64).unwrap();
    // The granule that the end of the disk cut through is new as well.
    let (common, granules) = ((DISK as u64 / GRANULE) as u32, (large.len() as u64).div_ceil(GRANULE) as u32);
    assert!(make_delta(&store, disk, &large, &[0..2, common + 1..granules]).is_err());
    let second = delta(&store, disk, &large, &[0..2, common..granules]);
    let mut third_content = large.clone();
    third_content[..4096].fill(7);
    let third = delta(&store, disk, &third_content, &[0..1]);
    // Smaller again, and then larger: what was behind the end does not come back.
    let fourth_content = third_content[..5 * 4096 + 512].to_vec();
    add_disk(&store, fourth_content.len() as u64).unwrap();
    assert!(make_delta(&store, disk, &fourth_content, &[0..1]).is_err());
    let fourth = delta(&store, disk, &fourth_content, &[5..6]);
    let mut fifth_content = fourth_content.clone();
    fifth_content.resize(9 * 4096, 0);
    add_disk(&store, fifth_content.len() as u64).unwrap();
    let fifth = delta(&store, disk, &fifth_content, &[5..9]);
    let last = [(third, third_content), (fourth, fourth_content), (fifth, fifth_content)];
    for (point, content) in [(first, small), (second, large)].into_iter().chain(last) {
        assert_eq!(read(&store, point.id).unwrap(), content);
    }
    assert!(store.verify(None, quietly()).unwrap().is_clean());
}

#[test]
fn rounds_that_replaced_much_are_rewritten_without_it() {
    let folder = Folder::new();
    let store = folder.open();
    let disk = add_disk(&store, 8 << 20).unwrap().id;
    let mut content = noise(1, 8 << 20);
    let first = base(&store, disk, &content);
    let old = content.clone();
    // The same 4 MiB in five rounds, and pieces of it in a sixth.
    let spec = DeltaSpec { point: PointId(77), parent: first.id, epoch: EPOCH };
    let mut writer = store.begin_delta(disk, spec).unwrap();
    let raw = blxrep::model::encoding::Encoding::Raw;
    for round in 0..5 {
        content[..4 << 20].copy_from_slice(&noise(10 + round, 4 << 20));
        for at in (0..4u64 << 20).step_by(1 << 20) {
            append(&mut writer, &content, at..at + (1 << 20), raw).unwrap();
        }
    }
    for at in (0..4usize << 20).step_by(256 << 10) {
        content[at..at + 4096].fill(0);
        append(&mut writer, &content, at as u64..at as u64 + 4096, raw).unwrap();
    }
    let stored = writer.stored();
    let point = publish(&store, writer.finish(summary(2), 1024).unwrap()).unwrap();
    assert!(stored > 20 << 20 && point.stored < 5 << 20, "{stored} {}", point.stored);
    assert_eq!(read(&store, point.id).unwrap(), content);
    assert_eq!(read(&store, first.id).unwrap(), old);
    assert!(store.verify(None, quietly()).unwrap().is_clean());
    assert_eq!(folder.files(".part"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn disks_are_written_side_by_side() {
    let folder = Folder::new();
    let store = folder.open();
    let identity = blxrep::model::ids::DiskIdentity::Serial("x".to_owned());
    let (store, identity) = (&store, &identity);
    let back_up = move |number: u64| {
        // Two threads each register the same disk; only one makes points of it.
        let agent = format!("web{}", number / 2).parse().unwrap();
        let offer = blxrep::store::catalog::DiskOffer {
            agent: &agent,
            identity,
            device: "/dev/sda",
            bytes: DISK as u64,
            granule_shift: 12,
        };
        let disk = store.upsert_disk(&offer, now()).unwrap().id;
        let mut content = noise(number, DISK);
        let mut made = Vec::new();
        if number.is_multiple_of(2) {
            made.push((base(store, disk, &content).id, content.clone()));
            for step in 0..5 {
                content[..4096].copy_from_slice(&noise(number + 100 * step, 4096));
                made.push((delta(store, disk, &content, &[0..1]).id, content.clone()));
                assert!(store.verify(None, quietly()).unwrap().is_clean());
            }
        }
        made
    };
    let points: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || back_up(number))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(store.disks().unwrap().len(), 4);
    assert_eq!(points.len(), 24);
    for (point, content) in points {
        assert_eq!(read(store, point).unwrap(), content);
    }
}

/// What one point of the random model changes.
#[derive(Clone, Debug)]
struct Change {
    runs: Vec<(u32, u32)>,
    fill: u8,
    restart: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let runs = proptest::collection::vec((0u32..40, 1u32..12), 1..8);
    (runs, 0u8..4, any::<bool>()).prop_map(|(runs, fill, restart)| Change { runs, fill, restart })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn points_equal_an_oracle(
        sectors in 1usize..320,
        chunk in 1usize..20,
        changes in proptest::collection::vec(change(), 0..7),
    ) {
        let folder = Folder::in_memory();
        let mut store = folder.open();
        let bytes = sectors * 512;
        let granules = (bytes as u64).div_ceil(GRANULE) as u32;
        let mut content = noise(1, bytes);
        content[..bytes / 3].fill(0);
        let disk = add_disk(&store, bytes as u64).unwrap().id;
        let first = make_base(&store, disk, &content, chunk * 4096).unwrap();
        let mut oracle = vec![(publish(&store, first).unwrap().id, content.clone())];
        for (number, change) in changes.into_iter().enumerate() {
            let mut runs = Vec::new();
            for (start, len) in change.runs {
                let run = start.min(granules - 1)..(start + len).min(granules);
                let run = run.start..run.end.max(run.start + 1);
                let range = run.start as usize * 4096..(run.end as usize * 4096).min(bytes);
                match change.fill {
                    0 => content[range].fill(0),
                    1 => content[range].fill(0x55),
                    _ => {
                        let fresh = noise(number as u64 + 5, range.len());
                        content[range].copy_from_slice(&fresh);
                    }
                }
                runs.push(run);
            }
            // Everything is sent as it is at the end: what an earlier run of the list held is replaced.
            oracle.push((delta(&store, disk, &content, &runs).id, content.clone()));
            if change.restart {
                drop(store);
                store = folder.open();
            }
        }
        for (point, content) in &oracle {
            prop_assert_eq!(&read(&store, *point).unwrap(), content);
            let mut reader = store.open_point(*point).unwrap();
            let mut at = 0;
            while let Some((range, kind)) = reader.next_stretch(at).unwrap() {
                let bytes = &content[range.start as usize..range.end as usize];
                prop_assert!(kind == Content::Data || bytes.iter().all(|b| *b == 0));
                prop_assert_eq!(range.start, at);
                at = range.end;
            }
            prop_assert_eq!(at, content.len() as u64);
        }
        let report = store.verify(None, quietly()).unwrap();
        prop_assert!(report.is_clean(), "{:?}", report);
    }
}
