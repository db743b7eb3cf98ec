//! After each round of a cut: ask the audit, go another round, freeze, or give up.
//!
//! As in live migration, rounds shrink the rest that must be read while nothing changes. What a freeze can hold is
//! judged twice: before it, from the round that went before, so that nobody is stopped in vain; and under it, when
//! the rest is known, so that it is never exceeded.

use crate::model::policy::{CutRules, Goal};
use std::time::Duration;

/// What is read under a freeze is kept in memory until the thaw.
pub const FREEZE_BYTES: u64 = 24 << 20;
/// Freezes that may be tried for one point: each stops writers for a moment.
const MAX_FREEZES: usize = 3;
/// Time from the second round on after which no new one begins.
const DEADLINE: Duration = Duration::from_secs(10);
/// Read speed that is assumed until a round was long enough to tell: a slow disk's.
const ASSUMED_SPEED: u64 = 50 << 20;
/// Shorter rounds measure the latency of a few reads rather than a speed.
const TELLING_BYTES: u64 = 1 << 20;
/// Rounds that must have failed to shrink the rest before a freeze goes before more of them.
const PATIENCE: usize = 3;

/// What one round cost and left, over all disks of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundResult {
    /// Bytes that were read.
    pub read: u64,
    /// Bytes that may have been overwritten while they were read, or since the sweep.
    pub contaminated: u64,
    pub took: Duration,
    /// The round was read under a freeze.
    pub frozen: bool,
    /// A freeze was tried for this round, whether it held or not.
    pub tried: bool,
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing is contaminated: ask the audit, then publish.
    Audit,
    /// Sweep and read again.
    Round,
    /// The same, with every filesystem frozen.
    Freeze,
    /// More rounds would not help: the point is fuzzy, for this reason.
    GiveUp(&'static str),
}

/// What one cut may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub rules: CutRules,
    /// There is something to freeze, and all of it can be.
    pub can_freeze: bool,
}

impl Plan {
    /// Decides after each round; `rounds` are those done so far.
    #[must_use]
    pub fn next(&self, rounds: &[RoundResult]) -> Next {
        let Some(last) = rounds.last() else { return Next::Round };
        let clean = last.contaminated == 0;
        let freezes = self.can_freeze && rounds.iter().filter(|r| r.tried).count() < MAX_FREEZES;
        match self.rules.goal {
            _ if clean && last.frozen => Next::Audit,
            Goal::Frozen if freezes => self.approach(rounds),
            _ if clean => Next::Audit,
            Goal::Best if freezes && self.is_stuck(rounds) && self.fits(rounds) => Next::Freeze,
            _ => self.again(rounds),
        }
    }

    /// Rounds until the rest fits a freeze, or will not get smaller.
    fn approach(&self, rounds: &[RoundResult]) -> Next {
        if self.fits(rounds) {
            return Next::Freeze;
        }
        match self.again(rounds) {
            Next::Round if !self.is_stuck(rounds) => Next::Round,
            _ => Next::GiveUp("what is left to read does not fit into a freeze, and does not get smaller"),
        }
    }

    fn again(&self, rounds: &[RoundResult]) -> Next {
        // The first rounds of a large backlog may take any time, as long as each leaves less to the next: the deadline
        // begins with the first short one, so that a point is never given up before it was tried with a small rest.
        let short = rounds.iter().position(|r| r.took < DEADLINE);
        let elapsed: Duration =
            rounds.iter().skip(short.map_or(rounds.len(), |at| at + 1)).map(|r| r.took).sum();
        if short.is_none() && stands_still(rounds) {
            Next::GiveUp("the disk is written as fast as it can be read")
        } else if rounds.len() >= self.rules.max_rounds as usize {
            Next::GiveUp("writers never paused long enough: the last round was overwritten while it was read")
        } else if elapsed > DEADLINE {
            Next::GiveUp("the deadline passed before a round went through unchanged")
        } else {
            Next::Round
        }
    }

    /// The rest stopped shrinking, or no further round is allowed.
    fn is_stuck(&self, rounds: &[RoundResult]) -> bool {
        stands_still(rounds) || self.again(rounds) != Next::Round
    }

    /// Whether a rest like that of the last round can be read while everything stands still. Half of the time, as
    /// more will have changed until then.
    fn fits(&self, rounds: &[RoundResult]) -> bool {
        let rest = rounds.last().map_or(0, |r| r.contaminated);
        rest <= FREEZE_BYTES && reading_time(rounds, rest) <= self.rules.max_freeze / 2
    }
}

/// The rest has not become smaller for a while.
fn stands_still(rounds: &[RoundResult]) -> bool {
    let shrank = |pair: &[RoundResult]| pair[1].contaminated / 9 < pair[0].contaminated / 10;
    let recent = &rounds[rounds.len().saturating_sub(PATIENCE + 1)..];
    recent.len() > PATIENCE && !recent.windows(2).any(shrank)
}

/// How long `bytes` take to read, by the speed of the rounds so far.
#[must_use]
pub fn reading_time(rounds: &[RoundResult], bytes: u64) -> Duration {
    let telling = rounds.iter().rev().find(|r| r.read >= TELLING_BYTES && !r.took.is_zero());
    let (read, took) = telling.map_or((ASSUMED_SPEED, Duration::from_secs(1)), |r| (r.read, r.took));
    let nanos = u128::from(bytes) * took.as_nanos() / u128::from(read);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Under a freeze, with the rest known: whether reading it ends in time. Otherwise everything is thawed at once, and
/// the rest is read as in any other round.
#[must_use]
pub fn fits_freeze(rounds: &[RoundResult], rest: u64, left: Duration) -> bool {
    rest <= FREEZE_BYTES && reading_time(rounds, rest) <= left * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(goal: Goal, can_freeze: bool) -> Plan {
        let rules =
            CutRules { goal, max_freeze: Duration::from_millis(500), max_rounds: 8, ..CutRules::default() };
        Plan { rules, can_freeze }
    }

    /// A round at 100 MiB/s.
    fn round(read_mib: u64, contaminated: u64) -> RoundResult {
        RoundResult {
            read: read_mib * MIB,
            contaminated,
            took: Duration::from_millis(read_mib * 10),
            ..RoundResult::default()
        }
    }

    fn tried(round: RoundResult, frozen: bool) -> RoundResult {
        RoundResult { tried: true, frozen, ..round }
    }

    #[test]
    fn a_clean_round_is_enough_unless_a_freeze_is_wanted() {
        for goal in [Goal::Quiet, Goal::Best] {
            assert_eq!(plan(goal, true).next(&[]), Next::Round);
            assert_eq!(plan(goal, true).next(&[round(1, 0)]), Next::Audit, "{goal:?}");
        }
        let frozen = plan(Goal::Frozen, true);
        assert_eq!(frozen.next(&[]), Next::Round, "what is old is read before anybody is stopped");
        assert_eq!(frozen.next(&[round(1, 0)]), Next::Freeze);
        assert_eq!(frozen.next(&[round(1, 0), tried(round(1, 0), true)]), Next::Audit);
        assert_eq!(plan(Goal::Frozen, false).next(&[round(1, 0)]), Next::Audit, "nothing can be frozen");
    }

    #[test]
    fn quiet_goes_on_until_a_bound_is_met_and_never_freezes() {
        let quiet = plan(Goal::Quiet, true);
        assert_eq!(quiet.next(&[round(1, 1); 7]), Next::Round);
        assert!(matches!(quiet.next(&[round(1, 1); 8]), Next::GiveUp(_)));
        let slow = RoundResult { took: Duration::from_secs(11), ..round(1, 1) };
        assert_eq!(quiet.next(&[slow]), Next::Round, "the first round takes the time it takes");
        assert_eq!(quiet.next(&[slow, slow]), Next::Round, "so does the second after a long image");
        assert!(matches!(quiet.next(&[slow; 4]), Next::GiveUp(_)), "but each must leave less");
        let short = RoundResult { took: Duration::from_secs(9), ..round(1, 1) };
        assert_eq!(quiet.next(&[slow, short, short]), Next::Round);
        assert!(matches!(quiet.next(&[slow, short, short, short]), Next::GiveUp(_)));
    }

    #[test]
    fn best_freezes_when_rounds_no_longer_shrink_the_rest() {
        let best = plan(Goal::Best, true);
        let shrinking: Vec<RoundResult> = [64, 32, 16, 8, 4].map(|left| round(left, left * MIB / 8)).into();
        assert_eq!(best.next(&shrinking), Next::Round);
        assert_eq!(best.next(&[round(4, MIB); 4]), Next::Freeze);
        assert_eq!(plan(Goal::Best, false).next(&[round(4, MIB); 4]), Next::Round);
        assert_eq!(best.next(&[round(100, 100 * MIB); 4]), Next::Round, "the rest would not fit");
        assert!(matches!(best.next(&[round(100, 100 * MIB); 8]), Next::GiveUp(_)));
    }

    #[test]
    fn frozen_waits_until_the_rest_fits() {
        let frozen = plan(Goal::Frozen, true);
        assert_eq!(frozen.next(&[round(500, 100 * MIB)]), Next::Round);
        assert_eq!(frozen.next(&[round(500, 100 * MIB), round(100, 8 * MIB)]), Next::Freeze);
        assert!(matches!(frozen.next(&[round(500, 100 * MIB); 4]), Next::GiveUp(_)));
    }

    #[test]
    fn freezes_that_fail_are_tried_again_a_few_times() {
        let frozen = plan(Goal::Frozen, true);
        let failed = tried(round(1, 4096), false);
        assert_eq!(frozen.next(&[round(1, 4096), failed, failed]), Next::Freeze);
        assert_eq!(frozen.next(&[failed, failed, failed]), Next::Round, "as far as it gets without");
        assert_eq!(frozen.next(&[failed, failed, tried(round(1, 0), false)]), Next::Audit);
        let overwritten = tried(round(1, 4096), true);
        assert_eq!(frozen.next(&[overwritten]), Next::Freeze, "somebody wrote past the freeze");
    }

    #[test]
    fn under_a_freeze_time_and_memory_decide() {
        let rounds = [round(100, MIB)];
        let left = Duration::from_millis(160);
        assert!(fits_freeze(&rounds, 12 * MIB, left));
        assert!(!fits_freeze(&rounds, 13 * MIB, left));
        assert!(!fits_freeze(&rounds, FREEZE_BYTES + 1, Duration::from_secs(5)));
        assert!(fits_freeze(&[], 10 * MIB, Duration::from_secs(1)), "a slow disk's speed is assumed");
        assert!(fits_freeze(
            &[RoundResult { read: u64::MAX, took: Duration::MAX, ..RoundResult::default() }],
            0,
            left
        ));
    }
}
