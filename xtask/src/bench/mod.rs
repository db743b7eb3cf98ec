//! `cargo xtask bench`: what protecting a disk costs, beside the raw limits of the same machine in the same run.
//!
//! Speeds vary between runs by up to four times on a busy machine; ratios within one run, CPU seconds and bytes do
//! not. Nothing here fails because it is slow: the table shows the targets beside what was measured.

mod devices;
mod files;
mod measure;
mod table;
mod tracking;
mod transfer;

use crate::cargo::{build_program, cargo};
use crate::support::fixture::{is_root, sh};
use crate::{packages, signals};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;
use table::Table;

#[derive(Debug, Args)]
pub struct Options {
    /// A disk of 512 MiB and fewer pairs, instead of 4 GiB
    #[arg(long)]
    quick: bool,
    /// Folder on the disk that images are written to, by blxrep and by what it is compared with
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave out the comparison with rsync, which takes minutes at 10 % of 4 GiB
    #[arg(long)]
    no_rsync: bool,
}

impl Options {
    const fn disk_bytes(&self) -> u64 {
        if self.quick { 512 << 20 } else { 4 << 30 }
    }

    const fn pairs(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(
        is_root(),
        "the bench needs root: it makes loop devices and loads eBPF programs (sudo -E env PATH=$PATH cargo xtask bench)"
    );
    packages::ensure_tools(&packages::FOR_BENCH)?;
    let program = build_program()?;
    signals::unwind_on_interrupt()?;
    own_network()?;
    let mut table = Table::default();
    transfer::measure(options, &program, &mut table)?;
    files::measure(options, &program, &mut table)?;
    devices::measure(options, &program, &mut table)?;
    tracking::measure(options, &program, &mut table)?;
    println!("\n{table}");
    library("sweep", options)?;
    library("view", options)
}

/// A network of its own, so that what crosses the loopback is counted and nobody else's traffic is.
fn own_network() -> Result<()> {
    // SAFETY: a new network namespace for this thread, before any other thread or child exists; no memory is shared
    // with the kernel.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("making a network namespace")?;
    sh("ip", &["link", "set", "lo", "up"]).map(drop)
}

/// What is measured in a program of its own that uses the library: the sweep of a 1 TiB bitmap, views of long chains.
fn library(bench: &str, options: &Options) -> Result<()> {
    let mut command = cargo();
    command.args(["bench", "--quiet", "--package", "blxrep", "--bench", bench]);
    if let Some(dir) = &options.dir {
        command.env("BLXREP_BENCH_DIR", dir);
    }
    if options.quick {
        command.env("BLXREP_BENCH_QUICK", "1");
    }
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
