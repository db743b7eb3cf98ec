//! One comparison of a disk with its newest point, over `/ws/snapshot`.
//!
//! ```text
//!         Compare            Blocks, judged by a thread           Compared          Found
//! begin ----------> against -----------------------------> ... ------------> settled ------> noted
//!   |                  |
//!   +------------------+--> held: the hub says that a person paused or cancelled the action
//! ```

use super::Shared;
use super::comparer::Judgement;
use super::comparisons::{Asked, Grant, Outcome};
use super::hub::Note;
use super::judge::{self, Judge, ReaderDied};
use super::locks::DiskGuard;
use crate::io::channel::{ChannelError, Connection, Incoming};
use crate::model::comparison::{Grid, Key};
use crate::model::ids::{AgentId, PointId};
use crate::model::point::Disk;
use crate::model::units::GranuleSize;
use crate::view::part::PartReader;
use crate::view::reader::PointReader;
use crate::wire::snapshot::{MAX_FOUND, Purpose, ToAgent, ToDispatcher};
use tokio::sync::{oneshot, watch};

/// Why a comparison ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the agent sent {0} out of turn")]
    Unexpected(&'static str),
    #[error(transparent)]
    Reader(#[from] ReaderDied),
    #[error("{0}")]
    Failed(String),
    /// Not an error: a person wants it so.
    #[error("{0}")]
    Held(String),
}

type Snapshot = Connection<ToAgent, ToDispatcher>;

/// What the comparison is made with.
struct Setting {
    disk: Disk,
    point: PointId,
    grid: Grid,
    key: Key,
    /// While coverage is lost, nobody else opens a point of the disk.
    _guard: Option<DiskGuard>,
}

/// Serves the connection from its first message, a `Compare`, to its end.
pub async fn serve(
    connection: &mut Snapshot,
    agent: &AgentId,
    shared: &Shared,
    first: ToDispatcher,
) -> Result<(), CompareError> {
    let ToDispatcher::Compare { purpose, disk, device: _, bytes, granule_shift } = first else {
        return Err(CompareError::Unexpected("something else than a comparison"));
    };
    let agent = agent.clone();
    let found = shared.blocking(move |store| {
        let disks = store.disks()?;
        let found = disks.into_iter().find(|d| d.agent == agent && d.identity == disk);
        found.ok_or_else(|| crate::store::StoreError::NotFound(format!("no disk {disk} of this agent")))
    });
    let disk = match found.await {
        Ok(disk) => disk,
        Err(reason) => return refuse(connection, reason).await,
    };
    let guard = match purpose {
        Purpose::Rescan { .. } => Some(shared.locks.lock(disk.id).await),
        Purpose::Verify { .. } => None,
    };
    let (setting, reader) = match prepare(shared, disk.clone(), guard, (bytes, granule_shift)).await {
        Ok(prepared) => prepared,
        Err(reason) => return refuse(connection, reason).await,
    };
    let grant = match ask(shared, Asked { disk: disk.id, purpose }).await {
        Ok(grant) => grant,
        Err(reason) => {
            connection.sender.send_control(&ToAgent::Hold { reason: reason.clone() }).await?;
            return Err(CompareError::Held(reason));
        }
    };
    let action = grant.action;
    let result = run(connection, shared, &setting, reader, grant).await;
    let outcome = match &result {
        Ok(found) => Ok(found.clone()),
        Err(error) => Err(error.to_string()),
    };
    shared.note(Note::Compared { action, outcome }).await;
    result.map(drop)
}

async fn refuse(connection: &mut Snapshot, reason: String) -> Result<(), CompareError> {
    connection.sender.send_control(&ToAgent::Refuse { reason: reason.clone() }).await?;
    Err(CompareError::Failed(reason))
}

/// Opens the newest point.
async fn prepare(
    shared: &Shared,
    disk: Disk,
    guard: Option<DiskGuard>,
    (bytes, granule_shift): (u64, u32),
) -> Result<(Setting, PointReader), String> {
    let id = disk.id;
    let opened = shared.blocking(move |store| {
        let refused = |text: String| crate::store::StoreError::Refused(text);
        let newest =
            store.newest_point(id)?.ok_or_else(|| refused("the disk has no point yet".to_owned()))?;
        let reader = store.open_point(newest.id)?;
        Ok::<_, crate::store::StoreError>((newest, reader))
    });
    let (newest, reader) = opened.await?;
    if reader.granule().shift() != granule_shift {
        return Err(format!(
            "{} is now tracked in granules of 2^{granule_shift} bytes and its image was made with 2^{}: take a new \
             snapshot",
            disk.device,
            reader.granule().shift()
        ));
    }
    let granule = GranuleSize::from_shift(granule_shift).ok_or("no such granule")?;
    let grid = Grid::new(granule, bytes, newest.disk_bytes);
    Ok((Setting { disk, point: newest.id, grid, key: judge::new_key(), _guard: guard }, reader))
}

/// Asks the hub for the action; the error says why it is held.
async fn ask(shared: &Shared, asked: Asked) -> Result<Grant, String> {
    let (reply, answer) = oneshot::channel();
    shared.note(Note::Compare { asked, reply }).await;
    answer.await.unwrap_or_else(|_| Err("the dispatcher is stopping".to_owned()))
}

async fn run(
    connection: &mut Snapshot,
    shared: &Shared,
    setting: &Setting,
    reader: PointReader,
    mut grant: Grant,
) -> Result<Outcome, CompareError> {
    let Setting { point, grid, key, .. } = *setting;
    let bytes = reader.disk_bytes();
    connection.sender.send_control(&ToAgent::Against { point, bytes, key: key.0 }).await?;
    let mut exchange = Exchange { judge: Judge::start(PartReader::whole(reader), grid, key) };
    let result = exchange.run(connection, shared, setting, &mut grant).await;
    let damaged = exchange.judge.end().await;
    result.map(|found| Outcome { damaged, ..found })
}

struct Exchange {
    judge: Judge,
}

impl Exchange {
    async fn run(
        &mut self,
        connection: &mut Snapshot,
        shared: &Shared,
        setting: &Setting,
        grant: &mut Grant,
    ) -> Result<Outcome, CompareError> {
        loop {
            tokio::select! {
                reason = held(&mut grant.stop) => {
                    connection.sender.send_control(&ToAgent::Hold { reason: reason.clone() }).await?;
                    return Err(CompareError::Held(reason));
                }
                judgement = self.judge.judged() => {
                    let judgement = judgement?;
                    shared.progress(grant.action, setting.grid.bytes_below(judgement.through), setting.grid.bytes());
                    self.tell(connection, judgement).await?;
                }
                said = connection.receiver.recv() => match said? {
                    Incoming::Control(ToDispatcher::Blocks { first, digests }) => {
                        self.judge.take(first, digests).map_err(CompareError::Unexpected)?;
                    }
                    Incoming::Control(ToDispatcher::Compared { count, digest }) => {
                        return self.settle(connection, setting, (count, digest)).await;
                    }
                    Incoming::Closed { reason } => {
                        return Err(CompareError::Failed(format!("the agent left: {reason}")));
                    }
                    _ => return Err(CompareError::Unexpected("something else than blocks")),
                },
            }
        }
    }

    async fn tell(&mut self, connection: &mut Snapshot, judgement: Judgement) -> Result<(), CompareError> {
        for (block, granules) in judgement.differing {
            connection.sender.send_control(&ToAgent::Differs { block, granules }).await?;
        }
        connection.sender.send_control(&ToAgent::Judged { through: judgement.through }).await?;
        Ok(())
    }

    async fn settle(
        &mut self,
        connection: &mut Snapshot,
        setting: &Setting,
        theirs: (u64, [u8; 32]),
    ) -> Result<Outcome, CompareError> {
        let (count, digest) = self.judge.settle(theirs).map_err(CompareError::Unexpected)?;
        connection.sender.send_control(&ToAgent::Settled { count, digest }).await?;
        match connection.receiver.recv().await? {
            Incoming::Control(ToDispatcher::Found { granules, ranges }) if ranges.len() <= MAX_FOUND => {
                connection.sender.send_control(&ToAgent::Noted).await?;
                let granule = setting.grid.granule();
                let size = setting.grid.bytes().max(granule.bytes());
                let ranges =
                    ranges.into_iter().map(|(start, end)| granule.byte_range(start..end, size)).collect();
                let (point, device) = (setting.point, setting.disk.device.clone());
                let bytes = granules.saturating_mul(granule.bytes());
                Ok(Outcome { point, device, compared: setting.grid.bytes(), bytes, ranges, damaged: 0 })
            }
            Incoming::Closed { reason } => Err(CompareError::Failed(format!("the agent left: {reason}"))),
            _ => Err(CompareError::Unexpected("something else than what it found")),
        }
    }
}

/// Comes when the hub says that the comparison has to end.
pub async fn held(stop: &mut watch::Receiver<Option<String>>) -> String {
    loop {
        if let Some(reason) = stop.borrow_and_update().clone() {
            return reason;
        }
        if stop.changed().await.is_err() {
            // The hub is gone: the connection will end by itself.
            std::future::pending::<()>().await;
        }
    }
}
