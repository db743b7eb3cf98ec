//! A comparison of a disk with its newest point, by digests, over `/ws/snapshot`. What it is for is the business of
//! `rescan` and `verify_source`.
//!
//! ```text
//! digester ── pieces ──> blocks ──> dispatcher
//!                          │            │ Differs, Judged
//!                          └ unjudged ──┴──> Compared
//! ```

use super::conversation::{Conversation, Verdict};
use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::unit::Unit;
use crate::io::digester::Digester;
use crate::model::comparison::{Compared, Grid, Key};
use crate::model::ids::PointId;
use crate::wire::hello::Channel;
use crate::wire::snapshot::{MAX_FOUND, Purpose, ToAgent, ToDispatcher};
use std::sync::Arc;

/// Why a comparison ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Nobody wants it now; it begins again when a person says so.
    #[error("{0}")]
    Held(String),
    #[error("the dispatcher refused the comparison: {0}")]
    Refused(String),
    #[error("what changed on the disk is not known: {0}")]
    Unknown(String),
    #[error("cannot start the reading threads: {0}")]
    Threads(#[from] std::io::Error),
    #[error("the reading threads ended at block {0}: see the agent's log")]
    Short(u32),
    #[error("the dispatcher's answers do not add up: {0}")]
    Garbled(&'static str),
    #[error("{0}")]
    Record(String),
}

type CompareLink = Link<ToDispatcher, ToAgent>;

/// A comparison that the dispatcher has agreed to.
pub struct Comparison {
    link: CompareLink,
    pub point: PointId,
    pub grid: Grid,
    key: Key,
}

impl Comparison {
    /// Asks the dispatcher which point it is.
    pub async fn ask(
        unit: &Unit,
        dialer: &Dialer,
        pace: Pace,
        purpose: Purpose,
    ) -> Result<Self, CompareError> {
        let (connection, _) = dialer.dial(Channel::Snapshot).await.map_err(LinkError::from)?;
        let mut link: CompareLink = Link::new(connection, pace);
        let (disk, device) = (unit.identity.clone(), unit.device());
        let (bytes, granule_shift) = (unit.bytes(), unit.granule().shift());
        link.say(&ToDispatcher::Compare { purpose, disk, device, bytes, granule_shift }).await?;
        match link.hear().await? {
            ToAgent::Against { point, bytes: then, key } => {
                let grid = Grid::new(unit.granule(), bytes, then);
                Ok(Self { link, point, grid, key: Key(key) })
            }
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            ToAgent::Refuse { reason } => Err(CompareError::Refused(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }

    /// Compares everything that `compared` has not judged yet. What it has when this ends early counts as well.
    pub async fn run(
        &mut self,
        unit: &Arc<Unit>,
        pace: &Pace,
        readers: usize,
        compared: &mut Compared,
    ) -> Result<(), CompareError> {
        let mut digester = Digester::start(&unit.source, self.grid, self.key, compared.next, readers)?;
        let mut conversation = Conversation::new(compared.next);
        let mut all_read = false;
        loop {
            if all_read && conversation.is_idle() {
                break;
            }
            tokio::select! {
                biased;
                said = self.link.hear() => {
                    let verdict = verdict(said?)?;
                    conversation.hear(verdict, &self.grid, compared).map_err(CompareError::Garbled)?;
                }
                piece = digester.next(), if !all_read && conversation.has_room() => match piece {
                    Some(piece) => {
                        let bytes = self.grid.bytes_of(piece.blocks.clone());
                        conversation.add(&piece, &self.grid, &self.key);
                        // As for an image: what is read counts.
                        pace.wait(bytes.end - bytes.start).await;
                    }
                    None => all_read = true,
                },
            }
            while let Some((first, digests)) = conversation.next_message(all_read) {
                self.link.say(&ToDispatcher::Blocks { first, digests }).await?;
            }
        }
        if compared.next != self.grid.blocks() {
            return Err(CompareError::Short(compared.next));
        }
        self.settle(conversation).await
    }

    /// Both sides say what they heard of the other.
    async fn settle(&mut self, conversation: Conversation) -> Result<(), CompareError> {
        let (count, digest) = conversation.asked();
        self.link.say(&ToDispatcher::Compared { count, digest }).await?;
        match self.link.hear().await? {
            ToAgent::Settled { count, digest } => {
                let fits = (count, digest) == conversation.heard();
                if fits { Ok(()) } else { Err(CompareError::Garbled("their digest is another")) }
            }
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }

    /// Says what came of it, and waits until the dispatcher has noted that.
    pub async fn found(
        mut self,
        granules: u64,
        ranges: impl Iterator<Item = (u32, u32)>,
    ) -> Result<(), CompareError> {
        let ranges = ranges.take(MAX_FOUND).collect();
        self.link.say(&ToDispatcher::Found { granules, ranges }).await?;
        match self.link.hear().await? {
            ToAgent::Noted => Ok(()),
            ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
            other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
        }
    }
}

fn verdict(said: ToAgent) -> Result<Verdict, CompareError> {
    match said {
        ToAgent::Differs { block, granules } => Ok(Verdict::Differs { block, granules }),
        ToAgent::Judged { through } => Ok(Verdict::Judged { through }),
        ToAgent::Hold { reason } => Err(CompareError::Held(reason)),
        ToAgent::Refuse { reason } => Err(CompareError::Refused(reason)),
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}
