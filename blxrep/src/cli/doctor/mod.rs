//! `blxrep doctor`: says in words whether this host can do its part, and what to do where it cannot.

mod agent;
mod dispatcher;

use super::error::CliError;
use super::table::{Table, text, word};
use super::{Common, DataDir};
use crate::model::units::ByteCount;
use clap::Args;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Below this a first image of almost any disk will not fit.
const LITTLE_SPACE_BYTES: u64 = 10 << 30;
/// Capabilities that an agent needs, by their bit (linux/capability.h): to load eBPF programs, to attach them to
/// tracepoints, and to open block devices and freeze filesystems.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_ADMIN", 21)];

/// Check whether this host can run an agent or a dispatcher, and say what to do where it cannot
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    common: Common,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, but not as well as it could.
    Warning,
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// What was found, in words.
    pub what: String,
    /// What to do about it. Empty when there is nothing to do.
    pub remedy: String,
}

impl Check {
    #[must_use]
    pub fn ok(name: &str, what: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, what: what.into(), remedy: String::new() }
    }

    #[must_use]
    pub fn warning(name: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warning, what: what.into(), remedy: remedy.into() }
    }

    #[must_use]
    pub fn failed(name: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Failed, what: what.into(), remedy: remedy.into() }
    }
}

pub async fn run(args: DoctorArgs) -> Result<(), CliError> {
    let mut found = checks(&args.common.data_dir);
    found.extend(dispatcher::checks(&args.common.data_dir).await);
    args.common.output().table(&found, |found| table(found))?;
    match found.iter().filter(|check| check.verdict == Verdict::Failed).count() {
        0 => Ok(()),
        1 => Err(CliError::Failed("1 check failed".into())),
        failed => Err(CliError::Failed(format!("{failed} checks failed"))),
    }
}

/// Everything that can be seen without the dispatcher.
fn checks(data_dir: &DataDir) -> Vec<Check> {
    let privileges = privileges();
    // Without privileges every further answer would only say so again.
    let tracking = if privileges.verdict == Verdict::Ok { agent::tracking() } else { Vec::new() };
    let mut checks = vec![privileges];
    checks.extend(tracking);
    checks.extend(agent::disks());
    checks.extend(data_dir_checks(data_dir));
    checks
}

fn table(checks: &[Check]) -> Table {
    let mut table =
        Table::new("Nothing was checked.", &[word("CHECK"), word("RESULT"), text("FOUND"), text("TO DO")]);
    for check in checks {
        table.row([check.name.clone(), check.verdict.to_string(), check.what.clone(), check.remedy.clone()]);
    }
    table
}

/// Whether this process may do what an agent does.
fn privileges() -> Check {
    const NAME: &str = "privileges";
    const REMEDY: &str = "run it as root (dispatcher: as the user that owns the data directory)";
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            return Check::failed(NAME, format!("cannot read /proc/self/status: {error}"), "mount /proc");
        }
    };
    let missing = missing_capabilities(&status);
    let user = rustix::process::geteuid().as_raw();
    match (missing.is_empty(), user) {
        (true, 0) => Check::ok(NAME, "root, with the capabilities that an agent needs"),
        (true, _) => Check::ok(NAME, format!("user {user}, with the capabilities that an agent needs")),
        (false, _) => {
            Check::failed(NAME, format!("user {user} lacks {}: no agent can run", missing.join(", ")), REMEDY)
        }
    }
}

/// Which of [`CAPABILITIES`] a `/proc/PID/status` does not have in effect.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect()
}

/// Whether the data directory can hold a store. A host without one that nobody asked about runs only an agent.
fn data_dir_checks(data_dir: &DataDir) -> Vec<Check> {
    const NAME: &str = "data directory";
    let path = data_dir.path();
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return vec![Check::failed(NAME, format!("{shown} is no directory"), "name one with --data-dir")];
        }
        Err(_) if !data_dir.is_given() => {
            return vec![Check::ok(NAME, format!("there is no {shown}: this host runs no dispatcher"))];
        }
        Err(error) => {
            return vec![Check::failed(
                NAME,
                format!("{shown}: {error}"),
                format!("make it: mkdir -m 0700 {shown}"),
            )];
        }
    }
    let mut checks = vec![free_space(path)];
    checks.extend(storage(path));
    checks
}

fn free_space(path: &Path) -> Check {
    const NAME: &str = "free space";
    match rustix::fs::statvfs(path) {
        Err(error) => {
            Check::failed(NAME, format!("cannot ask about {}: {error}", path.display()), "see its mount")
        }
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let what = format!("{} free under {}", ByteCount(free), path.display());
            if free < LITTLE_SPACE_BYTES {
                Check::warning(NAME, what, "a base takes as much as its disk has in use: make room first")
            } else {
                Check::ok(NAME, what)
            }
        }
    }
}

/// Tries what the store does, with a file that has no name and is gone when it is closed.
fn storage(path: &Path) -> Vec<Check> {
    let open =
        |flags| rustix::fs::open(path, OFlags::TMPFILE | OFlags::RDWR | flags, Mode::RUSR | Mode::WUSR);
    let shown = path.display();
    let file = match open(OFlags::CLOEXEC) {
        Ok(file) => file,
        Err(Errno::OPNOTSUPP) => {
            let what = format!("the filesystem of {shown} has no unnamed files, so it was not tried further");
            return vec![Check::warning("writing", what, "ext4, xfs and btrfs are known to work")];
        }
        Err(error) => {
            let remedy = "run as the user that owns it, on a filesystem that is mounted read-write";
            return vec![Check::failed("writing", format!("cannot write in {shown}: {error}"), remedy)];
        }
    };
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched =
        rustix::fs::ftruncate(&file, 1 << 20).and_then(|()| rustix::fs::fallocate(&file, holes, 0, 1 << 16));
    let direct = open(OFlags::CLOEXEC | OFlags::DIRECT);
    vec![
        Check::ok("writing", format!("{shown} can be written")),
        match punched {
            Ok(()) => Check::ok("sparse files", "zeroes take no space"),
            Err(error) => Check::warning(
                "sparse files",
                format!("holes cannot be punched there: {error}"),
                "images will take as much space as their disks: prefer ext4, xfs or btrfs",
            ),
        },
        match direct {
            Ok(_) => Check::ok("direct I/O", "files can be read and written past the page cache"),
            Err(error) => Check::warning(
                "direct I/O",
                format!("not possible there: {error}"),
                "transfers will push other data out of memory: prefer ext4, xfs or btrfs",
            ),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let all = "CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert!(missing_capabilities(all).is_empty());
        let none = "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n";
        assert_eq!(missing_capabilities(none), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]);
        let only_admin = "CapEff:\t0000000000200000\n";
        assert_eq!(missing_capabilities(only_admin), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing_capabilities("").len(), 3);
    }

    #[test]
    fn a_real_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let checks = storage(folder.path());
        assert_eq!(checks[0].verdict, Verdict::Ok, "{checks:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_missing_fails_only_when_it_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let given = DataDir { data_dir: Some(folder.path().join("missing")) };
        let checks = data_dir_checks(&given);
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Failed));
        assert!(checks[0].remedy.contains("mkdir"));
    }
}
