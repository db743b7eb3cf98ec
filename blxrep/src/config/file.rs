//! `/etc/blxrep/config.yaml`: one file for both roles, in two sections.
//!
//! A section is also what the command line gives: options that were typed go before what the file says, and what
//! neither says has a default.

use super::hooks::HooksConfig;
use super::pattern::Pattern;
use super::restore::RestoreConfig;
use super::{ConfigError, quantity, yaml};
use crate::model::ids::AgentId;
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the configuration lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/blxrep/config.yaml";

const DEFAULT_SECRET: &str = "/etc/blxrep/secret";
const DEFAULT_DATA: &str = "/var/lib/blxrep";
const DEFAULT_POLICIES: &str = "/etc/blxrep/policies";
const DEFAULT_PINS: &str = "/sys/fs/bpf/blxrep";
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);
/// A disk of 5 TiB at 4 KiB granules.
const DEFAULT_MAP_MEMORY: u64 = 512 << 20;
/// Reads in flight per disk; more than 32 help no device and cost a thread each.
const DEFAULT_READ_THREADS: u32 = 4;
const MAX_READ_THREADS: u32 = 32;
/// An agent protects at most so many disks.
const MAX_DISKS: usize = 64;
/// Longest name of a disk: it is part of an identity, which a hello carries.
const MAX_DISK_NAME: usize = 64;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    #[serde(default)]
    pub agent: AgentSection,
    #[serde(default)]
    pub dispatcher: DispatcherSection,
}

impl ConfigFile {
    /// Reads the file that was named, or the one at the usual place if it is there.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let missing = |e: &ConfigError| matches!(e, ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound);
        match (named, yaml::read(named.unwrap_or(Path::new(DEFAULT_PATH)))) {
            (None, Err(error)) if missing(&error) => Ok(Self::default()),
            (_, read) => read,
        }
    }
}

/// What may be said of an agent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    pub id: Option<AgentId>,
    /// `HOST:PORT`.
    pub dispatcher_addr: Option<String>,
    pub secret_file: Option<PathBuf>,
    /// The disks to protect; none is every whole disk with a stable identity.
    #[serde(default)]
    pub disks: Vec<DiskChoice>,
    /// Bytes per second.
    #[serde(default, deserialize_with = "quantity::rate_field")]
    pub bandwidth_limit: Option<u64>,
    pub pin_dir: Option<PathBuf>,
    /// Read disks at idle I/O priority.
    pub idle_io: Option<bool>,
    /// Bytes of the maps of one disk; above it its granules get coarser.
    #[serde(default, deserialize_with = "quantity::bytes_field")]
    pub max_map_memory: Option<u64>,
    /// Reads in flight per disk.
    pub read_threads: Option<u32>,
    /// Programs that are run around a cut.
    #[serde(default)]
    pub hooks: HooksConfig,
    /// What restores may touch.
    #[serde(default)]
    pub restore: RestoreConfig,
}

/// A disk to protect: `{device: /dev/disk/by-id/x, name: data}`, or `/dev/sdb=data` on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskChoice {
    pub device: PathBuf,
    /// Stands for an identity, for a disk that has none of its own or shares it.
    pub name: Option<String>,
}

impl FromStr for DiskChoice {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let choice = match text.rsplit_once('=') {
            Some((device, name)) => Self { device: device.into(), name: Some(name.to_owned()) },
            None => Self { device: text.into(), name: None },
        };
        choice.check("--disk").map(|()| choice)
    }
}

impl DiskChoice {
    fn check(&self, key: &'static str) -> Result<(), ConfigError> {
        if !self.device.is_absolute() {
            let problem = format!("`{}` is no path of a device such as /dev/sdb", self.device.display());
            return Err(ConfigError::Value { key, problem });
        }
        let good = |name: &String| {
            let length = (1..=MAX_DISK_NAME).contains(&name.len());
            length && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        };
        match self.name.as_ref().filter(|name| !good(name)) {
            None => Ok(()),
            Some(name) => {
                let problem =
                    format!("`{name}` cannot name a disk: use 1 to 64 letters, digits, `.`, `_` or `-`");
                Err(ConfigError::Value { key, problem })
            }
        }
    }
}

/// An agent's settings, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    pub id: AgentId,
    pub dispatcher_addr: String,
    pub secret_file: PathBuf,
    /// Devices to protect; empty is every whole disk with a stable identity.
    pub disks: Vec<PathBuf>,
    /// Names that stand for identities, also of disks that are not protected now.
    pub names: Vec<(PathBuf, String)>,
    pub bandwidth_limit: Option<u64>,
    pub pin_dir: PathBuf,
    pub idle_io: bool,
    pub max_map_memory: u64,
    pub read_threads: u32,
    pub hooks: HooksConfig,
    pub restore: RestoreConfig,
}

impl AgentConfig {
    /// Completes what was typed with what the file says, and that with defaults.
    pub fn new(typed: AgentSection, file: AgentSection) -> Result<Self, ConfigError> {
        let id = typed.id.or(file.id).ok_or(ConfigError::Missing { key: "agent.id", option: "--id ID" })?;
        let dispatcher_addr = typed.dispatcher_addr.or(file.dispatcher_addr).ok_or(ConfigError::Missing {
            key: "agent.dispatcher_addr",
            option: "--dispatcher-addr HOST:PORT",
        })?;
        check_address(&dispatcher_addr)?;
        typed.disks.iter().try_for_each(|disk| disk.check("--disk"))?;
        file.disks.iter().try_for_each(|disk| disk.check("agent.disks"))?;
        let named = |disk: &DiskChoice| Some((disk.device.clone(), disk.name.clone()?));
        let names = typed.disks.iter().chain(&file.disks).filter_map(named).collect();
        let chosen = if typed.disks.is_empty() { file.disks } else { typed.disks };
        if chosen.len() > MAX_DISKS {
            let problem = format!("{} disks; an agent protects at most {MAX_DISKS}", chosen.len());
            return Err(ConfigError::Value { key: "agent.disks", problem });
        }
        let read_threads = typed.read_threads.or(file.read_threads).unwrap_or(DEFAULT_READ_THREADS);
        if !(1..=MAX_READ_THREADS).contains(&read_threads) {
            let problem = format!("{read_threads} is not between 1 and {MAX_READ_THREADS}");
            return Err(ConfigError::Value { key: "agent.read_threads", problem });
        }
        // Not for the command line.
        file.hooks.check()?;
        file.restore.check()?;
        Ok(Self {
            id,
            dispatcher_addr,
            secret_file: typed.secret_file.or(file.secret_file).unwrap_or_else(|| DEFAULT_SECRET.into()),
            disks: chosen.into_iter().map(|disk| disk.device).collect(),
            names,
            bandwidth_limit: typed.bandwidth_limit.or(file.bandwidth_limit).filter(|limit| *limit > 0),
            pin_dir: typed.pin_dir.or(file.pin_dir).unwrap_or_else(|| DEFAULT_PINS.into()),
            idle_io: typed.idle_io.or(file.idle_io).unwrap_or(false),
            max_map_memory: typed.max_map_memory.or(file.max_map_memory).unwrap_or(DEFAULT_MAP_MEMORY),
            read_threads,
            hooks: file.hooks,
            restore: file.restore,
        })
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets.
fn check_address(address: &str) -> Result<(), ConfigError> {
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host = !host.is_empty() && (bracketed || !host.contains(':'));
        host && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        return Ok(());
    }
    let problem = format!("`{address}` is no HOST:PORT, such as backup.example.com:8080 or [::1]:8080");
    Err(ConfigError::Value { key: "agent.dispatcher_addr", problem })
}

/// What may be said of a dispatcher.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatcherSection {
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub policy_dir: Option<PathBuf>,
    pub secret_file: Option<PathBuf>,
    /// Where the metrics can be read; not given is nowhere but on the control socket.
    pub metrics_listen: Option<SocketAddr>,
    /// Who may connect with the secret; not given is every agent.
    pub agents: Option<Vec<Pattern>>,
}

/// A dispatcher's settings, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatcherConfig {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub policy_dir: PathBuf,
    pub secret_file: PathBuf,
    pub metrics_listen: Option<SocketAddr>,
    pub agents: Option<Vec<Pattern>>,
}

impl DispatcherConfig {
    /// Completes what was typed with what the file says, and that with defaults.
    pub fn new(typed: DispatcherSection, file: DispatcherSection) -> Result<Self, ConfigError> {
        Ok(Self {
            listen: typed.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN),
            data_dir: typed.data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA.into()),
            policy_dir: typed.policy_dir.or(file.policy_dir).unwrap_or_else(|| DEFAULT_POLICIES.into()),
            secret_file: typed.secret_file.or(file.secret_file).unwrap_or_else(|| DEFAULT_SECRET.into()),
            metrics_listen: typed.metrics_listen.or(file.metrics_listen),
            agents: typed.agents.or(file.agents),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<ConfigFile, ConfigError> {
        yaml::parse(text, Path::new("config.yaml"))
    }

    const AGENT: &str = "agent:\n  id: web1\n  dispatcher_addr: backup:8080\n";

    #[test]
    fn a_short_file_is_completed_with_defaults() {
        let config = AgentConfig::new(AgentSection::default(), file(AGENT).unwrap().agent).unwrap();
        assert_eq!((config.id.as_str(), config.dispatcher_addr.as_str()), ("web1", "backup:8080"));
        assert_eq!(config.secret_file, Path::new("/etc/blxrep/secret"));
        assert_eq!((config.disks.len(), config.bandwidth_limit, config.read_threads), (0, None, 4));
        let config = DispatcherSection { data_dir: Some("/d".into()), ..DispatcherSection::default() };
        let config = DispatcherConfig::new(config, DispatcherSection::default()).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!((config.policy_dir.to_str(), config.agents), (Some("/etc/blxrep/policies"), None));
    }

    #[test]
    fn every_key_is_read() {
        let text = format!(
            "{AGENT}  secret_file: /s\n  disks:\n    - device: /dev/sdb\n      name: data\n    - {{device: /dev/sdc}}\n  \
             bandwidth_limit: 50\n  pin_dir: /p\n  idle_io: true\n  max_map_memory: 1GiB\n  \
             read_threads: 8\n  hooks: {{freeze: {{command: [/h]}}}}\n  restore: {{devices: [\"/dev/vd*\"], paths: [/srv]}}\ndispatcher:\n  listen: 127.0.0.1:9000\n  data_dir: /d\n  policy_dir: /y\n  \
             secret_file: /z\n  metrics_listen: 127.0.0.1:9185\n  agents: [\"web[1-3]\", db]\n"
        );
        let file = file(&text).unwrap();
        let agent = AgentConfig::new(AgentSection::default(), file.agent).unwrap();
        assert_eq!(agent.disks, [Path::new("/dev/sdb"), Path::new("/dev/sdc")]);
        assert_eq!(agent.names, [("/dev/sdb".into(), "data".to_owned())]);
        assert_eq!((agent.bandwidth_limit, agent.max_map_memory), (Some(50_000_000), 1 << 30));
        assert!(agent.idle_io);
        assert_eq!(agent.hooks.freeze.unwrap().command, ["/h"]);
        assert!(agent.restore.devices[0].matches("/dev/vdb"));
        assert_eq!(agent.restore.paths, [Path::new("/srv")]);
        let dispatcher = DispatcherConfig::new(DispatcherSection::default(), file.dispatcher).unwrap();
        assert_eq!(dispatcher.listen.port(), 9000);
        assert_eq!(dispatcher.metrics_listen.unwrap().port(), 9185);
        assert!(dispatcher.agents.unwrap()[0].matches("web2"));
    }

    #[test]
    fn what_was_typed_goes_first_but_names_stay() {
        let text = format!("{AGENT}  disks:\n    - {{device: /dev/sdb, name: data}}\n  read_threads: 8\n");
        let typed = AgentSection {
            id: Some("db".parse().unwrap()),
            disks: vec!["/dev/sdc=logs".parse().unwrap(), "/dev/sdb".parse().unwrap()],
            ..AgentSection::default()
        };
        let config = AgentConfig::new(typed, file(&text).unwrap().agent).unwrap();
        assert_eq!((config.id.as_str(), config.read_threads), ("db", 8));
        assert_eq!(config.disks, [Path::new("/dev/sdc"), Path::new("/dev/sdb")]);
        assert_eq!(
            config.names,
            [("/dev/sdc".into(), "logs".to_owned()), ("/dev/sdb".into(), "data".to_owned())]
        );
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["backup:8080", "10.0.0.1:1", "[::1]:8080"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let new = |text: &str| {
            AgentConfig::new(AgentSection::default(), file(text).unwrap().agent).unwrap_err().to_string()
        };
        assert_eq!(
            new("agent:\n  dispatcher_addr: a:1\n"),
            "agent.id is not given: set it in the configuration, or use `--id ID`"
        );
        assert!(new("agent: {id: a}\n").contains("--dispatcher-addr HOST:PORT"));
        for bad in ["backup", ":8080", "backup:0", "backup:99999", "backup:", "::1:8080"] {
            assert!(
                new(&format!("agent: {{id: a, dispatcher_addr: \"{bad}\"}}\n")).contains("no HOST:PORT"),
                "{bad}"
            );
        }
        assert!(new(&format!("{AGENT}  read_threads: 0\n")).contains("between 1 and 32"));
        assert!(
            new(&format!("{AGENT}  hooks: {{post: {{command: []}}}}\n")).starts_with("agent.hooks.post: ")
        );
        assert!(new(&format!("{AGENT}  disks: [{{device: sdb}}]\n")).contains("no path of a device"));
        assert!(new(&format!("{AGENT}  restore: {{paths: [a]}}\n")).starts_with("agent.restore.paths: "));
        assert!(
            new(&format!("{AGENT}  disks: [{{device: /dev/sdb, name: a/b}}]\n"))
                .contains("cannot name a disk")
        );
        let unknown = file(&format!("{AGENT}  idle: true\n")).unwrap_err().to_string();
        assert!(unknown.starts_with("config.yaml:4:3: unknown field `idle`"), "{unknown}");
        let id = file("agent:\n  id: a/b\n").unwrap_err().to_string();
        assert!(id.starts_with("config.yaml:2:7: `a/b` cannot name an agent"), "{id}");
    }

    #[test]
    fn the_sample_is_right_when_its_keys_are_uncommented() {
        let sample = include_str!("../../../dist/config.yaml");
        assert!(file(sample).unwrap().agent.id.is_none(), "as it is it says nothing");
        let uncommented: Vec<&str> = sample
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with("  ") || key.ends_with(':') => key,
                _ => line,
            })
            .collect();
        let full = file(&uncommented.join("\n")).unwrap();
        let agent = AgentConfig::new(AgentSection::default(), full.agent).unwrap();
        assert_eq!((agent.disks.len(), agent.bandwidth_limit), (2, Some(50 << 20)));
        assert!(agent.hooks.freeze.is_some() && agent.hooks.post.is_some());
        assert_eq!((agent.restore.devices.len(), agent.restore.paths.len()), (2, 1));
        assert_eq!(agent.max_map_memory, DEFAULT_MAP_MEMORY, "the sample shows the defaults");
        let dispatcher = DispatcherConfig::new(DispatcherSection::default(), full.dispatcher).unwrap();
        assert_eq!(dispatcher.data_dir, Path::new(DEFAULT_DATA));
    }

    #[test]
    fn only_a_file_that_was_named_must_exist() {
        assert!(ConfigFile::load(Some(Path::new("/nonexistent/config.yaml"))).is_err());
    }

    #[test]
    fn a_zero_rate_is_no_limit() {
        let section = file(&format!("{AGENT}  bandwidth_limit: 0\n")).unwrap().agent;
        assert_eq!(AgentConfig::new(AgentSection::default(), section).unwrap().bandwidth_limit, None);
    }
}
