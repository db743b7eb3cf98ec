//! What keys and answers do.

use crate::fake;
use crate::screen::Screen;
use blxrep::api::events;
use blxrep::model::action::{ActionKind, ActionState};
use blxrep::model::ids::PointId;
use blxrep::tui::ask::{Answer, Ask, Failure};
use blxrep::tui::key::Key;
use blxrep::tui::update::Event;

#[test]
fn enter_goes_in_and_escape_comes_back() {
    let mut screen = Screen::started();
    let mut pages = vec![screen.page()];
    for _ in 0..2 {
        screen.press(Key::Enter);
        pages.push(screen.page());
    }
    screen.keys("d");
    pages.push(screen.page());
    assert_eq!(pages, ["Agents", "Disks", "Points", "Details"]);
    screen.shows(" blxrep › agents › db1 › /dev/sda › 9a001111: details");
    for page in ["Points", "Disks", "Agents", "Agents"] {
        screen.press(Key::Esc);
        assert_eq!(screen.page(), page);
    }
    screen.shows("This is where it begins");
    assert!(!screen.left);
}

#[test]
fn it_can_be_left_from_everywhere() {
    for keys in ["", "Enter", "Enter Enter", "?", "a c", "u"] {
        let mut screen = Screen::started();
        screen.keys(keys);
        screen.press(Key::Control('c'));
        assert!(screen.left, "{keys}");
    }
    let mut screen = Screen::started();
    screen.keys("Enter Enter q");
    assert!(screen.left);
    let mut screen = Screen::started();
    screen.keys("Enter Enter t q");
    assert!(!screen.left, "a letter that is typed is no command");
}

#[test]
fn lists_are_moved_through() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter");
    let newest = screen.row();
    for (there, back) in [("Down", "Up"), ("j", "k"), ("PageDown", "PageUp"), ("End", "Home"), ("G", "g")] {
        screen.keys(there);
        assert_ne!(screen.row(), newest, "{there}");
        screen.keys(back);
        assert_eq!(screen.row(), newest, "{back}");
    }
    screen.keys("Up");
    assert_eq!(screen.row(), newest);
}

#[test]
fn a_selected_row_stays_selected_when_others_appear_above_it() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Down Down");
    let selected = screen.row();
    let mut newer = screen.points.clone().unwrap();
    let mut point = newer.last().unwrap().clone();
    point.id = PointId(7);
    point.cut = fake::now();
    newer.push(point);
    screen.points = Some(newer);
    published(&mut screen);
    assert_eq!(screen.row(), selected);
    screen.keys("Home");
    assert!(screen.row().starts_with("2026-11-03T12:00:00Z"), "the newest is on top: {}", screen.row());
    // Those at the old end have gone, and so has the selected one.
    screen.keys("End");
    let few = screen.points.clone().unwrap().split_off(60);
    screen.points = Some(few);
    screen.keys("Esc Enter");
    screen.shows("1 of 8 points");
}

fn published(screen: &mut Screen) {
    let row = screen.points.as_ref().unwrap().last().unwrap();
    let event = events::Event::Point {
        at: row.published,
        point: row.id,
        disk: fake::SDA,
        cut_id: row.cut_id,
        consistency: row.consistency,
        bytes: row.bytes,
    };
    screen.happens(Event::Happened(event));
    screen.settle();
}

#[test]
fn times_can_be_gone_to() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter t");
    screen.types("1h ago");
    screen.keys("Enter");
    assert!(screen.row().starts_with("2026-11-03T10:59:56Z"), "{}", screen.row());
    screen.shows("cut 4 s before it");
    screen.keys("/");
    screen.types("nonsense");
    screen.keys("Enter");
    screen.shows("! no time; as 1h ago");
    screen.keys("Esc");
    assert!(screen.row().starts_with("2026-11-03T10:59:56Z"), "it stays where it was");
    screen.keys("t");
    screen.types("2020-01-01");
    screen.keys("Enter");
    screen.shows("No point is as old as 2020-01-01T23:59:59Z; the oldest is of");
    assert!(screen.row().starts_with("2026-11-03T06:04:56Z"), "{}", screen.row());
}

#[test]
fn the_time_line_is_moved_along() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter");
    screen.shows("Time line, 5 min a cell");
    screen.keys("-");
    screen.shows("Time line, 15 min a cell");
    screen.keys("Left");
    let before = screen.row();
    assert!(before.starts_with("2026-11-03T11:44:56Z"), "the newest of the cell before: {before}");
    screen.keys("Left Right");
    assert_eq!(screen.row(), before);
    screen.keys("Right Right Right");
    assert!(screen.row().starts_with("2026-11-03T11:59:56Z"), "{}", screen.row());
    screen.keys("+ + +");
    screen.shows("Time line, 10 s a cell");
    screen.keys("0");
    screen.shows("Time line, 5 min a cell");
}

/// Rows are made for what is seen, however many there are; they are asked for in growing parts.
#[test]
fn ten_thousand_points_are_no_burden() {
    let mut screen = Screen::started();
    let few = fake::series();
    let many = (0..10_000u64).map(|n| {
        let mut row = few[0].clone();
        row.id = PointId(n + 1);
        row.cut = fake::now() - jiff::SignedDuration::from_secs(300 * (10_000 - i64::try_from(n).unwrap()));
        row
    });
    screen.points = Some(many.collect());
    screen.keys("D Down");
    screen.happens(Event::Key(Key::Enter));
    let mut sizes = Vec::new();
    while let Some((ticket, Ask::Points { disk, newest })) = screen.asked.pop() {
        sizes.push(newest);
        let all = screen.points.as_ref().unwrap();
        let rows = all[all.len().saturating_sub(newest as usize)..].to_vec();
        screen.happens(Event::Answer(ticket, Ok(Answer::Points { disk, rows })));
        screen.shows("1 of ");
    }
    assert_eq!(sizes, [500, 5_000, 50_000]);
    screen.shows("1 of 10,000 points");
    let began = std::time::Instant::now();
    for _ in 0..100 {
        screen.press(Key::PageDown);
        let _ = screen.drawn();
    }
    println!("a page of 10,000 points takes {:?}", began.elapsed() / 100);
    screen.keys("End");
    screen.shows("10,000 of 10,000 points");
}

#[test]
fn actions_are_paused_resumed_and_cancelled() {
    let mut screen = Screen::started();
    screen.keys("a p");
    screen.shows("The live ac00000000000001 is paused now.");
    screen.tick(1);
    assert!(screen.row().contains("= paused"), "{}", screen.row());
    screen.keys("p");
    screen.shows("is paused already");
    screen.keys("r");
    screen.tick(1);
    assert!(screen.row().contains("◐ running"), "{}", screen.row());
    screen.keys("r");
    screen.shows("is not paused");
    screen.keys("c");
    screen.shows("Cancel the live of /dev/sda (ac00000000000001)?");
    screen.keys("x n");
    screen.shows("Nothing was done.");
    screen.keys("c Esc");
    screen.shows("Nothing was done.");
    screen.keys("c y");
    screen.tick(1);
    screen.shows("x cancelled");
    screen.keys("Home c");
    screen.shows("has ended already: cancelled");
}

#[test]
fn points_are_mounted_and_unmounted() {
    let mut screen = Screen::started();
    screen.keys("M");
    screen.shows("No point is mounted or served.");
    screen.keys("Esc D Down Enter m");
    screen.types("full");
    screen.keys("Enter");
    screen.shows("! cannot mount on /mnt/full: it is not empty");
    screen.types("er");
    assert_eq!(screen.model.page().prompt().unwrap().text(), "/mnt/fuller", "what was typed is corrected");
    screen.keys("Enter");
    screen.shows("Mounted on /mnt/fuller");
    screen.keys("M");
    assert_eq!(screen.row(), "mount   ● served  web1   /dev/sda  11-03 11:59:56  /mnt/fuller");
    screen.keys("Enter");
    screen.shows("4f0c2a9bffff0001");
    screen.keys("Esc x");
    screen.shows("Unmount point 4f0c2a9bffff0001 from /mnt/fuller?");
    screen.keys("n");
    screen.shows("/mnt/fuller");
    screen.keys("x y");
    screen.shows("is no longer mounted on /mnt/fuller.");
    screen.shows("No point is mounted or served.");
}

#[test]
fn points_are_served_and_stopped() {
    let mut screen = Screen::started();
    screen.keys("D Down Enter e");
    screen.shows("the whole disk /dev/sda of web1");
    screen.press(Key::Control('u'));
    screen.types("192.0.2.1:1");
    screen.keys("Enter");
    screen.shows("! 192.0.2.1:1 is not on this host");
    screen.press(Key::Control('u'));
    screen.types("unix:/run/q.sock");
    screen.keys("Down Right Enter");
    assert_eq!(screen.page(), "Mounts");
    screen.shows("is served at nbd+unix:///?socket=/run/q.sock.");
    assert!(
        screen.row().starts_with("export  ● served  web1   /dev/sda  11-03 11:59:56  unix:/run/q.sock"),
        "{}",
        screen.row()
    );
    screen.press(Key::Home);
    screen.shows("to read and write; what is ");
    screen.keys("x");
    screen.shows("and what they have written is gone");
    screen.keys("y");
    screen.shows("is no longer served at");
}

/// What somebody mounts by hand is seen by and by, and what is refused does not take the list away.
#[test]
fn mounts_are_looked_at_again() {
    let mut screen = Screen::started();
    screen.keys("D Down Enter m x Enter M");
    let client = blxrep::api::client::Client::new(screen.dispatcher.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let unmount = blxrep::api::mounts::UnmountQuery { directory: "/mnt/x".to_owned() };
    runtime.block_on(client.unmount(&unmount)).unwrap();
    screen.keys("x y");
    screen.shows("! no point is mounted on /mnt/x");
    assert!(screen.row().contains("/mnt/x"), "as it was seen last");
    (0..4).for_each(|_| screen.tick(2));
    screen.shows("No point is mounted or served.");
}

#[test]
fn points_are_cut_and_verified() {
    let mut screen = Screen::started();
    screen.keys("s");
    screen.shows("A cut of /dev/sda was asked for");
    screen.keys("Enter s");
    screen.shows("A cut of /dev/sda was asked for");
    screen.keys("S");
    screen.shows("A cut of /dev/sda was asked for");
    screen.keys("Enter v");
    screen.shows("Verify point 9a00111122223333");
    screen.keys("y");
    screen.shows("The verify has begun");
    screen.keys("a");
    screen.tick(1);
    screen.tick(1);
    screen.shows("verify");
    for _ in 0..6 {
        let ids: Vec<_> = screen.model.world.actions().iter().map(|row| row.id).collect();
        let client = blxrep::api::client::Client::new(screen.dispatcher.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        ids.into_iter().for_each(|id| drop(runtime.block_on(client.action(id))));
        screen.tick(1);
    }
    screen.shows("! failed");
}

/// The way to a file: into a point, its largest partition, its folders, and back.
#[test]
fn folders_are_gone_into_and_come_back_from() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter");
    assert!(screen.row().trim_start().starts_with("2  ext4"), "the largest with files: {}", screen.row());
    screen.keys("Enter");
    let root = screen.row();
    assert!(root.ends_with("etc/"), "{root}");
    screen.keys("Down Enter");
    screen.shows("2:/home ");
    screen.keys("Enter Down");
    screen.shows("2:/home/ada ");
    assert!(screen.row().ends_with("budget.ods"), "{}", screen.row());
    screen.keys("Enter");
    screen.shows("48213 bytes");
    screen.keys("Esc Esc");
    assert!(screen.row().ends_with("ada/"), "where one came from: {}", screen.row());
    screen.keys("Backspace");
    assert!(screen.row().ends_with("home/"), "{}", screen.row());
    screen.keys("Esc");
    assert_eq!(screen.page(), "Partitions");
    screen.keys("Up Enter");
    screen.shows("the kernel does not mount it as vfat");
    screen.keys("Esc End Enter");
    screen.shows("Its files cannot be shown: a swap area");
}

#[test]
fn files_are_found_by_a_part_of_their_name() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter / B U D");
    screen.keys("Esc / Enter");
    assert_eq!(screen.page(), "Files", "nothing is looked for");
    screen.keys("/");
    screen.types("budget");
    screen.keys("Enter");
    assert!(screen.row().ends_with("2:/home/ada/budget.ods"), "{}", screen.row());
    screen.keys("Enter");
    screen.shows("› 2:/home/ada ");
    assert!(screen.row().ends_with("budget.ods"), "{}", screen.row());
    screen.keys("Esc Esc Esc Esc");
    screen.keys("/");
    screen.types("zzz");
    screen.keys("Enter");
    screen.shows("Nothing fits.");
    // From the partitions, on all of them.
    screen.keys("Esc Esc");
    assert_eq!(screen.page(), "Partitions");
    screen.keys("/");
    screen.types("*.sql");
    screen.keys("Enter");
    screen.shows("2:/srv/dump.sql");
}

#[test]
fn names_of_all_kinds_can_be_read_and_marked() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter Down Enter Enter");
    for name in ["100%.txt", "budget.ods", "café.jpg", "new\\nline", "old \\xff name"] {
        screen.shows(name);
    }
    screen.keys("End Space");
    screen.shows("* 1 mark");
    screen.keys("Space");
    assert!(!screen.drawn().contains("mark,"), "the mark is taken away");
    screen.keys("Up Space Space");
    screen.shows("* 2 marks");
    screen.keys("U");
    assert!(!screen.drawn().contains("* 2"), "all are taken away");
}

/// The same folder at the points before and after.
#[test]
fn a_folder_is_looked_at_through_time() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter Down Enter");
    screen.shows("› 11-03 11:59:56 › 2:/home");
    screen.keys("]");
    screen.shows("There is no further point.");
    screen.keys("[");
    screen.shows("The folder at the point of 11-03 11:54:56.");
    screen.keys("[ ]");
    screen.shows("The folder at the point of 11-03 11:54:56.");
}

#[test]
fn points_are_compared() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter");
    screen.keys("Down Down c");
    screen.shows("11-03 11:49:56 to 11-03 11:59:56");
    screen.shows("~ content");
    screen.keys("Down Down");
    assert!(screen.row().ends_with("2:/home/ada/budget.ods"), "{}", screen.row());
    screen.keys("Enter");
    assert!(screen.row().ends_with("budget.ods"), "where it still was: {}", screen.row());
    screen.shows("at 11-03 11:49:56");
    screen.keys("Esc Esc Esc End Enter");
    screen.shows("at 11-03 11:59:56");
}

/// A list that comes in pages is asked for as one gets to its end, and only then.
#[test]
fn long_folders_come_page_by_page() {
    use blxrep::api::browse::Findings;
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter Down Enter Enter");
    let client = blxrep::api::client::Client::new(screen.dispatcher.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let query = blxrep::api::browse::FilesQuery {
        partition: Some(fake::files::ROOT),
        path: Some("/home/ada".parse().unwrap()),
        ..Default::default()
    };
    let row = runtime.block_on(client.files(&fake::BASE.to_string(), &query)).unwrap().items[0].clone();
    screen.happens(Event::Key(Key::Control('r')));
    let mut asked = 0;
    while let Some(at) = screen.asked.iter().position(|(_, ask)| matches!(ask, Ask::Files { .. })) {
        let (ticket, _) = screen.asked.remove(at);
        asked += 1;
        let page = Findings {
            items: vec![row.clone(); 500],
            next: (asked < 10).then(|| asked.to_string()),
            notes: vec![],
            unread: vec![],
        };
        screen.happens(Event::Answer(ticket, Ok(Answer::Files(page))));
        if asked == 1 {
            screen.happens(Event::Key(Key::End));
        }
    }
    assert_eq!(asked, 2, "the second is asked for by who is at the end of the first, and no third");
    screen.shows("of 1,000 entries, more to come");
}

/// What was asked for a page that was left is not waited for; what was told to be done is, and a failure is said.
#[test]
fn answers_find_who_asked() {
    let mut screen = Screen::started();
    screen.happens(Event::Key(Key::Char('d')));
    assert_eq!(screen.asked.len(), 1, "{:?}", screen.asked);
    screen.happens(Event::Key(Key::Esc));
    assert!(screen.asked.is_empty(), "nobody waits for it");
    screen.keys("Enter");
    screen.happens(Event::Key(Key::Char('s')));
    screen.happens(Event::Key(Key::Esc));
    let (ticket, _) = screen.asked.remove(0);
    screen.happens(Event::Answer(ticket, Err(Failure::of("the agent is gone".into()))));
    screen.shows("the agent is gone");
    screen.happens(Event::Answer(ticket, Err(Failure::of("twice".into()))));
    assert!(!screen.drawn().contains("twice"));
}

#[test]
fn a_dispatcher_that_tells_is_asked_less_often_and_at_once_when_it_does() {
    let mut screen = Screen::started();
    let asks = |screen: &mut Screen, seconds: i64| {
        (0..seconds)
            .filter(|_| {
                screen.happens(Event::Tick(screen.model.world.now + jiff::SignedDuration::from_secs(1)));
                let asked = !screen.asked.is_empty();
                screen.settle();
                asked
            })
            .count()
    };
    asks(&mut screen, 2);
    assert_eq!(asks(&mut screen, 20), 10);
    screen.happens(Event::Told(true));
    asks(&mut screen, 1);
    assert_eq!(asks(&mut screen, 20), 4);
    for _ in 0..100 {
        screen.happens(Event::Happened(events::Event::Missed { events: 1 }));
    }
    assert!(screen.asked.is_empty(), "a hundred events are no hundred questions");
    assert_eq!(asks(&mut screen, 1), 1);
}

#[test]
fn nothing_from_an_agent_reaches_the_terminal_as_a_command() {
    let mut screen = Screen::started();
    for keys in ["", "d", "Esc D", "Enter", "d"] {
        screen.keys(keys);
        assert!(!screen.drawn().contains('\u{1b}'), "{keys}");
    }
}

/// A key line and a help that name keys which do nothing would be worse than none.
#[test]
fn every_key_that_is_named_does_something() {
    let root = "D Down Enter Enter Enter";
    let pages = ["", "D", "D Down Enter", "D Down Enter Enter", root, "D Down Enter c", "a", "u", "d", "p"];
    for keys in pages {
        let mut screen = Screen::with_series();
        screen.keys(keys);
        let hints = screen.model.page().keys();
        let shown = hints.iter().filter(|hint| !hint.short.is_empty());
        for name in shown.flat_map(|hint| hint.keys.split(' ')) {
            let key = match name {
                "Enter" => Key::Enter,
                "<-" => Key::Left,
                "->" => Key::Right,
                "Space" => Key::Char(' '),
                one if one.chars().count() == 1 => Key::Char(one.chars().next().unwrap()),
                _ => continue,
            };
            let mut screen = Screen::with_series();
            screen.keys(keys);
            // In the middle of the list both ways lead somewhere.
            screen.keys(if keys.ends_with("Enter Enter") { "Up Down" } else { "Down" });
            let before = (screen.page(), screen.drawn());
            screen.press(key);
            let after = (screen.page(), screen.drawn());
            assert!(before != after || !screen.asked.is_empty(), "{name} does nothing after `{keys}`");
        }
    }
}

/// Also where its lines are broken to fit the screen, and there are more than it has.
#[test]
fn the_help_can_be_read_to_its_end() {
    for keys in ["", "D", "D Down Enter", "D Down Enter Enter", "a", "u", "M", "p"] {
        let mut screen = Screen::with_series();
        screen.keys(keys);
        screen.keys("? End");
        screen.shows("neither proven nor frozen");
    }
}

/// A restore of files does not know how much it will be.
#[test]
fn details_of_an_action_without_a_total_say_each_thing_once() {
    let mut screen = Screen::started();
    screen.keys("a d");
    let mut data = screen.model.world.data.clone().unwrap();
    let row = data.actions.iter_mut().find(|row| row.state == ActionState::Running).unwrap();
    (row.kind, row.total, row.reason) = (ActionKind::Restore, 0, "2 paths of a point".to_owned());
    for done in [0, 4 << 20] {
        data.actions.iter_mut().for_each(|row| row.done = done);
        data.at += jiff::SignedDuration::from_secs(2);
        screen.model.world.learn(data.clone());
    }
    screen.shows("progress        4.00 MiB");
    screen.shows("MiB/s");
    assert_eq!(screen.drawn().matches("2 paths of a point").count(), 1, "{}", screen.drawn());
}
