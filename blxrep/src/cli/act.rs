//! The commands that do something: snapshot, sync, pause, resume, cancel, restore, verify.

use super::Common;
use super::error::CliError;
use super::follow::{Interrupt, follow, interrupts};
use super::output::{ask, say};
use super::progress::waiting;
use super::restore_files::{self, FilesArgs};
use super::table::{Table, number, optional, text, word};
use crate::api::client::{Client, ClientError};
use crate::api::error::{ApiError, ErrorCode};
use crate::api::text::printable;
use crate::api::types::{
    ActionRow, Control, RestoreBody, SnapshotBody, SourceBody, SyncBody, SyncRow, VerifyBody, VerifyReport,
};
use crate::model::action::ActionState;
use crate::model::part_id::PartId;
use crate::model::percent::Percent;
use crate::model::point::mixture;
use crate::model::policy::Goal;
use crate::model::units::ByteCount;
use clap::{Args, ValueEnum};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const SNAPSHOT_EXAMPLES: &str = "\
A disk needs one full image in its life; from then on only what changes is sent.

Examples:
  blxrep snapshot web1 /dev/sda --wait
  blxrep snapshot web1 wwn:naa.5000c500a1b2c3d4";

const SYNC_EXAMPLES: &str = "\
All disks of the agent that have a base get a point of the same cut.

Examples:
  blxrep sync web1 --wait
  blxrep sync web1 sdb --wait --json";

const RESTORE_EXAMPLES: &str = "\
With --to, the target is a file or a whole block device on this host, and gets the disk or one part of it. A device must
be at least as large and not in use. What exists is overwritten only with --yes, or when you say so on the terminal.

With --agent and --device, a device of another server gets it: what differs is sent and written, everything is read
back and compared, and a device that is kept in sync gets a point of what it was first. The restore goes on after
interruptions of either side. What may be overwritten is in the agent's own configuration (`restore`).

With --path, files are written below --target, with owners, times, attributes and links as they were: on this host, or
with --agent on another server. PARTITION is a partition's number, 0 for a disk without partitions, or a volume's name, as
`vg0-root`; it may be left out where only one has files.

Examples:
  blxrep restore 4f0c --to /srv/web1-sda.img
  blxrep restore 4f0c2a9b01d3e587 --to /dev/sdc --yes
  blxrep restore 4f0c --partition 2 --to /srv/home.img
  blxrep restore 4f0c --partition vg0-root --to /srv/root.img
  blxrep restore 4f0c --agent web2 --device /dev/vdb --dry-run
  blxrep restore 4f0c --partition 2 --agent web2 --device /dev/vdb1 --yes
  blxrep restore 4f0c --path 1:/etc/nginx --path 1:/etc/ssl --target /srv/web1 --dry-run
  blxrep restore 4f0c --path 1:/etc/nginx --agent web1 --target /srv/restored";

const VERIFY_EXAMPLES: &str = "\
Reads what is stored and compares it with the digests of the catalog. Names every file that differs, and the points
that depend on it. What is found is shown with the points until a verification of all of them finds it healed.

With --sample, only so much of the content is read, chosen anew each time; headers, indexes and checksums are always
read as a whole.

With --source, a disk is read on its server and compared, by digests, with its newest point. What changed since counts as
equal: only what differs although nothing was seen to change it is named.

Examples:
  blxrep verify
  blxrep verify 4f0c --json
  blxrep verify --agent web1 --sample 5%
  blxrep verify --source web1 --disk sdb";

/// Make a full image of a disk and publish it as the base of a generation
#[derive(Debug, Args)]
#[command(after_long_help = SNAPSHOT_EXAMPLES)]
pub struct SnapshotArgs {
    agent: String,
    /// Device (/dev/sda or sda), identity (wwn:...) or id of the disk
    disk: String,
    /// Show progress until the base is published
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    common: Common,
}

/// Cut and publish a point now
#[derive(Debug, Args)]
#[command(after_long_help = SYNC_EXAMPLES)]
pub struct SyncArgs {
    agent: String,
    /// Device, identity or id of one disk; all protected disks of the agent without it
    disk: Option<String>,
    /// What the points shall be; without it, what the agent's policy says
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// Wait until the points are published
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    common: Common,
}

/// What a point shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// Proven to be a state the disks had, without freezing anything
    Quiet,
    /// Filesystems are frozen while the last round is read
    Frozen,
    /// Quiet if that can be proven, otherwise frozen, otherwise fuzzy
    Best,
}

impl From<Consistency> for Goal {
    fn from(wanted: Consistency) -> Self {
        match wanted {
            Consistency::Quiet => Self::Quiet,
            Consistency::Frozen => Self::Frozen,
            Consistency::Best => Self::Best,
        }
    }
}

#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Id of the action, or its first digits
    action: String,
    #[command(flatten)]
    common: Common,
}

/// Write a point's content to a file or a block device, or its files to a folder
#[derive(Debug, Args)]
#[command(after_long_help = RESTORE_EXAMPLES)]
pub struct RestoreArgs {
    /// Id of the point, or its first digits
    point: String,
    /// File or whole block device to write to
    #[arg(long, value_name = "FILE_OR_DEVICE", required_unless_present_any = ["paths", "device"])]
    to: Option<PathBuf>,
    /// Only this partition of the disk, by its number, or this volume, by its name
    #[arg(long, value_name = "PARTITION", conflicts_with = "paths")]
    partition: Option<PartId>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    files: FilesArgs,
    /// Overwrite what is there
    #[arg(long)]
    yes: bool,
    /// Restore a point that lacks sectors which could not be read, with zeroes there
    #[arg(long)]
    allow_holes: bool,
    /// Return as soon as it has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

/// A block device on an agent's host.
#[derive(Debug, Args)]
struct DeviceArgs {
    /// Agent on whose host the device or folder is; its own configuration says what may be touched there
    #[arg(long, value_name = "ID", conflicts_with = "to")]
    agent: Option<String>,
    /// Block device, whole or a partition, on that host
    #[arg(long, value_name = "DEVICE", requires = "agent", conflicts_with_all = ["to", "paths"])]
    device: Option<String>,
    /// Write everything; without it both sides are compared first, and what differs is written
    #[arg(long, requires = "device")]
    full: bool,
    /// Do not make a point of the device first where it is kept in sync
    #[arg(long, requires = "device")]
    no_undo: bool,
}

/// Check that what is stored is what was sent
#[derive(Debug, Args)]
#[command(after_long_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    /// Id of a point, or its first digits; everything without it
    point: Option<String>,
    /// Compare what a disk of this agent holds with its newest point
    #[arg(long, value_name = "AGENT", conflicts_with_all = ["point", "agent", "sample"])]
    source: Option<String>,
    /// Device, identity or id of that disk; needed where the agent has several
    #[arg(long, requires = "source")]
    disk: Option<String>,
    /// Only what is stored of this agent
    #[arg(long, value_name = "AGENT", conflicts_with = "point")]
    agent: Option<String>,
    /// Read only so much of the content, chosen at random
    #[arg(long, value_name = "PERCENT")]
    sample: Option<Percent>,
    /// Return as soon as it has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn snapshot(args: SnapshotArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let mut action = client.snapshot(&SnapshotBody { agent: args.agent, disk: args.disk }).await?;
    if args.wait {
        action = follow(&client, action, Interrupt::Leaves).await?;
    }
    finished(&args.common, &action)
}

pub async fn sync(args: SyncArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let body = SyncBody {
        agent: args.agent,
        disk: args.disk,
        consistency: args.consistency.map(Into::into),
        wait: args.wait,
    };
    let label = format!("sync of {}", body.agent);
    let mut interrupts = interrupts()?;
    let rows = tokio::select! {
        rows = waiting(&label, client.sync(&body)) => rows?,
        _ = interrupts.recv() => {
            return Err(CliError::Interrupted("no longer waiting; the sync goes on".into()));
        }
    };
    args.common.output().table(&rows, |rows| sync_table(rows))?;
    match rows.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        failed => Err(CliError::Failed(format!("{failed} of {} disks could not be synced", rows.len()))),
    }
}

pub async fn control(args: ControlArgs, control: Control) -> Result<(), CliError> {
    let action = args.common.client().control(&args.action, control).await?;
    args.common.output().result(&action, action_line)
}

pub async fn restore(args: RestoreArgs) -> Result<(), CliError> {
    warn_of(&args.common.client(), &args.point).await;
    if let Some(target) = args.files.target() {
        return match args.device.agent {
            Some(agent) => {
                let wanted = restore_files::OnAgent { agent, point: args.point, no_wait: args.no_wait };
                wanted.restore(&args.common, &args.files, target).await
            }
            None => restore_files::run(&args.common, &args.point, &args.files, target),
        };
    }
    let client = args.common.client();
    let RestoreArgs { point, to, partition, yes, allow_holes, .. } = args;
    let DeviceArgs { agent, device, full, no_undo } = args.device;
    let to = to.as_deref().map(absolute).transpose()?;
    let interrupt = if agent.is_some() { Interrupt::Leaves } else { Interrupt::Cancels };
    let dry_run = args.files.dry_run();
    let body = RestoreBody {
        point,
        partition,
        to,
        agent,
        device,
        full,
        no_undo,
        dry_run,
        yes,
        allow_holes,
        ..RestoreBody::default()
    };
    let mut action = begin_restore(&client, body).await?;
    if !args.no_wait {
        action = follow(&client, action, interrupt).await?;
    }
    finished(&args.common, &action)
}

pub async fn verify(args: VerifyArgs) -> Result<(), CliError> {
    let client = args.common.client();
    let of_source = args.source.is_some();
    let action = match args.source {
        Some(agent) => client.verify_source(&SourceBody { agent, disk: args.disk }).await?,
        None => {
            client.verify(&VerifyBody { point: args.point, agent: args.agent, sample: args.sample }).await?
        }
    };
    if args.no_wait {
        return args.common.output().result(&action, action_line);
    }
    let action = follow(&client, action, Interrupt::Cancels).await?;
    let report = match client.report(action.id).await {
        Ok(report) => report,
        // It ended before it could find anything; its own reason says more than the missing report.
        Err(ClientError::Api(ApiError { code: ErrorCode::NotFound, .. }))
            if action.state != ActionState::Succeeded =>
        {
            return finished(&args.common, &action);
        }
        Err(error) => return Err(error.into()),
    };
    args.common.output().result(&report, report_text)?;
    match report.problems.len() {
        0 => outcome(&action),
        _ if of_source => Err(CliError::Failed("the disk is not what its newest point says".into())),
        1 => Err(CliError::Failed("1 file is not as it was stored".into())),
        n => Err(CliError::Failed(format!("{n} files are not as they were stored"))),
    }
}

/// Says what speaks against a point, whatever of it is restored. That it cannot be had is told by what follows.
async fn warn_of(client: &Client, point: &str) {
    if let Ok(row) = client.point(point).await
        && let Some(restore) = row.half_restored
    {
        say(&format!("warning: point {}: {}", row.id, mixture(restore)));
    }
}

/// Asks before something is overwritten, where there is somebody to ask.
async fn begin_restore(client: &Client, mut body: RestoreBody) -> Result<ActionRow, CliError> {
    loop {
        let unconfirmed = match client.restore(&body).await {
            // Also when somebody has agreed, but to what was there before.
            Err(ClientError::Api(error))
                if error.code == ErrorCode::Unconfirmed && (!body.yes || body.agreed.is_some()) =>
            {
                error
            }
            other => return Ok(other?),
        };
        match ask(&format!("{unconfirmed}. Overwrite it?"))? {
            Some(true) => (body.yes, body.agreed) = (true, unconfirmed.about),
            Some(false) => return Err(CliError::Refused("not restored: nothing was written".into())),
            None => {
                return Err(CliError::Refused(format!("{unconfirmed}; give --yes to overwrite it")));
            }
        }
    }
}

/// The dispatcher's working directory is another one.
fn absolute(path: &Path) -> Result<String, CliError> {
    let shown = path.display();
    let absolute = std::path::absolute(path)
        .map_err(|error| CliError::Usage(format!("cannot restore to `{shown}`: {error}")))?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|_| CliError::Usage(format!("cannot restore to `{shown}`: the path is not UTF-8")))
}

/// Prints an action as the result; what is queued or under way is as good as done for a command that does not wait.
pub fn finished(common: &Common, action: &ActionRow) -> Result<(), CliError> {
    common.output().result(action, action_line)?;
    outcome(action)
}

fn outcome(action: &ActionRow) -> Result<(), CliError> {
    match action.state {
        ActionState::Failed => {
            Err(CliError::Failed(format!("the {} failed: {}", action.kind, action.reason)))
        }
        ActionState::Cancelled => Err(CliError::Failed(format!("the {} was cancelled", action.kind))),
        ActionState::Queued | ActionState::Running | ActionState::Paused | ActionState::Succeeded => Ok(()),
    }
}

fn action_line(action: &ActionRow) -> String {
    let mut line = format!("{} {}", action.kind, action.id);
    if let (Some(agent), Some(device)) = (&action.agent, &action.device) {
        // Writing to a string cannot fail.
        let _ = write!(line, " of {agent} {device}");
    }
    let _ = write!(line, ": {}", action.state);
    if !action.reason.is_empty() {
        let _ = write!(line, " ({})", action.reason);
    }
    printable(&line)
}

fn sync_table(rows: &[SyncRow]) -> Table {
    let headers = [
        word("AGENT"),
        word("DEVICE"),
        optional(word("CUT")),
        word("POINT"),
        word("CONSISTENCY"),
        number("BYTES"),
        optional(number("ROUNDS")),
        text("ERROR"),
    ];
    let mut table = Table::new("This agent has no disk to sync.", &headers);
    for row in rows {
        table.row([
            row.agent.to_string(),
            row.device.clone(),
            row.cut_id.to_string(),
            row.point.map(|p| p.to_string()).unwrap_or_default(),
            row.consistency.map(|c| c.to_string()).unwrap_or_default(),
            row.bytes.map(|b| ByteCount(b).to_string()).unwrap_or_default(),
            row.rounds.map(|r| r.to_string()).unwrap_or_default(),
            row.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn report_text(report: &VerifyReport) -> String {
    let bytes = ByteCount(report.bytes);
    let part = match report.sample {
        Some(share) => format!(" of {} (a sample of {share})", ByteCount(report.of_bytes)),
        None => String::new(),
    };
    let mut text = format!("checked {} points, {} files, {bytes}{part}: ", report.points, report.files);
    match report.problems.len() {
        0 => text.push_str("all is as it was stored\n"),
        n => {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{n} not as stored");
        }
    }
    for problem in &report.problems {
        let point = problem.point.map(|p| format!(" (point {p})")).unwrap_or_default();
        let _ = writeln!(text, "{}{point}: {}", printable(&problem.file), printable(&problem.what));
    }
    for point in &report.incomplete {
        let _ = writeln!(text, "incomplete: {}", printable(point));
    }
    text
}
