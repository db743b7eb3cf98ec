//! The full image of one disk: a stream of everything, then rounds over what changed meanwhile, until a cut passes
//! and the base is published. An attempt that breaks off goes on at the last durable offset.

use super::conduct::{self, Terms};
use super::dialer::Dialer;
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::round::{CutError, Member, on_thread};
use super::unit::{Lease, Unit};
use crate::engine::cut;
use crate::io::reader::IMAGE_PIECE;
use crate::model::granules::GranuleSet;
use crate::model::ids::{ActionId, PointId};
use crate::model::tracking::Imaged;
use crate::wire::hello::Channel;
use crate::wire::snapshot::{ToAgent, ToDispatcher};
use std::sync::Arc;
use std::time::Instant;

/// Why an attempt ended without a base.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("the disk cannot be tracked: {0}")]
    Untracked(String),
    #[error("the dispatcher refused the image: {0}")]
    Refused(String),
    #[error("cannot keep the tracking record of the disk: {0}")]
    Record(String),
}

impl From<LinkError> for ImageError {
    fn from(error: LinkError) -> Self {
        Self::Cut(error.into())
    }
}

impl From<crate::io::source::SourceError> for ImageError {
    fn from(error: crate::io::source::SourceError) -> Self {
        Self::Cut(error.into())
    }
}

/// One attempt. Dropping the future ends it; what is durable at the dispatcher stays.
pub async fn attempt(
    unit: Arc<Unit>,
    dialer: &Dialer,
    pace: Pace,
    readers: usize,
    action: ActionId,
    terms: Terms,
) -> Result<PointId, ImageError> {
    let lease = unit.lease().await;
    let (connection, _) = dialer.dial(Channel::Snapshot).await.map_err(LinkError::from)?;
    let mut member: Member<ToDispatcher, ToAgent> =
        Member::new(Arc::clone(&unit), Link::new(connection, pace));
    member.lease = Some(Lease::clone(&lease));
    let (point, offset) = begin(&mut member, action).await?;
    unit.imaging(point).map_err(ImageError::Record)?;
    stream(&mut member, offset, readers).await?;
    unit.sending(u64::MAX).map_err(ImageError::Record)?;
    let summary = conduct::run(std::slice::from_mut(&mut member), terms).await?;
    unit.sealed(point).map_err(ImageError::Record)?;
    for summary in summary {
        member.link.say(&ToDispatcher::Seal(summary)).await?;
    }
    member.link.end().await?;
    published(&mut member, point).await?;
    let (read, holes) = (member.read_well(), unit.granules_of(&member.holes));
    on_thread(lease, move || unit.published(point, &read, holes)).await?.map_err(ImageError::Record)?;
    Ok(point)
}

async fn begin(
    member: &mut Member<ToDispatcher, ToAgent>,
    action: ActionId,
) -> Result<(PointId, u64), ImageError> {
    let unit = &member.unit;
    let imaged = unit.imaged();
    let begin = ToDispatcher::Begin {
        action,
        disk: unit.identity.clone(),
        device: unit.device(),
        bytes: unit.bytes(),
        granule_shift: unit.granule().shift(),
        epoch: unit.epoch(),
        imaged,
    };
    member.link.say(&begin).await?;
    match member.link.hear().await? {
        ToAgent::Start { point, offset } => {
            let known = Imaged::sent_of(imaged, point);
            if offset > known {
                let has = format!("it has {offset} bytes of an image of which {known} were sent");
                return Err(LinkError::Unexpected(has).into());
            }
            // From the start of a granule: what is dirty below is read again as a whole.
            let granule = member.unit.granule().bytes();
            Ok((point, offset.min(member.unit.bytes()) / granule * granule))
        }
        ToAgent::Refuse { reason } => Err(ImageError::Refused(reason)),
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}

/// Sends everything from `offset` on. What was marked so far above the offset is forgotten first: it is read after
/// this, so the stream carries it. Below the offset it stays dirty for the rounds.
async fn stream(
    member: &mut Member<ToDispatcher, ToAgent>,
    offset: u64,
    readers: usize,
) -> Result<(), ImageError> {
    let unit = Arc::clone(&member.unit);
    let above = Arc::clone(&unit);
    on_thread(member.lease.clone(), move || forget_above(&above, offset)).await?;
    let end = unit.bytes();
    let step = u64::from(IMAGE_PIECE);
    let pieces = (offset..end).step_by(IMAGE_PIECE as usize).map(move |start| start..(start + step).min(end));
    let mut reader = member.read(pieces, readers, 0)?;
    loop {
        let since = Instant::now();
        let Some(frames) = reader.next().await else { return Ok(()) };
        let frames = frames?;
        // Noted before they are sent: an attempt that goes on behind them must not forget them.
        member.find_holes()?;
        let end = frames.last().map_or(offset, |frame| frame.range.end);
        unit.sending(end).map_err(ImageError::Record)?;
        member.send(frames, since).await?;
    }
}

fn forget_above(unit: &Unit, offset: u64) {
    Unit::sweep(&[unit]);
    let granules = unit.granules();
    let first = u32::try_from(offset.div_ceil(unit.granule().bytes())).unwrap_or(granules);
    let mut above = GranuleSet::new();
    above.insert_range(first.min(granules)..granules);
    cut::acknowledge(unit, &above);
}

async fn published(member: &mut Member<ToDispatcher, ToAgent>, point: PointId) -> Result<(), ImageError> {
    match member.link.hear().await? {
        ToAgent::Published { point: done } if done == point => Ok(()),
        other => Err(LinkError::Unexpected(format!("{other:?}")).into()),
    }
}
