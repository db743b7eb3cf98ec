//! What an agent is asked to do for a disk that it offers.

use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::ActionId;

/// What the catalog knows of one offered disk.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// A base has been published.
    pub has_base: bool,
    /// A policy names the agent.
    pub in_policy: bool,
    /// That policy leaves the disk out.
    pub excluded: bool,
    /// The disk's snapshot and live actions, newest first.
    pub actions: Vec<&'a Action>,
}

/// The duty of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: no policy asks for it, or a person paused or cancelled it.
    Idle,
    /// Leave the disk alone, until the policy that excludes it changes.
    Release(ActionId),
    /// Go on with an action that exists.
    Snapshot(ActionId),
    Live {
        action: ActionId,
        paused: bool,
    },
    /// Begin one.
    NewSnapshot,
    NewLive,
}

/// Decides from the catalog alone, so that a restart of either side comes to the same answer. What a person
/// cancelled stays cancelled until a person asks for it again.
#[must_use]
pub fn duty(facts: &Facts<'_>) -> Duty {
    let of = |kind| move |a: &&&Action| a.kind == kind;
    let snapshot = facts.actions.iter().find(of(ActionKind::Snapshot));
    let live = facts.actions.iter().find(of(ActionKind::Live));
    if facts.excluded {
        let open = facts.actions.iter().find(|a| !a.state.is_final());
        return open.map_or(Duty::Idle, |a| Duty::Release(a.id));
    }
    if let Some(open) = snapshot.filter(|a| !a.state.is_final()) {
        return if open.state == ActionState::Paused { Duty::Idle } else { Duty::Snapshot(open.id) };
    }
    if facts.has_base {
        return match live {
            Some(open) if !open.state.is_final() => {
                Duty::Live { action: open.id, paused: open.state == ActionState::Paused }
            }
            Some(ended) if ended.state == ActionState::Cancelled => Duty::Idle,
            _ => Duty::NewLive,
        };
    }
    let cancelled = snapshot.is_some_and(|a| a.state == ActionState::Cancelled);
    if facts.in_policy && !cancelled { Duty::NewSnapshot } else { Duty::Idle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::DiskId;
    use jiff::Timestamp;

    fn action(id: u64, kind: ActionKind, state: ActionState) -> Action {
        Action {
            id: ActionId(id),
            kind,
            agent: Some("web1".parse().unwrap()),
            disk: Some(DiskId(1)),
            state,
            reason: String::new(),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
            done: 0,
            total: 0,
        }
    }

    fn decide(has_base: bool, in_policy: bool, actions: &[Action]) -> Duty {
        duty(&Facts { has_base, in_policy, excluded: false, actions: actions.iter().collect() })
    }

    #[test]
    fn a_disk_that_a_policy_leaves_out_is_released_and_taken_up_again() {
        let live = [action(4, ActionKind::Live, ActionState::Running)];
        let facts =
            |excluded| Facts { has_base: true, in_policy: true, excluded, actions: live.iter().collect() };
        assert_eq!(duty(&facts(true)), Duty::Release(ActionId(4)));
        assert_eq!(duty(&facts(false)), Duty::Live { action: ActionId(4), paused: false });
        assert_eq!(duty(&Facts { excluded: true, in_policy: true, ..Facts::default() }), Duty::Idle);
    }

    #[test]
    fn a_policy_starts_an_image_and_a_base_starts_live() {
        assert_eq!(decide(false, true, &[]), Duty::NewSnapshot);
        assert_eq!(decide(false, false, &[]), Duty::Idle);
        assert_eq!(decide(true, false, &[]), Duty::NewLive);
    }

    #[test]
    fn what_is_open_goes_on_and_what_a_person_stopped_stays_stopped() {
        use ActionKind::{Live, Snapshot};
        use ActionState::{Cancelled, Failed, Paused, Queued, Running, Succeeded};
        let id = ActionId(1);
        assert_eq!(decide(false, false, &[action(1, Snapshot, Running)]), Duty::Snapshot(id));
        assert_eq!(decide(true, true, &[action(1, Snapshot, Queued)]), Duty::Snapshot(id));
        assert_eq!(decide(false, true, &[action(1, Snapshot, Paused)]), Duty::Idle);
        assert_eq!(decide(false, true, &[action(1, Snapshot, Cancelled)]), Duty::Idle);
        assert_eq!(decide(false, true, &[action(1, Snapshot, Failed)]), Duty::NewSnapshot);
        let done = action(2, Snapshot, Succeeded);
        assert_eq!(
            decide(true, true, &[action(1, Live, Paused), done.clone()]),
            Duty::Live { action: id, paused: true }
        );
        assert_eq!(decide(true, true, &[action(1, Live, Cancelled), done]), Duty::Idle);
    }
}
