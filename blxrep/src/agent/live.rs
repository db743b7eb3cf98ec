//! One cut, over the links of its disks: points are opened, sealed and acknowledged together.

use super::conduct::{self, Terms};
use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::round::{CutError, Member, on_thread};
use super::unit::Unit;
use crate::io::random;
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
}

impl From<LinkError> for LiveError {
    fn from(error: LinkError) -> Self {
        Self::Cut(error.into())
    }
}

/// Opens a point on every disk, runs the rounds, seals, and waits until all are published together.
pub async fn perform(
    disks: Vec<(Arc<Unit>, Option<LiveMember>)>,
    dialer: Dialer,
    pace: Pace,
    terms: Terms,
) -> Result<Done, LiveError> {
    let mut members = Vec::with_capacity(disks.len());
    let mut points = Vec::with_capacity(disks.len());
    // Nobody else holds one lease and waits for another.
    let mut leases = Vec::with_capacity(disks.len());
    for (unit, _) in &disks {
        leases.push(unit.lease().await);
    }
    for ((unit, member), lease) in disks.into_iter().zip(leases) {
        let mut member = match member {
            Some(member) => member,
            None => join(&unit, &dialer, pace.clone()).await?,
        };
        member.lease = Some(lease);
        points.push(open(&mut member, terms.cut).await?);
        members.push(member);
    }
    let summaries = conduct::run(&mut members, terms).await?;
    for (member, summary) in members.iter_mut().zip(&summaries) {
        let granules = member.open.carried().len();
        member.link.say(&ToDispatcher::Seal { summary: summary.clone(), granules }).await?;
        member.link.end().await?;
    }
    let mut outcomes = Vec::with_capacity(members.len());
    for ((member, point), summary) in members.iter_mut().zip(points).zip(&summaries) {
        published(member, point).await?;
        outcomes.push(outcome(member, point, summary));
    }
    Ok((members, outcomes))
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

/// Opens the disk's next point. If the dispatcher cannot go on from what it has, coverage is lost.
async fn open(member: &mut LiveMember, cut: CutId) -> Result<PointId, LiveError> {
    let point = PointId(random::id());
    let disk = member.unit.identity.clone();
    if let Some(reason) = member.unit.lost_coverage() {
        return Err(CutError::Lost { disk, reason }.into());
    }
    let ([acked, open, matched], epoch) = (member.unit.continuity(), member.unit.epoch());
    member.link.say(&ToDispatcher::Begin { point, cut, epoch, acked, open, matched }).await?;
    let record = |reason| LiveError::Record { disk: disk.clone(), reason };
    match member.link.hear().await? {
        ToAgent::Accept { point: accepted, parent } if accepted == point => {
            member.unit.opened(point, Some(parent)).map_err(record)?;
            member.reset(member.unit.gap());
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
