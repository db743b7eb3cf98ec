//! Who comes in: accepts connections, checks who they are, and hands them to the task of their channel.

use super::settings::Settings;
use super::{Shared, config_link, live_link, restore_link, snapshot_link};
use crate::config::secret::{Access, DENIED};
use crate::io::channel::{Arrival, ChannelError, Listener, Pending};
use crate::wire::hello::{Accepted, Channel, KeptDisk, Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections that are served at once: a hundred agents with a few disks each.
const MAX_CONNECTIONS: usize = 2048;
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a greeting needs to know.
struct House {
    access: Access,
    boot_id: [u8; 16],
    kept: Vec<KeptDisk>,
    places: Arc<Semaphore>,
    shared: Shared,
}

/// The accept loop.
pub struct Greeter {
    listener: Listener,
    house: Arc<House>,
}

impl Greeter {
    pub fn new(listener: Listener, shared: Shared, settings: &Settings) -> Self {
        let house = House {
            access: settings.access.clone(),
            boot_id: settings.boot_id,
            kept: settings.kept.clone(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            shared,
        };
        Self { listener, house: Arc::new(house) }
    }

    /// Serves until `stop` is done; then connections get `patience` to end.
    pub async fn serve(self, stop: impl Future<Output = ()>, patience: Duration) {
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                arrival = self.listener.accept() => match arrival {
                    Ok(arrival) => { connections.spawn(greet(arrival, Arc::clone(&self.house))); }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        // Dropped tasks lose nothing: what was not published is still dirty at its agent.
        let _ = tokio::time::timeout(patience, connections.shutdown()).await;
    }
}

async fn greet(arrival: Arrival, house: Arc<House>) {
    let address = arrival.address();
    match arrival.hello().await {
        Ok(pending) => {
            if let Err(error) = admit(pending, &house).await {
                tracing::warn!(%address, %error, "connection ended in its greeting");
            }
        }
        Err(error) => tracing::warn!(%address, %error, "connection refused"),
    }
}

async fn admit(pending: Pending, house: &House) -> Result<(), ChannelError> {
    let hello = pending.hello.clone();
    let (agent, address) = (hello.agent.clone(), pending.address);
    if let Err(denied) = house.access.check(&agent, &hello.credentials) {
        tracing::warn!(%agent, %address, reason = %denied, "refused");
        let reason = format!("{DENIED}: --secret-file must hold the same secret here and at the dispatcher");
        return pending.refuse(Refusal::new(RefusalCode::Credentials, reason)).await;
    }
    let Ok(_place) = Arc::clone(&house.places).try_acquire_owned() else {
        let reason = format!("{MAX_CONNECTIONS} connections are served already; try again later");
        return pending.refuse(Refusal::new(RefusalCode::Busy, reason)).await;
    };
    let accepted = Accepted {
        version: pending.version,
        boot_id: house.boot_id,
        store: house.shared.store.id(),
        session: hello.session,
        kept: house.kept.clone(),
    };
    let shared = house.shared.clone();
    match hello.channel {
        Channel::Config => config_link::serve(pending.accept(accepted).await?, agent, address, shared).await,
        Channel::Snapshot => snapshot_link::serve(pending.accept(accepted).await?, agent, shared).await,
        Channel::Live => live_link::serve(pending.accept(accepted).await?, agent, shared).await,
        Channel::Restore => restore_link::serve(pending.accept(accepted).await?, agent, shared).await,
    }
    Ok(())
}
