//! `cargo xtask soak`: the end-to-end tests with loads of minutes instead of seconds.

use crate::cargo::cargo;
use crate::packages;
use crate::support::fixture::is_root;
use anyhow::{Context, Result, ensure};
use clap::Args;

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
    let mut command = cargo();
    command.args(["test", "--release", "--package", "blxrep", "--test", "end_to_end", "--"]);
    command.args(["--test-threads=1", "--nocapture"]).args(&options.filter);
    command.env("BLXREP_SOAK_SECONDS", options.seconds.to_string());
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "the soak failed: {status}");
    Ok(())
}
