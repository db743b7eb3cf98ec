//! What the screen asks of the dispatcher.

use super::ask::{Answer, Ask, Failure, Reply, Shown, Way};
use super::model::Data;
use crate::api::client::{Client, ClientError};
use crate::api::error::{ApiError, ErrorCode};
use crate::api::exports::StopQuery;
use crate::api::mounts::UnmountQuery;
use crate::api::types::{ActionRow, ListQuery, VerifyBody};
use jiff::Timestamp;
use std::time::Duration;

/// More actions than a person scrolls through; the command line lists them all.
const ACTIONS: u32 = 200;

/// Between two looks at an action that is waited for.
const POLL: Duration = Duration::from_millis(200);
/// How things are is told at once; an answer that takes longer is shown as a lost connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, and waits for the answer.
pub async fn ask(client: &Client, ask: Ask) -> Reply {
    if ask != Ask::Overview {
        return answer(client, ask).await.map_err(Failure::from);
    }
    match tokio::time::timeout(PATIENCE, answer(client, ask)).await {
        Ok(answered) => answered.map_err(Failure::from),
        Err(_) => Err(Failure::of(format!("no answer within {PATIENCE:?}"))),
    }
}

async fn answer(client: &Client, ask: Ask) -> Result<Answer, ClientError> {
    Ok(match ask {
        Ask::Overview => Answer::Overview(Box::new(overview(client).await?)),
        Ask::Points { disk, newest } => {
            let query =
                ListQuery { disk: Some(disk.to_string()), newest: Some(newest), ..ListQuery::default() };
            Answer::Points { disk, rows: client.points(&query).await? }
        }
        Ask::Agent(agent) => Answer::Agent(Box::new(client.agent(agent.as_str()).await?)),
        Ask::Control(action, control) => Answer::Action(client.control(&action.to_string(), control).await?),
        Ask::Sync(body) => Answer::Synced(client.sync(&body).await?),
        Ask::Verify(point) => {
            let body = VerifyBody { point: Some(point.to_string()), ..VerifyBody::default() };
            Answer::Action(client.verify(&body).await?)
        }
        Ask::Partitions(point) => Answer::Partitions(client.partitions(&point.to_string()).await?),
        Ask::Files { point, query } => Answer::Files(client.files(&point.to_string(), &query).await?),
        Ask::Find { point, query } => Answer::Files(client.find(&point.to_string(), &query).await?),
        Ask::Diff { point, query } => Answer::Changes(client.diff(&point.to_string(), &query).await?),
        Ask::TryFiles(body) => {
            let action = ended(client, client.restore(&body).await?).await?;
            match client.files_report(action.id).await {
                Ok(report) => Answer::Restored(Box::new(report)),
                // It has ended without one: its reason says more than that there is none.
                Err(_) if !action.reason.is_empty() => return Err(ApiError::failed(action.reason).into()),
                Err(error) => return Err(error),
            }
        }
        Ask::Restore(body) => Answer::Action(client.restore(&body).await?),
        Ask::Restored(action) => Answer::Restored(Box::new(client.files_report(action).await?)),
        Ask::Policies => Answer::Policies(Box::new(client.policies().await?)),
        Ask::Shown => Answer::Shown(shown(client).await?),
        Ask::Mount(body) => Answer::Mounted(client.mount(&body).await?),
        Ask::Unmount(directory) => {
            Answer::Ended(Way::Mount(client.unmount(&UnmountQuery { directory }).await?))
        }
        Ask::Export(body) => Answer::Exported(client.export(&body).await?),
        Ask::StopExport(uri) => Answer::Ended(Way::Export(client.stop_export(&StopQuery { uri }).await?)),
        Ask::Report(action) => Answer::Report(Box::new(client.report(action).await?)),
    })
}

async fn shown(client: &Client) -> Result<Vec<Shown>, ClientError> {
    let mounts = client.mounts().await?.into_iter().map(Way::Mount);
    let ways = mounts.chain(client.exports().await?.into_iter().map(Way::Export));
    let mut shown = Vec::new();
    for way in ways {
        let point = match client.point(way.point()).await {
            Ok(point) => Some(Box::new(point)),
            Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        shown.push(Shown { way, point });
    }
    Ok(shown)
}

/// Waits for the end of an action.
async fn ended(client: &Client, mut action: ActionRow) -> Result<ActionRow, ClientError> {
    while !action.state.is_final() {
        tokio::time::sleep(POLL).await;
        action = client.action(action.id).await?;
    }
    Ok(action)
}

async fn overview(client: &Client) -> Result<Data, ClientError> {
    let everything = ListQuery::default();
    let newest = ListQuery { newest: Some(ACTIONS), ..ListQuery::default() };
    let status = client.status().await?;
    let agents = client.agents().await?;
    let disks = client.disks(&everything).await?;
    let actions = client.actions(&newest).await?;
    Ok(Data { at: Timestamp::now(), status, agents, disks, actions })
}
