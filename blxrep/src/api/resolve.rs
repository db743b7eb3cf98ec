//! From what a person types to the id of a thing. Pure.

use super::error::{ApiError, Result};
use super::types::{AgentRow, DiskRow, DiskState};
use crate::model::ids::AgentId;
use std::ops::RangeInclusive;

/// Fewer digits of an id than this match too much by accident.
pub const MIN_PREFIX_DIGITS: usize = 4;
/// Digits of a whole id.
const ID_DIGITS: usize = 16;
/// Candidates that an error names; more are hinted at.
pub const MAX_CANDIDATES: usize = 8;

/// The agent called `text`.
pub fn agent(agents: &[AgentRow], text: &str) -> Result<AgentId> {
    if let Some(row) = agents.iter().find(|row| row.id.as_str() == text) {
        return Ok(row.id.clone());
    }
    let known = list(agents.iter().map(|row| row.id.to_string()));
    Err(ApiError::not_found(if known.is_empty() {
        format!("no agent `{text}`: no agent has ever connected to this dispatcher")
    } else {
        format!("no agent `{text}`; known are {known}")
    }))
}

/// The disk that `text` names: a device (`/dev/sda` or `sda`), an identity (`wwn:...`) or an id.
///
/// Two disks can have been seen at the same device, one after the other: the one that is there now is meant.
pub fn disk<'a>(disks: &'a [DiskRow], text: &str) -> Result<&'a DiskRow> {
    let named = |row: &&DiskRow| {
        row.device == text
            || row.device.strip_prefix("/dev/") == Some(text)
            || row.identity == text
            || row.identity.split_once(':').is_some_and(|(_, value)| value == text)
            || row.id.to_string() == text
    };
    let mut found: Vec<&DiskRow> = disks.iter().filter(named).collect();
    if found.len() > 1 && found.iter().any(|row| row.state != DiskState::Absent) {
        found.retain(|row| row.state != DiskState::Absent);
    }
    let shown = |row: &DiskRow| format!("{} {} ({}, {})", row.agent, row.device, row.identity, row.id);
    match found[..] {
        [row] => Ok(row),
        [] => {
            let known = list(disks.iter().map(shown));
            Err(ApiError::not_found(if known.is_empty() {
                format!("no disk `{text}`: no disk is known here yet; `blxrep disks` lists them")
            } else {
                format!("no disk `{text}`; known are {known}")
            }))
        }
        _ => {
            let known = list(found.iter().map(|row| shown(row)));
            Err(ApiError::invalid(format!(
                "`{text}` is more than one disk: {known}; name its agent or its id"
            )))
        }
    }
}

/// The only disk that has points.
pub fn only_with_points(disks: &[DiskRow]) -> Result<&DiskRow> {
    let mut found = disks.iter().filter(|row| row.newest_point.is_some());
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(row),
        (None, _) => Err(ApiError::refused("the agent has no disk with points".to_owned())),
        (Some(_), Some(_)) => {
            let with_points = disks.iter().filter(|row| row.newest_point.is_some());
            let known = list(with_points.map(|row| row.device.clone()));
            Err(ApiError::invalid(format!(
                "the agent has more than one disk with points: name one of {known}"
            )))
        }
    }
}

/// The ids that begin with the digits of `text`, as a range of numbers. `what` is the noun for the error.
pub fn id_range(what: &str, text: &str) -> Result<RangeInclusive<u64>> {
    let digits = text.len();
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    let prefix = u64::from_str_radix(text, 16).ok().filter(|_| hex && digits <= ID_DIGITS);
    let Some(prefix) = prefix.filter(|_| digits >= MIN_PREFIX_DIGITS) else {
        return Err(ApiError::invalid(format!(
            "`{text}` is no {what} id: give its {ID_DIGITS} hex digits, or the first {MIN_PREFIX_DIGITS} or more of them"
        )));
    };
    let free_bits = u32::try_from(4 * (ID_DIGITS - digits)).unwrap_or(0);
    let first = prefix << free_bits;
    Ok(first..=first | !(u64::MAX << free_bits))
}

/// The one id that `text` is the beginning of, among the `found` ids of its [`id_range`].
pub fn id<T: Copy + std::fmt::Display>(what: &str, text: &str, found: &[T]) -> Result<T> {
    match *found {
        [id] => Ok(id),
        [] => Err(ApiError::not_found(format!("no {what} `{text}`; `blxrep {what}s` lists them"))),
        _ => Err(ApiError::invalid(format!(
            "`{text}` begins more than one {what} id: {}; give more digits",
            list(found.iter().map(ToString::to_string))
        ))),
    }
}

/// The first names, and a hint when there are more.
fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(MAX_CANDIDATES + 1).collect();
    match names.get(..MAX_CANDIDATES) {
        Some(first) if names.len() > MAX_CANDIDATES => format!("{} and more", first.join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ErrorCode;
    use super::*;
    use crate::model::ids::{DiskId, PointId};
    use crate::model::point::Coverage;
    use proptest::prelude::*;

    fn row(agent: &str, device: &str, id: u64, state: DiskState) -> DiskRow {
        DiskRow {
            id: DiskId(id),
            agent: agent.parse().unwrap(),
            device: device.into(),
            identity: format!("serial:{id}"),
            bytes: 1 << 30,
            state,
            coverage: Coverage::Proven,
            lag_seconds: None,
            backlog: None,
            newest_point: None,
            newest_cut: None,
            points: 0,
            policy: None,
            notes: Vec::new(),
            problem: None,
        }
    }

    #[test]
    fn a_disk_that_took_the_place_of_another_is_meant() {
        let old = row("web1", "/dev/sda", 1, DiskState::Absent);
        let new = row("web1", "/dev/sda", 2, DiskState::Protected);
        let disks = [old, new];
        assert_eq!(disk(&disks, "sda").map(|d| d.id), Ok(DiskId(2)));
        assert_eq!(disk(&disks, "serial:1").map(|d| d.id), Ok(DiskId(1)), "the old one has its own names");
    }

    #[test]
    fn a_disk_named_alike_on_two_agents_needs_its_agent() {
        let disks =
            ["web1", "web10"].map(|agent| row(agent, "/dev/sda", agent.len() as u64, DiskState::Offered));
        let error = disk(&disks, "sda").unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(
            error.message.contains("web1 /dev/sda") && error.message.contains("web10 /dev/sda"),
            "{error}"
        );
    }

    #[test]
    fn an_error_names_a_few_candidates_and_no_more() {
        let ids: Vec<PointId> = (1..=50).map(PointId).collect();
        let error = id("point", "0000", &ids).unwrap_err();
        assert!(error.message.contains("and more"), "{error}");
        assert_eq!(error.message.matches("00000000000000").count(), MAX_CANDIDATES, "{error}");
    }

    proptest! {
        /// The oracle is the text itself.
        #[test]
        fn a_prefix_is_a_range(of: u64, digits in MIN_PREFIX_DIGITS..=16usize, other: u64, near in 0..=16u32) {
            let text = PointId(of).to_string()[..digits].to_owned();
            let range = id_range("point", &text).unwrap();
            // Numbers close to the range, not only ones that are far from it.
            let masked = if near == 16 { other } else { of ^ (other >> (4 * near)) };
            for id in [of, other, masked, of.wrapping_add(1), range.end().wrapping_add(1)] {
                prop_assert_eq!(range.contains(&id), PointId(id).to_string().starts_with(&text));
            }
        }

        #[test]
        fn what_is_no_prefix_is_refused(text in "[0-9a-fA-F]{0,3}|[0-9a-f]{17,20}|[+-][0-9a-f]{4,8}|[ g-z]{4,8}") {
            prop_assert_eq!(id_range("point", &text).unwrap_err().code, ErrorCode::Invalid);
        }
    }
}
