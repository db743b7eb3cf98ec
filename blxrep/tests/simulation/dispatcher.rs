//! The dispatcher: a catalog that survives, and connections that do not.

use crate::Mutation;
use crate::host::{Content, Disk, GRANULES};
use crate::network::{Down, LinkId, Network, Up};
use blxrep::engine::duty::{Duty, Facts, duty};
use blxrep::engine::gather::Gather;
use blxrep::model::granules::GranuleSet;
use blxrep::model::holes::Holes;
use blxrep::model::ids::{CutId, DiskId, DiskIdentity, Epoch, GenerationId, PointId};
use blxrep::model::point::{Consistency, Coverage, CutSummary, Point, PointDigests, PointKind};
use blxrep::store::continuity::{Continuity, Known, judge};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// A point in the catalog, with what its disk held.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: PointId,
    pub epoch: Epoch,
    pub cut: CutId,
    pub members: usize,
    pub content: Content,
}

/// The catalog: of each disk, its points, oldest first.
pub type Catalog = Vec<Vec<Row>>;

/// A point that is being received.
#[derive(Debug)]
struct Open {
    disk: usize,
    point: PointId,
    parent: Option<PointId>,
    epoch: Epoch,
    cut: CutId,
    /// In the order of arrival.
    data: Vec<(u32, u64)>,
}

/// A point that waits for the others of its cut.
#[derive(Debug)]
struct Ready {
    link: LinkId,
    open: Open,
    quiet: bool,
    members: usize,
}

/// A cut that was published: its id, its points' places in the catalog, and whether it is proven.
#[derive(Debug)]
pub struct Published {
    pub cut: CutId,
    pub points: Vec<(usize, usize)>,
    pub quiet: bool,
}

#[derive(Debug)]
pub struct Dispatcher {
    pub catalog: Catalog,
    /// What came before, to be put back.
    pub older: Vec<Catalog>,
    open: BTreeMap<LinkId, Open>,
    /// Points whose connection broke, by disk.
    drafts: Vec<Option<Open>>,
    /// Cuts of connections whose point waits.
    sealed: BTreeMap<LinkId, CutId>,
    gather: Gather<u8, Ready>,
    /// One writer per disk.
    locks: Vec<Option<LinkId>>,
    mutation: Mutation,
}

/// The only agent there is.
const AGENT: u8 = 1;

impl Dispatcher {
    pub fn new(disks: usize, mutation: Mutation) -> Self {
        Self {
            catalog: vec![Vec::new(); disks],
            older: Vec::new(),
            open: BTreeMap::new(),
            drafts: (0..disks).map(|_| None).collect(),
            sealed: BTreeMap::new(),
            gather: Gather::default(),
            locks: vec![None; disks],
            mutation,
        }
    }

    /// What is not in the catalog is gone.
    pub fn crash(&mut self, network: &mut Network) {
        for link in network.of(|link| link.dispatcher_holds) {
            network.close(link, false);
        }
        let disks = self.catalog.len();
        let (catalog, older) = (std::mem::take(&mut self.catalog), std::mem::take(&mut self.older));
        *self = Self { catalog, older, ..Self::new(disks, self.mutation) };
    }

    /// What a connection for this disk is for.
    pub fn wants_base(&self, disk: usize) -> bool {
        let has_base = !self.catalog[disk].is_empty();
        duty(&Facts { has_base, in_policy: true, ..Facts::default() }) == Duty::NewSnapshot
    }

    /// Takes in a message. `Err` is a broken promise. `None` if it has to wait for the disk.
    pub fn hear(
        &mut self,
        network: &mut Network,
        link: LinkId,
        disk: usize,
        message: Up,
        truth: Option<(&Disk, u64)>,
    ) -> Result<Heard, String> {
        match message {
            Up::Compare => {
                let answer = match self.catalog[disk].last() {
                    Some(newest) => Down::Newest { point: newest.id, content: newest.content.clone() },
                    None => Down::Refuse,
                };
                network.answer(link, answer);
            }
            Up::Begin { point, cut, known, base, life } => {
                if self.locks[disk].is_some_and(|holder| holder != link) {
                    return Ok(Heard::Busy(Up::Begin { point, cut, known, base, life }));
                }
                let kept = self.drafts[disk].take();
                let answer = self.begin(disk, &known, base);
                if let Down::Accept { parent, .. } = answer {
                    let now = truth.filter(|(_, now)| *now == life).map(|(disk, _)| disk);
                    self.covered(disk, parent, now)?;
                    self.locks[disk] = Some(link);
                    let is_same = |open: &Open| {
                        (open.point, open.parent, open.epoch) == (point, parent, known.epoch) && !base
                    };
                    let (data, answer) = match kept.filter(is_same) {
                        Some(Open { data, .. }) => (data.clone(), Down::Kept { point, parent, frames: data }),
                        None => (Vec::new(), Down::Accept { point, parent }),
                    };
                    self.open.insert(link, Open { disk, point, parent, epoch: known.epoch, cut, data });
                    network.answer(link, answer);
                } else {
                    network.answer(link, answer);
                }
            }
            Up::Data { granule, value } => {
                if let Some(open) = self.open.get_mut(&link) {
                    open.data.push((granule, value));
                }
            }
            Up::End { group, quiet } => return self.end(network, link, &group, quiet).map(Heard::Published),
        }
        Ok(Heard::Done)
    }

    /// As `dispatcher/live_link.rs` and `dispatcher/snapshot_link.rs` answer. The point of the answer is filled in later.
    fn begin(&self, disk: usize, known: &Known, base: bool) -> Down {
        let accept = |parent| Down::Accept { point: PointId(0), parent };
        let newest = self.catalog[disk].last();
        if base {
            return if newest.is_none() { accept(None) } else { Down::Refuse };
        }
        if let (Mutation::AnyParent, Some(newest)) = (self.mutation, newest) {
            return accept(Some(newest.id));
        }
        match judge(newest.map(point).as_ref(), known) {
            Continuity::Continue { parent } => accept(Some(parent)),
            Continuity::Discontinuous { .. } => Down::Discontinuous,
            Continuity::NoPoint => Down::Refuse,
        }
    }

    /// The oracle of continuity: a delta may begin only if its agent knows of every granule that differs.
    fn covered(&self, disk: usize, parent: Option<PointId>, now: Option<&Disk>) -> Result<(), String> {
        let (Some(parent), Some(now)) = (parent, now) else { return Ok(()) };
        let row = self.catalog[disk].last().filter(|row| row.id == parent);
        let row = row.ok_or_else(|| format!("disk {disk}: a delta on a point that is not the newest"))?;
        let differs = |granule: &u32| row.content[*granule as usize] != now.content[*granule as usize];
        let differing: GranuleSet = (0..GRANULES).filter(differs).collect();
        let unknown = &differing - &now.dirty();
        match unknown.iter().next() {
            None => Ok(()),
            Some(granule) => Err(format!(
                "disk {disk}: a delta was accepted although granule {granule} differs and is not dirty"
            )),
        }
    }

    fn end(
        &mut self,
        network: &mut Network,
        link: LinkId,
        group: &[DiskIdentity],
        quiet: bool,
    ) -> Result<Option<Published>, String> {
        let Some(open) = self.open.remove(&link) else { return Ok(None) };
        let (cut, disk) = (open.cut, DiskIdentity::Named(format!("disk {}", open.disk)));
        let ready = Ready { link, open, quiet, members: group.len() };
        if self.mutation == Mutation::PartialGroup {
            return self.publish(network, vec![ready]);
        }
        match self.gather.join(&AGENT, cut, group, &disk, ready) {
            Ok(Some(members)) => self.publish(network, members),
            Ok(None) => {
                self.sealed.insert(link, cut);
                Ok(None)
            }
            Err((_, ready)) => {
                self.fail(network, vec![ready]);
                Ok(None)
            }
        }
    }

    /// One transaction, or none: `store/publish.rs` refuses a point whose parent is not the newest any more.
    fn publish(&mut self, network: &mut Network, members: Vec<Ready>) -> Result<Option<Published>, String> {
        let stands =
            |ready: &Ready| self.catalog[ready.open.disk].last().map(|row| row.id) == ready.open.parent;
        if !members.iter().all(stands) {
            self.fail(network, members);
            return Ok(None);
        }
        self.older.push(self.catalog.clone());
        let mut published = Published { cut: CutId(0), points: Vec::new(), quiet: true };
        for ready in members {
            let rows = &mut self.catalog[ready.open.disk];
            let mut content =
                rows.last().map_or_else(|| vec![0; GRANULES as usize], |row| row.content.clone());
            for (granule, value) in &ready.open.data {
                content[*granule as usize] = *value;
            }
            let Open { disk, point: id, epoch, cut, .. } = ready.open;
            rows.push(Row { id, epoch, cut, members: ready.members, content });
            published.points.push((disk, rows.len() - 1));
            (published.cut, published.quiet) = (cut, published.quiet && ready.quiet);
            self.release(ready.link, disk);
            network.answer(ready.link, Down::Published { point: id });
        }
        Ok(Some(published))
    }

    fn fail(&mut self, network: &mut Network, members: Vec<Ready>) {
        for ready in members {
            self.release(ready.link, ready.open.disk);
            network.answer(ready.link, Down::Failed);
        }
    }

    fn release(&mut self, link: LinkId, disk: usize) {
        self.sealed.remove(&link);
        self.locks[disk] = self.locks[disk].filter(|holder| *holder != link);
    }

    /// The end of a connection is noticed: its point is dropped, the others of its cut fail.
    pub fn lost(&mut self, network: &mut Network, link: LinkId) {
        network.close(link, false);
        let cut = match self.open.remove(&link) {
            Some(open) => {
                self.release(link, open.disk);
                let (cut, disk) = (open.cut, open.disk);
                self.drafts[disk] = Some(open);
                Some(cut)
            }
            None => self.sealed.remove(&link),
        };
        if let Some(cut) = cut {
            let members = self.gather.abort(&AGENT, cut);
            self.fail(network, members);
        }
    }
}

/// What came of a message.
#[derive(Debug)]
pub enum Heard {
    Done,
    /// It has to wait for another connection's point.
    Busy(Up),
    Published(Option<Published>),
}

/// The row as the program has it.
fn point(row: &Row) -> Point {
    Point {
        id: row.id,
        disk: DiskId(1),
        generation: GenerationId(1),
        kind: PointKind::Delta,
        parent: None,
        sequence: 0,
        number: 0,
        epoch: row.epoch,
        summary: CutSummary {
            cut: row.cut,
            at: Timestamp::UNIX_EPOCH,
            consistency: Consistency::Quiet,
            coverage: Coverage::Proven,
            notes: Vec::new(),
            rounds: Vec::new(),
            freeze_ms: None,
            hooks: Vec::new(),
            group: Vec::new(),
            holes: Holes::default(),
        },
        published: Timestamp::UNIX_EPOCH,
        bytes: 0,
        stored: 0,
        disk_bytes: u64::from(GRANULES) * 4096,
        digests: PointDigests::Delta { delta: [0; 32], changes: [0; 32] },
        edition: 0,
        half_restored: None,
    }
}
