//! One disk's connection to `/ws/snapshot`: its full image, until the base is published.

use super::Shared;
use super::compare_link::{self, CompareError};
use super::hub::Note;
use super::intake::{Credit, Intake, Pieces};
use crate::io::channel::{ChannelError, Connection, Incoming};
use crate::model::encoding::Encoding;
use crate::model::ids::{ActionId, AgentId, DiskIdentity};
use crate::model::point::{CutSummary, Disk};
use crate::model::tracking::Imaged;
use crate::store::base::{BaseSpec, BaseWriter};
use crate::store::catalog::DiskOffer;
use crate::store::{Store, StoreError};
use crate::wire::snapshot::{ToAgent, ToDispatcher};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How much may have to be sent again after a break: what was written since the last checkpoint.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// And how long ago the last checkpoint may be, on slow links.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the agent sent {0} out of turn")]
    Unexpected(&'static str),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Compare(#[from] CompareError),
}

type Snapshot = Connection<ToAgent, ToDispatcher>;

/// Serves the connection until it ends.
pub async fn serve(mut connection: Snapshot, agent: AgentId, shared: Shared) {
    let ended = run(&mut connection, &agent, &shared).await;
    let reason = match &ended {
        Ok(()) => "done".to_owned(),
        Err(SnapshotError::Compare(CompareError::Held(reason))) => reason.clone(),
        Err(error @ SnapshotError::Compare(_)) => {
            tracing::warn!(%agent, %error, "a comparison broke off");
            error.to_string()
        }
        Err(error) => {
            tracing::warn!(%agent, %error, "the image broke off; what is durable stays");
            error.to_string()
        }
    };
    connection.close(&reason).await;
}

async fn run(connection: &mut Snapshot, agent: &AgentId, shared: &Shared) -> Result<(), SnapshotError> {
    let begin = match connection.receiver.recv().await? {
        Incoming::Control(begin @ ToDispatcher::Begin { .. }) => begin,
        Incoming::Control(compare @ ToDispatcher::Compare { .. }) => {
            return Ok(compare_link::serve(connection, agent, shared, compare).await?);
        }
        _ => return Err(SnapshotError::Unexpected("something else than a begin")),
    };
    // Sent in vain otherwise. The agent asks again by itself.
    if let Some(reason) = shared.store.trouble() {
        return refuse(connection, reason).await;
    }
    let (disk, spec, imaged) = match admit(agent, shared, begin).await {
        Ok(admitted) => admitted,
        Err(reason) => return refuse(connection, reason).await,
    };
    let _guard = shared.locks.lock(disk.id).await;
    // Its point will stand on none that there is now.
    drop(shared.drafts.take(disk.id));
    let id = disk.id;
    if let Some(point) = shared.blocking(move |store| store.base_of(id, spec.action)).await.unwrap_or(None) {
        // The agent did not hear of it, or the dispatcher was killed before it said so anywhere.
        shared.note(Note::BaseDone { action: spec.action, disk: id }).await;
        return refuse(connection, format!("the image is published already, as {point}")).await;
    }
    let begin = move |store: &Store| -> Result<BaseWriter, StoreError> {
        store.limit_base(id, imaged)?;
        store.begin_base(id, spec)
    };
    let writer = match shared.blocking(begin).await {
        Ok(writer) => writer,
        Err(reason) => return refuse(connection, reason).await,
    };
    connection
        .sender
        .send_control(&ToAgent::Start { point: writer.point(), offset: writer.durable() })
        .await?;
    let (progress, seen) = watch::channel(Progress { received: writer.front(), durable: writer.durable() });
    let intake = Intake::start(move |pieces| write(writer, pieces, &progress));
    let received = receive(connection, &intake, seen, shared, spec).await;
    let written = intake.finish().await;
    match (received, written) {
        (Ok(summary), Ok(writer)) => {
            publish(connection, agent, shared, (&disk, spec.action), writer, summary).await
        }
        (_, Err(reason)) => {
            connection.sender.send_control(&ToAgent::Failed { reason: reason.clone() }).await?;
            Err(SnapshotError::Failed(reason))
        }
        (Err(error), Ok(mut writer)) => {
            // What came in so far need not be sent again.
            shared.blocking(move |_| writer.checkpoint()).await.map_err(SnapshotError::Failed)?;
            Err(error)
        }
    }
}

async fn refuse(connection: &mut Snapshot, reason: String) -> Result<(), SnapshotError> {
    connection.sender.send_control(&ToAgent::Refuse { reason: reason.clone() }).await?;
    Err(SnapshotError::Failed(reason))
}

/// Finds the disk's row, with the size and granule that the image has.
async fn admit(
    agent: &AgentId,
    shared: &Shared,
    begin: ToDispatcher,
) -> Result<(Disk, BaseSpec, Option<Imaged>), String> {
    let ToDispatcher::Begin { action, disk, device, bytes, granule_shift, epoch, imaged } = begin else {
        return Err("not a begin".to_owned());
    };
    let agent = agent.clone();
    let row = shared.blocking(move |store| {
        let offer = DiskOffer { agent: &agent, identity: &disk, device: &device, bytes, granule_shift };
        store.upsert_disk(&offer, Timestamp::now())
    });
    Ok((row.await?, BaseSpec { action, epoch, bytes, granule_shift }, imaged))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    received: u64,
    durable: u64,
}

/// Takes data off the wire until the end; returns what the image stands for.
async fn receive(
    connection: &mut Snapshot,
    intake: &Intake<BaseWriter>,
    mut seen: watch::Receiver<Progress>,
    shared: &Shared,
    spec: BaseSpec,
) -> Result<CutSummary, SnapshotError> {
    let mut credit = Credit::default();
    let mut sealed = None;
    let mut durable = 0;
    loop {
        match connection.receiver.recv().await? {
            Incoming::Data { data, payload } => {
                credit.add(payload.len());
                if intake.push(data, payload).await.is_err() {
                    return Err(SnapshotError::Failed("the writing thread ended".to_owned()));
                }
                if let Some(bytes) = credit.due() {
                    connection.sender.send_control(&ToAgent::Received { bytes }).await?;
                    let now = *seen.borrow_and_update();
                    shared.progress(spec.action, now.received, spec.bytes);
                    if now.durable != durable {
                        durable = now.durable;
                        connection.sender.send_control(&ToAgent::Durable { offset: durable }).await?;
                    }
                }
            }
            Incoming::Control(ToDispatcher::Seal(summary)) => sealed = Some(summary),
            Incoming::End { .. } => return sealed.ok_or(SnapshotError::Unexpected("an end without a seal")),
            Incoming::Control(ToDispatcher::Abort { reason }) => return Err(SnapshotError::Failed(reason)),
            Incoming::Control(_) => return Err(SnapshotError::Unexpected("a second begin")),
            Incoming::Closed { reason } => {
                return Err(SnapshotError::Failed(format!("the agent left: {reason}")));
            }
        }
    }
}

async fn publish(
    connection: &mut Snapshot,
    agent: &AgentId,
    shared: &Shared,
    (disk, action): (&Disk, ActionId),
    writer: BaseWriter,
    summary: CutSummary,
) -> Result<(), SnapshotError> {
    let (cut, group): (_, Vec<DiskIdentity>) = (summary.cut, summary.group.clone());
    let outcome = match shared.blocking(move |_| writer.seal(summary)).await {
        Ok(ready) => shared.publisher.publish(agent.clone(), cut, group, disk.identity.clone(), ready).await,
        Err(reason) => Err(reason),
    };
    match outcome {
        Ok(point) => {
            let id = point.id;
            shared.note(Note::Published { point: Box::new(point) }).await;
            // The connection may be gone by now: that changes nothing of what is done.
            let told = connection.sender.send_control(&ToAgent::Published { point: id }).await;
            shared.note(Note::BaseDone { action, disk: disk.id }).await;
            Ok(told?)
        }
        Err(reason) => {
            connection.sender.send_control(&ToAgent::Failed { reason: reason.clone() }).await?;
            Err(SnapshotError::Failed(reason))
        }
    }
}

/// The writing thread: unpacks, writes, and makes durable from time to time.
fn write(
    mut writer: BaseWriter,
    mut pieces: Pieces,
    progress: &watch::Sender<Progress>,
) -> Result<BaseWriter, String> {
    let mut unpacked = Vec::new();
    let (mut since, mut last) = (0, Instant::now());
    while let Some(piece) = pieces.next() {
        let (offset, length) = (piece.data.offset, u64::from(piece.data.raw_length));
        match piece.data.encoding {
            Encoding::Zero => writer.write_zeroes(offset..offset + length),
            Encoding::Raw => writer.write(offset, &piece.payload),
            Encoding::Zstd => {
                unpacked.resize(piece.data.raw_length as usize, 0);
                let unpack = Encoding::Zstd.decode_into(&piece.payload, &mut unpacked);
                unpack.map_err(|e| format!("the frame for byte {offset} of the disk: {e}"))?;
                writer.write(offset, &unpacked)
            }
        }
        .map_err(|e| e.to_string())?;
        since += length;
        if since >= CHECKPOINT_BYTES || last.elapsed() >= CHECKPOINT_EVERY {
            writer.checkpoint().map_err(|e| e.to_string())?;
            (since, last) = (0, Instant::now());
        }
        progress.send_replace(Progress { received: writer.front(), durable: writer.durable() });
    }
    Ok(writer)
}
