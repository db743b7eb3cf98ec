//! The terminal interface: pages that one goes into and comes back from, drawn by hand of the API alone.
//!
//! ```text
//! keys, ticks, answers, events -> update (pure) -> effects -> API client
//!                                    |
//!                                    v
//!                                  Model -> view (pure) -> terminal
//! ```

pub mod ask;
pub mod effects;
mod feed;
pub mod frame;
pub mod key;
pub mod list;
pub mod model;
pub mod page;
pub mod pages;
mod prompt;
mod table;
mod terminal;
pub mod theme;
mod timeline;
pub mod update;
mod when;
mod words;
mod wrap;

use crate::api::client::Client;
use ask::{Failure, Ticket};
use frame::view;
use jiff::Timestamp;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use terminal::{Keys, Screen};
use theme::Theme;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use update::{Effect, Event, Model, update};

/// Time goes on in steps that a person sees.
const TICK: Duration = Duration::from_secs(1);
/// Nobody sees more screens in a second than this, and a slow line does not carry them.
const BETWEEN_SCREENS: Duration = Duration::from_millis(40);

/// Shows the screen until the user leaves it. The terminal is given back as it was, however this ends.
pub async fn run(client: Client) -> io::Result<()> {
    match show(client).await {
        // There is nobody to tell.
        Err(_) if terminal::is_gone() => Ok(()),
        ended => ended,
    }
}

async fn show(client: Client) -> io::Result<()> {
    let mut screen = Screen::open()?;
    let mut keys = Keys::read()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // https://no-color.org: any value that is not empty.
    let theme = Theme { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut model = Model::new(client.socket().display().to_string(), Timestamp::now(), theme);
    let (width, height) = screen.size()?;
    let mut shell = Shell { asked: JoinSet::new(), handles: HashMap::new(), client: client.clone() };
    let mut feed = feed::listen(client);
    let mut event = Event::Resized(width, height);
    let mut drawn = tokio::time::Instant::now();
    loop {
        for effect in update(&mut model, event) {
            match effect {
                Effect::Quit => return Ok(()),
                Effect::Redraw => screen.clear()?,
                Effect::Ask(ticket, ask) => shell.ask(ticket, ask),
                Effect::Forget(ticket) => shell.forget(ticket),
            }
        }
        let mut stale = true;
        event = loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = hang_up.recv() => return Ok(()),
                event = keys.next() => break event?,
                Some(event) = shell.next() => break event,
                Some(event) = feed.recv() => break event,
                _ = ticks.tick() => if terminal::is_gone() { return Ok(()) } else { break Event::Tick(Timestamp::now()) },
                // Whatever came meanwhile is drawn at once.
                () = tokio::time::sleep_until(drawn + BETWEEN_SCREENS), if stale => {
                    screen.draw(|frame| view(&model, frame))?;
                    (stale, drawn) = (false, tokio::time::Instant::now());
                }
            }
        };
    }
}

/// Questions that are not answered yet.
struct Shell {
    client: Client,
    asked: JoinSet<(Ticket, ask::Reply)>,
    handles: HashMap<Ticket, AbortHandle>,
}

impl Shell {
    fn ask(&mut self, ticket: Ticket, ask: ask::Ask) {
        let client = self.client.clone();
        let handle = self.asked.spawn(async move { (ticket, effects::ask(&client, ask).await) });
        self.handles.insert(ticket, handle);
    }

    /// Ends the connection, and with it what the dispatcher does for the answer.
    fn forget(&mut self, ticket: Ticket) {
        if let Some(handle) = self.handles.remove(&ticket) {
            handle.abort();
        }
    }

    /// The next answer; `None` while nothing is asked.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.asked.join_next().await? {
                Ok((ticket, reply)) => {
                    self.handles.remove(&ticket);
                    return Some(Event::Answer(ticket, reply));
                }
                Err(error) if error.is_cancelled() => {}
                Err(error) => {
                    let lost = self.handles.iter().find(|(_, handle)| handle.id() == error.id());
                    let ticket = lost.map(|(ticket, _)| *ticket)?;
                    self.handles.remove(&ticket);
                    return Some(Event::Answer(ticket, Err(Failure::of(error.to_string()))));
                }
            }
        }
    }
}
