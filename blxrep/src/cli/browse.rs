//! The commands that look at the files of points: ls, find, diff. The dispatcher looks; this prints page after page.

use super::error::CliError;
use super::listing::Listing;
use super::output::say;
use super::{Common, DataDir};
use crate::api::browse::{ChangeRow, DiffQuery, FileRow, FilesQuery, FindQuery, Findings, How, PartitionRow};
use crate::api::client::ClientError;
use crate::archive::{Name, selection, shown};
use crate::browse::child;
use crate::model::byte_text::ByteText;
use crate::model::contents::Part;
use crate::model::part_id::PartId;
use crate::model::units::ByteCount;
use crate::mount::private::PrivatePoint;
use clap::Args;
use rustix::fd::OwnedFd;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Rows of a page.
const PAGE: u32 = 1000;

const LS_EXAMPLES: &str = "\
PARTITION is a partition's number, 0 for a disk without partitions, or the name of a volume: `vg-lv` of a logical volume,
`md-NAME` of an md array. It may be left out where only one has files.
Names that are not plain text are shown with escapes: \\n, \\xff, \\\\.

Examples:
  blxrep ls 4f0c
  blxrep ls 4f0c 1:/etc
  blxrep ls 4f0c vg0-root:/etc";

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

pub async fn ls(args: &LsArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let mut listing = Listing::new(args.common.json);
    let Some(path) = &args.path else {
        let ask = async |_| client.partitions(&args.point).await;
        let unread = pages(ask, |row| listing.item(row, || partition_line(row))).await?;
        listing.end("The point has no partitions.")?;
        return complete(unread);
    };
    let (partition, path) = place(path);
    let components = |path: &ByteText| selection::path(path.as_bytes()).map_or(0, |names| names.len());
    let depth = components(&path);
    let query = FilesQuery { partition, path: Some(path), limit: Some(PAGE), after: None };
    let ask = async |after| client.files(&args.point, &FilesQuery { after, ..query.clone() }).await;
    let unread = pages(ask, |row| {
        // Of a folder its entries are listed, of anything else itself.
        let name = if components(&row.raw) == depth { &row.path } else { &row.name };
        listing.item(row, || file_line(row, name))
    });
    let unread = unread.await?;
    listing.end("The folder is empty.")?;
    complete(unread)
}

pub async fn find(args: &FindArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let (partition, pattern) = place(&args.pattern);
    let query = FindQuery { pattern, partition, limit: Some(PAGE), after: None };
    let mut listing = Listing::new(args.common.json);
    let ask = async |after| client.find(&args.point, &FindQuery { after, ..query.clone() }).await;
    let unread = pages(ask, |row| listing.item(row, || format!("{}:{}", row.partition, row.path))).await?;
    listing.end("Nothing fits.")?;
    complete(unread)
}

pub async fn compare(args: &DiffArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let (partition, path) = args.path.as_deref().map(place).unwrap_or_default();
    let (with, path) = (args.after.clone(), Some(path));
    let query = DiffQuery { with, partition, path, limit: Some(PAGE), after: None };
    let mut listing = Listing::new(args.common.json);
    let mut failed = 0;
    let ask = async |after| client.diff(&args.before, &DiffQuery { after, ..query.clone() }).await;
    let unread = pages(ask, |row| {
        failed += usize::from(row.change == How::Failed);
        listing.item(row, || change_line(row))
    });
    let unread = unread.await?;
    listing.end("Nothing differs.")?;
    complete(unread + failed)
}

/// Gives every row of every page to `each`, and says on stderr what one should know. Returns how much could not be read.
async fn pages<T>(
    mut ask: impl AsyncFnMut(Option<String>) -> Result<Findings<T>, ClientError>,
    mut each: impl FnMut(&T) -> Result<(), CliError>,
) -> Result<usize, CliError> {
    let (mut after, mut notes, mut unread) = (None, Vec::new(), 0);
    loop {
        let page = ask(after).await?;
        for note in page.notes {
            // Every page has those of its partition.
            if !notes.contains(&note) {
                say(&note);
                notes.push(note);
            }
        }
        page.unread.iter().for_each(|what| say(what));
        unread += page.unread.len();
        page.items.iter().try_for_each(&mut each)?;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(unread),
        }
    }
}

fn complete(unread: usize) -> Result<(), CliError> {
    match unread {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} files or folders could not be read"))),
    }
}

/// What people type in two parts.
fn place(text: &OsStr) -> (Option<PartId>, ByteText) {
    let (part, path) = selection::place(text.as_bytes());
    (part, path.into())
}

fn partition_line(row: &PartitionRow) -> String {
    let kind = if row.kind.is_empty() { "unknown" } else { &row.kind };
    let note = if row.note.is_empty() { String::new() } else { format!("  no files: {}", row.note) };
    format!("{}:  {kind}  {}  {}{note}", row.partition, ByteCount(row.bytes), row.label)
}

fn file_line(row: &FileRow, name: &str) -> String {
    let target = row.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    let FileRow { mode, uid, gid, bytes, modified, .. } = row;
    let kind = row.kind.word();
    format!("{kind:7}  {mode}  {uid:>5}:{gid:<5}  {bytes:>12}  {modified:30}  {name}{target}")
}

fn change_line(row: &ChangeRow) -> String {
    let what = if row.what.is_empty() { String::new() } else { format!("  ({})", row.what.join(", ")) };
    format!("{:8}  {}:{}{what}", row.change.word(), row.partition, row.path)
}

/// A path as people typed it, in its components.
pub fn place_of(text: &OsString) -> Result<(Option<PartId>, Vec<Name>), CliError> {
    let (part, path) = selection::place(text.as_bytes());
    let names = selection::path(path).ok_or_else(|| {
        CliError::Usage(format!("`{}` is no path of a point: it has `..` in it", shown(text.as_bytes())))
    })?;
    Ok((part, names))
}

/// The root folder of a part's files. What one should know about them is said on stderr.
pub fn root_of(point: &PrivatePoint, part: &Part) -> Result<OwnedFd, CliError> {
    let (root, note) = point.root(part)?;
    if !note.is_empty() {
        say(&note);
    }
    Ok(root)
}

/// Look into points; started by the dispatcher
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    data_dir: DataDir,
    #[arg(required = true)]
    points: Vec<String>,
}

/// Everything until the dispatcher wants no more.
pub fn serve(args: &ServeArgs) -> Result<(), CliError> {
    child::serve(args.data_dir.path(), &args.points).map_err(CliError::Output)
}
