use super::*;
use crate::archive::Time;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A target beside a folder that must stay empty.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, policy: Policy) -> Target {
        Target::new(Root::open(&self.path("target")).unwrap(), policy, false).unwrap()
    }

    fn outside(&self) -> usize {
        fs::read_dir(self.path("outside")).unwrap().count()
    }
}

fn entry(name: &str, kind: Kind) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mtime = Time { seconds: 1_000_000_000, nanos: 123_456_789 };
    let meta = Meta { mode: 0o750, uid, gid, mtime, atime: mtime, xattrs: Vec::new() };
    Entry { name: Name::new(name.as_bytes()).unwrap(), kind, meta, link: None }
}

fn folder(name: &str) -> Entry {
    entry(name, Kind::Folder { selected: true })
}

fn give(target: &mut Target, name: &str, content: &[u8]) {
    let file = entry(name, Kind::File { bytes: content.len() as u64 });
    if target.entry(&file).unwrap() == Want::Content {
        target.data(0, content).unwrap();
        target.end_file().unwrap();
    }
}

const ALL: [Policy; 3] = [Policy::Skip, Policy::Overwrite, Policy::Rename];

#[test]
fn links_in_the_target_lead_nowhere() {
    for policy in ALL {
        let fixture = Fixture::new();
        symlink(fixture.path("outside"), fixture.path("target/folder")).unwrap();
        symlink(fixture.path("outside/file"), fixture.path("target/file")).unwrap();
        let mut target = fixture.open(policy);
        if target.entry(&folder("folder")).unwrap() == Want::Content {
            give(&mut target, "inner", b"x");
            target.leave().unwrap();
        }
        give(&mut target, "file", b"x");
        target.end().unwrap();
        assert_eq!(fixture.outside(), 0, "{policy:?}");
        assert!(!fixture.path("target").join(STAGING).exists());
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_takes_nothing_with_it() {
    let fixture = Fixture::new();
    let mut target = fixture.open(Policy::Overwrite);
    assert_eq!(target.entry(&folder("a")).unwrap(), Want::Content);
    fs::rename(fixture.path("target/a"), fixture.path("target/moved")).unwrap();
    symlink(fixture.path("outside"), fixture.path("target/a")).unwrap();
    give(&mut target, "file", b"x");
    target.entry(&folder("b")).unwrap();
    give(&mut target, "file", b"x");
    target.leave().unwrap();
    target.leave().unwrap();
    target.end().unwrap();
    assert_eq!(fixture.outside(), 0);
    assert_eq!(fs::read(fixture.path("target/moved/b/file")).unwrap(), b"x");
}

#[test]
fn half_a_file_is_never_seen() {
    let fixture = Fixture::new();
    let mut target = fixture.open(Policy::Skip);
    target.entry(&entry("half", Kind::File { bytes: 4 })).unwrap();
    target.data(0, b"ha").unwrap();
    assert!(!fixture.path("target/half").exists());
    target.failed(None, "rotten").unwrap();
    target.entry(&entry("other", Kind::File { bytes: 4 })).unwrap();
    assert_eq!(target.report().failed, 1);
    drop(target);
    assert_eq!(fs::read_dir(fixture.path("target")).unwrap().count(), 0, "something was left behind");
}

#[test]
fn times_and_permissions_of_folders_are_set_when_they_are_left() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let mut target = fixture.open(Policy::Skip);
    target.entry(&folder("a")).unwrap();
    give(&mut target, "file", b"content");
    target.leave().unwrap();
    target.end().unwrap();
    for name in ["target/a", "target/a/file"] {
        let meta = fs::metadata(fixture.path(name)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 123_456_789), "{name}");
        assert_eq!(meta.mode() & 0o7777, 0o750, "{name}");
    }
    assert_eq!((target.report().files, target.report().folders), (1, 1));
}

#[test]
fn further_names_are_links_to_what_was_restored_and_to_nothing_else() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    fs::write(fixture.path("target/first"), b"mine").unwrap();
    let mut target = fixture.open(Policy::Skip);
    for (name, number) in [("first", 1), ("second", 2)] {
        let file = Entry { link: Some(number), ..entry(name, Kind::File { bytes: 1 }) };
        assert_eq!(target.entry(&file).unwrap(), Want::Content);
        target.data(0, b"x").unwrap();
        target.end_file().unwrap();
        target.entry(&entry(&format!("{name}-again"), Kind::Link { of: number })).unwrap();
    }
    target.entry(&entry("of-nothing", Kind::Link { of: 9 })).unwrap();
    target.end().unwrap();
    assert_eq!(fs::read(fixture.path("target/first")).unwrap(), b"mine");
    assert!(!fixture.path("target/first-again").exists(), "it would have other content");
    let inode = |name: &str| fs::metadata(fixture.path(name)).unwrap().ino();
    assert_eq!(inode("target/second"), inode("target/second-again"));
    let report = target.report();
    assert_eq!((report.files, report.links, report.skipped, report.failed), (1, 1, 1, 2));
}

#[test]
fn two_restores_to_one_folder_do_not_meet() {
    let fixture = Fixture::new();
    let first = fixture.open(Policy::Skip);
    assert!(matches!(
        Target::new(Root::open(&fixture.path("target")).unwrap(), Policy::Skip, false),
        Err(ArchiveError::Refused(_))
    ));
    drop(first);
    fixture.open(Policy::Skip);
}

/// A second restore has begun when the first one is let go of.
#[test]
fn a_restore_that_has_ended_leaves_the_next_one_alone() {
    let fixture = Fixture::new();
    let mut first = fixture.open(Policy::Skip);
    first.end().unwrap();
    let mut second = fixture.open(Policy::Skip);
    drop(first);
    give(&mut second, "file", b"x");
    second.end().unwrap();
    assert_eq!(fs::read(fixture.path("target/file")).unwrap(), b"x");
}

fn reopen(fixture: &Fixture) -> Result<Target, ArchiveError> {
    Target::new(Root::open(&fixture.path("target")).unwrap(), Policy::Skip, true)
}

/// One that was killed: what it has made stays, as it is.
fn interrupted(fixture: &Fixture) {
    let mut target = fixture.open(Policy::Skip);
    target.entry(&folder("open")).unwrap();
    give(&mut target, "whole", b"x");
    target.entry(&entry("half", Kind::File { bytes: 4 })).unwrap();
    target.cleared = true;
}

fn leftovers(fixture: &Fixture) -> PathBuf {
    let staging = fixture.path("target").join(STAGING);
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 1, "half a file");
    staging
}

fn finish(mut target: Target) -> Report {
    target.entry(&folder("open")).unwrap();
    give(&mut target, "whole", b"x");
    give(&mut target, "half", b"half");
    target.leave().unwrap();
    target.end().unwrap();
    target.into_report()
}

#[test]
fn a_staging_folder_that_no_restore_made_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let staging = fixture.path("target").join(STAGING);
    fs::create_dir(&staging).unwrap();
    let prepared = fs::File::open(&staging).unwrap();
    finish(fixture.open(Policy::Skip));
    assert_eq!(rustix::fs::fstat(&prepared).unwrap().st_nlink, 0, "an empty one is replaced");
    fs::create_dir(&staging).unwrap();
    fs::write(staging.join("theirs"), "x").unwrap();
    fs::set_permissions(&staging, fs::Permissions::from_mode(0o755)).unwrap();
    let why = reopen(&fixture).unwrap_err().to_string();
    assert!(why.contains(STAGING) && why.contains("remove it"), "{why}");
    assert!(staging.join("theirs").exists(), "nothing of it is removed");
}

#[test]
fn an_interrupted_restore_goes_on() {
    let fixture = Fixture::new();
    interrupted(&fixture);
    leftovers(&fixture);
    let target = reopen(&fixture).unwrap();
    let marks = target.marks;
    let report = finish(target);
    assert_eq!(report.failed, u64::from(!marks), "{report:?}");
}

/// The folder that was open when the first attempt died cannot be told from one that a person had closed.
#[test]
fn without_trusted_attributes_it_goes_on_and_says_what_is_not_known() {
    let attempts = || {
        without_administration();
        let fixture = Fixture::new();
        interrupted(&fixture);
        let staging = fs::File::open(leftovers(&fixture)).unwrap();
        let report = finish(reopen(&fixture).unwrap());
        assert_eq!(rustix::fs::fstat(&staging).unwrap().st_nlink, 0, "it makes its own");
        assert_eq!((report.files, report.same, report.failed), (1, 1, 1), "{report:?}");
        assert!(report.problems[0].path == "open" && report.problems[0].why.contains("overwrite"));
        assert_eq!(fs::read(fixture.path("target/open/half")).unwrap(), b"half");
        assert!(!fixture.path("target").join(STAGING).exists());
    };
    std::thread::spawn(attempts).join().unwrap();
}

/// This thread may not set `trusted.*` any more, as on a filesystem that has none.
fn without_administration() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).unwrap();
}

#[test]
fn the_name_of_the_staging_folder_cannot_be_restored() {
    let fixture = Fixture::new();
    let mut target = fixture.open(Policy::Overwrite);
    assert_eq!(target.entry(&folder(STAGING)).unwrap(), Want::Nothing);
    target.end().unwrap();
    assert_eq!(target.report().failed, 1);
}

#[test]
fn a_restore_that_adds_nothing_leaves_the_target_as_it_was() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let time = || {
        let meta = fs::metadata(fixture.path("target")).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let mut target = fixture.open(Policy::Skip);
    give(&mut target, "file", b"x");
    target.end().unwrap();
    drop(target);
    let before = time();
    for ended in [true, false] {
        let mut target = fixture.open(Policy::Skip);
        give(&mut target, "file", b"x");
        if ended {
            target.end().unwrap();
        }
        drop(target);
        assert_eq!(time(), before, "{ended}");
    }
    let mut target = fixture.open(Policy::Skip);
    give(&mut target, "other", b"x");
    target.end().unwrap();
    assert_ne!(time(), before);
}

/// What an earlier attempt made is there already, under whatever name; what a person had is still theirs.
#[test]
fn a_second_attempt_counts_what_the_first_one_made() {
    for policy in ALL {
        let fixture = Fixture::new();
        fs::write(fixture.path("target/mine"), "mine").unwrap();
        fs::write(fixture.path("target/folder"), "no folder").unwrap();
        let attempt = |again| {
            let root = Root::open(&fixture.path("target")).unwrap();
            let mut target = Target::new(root, policy, again).unwrap();
            for name in ["a", "mine"] {
                give(&mut target, name, b"restored");
            }
            if target.entry(&folder("folder")).unwrap() == Want::Content {
                give(&mut target, "b", b"below");
                target.leave().unwrap();
            }
            target.end().unwrap();
            target.into_report()
        };
        let first = attempt(false);
        let names = || {
            let names = fs::read_dir(fixture.path("target")).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let (before, second) = (names(), attempt(true));
        assert_eq!(names(), before, "{policy:?}: nothing more is made");
        assert_eq!((first.failed, second.failed), (0, 0), "{policy:?}: {second:?}");
        match policy {
            Policy::Skip => assert_eq!((second.files, second.same, second.skipped), (0, 1, 2)),
            Policy::Rename => assert_eq!((second.files, second.same, second.folders), (0, 3, 0)),
            Policy::Overwrite => assert_eq!((second.files, second.folders), (3, 0)),
        }
    }
}

/// A power cut: the names are there, and content that was never written reads as zeroes, or the file is empty.
#[test]
fn what_a_power_cut_took_of_the_first_attempt_is_written_by_the_second() {
    use std::os::unix::fs::FileExt;
    for policy in [Policy::Skip, Policy::Rename] {
        let fixture = Fixture::new();
        let content: Vec<u8> = (0..20_000u32).map(|i| (i % 250 + 1) as u8).collect();
        let attempt = |again| {
            let mut target =
                Target::new(Root::open(&fixture.path("target")).unwrap(), policy, again).unwrap();
            for (number, name) in ["torn", "emptied", "altered", "whole"].iter().enumerate() {
                let kind = Kind::File { bytes: content.len() as u64 };
                let file = Entry { link: Some(number as u64), ..entry(name, kind) };
                assert_eq!(target.entry(&file).unwrap(), Want::Content);
                target.data(0, &content).unwrap();
                target.end_file().unwrap();
            }
            target.entry(&entry("torn-too", Kind::Link { of: 0 })).unwrap();
            target.end().unwrap();
            target.into_report()
        };
        attempt(false);
        let file =
            |name: &str| fs::File::options().write(true).open(fixture.path("target").join(name)).unwrap();
        let time = fs::metadata(fixture.path("target/whole")).unwrap().modified().unwrap();
        file("torn").write_all_at(&[0; 4096], 8192).unwrap();
        file("emptied").set_len(0).unwrap();
        file("altered").write_all_at(b"mine", 100).unwrap();
        for name in ["torn", "emptied", "altered"] {
            file(name).set_modified(time).unwrap();
        }
        let report = attempt(true);
        let read = |name: &str| fs::read(fixture.path("target").join(name)).unwrap();
        for name in ["torn", "torn-too", "emptied", "whole"] {
            assert!(read(name) == content, "{policy:?}: {name}: {report:?}");
        }
        assert_eq!(&read("altered")[100..104], b"mine", "{policy:?}: that is nobody's but the user's");
        match policy {
            Policy::Rename => assert!(read("altered.restored") == content),
            _ => assert_eq!((report.files, report.links, report.same, report.failed), (2, 1, 1, 1)),
        }
    }
}
