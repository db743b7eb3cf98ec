//! `restore --path`: files of a point, written into a folder of this host.

use super::Common;
use super::browse::{place_of, root_of};
use super::error::CliError;
use super::listing::Listing;
use super::output::say;
use crate::api::text::printable;
use crate::archive::conflict::Policy;
use crate::archive::plan::{Plan, Step};
use crate::archive::report::Report;
use crate::archive::selection::Selection;
use crate::archive::target::Target;
use crate::archive::walk::walk;
use crate::archive::{ArchiveError, Entry, Meta, Name, Sink, Want};
use crate::model::contents::Part;
use crate::model::units::ByteCount;
use crate::mount::MountError;
use crate::mount::private::{Private, PrivatePoint};
use clap::{Args, ValueEnum};
use rustix::fd::AsFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// A folder that is open takes two descriptors where it is read and one where it is written.
const DESCRIPTORS: u64 = 3 * crate::archive::MAX_DEPTH as u64 + 256;

/// What of a point's files is restored, and where to.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// File or folder to restore; may be given several times. Keeps its path below the target
    #[arg(long = "path", value_name = "[PARTITION:]PATH", requires = "target", conflicts_with = "to")]
    paths: Vec<OsString>,
    /// Folder of this host that the files are written to; made if it does not exist
    #[arg(long, value_name = "DIR", requires = "paths")]
    target: Option<PathBuf>,
    /// What to do where something exists already
    #[arg(long, value_enum, default_value_t, requires = "paths")]
    conflict: Conflict,
    /// Only show what would be done
    #[arg(long, conflicts_with = "to")]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Conflict {
    /// What exists stays as it is
    #[default]
    Skip,
    /// It is replaced; folders are never removed
    Overwrite,
    /// The restored file is called NAME.restored
    Rename,
}

impl From<Conflict> for Policy {
    fn from(conflict: Conflict) -> Self {
        match conflict {
            Conflict::Skip => Self::Skip,
            Conflict::Overwrite => Self::Overwrite,
            Conflict::Rename => Self::Rename,
        }
    }
}

impl FilesArgs {
    /// The target, if files shall be restored.
    pub fn target(&self) -> Option<&Path> {
        self.target.as_deref()
    }

    /// Whether nothing is to be written.
    pub const fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Restores files.
pub fn run(common: &Common, point: &str, files: &FilesArgs, target: &Path) -> Result<(), CliError> {
    let mut wanted: BTreeMap<Option<u32>, Selection> = BTreeMap::new();
    for path in &files.paths {
        let (part, path) = place_of(path)?;
        wanted.entry(part).or_default().add(&path);
    }
    let target = absolute(target, common.data_dir.path())?;
    more_descriptors();
    let mut private = Private::enter()?;
    let point = private.open(common.data_dir.path(), point)?;
    // Before anything is written: a partition that does not exist, or none where one is needed, ends it.
    let mut parts: Vec<(Part, Selection)> = Vec::new();
    for (number, selection) in wanted {
        parts.push((point.part(number)?, selection));
    }
    if files.dry_run {
        return dry_run(common, &point, &parts, &target, files.conflict.into());
    }
    let mut report = Report::default();
    for (part, selection) in &parts {
        let root = root_of(&point, part)?;
        let mut watched = Watched::new(Target::open(&target, files.conflict.into())?);
        walk(root.as_fd(), selection, &mut watched).map_err(unfinished)?;
        add(&mut report, watched.target.into_report());
    }
    let shown = target.display().to_string();
    common.output().result(&report, |report| report_text(report, &shown))?;
    match report.failed {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} entries could not be restored; all others were"))),
    }
}

/// A restore that broke off says so, and how to go on.
fn unfinished(error: ArchiveError) -> CliError {
    match error {
        ArchiveError::Refused(_) => error.into(),
        error => CliError::Failed(format!("the restore is not finished: {error}; run it again to go on")),
    }
}

fn dry_run(
    common: &Common,
    point: &PrivatePoint,
    parts: &[(Part, Selection)],
    target: &Path,
    policy: Policy,
) -> Result<(), CliError> {
    let mut listing = Listing::new(common.json);
    let (mut failed, mut broken) = (0u64, None);
    for (part, selection) in parts {
        let root = root_of(point, part)?;
        let mut tell = |step: Step| {
            failed += u64::from(matches!(step.action, "refuse" | "fail"));
            let why = if step.why.is_empty() { String::new() } else { format!("  ({})", step.why) };
            let line = || format!("{:8}  {:9}  {}{why}", step.action, step.kind, step.path);
            listing.item(&step, line).map_err(|error| {
                broken = Some(error);
                ArchiveError::Interrupted
            })
        };
        let mut plan = Plan::new(target, policy, &mut tell)?;
        let walked = walk(root.as_fd(), selection, &mut plan);
        if let Some(error) = broken {
            return Err(error);
        }
        walked?;
    }
    listing.end("Nothing would be done.")?;
    match failed {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} entries could not be restored"))),
    }
}

/// The target as the kernel will name it, if it may be one.
fn absolute(target: &Path, data_dir: &Path) -> Result<PathBuf, CliError> {
    let absolute = std::path::absolute(target)
        .map_err(|e| CliError::Usage(format!("cannot restore to {}: {e}", target.display())))?;
    // What is not there yet is made in the folder above, which has to be there.
    let place = absolute.canonicalize().or_else(|_| absolute.parent().unwrap_or(&absolute).canonicalize());
    let place = place.map_err(|e| {
        CliError::from(MountError::Refused(format!(
            "cannot restore to {}: the folder above it: {e}",
            target.display()
        )))
    })?;
    if data_dir.canonicalize().is_ok_and(|data| place.starts_with(data)) {
        let why = format!(
            "cannot restore to {}: it is within the data directory of the dispatcher",
            target.display()
        );
        return Err(CliError::Refused(why));
    }
    Ok(absolute)
}

/// As many as deep trees take, if this process may have them.
fn more_descriptors() {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if now.current.is_some_and(|current| current < wanted) {
        // Without it only very deep folders cannot be restored, and the report says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
    }
}

fn add(sum: &mut Report, part: Report) {
    let Report { folders, files, links, symlinks, special, bytes, skipped, same, failed, problems } = part;
    sum.folders += folders;
    sum.files += files;
    sum.links += links;
    sum.symlinks += symlinks;
    sum.special += special;
    sum.bytes += bytes;
    sum.skipped += skipped;
    sum.same += same;
    sum.failed += failed;
    sum.problems.extend(problems);
}

fn report_text(report: &Report, target: &str) -> String {
    let Report { folders, files, links, symlinks, special, bytes, skipped, same, failed, .. } = report;
    let mut lines: Vec<String> = Vec::new();
    for problem in &report.problems {
        let what = if problem.failed { "failed" } else { "skipped" };
        lines.push(format!("{what}: {}: {}", problem.path, problem.why));
    }
    let untold = (failed + skipped).saturating_sub(report.problems.len() as u64);
    if untold > 0 {
        lines.push(format!("and {untold} more"));
    }
    lines.push(format!(
        "restored to {target}: {files} files ({}), {folders} folders, {links} further names, {symlinks} symbolic links, \
         {special} special files; {skipped} skipped, {same} already there, {failed} failed",
        ByteCount(*bytes)
    ));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

/// A target whose progress is told.
struct Watched {
    target: Target,
    told: Instant,
}

impl Watched {
    fn new(target: Target) -> Self {
        Self { target, told: Instant::now() }
    }

    fn tell(&mut self) {
        if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let report = self.target.report();
            say(&format!("restore: {} files, {}", report.files, ByteCount(report.bytes)));
        }
    }
}

impl Sink for Watched {
    fn top(&mut self, meta: &Meta) -> Result<(), ArchiveError> {
        self.target.top(meta)
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        self.tell();
        self.target.entry(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.tell();
        self.target.data(offset, bytes)
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        self.target.end_file()
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.target.leave()
    }

    fn failed(&mut self, name: Option<&Name>, why: &str) -> Result<(), ArchiveError> {
        self.target.failed(name, why)
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        self.target.end()
    }
}
