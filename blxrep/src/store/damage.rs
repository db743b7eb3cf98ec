//! What verifications found wrong with points, kept until another one finds it healed.

use super::catalog::key;
use super::verify::{Finding, VerifyReport};
use super::{Store, StoreError};
use crate::io::db::{DbError, Record};
use crate::model::ids::PointId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Sentences that are kept of one point: the first ones say where to look.
const MAX_SENTENCES: usize = 4;
/// Most bytes of a sentence that are kept.
const MAX_SENTENCE: usize = 1000;

/// A point that cannot be read right, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    pub point: PointId,
    /// When it was found first.
    pub found: Timestamp,
    /// The file, the place in it and what is wrong; at most 4.
    pub what: Vec<String>,
}

impl Record for Damaged {
    const TABLE: &'static str = "damages";
    fn key(&self) -> Vec<u8> {
        key(self.point.0).to_vec()
    }
}

impl Store {
    /// Points that are known to be damaged.
    pub fn damages(&self) -> Result<BTreeMap<PointId, Damaged>, StoreError> {
        let rows: Vec<Damaged> = self.db().all()?;
        Ok(rows.into_iter().map(|row| (row.point, row)).collect())
    }

    /// Keeps what a verification found, and forgets what it found healed.
    pub fn keep_damages(&self, report: &VerifyReport, now: Timestamp) -> Result<(), StoreError> {
        let known = self.damages()?;
        let found = by_point(&report.findings);
        let changes = changes(&known, &found, &report.cleared, now);
        if changes.is_empty() {
            return Ok(());
        }
        self.db().write::<_, DbError>(|tx| {
            changes.iter().try_for_each(|(point, row)| match row {
                Some(row) => tx.put(row),
                None => tx.remove::<Damaged>(&key(point.0)),
            })
        })?;
        Ok(())
    }
}

fn by_point(findings: &[Finding]) -> BTreeMap<PointId, Vec<String>> {
    let mut found: BTreeMap<PointId, Vec<String>> = BTreeMap::new();
    for finding in findings {
        let mut sentence = format!("{}: {}", finding.file.display(), finding.sentence());
        sentence.truncate(sentence.floor_char_boundary(MAX_SENTENCE));
        for point in &finding.points {
            let of_point = found.entry(*point).or_default();
            if of_point.len() < MAX_SENTENCES {
                of_point.push(sentence.clone());
            }
        }
    }
    found
}

/// Rows to put or to remove. `read` are the points whose every byte was read.
fn changes(
    known: &BTreeMap<PointId, Damaged>,
    found: &BTreeMap<PointId, Vec<String>>,
    read: &BTreeSet<PointId>,
    now: Timestamp,
) -> Vec<(PointId, Option<Damaged>)> {
    let healed = known.keys().filter(|point| read.contains(point) && !found.contains_key(point));
    let mut changes: Vec<_> = healed.map(|point| (*point, None)).collect();
    for (point, what) in found {
        let since = known.get(point).map_or(now, |row| row.found);
        let row = Damaged { point: *point, found: since, what: what.clone() };
        if known.get(point) != Some(&row) {
            changes.push((*point, Some(row)));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_stays_until_all_of_the_point_was_read_and_found_good() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).unwrap());
        let row = |point| Damaged { point: PointId(point), found: then, what: vec!["bad".to_owned()] };
        let known: BTreeMap<_, _> = [1, 2, 3].map(|p| (PointId(p), row(p))).into();
        let found: BTreeMap<_, _> =
            [(PointId(2), vec!["bad".to_owned()]), (PointId(4), vec!["new".to_owned()])].into();
        let read = [PointId(1), PointId(2), PointId(4)].into();
        let new = Damaged { point: PointId(4), found: now, what: vec!["new".to_owned()] };
        let expected = vec![(PointId(1), None), (PointId(4), Some(new))];
        assert_eq!(changes(&known, &found, &read, now), expected, "3 was not read, 2 is as bad as before");
    }
}
