//! What is said of a restore to an agent: what goes where, how far it is, and what it leaves behind.

use super::files_restore::MAX_COURIERS;
use crate::archive::shown;
use crate::model::ids::PointId;
use crate::model::restoration::Undo;
use crate::store::restorations::RestorationRow;

/// The target.
pub fn place(row: &RestorationRow) -> String {
    format!("{} of {}", row.restoration.target.path(), row.agent)
}

/// What is restored.
pub fn source(row: &RestorationRow) -> String {
    let point = row.restoration.point;
    match (row.paths.len(), &row.partition) {
        (0, Some(part)) => format!("{} of point {point}", part.described()),
        (0, None) => format!("point {point}"),
        _ => files_of(&row.paths, point),
    }
}

/// Files of a point, in words.
pub fn files_of(paths: &[Vec<u8>], point: PointId) -> String {
    match paths {
        [path] => format!("{} of point {point}", shown(path)),
        paths => format!("{} paths of point {point}", paths.len()),
    }
}

pub fn aim(row: &RestorationRow) -> String {
    format!("{} to {}", source(row), place(row))
}

/// Says of a target that is written to that it is not finished.
pub fn under_way(row: &RestorationRow) -> String {
    match row.touched && row.paths.is_empty() {
        true => format!("{}, which is unfinished until this has succeeded{}", aim(row), undo(row)),
        false => format!("{}{}", aim(row), undo(row)),
    }
}

/// Says of a restore of files that others are read before it.
pub fn in_line(row: &RestorationRow) -> String {
    format!(
        "{}: it waits until one of the {MAX_COURIERS} that are read at a time has been read",
        under_way(row)
    )
}

/// What a restore that ends early leaves behind.
pub fn left_behind(row: &RestorationRow) -> String {
    let undo = undo(row);
    match row.touched {
        true if !row.paths.is_empty() => {
            format!("; files that were restored to {} are whole, others are missing", place(row))
        }
        true => format!(
            "; {} is unfinished, old and new side by side: do not use it before a restore to it has succeeded{undo}",
            place(row)
        ),
        false => format!("; nothing was written{undo}"),
    }
}

pub fn undo(row: &RestorationRow) -> String {
    match row.undo {
        Undo::Made(point) => format!("; point {point} is what was there before"),
        Undo::Due | Undo::None => String::new(),
    }
}
