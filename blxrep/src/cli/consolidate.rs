//! `blxrep consolidate`: lets points go that retention does not keep, or shows which those are.

use super::Common;
use super::error::CliError;
use super::follow::{Interrupt, follow};
use super::table::{Table, number, optional, text, word};
use crate::api::consolidation::{ConsolidateBody, ConsolidationPlan};
use crate::api::text::Clock;
use crate::api::types::{ActionRow, ListQuery};
use crate::model::action::ActionState;
use crate::model::units::ByteCount;
use clap::Args;

const EXAMPLES: &str = "\
Points go by the policy's keep_* keys; the newest point of a disk never does. The dispatcher does this by itself; the
command does it now.

Examples:
  blxrep consolidate --dry-run
  blxrep consolidate web1 sda";

/// Let points go that the policy does not keep, and free their space
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ConsolidateArgs {
    /// Only of this agent
    agent: Option<String>,
    /// Only this disk: its device, identity or id
    disk: Option<String>,
    /// Show which points would go and stay, and why; nothing is changed
    #[arg(long)]
    dry_run: bool,
    /// Return as soon as it has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: ConsolidateArgs) -> Result<(), CliError> {
    let client = args.common.client();
    if args.dry_run {
        let query = ListQuery { agent: args.agent, disk: args.disk, ..ListQuery::default() };
        let plan = client.consolidation_plan(&query).await?;
        args.common.output().table(&plan, fates_table)?;
        if !args.common.json {
            plan.steps.iter().for_each(|step| {
                super::output::say(&format!("would {} ({} read)", step.what, ByteCount(step.bytes)));
            });
        }
        return Ok(());
    }
    let mut actions = client.consolidate(&ConsolidateBody { agent: args.agent, disk: args.disk }).await?;
    if !args.no_wait {
        for action in &mut actions {
            *action = follow(&client, action.clone(), Interrupt::Cancels).await?;
        }
    }
    args.common.output().table(&actions, |rows| actions_table(rows))?;
    match actions.iter().filter(|a| matches!(a.state, ActionState::Failed | ActionState::Cancelled)).count() {
        0 => Ok(()),
        failed => Err(CliError::Failed(format!("{failed} of {} disks were not consolidated", actions.len()))),
    }
}

fn fates_table(plan: &ConsolidationPlan) -> Table {
    let headers = [
        word("AGENT"),
        word("DEVICE"),
        word("POINT"),
        word("CUT"),
        optional(word("CONSISTENCY")),
        number("STORED"),
        word("FATE"),
        text("REASON"),
    ];
    let mut table = Table::new("There is no point.", &headers);
    for row in &plan.points {
        table.row([
            row.agent.to_string(),
            row.device.clone(),
            row.point.to_string(),
            Clock(row.cut).to_string(),
            row.consistency.to_string(),
            ByteCount(row.stored).to_string(),
            if row.keep { "keep".to_owned() } else { "drop".to_owned() },
            row.reason.clone(),
        ]);
    }
    table
}

fn actions_table(rows: &[ActionRow]) -> Table {
    let headers = [word("ACTION"), word("AGENT"), word("DEVICE"), word("STATE"), text("REASON")];
    let mut table = Table::new("All points that are there are kept: nothing is to be done.", &headers);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
            row.device.clone().unwrap_or_default(),
            row.state.to_string(),
            row.reason.clone(),
        ]);
    }
    table
}
