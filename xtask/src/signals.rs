//! Ctrl-C and SIGTERM end a task through its destructors, so that no disk, mount or process stays behind.

use crate::support::fixture::INTERRUPTED;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;

/// Exit code of a task that was told twice.
const TOLD_TWICE: i32 = 130;

/// From now on the first signal makes waiting end with an error; the second ends the process at once.
pub fn unwind_on_interrupt() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, TOLD_TWICE, Arc::clone(&INTERRUPTED))
            .and_then(|_| flag::register(signal, Arc::clone(&INTERRUPTED)))
            .context("installing a signal handler")?;
    }
    Ok(())
}
