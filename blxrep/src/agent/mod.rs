//! The agent.

use crate::cli::start::AgentArgs;

/// Runs until it is told to stop.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not part of this build ({args:?})")
}
