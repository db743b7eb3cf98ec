//! Verifications that policies ask for: whose turn it is. One runs at a time, at the disks' leisure.

use super::hub::Hub;
use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId};
use crate::model::policy::VerifyRule;
use crate::model::verification::Scope;
use crate::store::sample::Sample;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Why a job ended with the dispatcher. Such a verification counts as not done.
pub const CUT_SHORT: &str = "the dispatcher stopped before it was done; start it again";

/// When what is stored of each agent was verified last.
#[derive(Debug, Default)]
pub struct Schedule {
    last: BTreeMap<AgentId, Timestamp>,
    running: Option<ActionId>,
}

/// An agent whose files are to be verified from time to time.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub agent: AgentId,
    pub first_seen: Timestamp,
    pub rule: VerifyRule,
}

impl Schedule {
    /// Goes by the actions that there were, so that a restart changes nothing.
    pub fn of(actions: &[Action]) -> Self {
        let mut last: BTreeMap<AgentId, Timestamp> = BTreeMap::new();
        let counts = |a: &&Action| {
            // One that is still open was cut short as well, and is about to be told so.
            a.kind == ActionKind::Verify && a.disk.is_none() && a.state.is_final() && a.reason != CUT_SHORT
        };
        for action in actions.iter().filter(counts) {
            if let Some(agent) = &action.agent {
                let slot = last.entry(agent.clone()).or_insert(action.created);
                *slot = action.created.max(*slot);
            }
        }
        Self { last, running: None }
    }

    /// The agent that has waited longest of those whose time has come.
    pub fn due(&self, now: Timestamp, candidates: Vec<Candidate>) -> Option<Candidate> {
        let next = |candidate: &Candidate| {
            let last = self.last.get(&candidate.agent).copied().unwrap_or(candidate.first_seen);
            last.saturating_add(candidate.rule.every).unwrap_or(Timestamp::MAX)
        };
        candidates.into_iter().filter(|candidate| next(candidate) <= now).min_by_key(next)
    }

    fn begun(&mut self, agent: AgentId, action: ActionId, now: Timestamp) {
        self.last.insert(agent, now);
        self.running = Some(action);
    }
}

impl Hub {
    /// Starts the verification that is due, if none of these runs.
    pub fn verify_by_policy(&mut self) {
        if self.schedule.running.is_some_and(|action| self.open.contains_key(&action)) {
            return;
        }
        let now = Timestamp::now();
        let candidates = match self.store.agents() {
            Ok(agents) => agents.into_iter().filter_map(|row| {
                let rule = self.policies.verify_rule(&row.id)?;
                Some(Candidate { agent: row.id, first_seen: row.first_seen, rule })
            }),
            Err(error) => return tracing::error!(%error, "cannot tell whose files are to be verified"),
        };
        let Some(due) = self.schedule.due(now, candidates.collect()) else { return };
        // Restores of people come first; there is room again at some tick.
        if self.jobs.room().is_err() {
            return;
        }
        let sample = due.rule.sample.map(|share| Sample { share, seed: crate::io::random::id() });
        match self.begin_verify(Scope::Agent(due.agent.clone()), sample, true) {
            Ok(action) => self.schedule.begun(due.agent, action, now),
            Err(error) => tracing::error!(agent = %due.agent, %error, "cannot start a verification"),
        }
    }

    /// Starts to verify. The seed of a sample is a random one.
    pub fn begin_verify(
        &mut self,
        scope: Scope,
        sample: Option<Sample>,
        idle: bool,
    ) -> Result<ActionId, crate::store::StoreError> {
        let (agent, disk) = match &scope {
            Scope::Store => (None, None),
            Scope::Agent(agent) => (Some(agent.clone()), None),
            Scope::Point(point) => {
                let disk = self.store.disk(self.store.point(*point)?.disk)?;
                (Some(disk.agent), Some(disk.id))
            }
        };
        let action = self.begin_of(ActionKind::Verify, agent, disk)?;
        self.set_state(action, ActionState::Running, String::new());
        self.jobs.verify(action, scope, sample, idle);
        Ok(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn candidate(agent: &str, every: u64) -> Candidate {
        let rule = VerifyRule { every: Duration::from_secs(every), sample: None };
        Candidate { agent: agent.parse().unwrap(), first_seen: at(100), rule }
    }

    fn verified(agent: &str, created: i64, reason: &str) -> Action {
        Action {
            id: ActionId(1),
            kind: ActionKind::Verify,
            agent: Some(agent.parse().unwrap()),
            disk: None,
            state: ActionState::Failed,
            reason: reason.to_owned(),
            created: at(created),
            updated: at(created),
            done: 0,
            total: 0,
        }
    }

    fn due(schedule: &Schedule, now: i64, candidates: &[Candidate]) -> Option<String> {
        schedule.due(at(now), candidates.to_vec()).map(|candidate| candidate.agent.to_string())
    }

    #[test]
    fn the_one_that_has_waited_longest_is_next() {
        let both = [candidate("a", 50), candidate("b", 20)];
        let schedule = Schedule::default();
        assert_eq!(due(&schedule, 119, &both), None, "nobody's time has come");
        assert_eq!(due(&schedule, 120, &both), Some("b".to_owned()));
        assert_eq!(due(&schedule, 200, &both), Some("b".to_owned()));
        let schedule = Schedule::of(&[verified("b", 190, "2 problems found"), verified("b", 150, "")]);
        assert_eq!(due(&schedule, 200, &both), Some("a".to_owned()), "also one that found damage is done");
        assert_eq!(due(&schedule, 209, &both[1..]), None);
        assert_eq!(due(&schedule, 210, &both[1..]), Some("b".to_owned()));
    }

    #[test]
    fn one_that_was_cut_short_counts_as_none() {
        let open = Action { state: ActionState::Running, ..verified("b", 190, "") };
        for cut_short in [verified("b", 190, CUT_SHORT), open] {
            let schedule = Schedule::of(&[cut_short]);
            assert_eq!(due(&schedule, 200, &[candidate("b", 20)]), Some("b".to_owned()));
        }
    }
}
