//! Which neighbouring deltas of a chain are taken together as one merged index. Pure.
//!
//! Groups go by the deltas' positions in their generation and not in the chain, so that they stay the same while
//! the chain grows at one end and is consolidated at the other: 1 to 16, 17 to 32, ...; 16 of those; 16 of those.

use std::ops::Range;

/// Positions of a group of the first level, and groups of one in the level above.
const FAN: u64 = 16;
/// The largest groups take 4096 positions: an hour of points every second.
pub const MAX_LEVEL: u32 = 3;

/// Deltas of a chain that are read through one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// 0 for a single delta: it has its own index.
    pub level: u32,
    /// Counted from 0 within the level.
    pub number: u64,
    /// Which deltas of the chain.
    pub deltas: Range<usize>,
}

/// The fewest groups over the deltas in `range`, of levels up to `max_level`. `positions` are those of all deltas of
/// the chain, ascending, from 1 on. Only groups in which no delta can be added any more are used.
#[must_use]
pub fn groups(positions: &[u64], range: Range<usize>, max_level: u32) -> Vec<Group> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let large = (1..=max_level).rev().find_map(|level| group_at(positions, &range, at, level));
        let group = large.unwrap_or(Group { level: 0, number: positions[at], deltas: at..at + 1 });
        at = group.deltas.end;
        out.push(group);
    }
    out
}

/// The group of `level` that begins with the delta at `at`, if it is complete and more than that delta.
fn group_at(positions: &[u64], range: &Range<usize>, at: usize, level: u32) -> Option<Group> {
    let span = span(level);
    let number = positions[at].saturating_sub(1) / span;
    let (before, last) = (number * span, (number + 1) * span);
    let begins = at == range.start || positions[at - 1] <= before;
    let complete = positions.last().is_some_and(|newest| *newest >= last);
    let end = at + positions[at..].partition_point(|position| *position <= last);
    let inside = end <= range.end && end - at > 1;
    (begins && complete && inside).then_some(Group { level, number, deltas: at..end })
}

/// Positions of a group of a level.
#[must_use]
pub const fn span(level: u32) -> u64 {
    FAN.pow(level)
}

/// The largest level of which a group ends with the delta at this position; 0 if none does.
#[must_use]
pub fn largest_level(position: u64) -> u32 {
    (1..=MAX_LEVEL).rev().find(|level| position > 0 && position.is_multiple_of(span(*level))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_thousand_deltas_are_read_through_a_few_indexes() {
        let positions: Vec<u64> = (1..=1000).collect();
        let found = groups(&positions, 0..1000, MAX_LEVEL);
        let of = |level| found.iter().filter(|g| g.level == level).count();
        assert_eq!((of(3), of(2), of(1), of(0)), (0, 3, 14, 8));
        let day: Vec<u64> = (1..=86_400).collect();
        assert!(groups(&day, 0..86_400, MAX_LEVEL).len() <= 21 + 3 * 15);
    }

    #[test]
    fn groups_stay_while_the_chain_grows_and_is_folded() {
        let of = |positions: &[u64]| -> Vec<(u32, u64, u64)> {
            groups(positions, 0..positions.len(), MAX_LEVEL)
                .iter()
                .filter(|g| g.level > 0)
                .map(|g| (g.level, g.number, positions[g.deltas.end - 1]))
                .collect()
        };
        let all: Vec<u64> = (1..=40).collect();
        assert_eq!(of(&all), [(1, 0, 16), (1, 1, 32)]);
        assert_eq!(of(&all[5..]), [(1, 0, 16), (1, 1, 32)], "the oldest were folded into the base");
        assert_eq!(of(&all[..32]), [(1, 0, 16), (1, 1, 32)]);
        assert_eq!(of(&all[..31]), [(1, 0, 16)], "the newest may still come");
    }

    proptest! {
        #[test]
        fn groups_cover_the_chain_and_nest(
            kept in proptest::collection::btree_set(1u64..6000, 1..400), level in 0..=MAX_LEVEL
        ) {
            let positions: Vec<u64> = kept.into_iter().collect();
            let found = groups(&positions, 0..positions.len(), level);
            let mut at = 0;
            for group in &found {
                prop_assert_eq!(group.deltas.start, at);
                prop_assert!(!group.deltas.is_empty() && group.level <= level);
                at = group.deltas.end;
                if group.level > 0 {
                    // What a group is merged of is the same whatever chain it is part of.
                    let parts = groups(&positions, group.deltas.clone(), group.level - 1);
                    prop_assert_eq!(parts.first().unwrap().deltas.start, group.deltas.start);
                    prop_assert_eq!(parts.last().unwrap().deltas.end, group.deltas.end);
                    prop_assert!(parts.len() <= 16, "{}", parts.len());
                }
            }
            prop_assert_eq!(at, positions.len());
        }
    }
}
