//! One disk's connection to `/ws/live`: change reports, and one recovery point after the other.
//!
//! ```text
//!        Begin, continuous           End              all disks of the cut ready
//! idle --------------------> open ---------> sealed -----------------------------> idle
//!   ^                          |
//!   +--------------------------+  Abort or a failed write: the delta is dropped, the cut dissolved
//! ```
//!
//! A lost connection dissolves the cut, too, but an open delta is kept as a draft: the next connection may go on with it.

use super::Shared;
use super::drafts::Draft;
use super::hub::Note;
use super::intake::{Credit, Intake, Pieces};
use super::locks::DiskGuard;
use crate::io::channel::{ChannelError, Connection, Incoming, Sender};
use crate::model::ids::{AgentId, CutId, DiskId, PointId};
use crate::model::point::{CutSummary, Disk};
use crate::store::catalog::DiskOffer;
use crate::store::continuity::{Continuity, Known};
use crate::store::delta::DeltaSpec;
use crate::wire::chain::Chain;
use crate::wire::live::{ToAgent, ToDispatcher};
use jiff::Timestamp;

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the agent sent {0} out of turn")]
    Unexpected(&'static str),
    #[error("{0}")]
    Refused(String),
}

type Live = Connection<ToAgent, ToDispatcher>;

/// A point that is being received.
struct Open {
    disk: DiskId,
    point: PointId,
    cut: CutId,
    intake: Intake<Draft>,
    sealed: Option<(CutSummary, u64)>,
    _guard: DiskGuard,
}

/// Serves the connection until it ends.
pub async fn serve(mut connection: Live, agent: AgentId, shared: Shared) {
    let mut link = LiveLink { agent: agent.clone(), shared, open: None, credit: Credit::default() };
    let ended = link.run(&mut connection).await;
    let reason = match &ended {
        Ok(()) => "the agent closed the connection".to_owned(),
        Err(error) => error.to_string(),
    };
    if let Some(open) = link.open.take() {
        link.shared.publisher.abort(agent.clone(), open.cut, reason.clone()).await;
        // Everything that came in is in it. A delta that could not be written leaves nothing behind.
        if let Ok(draft) = open.intake.finish().await {
            let drafts = link.shared.drafts.clone();
            let keep = move |_: &crate::store::Store| -> Result<(), String> {
                if draft.writer.is_worth_keeping() {
                    drafts.keep(open.disk, draft);
                }
                Ok(())
            };
            // A dispatcher that is stopping keeps nothing.
            let _ = link.shared.blocking(keep).await;
        }
    }
    if ended.is_err() {
        tracing::warn!(%agent, %reason, "live connection ended");
    }
    connection.close(&reason).await;
}

struct LiveLink {
    agent: AgentId,
    shared: Shared,
    open: Option<Open>,
    credit: Credit,
}

impl LiveLink {
    async fn run(&mut self, connection: &mut Live) -> Result<(), LiveError> {
        let disk = self.first(connection).await?;
        loop {
            match connection.receiver.recv().await? {
                Incoming::Control(ToDispatcher::Report { backlog, dirty: _ }) => {
                    self.shared.note(Note::Backlog { disk: disk.id, backlog }).await;
                }
                Incoming::Control(ToDispatcher::Begin { point, cut, epoch, acked, open, matched }) => {
                    let asked = Asked { point, cut, known: Known { epoch, acked, open, matched } };
                    let answer = self.begin(&disk, asked).await?;
                    connection.sender.send_control(&answer).await?;
                }
                Incoming::Data { data, payload } => {
                    let open = self.open.as_ref().ok_or(LiveError::Unexpected("data"))?;
                    self.credit.add(payload.len());
                    if open.intake.push(data, payload).await.is_err() {
                        return self.writer_failed(&mut connection.sender).await;
                    }
                    if let Some(bytes) = self.credit.due() {
                        connection.sender.send_control(&ToAgent::Received { bytes }).await?;
                    }
                }
                Incoming::Control(ToDispatcher::Seal { summary, granules }) => {
                    let open = self.open.as_mut().ok_or(LiveError::Unexpected("a seal"))?;
                    open.sealed = Some((summary, granules));
                }
                Incoming::End { .. } => {
                    let open = self.open.take().ok_or(LiveError::Unexpected("an end"))?;
                    let answer = self.finish(&disk, open, connection).await?;
                    connection.sender.send_control(&answer).await?;
                }
                Incoming::Control(ToDispatcher::Abort { reason }) => {
                    if let Some(open) = self.open.take() {
                        self.shared.publisher.abort(self.agent.clone(), open.cut, reason).await;
                        let _ = open.intake.finish().await;
                    }
                }
                Incoming::Control(ToDispatcher::Disk { .. }) => {
                    return Err(LiveError::Unexpected("a second disk"));
                }
                Incoming::Closed { .. } => return Ok(()),
            }
        }
    }

    /// The first message says which disk this is.
    async fn first(&self, connection: &mut Live) -> Result<Disk, LiveError> {
        let Incoming::Control(ToDispatcher::Disk { disk, bytes, granule_shift, device }) =
            connection.receiver.recv().await?
        else {
            return Err(LiveError::Unexpected("something else than its disk"));
        };
        let agent = self.agent.clone();
        let row = self.shared.blocking(move |store| {
            let offer = DiskOffer { agent: &agent, identity: &disk, device: &device, bytes, granule_shift };
            store.upsert_disk(&offer, Timestamp::now())
        });
        row.await.map_err(LiveError::Refused)
    }

    async fn begin(&mut self, disk: &Disk, asked: Asked) -> Result<ToAgent, LiveError> {
        if self.open.is_some() {
            return Err(LiveError::Unexpected("a second point before the first was ended"));
        }
        // Sent in vain otherwise. The agent asks again by itself.
        if let Some(reason) = self.shared.store.trouble() {
            return Ok(ToAgent::Refuse { reason });
        }
        // The point of an earlier connection may be about to be published: what it becomes decides about this one.
        let guard = self.shared.locks.lock(disk.id).await;
        let kept = self.shared.drafts.take(disk.id);
        let (id, known) = (disk.id, asked.known);
        let found = self.shared.blocking(move |store| store.continuity(id, &known)).await;
        let parent = match found {
            Ok(Continuity::Continue { parent }) => parent,
            Ok(Continuity::Discontinuous { reason }) => return Ok(ToAgent::Discontinuous { reason }),
            Ok(Continuity::NoPoint) => {
                return Ok(ToAgent::Refuse { reason: "the disk has no point yet".to_owned() });
            }
            Err(reason) => return Ok(ToAgent::Refuse { reason }),
        };
        let Asked { point, cut, .. } = asked;
        let spec = DeltaSpec { point, parent, epoch: known.epoch };
        let (draft, answer) = match kept.filter(|draft| draft.writer.is_of(&spec, disk)) {
            Some(draft) => {
                let chain = draft.chain;
                (draft, ToAgent::Kept { point, parent, chain })
            }
            None => match self.shared.blocking(move |store| store.begin_delta(id, spec)).await {
                Ok(writer) => (Draft { writer, chain: Chain::default() }, ToAgent::Accept { point, parent }),
                Err(reason) => return Ok(ToAgent::Refuse { reason }),
            },
        };
        let intake = Intake::start(move |pieces| write(draft, pieces));
        self.open = Some(Open { disk: id, point, cut, intake, sealed: None, _guard: guard });
        Ok(answer)
    }

    /// Completes the point and waits for the other disks of its cut.
    async fn finish(&self, disk: &Disk, open: Open, connection: &mut Live) -> Result<ToAgent, LiveError> {
        let (summary, granules) = open.sealed.ok_or(LiveError::Unexpected("an end without a seal"))?;
        let group = summary.group.clone();
        let (agent, cut, identity) = (self.agent.clone(), open.cut, disk.identity.clone());
        let written = open.intake.finish().await;
        let ready = match written {
            Ok(draft) => self.shared.blocking(move |_| draft.writer.finish(summary, granules)).await,
            Err(reason) => Err(reason),
        };
        let publisher = &self.shared.publisher;
        let (outcome, broken) = match ready {
            Ok(ready) => {
                let published = publisher.publish(agent.clone(), cut, group, identity, ready);
                tokio::pin!(published);
                tokio::select! {
                    outcome = &mut published => (outcome, None),
                    // Nothing is to be said before the answer: an agent that is gone leaves no cut waiting for it.
                    said = connection.receiver.recv() => {
                        publisher.abort(agent, cut, "its agent is gone".to_owned()).await;
                        // It may have been published at the last moment.
                        (published.await, Some(said))
                    }
                }
            }
            Err(reason) => {
                publisher.abort(agent, cut, reason.clone()).await;
                (Err(reason), None)
            }
        };
        let answer = match outcome {
            Ok(point) => {
                self.shared.note(Note::Published { point: Box::new(point) }).await;
                ToAgent::Published { point: open.point }
            }
            Err(reason) => ToAgent::Failed { reason },
        };
        match broken {
            None => Ok(answer),
            Some(Ok(Incoming::Closed { .. })) => {
                Err(LiveError::Refused("closed while a cut was waiting".into()))
            }
            Some(Ok(_)) => Err(LiveError::Unexpected("a message before the answer")),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// The writer gave up in mid-transfer: the agent is told why, and the connection ends.
    async fn writer_failed(&mut self, sender: &mut Sender<ToAgent>) -> Result<(), LiveError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let reason = match open.intake.finish().await {
            Ok(_) => "the writing thread ended early".to_owned(),
            Err(reason) => reason,
        };
        self.shared.publisher.abort(self.agent.clone(), open.cut, reason.clone()).await;
        sender.send_control(&ToAgent::Failed { reason: reason.clone() }).await?;
        Err(LiveError::Refused(reason))
    }
}

/// What a `Begin` asks for.
struct Asked {
    point: PointId,
    cut: CutId,
    known: Known,
}

fn write(mut draft: Draft, mut pieces: Pieces) -> Result<Draft, String> {
    while let Some(piece) = pieces.next() {
        let range = piece.data.offset..piece.data.offset + u64::from(piece.data.raw_length);
        let crc = crc32c::crc32c(&piece.payload);
        draft.writer.append(range, piece.data.encoding, &piece.payload, crc).map_err(|e| e.to_string())?;
        draft.chain.add(&piece.data.header(u32::try_from(piece.payload.len()).unwrap_or(u32::MAX), crc));
    }
    Ok(draft)
}
