//! The real program on real disks: image, sync, restore, and what may go wrong between.
//!
//! In a test run each load lasts a few seconds; `cargo xtask soak` runs the same tests with
//! `BLXREP_SOAK_SECONDS=120`.

mod bad_input;
mod continuity;
mod databases;
mod exactness;
mod filesystems;
mod frozen;
mod groups;
mod holes;
mod hostile_dispatcher;
mod hostile_peer;
mod kills;
mod names;
mod order;
mod outage;
mod rebuild;
mod rescan;
mod restart;
mod restore_device;
mod restore_files;
mod retention;
mod setbacks;
#[path = "../support/mod.rs"]
mod support;
mod versions;
mod ward;

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use support::site::PointRow;

const MIB: u64 = 1 << 20;
/// A base image, or so many points, must be there within this time plus the length of the load.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blxrep"))
}

/// Whether this is `cargo xtask soak`.
fn is_soak() -> bool {
    std::env::var_os("BLXREP_SOAK_SECONDS").is_some()
}

/// How long a load lasts.
fn load_time() -> Result<Duration> {
    let seconds = match std::env::var("BLXREP_SOAK_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("BLXREP_SOAK_SECONDS={text}: not a number"))?,
        Err(_) => 6,
    };
    Ok(Duration::from_secs(seconds))
}

/// Median, 99th percentile and maximum.
fn spread(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |percent: usize| values.get((values.len() * percent / 100).min(values.len().saturating_sub(1)));
    match (at(50), at(99), values.last()) {
        (Some(median), Some(high), Some(max)) => format!("{median}/{high}/{max}"),
        _ => "none".to_owned(),
    }
}

/// What the test did cost no coverage. Now and then, under load, the kernel runs neither hook for a write; the audit finds
/// that, whatever a test does: it is printed.
fn ensure_covered(points: &[PointRow]) -> Result<()> {
    for point in points.iter().filter(|point| point.coverage != "proven") {
        ensure!(point.coverage.ends_with("seen at neither hook"), "coverage was lost: {points:#?}");
        println!("the kernel skipped both hooks: {}", point.coverage);
    }
    Ok(())
}

/// One line about the points that were made, and the promise that no disk had a second full image.
fn summarize(points: &[PointRow]) -> Result<()> {
    let count = |consistency: &str| points.iter().filter(|p| p.consistency == consistency).count();
    let unknown: Vec<_> = points.iter().filter(|p| p.coverage != "proven").map(|p| &p.coverage).collect();
    println!(
        "{} points: {} quiet, {} frozen, {} fuzzy; coverage not proven: {unknown:?}",
        points.len(),
        count("quiet"),
        count("frozen"),
        count("fuzzy")
    );
    let mut bases: Vec<_> = points.iter().filter(|p| p.kind == "base").map(|p| &p.disk).collect();
    let all = bases.len();
    bases.sort();
    bases.dedup();
    ensure!(bases.len() == all && all > 0, "each disk must have one base: {points:#?}");
    Ok(())
}
