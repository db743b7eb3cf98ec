//! A dispatcher with its agents and its command line: the real program, in folders of its own.

use super::disk::Disk;
use super::fixture::{unique, wait_for};
use super::mount::PinDir;
use super::process::Process;
use super::proxy::Proxy;
use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The dispatcher must listen, and an agent must be known, within this time on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Exit codes of the command line.
pub const DONE: i32 = 0;
pub const FAILED: i32 = 1;
pub const NOT_FOUND: i32 = 3;
pub const REFUSED: i32 = 4;

/// Folders, secret, policy and program of one dispatcher. All of it vanishes with the site; the ends of the logs are
/// printed unless [`Site::done`] said that all went well.
#[derive(Debug)]
pub struct Site {
    folder: tempfile::TempDir,
    program: PathBuf,
    /// Where the dispatcher listened first; it gets the same address when it is started again.
    address: Mutex<Option<String>>,
    good: Mutex<bool>,
}

/// One row of `blxrep points --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct PointRow {
    pub id: String,
    pub agent: String,
    pub disk: String,
    pub device: String,
    pub generation: String,
    pub kind: String,
    pub cut: String,
    pub published: String,
    pub consistency: String,
    pub coverage: String,
    pub bytes: u64,
    pub cut_id: String,
    pub rounds: u32,
    pub each_round: Vec<RoundRow>,
    pub freeze_ms: Option<u64>,
    pub notes: Vec<String>,
    pub holes: Vec<std::ops::Range<u64>>,
    pub hooks: Vec<HookRow>,
    pub half_restored: Option<String>,
}

/// What one round of a point read.
#[derive(Clone, Debug, Deserialize)]
pub struct RoundRow {
    pub bytes: u64,
}

/// What came of one hook of a point.
#[derive(Clone, Debug, Deserialize)]
pub struct HookRow {
    pub stage: String,
    pub output: String,
}

/// One row of `blxrep sync --wait --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct SyncRow {
    pub device: String,
    pub cut_id: String,
    pub point: Option<String>,
    pub consistency: Option<String>,
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub error: Option<String>,
}

/// One row of `blxrep actions --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ActionRow {
    pub id: String,
    pub kind: String,
    pub device: Option<String>,
    pub state: String,
    pub reason: String,
    pub created: String,
    pub done: u64,
    pub total: u64,
}

/// One row of `blxrep agents --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct AgentRow {
    pub id: String,
    pub online: bool,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Reply {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Reply {
    /// What was printed, if the command succeeded.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        ensure!(self.code == DONE, "{self:?}");
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("{self:?}: not the JSON that was expected"))
    }

    /// Fails unless the command ended with `code` and said something that holds one of `words`, in any case.
    pub fn expect(&self, code: i32, words: &[&str]) -> Result<()> {
        let said = format!("{}{}", self.stdout, self.stderr).to_lowercase();
        ensure!(self.code == code, "exit code {} instead of {code}: {self:?}", self.code);
        ensure!(
            words.is_empty() || words.iter().any(|w| said.contains(&w.to_lowercase())),
            "it should say one of {words:?}: {self:?}"
        );
        ensure!(!said.contains("panicked"), "a panic: {self:?}");
        Ok(())
    }
}

impl Site {
    /// A site whose policy covers every agent, with a point every `live_sync` (`2s`, `1h`).
    pub fn new(program: &Path, live_sync: &str) -> Result<Self> {
        Self::under(&std::env::temp_dir(), program, live_sync)
    }

    /// The same in a folder of `parent`, which decides the disk that images are written to.
    pub fn under(parent: &Path, program: &Path, live_sync: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-", unique())).tempdir_in(parent)?;
        let site =
            Self { folder, program: program.to_owned(), address: Mutex::new(None), good: Mutex::new(false) };
        for name in ["data", "policies", "logs", "restored"] {
            fs::create_dir(site.path(name))?;
        }
        fs::write(site.path("secret"), format!("secret of {}\n", unique()))?;
        fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o600))?;
        // What a test has made stays for as long as it runs.
        let text = format!(
            "name: all\ndescription: every disk of every agent\nlive_sync_frequency: {live_sync}\n\
             keep_all: 30d\nkeep_points: 1000000\ntargets:\n  - pattern: \"*\"\n"
        );
        fs::write(site.path("policies/all.yaml"), text)?;
        Ok(site)
    }

    /// Gives the policy other keys for how long points are kept; a dispatcher that runs takes them up by itself.
    pub fn rewrite_policy(&self, lines: &str) -> Result<()> {
        let path = self.path("policies/all.yaml");
        let text = fs::read_to_string(&path)?;
        let others = text
            .lines()
            .filter(|line| !line.starts_with("keep_"))
            .fold(String::new(), |all, line| all + line + "\n");
        Ok(fs::write(path, format!("{lines}{others}"))?)
    }

    /// Adds keys to the policy; a dispatcher that runs takes them up by itself.
    pub fn add_to_policy(&self, lines: &str) -> Result<()> {
        let path = self.path("policies/all.yaml");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, format!("{lines}{text}"))?)
    }

    /// A file or folder of the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Says that all went well, so that the logs are of no interest.
    pub fn done(&self) {
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// The command that starts the dispatcher, not run.
    pub fn dispatcher_command(&self, data: &Path, listen: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["start", "--mode", "dispatcher", "--listen", listen])
            .arg("--data-dir")
            .arg(data)
            .arg("--policy-dir")
            .arg(self.path("policies"))
            .arg("--secret-file")
            .arg(self.path("secret"));
        command
    }

    /// Starts the dispatcher and waits until it answers. After the first time at the address it had.
    pub fn dispatcher(&self) -> Result<Process> {
        let data = self.path("data");
        let note = data.join("address");
        drop(fs::remove_file(&note));
        let listen = self.known_address().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let mut dispatcher =
            Process::spawn("dispatcher", &mut self.dispatcher_command(&data, &listen), &self.logs())?;
        let address = wait_for("the dispatcher noting its address", START, || {
            let ended = !dispatcher.is_running()?;
            let noted = fs::read_to_string(&note).unwrap_or_default().trim().to_owned();
            Ok((ended || !noted.is_empty()).then_some((ended, noted)))
        })
        .and_then(|(ended, noted)| if ended { Err(anyhow!("the dispatcher has ended")) } else { Ok(noted) })
        .with_context(|| dispatcher.tail())?;
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        wait_for("the dispatcher answering", START, || self.agents().map(Some))
            .with_context(|| dispatcher.tail())?;
        Ok(dispatcher)
    }

    fn known_address(&self) -> Option<String> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where agents connect to, if the dispatcher is not this site's own process.
    pub fn assume_address(&self, address: &str) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.to_owned());
    }

    /// `host:port` of the dispatcher.
    pub fn address(&self) -> Result<String> {
        self.known_address().context("the dispatcher was never started")
    }

    /// Runs a command of the program against this dispatcher, with `--json`.
    pub fn cli(&self, args: &[&str]) -> Result<Reply> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--json").arg("--data-dir").arg(self.path("data")).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        Ok(Reply {
            command: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The points of an agent, oldest first.
    pub fn points(&self, agent: &str) -> Result<Vec<PointRow>> {
        let mut points: Vec<PointRow> = self.cli(&["points", "--agent", agent])?.parse()?;
        ensure!(points.iter().all(|p| p.agent == agent), "points of another agent than {agent}: {points:?}");
        points.sort_by(|a, b| a.cut.cmp(&b.cut));
        Ok(points)
    }

    /// Waits until an agent has at least so many points on each of its `disks`.
    pub fn wait_for_points(
        &self,
        agent: &str,
        disks: usize,
        each: usize,
        limit: Duration,
    ) -> Result<Vec<PointRow>> {
        wait_for(&format!("{each} points of each disk of {agent}"), limit, || {
            let points = self.points(agent)?;
            let mut counts = std::collections::BTreeMap::new();
            points.iter().for_each(|p| *counts.entry(p.disk.clone()).or_insert(0) += 1);
            Ok((counts.len() >= disks && counts.values().all(|n| *n >= each)).then_some(points))
        })
    }

    /// A point of every disk of the agent, now.
    pub fn sync(&self, agent: &str) -> Result<Vec<SyncRow>> {
        let rows: Vec<SyncRow> = self.cli(&["sync", agent, "--wait"])?.parse()?;
        for row in &rows {
            ensure!(row.point.is_some() && row.error.is_none(), "sync of {agent}: {row:?}");
            ensure!(row.cut_id == rows[0].cut_id, "the disks of one sync do not share a cut: {rows:?}");
        }
        ensure!(!rows.is_empty(), "sync of {agent} made no point");
        Ok(rows)
    }

    /// A point of the only disk of the agent, now.
    pub fn sync_one(&self, agent: &str) -> Result<String> {
        let rows = self.sync(agent)?;
        ensure!(rows.len() == 1, "{agent} should have one disk: {rows:?}");
        rows[0].point.clone().context("no point")
    }

    /// Restores a point to a new file, whose path is returned.
    pub fn restore(&self, point: &str) -> Result<PathBuf> {
        let target = self.path("restored").join(format!("{point}.img"));
        let reply = self.cli(&["restore", point, "--to", &target.to_string_lossy(), "--yes"])?;
        reply.expect(DONE, &[])?;
        Ok(target)
    }

    pub fn agents(&self) -> Result<Vec<AgentRow>> {
        self.cli(&["agents"])?.parse()
    }

    pub fn actions(&self) -> Result<Vec<ActionRow>> {
        self.cli(&["actions"])?.parse()
    }

    /// Folders of a new agent, with a name for each of its disks (a loop or zram device has no identity of its own).
    pub fn agent(&self, id: &str, disks: &[(&dyn Disk, &str)]) -> Result<AgentHome> {
        let named: Vec<_> = disks.iter().map(|(disk, name)| (disk.name(), (*name).to_owned())).collect();
        let home = self.path(&format!("agent-{id}"));
        fs::create_dir(&home)?;
        let lines: String = named
            .iter()
            .map(|(device, name)| format!("    - {{device: {device}, name: {name}}}\n"))
            .collect();
        fs::write(home.join("config.yaml"), format!("agent:\n  disks:\n{lines}"))?;
        Ok(AgentHome {
            id: id.to_owned(),
            devices: named.into_iter().map(|(device, _)| device).collect(),
            home,
            secret: self.path("secret"),
            pins: PinDir::new()?,
            via: None,
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if *self.good.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        let logs = fs::read_dir(self.logs()).into_iter().flatten().flatten();
        for log in logs.filter(|log| log.path().extension().is_some_and(|e| e == "log")) {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            let shown = lines.len().saturating_sub(60);
            eprintln!("=== {}\n{}", log.path().display(), lines[shown..].join("\n"));
        }
    }
}

/// Where an agent lives between its starts. Its pins go with it.
#[derive(Debug)]
pub struct AgentHome {
    pub id: String,
    devices: Vec<String>,
    home: PathBuf,
    pub secret: PathBuf,
    pins: PinDir,
    /// Where it connects to, if that is not the dispatcher itself.
    via: Option<String>,
}

impl AgentHome {
    /// Adds lines to the section of the agent in its configuration.
    pub fn add_to_config(&self, lines: &str) -> Result<()> {
        let path = self.home.join("config.yaml");
        let text = fs::read_to_string(&path)?;
        Ok(fs::write(path, format!("{text}{lines}"))?)
    }

    pub fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// Lets the agent connect to a proxy instead of the dispatcher.
    pub fn connect_via(&mut self, proxy: &Proxy) {
        self.connect_to(proxy.address());
    }

    /// Lets the agent connect to whoever listens there.
    pub fn connect_to(&mut self, address: String) {
        self.via = Some(address);
    }

    /// The command that starts the agent, not run.
    pub fn command(&self, site: &Site, extra: &[&str]) -> Result<Command> {
        let mut command = Command::new(site.program());
        let address = self.via.clone().map_or_else(|| site.address(), Ok)?;
        command.args(["start", "--mode", "agent", "--id", &self.id, "--dispatcher-addr", &address]);
        for device in &self.devices {
            command.args(["--disk", device]);
        }
        command.arg("--config").arg(self.home.join("config.yaml"));
        command.arg("--secret-file").arg(&self.secret);
        command.arg("--pin-dir").arg(self.pins.path()).args(extra);
        Ok(command)
    }

    /// Starts the agent, which may fail or be refused.
    pub fn launch(&self, site: &Site, extra: &[&str]) -> Result<Process> {
        Process::spawn(&format!("agent-{}", self.id), &mut self.command(site, extra)?, &site.logs())
    }

    /// Starts the agent and waits until the dispatcher knows it.
    pub fn start(&self, site: &Site, extra: &[&str]) -> Result<Process> {
        let mut agent = self.launch(site, extra)?;
        let known = wait_for(&format!("agent {} being online", self.id), START, || {
            let ended = !agent.is_running()?;
            let online = site.agents()?.iter().any(|row| row.id == self.id && row.online);
            Ok((ended || online).then_some(!ended))
        });
        match known {
            Ok(true) => Ok(agent),
            Ok(false) => Err(anyhow!("agent {} has ended\n{}", self.id, agent.tail())),
            Err(error) => Err(error.context(agent.tail())),
        }
    }
}
