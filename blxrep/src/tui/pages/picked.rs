//! Files that a person has marked.

use crate::api::browse::FileRow;
use crate::model::byte_text::ByteText;
use crate::model::part_id::PartId;
use crate::tui::words::count;
use std::collections::BTreeMap;

/// Paths that one restore can be given: they have to fit one request.
const MOST: usize = 500;

/// Marked files and folders, by partition and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked(BTreeMap<(PartId, Vec<u8>), String>);

impl Picked {
    fn key(row: &FileRow) -> (PartId, Vec<u8>) {
        (row.partition.clone(), row.raw.as_bytes().to_vec())
    }

    #[must_use]
    pub fn has(&self, row: &FileRow) -> bool {
        self.0.contains_key(&Self::key(row))
    }

    /// Marks it, or takes its mark away.
    pub fn toggle(&mut self, row: &FileRow) {
        if self.0.remove(&Self::key(row)).is_none() && self.0.len() < MOST {
            self.0.insert(Self::key(row), row.path.clone());
        }
    }

    /// What is marked, or else the selected row.
    #[must_use]
    pub fn or(&self, selected: Option<&FileRow>) -> Option<Self> {
        if !self.0.is_empty() {
            return Some(self.clone());
        }
        let mut picked = Self::default();
        picked.toggle(selected?);
        Some(picked)
    }

    /// As a restore is given them: `PARTITION:PATH`.
    #[must_use]
    pub fn paths(&self) -> Vec<ByteText> {
        let path = |(partition, path): &(PartId, Vec<u8>)| {
            [format!("{partition}:").as_bytes(), path].concat().into()
        };
        self.0.keys().map(path).collect()
    }

    /// To be shown.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.0.iter().map(|((partition, _), path)| format!("{partition}:{path}")).collect()
    }

    /// `; 3 marked`, or nothing.
    #[must_use]
    pub fn tally(&self) -> String {
        match self.0.len() {
            0 => String::new(),
            MOST => format!("; {MOST} marked, which is as many as can be"),
            n => format!("; * {}", count(n as u64, "mark")),
        }
    }
}
