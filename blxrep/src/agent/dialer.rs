//! How this agent reaches its dispatcher.

use crate::io::channel::{ChannelError, Connection, connect};
use crate::model::ids::AgentId;
use crate::wire::hello::{Accepted, Channel, ClientHello, Credentials, Role};
use crate::wire::version::SUPPORTED;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Everything that a hello needs but the channel.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub address: String,
    pub agent: AgentId,
    /// Random, one per life of the agent.
    pub session: u64,
    pub boot_id: [u8; 16],
    pub credentials: Credentials,
}

impl Dialer {
    /// Connects and greets.
    pub async fn dial<S, R>(&self, channel: Channel) -> Result<(Connection<S, R>, Accepted), ChannelError>
    where
        S: Serialize,
        R: DeserializeOwned,
    {
        let hello = ClientHello {
            versions: SUPPORTED,
            role: Role::Agent,
            channel,
            flags: 0,
            session: self.session,
            boot_id: self.boot_id,
            agent: self.agent.clone(),
            credentials: self.credentials.clone(),
        };
        connect(&self.address, &hello).await
    }
}
