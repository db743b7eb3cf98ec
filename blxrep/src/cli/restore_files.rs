//! `restore --path`: files of a point, written into a folder of this host.

use super::Common;
use super::act::finished;
use super::browse::{place_of, root_of};
use super::error::CliError;
use super::follow::{Interrupt, follow};
use super::listing::Listing;
use super::output::say;
use crate::api::client::ClientError;
use crate::api::error::{ApiError, ErrorCode};
use crate::api::text::printable;
use crate::api::types::RestoreBody;
use crate::archive::ArchiveError;
use crate::archive::conflict::Policy;
use crate::archive::plan::Plan;
use crate::archive::root::Root;
use crate::archive::selection::Selection;
use crate::archive::target::Target;
use crate::archive::walk::walk;
use crate::archive::watched::Watched;
use crate::model::byte_text::ByteText;
use crate::model::contents::Part;
use crate::model::part_id::PartId;
use crate::model::restored::{self, Outcome, Report, Step};
use crate::model::units::ByteCount;
use crate::mount::MountError;
use crate::mount::private::{Private, PrivatePoint};
use clap::{Args, ValueEnum};
use rustix::fd::AsFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
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
    /// Folder that the files are written to, of this host or the agent's; made if it does not exist
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

/// What is wanted of each partition; that of `None` is the only one with files.
pub type Wanted = BTreeMap<Option<PartId>, Selection>;

/// Sorts `[PARTITION:]PATH` by partition.
pub fn wanted(paths: &[OsString]) -> Result<Wanted, CliError> {
    let mut wanted = Wanted::new();
    for path in paths {
        let (part, path) = place_of(path)?;
        wanted.entry(part).or_default().add(&path);
    }
    Ok(wanted)
}

/// The partitions that are meant. Comes before anything is written: one that does not exist, or none where one is
/// needed, ends it.
pub fn parts(point: &PrivatePoint, wanted: Wanted) -> Result<Vec<(Part, Selection)>, CliError> {
    let part = |(id, selection): (Option<PartId>, _)| Ok((point.part(id.as_ref())?, selection));
    wanted.into_iter().map(part).collect()
}

/// Restores files.
pub fn run(common: &Common, point: &str, files: &FilesArgs, target: &Path) -> Result<(), CliError> {
    let wanted = wanted(&files.paths)?;
    let target = absolute(target, common.data_dir.path())?;
    more_descriptors();
    let mut private = Private::enter()?;
    let point = private.open(common.data_dir.path(), point)?;
    let parts = parts(&point, wanted)?;
    if files.dry_run {
        return dry_run(common, &point, &parts, &target, files.conflict.into());
    }
    let mut report = Report::default();
    let mut told = Instant::now();
    for (part, selection) in &parts {
        let root = root_of(&point, part)?;
        let target = Target::new(Root::open(&target)?, files.conflict.into(), false)?;
        let mut watched = Watched::new(target, |target: &Target| {
            tell(&mut told, target.report());
            Ok(())
        });
        walk(root.as_fd(), selection, &mut watched).map_err(unfinished)?;
        report.add(watched.sink.into_report());
    }
    let shown = target.display().to_string();
    common.output().result(&report, |report| report_text(report, &shown))?;
    outcome(&report)
}

/// Files that go to another host.
#[derive(Debug)]
pub struct OnAgent {
    pub agent: String,
    pub point: String,
    pub no_wait: bool,
}

impl OnAgent {
    /// Has them restored.
    pub async fn restore(self, common: &Common, files: &FilesArgs, target: &Path) -> Result<(), CliError> {
        wanted(&files.paths)?;
        let text = target.to_str().filter(|text| text.starts_with('/')).ok_or_else(|| {
            CliError::Usage(format!(
                "`{}` is no absolute path on the agent's host, in UTF-8",
                target.display()
            ))
        })?;
        let body = RestoreBody {
            point: self.point,
            agent: Some(self.agent),
            paths: files.paths.iter().map(|path| ByteText::from(path.as_bytes())).collect(),
            target: Some(text.to_owned()),
            conflict: files.conflict.into(),
            dry_run: files.dry_run,
            ..RestoreBody::default()
        };
        let client = common.client();
        let action = client.restore(&body).await?;
        if self.no_wait {
            return finished(common, &action);
        }
        let action = follow(&client, action, Interrupt::Leaves).await?;
        let report = match client.files_report(action.id).await {
            Ok(report) => report,
            // It ended before anything came of it; its own reason says more than the missing report.
            Err(ClientError::Api(ApiError { code: ErrorCode::NotFound, .. })) => {
                return finished(common, &action);
            }
            Err(error) => return Err(error.into()),
        };
        let place = format!("{} of {}", report.target, body.agent.unwrap_or_default());
        match report.outcome {
            Outcome::Restored(report) => {
                common.output().result(&report, |report| report_text(report, &place))?;
                outcome(&report)
            }
            Outcome::Planned(plan) => plan_text(common, &plan),
        }
    }
}

fn plan_text(common: &Common, plan: &restored::Plan) -> Result<(), CliError> {
    let mut listing = Listing::new(common.json);
    for step in &plan.steps {
        listing.item(step, || step_line(step))?;
    }
    listing.end("Nothing would be done.")?;
    if plan.more > 0 {
        say(&format!("and {} more", plan.more));
    }
    planned(plan.failed)
}

/// A plan of which something would fail has failed.
fn planned(failed: u64) -> Result<(), CliError> {
    match failed {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} entries could not be restored"))),
    }
}

/// A restore of which something failed has failed.
fn outcome(report: &Report) -> Result<(), CliError> {
    match report.failed {
        0 => Ok(()),
        n => Err(CliError::Failed(format!("{n} entries could not be restored; all others were"))),
    }
}

fn tell(told: &mut Instant, report: &Report) {
    if told.elapsed() >= LINE_EVERY {
        *told = Instant::now();
        say(&format!("restore: {} files, {}", report.files, ByteCount(report.bytes)));
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
            failed += u64::from(step.is_failure());
            listing.item(&step, || step_line(&step)).map_err(|error| {
                broken = Some(error);
                ArchiveError::Interrupted
            })
        };
        let mut plan = Plan::new(Root::find(target)?, policy, &mut tell);
        let walked = walk(root.as_fd(), selection, &mut plan);
        if let Some(error) = broken {
            return Err(error);
        }
        walked?;
    }
    listing.end("Nothing would be done.")?;
    planned(failed)
}

fn step_line(step: &Step) -> String {
    let why = if step.why.is_empty() { String::new() } else { format!("  ({})", step.why) };
    format!("{:8}  {:9}  {}{why}", step.action, step.kind, step.path)
}

/// The target as the kernel will name it, if it may be one.
pub fn absolute(target: &Path, data_dir: &Path) -> Result<PathBuf, CliError> {
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
pub fn more_descriptors() {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if now.current.is_some_and(|current| current < wanted) {
        // Without it only very deep folders cannot be restored, and the report says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
    }
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
