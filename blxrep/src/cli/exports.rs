//! `blxrep exports`: points that the dispatcher serves as network block devices.

use super::Common;
use super::error::CliError;
use super::table::{Table, number, text, word};
use crate::api::exports::{ExportRow, StopQuery};
use crate::api::text::Clock;
use crate::model::units::ByteCount;
use clap::Args;

/// List the points that the dispatcher serves as network block devices, or stop one
#[derive(Debug, Args)]
pub struct ExportsArgs {
    /// Stop this one: its clients are sent away
    #[arg(long, value_name = "URI")]
    stop: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub async fn exports(args: ExportsArgs) -> Result<(), CliError> {
    let client = args.common.client();
    if let Some(uri) = args.stop {
        let row = client.stop_export(&StopQuery { uri }).await?;
        return args
            .common
            .output()
            .result(&row, |row| format!("point {} is no longer served at {}", row.point, row.uri));
    }
    let rows = client.exports().await?;
    args.common.output().table(&rows, |rows| table(rows))
}

fn table(rows: &[ExportRow]) -> Table {
    let headers = [
        word("POINT"),
        number("PART"),
        number("SIZE"),
        word("SINCE"),
        number("PROCESS"),
        word("WRITE"),
        text("URI"),
    ];
    let mut table = Table::new("The dispatcher serves no point.", &headers);
    for row in rows {
        table.row([
            row.point.clone(),
            row.partition.to_string(),
            ByteCount(row.bytes).to_string(),
            Clock(row.since).to_string(),
            row.process.to_string(),
            if row.writable { "yes" } else { "no" }.to_owned(),
            row.uri.clone(),
        ]);
    }
    table
}
