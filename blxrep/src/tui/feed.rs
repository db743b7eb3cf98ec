//! What the dispatcher tells by itself, so that it need not be asked all the time.

use super::update::Event;
use crate::api::client::Client;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Events that wait for the screen; the dispatcher counts what is missed beyond it.
const QUEUED: usize = 64;
/// Between two tries at a dispatcher that tells nothing; meanwhile it is asked.
const RETRY: Duration = Duration::from_secs(5);

/// Events as they come, until this is dropped.
#[derive(Debug)]
pub struct Feed {
    events: mpsc::Receiver<Event>,
    _task: JoinSet<()>,
}

/// Listens from here on.
pub fn listen(client: Client) -> Feed {
    let (sender, events) = mpsc::channel(QUEUED);
    let mut task = JoinSet::new();
    task.spawn(run(client, sender));
    Feed { events, _task: task }
}

impl Feed {
    pub async fn recv(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

async fn run(client: Client, sender: mpsc::Sender<Event>) {
    loop {
        if let Ok(mut listener) = client.listen().await {
            if sender.send(Event::Told(true)).await.is_err() {
                return;
            }
            while let Ok(event) = listener.hear().await {
                if sender.send(Event::Happened(event)).await.is_err() {
                    return;
                }
            }
            // That it ended says nothing that the next look does not say better.
            if sender.send(Event::Told(false)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
