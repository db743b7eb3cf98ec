//! The points that a child has open, and its answers.

use super::rows;
use super::stream::Streams;
use super::{Question, compare, folder, search};
use crate::api::backend::{DiffRequest, FilesRequest, FindRequest};
use crate::api::browse::{FileRow, Findings, PartitionRow};
use crate::api::error::ApiError;
use crate::model::contents::Part;
use crate::model::part_id::PartId;
use crate::mount::MountError;
use crate::mount::private::{Private, PrivatePoint};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// One or two points, mounted where only this process sees them.
pub struct Browser {
    // Before the points: what searches have open goes first.
    streams: Streams,
    points: Vec<OpenPoint>,
    _private: Private,
}

/// What a child says to a question, as the lines between it and the dispatcher have it.
pub enum Answer {
    Partitions(Findings<PartitionRow>),
    Files(Findings<FileRow>),
    Found(Findings<Box<RawValue>>),
}

impl Browser {
    /// Mounts the points.
    pub fn open(data_dir: &Path, points: &[String]) -> Result<Self, MountError> {
        let mut private = Private::enter()?;
        let open = |point: &String| {
            private.open(data_dir, point).map(|point| OpenPoint { point, roots: BTreeMap::new() })
        };
        let points = points.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { streams: Streams::default(), points, _private: private })
    }

    pub fn answer(&mut self, question: Question) -> Result<Answer, ApiError> {
        match question {
            Question::Partitions => Ok(Answer::Partitions(self.first()?.partitions())),
            Question::Files(request) => self.files(&request).map(Answer::Files),
            Question::Find(request) => self.find(request).map(Answer::Found),
            Question::Diff(request) => self.diff(request).map(Answer::Found),
        }
    }

    fn first(&mut self) -> Result<&mut OpenPoint, ApiError> {
        self.points.first_mut().ok_or_else(|| ApiError::invalid("no point is open"))
    }

    fn files(&mut self, request: &FilesRequest) -> Result<Findings<FileRow>, ApiError> {
        let path = rows::components(&request.path)?;
        let point = self.first()?;
        let part = point.point.part(request.partition.as_ref())?;
        let root = point.root(&part)?;
        let after = request.after.as_ref().map(|after| after.as_bytes());
        let page = folder::list(root.folder.as_fd(), &part.id, &path, request.limit, after)?;
        Ok(Findings { notes: root.notes(), ..page })
    }

    fn find(&mut self, request: FindRequest) -> Result<Findings<Box<RawValue>>, ApiError> {
        let FindRequest { partition, pattern, limit, after } = request;
        let point = self.first()?;
        let (mut roots, mut notes) = (Vec::new(), Vec::new());
        for part in point.parts(partition.as_ref())? {
            match point.root(&part) {
                Ok(root) => {
                    notes.extend(root.notes());
                    roots.push((part.id.clone(), Arc::clone(&root.folder)));
                }
                // One that was not named need not have files.
                Err(error) if partition.is_none() => notes.push(error.message),
                Err(error) => return Err(error),
            }
        }
        let question =
            Question::Find(FindRequest { partition, pattern: pattern.clone(), limit: 0, after: 0 });
        let page = self.streams.page(&question, after, limit, move |teller| {
            let pattern = pattern.as_bytes();
            roots.iter().try_for_each(|(id, root)| search::search(root, id, pattern, teller))
        })?;
        Ok(Findings { notes, ..page })
    }

    fn diff(&mut self, request: DiffRequest) -> Result<Findings<Box<RawValue>>, ApiError> {
        let DiffRequest { partition, path, limit, after } = request;
        let names = rows::components(&path)?;
        let [before, second] = &mut self.points[..] else {
            return Err(ApiError::invalid("two points are compared"));
        };
        let (mut roots, mut notes) = (Vec::new(), Vec::new());
        for part in before.parts(partition.as_ref())? {
            let Ok(other) = second.point.part(Some(&part.id)) else {
                notes.push(format!("only point {} has {}", before.point.id(), part.id.described()));
                continue;
            };
            let mut pair = Vec::new();
            for (point, part) in [(&mut *before, &part), (&mut *second, &other)] {
                let root = point.root(part)?;
                notes.extend(root.notes());
                pair.push(Arc::clone(&root.folder));
            }
            roots.push((part.id.clone(), pair));
        }
        let question = Question::Diff(DiffRequest { partition, path, limit: 0, after: 0 });
        let page = self.streams.page(&question, after, limit, move |teller| {
            roots.iter().try_for_each(|(id, pair)| match &pair[..] {
                [before, after] => compare::compare([before, after], id, &names, teller),
                _ => Ok(()),
            })
        })?;
        Ok(Findings { notes, ..page })
    }
}

/// A point and the roots of its partitions that were looked into.
struct OpenPoint {
    // Before the point, which waits for the end of its server: that ends when nothing of the mount is open any more.
    roots: BTreeMap<PartId, Root>,
    point: PrivatePoint,
}

struct Root {
    folder: Arc<OwnedFd>,
    /// What one should know about its files; empty if there is nothing.
    note: String,
}

impl Root {
    fn notes(&self) -> Vec<String> {
        if self.note.is_empty() { Vec::new() } else { vec![self.note.clone()] }
    }
}

impl OpenPoint {
    fn partitions(&self) -> Findings<PartitionRow> {
        let items = self.point.parts().iter().map(rows::partition).collect();
        let unread = self.point.problems().to_vec();
        Findings { items, next: None, notes: Vec::new(), unread }
    }

    /// The part with a name, or all that have files.
    fn parts(&self, id: Option<&PartId>) -> Result<Vec<Part>, MountError> {
        match id {
            Some(_) => Ok(vec![self.point.part(id)?]),
            None => Ok(self.point.parts().iter().filter(|part| part.mounting().is_some()).cloned().collect()),
        }
    }

    /// The root folder of a part's files, mounted when it is asked for first.
    fn root(&mut self, part: &Part) -> Result<&Root, ApiError> {
        use std::collections::btree_map::Entry;
        match self.roots.entry(part.id.clone()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let (folder, note) = self.point.root(part)?;
                Ok(place.insert(Root { folder: Arc::new(folder), note }))
            }
        }
    }
}
