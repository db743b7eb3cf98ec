//! What a verification covers.

use super::ids::{AgentId, PointId};

/// What is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    #[default]
    Store,
    /// The disks of one agent.
    Agent(AgentId),
    /// One point and what it depends on.
    Point(PointId),
}
