//! Hears what a dispatcher tells of what happens there: the client's end of `GET /api/v1/events`.

use super::client::{Client, ClientError};
use super::events::Event;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::task::JoinSet;

/// The dispatcher says something every 15 s, if only that it is there.
const SILENCE: Duration = Duration::from_secs(45);
/// Answering at all takes no work.
const PATIENCE: Duration = Duration::from_secs(10);
/// An event is a few ids and a sentence.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// An open ear; what was said before it was opened is not heard.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    body: Incoming,
    heard: Lines,
    /// The connection, which ends with this.
    _driver: JoinSet<Result<(), hyper::Error>>,
}

impl Client {
    /// Hears what happens from here on.
    pub async fn listen(&self) -> Result<Listener, ClientError> {
        let stream = self.connect()?;
        let shake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = shake.await.map_err(|e| self.broken(&e))?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::get("/api/v1/events")
            .header(hyper::header::HOST, "blxrep")
            .body(Empty::<Bytes>::new())
            .map_err(|e| self.broken(&e))?;
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|_| self.broken(&"it does not tell what happens"))?;
        let answer = answer.map_err(|e| self.broken(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(self.broken(&format!("{} in place of events", answer.status())));
        }
        let heard = Lines::default();
        Ok(Listener { client: self.clone(), body: answer.into_body(), heard, _driver: driver })
    }
}

impl Listener {
    /// The next event. An error is the end: the dispatcher stopped, or is not there any more.
    pub async fn hear(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.heard.next() {
                return event.map_err(|e| self.client.broken(&e));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let frame = frame.map_err(|_| self.client.broken(&"it has fallen silent"))?;
            let frame = frame.ok_or_else(|| self.client.broken(&"it has stopped telling what happens"))?;
            let frame = frame.map_err(|e| self.client.broken(&e))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if self.heard.0.len() + bytes.len() > MAX_EVENT_BYTES {
                return Err(self.client.broken(&"an event is longer than any can be"));
            }
            self.heard.0.extend_from_slice(&bytes);
        }
    }
}

/// What was heard and is not understood yet. An event of this dispatcher is one line `data: JSON`; other lines are its
/// name and signs of life.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn next(&mut self) -> Option<Result<Event, serde_json::Error>> {
        loop {
            let end = self.0.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.0.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data:") {
                return Some(serde_json::from_slice(data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_understood_however_they_are_cut() {
        let text = b": alive\n\nevent: missed\ndata: {\"event\":\"missed\",\"events\":3}\n\nevent: missed\ndata: {}\n";
        let mut lines = Lines::default();
        let mut heard = Vec::new();
        for byte in text {
            lines.0.push(*byte);
            heard.extend(lines.next().map(Result::ok));
        }
        assert_eq!(heard, [Some(Event::Missed { events: 3 }), None], "the second is none");
    }
}
