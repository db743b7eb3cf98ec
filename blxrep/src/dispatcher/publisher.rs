//! The one publisher: waits until all disks of a cut are ready, gathers cuts for a moment, and publishes them in one
//! transaction.

use super::indexer::Indexer;
use crate::engine::gather::Gather;
use crate::model::ids::{AgentId, CutId, DiskIdentity};
use crate::model::point::Point;
use crate::store::Store;
use crate::store::publish::ReadyPoint;
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long ready points wait for others: a hundred agents that cut at the same time share a few transactions.
const GATHER_FOR: Duration = Duration::from_millis(50);
/// Requests that wait; the connections that sent them wait for an answer anyway.
const QUEUE: usize = 256;

/// The result for one member: the published point, or why there is none.
pub type Outcome = Result<Point, String>;

struct Member {
    ready: ReadyPoint,
    reply: oneshot::Sender<Outcome>,
}

enum Request {
    Join { agent: AgentId, cut: CutId, group: Vec<DiskIdentity>, disk: DiskIdentity, member: Box<Member> },
    Abort { agent: AgentId, cut: CutId, reason: String },
}

/// Handle for the connections.
#[derive(Clone, Debug)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
}

impl Publisher {
    /// The handle, and the task to run.
    pub fn new(store: Store, indexer: Indexer) -> (Self, impl Future<Output = ()>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        (Self { requests }, run(store, indexer, queue))
    }

    /// Publishes a point together with the other members of its cut.
    pub async fn publish(
        &self,
        agent: AgentId,
        cut: CutId,
        group: Vec<DiskIdentity>,
        disk: DiskIdentity,
        ready: ReadyPoint,
    ) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let request = Request::Join { agent, cut, group, disk, member: Box::new(Member { ready, reply }) };
        let stopping = || "the dispatcher is stopping".to_owned();
        self.requests.send(request).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// A member of the cut will not come: the others are told, and nothing of the cut is published.
    pub async fn abort(&self, agent: AgentId, cut: CutId, reason: String) {
        // Once the publisher has ended, nothing is published any more.
        let _ = self.requests.send(Request::Abort { agent, cut, reason }).await;
    }
}

async fn run(store: Store, indexer: Indexer, mut queue: mpsc::Receiver<Request>) {
    let mut gather = Gather::default();
    while let Some(request) = queue.recv().await {
        let mut complete = take(&mut gather, request);
        if complete.is_empty() {
            continue;
        }
        let until = tokio::time::Instant::now() + GATHER_FOR;
        while let Ok(Some(request)) = tokio::time::timeout_at(until, queue.recv()).await {
            complete.extend(take(&mut gather, request));
        }
        publish(&store, &indexer, complete).await;
    }
}

/// Takes in a request; returns the members of the cut that it completed.
fn take(gather: &mut Gather<AgentId, Member>, request: Request) -> Vec<Member> {
    match request {
        Request::Join { agent, cut, group, disk, member } => {
            match gather.join(&agent, cut, &group, &disk, *member) {
                Ok(complete) => complete.unwrap_or_default(),
                Err((error, member)) => {
                    let _ = member.reply.send(Err(error.to_string()));
                    Vec::new()
                }
            }
        }
        Request::Abort { agent, cut, reason } => {
            for member in gather.abort(&agent, cut) {
                let _ = member.reply.send(Err(format!("another disk of the cut failed: {reason}")));
            }
            Vec::new()
        }
    }
}

async fn publish(store: &Store, indexer: &Indexer, members: Vec<Member>) {
    let (ready, replies): (Vec<_>, Vec<_>) = members.into_iter().map(|m| (m.ready, m.reply)).unzip();
    let store = store.clone();
    let outcome = tokio::task::spawn_blocking(move || store.publish(ready, Timestamp::now())).await;
    match outcome {
        Ok(Ok(points)) => {
            for (point, reply) in points.into_iter().zip(replies) {
                indexer.published(&point);
                let _ = reply.send(Ok(point));
            }
        }
        Ok(Err(error)) => fail(replies, &error.to_string()),
        Err(_) => fail(replies, "the publishing thread ended unexpectedly; see the dispatcher's log"),
    }
}

fn fail(replies: Vec<oneshot::Sender<Outcome>>, reason: &str) {
    tracing::error!(%reason, "points were not published");
    for reply in replies {
        let _ = reply.send(Err(reason.to_owned()));
    }
}
