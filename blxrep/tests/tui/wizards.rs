//! Restores: where to and how, what would be done, what has to be typed, and what is asked for then.

use crate::screen::Screen;
use blxrep::api::types::RestoreBody;
use blxrep::model::restoration::Conflict;
use blxrep::tui::ask::Ask;
use blxrep::tui::key::Key;
use blxrep::tui::update::Event;

/// At the newest point, with a file of its largest partition found.
fn found() -> Screen {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter /");
    screen.types("budget");
    screen.keys("Enter");
    screen
}

/// What is asked for by this key, without an answer.
fn asked(screen: &mut Screen, key: Key) -> RestoreBody {
    screen.happens(Event::Key(key));
    match screen.asked.last() {
        Some((_, Ask::Restore(body) | Ask::TryFiles(body))) => (**body).clone(),
        other => panic!("{other:?} is no restore:\n{}", screen.drawn()),
    }
}

/// Empties a text and types another.
fn retype(screen: &mut Screen, text: &str) {
    screen.press(Key::Control('u'));
    screen.types(text);
}

#[test]
fn a_file_is_restored_to_a_folder() {
    let mut screen = found();
    screen.keys("r");
    assert_eq!(screen.page(), "Restore");
    screen.shows("restore 2:/home/ada/budget.ods");
    screen.keys("Down");
    retype(&mut screen, "relative");
    screen.keys("Enter");
    screen.shows("! A path begins with `/`.");
    retype(&mut screen, "/srv/restored q?");
    let tried = asked(&mut screen, Key::Enter);
    assert_eq!(tried.target.as_deref(), Some("/srv/restored q?"), "letters of a text are no commands");
    let paths: Vec<String> = tried.paths.iter().map(ToString::to_string).collect();
    assert_eq!((paths, tried.conflict), (vec!["2:/home/ada/budget.ods".to_owned()], Conflict::Skip));
    assert!(tried.dry_run && tried.agent.is_none() && tried.to.is_none() && tried.partition.is_none());
    screen.shows("asking what would be done");
    screen.settle();
    screen.shows("create 3; 47.1 KiB");
    screen.shows("home/ada/budget.ods");
    let begun = asked(&mut screen, Key::Enter);
    assert_eq!(begun, RestoreBody { dry_run: false, ..tried });
    screen.settle();
    assert_eq!(screen.page(), "Details");
    for _ in 0..6 {
        look(&screen);
        screen.tick(1);
    }
    screen.shows("● succeeded");
    screen.shows("1 file (47.1 KiB), 2 folders");
    screen.keys("Esc");
    assert_eq!(screen.page(), "Found", "where one came from");
}

#[test]
fn a_form_is_left_from_its_text_too() {
    let mut screen = found();
    screen.keys("r Down");
    screen.types("q");
    assert_eq!(screen.page(), "Restore", "a letter of the text");
    screen.keys("Esc");
    assert_eq!(screen.page(), "Found");
}

/// The fake's actions go on when they are looked at.
fn look(screen: &Screen) {
    let client = blxrep::api::client::Client::new(screen.dispatcher.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    screen.model.world.actions().iter().for_each(|row| drop(runtime.block_on(client.action(row.id))));
}

#[test]
fn files_that_exist_are_replaced_only_by_who_types_it() {
    let mut screen = found();
    screen.keys("r Down Down Right Right Right Enter");
    screen.shows("replace");
    screen.keys("Enter");
    screen.shows("To do it, type `overwrite` below.");
    screen.types("over");
    screen.keys("Enter");
    screen.shows("! that is not `overwrite`");
    screen.keys("Esc");
    screen.shows("Restore: where to, and how");
    screen.keys("Enter Enter");
    screen.types("overwrite");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!((body.conflict, body.dry_run), (Conflict::Overwrite, false));
    let mut screen = found();
    screen.keys("r Down Down Right Enter");
    screen.shows("budget.ods.restored");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!(body.conflict, Conflict::Rename, "nothing is replaced, and nothing has to be typed");
}

#[test]
fn an_agent_says_what_it_may_not_write() {
    let mut screen = found();
    screen.keys("r Right Right Enter");
    screen.shows("! /var/tmp/restored-5e000047 is not among what restores may write to");
    screen.keys("Down");
    retype(&mut screen, "/srv/x");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!((body.agent.as_deref(), body.target.as_deref()), (Some("web1"), Some("/srv/x")));
    screen.settle();
    screen.shows("to /srv/x on agent web1");
}

#[test]
fn marked_files_are_restored_together() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter Enter Down Enter Enter End Space Up Space r");
    screen.shows("restore 2 files or folders");
    let body = asked(&mut screen, Key::Enter);
    let paths: Vec<String> = body.paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["2:/home/ada/new%0Aline", "2:/home/ada/old %FF name"]);
}

#[test]
fn a_disk_is_written_to_a_file_and_over_one_only_by_who_types_its_name() {
    let mut screen = Screen::with_series();
    let target = screen.dispatcher.path().join("disk.img");
    std::fs::write(&target, "precious").unwrap();
    let name = target.display().to_string();
    screen.keys("D Down Enter r Down");
    screen.types(&name);
    screen.keys("Enter");
    screen.shows("the whole disk /dev/sda of web1, 100.0 GiB");
    screen.shows("is not overwritten before you are asked");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!((body.to.as_deref(), body.yes, body.dry_run), (Some(name.as_str()), false, false));
    screen.settle();
    screen.shows("something would be gone afterwards");
    screen.types(&name);
    let body = asked(&mut screen, Key::Enter);
    assert!(body.yes);
    screen.settle();
    screen.shows("restore");
    assert_eq!(screen.page(), "Details");
}

#[test]
fn a_partition_goes_to_the_device_of_an_agent_after_its_preflight() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter Enter r Right Right Down");
    screen.types("/dev/vda");
    screen.keys("Enter");
    screen.shows("! /dev/vda1 is mounted on / (ext4): unmount it first");
    retype(&mut screen, "/dev/vdb");
    screen.keys("Down Right Down Right");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!((body.device.as_deref(), body.agent.as_deref()), (Some("/dev/vdb"), Some("web1")));
    assert_eq!((body.partition, body.full, body.no_undo, body.dry_run), (Some(2.into()), true, true, true));
    screen.settle();
    screen.shows("dry run, nothing was written: /dev/vdb holds nothing");
    screen.keys("Enter");
    screen.shows("! everything on /dev/vdb, the first, would be overwritten");
    screen.types("/dev/vdb");
    let body = asked(&mut screen, Key::Enter);
    assert!(body.yes && !body.dry_run);
    assert_eq!(body.agreed.as_deref(), Some("/dev/vdb, the first"), "what was seen");
    screen.settle();
    assert_eq!(screen.page(), "Details");
}

/// A device that is another one when the word is typed is not written to: the question comes again.
#[test]
fn what_was_agreed_to_is_what_is_overwritten() {
    let mut screen = Screen::with_series();
    screen.keys("D Down Enter r Right Right Down");
    screen.types("/dev/vdc");
    screen.keys("Enter Enter");
    screen.shows("! everything on /dev/vdc, the first, would be overwritten");
    screen.types("/dev/vdc");
    screen.keys("Enter");
    screen.shows("! everything on /dev/vdc, another, would be overwritten");
    screen.types("/dev/vdc");
    let body = asked(&mut screen, Key::Enter);
    assert_eq!((body.yes, body.agreed.as_deref()), (true, Some("/dev/vdc, another")));
    screen.settle();
    assert_eq!(screen.page(), "Details");
}

#[test]
fn every_step_can_be_gone_back_from() {
    let mut screen = found();
    screen.keys("r");
    screen.happens(Event::Key(Key::Enter));
    screen.happens(Event::Key(Key::Char('q')));
    assert!(!screen.left, "nothing but Esc leaves a question");
    screen.happens(Event::Key(Key::Esc));
    screen.shows("Restore: where to, and how");
    screen.settle();
    screen.shows("Restore: where to, and how");
    screen.keys("Enter Esc");
    screen.shows("Restore: where to, and how");
    screen.keys("Esc");
    assert_eq!(screen.page(), "Found");
}
