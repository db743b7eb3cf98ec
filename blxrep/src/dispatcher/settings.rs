//! What the dispatcher runs with: the command line, then the configuration file, then defaults.

use super::backend::HouseFacts;
use crate::cli::start::DispatcherArgs;
use crate::config::ConfigError;
use crate::config::file::{ConfigFile, DispatcherConfig};
use crate::config::policy::Policies;
use crate::config::secret::{Access, Secret};
use crate::io::host;
use crate::model::ids::StoreId;
use crate::store::recovery::OpenReport;
use crate::wire::hello::KeptDisk;
use anyhow::Context;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::path::PathBuf;

/// File in the data directory that holds the address which agents can connect to, while the dispatcher runs.
const ADDRESS_FILE: &str = "address";

/// Settled settings.
#[derive(Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    pub policy_dir: PathBuf,
    pub policies: Policies,
    pub access: Access,
    pub boot_id: [u8; 16],
    /// Whole disks below the data directory.
    pub kept: Vec<KeptDisk>,
}

impl Settings {
    /// Reads the configuration file, the policies and the secret, and makes the data directory.
    pub fn load(args: DispatcherArgs) -> anyhow::Result<Self> {
        let file = ConfigFile::load(args.config.as_deref())?;
        let config = DispatcherConfig::new(args.typed, file.dispatcher)?;
        refuse_exposed("dispatcher.listen", config.listen)?;
        config.metrics_listen.map_or(Ok(()), |listen| refuse_exposed("dispatcher.metrics_listen", listen))?;
        let secret = Secret::load(&config.secret_file)?;
        let policies = Policies::load(&config.policy_dir)?;
        if policies.is_empty() {
            let dir = config.policy_dir.display();
            tracing::warn!(%dir, "no policy (*.yaml) is there: no disk is protected unless `blxrep snapshot` asks for it");
        }
        std::fs::create_dir_all(&config.data_dir).with_context(|| {
            format!("cannot make data directory {}; choose another --data-dir", config.data_dir.display())
        })?;
        let kept = host::whole_disks_under(&config.data_dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell which disks hold the data directory: \
                an agent on this machine must not protect them");
            Vec::new()
        });
        Ok(Self {
            data_dir: config.data_dir,
            listen: config.listen,
            metrics_listen: config.metrics_listen,
            policy_dir: config.policy_dir,
            policies,
            access: Access { secret, agents: config.agents },
            boot_id: host::boot_id()?,
            kept,
        })
    }

    /// Tells what was put in order when the store was opened.
    pub fn say_opened(&self, report: &OpenReport) {
        if report.created {
            tracing::info!(data_dir = %self.data_dir.display(), "a new store was made");
        }
        for path in &report.removed {
            tracing::info!(path = %path.display(), "removed: left by work that was cut short");
        }
        for path in &report.quarantined {
            tracing::warn!(path = %path.display(), "a complete file that no point names was moved here");
        }
        for path in &report.missing {
            tracing::error!(path = %path.display(), "a file of a published point is missing: run `blxrep verify`");
        }
    }

    /// Leaves the address where scripts find it.
    pub fn write_address(&self, address: SocketAddr) -> anyhow::Result<()> {
        let path = self.data_dir.join(ADDRESS_FILE);
        std::fs::write(&path, format!("{address}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The address is of no more use.
    pub fn remove_address(&self) {
        if let Err(error) = std::fs::remove_file(self.data_dir.join(ADDRESS_FILE)) {
            tracing::debug!(%error, "cannot remove the file with the address");
        }
    }

    pub fn facts(&self, address: SocketAddr, store: StoreId) -> HouseFacts {
        HouseFacts { store, data_dir: self.data_dir.clone(), address, started: Timestamp::now() }
    }
}

/// Without encryption, everything that agents send could be read and changed on its way.
fn refuse_exposed(key: &'static str, listen: SocketAddr) -> Result<(), ConfigError> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let problem = format!(
        "{listen} is no loopback address: this version does not encrypt, so what is sent would cross the network in \
         the clear; use 127.0.0.1:{} and carry it through ssh or WireGuard",
        listen.port()
    );
    Err(ConfigError::Value { key, problem })
}
