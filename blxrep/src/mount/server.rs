//! A point as a FUSE filesystem.
//!
//! Reads are served by as many threads as there are readers, each of which has a reader to itself while it reads, so
//! memory and open files are bounded. Nothing here waits for anything that is mounted on the point: the server can
//! always answer, and when it dies the kernel answers with errors in its place.

use super::scratch::Scratch;
use super::tree::{Node, Tree};
use crate::model::contents::Part;
use crate::model::extents::Extents;
use crate::view::part;
use crate::view::reader::Content;
use crate::view::{PointReader, ViewError};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// Readers, and threads that use them: two cores are kept busy while one read waits for a disk.
pub const READERS: usize = 3;
/// What the kernel knows of names and sizes stays true as long as the point is mounted.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Most that one answer holds; the kernel asks for 1 MiB at most unless it is told otherwise.
const MAX_READ: u64 = 16 << 20;
/// Most that a journal may write: twice the largest one (xfs, 2 GiB).
const MAX_SCRATCH_BYTES: u64 = 4 << 30;
/// Failed reads that are told; a rotten file may have thousands.
const MAX_ERRORS: usize = 64;
/// Stretches that are looked through for the next hole or data in one request.
const MAX_STRETCHES: usize = 4096;

/// What is served.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    readers: Readers,
    scratch: BTreeMap<u32, RwLock<Scratch>>,
    about: String,
    errors: Mutex<Vec<String>>,
    /// When it was mounted: the time of all its files.
    at: SystemTime,
}

/// The readers that nobody uses at the moment.
#[derive(Debug)]
struct Readers {
    free: Mutex<Vec<PointReader>>,
    returned: Condvar,
}

impl Readers {
    fn with<T>(&self, work: impl FnOnce(&mut PointReader) -> T) -> T {
        let mut free = lock(&self.free);
        let mut reader = loop {
            match free.pop() {
                Some(reader) => break reader,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        let done = work(&mut reader);
        lock(&self.free).push(reader);
        self.returned.notify_one();
        done
    }
}

/// What is guarded is whole after every step, also after one that panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Serves a point through these readers, all of the same point.
    pub fn new(readers: Vec<PointReader>, tree: Tree, about: String, at: SystemTime) -> io::Result<Self> {
        let mut scratch = BTreeMap::new();
        let replayed = |part: &Part| part.mounting().is_some_and(|mounting| mounting.replay);
        for (number, part) in (0..).zip(tree.parts()).filter(|(_, part)| replayed(part)) {
            scratch.insert(number, RwLock::new(Scratch::new(part.bytes, MAX_SCRATCH_BYTES)?));
        }
        let readers = Readers { free: Mutex::new(readers), returned: Condvar::new() };
        Ok(Self { tree, readers, scratch, about, errors: Mutex::default(), at })
    }

    fn node(&self, inode: INodeNo) -> Result<Node, Errno> {
        self.tree.node(inode.0).ok_or(Errno::ENOENT)
    }

    fn size(&self, node: Node) -> u64 {
        match node {
            Node::About => self.about.len() as u64,
            Node::Errors => lock(&self.errors).iter().map(|line| line.len() as u64 + 1).sum(),
            _ => self.tree.extents(node).map_or(0, Extents::bytes),
        }
    }

    fn attributes(&self, node: Node) -> FileAttr {
        let (kind, perm) = match node {
            _ if node.is_folder() => (FileType::Directory, 0o555),
            Node::Scratch(_) => (FileType::RegularFile, 0o600),
            _ => (FileType::RegularFile, 0o444),
        };
        let size = self.size(node);
        FileAttr {
            ino: INodeNo(node.inode()),
            size,
            blocks: size.div_ceil(512),
            atime: self.at,
            mtime: self.at,
            ctime: self.at,
            crtime: self.at,
            kind,
            perm,
            nlink: if node.is_folder() { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn read_node(&self, node: Node, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let text = match node {
            Node::About => Some(self.about.clone()),
            Node::Errors => Some(lock(&self.errors).iter().map(|line| format!("{line}\n")).collect()),
            _ => None,
        };
        if let Some(text) = text {
            let text = text.as_bytes();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            let end = start.saturating_add(size as usize).min(text.len());
            return Ok(text[start..end].to_vec());
        }
        let extents = self.tree.extents(node).ok_or(Errno::EISDIR)?;
        let length = extents.bytes().saturating_sub(offset).min(u64::from(size)).min(MAX_READ);
        let mut out = vec![0; usize::try_from(length).unwrap_or(0)];
        let below = |at: u64, out: &mut [u8]| self.read_part(extents, at, out);
        let done = match self.scratch_of(node) {
            Some(scratch) => {
                scratch.read().unwrap_or_else(PoisonError::into_inner).read(offset, &mut out, below)
            }
            None => below(offset, &mut out),
        };
        done.map_err(Errno::from)?;
        Ok(out)
    }

    fn write_node(&self, node: Node, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let (Some(scratch), Some(extents)) = (self.scratch_of(node), self.tree.extents(node)) else {
            return Err(Errno::EROFS);
        };
        let below = |at: u64, out: &mut [u8]| self.read_part(extents, at, out);
        let mut scratch = scratch.write().unwrap_or_else(PoisonError::into_inner);
        scratch.write(offset, data, below).map_err(|error| {
            self.note(format!("a write of {} bytes of a replay failed: {error}", data.len()));
            Errno::from(error)
        })?;
        u32::try_from(data.len()).map_err(|_| Errno::EINVAL)
    }

    fn scratch_of(&self, node: Node) -> Option<&RwLock<Scratch>> {
        match node {
            Node::Scratch(number) => self.scratch.get(&number),
            _ => None,
        }
    }

    fn read_part(&self, extents: &Extents, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.readers
            .with(|reader| part::read_at(reader, extents, at, out))
            .map_err(|error| self.failed(&error))
    }

    /// A read that failed, as the reader of the file sees it. The reason is in `errors.txt`.
    fn failed(&self, error: &ViewError) -> io::Error {
        self.note(error.to_string());
        rustix::io::Errno::IO.into()
    }

    fn note(&self, line: String) {
        let mut errors = lock(&self.errors);
        if errors.len() < MAX_ERRORS && !errors.contains(&line) {
            errors.push(line);
        }
    }

    /// Where data or a hole begins at or behind `at`.
    fn seek(&self, node: Node, at: u64, hole: bool) -> Result<u64, Errno> {
        let extents = self.tree.extents(node).ok_or(Errno::EINVAL)?;
        let size = extents.bytes();
        if at >= size {
            return Err(Errno::ENXIO);
        }
        if matches!(node, Node::Scratch(_)) {
            return if hole { Ok(size) } else { Ok(at) };
        }
        let found = self.readers.with(|reader| next(reader, extents, at, hole));
        match found.map_err(|error| Errno::from(self.failed(&error)))? {
            Some(place) => Ok(place),
            // Behind the last data there is a hole.
            None if hole => Ok(size),
            None => Err(Errno::ENXIO),
        }
    }
}

/// Where the next hole (or data) of a part begins. Gives up after many stretches and calls the rest data.
fn next(
    reader: &mut PointReader,
    extents: &Extents,
    mut at: u64,
    hole: bool,
) -> Result<Option<u64>, ViewError> {
    for _ in 0..MAX_STRETCHES {
        match part::next_stretch(reader, extents, at)? {
            Some((range, content)) => {
                if (content == Content::Zero) == hole {
                    return Ok(Some(at));
                }
                at = range.end;
            }
            None => return Ok(None),
        }
    }
    Ok(if hole { None } else { Some(at) })
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A wish: the kernel's own bound stands where it is lower.
        let _ = config.set_max_readahead(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.tree.node(parent.0).zip(name.to_str());
        match found.and_then(|(parent, name)| self.tree.lookup(parent, name)) {
            Some(node) => {
                let attributes = if node == Node::Errors { Duration::ZERO } else { FOR_EVER };
                reply.entry_with_ttls(&FOR_EVER, &attributes, &self.attributes(node), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(inode) {
            Ok(Node::Errors) => reply.attr(&Duration::ZERO, &self.attributes(Node::Errors)),
            Ok(node) => reply.attr(&FOR_EVER, &self.attributes(node)),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let node = self.node(inode);
        match node {
            Ok(node) if flags.acc_mode() != OpenAccMode::O_RDONLY && self.scratch_of(node).is_none() => {
                reply.error(Errno::EROFS);
            }
            Ok(Node::Errors) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.node(inode).and_then(|node| self.read_node(node, offset, size)) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.node(inode).and_then(|node| self.write_node(node, offset, data)) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// What is in the scratch layer need not outlive the machine.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, at: i64, whence: i32, reply: ReplyLseek) {
        let found = self.node(inode).and_then(|node| {
            let at = u64::try_from(at).map_err(|_| Errno::EINVAL)?;
            match whence {
                libc::SEEK_DATA => self.seek(node, at, false),
                libc::SEEK_HOLE => self.seek(node, at, true),
                _ => Err(Errno::EINVAL),
            }
        });
        match found.and_then(|place| i64::try_from(place).map_err(|_| Errno::EINVAL)) {
            Ok(place) => reply.offset(place),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, from: u64, mut reply: ReplyDirectory) {
        let node = match self.node(inode) {
            Ok(node) if node.is_folder() => node,
            Ok(_) => return reply.error(Errno::ENOTDIR),
            Err(error) => return reply.error(error),
        };
        let mut entries = vec![(".".to_owned(), node), ("..".to_owned(), Node::Root)];
        entries.extend(self.tree.children(node));
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        for (place, (name, node)) in (1..).zip(entries).skip(skip) {
            let kind = if node.is_folder() { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(node.inode()), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    /// There are none, and the kernel need not ask again.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel writes zeroes instead.
    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = self.tree.parts().len() as u64 + 6;
        reply.statfs(self.size(Node::Disk).div_ceil(4096), 0, 0, files, 0, 4096, 255, 4096);
    }
}
