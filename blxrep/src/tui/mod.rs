//! The terminal interface: one live, read-only screen.
//!
//! ```text
//! keys, ticks, answers -> update (pure) -> effects -> API client
//!                            |
//!                            v
//!                          Model -> view (pure) -> terminal
//! ```

mod effects;
pub mod model;
mod panes;
mod terminal;
pub mod update;
pub mod view;

use crate::api::client::Client;
use jiff::Timestamp;
use model::Model;
use std::io;
use std::time::Duration;
use terminal::{Keys, Screen};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use update::{Effect, Event, update};
use view::view;

/// Between two looks at the dispatcher; a point a second is the fastest there is.
const REFRESH: Duration = Duration::from_secs(1);

/// Shows the screen until the user leaves it. The terminal is given back as it was, however this ends.
pub async fn run(client: Client) -> io::Result<()> {
    let mut screen = Screen::open()?;
    let mut keys = Keys::read()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut ticks = tokio::time::interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fetches = JoinSet::new();
    let mut model = Model::new(client.socket().display().to_string(), Timestamp::now());
    loop {
        let event = tokio::select! {
            event = keys.next() => event?,
            _ = ticks.tick() => Event::Tick(Timestamp::now()),
            Some(fetched) = fetches.join_next() => fetched.unwrap_or_else(|e| Event::Failed(e.to_string())),
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        };
        for effect in update(&mut model, event) {
            match effect {
                Effect::Fetch => {
                    let client = client.clone();
                    fetches.spawn(async move { effects::fetch(&client).await });
                }
                Effect::Quit => return Ok(()),
            }
        }
        screen.draw(|frame| view(&model, frame))?;
    }
}
