//! The screen as text, and what events do to it. No terminal, no clock, no dispatcher.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod fake;

use blxrep::tui::model::{Data, Model, Pane};
use blxrep::tui::update::{Effect, Event, Key, update};
use blxrep::tui::view::view;
use jiff::SignedDuration;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const NARROW: (u16, u16) = (80, 24);
const WIDE: (u16, u16) = (120, 40);

fn data() -> Data {
    let (mut points, mut actions) = (fake::points(), vec![fake::failed(), fake::live()]);
    points.reverse();
    actions.reverse();
    Data {
        at: fake::now(),
        status: fake::status(),
        agents: fake::agents(),
        disks: fake::disks(),
        points,
        actions,
    }
}

fn model() -> Model {
    Model::new("/var/lib/blxrep/control.sock".into(), fake::now())
}

fn loaded() -> Model {
    let mut model = model();
    assert_eq!(update(&mut model, Event::Loaded(Box::new(data()))), []);
    model
}

fn press(model: &mut Model, keys: &[Key]) {
    for key in keys {
        assert_eq!(update(model, Event::Key(*key)), []);
    }
}

fn drawn(model: &Model, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view(model, frame)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn narrow() {
    insta::assert_snapshot!(drawn(&loaded(), NARROW));
}

#[test]
fn wide() {
    let mut model = loaded();
    press(&mut model, &[Key::NextPane, Key::NextPane, Key::Bottom]);
    insta::assert_snapshot!(drawn(&model, WIDE));
}

#[test]
fn empty() {
    let mut model = model();
    let nothing = Data { agents: vec![], disks: vec![], points: vec![], actions: vec![], ..data() };
    let _ = update(&mut model, Event::Loaded(Box::new(nothing)));
    press(&mut model, &[Key::Down, Key::Bottom, Key::NextPane, Key::Up]);
    insta::assert_snapshot!(drawn(&model, NARROW));
}

#[test]
fn before_the_first_answer() {
    insta::assert_snapshot!(drawn(&model(), NARROW));
}

#[test]
fn disconnected() {
    let mut model = loaded();
    let why = "no dispatcher answers at /var/lib/blxrep/control.sock: Connection refused";
    let _ = update(&mut model, Event::Failed(why.into()));
    let later = fake::now() + SignedDuration::from_secs(75);
    assert_eq!(update(&mut model, Event::Tick(later)), [Effect::Fetch], "it keeps trying");
    press(&mut model, &[Key::Bottom]);
    insta::assert_snapshot!(drawn(&model, NARROW));
}

#[test]
fn never_connected() {
    let mut model = model();
    let _ = update(&mut model, Event::Failed("no dispatcher answers".into()));
    insta::assert_snapshot!(drawn(&model, NARROW));
}

#[test]
fn help() {
    let mut model = loaded();
    press(&mut model, &[Key::Help]);
    insta::assert_snapshot!(drawn(&model, NARROW));
    press(&mut model, &[Key::Back]);
    assert_eq!(drawn(&model, NARROW), drawn(&loaded(), NARROW));
    assert_eq!(update(&mut model, Event::Key(Key::Back)), [Effect::Quit]);
}

#[test]
fn any_size_can_be_drawn() {
    let mut model = loaded();
    model.trouble = Some("x".repeat(300));
    model.help = true;
    for width in [1, 2, 10, 59, 60, 79, 109, 110, 300] {
        for height in [1, 2, 15, 16, 17, 23, 100] {
            let _ = drawn(&model, (width, height));
        }
    }
    assert!(drawn(&model, (40, 10)).contains("too small"));
}

#[test]
fn one_look_at_a_time() {
    let mut model = model();
    assert_eq!(update(&mut model, Event::Tick(fake::now())), [Effect::Fetch]);
    assert_eq!(update(&mut model, Event::Tick(fake::now())), [], "the first has not ended");
    let _ = update(&mut model, Event::Failed("no".into()));
    assert_eq!(update(&mut model, Event::Tick(fake::now())), [Effect::Fetch]);
    let _ = update(&mut model, Event::Loaded(Box::new(data())));
    assert_eq!((model.trouble.as_deref(), model.fetching), (None, false));
}

#[test]
fn a_selected_row_stays_selected_when_others_appear_above_it() {
    let mut model = loaded();
    press(&mut model, &[Key::NextPane, Key::Down]);
    assert_eq!((model.focus, model.selection.points), (Pane::Points, 1));
    let selected = data().points[1].id;
    let mut more = data();
    let mut newer = more.points[0].clone();
    newer.id = blxrep::model::ids::PointId(7);
    more.points.insert(0, newer);
    let _ = update(&mut model, Event::Loaded(Box::new(more.clone())));
    assert_eq!(more.points[model.selection.points].id, selected);
    // It is gone: another one is selected, within the list.
    more.points.truncate(1);
    let _ = update(&mut model, Event::Loaded(Box::new(more)));
    assert_eq!(model.selection.points, 0);
}

#[test]
fn the_top_row_is_always_the_newest() {
    let mut model = loaded();
    press(&mut model, &[Key::NextPane]);
    let mut more = data();
    more.points.remove(0);
    let _ = update(&mut model, Event::Loaded(Box::new(more)));
    assert_eq!(model.selection.points, 0);
}

#[test]
fn moving_stops_at_both_ends() {
    let mut model = loaded();
    press(&mut model, &[Key::Up]);
    assert_eq!(model.selection.disks, 0);
    press(&mut model, &[Key::Down; 9]);
    assert_eq!(model.selection.disks, 2);
    press(&mut model, &[Key::PreviousPane]);
    assert_eq!(model.focus, Pane::Agents);
    assert_eq!(update(&mut model, Event::Key(Key::Quit)), [Effect::Quit]);
}

#[test]
fn nothing_from_an_agent_reaches_the_terminal_as_a_command() {
    let mut model = loaded();
    press(&mut model, &[Key::PreviousPane]);
    for size in [NARROW, WIDE] {
        assert!(!drawn(&model, size).contains('\u{1b}'));
    }
}
