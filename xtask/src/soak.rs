//! `cargo xtask soak`: end-to-end tests with loads of minutes instead of seconds, freezes and kills by the hundred, and
//! the explorer in its larger worlds.

use crate::cargo::cargo;
use crate::packages;
use crate::support::fixture::is_root;
use anyhow::{Context, Result, ensure};
use clap::Args;

/// The tests that have more to do in a soak, shortest first.
const SUITES: [&str; 6] =
    ["store", "simulation", "privileged_files", "explorer", "privileged_freeze", "end_to_end"];

#[derive(Debug, Args)]
pub struct Options {
    /// Seconds that each load lasts
    #[arg(long, default_value_t = 120)]
    seconds: u32,
    /// Run only tests whose names contain one of these, such as `exactness::ext4`
    filter: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "the soak needs root: it makes loop devices and loads eBPF programs (sudo -E env PATH=$PATH cargo xtask soak)"
    );
    packages::ensure_tools(&packages::FOR_TESTS)?;
    let mut failed = Vec::new();
    for suite in SUITES {
        println!("\n=== {suite}");
        let mut command = cargo();
        command.args(["test", "--release", "--package", "blxrep", "--test", suite, "--"]);
        command.args(["--test-threads=1", "--nocapture"]).args(&options.filter);
        command.env("BLXREP_SOAK_SECONDS", options.seconds.to_string()).env("BLXREP_SOAK", "1");
        let status = command.status().with_context(|| format!("running {command:?}"))?;
        // The figures of the others are wanted all the same.
        if !status.success() {
            failed.push(suite);
        }
    }
    ensure!(failed.is_empty(), "the soak failed: {}", failed.join(", "));
    Ok(())
}
