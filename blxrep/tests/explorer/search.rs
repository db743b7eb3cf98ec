//! Breadth-first search through all states of a model: the first counterexample found is a shortest one.

use crate::agent::Model;
use crate::property;
use crate::state::State;
use crate::world::Mask;
use blxrep::engine::cut::Step;
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What happens between two states. Writes are numbered from 0 here and from 1 in what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    LoseIssue(usize),
    MarkIssued(usize),
    SettleLeftover(usize),
    Enter(usize),
    EnterPart(usize),
    LeavePart(usize),
    Land(usize, usize),
    LoseCompletion(usize),
    MarkCompleted(usize),
    Complete(usize),
    Retire(usize),
    Begin,
    Rescan,
    Sweep(Step, usize),
    SweepAstray(Step, usize),
    Read(usize),
    Look(usize),
    Audit(usize),
    HearPublished,
    Acknowledge(usize),
    Store,
    Publish,
    DropSent,
    OldAcknowledgement,
    Kill,
    KillInside,
    BreakOff(Mask),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LoseIssue(w) => write!(f, "W{} issued UNSEEN", w + 1),
            Self::MarkIssued(w) => write!(f, "W{} issued-bit", w + 1),
            Self::SettleLeftover(w) => write!(f, "W{} finds a leftover", w + 1),
            Self::Enter(w) => write!(f, "W{} in table", w + 1),
            Self::EnterPart(w) => write!(f, "part of W{} in table", w + 1),
            Self::LeavePart(w) => write!(f, "part of W{} out of table", w + 1),
            Self::Land(w, part) => write!(f, "W{} lands on part {part}", w + 1),
            Self::LoseCompletion(w) => write!(f, "W{} done UNSEEN", w + 1),
            Self::MarkCompleted(w) => write!(f, "W{} completed-bit", w + 1),
            Self::Complete(w) => write!(f, "W{} done", w + 1),
            Self::Retire(w) => write!(f, "W{} retired", w + 1),
            Self::Begin => f.write_str("BEGIN"),
            Self::Rescan => f.write_str("RESCAN"),
            Self::Sweep(step, granule) => write!(f, "{step:?} g{granule}"),
            Self::SweepAstray(step, granule) => write!(f, "ASTRAY {step:?} g{granule}"),
            Self::Read(part) => write!(f, "read part {part}"),
            Self::Look(granule) => write!(f, "look g{granule}"),
            Self::Audit(disk) => write!(f, "audit disk {disk}"),
            Self::HearPublished => f.write_str("hears it"),
            Self::Acknowledge(granule) => write!(f, "ack g{granule}"),
            Self::Store => f.write_str("record stored"),
            Self::Publish => f.write_str("PUBLISHED"),
            Self::DropSent => f.write_str("DROPPED"),
            Self::OldAcknowledgement => f.write_str("OLD ACK"),
            Self::Kill => f.write_str("KILL"),
            Self::KillInside => f.write_str("KILL between two instructions"),
            Self::BreakOff(lost) => write!(f, "BREAK, granules {lost:04b} did not arrive"),
        }
    }
}

/// What came of a search.
#[derive(Debug)]
pub struct Found {
    pub states: usize,
    /// No state is left that was not looked at.
    pub exhausted: bool,
    pub counterexample: Option<String>,
}

/// Where a state was first reached from.
struct Origin {
    parent: u32,
    action: Action,
}

/// Looks at up to `limit` states. States are told apart by 64 bits of hash: with ten million of them, one in 400,000
/// searches would take two for the same.
pub fn explore(model: &Model, limit: usize) -> Found {
    let first = State::first(&model.world);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut origins = vec![Origin { parent: 0, action: Action::Begin }];
    let mut frontier = vec![(0, first)];
    let mut next = Vec::new();
    while !frontier.is_empty() {
        let mut beyond = Vec::new();
        for (id, state) in frontier {
            model.steps(&state, &mut next);
            for (action, state) in next.drain(..) {
                if !seen.insert(fingerprint(&state)) {
                    continue;
                }
                let number = u32::try_from(origins.len()).unwrap();
                origins.push(Origin { parent: id, action });
                if let Some(why) = property::broken(&model.world, &state) {
                    let counterexample = Some(format!("{}\n  {why}", trace(&origins, number)));
                    return Found { states: origins.len(), exhausted: false, counterexample };
                }
                beyond.push((number, state));
            }
            if origins.len() >= limit {
                return Found { states: origins.len(), exhausted: false, counterexample: None };
            }
        }
        frontier = beyond;
    }
    Found { states: origins.len(), exhausted: true, counterexample: None }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// The way to a state, with runs of the agent's steps of one kind drawn together.
fn trace(origins: &[Origin], end: u32) -> String {
    let mut actions = Vec::new();
    let mut at = end;
    while at != 0 {
        let origin = &origins[at as usize];
        actions.push(origin.action.to_string());
        at = origin.parent;
    }
    actions.reverse();
    let mut text = String::from("  ");
    let mut column = 2;
    for action in actions {
        if column + action.len() > 100 {
            text.push_str("\n  ");
            column = 2;
        }
        column += action.len() + 3;
        text.push_str(&action);
        text.push_str(" > ");
    }
    text.trim_end_matches(" > ").to_owned()
}
