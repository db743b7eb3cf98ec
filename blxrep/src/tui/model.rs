//! What the screen knows. Pure.

use crate::api::types::{ActionRow, AgentRow, DiskRow, DispatcherStatus, PointRow};
use jiff::Timestamp;

/// One of the four lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Agents,
    Disks,
    Points,
    Actions,
}

impl Pane {
    /// In the order of the screen.
    pub const ALL: [Self; 4] = [Self::Agents, Self::Disks, Self::Points, Self::Actions];

    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Agents => Self::Disks,
            Self::Disks => Self::Points,
            Self::Points => Self::Actions,
            Self::Actions => Self::Agents,
        }
    }

    #[must_use]
    pub fn previous(self) -> Self {
        self.next().next().next()
    }
}

/// What the dispatcher said at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub at: Timestamp,
    pub status: DispatcherStatus,
    pub agents: Vec<AgentRow>,
    pub disks: Vec<DiskRow>,
    /// Newest first.
    pub points: Vec<PointRow>,
    /// Newest first.
    pub actions: Vec<ActionRow>,
}

impl Data {
    /// Ids of a list's rows, as they are shown from the top.
    #[must_use]
    pub fn ids(&self, pane: Pane) -> Vec<String> {
        match pane {
            Pane::Agents => self.agents.iter().map(|row| row.id.to_string()).collect(),
            Pane::Disks => self.disks.iter().map(|row| row.id.to_string()).collect(),
            Pane::Points => self.points.iter().map(|row| row.id.to_string()).collect(),
            Pane::Actions => self.actions.iter().map(|row| row.id.to_string()).collect(),
        }
    }
}

/// The selected row of each list; 0 where a list is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub agents: usize,
    pub disks: usize,
    pub points: usize,
    pub actions: usize,
}

impl Selection {
    #[must_use]
    pub fn of(&self, pane: Pane) -> usize {
        match pane {
            Pane::Agents => self.agents,
            Pane::Disks => self.disks,
            Pane::Points => self.points,
            Pane::Actions => self.actions,
        }
    }

    pub fn of_mut(&mut self, pane: Pane) -> &mut usize {
        match pane {
            Pane::Agents => &mut self.agents,
            Pane::Disks => &mut self.disks,
            Pane::Points => &mut self.points,
            Pane::Actions => &mut self.actions,
        }
    }
}

/// Everything that a screen is drawn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub now: Timestamp,
    /// Socket of the dispatcher that is shown.
    pub socket: String,
    /// The last good answer; `None` before the first.
    pub data: Option<Data>,
    /// Why the last look failed; `None` while all is well.
    pub trouble: Option<String>,
    /// A look is under way.
    pub fetching: bool,
    pub focus: Pane,
    pub selection: Selection,
    pub help: bool,
}

impl Model {
    #[must_use]
    pub fn new(socket: String, now: Timestamp) -> Self {
        Self {
            now,
            socket,
            data: None,
            trouble: None,
            fetching: false,
            focus: Pane::Disks,
            selection: Selection::default(),
            help: false,
        }
    }
}
