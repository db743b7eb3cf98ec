//! Follows an action until it has ended.

use super::error::CliError;
use super::output::say;
use super::progress::Progress;
use crate::api::client::{Client, ClientError};
use crate::api::error::{ApiError, ErrorCode};
use crate::api::types::{ActionRow, Control};
use crate::model::action::ActionKind;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

/// Smooth to the eye, nothing to the dispatcher.
const POLL: Duration = Duration::from_millis(200);
/// A dispatcher that is restarted answers again within this; the action outlives it.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// What Ctrl-C does while an action is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Cancels the action.
    Cancels,
    /// Stops waiting; the action goes on.
    Leaves,
}

/// Shows progress until the action is final, and returns it as it ended.
pub async fn follow(client: &Client, begun: ActionRow, interrupt: Interrupt) -> Result<ActionRow, CliError> {
    // Before anything is shown: who sees that it has begun may press Ctrl-C at once.
    let mut interrupts = interrupts()?;
    let mut progress = Progress::of(&begun, Instant::now());
    let ended = tokio::select! {
        ended = poll(client, &begun, &mut progress) => Some(ended),
        _ = interrupts.recv() => None,
    };
    progress.clear();
    match ended {
        Some(ended) => ended,
        None => Err(interrupted(client, &begun, interrupt).await),
    }
}

/// Ctrl-C from now on; it no longer ends the process by itself.
pub fn interrupts() -> Result<Signal, CliError> {
    signal(SignalKind::interrupt()).map_err(CliError::Runtime)
}

async fn poll(client: &Client, begun: &ActionRow, progress: &mut Progress) -> Result<ActionRow, CliError> {
    let mut action = begun.clone();
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lost: Option<Instant> = None;
    loop {
        progress.show(&action, Instant::now());
        if action.state.is_final() {
            return Ok(action);
        }
        ticks.tick().await;
        match client.action(begun.id).await {
            Ok(row) => {
                action = row;
                lost = None;
            }
            Err(error) if is_passing(&error) => {
                let since = *lost.get_or_insert_with(|| {
                    say(&format!("{error}; waiting for it to come back"));
                    Instant::now()
                });
                if since.elapsed() > RECONNECT_PATIENCE {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a restart of the dispatcher looks like from here.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::TimedOut { .. } => true,
        ClientError::Api(ApiError { code, .. }) => *code == ErrorCode::Unavailable,
        ClientError::NotAllowed(_) => false,
    }
}

async fn interrupted(client: &Client, action: &ActionRow, interrupt: Interrupt) -> CliError {
    let name = format!("{} {}", action.kind, action.id);
    match interrupt {
        Interrupt::Leaves => CliError::Interrupted(format!(
            "no longer waiting; the {name} goes on: `blxrep actions` shows it, `blxrep cancel {}` stops it",
            action.id
        )),
        Interrupt::Cancels => {
            say(&format!("cancelling the {name}"));
            match client.control(&action.id.to_string(), Control::Cancel).await {
                Ok(_) if action.kind == ActionKind::Restore => CliError::Interrupted(format!(
                    "the {name} was cancelled: what it had begun to write is incomplete and must not be used"
                )),
                Ok(_) => CliError::Interrupted(format!("the {name} was cancelled")),
                Err(error) => CliError::Interrupted(format!("the {name} could not be cancelled: {error}")),
            }
        }
    }
}
