//! Points as files on the dispatcher's host: mounted, looked at, and brought back.

mod browsed;
mod chain;
mod everything;
mod mounted;
mod restored;
mod scene;
mod session;
#[path = "../support/mod.rs"]
mod support;
mod to_agent;
mod volumes;

use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// A base image, or an end that was asked for, must be there within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often something is killed: much more often in a soak.
fn times(short: u64) -> u64 {
    if std::env::var_os("BLXREP_SOAK_SECONDS").is_some() { 10 * short } else { short }
}

/// The program under test.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_blxrep"))
}
