//! `blxrep start`: what a role is started with.

use super::DATA_DIR_VARIABLE;
use super::error::CliError;
use crate::config::file::{AgentSection, DiskChoice, DispatcherSection};
use crate::config::quantity;
use crate::io::buffer::give_memory_back;
use crate::model::ids::AgentId;
use crate::observe::LogFormat;
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  On the backup host:
    blxrep start --mode dispatcher --data-dir /var/lib/blxrep --policy-dir /etc/blxrep/policies \\
        --listen 127.0.0.1:8080
  On a server, all disks with a stable identity:
    blxrep start --mode agent --id web1 --dispatcher-addr backup.example.com:8080 \\
        --secret-file /etc/blxrep/secret
  One disk only, with at most 20 MiB/s:
    blxrep start --mode agent --id web1 --dispatcher-addr backup.example.com:8080 \\
        --secret-file /etc/blxrep/secret --disk /dev/nvme0n1 --bandwidth-limit 20MiB";

/// Run an agent or the dispatcher in the foreground
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct StartArgs {
    /// Which role to run
    #[arg(long, value_enum)]
    mode: Mode,
    /// File with the secret that agents and dispatcher share, mode 0600
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Configuration file; what is given here counts more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What log lines on stderr look like; RUST_LOG chooses which there are
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,

    /// Name of this agent
    #[arg(long, value_name = "ID", help_heading = "Agent")]
    id: Option<AgentId>,
    /// Where the dispatcher listens
    #[arg(long, value_name = "HOST:PORT", help_heading = "Agent")]
    dispatcher_addr: Option<String>,
    /// Protect this disk and no other (repeatable); without it, every whole disk with a stable identity
    #[arg(long = "disk", value_name = "DEV[=NAME]", help_heading = "Agent")]
    disks: Vec<DiskChoice>,
    /// Folder on bpffs that keeps tracking alive while no agent runs [default: /sys/fs/bpf/blxrep]
    #[arg(long, value_name = "DIR", help_heading = "Agent")]
    pin_dir: Option<PathBuf>,
    /// On the wire, all disks together, as 20MiB or 50MB per second
    #[arg(long, value_name = "RATE", value_parser = bytes_per_second, help_heading = "Agent")]
    bandwidth_limit: Option<u64>,

    /// Where everything is stored [env: BLXREP_DATA_DIR] [default: /var/lib/blxrep]
    // The variable is looked up below: it may be set for other commands where an agent is started.
    #[arg(long, value_name = "DIR", help_heading = "Dispatcher")]
    data_dir: Option<PathBuf>,
    /// Folder of policy files [default: /etc/blxrep/policies]
    #[arg(long, value_name = "DIR", help_heading = "Dispatcher")]
    policy_dir: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR", help_heading = "Dispatcher")]
    listen: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Agent,
    Dispatcher,
}

/// How an agent is started: what was typed, and the file that says the rest.
#[derive(Clone, Debug, Default)]
pub struct AgentArgs {
    pub typed: AgentSection,
    pub config: Option<PathBuf>,
}

/// How the dispatcher is started: what was typed, and the file that says the rest.
#[derive(Clone, Debug, Default)]
pub struct DispatcherArgs {
    pub typed: DispatcherSection,
    pub config: Option<PathBuf>,
}

/// Runs the role until it ends.
pub async fn run(args: StartArgs) -> Result<(), CliError> {
    give_memory_back();
    match args.mode {
        Mode::Agent => crate::agent::run(args.into_agent()?).await,
        Mode::Dispatcher => crate::dispatcher::run(args.into_dispatcher()?).await,
    }
    .map_err(CliError::Role)
}

impl StartArgs {
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    fn into_agent(self) -> Result<AgentArgs, CliError> {
        let foreign = [
            ("--data-dir", self.data_dir.is_some()),
            ("--policy-dir", self.policy_dir.is_some()),
            ("--listen", self.listen.is_some()),
        ];
        refuse(foreign, "--mode dispatcher")?;
        let typed = AgentSection {
            id: self.id,
            dispatcher_addr: self.dispatcher_addr,
            disks: self.disks,
            secret_file: self.secret_file,
            pin_dir: self.pin_dir,
            bandwidth_limit: self.bandwidth_limit,
            ..AgentSection::default()
        };
        Ok(AgentArgs { typed, config: self.config })
    }

    fn into_dispatcher(self) -> Result<DispatcherArgs, CliError> {
        let foreign = [
            ("--id", self.id.is_some()),
            ("--dispatcher-addr", self.dispatcher_addr.is_some()),
            ("--disk", !self.disks.is_empty()),
            ("--pin-dir", self.pin_dir.is_some()),
            ("--bandwidth-limit", self.bandwidth_limit.is_some()),
        ];
        refuse(foreign, "--mode agent")?;
        let from_environment = || std::env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from);
        let typed = DispatcherSection {
            data_dir: self.data_dir.or_else(from_environment),
            policy_dir: self.policy_dir,
            listen: self.listen,
            secret_file: self.secret_file,
            ..DispatcherSection::default()
        };
        Ok(DispatcherArgs { typed, config: self.config })
    }
}

fn refuse<const N: usize>(foreign: [(&str, bool); N], owner: &str) -> Result<(), CliError> {
    match foreign.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(CliError::Usage(format!("{flag} goes with {owner}, not with this mode"))),
        None => Ok(()),
    }
}

fn bytes_per_second(text: &str) -> Result<u64, String> {
    quantity::rate(text).ok_or_else(|| format!("expected {}", quantity::RATE))
}
