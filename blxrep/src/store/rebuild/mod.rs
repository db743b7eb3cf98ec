//! A new catalog from the files alone, for a data directory whose catalog is lost, damaged, foreign or older than the
//! files.
//!
//! ```text
//! scan (every header, trailer and index) -> plan (pure: which files are points) -> carry out
//! ```
//!
//! The old catalog and whatever is no point go to `quarantine/`; nothing is deleted. The new catalog is made under
//! another name and renamed when it is whole. Killed anywhere, it can be run again: each step leaves files that the
//! next scan finds.

mod carry_out;
mod old;
mod plan;
mod scan;

use super::layout::Layout;
use super::{Store, StoreError, lock, read_mark};
use crate::io::storage::{Access, DataFile, Storage};
use crate::model::ids::{AgentId, DiskId, PointId, StoreId};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Ending of a file on the way to its right name.
const MOVING: &str = "moving";
/// What every point says of itself when the catalog that knew more of it is lost.
pub const REBUILT: &str =
    "rebuilt from files: its rounds, hooks, notes, freeze and time of publication are not known";

/// What was found, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RebuildReport {
    pub store: StoreId,
    /// Nothing was changed: this is what would be done.
    pub dry_run: bool,
    pub agents: u64,
    pub disks: Vec<RebuiltDisk>,
    pub points: u64,
    /// Points of which the old catalog knew what the files do not say.
    pub details_kept: u64,
    /// Where the catalog that was there is now.
    pub old_catalog: Option<PathBuf>,
    /// Files that lay under another name than they should.
    pub moved: Vec<Moved>,
    /// Change sets that were lost or damaged and are made again from their deltas.
    pub rewritten: Vec<PathBuf>,
    /// Files that are no point, and why.
    pub left_out: Vec<LeftOut>,
}

/// One disk and its points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RebuiltDisk {
    pub disk: DiskId,
    pub agent: AgentId,
    pub identity: String,
    pub device: String,
    pub generations: u64,
    pub points: u64,
    pub newest_point: PointId,
    pub oldest_cut: Timestamp,
    pub newest_cut: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub from: PathBuf,
    pub to: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub file: PathBuf,
    pub reason: String,
    /// Where it was moved; `None` if it was left where it is.
    pub now: Option<PathBuf>,
}

impl LeftOut {
    fn new(file: &Path, reason: impl Into<String>) -> Self {
        Self { file: file.to_owned(), reason: reason.into(), now: None }
    }
}

impl Store {
    /// Makes a new catalog for a data directory that no dispatcher uses.
    pub fn rebuild_catalog(data_dir: &Path, dry_run: bool) -> Result<RebuildReport, StoreError> {
        Self::rebuild_catalog_with(&Storage::default(), data_dir, dry_run)
    }

    /// As [`Self::rebuild_catalog`], on the given storage.
    pub fn rebuild_catalog_with(
        storage: &Storage,
        data_dir: &Path,
        dry_run: bool,
    ) -> Result<RebuildReport, StoreError> {
        let layout = Layout::new(data_dir);
        refuse_no_store(storage, &layout)?;
        let had_mark = storage.length(&layout.mark())?.is_some();
        let lock = lock(storage, &layout)?;
        refuse_viewed(storage, &layout)?;
        let scan = scan::scan(storage, &layout)?;
        let store = store_of(&lock, &scan)?;
        // Opening it may write to it, as its recovery does.
        let old = if dry_run { old::Old::default() } else { old::read(storage, &layout, store) };
        let plan = plan::plan(store, scan, &layout, &old);
        let mut report = report(store, dry_run, &plan);
        if !dry_run {
            carry_out::carry_out(storage, &layout, &lock, plan, &mut report)?;
        } else if !had_mark {
            // Made only to be locked.
            storage.remove(&layout.mark())?;
        }
        Ok(report)
    }
}

/// A mistyped path must not become a store.
fn refuse_no_store(storage: &Storage, layout: &Layout) -> Result<(), StoreError> {
    let mut found = storage.length(&layout.mark())?.is_some();
    for folder in [layout.snapshots(), layout.incrementals(), layout.quarantine()] {
        found = found || !storage.list(&folder)?.is_empty();
    }
    if found {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{} holds no store: there is neither a file STORE nor anything in snapshot/ or incremental/; give the right \
         --data-dir",
        layout.root().display()
    )))
}

/// Files may get other names: who reads a point would lose them.
fn refuse_viewed(storage: &Storage, layout: &Layout) -> Result<(), StoreError> {
    for entry in storage.list(&layout.leases())? {
        let file = storage.open(&layout.leases().join(&entry.name), Access::Read)?;
        if !file.held_bytes()?.is_empty() {
            return Err(StoreError::Refused(format!(
                "points of generation {} are being looked into: `blxrep mounts` lists them; unmount them first",
                entry.name.display()
            )));
        }
    }
    Ok(())
}

/// Which store this is: the mark says so; where it is lost, the files do.
fn store_of(lock: &DataFile, scan: &scan::Scan) -> Result<StoreId, StoreError> {
    let mut stores: BTreeMap<StoreId, u64> = BTreeMap::new();
    scan.files
        .iter()
        .filter(|file| !file.quarantined)
        .for_each(|file| *stores.entry(file.header.store).or_default() += 1);
    let named: Vec<String> = stores.iter().map(|(id, files)| format!("{files} of store {id}")).collect();
    match read_mark(lock) {
        Ok(Some(id)) if stores.is_empty() || stores.contains_key(&id) => Ok(id),
        Ok(Some(id)) => Err(StoreError::Refused(format!(
            "{} says store {id}, and no file is of it (there are {}): put back the right STORE, or remove it so that \
             the files decide",
            lock.path().display(),
            named.join(", ")
        ))),
        // Lost or damaged: written anew.
        Ok(None) | Err(StoreError::Mark { .. }) => match stores.keys().collect::<Vec<_>>()[..] {
            [id] => Ok(*id),
            [] => Err(StoreError::Refused(format!(
                "{} does not say which store this is, and no file does: there is nothing to make a catalog from",
                lock.path().display()
            ))),
            _ => Err(StoreError::Refused(format!(
                "{} does not say which store this is, and the files are of several ({}): move those away that do not \
                 belong here",
                lock.path().display(),
                named.join(", ")
            ))),
        },
        Err(e) => Err(e),
    }
}

fn report(store: StoreId, dry_run: bool, plan: &plan::Plan) -> RebuildReport {
    let disks = plan.disks.iter().filter_map(|disk| {
        let of_disk = || plan.points.iter().filter(|point| point.disk == disk.id);
        let cuts = || of_disk().map(|point| point.summary.at);
        Some(RebuiltDisk {
            disk: disk.id,
            agent: disk.agent.clone(),
            identity: disk.identity.to_string(),
            device: disk.device.clone(),
            generations: plan.generations.iter().filter(|g| g.disk == disk.id).count() as u64,
            points: of_disk().count() as u64,
            newest_point: of_disk().max_by_key(|point| point.number)?.id,
            oldest_cut: cuts().min()?,
            newest_cut: cuts().max()?,
        })
    });
    RebuildReport {
        store,
        dry_run,
        agents: plan.agents.len() as u64,
        disks: disks.collect(),
        points: plan.points.len() as u64,
        details_kept: plan.details_kept,
        old_catalog: None,
        moved: plan.moves.clone(),
        rewritten: plan.rewrites.iter().map(|rewrite| rewrite.to.clone()).collect(),
        left_out: plan.left_out.clone(),
    }
}
