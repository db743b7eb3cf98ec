//! One cut, over the links of its disks: points are opened, sealed and acknowledged together.
//!
//! Where a link breaks before the points are sealed, each open point is kept as a [`Draft`]: the next cut goes on with
//! it, as if it were one more round. What was sent and has arrived is read again only if it was written since; why that
//! is right is in decision 20.

use super::conduct::{self, Terms};
use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::round::{CutError, Member, on_thread};
use super::sent::Sent;
use super::unit::Unit;
use crate::engine::cut::OpenPoint;
use crate::io::random;
use crate::model::holes::Holes;
use crate::model::ids::{CutId, DiskIdentity, PointId};
use crate::model::point::CutSummary;
use crate::wire::config::{SyncOutcome, SyncedPoint};
use crate::wire::hello::Channel;
use crate::wire::live::{ToAgent, ToDispatcher};
use std::sync::Arc;

/// A disk with its link to `/ws/live`.
pub type LiveMember = Member<ToDispatcher, ToAgent>;

/// What is left of a cut that was published: the links, and what became of each disk.
pub type Done = (Vec<LiveMember>, Vec<SyncOutcome>);

/// Why a cut was not published.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("{disk}: the dispatcher refused the point: {reason}")]
    Refused { disk: DiskIdentity, reason: String },
    #[error("{disk}: cannot keep the tracking record: {reason}")]
    Record { disk: DiskIdentity, reason: String },
    #[error("{disk}: what the dispatcher has of point {point} is not what was sent: the point is begun anew")]
    Differs { disk: DiskIdentity, point: PointId },
}

/// A cut that was not published, and the points that can go on in the next one.
#[derive(Debug)]
pub struct Broken {
    pub error: LiveError,
    pub drafts: Vec<Draft>,
}

/// An open point whose link broke.
#[derive(Debug)]
pub struct Draft {
    pub unit: Arc<Unit>,
    point: PointId,
    open: OpenPoint,
    holes: Holes,
    sent: Sent,
    /// The disk's sweeps by then: one that the point does not know of may have taken what its next round goes by.
    sweeps: u64,
}

impl Draft {
    async fn of(mut member: LiveMember, point: PointId) -> Option<Self> {
        // Without it the point is begun anew.
        member.break_off().await.ok()?;
        let LiveMember { unit, open, holes, sent, .. } = member;
        let sweeps = unit.sweeps();
        Some(Self { unit, point, open, holes, sent, sweeps })
    }

    fn is_usable(&self) -> bool {
        self.sweeps == self.unit.sweeps()
    }
}

impl From<LinkError> for LiveError {
    fn from(error: LinkError) -> Self {
        Self::Cut(error.into())
    }
}

/// Opens a point on every disk, or goes on with its draft, runs the rounds, seals, and waits until all are published
/// together.
pub async fn perform(
    disks: Vec<(Arc<Unit>, Option<LiveMember>)>,
    drafts: Vec<Draft>,
    dialer: Dialer,
    pace: Pace,
    terms: Terms,
) -> Result<Done, Broken> {
    let mut cut =
        Cut { drafts, members: Vec::with_capacity(disks.len()), points: Vec::new(), is_sealed: false };
    match cut.run(disks, &dialer, &pace, terms).await {
        Ok(outcomes) => Ok((cut.members, outcomes)),
        Err(error) => Err(Broken { drafts: cut.into_drafts(&error).await, error }),
    }
}

/// A cut under way.
struct Cut {
    /// Of disks whose points are not opened again yet.
    drafts: Vec<Draft>,
    members: Vec<LiveMember>,
    points: Vec<PointId>,
    is_sealed: bool,
}

impl Cut {
    async fn run(
        &mut self,
        disks: Vec<(Arc<Unit>, Option<LiveMember>)>,
        dialer: &Dialer,
        pace: &Pace,
        terms: Terms,
    ) -> Result<Vec<SyncOutcome>, LiveError> {
        // Nobody else holds one lease and waits for another.
        let mut leases = Vec::with_capacity(disks.len());
        for (unit, _) in &disks {
            leases.push(unit.lease().await);
        }
        for ((unit, member), lease) in disks.into_iter().zip(leases) {
            let mut member = match member {
                Some(member) => member,
                None => join(&unit, dialer, pace.clone()).await?,
            };
            member.lease = Some(lease);
            let point = open(&mut member, &mut self.drafts, terms.cut).await?;
            self.points.push(point);
            self.members.push(member);
        }
        let summaries = conduct::run(&mut self.members, terms).await?;
        self.is_sealed = true;
        for ((member, summary), point) in self.members.iter_mut().zip(&summaries).zip(&self.points) {
            let granules = member.open.carried().len();
            let record = |reason| LiveError::Record { disk: member.unit.identity.clone(), reason };
            member.unit.sealed(*point).map_err(record)?;
            member.link.say(&ToDispatcher::Seal { summary: summary.clone(), granules }).await?;
            member.link.end().await?;
        }
        let mut outcomes = Vec::with_capacity(self.members.len());
        for ((member, point), summary) in self.members.iter_mut().zip(&self.points).zip(&summaries) {
            published(member, *point).await?;
            outcomes.push(outcome(member, *point, summary));
        }
        Ok(outcomes)
    }

    /// What can go on. What was sealed may have been published; and where it was no link that broke, a new cut is what
    /// helps.
    async fn into_drafts(self, error: &LiveError) -> Vec<Draft> {
        if self.is_sealed || !matches!(error, LiveError::Cut(CutError::Link(_))) {
            return Vec::new();
        }
        let mut drafts = self.drafts;
        for (member, point) in self.members.into_iter().zip(self.points) {
            drafts.extend(Draft::of(member, point).await);
        }
        drafts
    }
}

/// Makes the link of a disk.
pub async fn join(unit: &Arc<Unit>, dialer: &Dialer, pace: Pace) -> Result<LiveMember, LiveError> {
    let (connection, _) = dialer.dial(Channel::Live).await.map_err(LinkError::from)?;
    let mut link = Link::new(connection, pace);
    let (disk, device) = (unit.identity.clone(), unit.device());
    let (bytes, granule_shift) = (unit.bytes(), unit.granule().shift());
    link.say(&ToDispatcher::Disk { disk, device, bytes, granule_shift }).await?;
    Ok(Member::new(Arc::clone(unit), link))
}

/// Opens the disk's next point, or goes on with its draft if the dispatcher still has it. If the dispatcher cannot go on
/// from what it has, coverage is lost.
async fn open(member: &mut LiveMember, drafts: &mut Vec<Draft>, cut: CutId) -> Result<PointId, LiveError> {
    drafts.retain(Draft::is_usable);
    let of_disk = |draft: &Draft| Arc::ptr_eq(&draft.unit, &member.unit);
    let draft = drafts.iter().position(of_disk);
    let point = draft.map_or_else(|| PointId(random::id()), |at| drafts[at].point);
    let disk = member.unit.identity.clone();
    if let Some(reason) = member.unit.lost_coverage() {
        return Err(CutError::Lost { disk, reason }.into());
    }
    let ([acked, open, matched], epoch) = (member.unit.continuity(), member.unit.epoch());
    member.link.say(&ToDispatcher::Begin { point, cut, epoch, acked, open, matched }).await?;
    let record = |reason| LiveError::Record { disk: disk.clone(), reason };
    match member.link.hear().await? {
        ToAgent::Accept { point: accepted, parent } if accepted == point => {
            draft.map(|at| drafts.remove(at));
            member.unit.opened(parent).map_err(record)?;
            member.reset(member.unit.gap());
            Ok(point)
        }
        ToAgent::Kept { point: kept, parent, chain } if kept == point => {
            let Some(mut draft) = draft.map(|at| drafts.remove(at)) else {
                return Err(LiveError::Differs { disk, point });
            };
            let lost = draft.sent.resume(&chain).ok_or(LiveError::Differs { disk: disk.clone(), point })?;
            member.unit.opened(parent).map_err(record)?;
            member.reset(member.unit.gap());
            draft.open.lose(&lost);
            (member.open, member.holes, member.sent) = (draft.open, draft.holes, draft.sent);
            tracing::info!(%disk, %point, frames = chain.frames, "the point goes on where its connection broke");
            Ok(point)
        }
        ToAgent::Discontinuous { reason } => {
            member.unit.lose_coverage(&reason).map_err(record)?;
            Err(CutError::Lost { disk, reason }.into())
        }
        ToAgent::Refuse { reason } => Err(LiveError::Refused { disk, reason }),
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}

async fn published(member: &mut LiveMember, point: PointId) -> Result<(), LiveError> {
    let disk = member.unit.identity.clone();
    match member.link.hear().await? {
        ToAgent::Published { point: done } if done == point => {
            let (unit, read) = (Arc::clone(&member.unit), member.read_well());
            let holes = unit.granules_of(&member.holes);
            let kept = on_thread(member.lease.take(), move || unit.published(point, &read, holes)).await?;
            kept.map_err(|reason| LiveError::Record { disk, reason })
        }
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}

fn outcome(member: &LiveMember, point: PointId, summary: &CutSummary) -> SyncOutcome {
    let synced = SyncedPoint {
        point,
        consistency: summary.consistency,
        bytes: member.open.carried().len() * member.unit.granule().bytes(),
        rounds: u32::try_from(summary.rounds.len()).unwrap_or(u32::MAX),
    };
    SyncOutcome { identity: member.unit.identity.clone(), result: Ok(synced) }
}
