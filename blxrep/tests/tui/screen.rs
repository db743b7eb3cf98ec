//! A screen without a terminal, which asks the fake dispatcher over its real socket.

use crate::fake::{self, FakeDispatcher};
use blxrep::api::client::Client;
use blxrep::api::types::PointRow;
use blxrep::tui::ask::{Answer, Ask, Ticket};
use blxrep::tui::effects;
use blxrep::tui::frame::view;
use blxrep::tui::key::Key;
use blxrep::tui::theme::Theme;
use blxrep::tui::update::{Effect, Event, Model, update};
use jiff::SignedDuration;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tokio::runtime::Runtime;

pub const NARROW: (u16, u16) = (80, 24);
pub const WIDE: (u16, u16) = (150, 40);

pub struct Screen {
    pub model: Model,
    pub dispatcher: FakeDispatcher,
    client: Client,
    runtime: Runtime,
    /// What was asked and is not answered.
    pub asked: Vec<(Ticket, Ask)>,
    pub left: bool,
    /// The points of every disk, if they are not the fake's own.
    pub points: Option<Vec<PointRow>>,
}

impl Screen {
    /// Before the first answer.
    pub fn new() -> Self {
        let dispatcher = FakeDispatcher::start();
        let client = Client::new(dispatcher.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = "/var/lib/blxrep/control.sock".to_owned();
        let mut model = Model::new(socket, fake::now(), Theme { colour: true });
        let (width, height) = NARROW;
        assert_eq!(update(&mut model, Event::Resized(width, height)), []);
        Self { model, dispatcher, client, runtime, asked: Vec::new(), left: false, points: None }
    }

    /// After the first answer.
    pub fn started() -> Self {
        let mut screen = Self::new();
        screen.tick(0);
        screen
    }

    /// With a row of points: one every five minutes, of all kinds.
    pub fn with_series() -> Self {
        let mut screen = Self::started();
        screen.points = Some(fake::series());
        screen
    }

    /// Applies an event, and does not answer what is asked.
    pub fn happens(&mut self, event: Event) {
        for effect in update(&mut self.model, event) {
            match effect {
                Effect::Ask(ticket, ask) => self.asked.push((ticket, ask)),
                Effect::Forget(ticket) => self.asked.retain(|(asked, _)| *asked != ticket),
                Effect::Quit => self.left = true,
                Effect::Redraw => {}
            }
        }
    }

    /// Answers everything that is asked, and what is asked then.
    pub fn settle(&mut self) {
        while !self.asked.is_empty() {
            let (ticket, ask) = self.asked.remove(0);
            let mut reply = match (&self.points, &ask) {
                (Some(points), Ask::Points { disk, newest }) => {
                    let first = points.len().saturating_sub(*newest as usize);
                    Ok(Answer::Points { disk: *disk, rows: points[first..].to_vec() })
                }
                _ => self.runtime.block_on(effects::ask(&self.client, ask)),
            };
            if let Ok(Answer::Overview(data)) = &mut reply {
                data.at = self.model.world.now;
                data.status.data_dir = "/var/lib/blxrep".to_owned();
            }
            self.happens(Event::Answer(ticket, reply));
        }
    }

    /// So many seconds later.
    pub fn tick(&mut self, seconds: i64) {
        self.happens(Event::Tick(self.model.world.now + SignedDuration::from_secs(seconds)));
        self.settle();
    }

    pub fn press(&mut self, key: Key) {
        self.happens(Event::Key(key));
        self.settle();
    }

    /// Keys by their names, parted by blanks; what is no name is typed letter by letter.
    pub fn keys(&mut self, keys: &str) {
        for word in keys.split_whitespace() {
            match named(word) {
                Some(key) => self.press(key),
                None => word.chars().for_each(|c| self.press(Key::Char(c))),
            }
        }
    }

    /// Types a text as it is.
    pub fn types(&mut self, text: &str) {
        text.chars().for_each(|c| self.press(Key::Char(c)));
    }

    pub fn resize(&mut self, (width, height): (u16, u16)) {
        self.happens(Event::Resized(width, height));
        self.settle();
    }

    pub fn drawn(&self) -> String {
        let (width, height) = self.model.world.size;
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view(&self.model, frame)).unwrap();
        terminal.backend().to_string()
    }

    /// The name of the page that is seen.
    pub fn page(&self) -> &'static str {
        self.model.page().name()
    }

    /// The row that is selected, as it is drawn.
    pub fn row(&self) -> String {
        let drawn = self.drawn();
        let row = drawn.lines().find_map(|line| line.strip_prefix("\"> ")).unwrap_or_default();
        row.trim_end_matches('"').trim_end().to_owned()
    }

    /// Fails unless the screen shows this.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let drawn = self.drawn();
        assert!(drawn.contains(text), "`{text}` is not shown:\n{drawn}");
    }
}

fn named(word: &str) -> Option<Key> {
    Some(match word {
        "Enter" => Key::Enter,
        "Esc" => Key::Esc,
        "Tab" => Key::Tab,
        "BackTab" => Key::BackTab,
        "Up" => Key::Up,
        "Down" => Key::Down,
        "Left" => Key::Left,
        "Right" => Key::Right,
        "PageUp" => Key::PageUp,
        "PageDown" => Key::PageDown,
        "Home" => Key::Home,
        "End" => Key::End,
        "Space" => Key::Char(' '),
        "Backspace" => Key::Backspace,
        _ => return None,
    })
}
