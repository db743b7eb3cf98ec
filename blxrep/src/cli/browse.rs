//! The commands that look at the files of points: ls, find, diff. Each mounts what it needs for itself alone.

use super::Common;
use super::error::CliError;
use super::listing::Listing;
use crate::archive::diff::{Change, diff, diff_entry};
use crate::archive::selection;
use crate::archive::walk::{kind_of, scan};
use crate::archive::{ArchiveError, Entry, Kind, Meta, Name, Sink, Want, glob, shown};
use crate::model::contents::{Access, Part};
use crate::model::units::ByteCount;
use crate::mount::MountError;
use crate::mount::private::{Private, PrivatePoint};
use clap::Args;
use jiff::Timestamp;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat};
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

const LS_EXAMPLES: &str = "\
PARTITION is a partition's number, 0 for a disk without partitions; it may be left out where only one has files.
Names that are not plain text are shown with escapes: \\n, \\xff, \\\\.

Examples:
  blxrep ls 4f0c
  blxrep ls 4f0c 1:/etc";

const FIND_EXAMPLES: &str = "\
PATTERN is compared with names, or with whole paths if it has a slash: `*` and `?` stand for any and for one byte, also a
slash; `[a-c]` for one of a few.

Examples:
  blxrep find 4f0c '*.conf'
  blxrep find 4f0c '1:/etc/*/id_*'";

const DIFF_EXAMPLES: &str = "\
Content is compared byte by byte. What only one point has is told once, not with all that is in it.

Examples:
  blxrep diff 4f0c 77a1
  blxrep diff 4f0c 77a1 1:/etc --json";

/// List a folder of a point, or its partitions
#[derive(Debug, Args)]
#[command(after_long_help = LS_EXAMPLES)]
pub struct LsArgs {
    /// Id of the point, or its first digits
    point: String,
    /// Folder or file; the point's partitions without it
    #[arg(value_name = "[PARTITION:]PATH")]
    path: Option<OsString>,
    #[command(flatten)]
    common: Common,
}

/// Find files of a point by name
#[derive(Debug, Args)]
#[command(after_long_help = FIND_EXAMPLES)]
pub struct FindArgs {
    /// Id of the point, or its first digits
    point: String,
    /// What names fit; all partitions are looked through unless one is named
    #[arg(value_name = "[PARTITION:]PATTERN")]
    pattern: OsString,
    #[command(flatten)]
    common: Common,
}

/// Show how the files of two points differ
#[derive(Debug, Args)]
#[command(after_long_help = DIFF_EXAMPLES)]
pub struct DiffArgs {
    /// Id of the first point, or its first digits
    before: String,
    /// Id of the second point, or its first digits
    after: String,
    /// Only below this; all partitions that both have without it
    #[arg(value_name = "[PARTITION:]PATH")]
    path: Option<OsString>,
    #[command(flatten)]
    common: Common,
}

/// One file as it is listed.
#[derive(Debug, Serialize)]
struct FileRow {
    partition: u32,
    /// With escapes; see `archive::shown`.
    path: String,
    kind: &'static str,
    /// Four octal digits.
    mode: String,
    uid: u32,
    gid: u32,
    bytes: u64,
    /// RFC 3339, or seconds where the year has more than four digits.
    modified: String,
    /// Of a symbolic link.
    target: Option<String>,
}

#[derive(Debug, Serialize)]
struct PartRow<'a> {
    partition: u32,
    kind: &'a str,
    label: &'a str,
    bytes: u64,
    /// Why its files cannot be shown; empty if they can.
    note: &'a str,
}

#[derive(Debug, Serialize)]
struct ChangeRow {
    partition: u32,
    #[serde(flatten)]
    change: Change,
}

pub fn ls(args: &LsArgs) -> Result<(), CliError> {
    let mut private = Private::enter()?;
    let point = private.open(args.common.data_dir.path(), &args.point)?;
    let mut listing = Listing::new(args.common.json);
    let Some(path) = &args.path else {
        list_parts(&point, &mut listing)?;
        return listing.end("The point has no partitions.");
    };
    let (number, path) = place_of(path)?;
    let part = point.part(number)?;
    let root = root_of(&point, &part)?;
    let (folder, name) = enter(root.as_fd(), &path)?;
    let folder = match name {
        Some(name) => {
            let row =
                row(&part, folder.as_fd(), &path[..path.len() - 1], &name).map_err(|e| failed(&path, &e))?;
            listing.item(&row, || line(&row, ""))?;
            return listing.end("");
        }
        None => folder,
    };
    let mut names = Vec::new();
    for found in Dir::read_from(&folder).map_err(|e| failed(&path, &e.into()))? {
        let found = found.map_err(|e| failed(&path, &e.into()))?;
        names.extend(Name::new(found.file_name().to_bytes()));
    }
    names.sort_unstable();
    for name in names {
        let row = row(&part, folder.as_fd(), &path, &name).map_err(|e| failed(&path, &e))?;
        listing.item(&row, || line(&row, &shown(name.as_bytes())))?;
    }
    listing.end("The folder is empty.")
}

fn list_parts(point: &PrivatePoint, listing: &mut Listing) -> Result<(), CliError> {
    for part in point.parts() {
        let note = match &part.access {
            Access::Mount(_) => "",
            Access::Never(why) => why,
        };
        let bytes = part.range.end - part.range.start;
        let row = PartRow { partition: part.number, kind: &part.kind, label: &part.label, bytes, note };
        listing.item(&row, || {
            let kind = if part.kind.is_empty() { "unknown" } else { &part.kind };
            let note = if note.is_empty() { String::new() } else { format!("  no files: {note}") };
            format!("{}:  {kind}  {}  {}{note}", part.number, ByteCount(bytes), part.label)
        })?;
    }
    Ok(())
}

pub fn find(args: &FindArgs) -> Result<(), CliError> {
    let (number, pattern) = selection::place(args.pattern.as_bytes());
    let mut private = Private::enter()?;
    let point = private.open(args.common.data_dir.path(), &args.point)?;
    let mut listing = Listing::new(args.common.json);
    let mut unread = 0;
    for part in parts_of(&point, number)? {
        let root = root_of(&point, &part)?;
        let mut finder =
            Finder { part: &part, pattern, path: Vec::new(), listing: &mut listing, unread: 0, broken: None };
        let walked = scan(root.as_fd(), &mut finder);
        unread += finder.unread;
        if let Some(error) = finder.broken {
            return Err(error);
        }
        walked?;
    }
    listing.end("Nothing fits.")?;
    complete(unread)
}

/// The part with a number, or all that have files.
fn parts_of(point: &PrivatePoint, number: Option<u32>) -> Result<Vec<Part>, MountError> {
    match number {
        Some(_) => Ok(vec![point.part(number)?]),
        None => Ok(point.parts().iter().filter(|part| part.mounting().is_some()).cloned().collect()),
    }
}

pub fn compare(args: &DiffArgs) -> Result<(), CliError> {
    let place = args.path.as_ref().map(place_of).transpose()?;
    let (number, path) = place.unwrap_or_default();
    let data_dir = args.common.data_dir.path();
    let mut private = Private::enter()?;
    let before = private.open(data_dir, &args.before)?;
    let after = private.open(data_dir, &args.after)?;
    let mut listing = Listing::new(args.common.json);
    let mut unread = 0;
    for part in parts_of(&before, number)? {
        let Ok(other) = after.part(Some(part.number)) else {
            super::output::say(&format!("only point {} has partition {}", before.id(), part.number));
            continue;
        };
        let roots = (root_of(&before, &part)?, root_of(&after, &other)?);
        unread += compare_part(&part, &roots, &path, &mut listing)?;
    }
    listing.end("Nothing differs.")?;
    complete(unread)
}

/// Returns how many names could not be compared.
fn compare_part(
    part: &Part,
    roots: &(OwnedFd, OwnedFd),
    path: &[Name],
    listing: &mut Listing,
) -> Result<u64, CliError> {
    let (above, last) = path.split_at(path.len().saturating_sub(1));
    let before = (path_of(above), open_below(roots.0.as_fd(), above)?);
    let after = open_below(roots.1.as_fd(), above)?;
    let (mut unread, mut broken) = (0, None);
    let mut tell = |change: Change| {
        unread += u64::from(change.change == crate::archive::diff::How::Failed);
        let change = Change { path: format!("{}{}", before.0, change.path), ..change };
        let row = ChangeRow { partition: part.number, change };
        let told = listing.item(&row, || {
            let ChangeRow { partition, change } = &row;
            let what = if change.what.is_empty() {
                String::new()
            } else {
                format!("  ({})", change.what.join(", "))
            };
            format!("{:8}  {partition}:{}{what}", change.change.word(), change.path)
        });
        told.map_err(|error| {
            broken = Some(error);
            ArchiveError::Interrupted
        })
    };
    let done = match last {
        [name] => diff_entry(before.1.as_fd(), after.as_fd(), name, &mut tell),
        _ => diff(before.1.as_fd(), after.as_fd(), &mut tell),
    };
    match broken {
        Some(error) => Err(error),
        None => Ok(done.map(|()| unread)?),
    }
}

fn complete(unread: u64) -> Result<(), CliError> {
    match unread {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} files or folders could not be read"))),
    }
}

/// A path as people typed it.
pub fn place_of(text: &OsString) -> Result<(Option<u32>, Vec<Name>), CliError> {
    let (number, path) = selection::place(text.as_bytes());
    let names = selection::path(path).ok_or_else(|| {
        CliError::Usage(format!("`{}` is no path of a point: it has `..` in it", shown(text.as_bytes())))
    })?;
    Ok((number, names))
}

/// The root folder of a part's files. What one should know about them is said on stderr.
pub fn root_of(point: &PrivatePoint, part: &Part) -> Result<OwnedFd, CliError> {
    let (root, note) = point.root(part)?;
    if !note.is_empty() {
        super::output::say(&note);
    }
    Ok(root)
}

/// A path from the root, with a slash at its end.
fn path_of(names: &[Name]) -> String {
    let mut text = "/".to_owned();
    for name in names {
        text.push_str(&shown(name.as_bytes()));
        text.push('/');
    }
    text
}

fn failed(path: &[Name], error: &std::io::Error) -> CliError {
    let path = path_of(path);
    let path = path.trim_end_matches('/');
    match error.raw_os_error() {
        Some(libc::ENOENT) => MountError::NotFound(format!("the point has no {path}")).into(),
        Some(libc::ELOOP | libc::ENOTDIR) => MountError::Refused(format!(
            "{path} leads through something that is no folder; of a symbolic link, name the path behind it"
        ))
        .into(),
        _ => CliError::Failed(format!("cannot read {path}: {error}")),
    }
}

fn open_below(root: BorrowedFd<'_>, path: &[Name]) -> Result<OwnedFd, CliError> {
    let mut folder = root.try_clone_to_owned().map_err(|e| failed(path, &e))?;
    for name in path {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let below = rustix::fs::openat2(&folder, name.as_bytes(), flags, Mode::empty(), resolve);
        folder = below.map_err(|e| failed(path, &e.into()))?;
    }
    Ok(folder)
}

/// The folder that a path names, or, if it is none, the one that it is in, and its name.
fn enter(root: BorrowedFd<'_>, path: &[Name]) -> Result<(OwnedFd, Option<Name>), CliError> {
    let Some((last, above)) = path.split_last() else { return Ok((open_below(root, path)?, None)) };
    let folder = open_below(root, above)?;
    let stat = rustix::fs::statat(&folder, last.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed(path, &e.into()))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => Ok((open_below(root, path)?, None)),
        _ => Ok((folder, Some(last.clone()))),
    }
}

fn row(part: &Part, folder: BorrowedFd<'_>, above: &[Name], name: &Name) -> std::io::Result<FileRow> {
    let stat: Stat = rustix::fs::statat(folder, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = kind_of(folder, name, &stat, true)?;
    Ok(FileRow {
        partition: part.number,
        path: format!("{}{}", path_of(above), shown(name.as_bytes())),
        kind: kind.word(),
        mode: format!("{:04o}", stat.st_mode & 0o7777),
        uid: stat.st_uid,
        gid: stat.st_gid,
        bytes: stat.st_size.unsigned_abs(),
        modified: instant(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        target: if let Kind::Symlink { target } = kind { Some(shown(&target)) } else { None },
    })
}

fn instant(seconds: i64, nanos: u32) -> String {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    Timestamp::new(seconds, nanos).map_or_else(|_| format!("{seconds}"), |instant| instant.to_string())
}

/// A file in a line; `name` in place of the whole path, if there is one.
fn line(row: &FileRow, name: &str) -> String {
    let name = if name.is_empty() { &row.path } else { name };
    let target = row.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    let FileRow { kind, mode, uid, gid, bytes, modified, .. } = row;
    format!("{kind:7}  {mode}  {uid:>5}:{gid:<5}  {bytes:>12}  {modified:30}  {name}{target}")
}

/// Lists what fits a pattern.
struct Finder<'a> {
    part: &'a Part,
    pattern: &'a [u8],
    path: Vec<Name>,
    listing: &'a mut Listing,
    unread: u64,
    /// The reader of the list is gone.
    broken: Option<CliError>,
}

impl Finder<'_> {
    fn fits(&self, name: &Name) -> bool {
        if !self.pattern.contains(&b'/') {
            return glob::matches(self.pattern, name.as_bytes());
        }
        let parts =
            [&b""[..]].into_iter().chain(self.path.iter().map(Name::as_bytes)).chain([name.as_bytes()]);
        glob::matches(self.pattern, &parts.collect::<Vec<_>>().join(&b'/'))
    }

    fn tell(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let Meta { mode, uid, gid, mtime, .. } = entry.meta;
        let row = FileRow {
            partition: self.part.number,
            path: format!("{}{}", path_of(&self.path), shown(entry.name.as_bytes())),
            kind: entry.kind.word(),
            mode: format!("{mode:04o}"),
            uid,
            gid,
            bytes: if let Kind::File { bytes } = entry.kind { bytes } else { 0 },
            modified: instant(mtime.seconds, mtime.nanos),
            target: if let Kind::Symlink { target } = &entry.kind { Some(shown(target)) } else { None },
        };
        self.listing.item(&row, || format!("{}:{}", row.partition, row.path)).map_err(|error| {
            self.broken = Some(error);
            ArchiveError::Interrupted
        })
    }
}

impl Sink for Finder<'_> {
    fn top(&mut self, _: &Meta) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        if self.fits(&entry.name) {
            self.tell(entry)?;
        }
        if matches!(entry.kind, Kind::Folder { .. }) {
            self.path.push(entry.name.clone());
            return Ok(Want::Content);
        }
        Ok(Want::Nothing)
    }

    fn data(&mut self, _: u64, _: &[u8]) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.path.pop();
        Ok(())
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        self.unread += 1;
        let name = name.map(|name| shown(name.as_bytes())).unwrap_or_default();
        let path = format!("{}:{}{name}", self.part.number, path_of(&self.path));
        super::output::say(&format!("cannot read {path}: {why}"));
        Ok(())
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        Ok(())
    }
}
