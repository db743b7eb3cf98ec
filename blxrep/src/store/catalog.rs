//! What the catalog keeps, and questions to it.

use super::{Store, StoreError};
use crate::format::trailer::Digest;
use crate::io::db::{Record, Transaction};
use crate::model::action::Action;
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, AgentId, DiskId, DiskIdentity, Epoch, GenerationId, PointId, StoreId};
use crate::model::point::{Disk, Point};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::{Bound, RangeInclusive};

/// Which store the catalog belongs to. One record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Owner {
    pub store: StoreId,
}

/// An agent that has been here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    pub id: AgentId,
    pub footprint: Footprint,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// Whether a generation has its base yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenerationState {
    /// Its image is being made; below `durable` it is on stable storage.
    Open { durable: u64 },
    /// Its sidecar has this root, and `edition` in its name.
    Published { sidecar: Digest, edition: u32 },
}

/// What is under way with the files of a published generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// The delta of `into` goes into the image. The point that was the base is gone; the image may hold its content
    /// or that of `into` wherever the delta covers it. The sidecar that will be has `edition` in its name.
    Fold { into: PointId, edition: u32 },
    /// The delta of `into` is written anew, together with those before it, with `edition` in its name.
    Merge { into: PointId, edition: u32 },
}

/// One base image and the deltas on top of it. There from the image's first byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub id: GenerationId,
    pub disk: DiskId,
    /// The point that its image stands for or will stand for. While a fold is under way, the one it stood for.
    pub base: PointId,
    /// The action that makes or made the base.
    pub action: ActionId,
    pub epoch: Epoch,
    pub bytes: u64,
    pub granule_shift: u32,
    pub state: GenerationState,
    /// How often files of its points were replaced by others. Part of the place of a view.
    pub revision: u32,
    pub work: Option<Work>,
}

/// Position of a point among those of its disk, in the order of publication.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Moment {
    pub disk: DiskId,
    pub number: u64,
    pub point: PointId,
}

/// A file that no point is made of any more. It stays until no view that may use it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Garbage {
    pub disk: DiskId,
    pub generation: GenerationId,
    /// The revision of the generation that does without it: only views that were opened before may use it,
    pub revision: u32,
    /// and of those only views of points from this position on.
    pub sequence: u64,
    pub file: GarbageFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum GarbageFile {
    Image,
    Sidecar { edition: u32 },
    Delta { point: PointId, edition: u32 },
    Changes { point: PointId, edition: u32 },
}

impl Record for Garbage {
    const TABLE: &'static str = "garbage";
    fn key(&self) -> Vec<u8> {
        let (kind, point, edition) = match self.file {
            GarbageFile::Image => (0, PointId(0), 0),
            GarbageFile::Sidecar { edition } => (1, PointId(0), edition),
            GarbageFile::Delta { point, edition } => (2, point, edition),
            GarbageFile::Changes { point, edition } => (3, point, edition),
        };
        let file = [key(kind), key(point.0), key(u64::from(edition))].concat();
        [key(self.disk.0).to_vec(), key(self.generation.0).to_vec(), file].concat()
    }
}

impl Record for Owner {
    const TABLE: &'static str = "owner";
    fn key(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl Record for AgentRow {
    const TABLE: &'static str = "agents";
    fn key(&self) -> Vec<u8> {
        self.id.as_str().as_bytes().to_vec()
    }
}

impl Record for Disk {
    const TABLE: &'static str = "disks";
    fn key(&self) -> Vec<u8> {
        key(self.id.0).to_vec()
    }
}

impl Record for Generation {
    const TABLE: &'static str = "generations";
    fn key(&self) -> Vec<u8> {
        generation_key(self.disk, self.id)
    }
}

impl Record for Point {
    const TABLE: &'static str = "points";
    fn key(&self) -> Vec<u8> {
        key(self.id.0).to_vec()
    }
}

impl Record for Moment {
    const TABLE: &'static str = "moments";
    fn key(&self) -> Vec<u8> {
        [key(self.disk.0), key(self.number)].concat()
    }
}

impl Record for Action {
    const TABLE: &'static str = "actions";
    fn key(&self) -> Vec<u8> {
        key(self.id.0).to_vec()
    }
}

/// Ids sort as they are shown.
pub(super) fn key(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

/// Bounds of the keys that start with a disk's id.
pub(super) fn of_disk(disk: DiskId) -> [Vec<u8>; 2] {
    [[key(disk.0), [0; 8]].concat(), [key(disk.0), [0xff; 8]].concat()]
}

pub(super) fn within(bounds: &[Vec<u8>; 2]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(&bounds[0]), Bound::Included(&bounds[1]))
}

/// The ids that are shown with these first hex digits.
fn of_prefix(prefix: &str) -> Option<[Vec<u8>; 2]> {
    let width = 16;
    if prefix.is_empty() || prefix.len() > width || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let edge = |fill: &str| {
        let text = format!("{prefix}{}", fill.repeat(width - prefix.len()));
        u64::from_str_radix(&text, 16).ok().map(|id| key(id).to_vec())
    };
    Some([edge("0")?, edge("f")?])
}

/// Which points are asked for.
#[derive(Clone, Debug, Default)]
pub struct PointFilter {
    pub agent: Option<AgentId>,
    pub disk: Option<DiskId>,
    /// At most so many of each disk, the newest.
    pub newest: Option<usize>,
}

impl PointFilter {
    fn takes(&self, disk: &Disk) -> bool {
        self.disk.is_none_or(|wanted| wanted == disk.id)
            && self.agent.as_ref().is_none_or(|wanted| *wanted == disk.agent)
    }
}

impl Store {
    /// Keeps what an agent says of its host.
    pub fn upsert_agent(&self, id: &AgentId, footprint: Footprint, now: Timestamp) -> Result<(), StoreError> {
        self.db().write(|tx| {
            let known: Option<AgentRow> = tx.get(id.as_str().as_bytes())?;
            let first_seen = known.map_or(now, |agent| agent.first_seen);
            tx.put(&AgentRow { id: id.clone(), footprint, first_seen, last_seen: now })?;
            Ok(())
        })
    }

    pub fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        Ok(self.db().all()?)
    }

    pub fn agent(&self, id: &AgentId) -> Result<Option<AgentRow>, StoreError> {
        Ok(self.db().get(id.as_str().as_bytes())?)
    }

    /// The disk of `agent` with this identity, made if it is new, with its device, size and granule as offered.
    pub fn upsert_disk(&self, offer: &DiskOffer<'_>, now: Timestamp) -> Result<Disk, StoreError> {
        offer.check()?;
        // Nearly always nothing is new, and then nothing is written.
        if let Some(known) = self.disks()?.iter().find(|disk| offer.is_of(disk))
            && offer.applied_to(known) == *known
        {
            return Ok(known.clone());
        }
        self.db().write(|tx| {
            let known = tx.all::<Disk>()?.into_iter().find(|disk| offer.is_of(disk));
            let disk = known.unwrap_or_else(|| offer.disk(DiskId(self.random_id()), now));
            let disk = offer.applied_to(&disk);
            tx.put(&disk)?;
            Ok(disk)
        })
    }

    pub fn disks(&self) -> Result<Vec<Disk>, StoreError> {
        Ok(self.db().all()?)
    }

    pub fn disk(&self, id: DiskId) -> Result<Disk, StoreError> {
        let found = self.db().get(&key(id.0))?;
        found.ok_or_else(|| StoreError::NotFound(format!("no disk {id}: `blxrep disks` lists them")))
    }

    pub fn generations(&self, disk: DiskId) -> Result<Vec<Generation>, StoreError> {
        Ok(self.db().range(within(&of_disk(disk)))?)
    }

    pub fn generation(&self, disk: DiskId, id: GenerationId) -> Result<Generation, StoreError> {
        let found = self.db().get(&generation_key(disk, id))?;
        found.ok_or_else(|| StoreError::NotFound(format!("no generation {id} of disk {disk}")))
    }

    /// Points in the order of publication, disk after disk.
    pub fn points(&self, filter: &PointFilter) -> Result<Vec<Point>, StoreError> {
        let disks = self.disks()?.into_iter().filter(|disk| filter.takes(disk));
        let mut points = Vec::new();
        for disk in disks {
            let first = points.len();
            for moment in self.moments(disk.id, filter.newest.unwrap_or(usize::MAX))? {
                // One that is not there was dropped since its moment was read.
                points.extend(self.db().get::<Point>(&key(moment.point.0))?);
            }
            points[first..].reverse();
        }
        Ok(points)
    }

    /// At most so many points of a disk in the order of publication, from this number on.
    pub fn points_from(&self, disk: DiskId, number: u64, most: usize) -> Result<Vec<Point>, StoreError> {
        let bounds = [[key(disk.0), key(number)].concat(), [key(disk.0), [0xff; 8]].concat()];
        let mut points = Vec::new();
        let mut moments = Vec::new();
        self.db().scan::<Moment>(within(&bounds), false, |moment| {
            moments.push(moment);
            moments.len() < most
        })?;
        for moment in moments.iter().take(most) {
            // One that is not there was dropped since its moment was read.
            points.extend(self.db().get::<Point>(&key(moment.point.0))?);
        }
        Ok(points)
    }

    /// The newest moments of a disk, newest first.
    fn moments(&self, disk: DiskId, most: usize) -> Result<Vec<Moment>, StoreError> {
        let mut moments = Vec::new();
        if most > 0 {
            self.db().scan::<Moment>(within(&of_disk(disk)), true, |moment| {
                moments.push(moment);
                moments.len() < most
            })?;
        }
        Ok(moments)
    }

    /// The points of a generation in their order.
    pub(super) fn points_of(&self, disk: DiskId, generation: GenerationId) -> Result<Vec<Point>, StoreError> {
        let filter = PointFilter { disk: Some(disk), ..PointFilter::default() };
        let mut points = self.points(&filter)?;
        points.retain(|point| point.generation == generation);
        points.sort_by_key(|point| point.sequence);
        Ok(points)
    }

    /// How many points there are.
    pub fn count_points(&self, filter: &PointFilter) -> Result<u64, StoreError> {
        let mut count = 0;
        for disk in self.disks()?.into_iter().filter(|disk| filter.takes(disk)) {
            self.db().scan::<Moment>(within(&of_disk(disk.id)), true, |_| {
                count += 1;
                true
            })?;
        }
        Ok(count)
    }

    /// The number that the next point of a disk gets.
    pub(super) fn next_number(&self, disk: DiskId) -> Result<u64, StoreError> {
        let moment = self.db().last::<Moment>(within(&of_disk(disk)))?;
        Ok(moment.map_or(0, |moment| moment.number + 1))
    }

    pub fn newest_point(&self, disk: DiskId) -> Result<Option<Point>, StoreError> {
        let moment = self.db().last::<Moment>(within(&of_disk(disk)))?;
        moment.map(|moment| self.point(moment.point)).transpose()
    }

    pub fn point(&self, id: PointId) -> Result<Point, StoreError> {
        let found = self.db().get(&key(id.0))?;
        found.ok_or_else(|| StoreError::NotFound(format!("no point {id}: `blxrep points` lists them")))
    }

    /// At most so many ids of points in a range, ascending.
    pub fn point_ids(
        &self,
        range: &RangeInclusive<PointId>,
        most: usize,
    ) -> Result<Vec<PointId>, StoreError> {
        let bounds = [key(range.start().0).to_vec(), key(range.end().0).to_vec()];
        let mut ids = Vec::new();
        self.db().scan::<Point>(within(&bounds), false, |point| {
            ids.push(point.id);
            ids.len() < most
        })?;
        ids.truncate(most);
        Ok(ids)
    }

    /// The one point whose id starts with these hex digits.
    pub fn find_point(&self, prefix: &str) -> Result<Point, StoreError> {
        self.find("point", prefix, |point: &Point| point.id.to_string())
    }

    pub fn put_action(&self, action: &Action) -> Result<(), StoreError> {
        self.db().write_in_reserve(|tx| Ok(tx.put(action)?))
    }

    /// Removes actions that nobody will ask for any more.
    pub fn forget_actions(&self, actions: &[ActionId]) -> Result<(), StoreError> {
        self.db().write(|tx| {
            actions
                .iter()
                .try_for_each(|action| tx.remove::<Action>(&key(action.0)))
                .map_err(StoreError::from)
        })
    }

    pub fn actions(&self) -> Result<Vec<Action>, StoreError> {
        Ok(self.db().all()?)
    }

    pub fn action(&self, id: ActionId) -> Result<Action, StoreError> {
        let found = self.db().get(&key(id.0))?;
        found.ok_or_else(|| StoreError::NotFound(format!("no action {id}: `blxrep actions` lists them")))
    }

    /// The one action whose id starts with these hex digits.
    pub fn find_action(&self, prefix: &str) -> Result<Action, StoreError> {
        self.find("action", prefix, |action: &Action| action.id.to_string())
    }

    fn find<R: Record>(
        &self,
        noun: &str,
        prefix: &str,
        show: impl Fn(&R) -> String,
    ) -> Result<R, StoreError> {
        let Some(bounds) = of_prefix(prefix) else {
            return Err(StoreError::NotFound(format!(
                "`{prefix}` is not the id of a {noun}: give some of its first hex digits"
            )));
        };
        let mut found: Vec<R> = Vec::new();
        self.db().scan(within(&bounds), false, |record| {
            found.push(record);
            found.len() < 2
        })?;
        match (found.pop(), found.pop()) {
            (None, _) => Err(StoreError::NotFound(format!(
                "no {noun} has an id that starts with `{prefix}`: `blxrep {noun}s` lists them"
            ))),
            (Some(one), None) => Ok(one),
            (Some(b), Some(a)) => Err(StoreError::NotFound(format!(
                "`{prefix}` is the start of several ids, {} and {} among them: give more digits",
                show(&a),
                show(&b)
            ))),
        }
    }
}

/// A disk as an agent offers it.
#[derive(Clone, Copy, Debug)]
pub struct DiskOffer<'a> {
    pub agent: &'a AgentId,
    pub identity: &'a DiskIdentity,
    pub device: &'a str,
    pub bytes: u64,
    pub granule_shift: u32,
}

impl DiskOffer<'_> {
    fn is_of(&self, disk: &Disk) -> bool {
        disk.agent == *self.agent && disk.identity == *self.identity
    }

    fn disk(&self, id: DiskId, now: Timestamp) -> Disk {
        Disk {
            id,
            agent: self.agent.clone(),
            identity: self.identity.clone(),
            device: self.device.to_owned(),
            bytes: self.bytes,
            granule_shift: self.granule_shift,
            first_seen: now,
        }
    }

    fn applied_to(&self, known: &Disk) -> Disk {
        self.disk(known.id, known.first_seen)
    }

    fn check(&self) -> Result<(), StoreError> {
        use crate::format::header::MAX_IDENTITY_BYTES;
        use crate::model::units::{GranuleSize, SECTOR_BYTES};
        let refuse = |why: String| {
            let (device, agent) = (self.device, self.agent);
            Err(StoreError::Refused(format!("disk {device} of agent {agent} cannot be kept: {why}")))
        };
        let (DiskIdentity::Wwn(text)
        | DiskIdentity::Serial(text)
        | DiskIdentity::Gpt(text)
        | DiskIdentity::Mbr(text)
        | DiskIdentity::Named(text)) = self.identity;
        if text.is_empty() || text.len() > usize::from(MAX_IDENTITY_BYTES) {
            return refuse(format!("its identity has {} bytes, 1 to {MAX_IDENTITY_BYTES} fit", text.len()));
        }
        let Some(granule) = GranuleSize::from_shift(self.granule_shift) else {
            return refuse(format!("a granule of 2^{} bytes is out of range", self.granule_shift));
        };
        if self.bytes == 0 || !self.bytes.is_multiple_of(SECTOR_BYTES) {
            return refuse(format!("{} bytes are no whole number of sectors", self.bytes));
        }
        if u32::try_from(granule.count(self.bytes)).is_err() {
            return refuse(format!("{} bytes need a coarser granule than 2^{}", self.bytes, granule.shift()));
        }
        Ok(())
    }
}

/// Key of a generation's row.
pub(super) fn generation_key(disk: DiskId, id: GenerationId) -> Vec<u8> {
    [key(disk.0), key(id.0)].concat()
}

/// The number that the next point of a disk gets, and its newest point, within a transaction.
pub(super) fn newest_in(tx: &Transaction<'_>, disk: DiskId) -> Result<(u64, Option<PointId>), StoreError> {
    let last = tx.last::<Moment>(within(&of_disk(disk)))?;
    Ok(last.map_or((0, None), |moment| (moment.number + 1, Some(moment.point))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_spans_the_ids_that_start_with_it() {
        let [from, to] = of_prefix("00ab").unwrap();
        assert_eq!(from, 0x00ab_0000_0000_0000u64.to_be_bytes());
        assert_eq!(to, 0x00ab_ffff_ffff_ffffu64.to_be_bytes());
        let [from, to] = of_prefix("00abcdef01234567").unwrap();
        assert_eq!(from, to);
        for bad in ["", "x", "+1", "00abcdef012345678"] {
            assert!(of_prefix(bad).is_none(), "{bad}");
        }
    }
}
