//! What is protected, how often, and how: policies as they are in force.
//!
//! Files that people write are parsed by `config::policy`; this is the result.

use super::ids::DiskIdentity;
use super::percent::Percent;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// How often a point is cut when nothing else is said.
pub const DEFAULT_LIVE_SYNC: Duration = Duration::from_secs(300);
/// The shortest interval between scheduled points.
pub const MIN_LIVE_SYNC: Duration = Duration::from_secs(1);

/// How long filesystems may be frozen unless a policy says otherwise.
pub const DEFAULT_MAX_FREEZE: Duration = Duration::from_millis(500);
/// What no policy can exceed: services time out, and watchdogs bark, after about ten seconds.
pub const FREEZE_CAP: Duration = Duration::from_secs(5);
/// Rounds of a cut unless a policy says otherwise: they shrink geometrically while the disk is read faster than it is
/// written. What is left then is a few granules that are rewritten all the time, and a round of them takes 2 ms: this many
/// are half a second in which writers have to pause once for so long.
pub const DEFAULT_MAX_ROUNDS: u32 = 256;

/// What a cut tries to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// Proven without freezing, or else fuzzy.
    Quiet,
    /// Filesystems are frozen for the last round.
    Frozen,
    /// Quiet if that can be proven within the bounds, otherwise frozen, otherwise fuzzy.
    #[default]
    Best,
}

/// How cuts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRules {
    pub goal: Goal,
    /// At most so long is anything frozen, for one point.
    pub max_freeze: Duration,
    pub max_rounds: u32,
    /// A point that is not what was asked for, or whose hooks failed, is not published, instead of with a true label.
    pub skip_unmet: bool,
}

impl Default for CutRules {
    fn default() -> Self {
        Self {
            goal: Goal::default(),
            max_freeze: DEFAULT_MAX_FREEZE,
            max_rounds: DEFAULT_MAX_ROUNDS,
            skip_unmet: false,
        }
    }
}

/// Which disks of an agent share a cut, so that their points are one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grouping {
    #[default]
    All,
    /// Every disk is cut by itself.
    Each,
    /// These together, and everything that none of the lists names.
    Lists(Vec<Vec<String>>),
}

/// A group of one agent's disks. Groups are cut in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    List(usize),
    Single(DiskIdentity),
    Rest,
}

impl Grouping {
    #[must_use]
    pub fn of(&self, device: &str, identity: &DiskIdentity) -> Group {
        match self {
            Self::All => Group::Rest,
            Self::Each => Group::Single(identity.clone()),
            Self::Lists(lists) => {
                let named = |list: &Vec<String>| list.iter().any(|text| is_meant(text, device, identity));
                lists.iter().position(named).map_or(Group::Rest, Group::List)
            }
        }
    }
}

/// Whether a policy means this disk: by device, with or without `/dev/`, or by identity.
fn is_meant(text: &str, device: &str, identity: &DiskIdentity) -> bool {
    text == device || Some(text) == device.strip_prefix("/dev/") || identity.is_called(text)
}

/// How often what is stored of an agent is read and compared with its digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyRule {
    pub every: Duration,
    /// How much of it each time; all if nothing is said.
    pub sample: Option<Percent>,
}

/// What the dispatcher asks of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectivePolicy {
    /// Name of the policy file it came from; `default` if none matches.
    pub name: String,
    /// Interval between scheduled points.
    pub live_sync: Duration,
    /// Bytes per second on the wire, all disks together; `None` is no limit.
    pub bandwidth_limit: Option<u64>,
    /// Devices left out (`/dev/sdb`, names or identities).
    pub disks_excluded: Vec<String>,
    pub cut: CutRules,
    pub group: Grouping,
}

impl EffectivePolicy {
    /// Whether a disk is left out.
    #[must_use]
    pub fn excludes(&self, device: &str, identity: &DiskIdentity) -> bool {
        self.disks_excluded.iter().any(|text| is_meant(text, device, identity))
    }
}

impl Default for EffectivePolicy {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            live_sync: DEFAULT_LIVE_SYNC,
            bandwidth_limit: None,
            disks_excluded: Vec::new(),
            cut: CutRules::default(),
            group: Grouping::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_grouped_as_the_policy_says() {
        let disk = |name: &str| DiskIdentity::Named(name.to_owned());
        let lists = Grouping::Lists(vec![vec!["/dev/sdb".into(), "log".into()], vec!["sdd".into()]]);
        assert_eq!(lists.of("/dev/sdb", &disk("data")), Group::List(0));
        assert_eq!(lists.of("/dev/sdc", &disk("log")), Group::List(0));
        assert_eq!(lists.of("/dev/sdd", &disk("x")), Group::List(1));
        assert_eq!(lists.of("/dev/sde", &disk("y")), Group::Rest);
        assert_eq!(Grouping::All.of("/dev/sdb", &disk("a")), Grouping::All.of("/dev/sdc", &disk("b")));
        assert_ne!(Grouping::Each.of("/dev/sdb", &disk("a")), Grouping::Each.of("/dev/sdb", &disk("b")));
    }
}
