//! The command line: what can be typed, and which function does it.
//!
//! Results go to stdout; progress, questions and errors to stderr. Every command but `start`, `catalog`, `doctor` and `tui` is
//! one or a few requests to the dispatcher's API.

mod act;
mod browse;
mod catalog;
mod consolidate;
mod courier;
pub mod doctor;
mod error;
mod export;
mod exports;
mod follow;
mod list;
mod listing;
mod mount;
pub mod nbd;
mod output;
mod progress;
mod restore_files;
pub mod start;
mod table;
pub mod view;

pub use error::{CliError, exit, exit_code};

use crate::api::client::Client;
use crate::api::types::Control;
use crate::io::limits;
use crate::observe::LogFormat;
use clap::{Args, Parser, Subcommand};
use output::Output;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// Threads that hang in the kernel when the program ends get this long.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Where the dispatcher keeps everything unless it is told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/blxrep";
/// Names the data directory where `--data-dir` is not given.
pub const DATA_DIR_VARIABLE: &str = "BLXREP_DATA_DIR";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  tried, and it failed
  2  wrong usage
  3  no such agent, disk, point or action
  4  refused: not allowed, or not confirmed
  130  interrupted";

/// Continuous block-level backup for Linux servers, without a kernel module.
///
/// An agent runs on each protected server and streams what changes on its disks
/// to a dispatcher, which keeps recovery points. The other commands run on the
/// dispatcher's host and talk to it through the socket in its data directory.
#[derive(Debug, Parser)]
#[command(name = "blxrep", version, after_long_help = EXIT_CODES, verbatim_doc_comment)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(Box<start::StartArgs>),
    /// List agents, or show all that one agent says of its host
    Agents {
        /// Show this agent's host: interfaces, disks, partitions, filesystems
        agent: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List disks: how far behind their newest point is, and what is not yet published
    Disks {
        #[command(flatten)]
        filter: list::FilterArgs,
        #[command(flatten)]
        common: Common,
    },
    Points(list::PointsArgs),
    /// List actions: what is being done, and how it went
    Actions {
        #[command(flatten)]
        filter: list::FilterArgs,
        /// Only the newest COUNT
        #[arg(long, value_name = "COUNT")]
        newest: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    Snapshot(act::SnapshotArgs),
    Sync(act::SyncArgs),
    /// Pause an action; what changes meanwhile is kept in mind
    Pause(act::ControlArgs),
    /// Go on with a paused action
    Resume(act::ControlArgs),
    /// Stop an action for good
    Cancel(act::ControlArgs),
    Restore(act::RestoreArgs),
    Ls(browse::LsArgs),
    Find(browse::FindArgs),
    Diff(browse::DiffArgs),
    Mount(mount::MountArgs),
    Umount(mount::UmountArgs),
    Mounts(mount::MountsArgs),
    Export(Box<export::ExportArgs>),
    Exports(exports::ExportsArgs),
    Verify(act::VerifyArgs),
    Consolidate(consolidate::ConsolidateArgs),
    Catalog(catalog::CatalogArgs),
    Doctor(doctor::DoctorArgs),
    /// See agents, disks, points, files and actions on a live screen, and restore from there
    Tui {
        #[command(flatten)]
        data_dir: DataDir,
        /// The dispatcher's control socket, if it is not the one in its data directory
        #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
        socket: Option<PathBuf>,
    },
    #[command(name = crate::mount::session::COMMAND, hide = true)]
    ServeMount(mount::ServeArgs),
    #[command(name = nbd::COMMAND, hide = true)]
    ServeExport(export::ServeArgs),
    #[command(name = crate::browse::child::COMMAND, hide = true)]
    BrowsePoints(browse::ServeArgs),
    /// Carry files of a point for the dispatcher that started this
    #[command(name = crate::mount::courier::COMMAND, hide = true)]
    CarryFiles,
    /// Hold a freeze for the agent that started this
    #[command(name = crate::io::freeze::guard::COMMAND, hide = true)]
    FreezeGuard,
    /// Thaw what a crashed agent left frozen; systemd runs this when the agent has ended
    Thaw {
        /// Folder of the records of what is frozen
        #[arg(long, value_name = "DIR")]
        records: Option<PathBuf>,
    },
}

/// Which dispatcher is talked to.
#[derive(Debug, Args)]
pub struct DataDir {
    /// The dispatcher's data directory [default: /var/lib/blxrep]
    #[arg(long, value_name = "DIR", env = DATA_DIR_VARIABLE)]
    data_dir: Option<PathBuf>,
}

impl DataDir {
    fn path(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR))
    }

    /// Whether a person named it.
    fn is_given(&self) -> bool {
        self.data_dir.is_some()
    }
}

/// What every command that talks to the dispatcher takes.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    data_dir: DataDir,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn client(&self) -> Client {
        Client::new(self.data_dir.path())
    }

    fn output(&self) -> Output {
        Output::new(self.json)
    }
}

impl Cli {
    /// Parses the process's arguments. Help, version and wrong usage are printed here; their exit code is the error.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // A reader that has gone away needs no help.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        })
    }

    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Start(args) => args.log_format(),
            _ => LogFormat::Text,
        }
    }

    /// The level of logs where `RUST_LOG` says nothing.
    #[must_use]
    pub fn log_level(&self) -> LevelFilter {
        match self.command {
            Command::Start(_) => LevelFilter::INFO,
            // Log lines would tear the screen.
            Command::Tui { .. } => LevelFilter::OFF,
            _ => LevelFilter::WARN,
        }
    }

    /// Does what was asked for.
    pub fn run(self) -> Result<(), CliError> {
        let is_child =
            matches!(self.command, Command::BrowsePoints(_) | Command::ServeMount(_) | Command::CarryFiles);
        if is_child {
            limits::close_inherited();
        }
        let runtime = match self.command {
            Command::Start(_) => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
            _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        };
        let runtime = runtime.map_err(CliError::Runtime)?;
        let ended = runtime.block_on(run(self.command));
        // What hangs in the kernel holds up nobody.
        runtime.shutdown_timeout(STOP_PATIENCE);
        ended
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Start(args) => start::run(*args).await,
        Command::Agents { agent: None, common } => list::agents(&common).await,
        Command::Agents { agent: Some(agent), common } => list::agent(&common, &agent).await,
        Command::Disks { filter, common } => list::disks(&common, filter).await,
        Command::Points(args) => list::points(args).await,
        Command::Actions { filter, newest, common } => list::actions(&common, filter, newest).await,
        Command::Snapshot(args) => act::snapshot(args).await,
        Command::Sync(args) => act::sync(args).await,
        Command::Pause(args) => act::control(args, Control::Pause).await,
        Command::Resume(args) => act::control(args, Control::Resume).await,
        Command::Cancel(args) => act::control(args, Control::Cancel).await,
        Command::Restore(args) => act::restore(args).await,
        Command::Export(args) => export::export(*args).await,
        Command::Exports(args) => exports::exports(args).await,
        Command::ServeExport(args) => export::serve_for_dispatcher(args).await,
        Command::Verify(args) => act::verify(args).await,
        Command::Ls(args) => browse::ls(&args).await,
        Command::Find(args) => browse::find(&args).await,
        Command::Diff(args) => browse::compare(&args).await,
        Command::BrowsePoints(args) => browse::serve(&args),
        Command::Mount(args) => mount::mount(&args),
        Command::Umount(args) => mount::umount(&args),
        Command::Mounts(args) => mount::mounts(&args),
        Command::ServeMount(args) => mount::serve(args).await,
        Command::Consolidate(args) => consolidate::run(args).await,
        Command::Catalog(args) => catalog::run(args),
        Command::Doctor(args) => doctor::run(args).await,
        Command::Tui { data_dir, socket } => {
            let client = socket.map_or_else(|| Client::new(data_dir.path()), Client::at);
            crate::tui::run(client).await.map_err(CliError::Terminal)
        }
        // These block, and have this thread to themselves.
        Command::CarryFiles => courier::run(),
        Command::FreezeGuard => {
            crate::io::freeze::sentry::serve().map_err(|e| CliError::Failed(e.to_string()))
        }
        Command::Thaw { records } => crate::agent::freeze::thaw_leftovers(records.as_deref())
            .map_err(|e| CliError::Failed(e.to_string())),
    }
}
