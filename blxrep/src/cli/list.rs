//! The commands that only look: agents, disks, points, actions.

use super::error::CliError;
use super::table::{Table, number, optional, text, word};
use super::{Common, output};
use crate::api::text::{Clock, Span, percent, printable};
use crate::api::types::{ActionRow, AgentDetail, AgentRow, DiskRow, ListQuery, PointRow};
use crate::model::host::{Filesystem, Footprint, HostDisk};
use crate::model::point::mixture;
use crate::model::units::{ByteCount, SECTOR_BYTES};
use clap::Args;
use std::fmt::Write;

const POINTS_EXAMPLES: &str = "\
Examples:
  blxrep points --agent web1 --disk sda
  blxrep points --json | jq -r '.[-1].id'";

/// Whose rows are shown.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only of this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only of this disk: its device, identity or id
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
}

impl FilterArgs {
    fn query(self, newest: Option<u32>) -> ListQuery {
        ListQuery { agent: self.agent, disk: self.disk, newest, ..ListQuery::default() }
    }
}

/// List recovery points, oldest cut first
#[derive(Debug, Args)]
#[command(visible_alias = "show", after_long_help = POINTS_EXAMPLES)]
pub struct PointsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only the newest COUNT
    #[arg(long, value_name = "COUNT")]
    newest: Option<u32>,
    #[command(flatten)]
    common: Common,
}

pub async fn agents(common: &Common) -> Result<(), CliError> {
    let rows = common.client().agents().await?;
    common.output().table(&rows, |rows| agents_table(rows))
}

pub async fn agent(common: &Common, agent: &str) -> Result<(), CliError> {
    let detail = common.client().agent(agent).await?;
    common.output().result(&detail, agent_text)
}

pub async fn disks(common: &Common, filter: FilterArgs) -> Result<(), CliError> {
    let rows = common.client().disks(&filter.query(None)).await?;
    common.output().table(&rows, |rows| disks_table(rows))?;
    if !common.json {
        for row in &rows {
            let said =
                row.problem.iter().map(|p| ("problem", p)).chain(row.notes.iter().map(|n| ("note", n)));
            said.for_each(|(what, text)| {
                output::say(&format!("{what}: {} {}: {text}", row.agent, row.device))
            });
        }
    }
    Ok(())
}

pub async fn points(args: PointsArgs) -> Result<(), CliError> {
    let rows = args.common.client().points(&args.filter.query(args.newest)).await?;
    args.common.output().table(&rows, |rows| points_table(rows))?;
    if !args.common.json {
        for row in rows.iter().filter(|row| !row.damage.is_empty()) {
            row.damage.iter().for_each(|what| output::say(&format!("damaged: point {}: {what}", row.id)));
        }
        for (id, restore) in rows.iter().filter_map(|row| Some((row.id, row.half_restored?))) {
            output::say(&format!("half restored: point {id}: {}", mixture(restore)));
        }
    }
    Ok(())
}

pub async fn actions(common: &Common, filter: FilterArgs, newest: Option<u32>) -> Result<(), CliError> {
    let rows = common.client().actions(&filter.query(newest)).await?;
    common.output().table(&rows, |rows| actions_table(rows))
}

fn agents_table(rows: &[AgentRow]) -> Table {
    let headers = [
        word("AGENT"),
        word("STATE"),
        optional(word("HOSTNAME")),
        optional(text("DISTRIBUTION")),
        optional(text("KERNEL")),
        number("CPUS"),
        number("MEMORY"),
        number("DISKS"),
        word("LAST SEEN"),
        optional(word("ADDRESS")),
    ];
    let mut table = Table::new("No agent has connected yet.", &headers);
    for row in rows {
        table.row([
            row.id.to_string(),
            online(row).to_owned(),
            row.hostname.clone(),
            row.distribution.clone(),
            row.kernel.clone(),
            row.cpus.to_string(),
            ByteCount(row.memory).to_string(),
            row.disks.to_string(),
            shown(row.last_seen.map(Clock)),
            shown(row.address.as_ref()),
        ]);
    }
    table
}

fn disks_table(rows: &[DiskRow]) -> Table {
    let headers = [
        word("AGENT"),
        word("DEVICE"),
        number("SIZE"),
        word("STATE"),
        text("COVERAGE"),
        number("LAG"),
        number("BACKLOG"),
        optional(number("POINTS")),
        optional(word("NEWEST CUT")),
        optional(text("IDENTITY")),
        optional(word("ID")),
    ];
    let mut table = Table::new("No disk is known yet.", &headers);
    for row in rows {
        table.row([
            row.agent.to_string(),
            row.device.clone(),
            ByteCount(row.bytes).to_string(),
            row.state.to_string(),
            row.coverage.to_string(),
            shown(row.lag_seconds.map(Span)),
            shown(row.backlog.map(ByteCount)),
            row.points.to_string(),
            shown(row.newest_cut.map(Clock)),
            row.identity.clone(),
            row.id.to_string(),
        ]);
    }
    table
}

fn points_table(rows: &[PointRow]) -> Table {
    let mut headers = vec![
        word("ID"),
        word("AGENT"),
        word("DEVICE"),
        optional(word("KIND")),
        word("CUT"),
        word("CONSISTENCY"),
        optional(text("COVERAGE")),
        number("BYTES"),
        optional(number("STORED")),
        optional(number("ROUNDS")),
    ];
    // A column only where there is something to say.
    let any_damaged = rows.iter().any(|row| !row.damage.is_empty());
    if any_damaged {
        headers.push(word("DAMAGE"));
    }
    let any_mixed = rows.iter().any(|row| row.half_restored.is_some());
    if any_mixed {
        headers.push(word("RESTORE"));
    }
    let mut table = Table::new("No point is published yet.", &headers);
    for row in rows {
        let cells = [
            row.id.to_string(),
            row.agent.to_string(),
            row.device.clone(),
            row.kind.to_string(),
            Clock(row.cut).to_string(),
            row.consistency.to_string(),
            if row.holes.is_empty() {
                row.coverage.to_string()
            } else {
                format!("incomplete: {}", row.holes)
            },
            ByteCount(row.bytes).to_string(),
            ByteCount(row.stored).to_string(),
            row.rounds.to_string(),
        ];
        let damage = if row.damage.is_empty() { "" } else { "damaged" };
        let mixed = if row.half_restored.is_some() { "unfinished" } else { "" };
        let more = [(any_damaged, damage), (any_mixed, mixed)].into_iter().filter(|(any, _)| *any);
        table.row(cells.into_iter().chain(more.map(|(_, cell)| cell.to_owned())));
    }
    table
}

fn actions_table(rows: &[ActionRow]) -> Table {
    let headers = [
        word("ID"),
        word("KIND"),
        word("AGENT"),
        word("DEVICE"),
        word("STATE"),
        number("DONE"),
        optional(word("UPDATED")),
        text("REASON"),
    ];
    let mut table = Table::new("Nothing has been done yet.", &headers);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.kind.to_string(),
            shown(row.agent.as_ref()),
            shown(row.device.as_ref()),
            row.state.to_string(),
            done(row),
            Clock(row.updated).to_string(),
            row.reason.clone(),
        ]);
    }
    table
}

fn online(row: &AgentRow) -> &'static str {
    if row.online { "online" } else { "offline" }
}

fn done(row: &ActionRow) -> String {
    match percent(row.done, row.total) {
        Some(percent) => format!("{percent} %"),
        None if row.done > 0 => ByteCount(row.done).to_string(),
        None => String::new(),
    }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// All that an agent said of its host, as indented lines.
fn agent_text(detail: &AgentDetail) -> String {
    let row = &detail.row;
    let mut lines = vec![format!(
        "{}: {}, last seen {} from {}",
        row.id,
        online(row),
        row.last_seen.map_or("never".to_owned(), |t| Clock(t).to_string()),
        row.address.as_deref().unwrap_or("nowhere")
    )];
    match &detail.footprint {
        Some(footprint) => host_lines(footprint, &mut lines),
        None => lines.push("  it has not described its host yet".to_owned()),
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn host_lines(host: &Footprint, lines: &mut Vec<String>) {
    lines.push(format!("  host {}: {}, kernel {}", host.hostname, host.distribution, host.kernel));
    let memory = ByteCount(host.memory_bytes);
    lines.push(format!("  {} {} CPUs ({}), {memory} memory", host.cpus, host.architecture, host.cpu_model));
    for interface in &host.interfaces {
        lines.push(format!(
            "  interface {} {} {}",
            interface.name,
            interface.mac,
            interface.addresses.join(" ")
        ));
    }
    for disk in &host.disks {
        disk_lines(disk, lines);
    }
}

fn disk_lines(disk: &HostDisk, lines: &mut Vec<String>) {
    let identity = disk.identity.as_ref().map_or("no stable identity".to_owned(), ToString::to_string);
    let bytes = ByteCount(disk.bytes);
    lines.push(format!(
        "  disk {} {bytes} {identity}, {}{}",
        disk.device,
        disk.model,
        on(disk.filesystem.as_ref())
    ));
    for part in &disk.partitions {
        let bytes = ByteCount(part.sectors.saturating_mul(SECTOR_BYTES));
        let filesystem = on(part.filesystem.as_ref());
        lines.push(format!("    partition {} {bytes} {} {}{filesystem}", part.number, part.kind, part.name));
    }
}

/// What is found on a disk or partition, as the end of its line.
fn on(filesystem: Option<&Filesystem>) -> String {
    let Some(found) = filesystem else {
        return String::new();
    };
    let mut text = format!(", {} {}", found.kind, found.label);
    for place in &found.mount_points {
        // Writing to a string cannot fail.
        let _ = write!(text, " on {place}");
    }
    text
}
