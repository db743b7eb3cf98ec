//! A picture of every page.

use crate::fake;
use crate::screen::{NARROW, Screen, WIDE};
use blxrep::tui::ask::Failure;
use blxrep::tui::key::Key;
use blxrep::tui::update::Event;
use jiff::SignedDuration;

/// A page at 80 columns and 24 lines, and on a wide terminal.
macro_rules! pictures {
    ($name:literal, $screen:expr) => {
        let mut screen = $screen;
        insta::assert_snapshot!($name, screen.drawn());
        screen.resize(WIDE);
        insta::assert_snapshot!(concat!($name, "_wide"), screen.drawn());
    };
}

fn after(keys: &str) -> Screen {
    let mut screen = Screen::started();
    screen.keys(keys);
    screen
}

fn series_after(keys: &str) -> Screen {
    let mut screen = Screen::with_series();
    screen.keys(keys);
    screen
}

#[test]
fn agents() {
    pictures!("agents", after("Down"));
}

#[test]
fn disks() {
    pictures!("disks", after("Down Enter"));
    pictures!("all_disks", after("D"));
}

#[test]
fn points() {
    pictures!("points", series_after("Down Enter Enter"));
    pictures!("points_near", series_after("Down Enter Enter + + Left Left"));
}

/// At the newest point; the fake has one on this disk.
const ROOT: &str = "D Down Enter Enter Enter";

#[test]
fn contents() {
    pictures!("partitions", series_after("D Down Enter Enter"));
    pictures!("files", series_after(&format!("{ROOT} Down Enter Enter")));
    pictures!("marked_files", series_after(&format!("{ROOT} Down Enter Enter End Space Up Up Space")));
    pictures!("found", series_after(&format!("{ROOT} / o d Enter")));
    pictures!("changes", series_after(&format!("{ROOT} c")));
}

#[test]
fn restores() {
    let found = format!("{ROOT} / b u d g e t Enter r");
    pictures!("restore_form", series_after(&found));
    pictures!("restore_plan", series_after(&format!("{found} Enter")));
    pictures!("restore_begun", series_after(&format!("{found} Enter Enter")));
    pictures!("restore_overwrite", series_after(&format!("{found} Down Down Right Right Enter Enter")));
    pictures!("restore_disk", series_after("D Down Enter r Right Right"));
}

#[test]
fn details() {
    pictures!("details_of_an_agent", after("Down d"));
    pictures!("details_of_a_disk", after("D Down Down d"));
    pictures!("details_of_a_point", after("D Enter d"));
    pictures!("details_of_an_action", after("a Down d"));
    pictures!("details_of_a_partition", series_after("D Down Enter Enter d"));
    pictures!("details_of_a_file", series_after(&format!("{ROOT} Down Enter Enter Down d")));
    pictures!("export", series_after("D Down Enter Enter e"));
}

#[test]
fn actions() {
    pictures!("actions", after("a"));
}

#[test]
fn mounts() {
    let mut screen = after("D Down Enter m");
    insta::assert_snapshot!("mount_prompt", screen.drawn());
    screen.types("web");
    screen.keys("Enter e Enter");
    pictures!("mounts", screen);
    pictures!("no_mounts", after("M"));
}

#[test]
fn policies() {
    pictures!("policy", after("D Down p"));
    pictures!("no_policy", after("p"));
}

#[test]
fn store() {
    pictures!("store", after("u"));
}

#[test]
fn help() {
    insta::assert_snapshot!(series_after("Down Enter Enter ?").drawn());
}

#[test]
fn questions() {
    insta::assert_snapshot!("a_question", after("a c").drawn());
    insta::assert_snapshot!("a_prompt", series_after("Down Enter Enter t").drawn());
}

#[test]
fn before_the_first_answer() {
    insta::assert_snapshot!(Screen::new().drawn());
}

#[test]
fn without_a_dispatcher() {
    let mut screen = Screen::new();
    screen.dispatcher.stop();
    screen.tick(0);
    let (socket, shown) = (screen.dispatcher.path().display().to_string(), "/var/lib/blxrep");
    insta::assert_snapshot!("never_connected", lines_of(&screen, &socket, shown));
}

/// The name of a temporary folder is another one each time, and so are the breaks of its lines.
fn lines_of(screen: &Screen, socket: &str, shown: &str) -> String {
    let mut screen_copy = Screen::new();
    let trouble = screen.model.world.trouble.clone().unwrap().replace(socket, shown);
    screen_copy.model.world.trouble = Some(trouble);
    screen_copy.drawn()
}

#[test]
fn a_lost_dispatcher() {
    let mut screen = after("D");
    let why = "no dispatcher answers at /var/lib/blxrep/control.sock: Connection refused (os error 111)";
    screen.happens(Event::Tick(fake::now() + SignedDuration::from_secs(75)));
    let (ticket, _) = screen.asked.remove(0);
    screen.happens(Event::Answer(ticket, Err(Failure::of(why.to_owned()))));
    insta::assert_snapshot!("lost", screen.drawn());
    screen.tick(5);
    assert_eq!(screen.model.world.trouble, None, "it is back");
}

#[test]
fn nothing_there_yet() {
    let mut screen = after("D");
    screen.points = Some(Vec::new());
    screen.keys("Enter");
    insta::assert_snapshot!("no_points", screen.drawn());
}

/// Every page can be drawn at every size, with whatever lies over it.
#[test]
fn any_size_can_be_drawn() {
    for keys in [
        "",
        "D",
        "D Enter",
        "D Enter d",
        "D Enter t",
        "D Enter Enter",
        ROOT,
        "D Enter c",
        "a",
        "a d",
        "a c",
        "u",
        "M",
        "p",
        "D Down Enter m x Enter M",
        "D Down Enter e",
        "?",
        "d",
    ] {
        let mut screen = Screen::with_series();
        screen.keys(keys);
        screen.model.notice = Some("x".repeat(3_000));
        screen.model.world.trouble = Some("y ".repeat(300));
        for width in [1, 2, 10, 79, 80, 99, 109, 110, 300] {
            for height in [1, 2, 16, 23, 24, 25, 100] {
                screen.resize((width, height));
                let _ = screen.drawn();
                screen.press(Key::Down);
            }
        }
    }
    let mut screen = Screen::started();
    screen.resize((79, 24));
    screen.shows("79 x 24, and 80 x 24 is needed");
    screen.resize(NARROW);
    screen.shows("web1");
}

/// Without colours everything is still told apart.
#[test]
fn no_colour_is_used_where_none_is_wanted() {
    use ratatui::style::Color;
    let mut screen = Screen::with_series();
    screen.model.world.theme.colour = false;
    for keys in ["", "D", "Enter", "a", "u", "?"] {
        screen.keys(keys);
        screen.model.world.trouble = Some("gone".to_owned());
        let (width, height) = NARROW;
        let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| blxrep::tui::frame::view(&screen.model, frame)).unwrap();
        let plain = |cell: &ratatui::buffer::Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
        assert!(terminal.backend().buffer().content().iter().all(plain), "{keys}");
    }
}
