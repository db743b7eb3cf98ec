//! Text in lines that fit. Pure.

use super::table::width_of;

/// Breaks every line of a text between words where it has to; a word that is longer than a line is broken anywhere.
#[must_use]
pub fn wrap(text: &str, width: u16) -> Vec<String> {
    let width = width.max(1);
    text.lines().flat_map(|line| wrap_line(line, width)).collect()
}

fn wrap_line(line: &str, width: u16) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    let mut put = |piece: &str, breaks: bool| {
        let wide = width_of(piece);
        if breaks && used + wide > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(last) = lines.last_mut() {
            // A line that was broken does not begin with the blank that it was broken at.
            let piece = if used == 0 && breaks { piece.trim_start() } else { piece };
            last.push_str(piece);
            used += width_of(piece);
        }
    };
    let mut first = true;
    for word in line.split_inclusive(' ') {
        let bare = word.trim_end();
        if width_of(bare) <= width {
            put(if bare.is_empty() { "" } else { bare }, !first);
            put(&word[bare.len()..], false);
        } else {
            for c in bare.chars() {
                put(c.encode_utf8(&mut [0; 4]), true);
            }
            put(" ", false);
        }
        first = false;
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("  kept  apart\n\nend", 20), ["  kept  apart", "", "end"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("漢字漢字", 4), ["漢字", "漢字"]);
        assert!(wrap("", 4).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_line_fits(text in "[a-c漢 ]{0,60}", width in 2u16..20) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| width_of(line) <= width), "{lines:?}");
            let bare = |text: &str| text.replace(' ', "");
            prop_assert_eq!(bare(&lines.concat()), bare(&text));
        }
    }
}
