//! The real terminal: its screen, its keys, and giving it back as it was.

use super::update::{Event, Key};
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use std::io::{self, IsTerminal};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// Keys pressed faster than the screen is drawn; the reader waits beyond it.
const QUEUED_KEYS: usize = 64;
/// How long the reader of keys takes to notice that nobody listens any more.
const KEY_POLL: Duration = Duration::from_millis(200);

/// The alternate screen in raw mode, until it is dropped. A panic gives the terminal back too: `ratatui` sets a hook.
#[derive(Debug)]
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub fn open() -> io::Result<Self> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(io::Error::other(
                "the screen needs one for input and output; `blxrep disks` and `blxrep actions` print anywhere",
            ));
        }
        Ok(Self { terminal: ratatui::try_init()? })
    }

    pub fn draw(&mut self, view: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(view).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Says on stderr if it cannot; there is nothing else to do about it.
        ratatui::restore();
    }
}

/// Keys, read by a thread of their own: reading a terminal blocks.
#[derive(Debug)]
pub struct Keys {
    events: mpsc::Receiver<io::Result<Event>>,
    reader: Option<JoinHandle<()>>,
}

impl Keys {
    pub fn read() -> io::Result<Self> {
        let (sender, events) = mpsc::channel(QUEUED_KEYS);
        let reader = std::thread::Builder::new().name("keys".into()).spawn(move || read_keys(&sender))?;
        Ok(Self { events, reader: Some(reader) })
    }

    /// The next key, or why there will be no more.
    pub async fn next(&mut self) -> io::Result<Event> {
        self.events.recv().await.unwrap_or_else(|| Err(io::Error::other("it can no longer be read")))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.events.close();
        if let Some(reader) = self.reader.take() {
            // It ends within `KEY_POLL`; if it panicked, the hook has said so.
            let _ = reader.join();
        }
    }
}

fn read_keys(sender: &mpsc::Sender<io::Result<Event>>) {
    while !sender.is_closed() {
        let event = match event::poll(KEY_POLL) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let gone = event.is_err();
        let Some(event) = event.map(translate).transpose() else {
            continue;
        };
        if sender.blocking_send(event).is_err() || gone {
            return;
        }
    }
}

fn translate(event: event::Event) -> Option<Event> {
    match event {
        event::Event::Key(key) if key.kind != KeyEventKind::Release => key_of(key).map(Event::Key),
        event::Event::Resize(..) => Some(Event::Resized),
        _ => None,
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c')).then_some(Key::Quit);
    }
    match key.code {
        KeyCode::Char('q') => Some(Key::Quit),
        KeyCode::Esc => Some(Key::Back),
        KeyCode::Char('?') => Some(Key::Help),
        KeyCode::Tab => Some(Key::NextPane),
        KeyCode::BackTab => Some(Key::PreviousPane),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        KeyCode::Home | KeyCode::Char('g') => Some(Key::Top),
        KeyCode::End | KeyCode::Char('G') => Some(Key::Bottom),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let plain = |code| key_of(KeyEvent::new(code, KeyModifiers::NONE));
        let control = |code| key_of(KeyEvent::new(code, KeyModifiers::CONTROL));
        assert_eq!(plain(KeyCode::Char('q')), Some(Key::Quit));
        assert_eq!(plain(KeyCode::Char('j')), plain(KeyCode::Down));
        assert_eq!(plain(KeyCode::Char('k')), plain(KeyCode::Up));
        assert_eq!(key_of(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::SHIFT)), Some(Key::Help));
        assert_eq!(plain(KeyCode::Char('c')), None);
        assert_eq!(control(KeyCode::Char('c')), Some(Key::Quit));
        assert_eq!(control(KeyCode::Char('q')), None);
    }
}
