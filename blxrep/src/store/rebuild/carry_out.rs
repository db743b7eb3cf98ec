//! Carrying out a plan: files get their right names, the new catalog is made whole and put in place, and what is no
//! point is set aside.

use super::super::append::AppendFile;
use super::super::catalog::{Moment, Owner};
use super::super::delta::write_changes;
use super::super::layout::{Layout, PART};
use super::super::quarantine::set_aside;
use super::plan::{Plan, Rewrite};
use super::scan::runs;
use super::{LeftOut, MOVING, Moved, RebuildReport};
use crate::format::header::FileKind;
use crate::format::mark;
use crate::format::trailer::Digest;
use crate::io::db::{Db, DbError, Record};
use crate::io::storage::{DataFile, Storage};
use crate::model::ids::StoreId;
use crate::model::point::{Point, PointDigests};
use crate::store::StoreError;
use crate::view::StoredFile;
use std::collections::BTreeSet;
use std::path::Path;

/// Rows that are written in one transaction.
const ROWS_AT_ONCE: usize = 10_000;

pub fn carry_out(
    storage: &Storage,
    layout: &Layout,
    lock: &DataFile,
    mut plan: Plan,
    report: &mut RebuildReport,
) -> Result<(), StoreError> {
    for folder in [layout.snapshots(), layout.incrementals(), layout.quarantine(), layout.leases()] {
        storage.create_dir(&folder)?;
    }
    move_all(storage, layout, &plan, report)?;
    for rewrite in &plan.rewrites {
        let (root, stored) = rewrite_changes(storage, layout, rewrite, report)?;
        if let Some(point) = plan.points.iter_mut().find(|point| point.id == rewrite.point)
            && let PointDigests::Delta { delta, .. } = point.digests
        {
            point.digests = PointDigests::Delta { delta, changes: root };
            point.stored += stored;
        }
    }
    let new = layout.catalog().with_added_extension(PART);
    write_catalog(storage, &new, report.store, &plan)?;
    if storage.length(&layout.catalog())?.is_some() {
        report.old_catalog = Some(set_aside(storage, layout, &layout.catalog())?);
    }
    storage.rename(&new, &layout.catalog())?;
    storage.sync_dir(layout.root())?;
    lock.write_at(&mark::encode(report.store), 0)?;
    lock.sync()?;
    storage.sync_dir(layout.root())?;
    for left in report.left_out.iter_mut().filter(|left| left.now.is_none()) {
        put_away(storage, layout, left)?;
    }
    Ok(())
}

/// In two steps, for files may have to change places: first out of the way, then to the right name.
fn move_all(
    storage: &Storage,
    layout: &Layout,
    plan: &Plan,
    report: &mut RebuildReport,
) -> Result<(), StoreError> {
    let waiting = |to: &Path| to.with_added_extension(MOVING);
    for Moved { from, to } in &plan.moves {
        make_folders(storage, layout, to)?;
        if *from != waiting(to) {
            storage.rename_new(from, &waiting(to))?;
        }
    }
    for Moved { to, .. } in &plan.moves {
        // Every file that is needed has left this place: what is here is none.
        if storage.length(to)?.is_some() {
            aside(storage, layout, to, report)?;
        }
        storage.rename_new(&waiting(to), to)?;
    }
    let folders: BTreeSet<&Path> =
        plan.moves.iter().flat_map(|moved| [moved.from.parent(), moved.to.parent()]).flatten().collect();
    folders.into_iter().try_for_each(|folder| Ok(storage.sync_dir(folder)?))
}

/// The folders of a disk, and of a generation of its deltas.
fn make_folders(storage: &Storage, layout: &Layout, file: &Path) -> Result<(), StoreError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    let above = folder.parent().filter(|above| *above != layout.root() && above.starts_with(layout.root()));
    above.into_iter().chain([folder]).try_for_each(|folder| Ok(storage.create_dir(folder)?))
}

/// Sets a file aside that lies in the way of another, and says so where it is reported.
fn aside(
    storage: &Storage,
    layout: &Layout,
    path: &Path,
    report: &mut RebuildReport,
) -> Result<(), StoreError> {
    let now = set_aside(storage, layout, path)?;
    match report.left_out.iter_mut().find(|left| left.file == path) {
        Some(left) => left.now = Some(now),
        None => {
            let left = LeftOut::new(path, "it lay in the place of another file");
            report.left_out.push(LeftOut { now: Some(now), ..left });
        }
    }
    Ok(())
}

/// Makes a change set again as it was: everything in it is in its delta too.
fn rewrite_changes(
    storage: &Storage,
    layout: &Layout,
    rewrite: &Rewrite,
    report: &mut RebuildReport,
) -> Result<(Digest, u64), StoreError> {
    let (delta, _) = StoredFile::look(storage, &rewrite.from)?;
    debug_assert_eq!(delta.header.kind, FileKind::Delta);
    let part = rewrite.to.with_added_extension(PART);
    let written = write_changes(AppendFile::create(storage, &part)?, &rewrite.header, &runs(&delta)?)?;
    if storage.length(&rewrite.to)?.is_some() {
        aside(storage, layout, &rewrite.to, report)?;
    }
    storage.rename_new(&part, &rewrite.to)?;
    if let Some(folder) = rewrite.to.parent() {
        storage.sync_dir(folder)?;
    }
    Ok(written)
}

/// Writes all rows, and reads the whole file again before anything relies on it.
fn write_catalog(storage: &Storage, path: &Path, store: StoreId, plan: &Plan) -> Result<(), StoreError> {
    let db = Db::create(storage, path)?;
    db.write::<_, DbError>(|tx| tx.put(&Owner { store }))?;
    put_all(&db, &plan.agents)?;
    put_all(&db, &plan.disks)?;
    put_all(&db, &plan.generations)?;
    put_all(&db, &plan.points)?;
    let moment = |point: &Point| Moment { disk: point.disk, number: point.number, point: point.id };
    put_all(&db, &plan.points.iter().map(moment).collect::<Vec<_>>())?;
    put_all(&db, &plan.actions)?;
    put_all(&db, &plan.half_restored)?;
    drop(db);
    let written = Db::open(storage, path)?.all::<Point>()?.len();
    if written == plan.points.len() {
        return Ok(());
    }
    Err(StoreError::Catalog {
        path: path.to_owned(),
        reason: format!("it has {written} of {} points after it was written", plan.points.len()),
    })
}

fn put_all<R: Record>(db: &Db, rows: &[R]) -> Result<(), StoreError> {
    for rows in rows.chunks(ROWS_AT_ONCE) {
        db.write::<_, DbError>(|tx| rows.iter().try_for_each(|row| tx.put(row)))?;
    }
    Ok(())
}

/// Moves to the quarantine what is no point. A file that was moved out of the way meanwhile is no longer there.
fn put_away(storage: &Storage, layout: &Layout, left: &mut LeftOut) -> Result<(), StoreError> {
    if storage.length(&left.file)?.is_none() {
        return Ok(());
    }
    let folder = left.file.parent().map(Path::to_owned);
    left.now = Some(set_aside(storage, layout, &left.file)?);
    folder.map_or(Ok(()), |folder| Ok(storage.sync_dir(&folder)?))
}
