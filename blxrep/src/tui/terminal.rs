//! The real terminal: its screen, its keys, and giving it back as it was.

use super::key::Key;
use super::update::Event;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IsTerminal};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
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

    /// Columns and lines.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Forgets what was drawn, so that everything is drawn anew.
    pub fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where there is no terminal any more, nobody could be told either.
        let _ = ratatui::try_restore();
    }
}

/// Whether nobody is at the other end of the terminal any more. One that does not control this process says so in no
/// other way.
pub fn is_gone() -> bool {
    let stdin = io::stdin();
    let mut asked = [PollFd::new(&stdin, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut asked, Some(&at_once)).is_ok_and(|_| asked[0].revents().intersects(gone))
}

/// Keys, read by a thread of their own: reading a terminal blocks.
#[derive(Debug)]
pub struct Keys {
    events: mpsc::Receiver<io::Result<Event>>,
    reader: JoinHandle<()>,
}

impl Keys {
    pub fn read() -> io::Result<Self> {
        let (sender, events) = mpsc::channel(QUEUED_KEYS);
        let reader = std::thread::Builder::new().name("keys".into()).spawn(move || read_keys(&sender))?;
        Ok(Self { events, reader })
    }

    /// The next key, or why there will be no more.
    pub async fn next(&mut self) -> io::Result<Event> {
        self.events.recv().await.unwrap_or_else(|| Err(io::Error::other("it can no longer be read")))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.events.close();
        // One that a dead terminal keeps busy ends with the process. If it panicked, the hook has said so.
        let deadline = Instant::now() + 2 * KEY_POLL;
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(KEY_POLL / 40);
        }
    }
}

fn read_keys(sender: &mpsc::Sender<io::Result<Event>>) {
    // What reads keys finds none in a terminal that is gone, and looks for them for ever.
    while !sender.is_closed() && !is_gone() {
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
        event::Event::Resize(width, height) => Some(Event::Resized(width, height)),
        _ => None,
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SUPER | KeyModifiers::META) {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if let KeyCode::Char(c) = key.code {
            Some(Key::Control(c.to_ascii_lowercase()))
        } else {
            None
        };
    }
    Some(match key.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_look_like() {
        let pressed = |code, modifiers| key_of(KeyEvent::new(code, modifiers));
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::NONE), Some(Key::Char('q')));
        assert_eq!(pressed(KeyCode::Char('?'), KeyModifiers::SHIFT), Some(Key::Char('?')));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Control('c')));
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::ALT), None);
        assert_eq!(pressed(KeyCode::F(5), KeyModifiers::NONE), None);
    }
}
