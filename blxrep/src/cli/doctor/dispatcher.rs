//! What a dispatcher on this host says of itself.

use super::Check;
use crate::api::client::{Client, ClientError};
use crate::api::types::{ActionRow, DispatcherStatus, ListQuery};
use crate::cli::DataDir;
use crate::model::action::{ActionKind, ActionState};
use crate::model::ids::DiskId;
use crate::model::units::ByteCount;
use std::collections::BTreeMap;

/// Whether a dispatcher answers, and what it has failed at. Nothing where there is none to be expected.
pub async fn checks(data_dir: &DataDir) -> Vec<Check> {
    const NAME: &str = "dispatcher";
    let path = data_dir.path();
    if !data_dir.is_given() && !path.is_dir() {
        return Vec::new();
    }
    let client = Client::new(path);
    match client.status().await {
        Ok(status) => {
            let mut checks = vec![Check::ok(NAME, format!("{}{}", about(&status), space(&status)))];
            match client.actions(&ListQuery::default()).await {
                Ok(actions) => checks.extend(consolidations(&actions)),
                Err(error) => checks.push(Check::failed("actions", error.to_string(), "see its log")),
            }
            checks
        }
        Err(ClientError::Unreachable { socket, source, .. }) => {
            let remedy =
                format!("start it with `blxrep start --mode dispatcher --data-dir {}`", path.display());
            vec![Check::warning(NAME, format!("none answers at {}: {source}", socket.display()), remedy)]
        }
        Err(error) => vec![Check::failed(NAME, error.to_string(), "see its log")],
    }
}

/// The disks whose last consolidation failed: their points are not let go any more, and the store grows.
fn consolidations(actions: &[ActionRow]) -> Vec<Check> {
    let mut last: BTreeMap<Option<DiskId>, &ActionRow> = BTreeMap::new();
    let ended = |a: &&ActionRow| {
        a.kind == ActionKind::Consolidate && matches!(a.state, ActionState::Failed | ActionState::Succeeded)
    };
    for action in actions.iter().filter(ended) {
        let known = last.entry(action.disk).or_insert(action);
        if action.updated > known.updated {
            *known = action;
        }
    }
    let failed = last.into_values().filter(|action| action.state == ActionState::Failed);
    failed
        .map(|action| {
            let agent = action.agent.as_ref().map_or("an agent", |agent| agent.as_str());
            let disk = action.device.as_deref().unwrap_or("a disk");
            Check::warning(
                "consolidation",
                format!("{agent}, {disk}: {}", action.reason),
                "`blxrep verify` names damaged files; what is not damaged is let go all the same",
            )
        })
        .collect()
}

fn about(status: &DispatcherStatus) -> String {
    format!(
        "version {} listens on {}, {} of {} agents online",
        status.version, status.listen, status.agents_online, status.agents
    )
}

/// What its store takes and when it will be full, as far as it is known.
fn space(status: &DispatcherStatus) -> String {
    let mut text = String::new();
    if let Some(stored) = status.stored_bytes {
        text.push_str(&format!("; {} points take {}", status.points, ByteCount(stored)));
    }
    if let Some(growth) = status.growth_bytes_per_day {
        text.push_str(&format!(", {} more a day", ByteCount(growth)));
    }
    if let Some(days) = status.days_to_full {
        text.push_str(&format!(", full in {days} days"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ActionId;
    use jiff::Timestamp;

    #[test]
    fn a_disk_is_named_as_long_as_its_last_consolidation_failed() {
        let action = |second, disk, state| ActionRow {
            id: ActionId(second),
            kind: ActionKind::Consolidate,
            agent: "web1".parse().ok(),
            disk: Some(DiskId(disk)),
            device: Some("/dev/vda".to_owned()),
            state,
            reason: "its sidecar is damaged".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::from_second(second as i64).unwrap(),
            done: 0,
            total: 0,
        };
        use ActionState::{Cancelled, Failed, Succeeded};
        let rows =
            [action(1, 1, Failed), action(3, 1, Succeeded), action(2, 2, Succeeded), action(5, 2, Failed)];
        let found = consolidations(&rows);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("web1, /dev/vda: its sidecar is damaged"), "{found:?}");
        assert_eq!(consolidations(&[action(6, 2, Failed), action(7, 2, Cancelled)]).len(), 1);
        assert_eq!(consolidations(&[]), []);
    }
}
