//! `cargo xtask test`: everything that must hold before a change is taken.

use crate::cargo::{Executable, build_tests, cargo};
use crate::support::fixture::{RUN_VARIABLE, SKIPS_VARIABLE, is_root};
use crate::{build_ebpf, leftovers, packages};
use anyhow::{Context, Result, ensure};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Suites with these names load eBPF programs and keep disks busy: their tests run one after the other, so that the
/// load of one does not starve the other's program on a machine with two cores.
const SERIAL: [&str; 3] = ["privileged", "end_to_end", "fixtures"];

/// After this a suite hangs: ten times what the longest takes. Its processes are killed, and it has failed.
const SUITE_LIMIT: Duration = Duration::from_secs(20 * 60);

/// How one suite or check went.
#[derive(Debug, Default)]
struct Outcome {
    name: String,
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    took: Duration,
}

impl Outcome {
    /// A check is a test with one case.
    fn of_check(name: &str, run: impl FnOnce() -> Result<()>) -> Self {
        println!("\n=== {name}");
        let start = Instant::now();
        let result = run();
        if let Err(error) = &result {
            println!("{name}: FAILED: {error:#}");
        }
        Self {
            name: name.to_owned(),
            passed: u64::from(result.is_ok()),
            failed: u64::from(result.is_err()),
            skipped: Vec::new(),
            took: start.elapsed(),
        }
    }
}

pub fn run() -> Result<ExitCode> {
    packages::ensure_rust_components()?;
    if is_root() {
        packages::ensure_tools(&packages::FOR_TESTS)?;
    } else {
        println!("not root: tests that need eBPF and block devices are skipped, and counted");
    }
    let mut outcomes = vec![
        Outcome::of_check("formatting", || succeed(cargo().args(["fmt", "--all", "--check"]))),
        Outcome::of_check("lints", || {
            succeed(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }),
        Outcome::of_check("eBPF object", build_ebpf::check),
    ];
    let mut suites = Vec::new();
    outcomes.push(Outcome::of_check("build", || {
        suites = build_tests()?;
        Ok(())
    }));
    let tag = format!("run{}", std::process::id());
    // A database server that a test runs as another user has its mount points in there.
    let folder = tempfile::Builder::new()
        .prefix("blxrep-test-")
        .permissions(Permissions::from_mode(0o711))
        .tempdir()
        .context("making a folder for tests")?;
    // The suites that say most about a change in the least time come first.
    suites.sort_by_key(|suite| (is_serial(suite), suite.kind != "lib", suite.target.clone()));
    for suite in &suites {
        outcomes.push(run_suite(suite, &tag, folder.path())?);
    }
    outcomes.push(run_doc_tests()?);
    outcomes.push(Outcome::of_check("nothing left behind", || {
        let found = leftovers::find(&tag, folder.path());
        ensure!(found.is_empty(), "the tests left behind:\n  {}", found.join("\n  "));
        Ok(())
    }));
    Ok(summarize(&outcomes))
}

fn is_serial(suite: &Executable) -> bool {
    SERIAL.iter().any(|name| suite.target.starts_with(name))
}

fn run_suite(suite: &Executable, tag: &str, folder: &Path) -> Result<Outcome> {
    let choice: &[&str] = match suite.kind.as_str() {
        "test" => &["--test", &suite.target],
        "bin" => &["--bin", &suite.target],
        "example" => &["--example", &suite.target],
        "bench" => &["--bench", &suite.target],
        _ => &["--lib"],
    };
    let skips = folder.join("skips");
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", &suite.package]).args(choice).arg("--");
    if is_serial(suite) {
        // Figures that such tests print are shown where they belong.
        command.args(["--test-threads=1", "--nocapture"]);
    }
    command.env(RUN_VARIABLE, tag).env(SKIPS_VARIABLE, &skips).env("TMPDIR", folder);
    let package =
        suite.package.rsplit(['/', '#']).nth(usize::from(suite.package.contains('#'))).unwrap_or("");
    let mut outcome =
        run_harness(&format!("{package} {} {}", suite.kind, suite.target), &mut command, SUITE_LIMIT)?;
    if skips.exists() {
        outcome.skipped = fs::read_to_string(&skips)?.lines().map(str::to_owned).collect();
        outcome.passed = outcome.passed.saturating_sub(outcome.skipped.len() as u64);
        fs::remove_file(&skips)?;
    }
    Ok(outcome)
}

fn run_doc_tests() -> Result<Outcome> {
    run_harness("documentation", cargo().args(["test", "--quiet", "--workspace", "--doc"]), SUITE_LIMIT)
}

/// Runs tests and counts what their harness says. A suite that dies without a word, or hangs, has failed once.
fn run_harness(name: &str, command: &mut Command, limit: Duration) -> Result<Outcome> {
    println!("\n=== {name}");
    let mut outcome = Outcome { name: name.to_owned(), ..Outcome::default() };
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {command:?}"))?;
    let output = child.stdout.take().context("no output of the tests")?;
    let (ended, end) = mpsc::channel::<()>();
    let (pid, what) = (child.id(), name.to_owned());
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("{what}: FAILED: it hangs since {limit:?}; its processes are killed");
            kill_family(pid);
        }
    });
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some((passed, failed, ignored)) = parse_result(&line) {
            outcome.passed += passed;
            outcome.failed += failed;
            outcome.skipped.extend((0..ignored).map(|_| "ignored".to_owned()));
        }
    }
    drop(ended);
    let _ = watch.join();
    if !child.wait()?.success() && outcome.failed == 0 {
        outcome.failed = 1;
    }
    outcome.took = start.elapsed();
    Ok(outcome)
}

/// Kills a process and all that descend from it, so that nothing that tests started goes on without them.
fn kill_family(pid: u32) {
    let children = |parent: u32| -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
    };
    // Stopped first: it cannot start another while its children are found.
    let target = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
    let signal = |signal| target.map(|target| rustix::process::kill_process(target, signal));
    let _ = signal(rustix::process::Signal::STOP);
    children(pid).into_iter().for_each(kill_family);
    let _ = signal(rustix::process::Signal::KILL);
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The counts in `test result: ok. 3 passed; 0 failed; 1 ignored; ...`: passed, failed, ignored.
fn parse_result(line: &str) -> Option<(u64, u64, u64)> {
    // With --nocapture, other output may stand before it on the line.
    let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split(';').find_map(|part| part.trim().strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn summarize(outcomes: &[Outcome]) -> ExitCode {
    println!("\n{:>8} {:>7} {:>8} {:>9}  suite or check", "passed", "failed", "skipped", "time");
    for o in outcomes {
        println!(
            "{:>8} {:>7} {:>8} {:>7.1} s  {}",
            o.passed,
            o.failed,
            o.skipped.len(),
            o.took.as_secs_f64(),
            o.name
        );
    }
    for name in outcomes.iter().flat_map(|o| &o.skipped) {
        println!("skipped: {name}");
    }
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let failed = sum(|o| o.failed);
    println!("\n{} passed, {failed} failed, {} skipped", sum(|o| o.passed), sum(|o| o.skipped.len() as u64));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_the_harness_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(parse_result(line), Some((12, 3, 1)));
        assert_eq!(parse_result(&format!("figures first: {line}")), Some((12, 3, 1)));
        for other in ["", "test result: ", "test result: ok. many passed", "running 3 tests"] {
            assert_eq!(parse_result(other), None, "{other}");
        }
    }

    #[test]
    fn a_suite_that_dies_has_failed_and_a_check_counts_once() {
        let died = run_harness("dies", Command::new("sh").args(["-c", "kill -9 $$"]), SUITE_LIMIT).unwrap();
        assert_eq!((died.passed, died.failed), (0, 1));
        let line = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured";
        let lived = run_harness("lives", Command::new("echo").arg(line), SUITE_LIMIT).unwrap();
        assert_eq!((lived.passed, lived.failed, lived.skipped.len()), (2, 0, 1));
        let mut hangs = Command::new("sh");
        let start = Instant::now();
        let hung =
            run_harness("hangs", hangs.args(["-c", "sleep 600 & sleep 600"]), Duration::from_millis(200))
                .unwrap();
        assert_eq!((hung.passed, hung.failed), (0, 1));
        assert!(start.elapsed() < Duration::from_secs(60), "its children kept the output open");
        let check = Outcome::of_check("fails", || anyhow::bail!("as it should"));
        assert_eq!((check.passed, check.failed), (0, 1));
    }
}
