//! What is protected, how often, and how: policies as they are in force.
//!
//! Files that people write are parsed by `config::policy`; this is the result.

use super::ids::DiskIdentity;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a point is cut when nothing else is said.
pub const DEFAULT_LIVE_SYNC: Duration = Duration::from_secs(300);
/// The shortest interval between scheduled points.
pub const MIN_LIVE_SYNC: Duration = Duration::from_secs(1);

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
}

impl EffectivePolicy {
    /// Whether a disk is left out.
    #[must_use]
    pub fn excludes(&self, device: &str, identity: &DiskIdentity) -> bool {
        let short = device.trim_start_matches("/dev/");
        self.disks_excluded.iter().any(|text| text == device || text == short || identity.is_called(text))
    }
}

impl Default for EffectivePolicy {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            live_sync: DEFAULT_LIVE_SYNC,
            bandwidth_limit: None,
            disks_excluded: Vec::new(),
        }
    }
}
