//! What the agent runs with: the command line, then the configuration file, then defaults.

use super::dialer::Dialer;
use crate::cli::start::AgentArgs;
use crate::config::file::{AgentConfig, ConfigFile, DEFAULT_PATH};
use crate::config::hooks::HooksConfig;
use crate::config::restore::Authority;
use crate::config::secret::Secret;
use crate::io::host::{self, HostOptions};
use crate::io::random;
use crate::io::tracker::TrackerOptions;
use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;

/// The kernel's name for this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Settled settings.
#[derive(Debug)]
pub struct Settings {
    pub dialer: Dialer,
    /// Bytes per second; a policy can only lower it.
    pub bandwidth_limit: Option<u64>,
    /// Disks that were named; every disk with a stable identity if none was.
    pub disks: Vec<PathBuf>,
    pub host: HostOptions,
    pub tracker: TrackerOptions,
    pub boot_id_text: String,
    /// Reads in flight of an image.
    pub read_threads: usize,
    /// Programs that are run around a cut.
    pub hooks: Arc<HooksConfig>,
    /// Disks are read at idle I/O priority.
    pub idle_io: bool,
    /// What restores may touch.
    pub authority: Arc<Authority>,
}

impl Settings {
    /// Reads the configuration file and the secret.
    pub fn load(args: AgentArgs) -> anyhow::Result<Self> {
        let file = ConfigFile::load(args.config.as_deref())?;
        let config = AgentConfig::new(args.typed, file.agent)?;
        let secret = Secret::load(&config.secret_file)?;
        let boot_id_text =
            std::fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
        let tracker = TrackerOptions {
            pin_dir: config.pin_dir.join(TrackerOptions::folder_of(&config.id)),
            max_map_bytes: config.max_map_memory,
            ..TrackerOptions::for_agent(&config.id)
        };
        let authority = Authority {
            allowed: config.restore,
            agent: config.id.to_string(),
            file: args.config.unwrap_or_else(|| DEFAULT_PATH.into()),
        };
        let dialer = Dialer {
            address: config.dispatcher_addr,
            agent: config.id,
            session: random::id(),
            boot_id: host::boot_id()?,
            credentials: secret.credentials(),
        };
        Ok(Self {
            dialer,
            bandwidth_limit: config.bandwidth_limit,
            disks: config.disks,
            host: HostOptions { names: config.names },
            tracker,
            boot_id_text: boot_id_text.trim().to_owned(),
            hooks: Arc::new(config.hooks),
            idle_io: config.idle_io,
            authority: Arc::new(authority),
            read_threads: usize::try_from(config.read_threads).unwrap_or(1),
        })
    }
}
