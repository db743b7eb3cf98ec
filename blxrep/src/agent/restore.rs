//! Restores that the dispatcher asks for: judged by this agent's own configuration, begun again after every error of the
//! connection, and ended by the dispatcher's word that the end is kept.

use super::device_restore::{Aim, DeviceRestore, Held};
use super::dialer::Dialer;
use super::files_restore::{self, Announced};
use super::orders::{Ended, Order};
use super::pace::Pace;
use super::preflight::{Judge, Refusal};
use crate::engine::backoff::Backoff;
use crate::io::channel::{ChannelError, Connection, Incoming};
use crate::io::device_writer::WriteError;
use crate::io::random;
use crate::model::action::ActionState;
use crate::model::comparison::Key;
use crate::model::ids::ActionId;
use crate::model::restoration::{DeviceTarget, FilesTarget, Preflight, Restoration, Target};
use crate::model::units::GranuleSize;
use crate::wire::config;
use crate::wire::frame::{Data, HEADER_BYTES};
use crate::wire::hello::Channel;
use crate::wire::restore::{CREDIT_STEP, ToAgent, ToDispatcher};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Why an attempt ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the dispatcher closed the connection: {0}")]
    Closed(String),
    #[error("the dispatcher sent what has no place here: {0}")]
    Garbled(&'static str),
    #[error("cannot start the reading threads: {0}")]
    Threads(#[from] std::io::Error),
    #[error("the reading threads ended at block {0}: see the agent's log")]
    Short(u32),
    #[error("the agent is stopping")]
    Stopping,
    /// The device is not there, or is in use, and is half written: it is tried again.
    #[error("{0}")]
    Waiting(String),
    /// Nobody wants it now; it begins again when a person says so.
    #[error("{0}")]
    Held(String),
    /// It cannot be done, now or later.
    #[error("{0}")]
    Failed(String),
}

impl From<WriteError> for RestoreError {
    fn from(error: WriteError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What restores are made with.
#[derive(Clone, Debug)]
pub struct Means {
    pub dialer: Dialer,
    pub pace: Pace,
    /// Reads in flight.
    pub readers: usize,
    pub judge: Judge,
    /// To the dispatcher.
    pub outbound: mpsc::Sender<config::ToDispatcher>,
}

/// What outlives an attempt.
#[derive(Debug)]
struct Standing {
    /// From the first attempt to the last: given back between them, a half written device would be looked into by others.
    held: Option<Held>,
    /// Something may have been written.
    touched: bool,
    /// Something was made durable in this attempt.
    far: bool,
}

impl Means {
    /// What a restore would do, or why it is refused.
    pub async fn preflight(self, restoration: Restoration) -> Result<Preflight, String> {
        match restoration.target {
            Target::Device(target) => {
                let judge = self.judge;
                let judged = tokio::task::spawn_blocking(move || judge.device(restoration.point, &target));
                let judged = judged.await.map_err(|_| RestoreError::Stopping.to_string())?;
                judged.map(|cleared| cleared.preflight).map_err(|refusal| refusal.to_string())
            }
            Target::Files(target) => {
                let judge = self.judge;
                let judged = tokio::task::spawn_blocking(move || judge.place(&target));
                let judged = judged.await.map_err(|_| RestoreError::Stopping.to_string())?;
                judged.map(|(_, preflight)| preflight)
            }
        }
    }

    /// Restores until that has ended, is held, or cannot be done.
    pub async fn restore(self, order: Order) -> Ended {
        let mut standing = Standing { held: None, touched: order.touched, far: false };
        let ended = self.try_until_ended(order.action, &order.restoration, &mut standing).await;
        // Closing it may wait for its last writes. It fails only when the agent stops.
        let _ = tokio::task::spawn_blocking(move || drop(standing)).await;
        ended
    }

    async fn try_until_ended(
        &self,
        action: ActionId,
        restoration: &Restoration,
        standing: &mut Standing,
    ) -> Ended {
        let mut backoff = Backoff::default();
        loop {
            standing.far = false;
            match self.attempt(action, restoration, standing).await {
                Ok(()) => return Ended::Done,
                Err(RestoreError::Held(reason)) => {
                    tracing::info!(%action, %reason, "the restore is held");
                    return Ended::Held;
                }
                Err(RestoreError::Failed(reason)) => return Ended::Failed(reason),
                Err(error) => {
                    tracing::warn!(%action, %error, "the restore broke off; it goes on where it is durable");
                    if let RestoreError::Waiting(reason) = error {
                        self.tell(action, reason);
                    }
                    if standing.far {
                        backoff.reset();
                    }
                    tokio::time::sleep(backoff.next(random::id())).await;
                }
            }
        }
    }

    /// Says what it waits for; said again at the next attempt if there is no room for it now.
    fn tell(&self, action: ActionId, reason: String) {
        let said = config::ToDispatcher::Action { action, state: ActionState::Running, reason };
        let _ = self.outbound.try_send(said);
    }

    /// One connection.
    async fn attempt(
        &self,
        action: ActionId,
        restoration: &Restoration,
        standing: &mut Standing,
    ) -> Result<(), RestoreError> {
        match &restoration.target {
            Target::Device(target) => self.device(action, restoration, target, standing).await,
            Target::Files(target) => self.files(action, target).await,
        }
    }

    async fn device(
        &self,
        action: ActionId,
        restoration: &Restoration,
        target: &DeviceTarget,
        standing: &mut Standing,
    ) -> Result<(), RestoreError> {
        if standing.held.is_none() {
            standing.held = Some(self.take(restoration, target, standing.touched).await?);
        }
        let mut wire = Wire::dial(self, action).await?;
        let aim = match wire.hear().await? {
            ToAgent::Device { granule_shift, bytes, key, from, full } if bytes == target.bytes => {
                let granule = GranuleSize::from_shift(granule_shift);
                let granule = granule.ok_or(RestoreError::Garbled("no such granule"))?;
                Aim { granule, bytes, key: Key(key), from, full, whole: target.whole }
            }
            _ => return Err(RestoreError::Garbled("no restore onto this device")),
        };
        let held = standing.held.take().ok_or(RestoreError::Stopping)?;
        let mut restore = DeviceRestore::new(&mut wire, held, aim, self);
        let restored = restore.run(&mut standing.far).await;
        standing.touched |= restore.has_touched();
        standing.held = restore.into_held();
        if let Err(RestoreError::Failed(reason)) = &restored {
            // Also told on the config connection, should this one be gone.
            let _ = wire.say(&ToDispatcher::Failed { reason: reason.clone() }).await;
        }
        let written = restored?;
        wire.say(&ToDispatcher::Verified { written }).await?;
        wire.noted().await
    }

    /// Takes the device, if it is the one that was agreed to.
    async fn take(
        &self,
        restoration: &Restoration,
        target: &DeviceTarget,
        touched: bool,
    ) -> Result<Held, RestoreError> {
        let (judge, restoration, target) = (self.judge.clone(), restoration.clone(), target.clone());
        let held = tokio::task::spawn_blocking(move || {
            let cleared = judge.device_again(&restoration, &target, touched)?;
            Held::take(&cleared)
        });
        held.await.map_err(|_| RestoreError::Stopping)?.map_err(|refusal| match refusal {
            Refusal::Passing(reason) if touched => RestoreError::Waiting(reason),
            Refusal::Passing(reason) | Refusal::Lasting(reason) => RestoreError::Failed(reason),
        })
    }

    async fn files(&self, action: ActionId, target: &FilesTarget) -> Result<(), RestoreError> {
        let (judge, wanted) = (self.judge.clone(), target.clone());
        let judged = tokio::task::spawn_blocking(move || judge.place(&wanted));
        let judged = judged.await.map_err(|_| RestoreError::Stopping)?;
        let (place, _) = judged.map_err(RestoreError::Failed)?;
        let mut wire = Wire::dial(self, action).await?;
        let announced = match wire.hear().await? {
            ToAgent::Files { partitions, again } => Announced { partitions, again },
            _ => return Err(RestoreError::Garbled("no restore of files")),
        };
        let restored = files_restore::run(&mut wire, place, target, announced).await;
        if let Err(RestoreError::Failed(reason)) = &restored {
            // Also told on the config connection, should this one be gone.
            let _ = wire.say(&ToDispatcher::Failed { reason: reason.clone() }).await;
        }
        for piece in restored?.pieces() {
            wire.say(&ToDispatcher::Outcome(piece)).await?;
        }
        wire.say(&ToDispatcher::Restored).await?;
        wire.noted().await
    }
}

/// The connection of one restore.
#[derive(Debug)]
pub struct Wire {
    connection: Connection<ToDispatcher, ToAgent>,
    pace: Pace,
    taken: u64,
    told: u64,
}

/// What came in.
#[derive(Debug)]
pub enum Heard {
    Said(ToAgent),
    Data(Data, Bytes),
    End,
}

impl Wire {
    /// Connects, and asks for what the action restores.
    pub async fn dial(means: &Means, action: ActionId) -> Result<Self, RestoreError> {
        let (connection, _) = means.dialer.dial(Channel::Restore).await?;
        let mut wire = Self { connection, pace: means.pace.clone(), taken: 0, told: 0 };
        wire.say(&ToDispatcher::Begin { action }).await?;
        Ok(wire)
    }

    pub async fn say(&mut self, message: &ToDispatcher) -> Result<(), RestoreError> {
        Ok(self.connection.sender.send_control(message).await?)
    }

    /// The end is kept at the dispatcher.
    async fn noted(&mut self) -> Result<(), RestoreError> {
        match self.hear().await? {
            ToAgent::Noted => Ok(()),
            _ => Err(RestoreError::Garbled("something else than that the end is noted")),
        }
    }

    /// The next word. Cancel-safe.
    pub async fn hear(&mut self) -> Result<ToAgent, RestoreError> {
        match self.receive().await? {
            Heard::Said(said) => Ok(said),
            _ => Err(RestoreError::Garbled("data that nobody asked for")),
        }
    }

    /// The next word or piece of data. That it is held or refused is an error. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Heard, RestoreError> {
        match self.connection.receiver.recv().await? {
            Incoming::Control(ToAgent::Hold { reason }) => Err(RestoreError::Held(reason)),
            Incoming::Control(ToAgent::Refuse { reason }) => Err(RestoreError::Failed(reason)),
            Incoming::Control(said) => Ok(Heard::Said(said)),
            Incoming::Data { data, payload } => Ok(Heard::Data(data, payload)),
            Incoming::End { .. } => Ok(Heard::End),
            Incoming::Closed { reason } => Err(RestoreError::Closed(reason)),
        }
    }

    /// Says that a piece of data was taken, as fast as the bandwidth limit allows.
    pub async fn took(&mut self, payload: usize) -> Result<(), RestoreError> {
        self.has_taken(self.taken + (HEADER_BYTES + payload) as u64).await
    }

    /// The same of all frames together, with their headers.
    pub async fn has_taken(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.pace.wait(bytes.saturating_sub(self.taken)).await;
        self.taken = self.taken.max(bytes);
        if self.taken - self.told >= CREDIT_STEP {
            self.told = self.taken;
            self.say(&ToDispatcher::Received { bytes: self.taken }).await?;
        }
        Ok(())
    }
}
