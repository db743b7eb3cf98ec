//! Names that no other run uses, root and its absence, external tools, and waiting.

use anyhow::{Context, Result, anyhow, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A tag for everything that one `cargo xtask test` makes, so that it can look for leftovers.
pub const RUN_VARIABLE: &str = "BLXREP_RUN";
/// File to which skipped tests append their names, for the count at the end.
pub const SKIPS_VARIABLE: &str = "BLXREP_SKIPS";
/// What every name begins with.
pub const NAME_PREFIX: &str = "blxrep-test";

/// Between two questions while waiting: most of them start a process, which must not become the load.
const POLL: Duration = Duration::from_millis(100);

/// Set by whoever handles signals: waiting ends early and everything unwinds through its destructors.
pub static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Leaves a test that needs root, visibly and counted, when there is none.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::support::fixture::is_root() {
            fn here() {}
            return $crate::support::fixture::skip(std::any::type_name_of_val(&here));
        }
    };
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test was skipped and counts it.
pub fn skip(function: &str) -> Result<()> {
    let name = function.trim_end_matches("::here");
    // Not `println!`: the test harness would swallow it.
    writeln!(std::io::stderr(), "SKIPPED (needs root): {name}")?;
    if let Some(path) = std::env::var_os(SKIPS_VARIABLE) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path)?;
        writeln!(file, "{name}")
            .with_context(|| format!("{}: counting a skip", Path::new(&path).display()))?;
    }
    Ok(())
}

/// A name that no other process and no other call has, tagged with the run if there is one.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let run = std::env::var(RUN_VARIABLE).map(|tag| format!("-{tag}")).unwrap_or_default();
    format!("{NAME_PREFIX}{run}-{}-{number}", std::process::id())
}

/// A folder in memory where there is one, for the backing files of disks.
pub fn memory_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Runs a tool to its end and returns what it printed; its failure is an error with its own words.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!("{name}: not run; `cargo xtask test` installs what is missing, or use apt-get install")
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// `run` for a program and its arguments.
pub fn sh(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args))
}

/// An error once a signal has asked for the end.
pub fn check_interrupted() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Sleeps, unless a signal asks for the end.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupted()?;
        std::thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Asks until there is an answer. The last error is part of what is said when the time is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    retry(what, limit, || {
        check_interrupted().map_err(Refused::ForGood)?;
        ask().map_err(Refused::ForNow)
    })
}

/// `wait_for` for the removal of things: no signal cuts it short.
pub fn remove(what: &str, limit: Duration, mut remove: impl FnMut() -> Result<()>) -> Result<()> {
    retry(what, limit, || remove().map(Some).map_err(Refused::ForNow))
}

enum Refused {
    ForNow(anyhow::Error),
    ForGood(anyhow::Error),
}

fn retry<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>, Refused>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let reason = match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => None,
            Err(Refused::ForNow(error)) => Some(error),
            Err(Refused::ForGood(error)) => return Err(error),
        };
        if Instant::now() >= end {
            return Err(match reason {
                Some(error) => error.context(format!("{what}: not within {limit:?}")),
                None => anyhow!("{what}: not within {limit:?}"),
            });
        }
        std::thread::sleep(POLL);
    }
}
