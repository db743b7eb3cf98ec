//! Children that end with their owner, with their output kept.

use super::fixture::{check_interrupted, wait_for};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `USER_HZ`: /proc counts in hundredths of a second on every architecture that matters here.
const TICKS: f64 = 100.0;

/// One child process. Dropping it kills it (SIGKILL) and waits.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, of its ended children too.
    pub cpu_seconds: f64,
    /// Most memory it ever had resident (`VmHWM`).
    pub peak_rss: u64,
    /// Bytes that it had read from block devices.
    pub disk_read: u64,
}

impl Process {
    /// Starts `command`; both outputs are appended to `<folder>/<name>.log`.
    pub fn spawn(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().append(true).create(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name}: starting {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// SIGKILL, at once.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // An error means that it has ended already.
        drop(self.child.kill());
        Ok(self.child.wait()?)
    }

    /// SIGTERM, then waits for an end of its own.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running()? {
            kill_process(Pid::from_child(&self.child), signal)
                .with_context(|| format!("{}: sending a signal", self.name))?;
        }
        Ok(())
    }

    /// Waits for its end; what it printed is part of the error when there is none.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            check_interrupted()?;
            if Instant::now() > end {
                bail!("{}: has not ended within {limit:?}\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end, which must be a success.
    pub fn succeed(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit)?;
        if !status.success() {
            bail!("{}: {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Everything that it printed.
    pub fn output(&self) -> String {
        fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Waits until it has printed one of these, in any case.
    pub fn wait_for_output(&mut self, any_of: &[&str], limit: Duration) -> Result<()> {
        let printed = wait_for(&format!("{}: printing one of {any_of:?}", self.name), limit, || {
            // Asked first: what it prints with its last breath counts.
            let ended = !self.is_running()?;
            let output = self.output().to_lowercase();
            let printed = any_of.iter().any(|text| output.contains(&text.to_lowercase()));
            Ok((ended || printed).then_some(printed))
        });
        match printed {
            Ok(true) => Ok(()),
            Ok(false) => {
                bail!("{}: has ended without printing one of {any_of:?}\n{}", self.name, self.tail())
            }
            Err(error) => Err(error.context(self.tail())),
        }
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let shown = lines.len().saturating_sub(40);
        format!("--- the end of {}.log:\n{}\n---", self.name, lines[shown..].join("\n"))
    }

    /// What it has used; works until it was waited for.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.pid()).with_context(|| format!("{}: reading what it used", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// Reads the usage of a process (also of one that has ended and was not waited for) from /proc.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; fields are counted from behind it.
    let fields = stat.rsplit_once(')').context("no process name in stat")?.1;
    let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    let value = |file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu_seconds: ticks as f64 / TICKS,
        peak_rss: value("status", "VmHWM:") * 1024,
        disk_read: value("io", "read_bytes:"),
    })
}
