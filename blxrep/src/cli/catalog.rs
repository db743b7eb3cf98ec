//! `blxrep catalog`: work on a data directory whose dispatcher is stopped.

use super::Common;
use super::error::CliError;
use crate::api::text::{Clock, printable};
use crate::store::rebuild::{RebuildReport, RebuiltDisk};
use crate::store::{Store, StoreError};
use clap::{Args, Subcommand};
use std::fmt::Write;

const REBUILD_EXAMPLES: &str = "\
For a catalog (blxrep.redb) that is lost, damaged, of another store or older than the files. Stop the dispatcher first.
The old catalog and every file that is no point go to quarantine/ in the data directory; nothing is deleted.

Examples:
  blxrep catalog rebuild --dry-run
  blxrep catalog rebuild --data-dir /var/lib/blxrep";

/// Make the dispatcher's catalog anew
#[derive(Debug, Args)]
pub struct CatalogArgs {
    #[command(subcommand)]
    command: CatalogCommand,
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    Rebuild(RebuildArgs),
}

/// Make a new catalog from the files of a data directory that no dispatcher uses
#[derive(Debug, Args)]
#[command(after_long_help = REBUILD_EXAMPLES)]
struct RebuildArgs {
    /// Say what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// Blocks, and has its thread to itself.
pub fn run(args: CatalogArgs) -> Result<(), CliError> {
    let CatalogCommand::Rebuild(args) = args.command;
    let report = Store::rebuild_catalog(args.common.data_dir.path(), args.dry_run).map_err(|e| match e {
        StoreError::Refused(_) | StoreError::InUse { .. } => CliError::Refused(e.to_string()),
        other => CliError::Failed(other.to_string()),
    })?;
    args.common.output().result(&report, report_text)
}

fn report_text(report: &RebuildReport) -> String {
    let (done, kept) = if report.dry_run { ("would be made", "") } else { ("was made", " now") };
    // Writing to a string cannot fail.
    let mut text = String::new();
    let _ = writeln!(
        text,
        "a catalog of store {} {done}: {}, {}, {}",
        report.store,
        counted(report.agents, "agent"),
        counted(report.disks.len() as u64, "disk"),
        counted(report.points, "point")
    );
    report.disks.iter().for_each(|disk| text.push_str(&disk_line(disk)));
    if report.details_kept > 0 {
        let _ = writeln!(
            text,
            "details of {} were taken from the old catalog",
            counted(report.details_kept, "point")
        );
    }
    if let Some(old) = &report.old_catalog {
        let _ = writeln!(text, "the old catalog is{kept} {}", old.display());
    }
    for moved in &report.moved {
        let _ = writeln!(text, "moved: {} to {}", moved.from.display(), moved.to.display());
    }
    for path in &report.rewritten {
        let _ = writeln!(text, "made again from its delta: {}", path.display());
    }
    for left in &report.left_out {
        let _ = write!(text, "left out: {}: {}", left.file.display(), left.reason);
        match &left.now {
            Some(now) => drop(writeln!(text, " ({kept} {})", now.display())),
            None => text.push('\n'),
        }
    }
    if !report.dry_run {
        text.push_str("start the dispatcher, then `blxrep verify` reads what the files hold\n");
    }
    text.lines().map(|line| printable(line) + "\n").collect()
}

fn disk_line(disk: &RebuiltDisk) -> String {
    format!(
        "  {} {} ({}): {} in {}, cut from {} to {}, the newest {}\n",
        disk.agent,
        disk.device,
        disk.identity,
        counted(disk.points, "point"),
        counted(disk.generations, "generation"),
        Clock(disk.oldest_cut),
        Clock(disk.newest_cut),
        disk.newest_point
    )
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
