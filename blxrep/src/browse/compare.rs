//! How one partition differs between two points.

use super::rows;
use super::stream::Teller;
use crate::api::browse::ChangeRow;
use crate::api::error::ApiError;
use crate::archive::diff::{Change, Listener, diff, diff_entry};
use crate::archive::{ArchiveError, Name, shown};
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use rustix::fd::{AsFd, OwnedFd};

/// Tells every difference at and below `path`.
pub fn compare(
    roots: [&OwnedFd; 2],
    partition: &PartId,
    path: &[Name],
    teller: &Teller,
) -> Result<(), ApiError> {
    let (above, last) = path.split_at(path.len().saturating_sub(1));
    let [before, after] = roots.map(|root| rows::open_below(root.as_fd(), above));
    let (before, after) = (before?, after?);
    let mut changes = Changes { partition, above: rows::raw_path(above), teller, stopped: None };
    let done = match last {
        [name] => diff_entry(before.as_fd(), after.as_fd(), name, &mut changes),
        _ => diff(before.as_fd(), after.as_fd(), &mut changes),
    };
    match changes.stopped {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

struct Changes<'a> {
    partition: &'a PartId,
    /// Where the folders that are compared are.
    above: ByteText,
    teller: &'a Teller,
    stopped: Option<ApiError>,
}

impl Changes<'_> {
    fn unless_stopped(&mut self, told: Result<(), ApiError>) -> Result<(), ArchiveError> {
        told.map_err(|error| {
            self.stopped = Some(error);
            ArchiveError::Interrupted
        })
    }
}

impl Listener for Changes<'_> {
    fn change(&mut self, change: Change) -> Result<(), ArchiveError> {
        let mut raw = self.above.as_bytes().to_vec();
        if raw != b"/" {
            raw.push(b'/');
        }
        raw.extend(&change.path);
        let path = shown(&raw);
        let Change { kind, change, what, .. } = change;
        let row = ChangeRow { partition: self.partition.clone(), path, raw: raw.into(), kind, change, what };
        let told = self.teller.item(&row);
        self.unless_stopped(told)
    }

    fn name(&mut self) -> Result<(), ArchiveError> {
        let told = self.teller.go_on();
        self.unless_stopped(told)
    }
}
