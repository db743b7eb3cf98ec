//! The dispatcher.

use crate::cli::start::DispatcherArgs;

/// Runs until it is told to stop.
pub async fn run(args: DispatcherArgs) -> anyhow::Result<()> {
    anyhow::bail!("the dispatcher is not part of this build ({args:?})")
}
