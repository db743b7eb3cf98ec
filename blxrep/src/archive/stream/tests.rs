use super::*;
use proptest::prelude::*;

/// Writes down what it is given.
#[derive(Debug, Default, PartialEq)]
struct Notes {
    lines: Vec<String>,
    /// Names whose content is not wanted.
    unwanted: Vec<&'static [u8]>,
}

impl Sink for Notes {
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError> {
        self.lines.push(format!("top {meta:?}"));
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        self.lines.push(format!("{entry:?}"));
        let unwanted = self.unwanted.contains(&entry.name.as_bytes());
        Ok(if unwanted { Want::Nothing } else { Want::Content })
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.lines.push(format!("{offset} {:x}", crc32c::crc32c(bytes)));
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        self.lines.push("end file".to_owned());
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.lines.push("leave".to_owned());
        Ok(())
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        self.lines.push(format!("{name:?} {why}"));
        Ok(())
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        self.lines.push("end".to_owned());
        Ok(())
    }
}

fn entry(name: &[u8], kind: Kind) -> Entry {
    let time = Time { seconds: -5, nanos: 999_999_999 };
    let xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![0, 255] }];
    let meta = Meta { mode: 0o4755, uid: 1, gid: u32::MAX, mtime: time, atime: Time::default(), xattrs };
    Entry { name: Name::new(name).unwrap(), kind, meta, link: None }
}

fn give(sink: &mut dyn Sink) {
    sink.top(&entry(b"x", Kind::Fifo).meta).unwrap();
    sink.entry(&entry(b"folder", Kind::Folder { selected: true })).unwrap();
    let file = Entry { link: Some(7), ..entry(b"\xfffile", Kind::File { bytes: 3 << 20 }) };
    sink.entry(&file).unwrap();
    sink.data(5, &[1; 10]).unwrap();
    sink.data(1 << 20, &[2; 1 << 20]).unwrap();
    sink.end_file().unwrap();
    sink.entry(&entry(b"again", Kind::Link { of: 7 })).unwrap();
    sink.entry(&entry(b"symlink", Kind::Symlink { target: b"../..".to_vec() })).unwrap();
    sink.entry(&entry(b"null", Kind::CharDevice { major: 1, minor: 3 })).unwrap();
    sink.entry(&entry(b"disk", Kind::BlockDevice { major: 259, minor: 70_000 })).unwrap();
    sink.leave().unwrap();
    sink.entry(&entry(b"fifo", Kind::Fifo)).unwrap();
    sink.entry(&entry(b"rotten", Kind::File { bytes: 10 })).unwrap();
    sink.failed(None, "it is rotten").unwrap();
    sink.failed(Some(&Name::new(b"gone").unwrap()), "it is gone").unwrap();
    sink.end().unwrap();
}

fn encoded() -> Vec<u8> {
    let mut bytes = Vec::new();
    give(&mut Encoder::new(&mut bytes).unwrap());
    bytes
}

#[test]
fn a_tree_survives_the_way() {
    let (mut direct, mut through) = (Notes::default(), Notes::default());
    give(&mut direct);
    decode(&encoded()[..], &mut through).unwrap();
    assert_eq!(through, direct);
}

#[test]
fn what_is_not_wanted_does_not_come() {
    let mut notes = Notes { unwanted: vec![b"folder", b"rotten"], ..Notes::default() };
    decode(&encoded()[..], &mut notes).unwrap();
    let told: Vec<_> = notes.lines.iter().filter(|line| !line.starts_with("Entry")).collect();
    assert_eq!(told[1..], ["Some(gone) it is gone", "end"]);
    assert_eq!(notes.lines.len(), 6);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_error() {
    let mut short = Vec::new();
    let mut encoder = Encoder::new(&mut short).unwrap();
    encoder.entry(&entry(b"a", Kind::Folder { selected: false })).unwrap();
    encoder.entry(&entry(b"b", Kind::File { bytes: 4 })).unwrap();
    encoder.data(0, b"data").unwrap();
    encoder.end_file().unwrap();
    encoder.leave().unwrap();
    encoder.end().unwrap();
    for end in 0..short.len() {
        assert!(decode(&short[..end], &mut Notes::default()).is_err(), "{end}");
    }
    for bit in 0..short.len() * 8 {
        let mut damaged = short.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&damaged[..], &mut Notes::default()).is_err(), "{bit}");
    }
    decode(&short[..], &mut Notes::default()).unwrap();
}

/// A record as its encoder would seal it, whatever is in it.
fn sealed(records: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes).unwrap();
    for (kind, payload) in records {
        encoder.record(*kind, payload).unwrap();
    }
    bytes
}

fn raw_entry(name: &[u8], kind: Kind) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut plain = entry(b"x", kind);
    plain.meta.xattrs.clear();
    put_entry(&plain, &mut payload);
    // The name stands behind 45 bytes of fixed fields.
    let rest = payload.split_off(45 + 3);
    payload.truncate(45);
    put_short(name, &mut payload);
    [payload, rest].concat()
}

#[test]
fn names_that_lead_elsewhere_are_refused_before_a_sink_sees_them() {
    for name in [&b""[..], b".", b"..", b"../x", b"/etc/passwd", b"a/b", b"a\0b", &[b'x'; 256]] {
        let mut notes = Notes::default();
        let bytes = sealed(&[(ENTRY, raw_entry(name, Kind::Fifo))]);
        assert!(matches!(decode(&bytes[..], &mut notes), Err(ArchiveError::Stream(_))), "{name:?}");
        assert_eq!(notes, Notes::default());
    }
    let good = sealed(&[(ENTRY, raw_entry(b"x", Kind::Fifo)), (END, [1u64.to_le_bytes(), [0; 8]].concat())]);
    decode(&good[..], &mut Notes::default()).unwrap();
}

#[test]
fn what_breaks_the_grammar_is_refused() {
    let file = |bytes| (ENTRY, raw_entry(b"x", Kind::File { bytes }));
    let data = |offset: u64, bytes: &[u8]| (DATA, [&offset.to_le_bytes()[..], bytes].concat());
    let folder = || (ENTRY, raw_entry(b"x", Kind::Folder { selected: true }));
    let end = |entries: u64, bytes: u64| (END, [entries.to_le_bytes(), bytes.to_le_bytes()].concat());
    let link = (ENTRY, raw_entry(b"x", Kind::Link { of: 1 }));
    let cases: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(LEAVE, vec![])],
        vec![(END_FILE, vec![])],
        vec![data(0, b"x")],
        vec![file(1), data(1, b"x")],
        vec![file(1), data(u64::MAX, b"x")],
        vec![file(9), data(4, b"x"), data(3, b"x")],
        vec![file(9), folder()],
        vec![file(u64::MAX)],
        vec![folder(), end(1, 0)],
        vec![end(1, 0)],
        vec![file(1), data(0, b"x"), (END_FILE, vec![]), end(1, 0)],
        vec![link],
        vec![(99, vec![])],
        vec![folder(), (TOP, raw_entry(TOP_NAME, Kind::Folder { selected: true }))],
        vec![(TOP, raw_entry(TOP_NAME, Kind::Fifo))],
        (0..=MAX_DEPTH).map(|_| folder()).collect(),
    ];
    for case in cases {
        let error = decode(&sealed(&case)[..], &mut Notes::default());
        assert!(matches!(error, Err(ArchiveError::Stream(_))), "{case:?}: {error:?}");
    }
}

proptest! {
    #[test]
    fn any_records_give_an_answer(
        records in prop::collection::vec((0u8..8, prop::collection::vec(any::<u8>(), 0..80)), 0..6)
    ) {
        let _ = decode(&sealed(&records)[..], &mut Notes::default());
    }
}
