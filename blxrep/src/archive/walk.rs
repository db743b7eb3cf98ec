//! A tree on this host, given to a sink: what is on the way from a point's mounted files to where they are wanted.
//!
//! Memory does not grow with the tree: two descriptors per level, one piece of data, and what is known of files with
//! several names until all of them were seen.

use super::selection::Selection;
use super::{
    ArchiveError, Entry, Kind, MAX_DEPTH, MAX_LINKS, Meta, Name, PIECE_BYTES, Sink, Time, Want, xattr,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Walks what is wanted of the tree below `root` and gives it to a sink, with its end.
pub fn walk(root: BorrowedFd<'_>, wanted: &Selection, sink: &mut dyn Sink) -> Result<(), ArchiveError> {
    let mut walk = Walk { sink, links: HashMap::new(), numbers: 0, buffer: vec![0; PIECE_BYTES] };
    let folder = rustix::fs::openat(root, c".", FOLDER, Mode::empty())
        .map_err(ArchiveError::errno("open", "the root of the files"))?;
    if *wanted == Selection::All {
        let stat =
            rustix::fs::fstat(&folder).map_err(ArchiveError::errno("look at", "the root of the files"))?;
        let meta = meta(folder.as_fd(), b".", &stat).map_err(|Unread(why)| {
            ArchiveError::Refused(format!("the root of the files cannot be read: {why}"))
        })?;
        walk.sink.top(&meta)?;
    }
    walk.run(folder, wanted)?;
    walk.sink.end()
}

fn meta(folder: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Meta, Unread> {
    Ok(Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        atime: Time { seconds: stat.st_atime, nanos: u32::try_from(stat.st_atime_nsec).unwrap_or(0) },
        xattrs: xattr::read(folder, name)?,
    })
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What is wanted of whatever is in a folder that is wanted.
static ALL: Selection = Selection::All;

/// The device and inode of a file, which all its names share.
type Identity = (u64, u64);

struct Walk<'a> {
    sink: &'a mut dyn Sink,
    /// Files with several names: their number, and names that were not seen yet.
    links: HashMap<Identity, (u64, u64)>,
    numbers: u64,
    buffer: Vec<u8>,
}

/// A folder that is being walked.
struct Level<'a> {
    fd: OwnedFd,
    rest: Rest<'a>,
}

/// What of a folder is still to come.
enum Rest<'a> {
    All(Dir),
    Some(std::collections::btree_map::Iter<'a, Name, Selection>),
}

/// What cannot be read of one file; the rest goes on.
#[derive(Debug)]
struct Unread(String);

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Walk<'_> {
    fn run(&mut self, root: OwnedFd, wanted: &Selection) -> Result<(), ArchiveError> {
        let mut levels = vec![level(root, wanted).map_err(|Unread(why)| {
            ArchiveError::Refused(format!("the root of the files cannot be read: {why}"))
        })?];
        while let Some(top) = levels.last_mut() {
            let (name, wanted) = match next(&mut top.rest) {
                Some(Ok(next)) => next,
                Some(Err(Unread(why))) => {
                    self.sink.failed(None, &why)?;
                    // What else is in it cannot be listed.
                    self.up(&mut levels)?;
                    continue;
                }
                None => {
                    self.up(&mut levels)?;
                    continue;
                }
            };
            let deep = levels.len() >= MAX_DEPTH;
            let Some(top) = levels.last() else { break };
            if let Some(below) = self.visit(top.fd.as_fd(), &name, wanted, deep)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Leaves the innermost folder. The root was never entered.
    fn up(&mut self, levels: &mut Vec<Level<'_>>) -> Result<(), ArchiveError> {
        levels.pop();
        if levels.is_empty() { Ok(()) } else { self.sink.leave() }
    }

    /// Gives one name to the sink; the folder to go on in, if it is one.
    fn visit<'b>(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &Name,
        wanted: &'b Selection,
        deep: bool,
    ) -> Result<Option<Level<'b>>, ArchiveError> {
        let seen = self.look(folder, name, wanted);
        let (mut entry, stat) = match seen {
            Ok(seen) => seen,
            Err(Unread(why)) => {
                self.sink.failed(Some(name), &why)?;
                return Ok(None);
            }
        };
        if matches!(entry.kind, Kind::Folder { .. }) {
            if deep {
                self.sink.failed(Some(name), &format!("folders are nested more than {MAX_DEPTH} deep"))?;
                return Ok(None);
            }
            return self.enter(folder, &entry, wanted);
        }
        if stat.st_nlink > 1 {
            self.name_again(&mut entry, &stat);
        }
        if !matches!(entry.kind, Kind::File { .. }) {
            self.sink.entry(&entry)?;
            return Ok(None);
        }
        if self.sink.entry(&entry)? == Want::Content {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match rustix::fs::openat(folder, name.as_bytes(), flags, Mode::empty()) {
                Ok(file) => self.content(&File::from(file), stat.st_size.unsigned_abs())?,
                Err(error) => self.sink.failed(None, &error.to_string())?,
            }
        }
        Ok(None)
    }

    fn enter<'b>(
        &mut self,
        folder: BorrowedFd<'_>,
        entry: &Entry,
        wanted: &'b Selection,
    ) -> Result<Option<Level<'b>>, ArchiveError> {
        let opened = rustix::fs::openat(folder, entry.name.as_bytes(), FOLDER, Mode::empty());
        match opened.map_err(Unread::from).and_then(|fd| level(fd, wanted)) {
            Ok(below) => Ok((self.sink.entry(entry)? == Want::Content).then_some(below)),
            Err(Unread(why)) => {
                self.sink.failed(Some(&entry.name), &why)?;
                Ok(None)
            }
        }
    }

    fn look(&self, folder: BorrowedFd<'_>, name: &Name, wanted: &Selection) -> Result<(Entry, Stat), Unread> {
        let stat = rustix::fs::statat(folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = kind_of(folder, name, &stat, *wanted == Selection::All)?;
        if *wanted != Selection::All && !matches!(kind, Kind::Folder { .. }) {
            let what = match kind {
                Kind::Symlink { target } => format!("a symbolic link to {}", super::shown(&target)),
                other => format!("a {}", other.word()),
            };
            return Err(Unread(format!("it is {what}, not a folder: name the path behind it")));
        }
        let meta = meta(folder, name.as_bytes(), &stat)?;
        Ok((Entry { name: name.clone(), kind, meta, link: None }, stat))
    }

    /// An entry with several names: the first is the entry, the others name it.
    fn name_again(&mut self, entry: &mut Entry, stat: &Stat) {
        let identity = (stat.st_dev, stat.st_ino);
        if let Some((number, left)) = self.links.get_mut(&identity) {
            entry.kind = Kind::Link { of: *number };
            *left -= 1;
            if *left == 0 {
                self.links.remove(&identity);
            }
        } else if self.links.len() < MAX_LINKS {
            self.numbers += 1;
            entry.link = Some(self.numbers);
            self.links.insert(identity, (self.numbers, stat.st_nlink - 1));
        }
    }

    /// Gives the data of a file, and its end. Holes stay holes.
    fn content(&mut self, file: &File, bytes: u64) -> Result<(), ArchiveError> {
        let mut at = 0;
        while at < bytes {
            let extent = match extent(file, at, bytes) {
                Ok(Some(extent)) => extent,
                Ok(None) => break,
                Err(error) => return self.sink.failed(None, &error.to_string()),
            };
            at = extent.start;
            while at < extent.end {
                let want = usize::try_from(extent.end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                match file.read_at(&mut self.buffer[..want], at) {
                    Ok(0) => return self.sink.failed(None, "it became shorter while it was read"),
                    Ok(n) => {
                        self.sink.data(at, &self.buffer[..n])?;
                        at += n as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return self.sink.failed(None, &format!("byte {at}: {error}")),
                }
            }
        }
        self.sink.end_file()
    }
}

/// The next stretch of data at or behind `at`; `None` if only a hole follows.
fn extent(file: &File, at: u64, bytes: u64) -> Result<Option<std::ops::Range<u64>>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start < bytes => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some(at..bytes)),
        Err(error) => return Err(error),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(start..end.min(bytes)))
}

fn level(fd: OwnedFd, wanted: &Selection) -> Result<Level<'_>, Unread> {
    let rest = match wanted {
        Selection::All => Rest::All(Dir::read_from(&fd)?),
        Selection::Some(parts) => Rest::Some(parts.iter()),
    };
    Ok(Level { fd, rest })
}

fn next<'a>(rest: &mut Rest<'a>) -> Option<Result<(Name, &'a Selection), Unread>> {
    match rest {
        Rest::Some(parts) => parts.next().map(|(name, wanted)| Ok((name.clone(), wanted))),
        Rest::All(dir) => loop {
            match dir.read()? {
                Ok(found) => {
                    if let Some(name) = Name::new(found.file_name().to_bytes()) {
                        return Some(Ok((name, &ALL)));
                    }
                }
                Err(error) => return Some(Err(error.into())),
            }
        },
    }
}

/// What a name is. `selected` says of a folder whether it is wanted itself.
pub fn kind_of(folder: BorrowedFd<'_>, name: &Name, stat: &Stat, selected: bool) -> Result<Kind, io::Error> {
    let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder { selected },
        FileType::RegularFile => Kind::File { bytes: stat.st_size.unsigned_abs() },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name.as_bytes(), Vec::new())?;
            Kind::Symlink { target: target.into_bytes() }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => {
            let (major, minor) = device();
            Kind::CharDevice { major, minor }
        }
        FileType::BlockDevice => {
            let (major, minor) = device();
            Kind::BlockDevice { major, minor }
        }
        _ => return Err(io::Error::other("it is of a kind that this program does not know")),
    })
}
