//! Points of one cut are published together or not at all: the cuts that wait for members.
//!
//! ```text
//!            join (first member)             all members ready
//! (nothing) ---------------------> waiting ---------------------> complete (handed out, forgotten)
//!                                     |
//!                                     | abort: a member failed, was cancelled, or its connection ended
//!                                     v
//!                                  dissolved (members handed back; who comes later is refused)
//! ```

use crate::model::ids::{CutId, DiskIdentity};
use std::collections::{BTreeMap, VecDeque};

/// Cuts that wait at the same time, over all agents; one more is refused. An agent has at most two.
pub const MAX_WAITING: usize = 4096;

/// Dissolved cuts that are remembered. Their last members come within moments, and an agent has at most two cuts.
const REMEMBERED: usize = 1024;

/// A member that is ready: whatever the caller keeps for it.
#[derive(Debug)]
struct Waiting<T> {
    expected: Vec<DiskIdentity>,
    ready: Vec<(DiskIdentity, T)>,
}

/// Why a member cannot join its cut.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GatherError {
    #[error("disk {0} is not a member of cut {1}")]
    NotAMember(DiskIdentity, CutId),
    #[error("disk {0} has joined cut {1} already")]
    Twice(DiskIdentity, CutId),
    #[error("disk {0} names other members of cut {1} than the first member did")]
    OtherGroup(DiskIdentity, CutId),
    #[error("another disk of cut {0} failed")]
    Dissolved(CutId),
    #[error("{MAX_WAITING} cuts are waiting for members already")]
    TooMany,
}

/// Key of a cut: ids are the agents' own, so the agent belongs to it.
type Key<A> = (A, CutId);

/// Collects the members of open cuts. `A` names the agent.
#[derive(Debug)]
pub struct Gather<A, T> {
    cuts: BTreeMap<Key<A>, Waiting<T>>,
    /// The newest last.
    dissolved: VecDeque<Key<A>>,
}

impl<A, T> Default for Gather<A, T> {
    fn default() -> Self {
        Self { cuts: BTreeMap::new(), dissolved: VecDeque::new() }
    }
}

impl<A: Ord + Clone, T> Gather<A, T> {
    /// A member is ready. Returns all members once the last one is; on an error the member is handed back.
    pub fn join(
        &mut self,
        agent: &A,
        cut: CutId,
        group: &[DiskIdentity],
        disk: &DiskIdentity,
        member: T,
    ) -> Result<Option<Vec<T>>, (GatherError, T)> {
        if !group.contains(disk) {
            return Err((GatherError::NotAMember(disk.clone(), cut), member));
        }
        let key = (agent.clone(), cut);
        if self.dissolved.contains(&key) {
            return Err((GatherError::Dissolved(cut), member));
        }
        if !self.cuts.contains_key(&key) && self.cuts.len() >= MAX_WAITING {
            return Err((GatherError::TooMany, member));
        }
        let waiting = self
            .cuts
            .entry(key.clone())
            .or_insert_with(|| Waiting { expected: group.to_vec(), ready: Vec::with_capacity(group.len()) });
        if waiting.expected != group {
            return Err((GatherError::OtherGroup(disk.clone(), cut), member));
        }
        if waiting.ready.iter().any(|(d, _)| d == disk) {
            return Err((GatherError::Twice(disk.clone(), cut), member));
        }
        waiting.ready.push((disk.clone(), member));
        if waiting.ready.len() < waiting.expected.len() {
            return Ok(None);
        }
        let complete = self.cuts.remove(&key);
        Ok(complete.map(|w| w.ready.into_iter().map(|(_, member)| member).collect()))
    }

    /// A member will not come: hands back those that wait for it, and refuses those that are still to come.
    pub fn abort(&mut self, agent: &A, cut: CutId) -> Vec<T> {
        let key = (agent.clone(), cut);
        let dissolved = self.cuts.remove(&key);
        if self.dissolved.len() >= REMEMBERED {
            self.dissolved.pop_front();
        }
        self.dissolved.push_back(key);
        dissolved.map(|w| w.ready.into_iter().map(|(_, member)| member).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str) -> DiskIdentity {
        DiskIdentity::Named(name.to_owned())
    }

    #[test]
    fn a_cut_is_complete_with_its_last_member_and_then_forgotten() {
        let mut gather = Gather::default();
        let group = [disk("a"), disk("b")];
        assert_eq!(gather.join(&"web1", CutId(7), &group, &group[0], 1), Ok(None));
        assert_eq!(gather.join(&"web10", CutId(7), &group, &group[1], 9), Ok(None));
        assert_eq!(gather.join(&"web1", CutId(7), &group, &group[1], 2), Ok(Some(vec![1, 2])));
        assert!(gather.abort(&"web1", CutId(7)).is_empty());
        assert_eq!(gather.abort(&"web10", CutId(7)), vec![9]);
    }

    #[test]
    fn strangers_and_repeats_are_handed_back() {
        let mut gather = Gather::default();
        let group = [disk("a"), disk("b")];
        assert!(gather.join(&"x", CutId(1), &group, &disk("c"), 0).is_err());
        assert_eq!(gather.join(&"x", CutId(1), &group, &disk("a"), 1), Ok(None));
        assert!(gather.join(&"x", CutId(1), &group, &disk("a"), 2).is_err());
        assert!(gather.join(&"x", CutId(1), &[disk("b")], &disk("b"), 3).is_err());
        assert_eq!(gather.abort(&"x", CutId(1)), vec![1]);
    }

    #[test]
    fn who_comes_after_a_failure_does_not_wait() {
        let mut gather = Gather::default();
        let group = [disk("a"), disk("b")];
        assert!(gather.abort(&"x", CutId(1)).is_empty(), "the first to fail had not joined");
        let late = gather.join(&"x", CutId(1), &group, &group[1], 2);
        assert_eq!(late, Err((GatherError::Dissolved(CutId(1)), 2)));
        assert_eq!(gather.join(&"x", CutId(2), &group, &group[1], 2), Ok(None), "the next cut is another");
        for cut in 10..5000 {
            gather.abort(&"x", CutId(cut));
        }
        assert!(gather.dissolved.len() <= REMEMBERED);
    }

    #[test]
    fn a_group_of_one_is_complete_at_once() {
        let mut gather = Gather::default();
        assert_eq!(gather.join(&"x", CutId(1), &[disk("a")], &disk("a"), 1), Ok(Some(vec![1])));
    }
}
