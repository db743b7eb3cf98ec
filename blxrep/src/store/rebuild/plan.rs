//! Which files are points, and what the new catalog says of them. Pure.
//!
//! Chains are derived from the parents that headers name. Where several files claim one place, those that lie in place
//! count before those in quarantine, and of these the ones with more points after them.

use super::super::catalog::{AgentRow, Generation, GenerationState, Work};
use super::super::half_restored::HalfRestored;
use super::super::layout::{Layout, edition_of};
use super::old::Old;
use super::scan::{Found, Raw, Scan};
use super::{LeftOut, Moved, REBUILT};
use crate::format::header::{CutFacts, FileHeader, FileKind};
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, AgentId, CutId, DiskId, DiskIdentity, GenerationId, PointId, StoreId};
use crate::model::point::{Coverage, CutSummary, Disk, Point, PointDigests, PointKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What a point says whose unreadable sectors did not all fit its header.
const ROUGH: &str =
    "which sectors could not be read is known only roughly: what lies between some of them counts too";

/// A change set to be made again from its delta, whose file will lie at `from`.
#[derive(Clone, Debug)]
pub struct Rewrite {
    pub point: PointId,
    pub header: FileHeader,
    pub from: PathBuf,
    pub to: PathBuf,
}

/// What the new catalog holds, and what is to be done to the files.
#[derive(Debug, Default)]
pub struct Plan {
    pub agents: Vec<AgentRow>,
    pub disks: Vec<Disk>,
    pub generations: Vec<Generation>,
    /// By disk, in the order of publication.
    pub points: Vec<Point>,
    pub actions: Vec<crate::model::action::Action>,
    pub half_restored: Vec<HalfRestored>,
    pub details_kept: u64,
    pub moves: Vec<Moved>,
    pub rewrites: Vec<Rewrite>,
    pub left_out: Vec<LeftOut>,
}

/// One generation that has a base.
struct Family<'a> {
    base: &'a Found,
    image: &'a Raw,
    /// Oldest first, each the child of the one before it.
    deltas: Vec<&'a Found>,
    /// The greatest edition of its files.
    edition: u32,
    /// New checksums of a fold that was cut off, if there is a delta to go on with: it was being put into the image, the
    /// base's point is given up, and its content may be gone.
    folding: Option<&'a Path>,
}

type Key = (DiskId, GenerationId);

pub fn plan(store: StoreId, scan: Scan, layout: &Layout, old: &Old) -> Plan {
    let mut plan = Plan { left_out: scan.unfit.clone(), ..Plan::default() };
    let mut groups: BTreeMap<Key, Vec<&Found>> = BTreeMap::new();
    for file in &scan.files {
        if file.header.store == store {
            groups.entry((file.header.disk, file.header.generation)).or_default().push(file);
        } else {
            plan.leave(file, format!("it belongs to store {}", file.header.store));
        }
    }
    let mut used: HashSet<&Path> = HashSet::new();
    let mut families = Vec::new();
    for files in groups.values() {
        if let Some(family) = plan.family(files, &scan, layout) {
            families.push(family);
        }
    }
    plan.drop_doubles(&mut families);
    // A disk's generations follow each other; within one, the chain decides.
    families.sort_by_key(|f| (f.base.header.disk, f.base.header.number, at(f.base)));
    for family in &families {
        used.extend(plan.take(family, &scan, layout, old));
    }
    plan.leave_rest(&scan, &used);
    plan.name_disks(old);
    plan.name_groups();
    plan.name_half_restored(old);
    plan.left_out.sort_by(|a, b| a.file.cmp(&b.file));
    plan
}

fn cut_of(file: &Found) -> Option<CutFacts> {
    file.header.cut
}

fn at(file: &Found) -> Option<jiff::Timestamp> {
    cut_of(file).map(|cut| cut.at)
}

impl Plan {
    /// Files in quarantine have been reported when they were put there.
    fn leave(&mut self, file: &Found, reason: String) {
        if !file.quarantined {
            self.left_out.push(LeftOut::new(&file.path, reason));
        }
    }

    /// The base of a generation and the chain on top of it. Reports what does not belong to it.
    fn family<'a>(&mut self, files: &[&'a Found], scan: &'a Scan, layout: &Layout) -> Option<Family<'a>> {
        let of = |kind| files.iter().copied().filter(move |file| file.header.kind == kind);
        let mut bases: Vec<(&Found, &Raw)> = Vec::new();
        for sidecar in of(FileKind::Sidecar) {
            match image_of(sidecar, &scan.raws, layout) {
                Ok(image) => bases.push((sidecar, image)),
                Err(reason) => self.leave(sidecar, reason),
            }
        }
        // Of two in place, a fold has made the one with the higher number, when the image held what it says.
        bases.sort_by_key(|(sidecar, _)| (!sidecar.quarantined, sidecar.header.number, at(sidecar)));
        let Some((base, image)) = bases.pop() else {
            for file in of(FileKind::Delta).chain(of(FileKind::Changes)) {
                let generation = file.header.generation;
                self.leave(
                    file,
                    format!("generation {generation} has no base: its image or its checksums are not there"),
                );
            }
            return None;
        };
        for (other, _) in bases {
            self.leave(
                other,
                format!(
                    "{} claims to be the base of the same generation and comes first",
                    base.path.display()
                ),
            );
        }
        let deltas = self.chain(base, &of(FileKind::Delta).collect::<Vec<_>>());
        let part = scan.cut_off_fold(&base.header, layout);
        let editions = files.iter().map(|file| file.header.edition).chain(part.map(edition_of));
        let edition = editions.max().unwrap_or(0);
        let folding = part.filter(|_| !deltas.is_empty());
        Some(Family { base, image, deltas, edition, folding })
    }

    /// From the base up: the child of each point. Reports the deltas that are not reached.
    fn chain<'a>(&mut self, base: &Found, deltas: &[&'a Found]) -> Vec<&'a Found> {
        let mut children: HashMap<PointId, Vec<&'a Found>> = HashMap::new();
        for delta in deltas {
            if let Some(parent) = delta.header.parent {
                children.entry(parent).or_default().push(delta);
            }
        }
        // Later ones first, so that the length behind a child is known before its parent asks for it.
        let mut ordered = deltas.to_vec();
        ordered.sort_by_key(|delta| std::cmp::Reverse(delta.header.sequence));
        let mut behind: HashMap<&Path, u64> = HashMap::new();
        let fits = |parent: &FileHeader, child: &Found| {
            // Not its number: an earlier rebuild may have raised the parent's.
            child.header.sequence > parent.sequence && child.header.granule == base.header.granule
        };
        let rank = |child: &Found, behind: &HashMap<&Path, u64>| {
            let length = behind.get(child.path.as_path()).copied().unwrap_or(0);
            (!child.quarantined, length, child.header.number, at(child), child.path.clone())
        };
        let best = |parent: &FileHeader, behind: &HashMap<&Path, u64>| -> Option<&'a Found> {
            let of_parent = children.get(&parent.point).into_iter().flatten().copied();
            of_parent.filter(|child| fits(parent, child)).max_by_key(|child| rank(child, behind))
        };
        for delta in ordered {
            let length = best(&delta.header, &behind)
                .map_or(0, |child| behind.get(child.path.as_path()).copied().unwrap_or(0) + 1);
            behind.insert(&delta.path, length);
        }
        let mut chain: Vec<&'a Found> = Vec::new();
        let mut from = &base.header;
        while let Some(child) = best(from, &behind) {
            chain.push(child);
            from = &child.header;
        }
        self.report_unreached(base, deltas, &chain);
        chain
    }

    fn report_unreached(&mut self, base: &Found, deltas: &[&Found], chain: &[&Found]) {
        let reached: HashSet<&Path> = chain.iter().map(|file| file.path.as_path()).collect();
        let points: HashMap<PointId, &Found> =
            std::iter::once(&base).chain(chain).map(|file| (file.header.point, *file)).collect();
        for delta in deltas.iter().filter(|delta| !reached.contains(delta.path.as_path())) {
            let header = &delta.header;
            let reason = match header.parent {
                None => "it names no parent".to_owned(),
                _ if header.granule != base.header.granule => {
                    "its granule is not that of its base".to_owned()
                }
                Some(parent) => match (points.get(&header.point), points.get(&parent)) {
                    (Some(same), _) => {
                        format!("{} is the same point and comes first", same.path.display())
                    }
                    (None, Some(_)) => format!(
                        "its parent {parent} goes on in {}: of two candidates the one with more points after it is taken",
                        chain
                            .iter()
                            .find(|file| file.header.parent == Some(parent))
                            .map_or_else(String::new, |f| f.path.display().to_string())
                    ),
                    (None, None) => format!("its parent {parent} is missing, damaged or left out itself"),
                },
            };
            self.leave(delta, reason);
        }
    }

    /// An agent's disk that is known under two ids counts under the one that is in use.
    fn drop_doubles(&mut self, families: &mut Vec<Family<'_>>) {
        let mut chosen: HashMap<(&AgentId, &DiskIdentity), (bool, Option<jiff::Timestamp>, DiskId)> =
            HashMap::new();
        for family in families.iter() {
            let header = &family.base.header;
            let newest = family.deltas.last().map_or(at(family.base), |delta| at(delta));
            let candidate = (!family.base.quarantined, newest, header.disk);
            let slot = chosen.entry((&header.agent, &header.identity)).or_insert(candidate);
            *slot = (*slot).max(candidate);
        }
        let chosen: HashSet<DiskId> = chosen.into_values().map(|(_, _, disk)| disk).collect();
        families.retain(|family| {
            let header = &family.base.header;
            let kept = chosen.contains(&header.disk);
            if !kept {
                let reason = format!(
                    "{} of agent {} is in use under another id than {}",
                    header.identity, header.agent, header.disk
                );
                std::iter::once(&family.base)
                    .chain(&family.deltas)
                    .for_each(|file| self.leave(file, reason.clone()));
            }
            kept
        });
    }

    /// Adds a generation and its points; returns the files that they use.
    fn take<'a>(&mut self, family: &Family<'a>, scan: &'a Scan, layout: &Layout, old: &Old) -> Vec<&'a Path> {
        let base = &family.base.header;
        let (disk, generation) = (base.disk, base.generation);
        let mut used = vec![family.base.path.as_path(), family.image.path.as_path()];
        let edition = base.edition;
        let into = family.deltas.first().filter(|_| family.folding.is_some());
        if let Some(part) = family.folding {
            // Until the fold is gone on with, this file alone says that the base is no more.
            used.push(part);
            self.left_out.retain(|left| left.file != part);
            self.move_to(part, layout.sidecar(disk, generation, family.edition + 1).part);
        }
        self.move_to(&family.base.path, layout.sidecar(disk, generation, edition).published);
        self.move_to(&family.image.path, layout.image(disk, generation).published);
        self.generations.push(Generation {
            id: generation,
            disk,
            base: base.point,
            // What made it is not known.
            action: ActionId(0),
            epoch: base.epoch,
            bytes: base.disk_bytes,
            granule_shift: base.granule.shift(),
            state: GenerationState::Published { sidecar: family.base.root, edition },
            // Files that are made from here on have other names than all that are there.
            revision: family.edition + u32::from(into.is_some()),
            work: into.map(|into| Work::Fold { into: into.header.point, edition: family.edition + 1 }),
        });
        let stored = family.base.stored + family.image.stored;
        if into.is_none() {
            let digests = PointDigests::Base { sidecar: family.base.root };
            self.add_point(family.base, PointKind::Base, (base.disk_bytes, stored), digests, old);
        }
        for delta in &family.deltas {
            let point = delta.header.point;
            let edition = delta.header.edition;
            let home = layout.delta(disk, generation, point, edition).published;
            let changes_home = layout.changes(disk, generation, point, edition).published;
            used.push(&delta.path);
            self.move_to(&delta.path, home.clone());
            let header = FileHeader { kind: FileKind::Changes, ..delta.header.clone() };
            let changes = scan
                .files
                .iter()
                .filter(|file| file.header == header)
                // The delta's own, if there are several that say the same.
                .max_by_key(|file| (file.path == changes_home, !file.quarantined, &file.path));
            let (root, stored) = match changes {
                Some(changes) => {
                    used.push(&changes.path);
                    self.move_to(&changes.path, changes_home);
                    (changes.root, changes.stored)
                }
                None => {
                    self.rewrites.push(Rewrite { point, header, from: home, to: changes_home });
                    ([0; 32], 0)
                }
            };
            let digests = PointDigests::Delta { delta: delta.root, changes: root };
            self.add_point(delta, PointKind::Delta, (delta.held, delta.stored + stored), digests, old);
        }
        used
    }

    fn move_to(&mut self, from: &Path, to: PathBuf) {
        if from != to {
            self.moves.push(Moved { from: from.to_owned(), to });
        }
    }

    fn add_point(
        &mut self,
        file: &Found,
        kind: PointKind,
        (bytes, stored): (u64, u64),
        digests: PointDigests,
        old: &Old,
    ) {
        let (header, Some(cut)) = (&file.header, cut_of(file)) else { return };
        let before = self.points.last().filter(|last| last.disk == header.disk).map(|last| last.number);
        let mut point = Point {
            id: header.point,
            disk: header.disk,
            generation: header.generation,
            kind,
            parent: header.parent,
            sequence: header.sequence,
            number: before.map_or(header.number, |before| header.number.max(before + 1)),
            epoch: header.epoch,
            summary: summary(cut),
            published: cut.at,
            bytes,
            stored,
            disk_bytes: header.disk_bytes,
            digests,
            edition: header.edition,
            half_restored: cut.half_restored,
        };
        if let Some(known) = old.points.get(&point.id).filter(|known| is_same(known, &point)) {
            point.summary = known.summary.clone();
            point.published = known.published;
            self.details_kept += 1;
        }
        let name = DiskName {
            agent: header.agent.clone(),
            identity: header.identity.clone(),
            device: header.device.clone(),
            shift: header.granule.shift(),
        };
        self.note_disk(&point, name);
        self.points.push(point);
    }

    /// The newest point says what the disk is.
    fn note_disk(&mut self, point: &Point, name: DiskName) {
        let known = self.disks.iter_mut().find(|disk| disk.id == point.disk);
        let first_seen =
            known.as_ref().map_or(point.summary.at, |disk| disk.first_seen.min(point.summary.at));
        let disk = Disk {
            id: point.disk,
            agent: name.agent,
            identity: name.identity,
            device: name.device,
            bytes: point.disk_bytes,
            granule_shift: name.shift,
            first_seen,
        };
        match known {
            Some(known) => *known = disk,
            None => self.disks.push(disk),
        }
    }

    /// What is in place and was not used.
    fn leave_rest(&mut self, scan: &Scan, used: &HashSet<&Path>) {
        let said: BTreeSet<PathBuf> = self.left_out.iter().map(|left| left.file.clone()).collect();
        let is_new = |path: &Path| !used.contains(path) && !said.contains(path);
        for file in scan.files.iter().filter(|file| is_new(&file.path)) {
            let reason = match file.header.kind {
                FileKind::Changes => "it belongs to no delta that is a point",
                FileKind::Sidecar | FileKind::Delta => "it belongs to no point",
            };
            self.leave(file, reason.to_owned());
        }
        for raw in scan.raws.iter().filter(|raw| !raw.quarantined && is_new(&raw.path)) {
            let name = raw.path.to_string_lossy();
            let reason = if name.ends_with(".sum.part") {
                "the checksums of an image or a fold that was not done: it is begun again"
            } else if name.contains(".img") {
                "an image without its checksums (.sum), or one that was never published: what it holds cannot be proven"
            } else {
                "it is no file of a store"
            };
            self.left_out.push(LeftOut::new(&raw.path, reason));
        }
    }

    /// Agents and disks that only the old catalog knows are kept as well.
    fn name_disks(&mut self, old: &Old) {
        for disk in &old.disks {
            let same = |known: &Disk| {
                known.id == disk.id || (known.agent == disk.agent && known.identity == disk.identity)
            };
            match self.disks.iter_mut().find(|known| same(known)) {
                Some(known) => known.first_seen = known.first_seen.min(disk.first_seen),
                None => self.disks.push(disk.clone()),
            }
        }
        self.agents.clone_from(&old.agents);
        for disk in &self.disks {
            let cuts = self.points.iter().filter(|point| point.disk == disk.id).map(|point| point.summary.at);
            let last_seen = cuts.max().unwrap_or(disk.first_seen);
            match self.agents.iter_mut().find(|agent| agent.id == disk.agent) {
                Some(agent) => {
                    agent.first_seen = agent.first_seen.min(disk.first_seen);
                    agent.last_seen = agent.last_seen.max(last_seen);
                }
                None => self.agents.push(AgentRow {
                    id: disk.agent.clone(),
                    // It says so when it connects.
                    footprint: Footprint::default(),
                    first_seen: disk.first_seen,
                    last_seen,
                }),
            }
        }
        self.actions.clone_from(&old.actions);
    }

    /// A disk whose newest point says that it was half restored is still so, unless the old catalog knows better.
    fn name_half_restored(&mut self, old: &Old) {
        self.half_restored.clone_from(&old.half_restored);
        for disk in &self.disks {
            let of_disk = self.points.iter().filter(|point| point.disk == disk.id);
            let newest = of_disk.max_by_key(|point| point.number);
            if let Some(newest) = newest.filter(|point| !old.points.contains_key(&point.id))
                && let Some(action) = newest.half_restored
                && !self.half_restored.iter().any(|row| row.action == action)
            {
                let (agent, identity) = (disk.agent.clone(), disk.identity.clone());
                // Where on it is not in the files.
                let bytes = 0..newest.disk_bytes;
                self.half_restored.push(HalfRestored { agent, identity, action, bytes, over: false });
            }
        }
    }

    /// The disks of one agent whose points share a cut were cut together.
    fn name_groups(&mut self) {
        let names: HashMap<DiskId, (AgentId, DiskIdentity)> =
            self.disks.iter().map(|disk| (disk.id, (disk.agent.clone(), disk.identity.clone()))).collect();
        let mut groups: HashMap<(AgentId, CutId), BTreeSet<DiskIdentity>> = HashMap::new();
        for point in &self.points {
            if let Some((agent, identity)) = names.get(&point.disk) {
                groups.entry((agent.clone(), point.summary.cut)).or_default().insert(identity.clone());
            }
        }
        for point in self.points.iter_mut().filter(|point| point.summary.group.is_empty()) {
            let group =
                names.get(&point.disk).and_then(|(agent, _)| groups.get(&(agent.clone(), point.summary.cut)));
            point.summary.group = group.into_iter().flatten().cloned().collect();
        }
    }
}

struct DiskName {
    agent: AgentId,
    identity: DiskIdentity,
    device: String,
    shift: u32,
}

/// The image of a sidecar: without a header, it is known by its place and length. It is longer after the fold of a disk
/// that became smaller was cut off; that is cut off when the store is opened.
fn image_of<'a>(sidecar: &Found, raws: &'a [Raw], layout: &Layout) -> Result<&'a Raw, String> {
    let home = layout.image(sidecar.header.disk, sidecar.header.generation).published;
    let candidates = || raws.iter().filter(|raw| raw.may_be(&home, layout.root()));
    let fitting = candidates().filter(|raw| raw.bytes >= sidecar.header.disk_bytes);
    // Of several in quarantine the one that was put there last has the highest number.
    let best = fitting.max_by_key(|raw| (!raw.quarantined, raw.path.as_os_str().len(), &raw.path));
    best.ok_or_else(|| match candidates().next() {
        None => format!("its image {} is missing", home.display()),
        Some(raw) => format!(
            "its image {} is {} bytes long and should be {} at least",
            raw.path.display(),
            raw.bytes,
            sidecar.header.disk_bytes
        ),
    })
}

fn summary(cut: CutFacts) -> CutSummary {
    let unknown = "it was not proven when the point was made; the reason is not in the files";
    CutSummary {
        cut: cut.cut,
        at: cut.at,
        consistency: cut.consistency,
        coverage: if cut.proven { Coverage::Proven } else { Coverage::Unknown(unknown.to_owned()) },
        notes: [Some(REBUILT), cut.holes.are_rough().then_some(ROUGH)]
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .collect(),
        holes: cut.holes.holes(),
        rounds: Vec::new(),
        freeze_ms: None,
        hooks: Vec::new(),
        group: Vec::new(),
    }
}

/// Whether an old row is of the point that was found. Its files may have been replaced since by a consolidation.
fn is_same(known: &Point, found: &Point) -> bool {
    let of = |point: &Point| (point.disk, point.generation, point.summary.cut, point.summary.at);
    of(known) == of(found)
}
