//! What happens, told as it happens: to the screen, to scripts, to whoever listens.
//!
//! Advisory. Who is too slow is told how much was missed and asks again; the rows of the other routes are the truth.

use crate::model::action::{Action, ActionKind, ActionState};
use crate::model::ids::{ActionId, AgentId, CutId, DiskId, PointId};
use crate::model::point::{Consistency, Point};
use axum::response::sse;
use futures_util::{Stream, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use tokio::sync::{broadcast, watch};
use utoipa::ToSchema;

/// Events that wait for a listener; the oldest go when it takes none.
pub const WAITING: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An agent connected, or its connection ended.
    Agent { at: Timestamp, agent: AgentId, online: bool },
    /// An action was begun or changed its state. How far it is, its row says.
    Action {
        at: Timestamp,
        action: ActionId,
        kind: ActionKind,
        state: ActionState,
        reason: String,
        agent: Option<AgentId>,
        disk: Option<DiskId>,
    },
    /// A point was published.
    Point { at: Timestamp, point: PointId, disk: DiskId, cut_id: CutId, consistency: Consistency, bytes: u64 },
    /// So many events went by before this listener took them: ask for the rows.
    Missed { events: u64 },
}

impl Event {
    /// The name under which a listener can ask for it.
    const fn name(&self) -> &'static str {
        match self {
            Self::Agent { .. } => "agent",
            Self::Action { .. } => "action",
            Self::Point { .. } => "point",
            Self::Missed { .. } => "missed",
        }
    }

    /// An action as it is now.
    #[must_use]
    pub fn of_action(action: &Action) -> Self {
        Self::Action {
            at: action.updated,
            action: action.id,
            kind: action.kind,
            state: action.state,
            reason: action.reason.clone(),
            agent: action.agent.clone(),
            disk: action.disk,
        }
    }

    /// A point that was published.
    #[must_use]
    pub fn of_point(point: &Point) -> Self {
        Self::Point {
            at: point.published,
            point: point.id,
            disk: point.disk,
            cut_id: point.summary.cut,
            consistency: point.summary.consistency,
            bytes: point.bytes,
        }
    }
}

/// Where events are said and heard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed(broadcast::Sender<Event>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Feed {
    /// Tells everybody who listens.
    pub fn say(&self, event: Event) {
        // Nobody may listen.
        let _ = self.0.send(event);
    }

    /// Hears what is said from here on.
    #[must_use]
    pub fn listen(&self) -> Ear {
        Ear(self.0.subscribe())
    }
}

/// One listener.
#[derive(Debug)]
pub struct Ear(broadcast::Receiver<Event>);

impl Ear {
    /// The next event; `None` when there will be no more.
    pub async fn hear(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => Some(Event::Missed { events }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Server-sent events from an ear, until `stop` is true or its sender is gone.
pub(super) fn stream(
    ear: Ear,
    stop: watch::Receiver<bool>,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send {
    stream::unfold((ear, stop), |(mut ear, mut stop)| async move {
        let event = tokio::select! {
            // An error is a sender that is gone.
            _ = stop.wait_for(|stop| *stop) => None,
            event = ear.hear() => event,
        }?;
        // Ids, words and times cannot fail to be JSON.
        let said = sse::Event::default().event(event.name()).json_data(&event).unwrap_or_default();
        Some((Ok(said), (ear, stop)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let feed = Feed::default();
        feed.say(Event::Missed { events: 0 });
        let mut ear = feed.listen();
        let online = |n: usize| Event::Agent {
            at: Timestamp::UNIX_EPOCH,
            agent: format!("web{n}").parse().unwrap(),
            online: true,
        };
        (0..WAITING + 3).for_each(|n| feed.say(online(n)));
        assert_eq!(
            ear.hear().await,
            Some(Event::Missed { events: 3 }),
            "and nothing from before it listened"
        );
        assert_eq!(ear.hear().await, Some(online(3)));
        drop(feed);
        for _ in 4..WAITING + 3 {
            assert!(ear.hear().await.is_some());
        }
        assert_eq!(ear.hear().await, None);
    }
}
