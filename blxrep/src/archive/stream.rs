//! A tree as bytes.
//!
//! ```text
//! "BLXTREE" version(1), then records: kind(1) length(4) crc(4) payload(length), little-endian
//! crc = CRC32C of the record's position(8), kind, length and payload: a record that is lost, doubled or moved is noticed
//!
//! 1 entry     kind(1) link(8, 0 for none) mode(4) uid(4) gid(4) mtime(8+4) atime(8+4) name(2+n) by kind: see `put_kind`
//!             count(2) of extended attributes, each name(2+n) value(4+n)
//! 2 data      offset(8) bytes
//! 3 end of a file
//! 4 leave a folder
//! 5 failed    name(2+n, empty for what is open) reason(2+n, UTF-8)
//! 6 end       entries(8) bytes of data(8)
//! 7 the root  as an entry, a folder whose name means nothing; only as the first record
//! ```
//!
//! Every length is bounded before anything is allocated from it. What is read is checked against the grammar of
//! [`Sink`] before it is passed on, so that a sink sees nothing that a walk could not have given it.

use super::entry::{MAX_NAME_BYTES, MAX_TARGET_BYTES, MAX_VALUE_BYTES, MAX_XATTRS_BYTES, Time, Xattr};
use super::{ArchiveError, Entry, Kind, MAX_DEPTH, Meta, Name, PIECE_BYTES, Sink, Want};
use std::io::{ErrorKind, Read, Write};

/// Magic and version.
pub const MAGIC: [u8; 8] = *b"BLXTREE\x01";
/// Longest payload: a piece of data with its offset. Entries are shorter.
pub const MAX_RECORD_BYTES: usize = PIECE_BYTES + 8;
/// Longest reason.
const MAX_REASON_BYTES: usize = 4096;
const MAX_XATTRS: usize = 4096;

const ENTRY: u8 = 1;
const DATA: u8 = 2;
const END_FILE: u8 = 3;
const LEAVE: u8 = 4;
const FAILED: u8 = 5;
const END: u8 = 6;
const TOP: u8 = 7;
/// What stands for the name of the root, which has none.
const TOP_NAME: &[u8] = b"-";

/// Writes a tree as bytes.
#[derive(Debug)]
pub struct Encoder<W> {
    to: W,
    position: u64,
    entries: u64,
    data: u64,
    payload: Vec<u8>,
    /// Files are named, and their data left out.
    outline: bool,
}

impl<W: Write> Encoder<W> {
    pub fn new(to: W) -> Result<Self, ArchiveError> {
        Self::begin(to, false)
    }

    /// For who only wants to know what there is: files are as good as empty.
    pub fn outline(to: W) -> Result<Self, ArchiveError> {
        Self::begin(to, true)
    }

    fn begin(mut to: W, outline: bool) -> Result<Self, ArchiveError> {
        to.write_all(&MAGIC).map_err(write_error)?;
        Ok(Self { to, position: 0, entries: 0, data: 0, payload: Vec::new(), outline })
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), ArchiveError> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_RECORD_BYTES)
            .ok_or_else(|| ArchiveError::Stream(format!("a record of {} bytes", payload.len())))?;
        let crc = checksum(self.position, kind, payload);
        self.position += 1;
        let mut header = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
        header[1..5].copy_from_slice(&length.to_le_bytes());
        header[5..].copy_from_slice(&crc.to_le_bytes());
        self.to.write_all(&header).and_then(|()| self.to.write_all(payload)).map_err(write_error)
    }
}

fn write_error(source: std::io::Error) -> ArchiveError {
    ArchiveError::Io { action: "write", what: "the stream of files".to_owned(), source }
}

fn checksum(position: u64, kind: u8, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&position.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &[kind]);
    let crc = crc32c::crc32c_append(crc, &(payload.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

impl<W: Write> Sink for Encoder<W> {
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError> {
        let name = Name::new(TOP_NAME).ok_or_else(|| strange("a root without a name"))?;
        let kind = Kind::Folder { selected: true };
        let mut payload = Vec::new();
        put_entry(&Entry { name, kind, meta: meta.clone(), link: None }, &mut payload);
        self.record(TOP, &payload)
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        put_entry(entry, &mut payload);
        self.entries += 1;
        self.record(ENTRY, &payload)?;
        self.payload = payload;
        if self.outline && matches!(entry.kind, Kind::File { .. }) {
            self.end_file()?;
            return Ok(Want::Nothing);
        }
        Ok(Want::Content)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        for (start, piece) in (offset..).step_by(PIECE_BYTES).zip(bytes.chunks(PIECE_BYTES)) {
            let mut payload = std::mem::take(&mut self.payload);
            payload.clear();
            payload.extend(start.to_le_bytes());
            payload.extend(piece);
            self.data += piece.len() as u64;
            self.record(DATA, &payload)?;
            self.payload = payload;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        self.record(END_FILE, &[])
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.record(LEAVE, &[])
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        let mut payload = Vec::new();
        put_short(name.map(Name::as_bytes).unwrap_or_default(), &mut payload);
        let end = (0..=why.len().min(MAX_REASON_BYTES)).rev().find(|end| why.is_char_boundary(*end));
        put_short(&why.as_bytes()[..end.unwrap_or(0)], &mut payload);
        self.record(FAILED, &payload)
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        let payload = [self.entries.to_le_bytes(), self.data.to_le_bytes()].concat();
        self.record(END, &payload)?;
        self.to.flush().map_err(write_error)
    }
}

/// Bytes with their length in two bytes; they are known to be short enough.
fn put_short(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(&bytes[..bytes.len().min(usize::from(u16::MAX))]);
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    let Meta { mode, uid, gid, mtime, atime, xattrs } = &entry.meta;
    out.push(kind_number(&entry.kind));
    out.extend(entry.link.unwrap_or(0).to_le_bytes());
    [mode, uid, gid].into_iter().for_each(|field| out.extend(field.to_le_bytes()));
    for time in [mtime, atime] {
        out.extend(time.seconds.to_le_bytes());
        out.extend(time.nanos.to_le_bytes());
    }
    put_short(entry.name.as_bytes(), out);
    match &entry.kind {
        Kind::Folder { selected } => out.push(u8::from(*selected)),
        Kind::File { bytes } => out.extend(bytes.to_le_bytes()),
        Kind::Link { of } => out.extend(of.to_le_bytes()),
        Kind::Symlink { target } => put_short(target, out),
        Kind::Fifo | Kind::Socket => {}
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.extend(major.to_le_bytes());
            out.extend(minor.to_le_bytes());
        }
    }
    out.extend(u16::try_from(xattrs.len()).unwrap_or(u16::MAX).to_le_bytes());
    for Xattr { name, value } in xattrs {
        put_short(name, out);
        out.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(value);
    }
}

const fn kind_number(kind: &Kind) -> u8 {
    match kind {
        Kind::Folder { .. } => 1,
        Kind::File { .. } => 2,
        Kind::Link { .. } => 3,
        Kind::Symlink { .. } => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::CharDevice { .. } => 7,
        Kind::BlockDevice { .. } => 8,
    }
}

fn strange(what: impl Into<String>) -> ArchiveError {
    ArchiveError::Stream(what.into())
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ArchiveError> {
        let (head, rest) =
            self.0.split_at_checked(length).ok_or_else(|| strange("a record that is too short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, ArchiveError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, ArchiveError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, ArchiveError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ArchiveError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, ArchiveError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    const fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// A field with its length in two bytes.
fn short<'a>(cursor: &mut Fields<'a>, most: usize) -> Result<&'a [u8], ArchiveError> {
    let length = usize::from(cursor.u16()?);
    if length > most {
        return Err(strange(format!("a field of {length} bytes, where {most} are the most")));
    }
    cursor.take(length)
}

fn take_time(cursor: &mut Fields<'_>) -> Result<Time, ArchiveError> {
    let time = Time { seconds: cursor.i64()?, nanos: cursor.u32()? };
    if time.nanos >= 1_000_000_000 { Err(strange("a time that cannot be")) } else { Ok(time) }
}

fn take_entry(payload: &[u8]) -> Result<Entry, ArchiveError> {
    let mut cursor = Fields(payload);
    let number = cursor.u8()?;
    let link = Some(cursor.u64()?).filter(|link| *link != 0);
    let (mode, uid, gid) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let (mtime, atime) = (take_time(&mut cursor)?, take_time(&mut cursor)?);
    let name = short(&mut cursor, MAX_NAME_BYTES)?;
    let name = Name::new(name).ok_or_else(|| strange("a name that no file can have"))?;
    let kind = take_kind(number, &mut cursor)?;
    let xattrs = take_xattrs(&mut cursor)?;
    if mode & !0o7777 != 0 || !cursor.rest().is_empty() {
        return Err(strange("an entry with more in it than there is in one"));
    }
    if link.is_some() && matches!(kind, Kind::Folder { .. } | Kind::Link { .. }) {
        return Err(strange("a folder with several names"));
    }
    Ok(Entry { name, kind, meta: Meta { mode, uid, gid, mtime, atime, xattrs }, link })
}

fn take_kind(number: u8, cursor: &mut Fields<'_>) -> Result<Kind, ArchiveError> {
    Ok(match number {
        1 => match cursor.u8()? {
            selected @ (0 | 1) => Kind::Folder { selected: selected == 1 },
            _ => return Err(strange("a folder that is neither selected nor not")),
        },
        2 => match cursor.u64()? {
            bytes if i64::try_from(bytes).is_ok() => Kind::File { bytes },
            _ => return Err(strange("a file that is longer than any")),
        },
        3 => Kind::Link { of: cursor.u64()? },
        4 => {
            let target = short(cursor, MAX_TARGET_BYTES)?;
            if target.is_empty() || target.contains(&0) {
                return Err(strange("a symbolic link to nothing"));
            }
            Kind::Symlink { target: target.to_vec() }
        }
        5 => Kind::Fifo,
        6 => Kind::Socket,
        7 => Kind::CharDevice { major: cursor.u32()?, minor: cursor.u32()? },
        8 => Kind::BlockDevice { major: cursor.u32()?, minor: cursor.u32()? },
        _ => return Err(strange(format!("an entry of kind {number}"))),
    })
}

fn take_xattrs(cursor: &mut Fields<'_>) -> Result<Vec<Xattr>, ArchiveError> {
    let count = usize::from(cursor.u16()?);
    if count > MAX_XATTRS {
        return Err(strange(format!("{count} extended attributes")));
    }
    let (mut xattrs, mut all) = (Vec::new(), 0);
    for _ in 0..count {
        let name = short(cursor, MAX_NAME_BYTES)?;
        let length = usize::try_from(cursor.u32()?).unwrap_or(usize::MAX);
        all += name.len().saturating_add(length);
        if length > MAX_VALUE_BYTES || all > MAX_XATTRS_BYTES || name.is_empty() || name.contains(&0) {
            return Err(strange("an extended attribute that no file can have"));
        }
        xattrs.push(Xattr { name: name.to_vec(), value: cursor.take(length)?.to_vec() });
    }
    Ok(xattrs)
}

/// Reads a tree from bytes and gives it to a sink. Every end but the stream's own is an error.
pub fn decode(from: impl Read, sink: &mut dyn Sink) -> Result<(), ArchiveError> {
    let mut records = Records { from, position: 0, payload: Vec::new() };
    let mut magic = [0; MAGIC.len()];
    records.fill(&mut magic)?;
    if magic[..7] != MAGIC[..7] {
        return Err(strange("it does not begin like one"));
    }
    if magic != MAGIC {
        return Err(strange(format!(
            "it is of version {}, this program knows version {}",
            magic[7], MAGIC[7]
        )));
    }
    let mut reader = Reader { sink, depth: 0, skipped: 0, file: None, entries: 0, data: 0, numbers: 0 };
    loop {
        let kind = records.next()?;
        if reader.take(kind, &records.payload, records.position == 1)? {
            return Ok(());
        }
    }
}

struct Records<R> {
    from: R,
    position: u64,
    payload: Vec<u8>,
}

impl<R: Read> Records<R> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), ArchiveError> {
        self.from.read_exact(out).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => strange("it ends before its end"),
            _ => ArchiveError::Io { action: "read", what: "the stream of files".to_owned(), source },
        })
    }

    fn next(&mut self) -> Result<u8, ArchiveError> {
        let mut header = [0; 9];
        self.fill(&mut header)?;
        let [kind, a, b, c, d, crc @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_RECORD_BYTES {
            return Err(strange(format!(
                "a record of {length} bytes, where {MAX_RECORD_BYTES} are the most"
            )));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        self.fill(&mut payload)?;
        self.payload = payload;
        if checksum(self.position, kind, &self.payload) != u32::from_le_bytes(crc) {
            return Err(strange(format!("record {} is damaged or in the wrong place", self.position)));
        }
        self.position += 1;
        Ok(kind)
    }
}

/// The file whose data is expected.
#[derive(Debug)]
struct Open {
    bytes: u64,
    /// Where the data so far ends.
    at: u64,
    /// The sink does not want it.
    skipped: bool,
}

/// Holds what comes against the grammar.
struct Reader<'a> {
    sink: &'a mut dyn Sink,
    /// Open folders that the sink knows.
    depth: usize,
    /// Open folders that it does not want, within each other.
    skipped: usize,
    file: Option<Open>,
    entries: u64,
    data: u64,
    /// The highest link number so far.
    numbers: u64,
}

impl Reader<'_> {
    /// Takes a record; whether it was the last.
    fn take(&mut self, kind: u8, payload: &[u8], first: bool) -> Result<bool, ArchiveError> {
        match (kind, &mut self.file) {
            (ENTRY, None) => self.entry(&take_entry(payload)?)?,
            (DATA, Some(_)) => self.data(payload)?,
            (END_FILE, Some(file)) if payload.is_empty() => {
                let skipped = file.skipped;
                self.file = None;
                if !skipped {
                    self.sink.end_file()?;
                }
            }
            (LEAVE, None) if payload.is_empty() => self.leave()?,
            (FAILED, _) => self.failed(payload)?,
            (TOP, None) if first => match take_entry(payload)? {
                Entry { name, kind: Kind::Folder { selected: true }, meta, .. }
                    if name.as_bytes() == TOP_NAME =>
                {
                    self.sink.top(&meta)?;
                }
                _ => return Err(strange("a root that is no folder")),
            },
            (END, None) => {
                self.end(payload)?;
                return Ok(true);
            }
            _ => return Err(strange(format!("a record of kind {kind} where none can be"))),
        }
        Ok(false)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.entries += 1;
        if let Some(number) = entry.link {
            if number <= self.numbers {
                return Err(strange("a link number twice"));
            }
            self.numbers = number;
        }
        if matches!(entry.kind, Kind::Link { of } if of == 0 || of > self.numbers) {
            return Err(strange("a link to what has not come yet"));
        }
        let skipped = self.skipped > 0 || self.sink.entry(entry)? == Want::Nothing;
        match entry.kind {
            Kind::Folder { .. } if self.depth + self.skipped >= MAX_DEPTH => {
                return Err(strange("folders within each other without end"));
            }
            Kind::Folder { .. } if skipped => self.skipped += 1,
            Kind::Folder { .. } => self.depth += 1,
            Kind::File { bytes } => self.file = Some(Open { bytes, at: 0, skipped }),
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, payload: &[u8]) -> Result<(), ArchiveError> {
        let Some(file) = &mut self.file else { return Err(strange("data of no file")) };
        let mut cursor = Fields(payload);
        let offset = cursor.u64()?;
        let bytes = cursor.rest();
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= file.bytes);
        let Some(end) = end.filter(|_| offset >= file.at && !bytes.is_empty()) else {
            return Err(strange("data in the wrong place of its file"));
        };
        file.at = end;
        self.data += bytes.len() as u64;
        if file.skipped { Ok(()) } else { self.sink.data(offset, bytes) }
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        if self.skipped > 0 {
            self.skipped -= 1;
            return Ok(());
        }
        self.depth =
            self.depth.checked_sub(1).ok_or_else(|| strange("it leaves a folder that it never entered"))?;
        self.sink.leave()
    }

    fn failed(&mut self, payload: &[u8]) -> Result<(), ArchiveError> {
        let mut cursor = Fields(payload);
        let name = short(&mut cursor, MAX_NAME_BYTES)?;
        let why = short(&mut cursor, MAX_REASON_BYTES)?;
        let why = std::str::from_utf8(why).map_err(|_| strange("a reason that is no text"))?;
        let name = match name {
            [] => None,
            name => Some(Name::new(name).ok_or_else(|| strange("a name that no file can have"))?),
        };
        match (&self.file, &name) {
            (Some(_), Some(_)) => return Err(strange("a failure of another file than the open one")),
            // What was not wanted is not missed either.
            (Some(file), None) if file.skipped => self.file = None,
            (Some(_), None) => {
                self.file = None;
                self.sink.failed(None, why)?;
            }
            (None, _) if self.skipped > 0 => {}
            (None, _) => self.sink.failed(name.as_ref(), why)?,
        }
        Ok(())
    }

    fn end(&mut self, payload: &[u8]) -> Result<(), ArchiveError> {
        let mut cursor = Fields(payload);
        let told = (cursor.u64()?, cursor.u64()?);
        if self.depth + self.skipped > 0 || told != (self.entries, self.data) || !cursor.rest().is_empty() {
            return Err(strange("its end does not fit what came before"));
        }
        self.sink.end()
    }
}

#[cfg(test)]
mod tests;
