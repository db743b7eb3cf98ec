//! The screens in `docs/tui.md` are those of the pictures beside these tests.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Set to write the document anew instead of comparing it.
const UPDATE: &str = "BLXREP_UPDATE_DOCS";
const MARK: &str = "<!-- screen: ";

#[test]
fn the_documents_screens_are_those_of_the_pictures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../docs/tui.md");
    let text = fs::read_to_string(&path).unwrap();
    let renewed = renew(&text, |name| {
        let picture = root.join(format!("tests/tui/snapshots/tui__views__{name}.snap"));
        fs::read_to_string(&picture).unwrap_or_else(|error| panic!("{}: {error}", picture.display()))
    });
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &renewed).unwrap();
    }
    assert!(text.matches(MARK).count() > 5, "there are hardly any screens: is the mark right?");
    let (old, new): (Vec<_>, Vec<_>) = (text.lines().collect(), renewed.lines().collect());
    let differs =
        old.iter().zip(&new).position(|(old, new)| old != new).or((old.len() != new.len()).then_some(0));
    assert_eq!(differs, None, "docs/tui.md, from this line on; with {UPDATE}=1 the test writes it anew");
}

/// The document with the picture behind every mark.
fn renew(text: &str, picture: impl Fn(&str) -> String) -> String {
    let mut renewed = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        renewed.push_str(line);
        renewed.push('\n');
        let Some(name) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        if lines.peek() == Some(&"```text") {
            let _ = lines.by_ref().find(|line| *line == "```");
        }
        writeln!(renewed, "```text\n{}```", screen(&picture(name))).unwrap();
    }
    renewed
}

/// The lines of a picture, without its header, the quotes around each line and blanks at their ends.
fn screen(picture: &str) -> String {
    let (_, body) = picture.trim_start_matches("---\n").split_once("---\n").unwrap();
    let bare = |line: &str| line.trim_matches('"').trim_end().to_owned() + "\n";
    body.lines().map(bare).collect()
}
