//! The chores of this repository: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod cargo;
mod demo;
mod lab;
mod leftovers;
mod packages;
mod signals;
mod soak;
#[path = "../../blxrep/tests/support/mod.rs"]
mod support;
mod test;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Chores of the blxrep repository
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Back up a real disk under load, restore several points, and show that each is right (needs root)
    Demo,
    /// Check formatting, lints and the eBPF object, and run every test
    Test,
    /// Measure speed, memory and overhead against the raw limits of this machine (needs root)
    Bench(bench::Options),
    /// Run the end-to-end tests for as long as you like (needs root)
    Soak(soak::Options),
    /// Cut the power of virtual machines under load, and boot one from a point of it (needs root; slow)
    Lab(lab::Options),
    /// Rebuild the committed eBPF object from its sources
    BuildEbpf,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    std::env::set_current_dir(root).with_context(|| format!("{}: entering the workspace", root.display()))?;
    match task {
        // Its totals are the last line, also when there are failures.
        Task::Test => return test::run(),
        Task::Demo => demo::run()?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Soak(options) => soak::run(&options)?,
        Task::Lab(options) => lab::run(&options)?,
        Task::BuildEbpf => build_ebpf::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
