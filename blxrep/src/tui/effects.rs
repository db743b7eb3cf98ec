//! What the screen asks of the dispatcher.

use super::model::Data;
use super::update::Event;
use crate::api::client::{Client, ClientError};
use crate::api::types::ListQuery;
use jiff::Timestamp;
use std::time::Duration;

/// More points and actions than a person scrolls through; the command line lists them all.
const NEWEST: u32 = 200;
/// An answer that takes longer is shown as a lost connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// One look at everything.
pub async fn fetch(client: &Client) -> Event {
    match tokio::time::timeout(PATIENCE, load(client)).await {
        Ok(Ok(data)) => Event::Loaded(Box::new(data)),
        Ok(Err(error)) => Event::Failed(error.to_string()),
        Err(_) => Event::Failed(format!("no answer within {PATIENCE:?}")),
    }
}

async fn load(client: &Client) -> Result<Data, ClientError> {
    let everything = ListQuery::default();
    let newest = ListQuery { newest: Some(NEWEST), ..ListQuery::default() };
    let status = client.status().await?;
    let agents = client.agents().await?;
    let disks = client.disks(&everything).await?;
    let mut points = client.points(&newest).await?;
    let mut actions = client.actions(&newest).await?;
    points.reverse();
    actions.reverse();
    Ok(Data { at: Timestamp::now(), status, agents, disks, points, actions })
}
