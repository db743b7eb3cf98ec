//! What the screen knows, whatever page is shown. Pure.

use super::theme::Theme;
use crate::api::types::{ActionRow, AgentRow, DiskRow, DispatcherStatus};
use crate::model::action::ActionState;
use crate::model::ids::{ActionId, AgentId, DiskId};
use jiff::Timestamp;
use ratatui::layout::Rect;
use std::collections::{BTreeMap, VecDeque};

/// Lines above every page: where one is, and how things are.
pub const HEAD_LINES: u16 = 2;
/// A lost connection and its reason.
pub const BANNER_LINES: u16 = 3;
/// The keys.
pub const FOOT_LINES: u16 = 1;
/// A rate is that of the last looks, so that it follows when something gets slower.
const SAMPLES: usize = 16;

/// What the dispatcher said at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    pub at: Timestamp,
    pub status: DispatcherStatus,
    /// Ordered by id.
    pub agents: Vec<AgentRow>,
    /// Ordered by agent and device.
    pub disks: Vec<DiskRow>,
    /// What goes on first, then what ended last.
    pub actions: Vec<ActionRow>,
}

/// How far an action was at the last looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace(VecDeque<(Timestamp, u64)>);

impl Pace {
    fn look(&mut self, at: Timestamp, done: u64) {
        // Begun again from the start: what was before says nothing.
        if self.0.back().is_some_and(|(_, before)| *before > done) {
            self.0.clear();
        }
        self.0.push_back((at, done));
        if self.0.len() > SAMPLES {
            self.0.pop_front();
        }
    }

    /// Bytes per second; `None` before there is a full second to judge by.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let millis = u64::try_from(last.0.as_millisecond() - first.0.as_millisecond()).ok()?;
        let moved = u128::from(last.1.saturating_sub(first.1));
        if millis < 1_000 { None } else { u64::try_from(moved * 1_000 / u128::from(millis)).ok() }
    }
}

/// Everything that all pages are drawn from.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    /// Columns and lines of the terminal.
    pub size: (u16, u16),
    pub theme: Theme,
    /// Socket of the dispatcher that is shown.
    pub socket: String,
    /// The last good answer; `None` before the first.
    pub data: Option<Data>,
    /// Why the last look failed; `None` while all is well.
    pub trouble: Option<String>,
    /// Whether the dispatcher tells what happens, so that it is asked less often.
    pub told: bool,
    paces: BTreeMap<ActionId, Pace>,
}

impl World {
    #[must_use]
    pub fn new(socket: String, now: Timestamp, theme: Theme) -> Self {
        let (data, trouble, paces) = (None, None, BTreeMap::new());
        Self { now, size: (80, 24), theme, socket, data, trouble, told: false, paces }
    }

    /// Takes in an answer.
    pub fn learn(&mut self, mut data: Data) {
        self.now = self.now.max(data.at);
        self.trouble = None;
        data.actions.sort_by_key(|row| {
            let ended = row.state.is_final();
            // What goes on is in the order in which it was begun; what ended, the last first.
            let time = if ended { -row.updated.as_millisecond() } else { row.created.as_millisecond() };
            (ended, time, row.id)
        });
        let running =
            |id: &ActionId| data.actions.iter().any(|row| row.id == *id && row.state == ActionState::Running);
        self.paces.retain(|id, _| running(id));
        for row in data.actions.iter().filter(|row| row.state == ActionState::Running) {
            self.paces.entry(row.id).or_default().look(data.at, row.done);
        }
        self.data = Some(data);
    }

    /// Bytes per second of an action that runs.
    #[must_use]
    pub fn rate(&self, action: ActionId) -> Option<u64> {
        self.paces.get(&action)?.rate()
    }

    /// Where a page is drawn.
    #[must_use]
    pub fn body(&self) -> Rect {
        let head = HEAD_LINES + if self.trouble.is_some() { BANNER_LINES } else { 0 };
        let (width, height) = self.size;
        let foot = FOOT_LINES.min(height);
        Rect { x: 0, y: head.min(height - foot), width, height: height.saturating_sub(head + foot) }
    }

    #[must_use]
    pub fn agents(&self) -> &[AgentRow] {
        self.data.as_ref().map_or(&[], |data| &data.agents)
    }

    #[must_use]
    pub fn disks(&self) -> &[DiskRow] {
        self.data.as_ref().map_or(&[], |data| &data.disks)
    }

    #[must_use]
    pub fn actions(&self) -> &[ActionRow] {
        self.data.as_ref().map_or(&[], |data| &data.actions)
    }

    #[must_use]
    pub fn agent(&self, id: &AgentId) -> Option<&AgentRow> {
        self.agents().iter().find(|row| row.id == *id)
    }

    #[must_use]
    pub fn disk(&self, id: DiskId) -> Option<&DiskRow> {
        self.disks().iter().find(|row| row.id == id)
    }

    #[must_use]
    pub fn action(&self, id: ActionId) -> Option<&ActionRow> {
        self.actions().iter().find(|row| row.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_looks() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let mut pace = Pace::default();
        pace.look(at(0), 1_000);
        assert_eq!(pace.rate(), None);
        pace.look(at(4), 9_000);
        assert_eq!(pace.rate(), Some(2_000));
        (5..40).for_each(|s| pace.look(at(s), 9_000));
        assert_eq!(pace.rate(), Some(0), "it stands still");
        pace.look(at(40), 100);
        assert_eq!(pace.rate(), None, "begun again");
    }
}
