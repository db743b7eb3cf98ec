//! Patterns that choose agents by name: `web[1-5].example.com`, `db[a,b]`, `cache-*`, `node-??`, `*`.
//!
//! `*` stands for any characters, also none; `?` for one; brackets for one of a list of texts and ranges of whole
//! numbers. A range whose first number starts with a zero (`[01-12]`) stands for numbers of that width.

use std::fmt;
use std::str::FromStr;

/// The longest pattern; names of agents have at most 64 characters.
const MAX_PATTERN: usize = 256;

/// Why a text is not a pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    #[error("a pattern of {0} characters; at most 256 are allowed")]
    TooLong(usize),
    #[error("an empty pattern matches nothing; use `*` for every agent")]
    Empty,
    #[error("`{0}` has a bracket that is not closed or not opened")]
    Bracket(String),
    #[error("`[{0}]` is neither a list such as [a,b] nor a range of numbers such as [1-5]")]
    Choice(String),
}

/// A pattern for names.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `?`
    One,
    /// `*`
    Any,
    Choice(Vec<Item>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Text(String),
    /// Both ends included; `width` is the number of digits if it is fixed.
    Range {
        first: u64,
        last: u64,
        width: Option<usize>,
    },
}

impl Pattern {
    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it stands for one name only: itself.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        // Every place up to which the pieces so far can have come; so no pattern takes longer than its length times
        // the name's.
        let mut places = vec![0];
        for piece in &self.pieces {
            let mut next: Vec<usize> = places.iter().flat_map(|from| piece.ends(name, *from)).collect();
            next.sort_unstable();
            next.dedup();
            places = next;
        }
        places.contains(&name.len())
    }
}

impl Piece {
    /// Where this piece can end if it begins at `from`.
    fn ends(&self, name: &str, from: usize) -> Vec<usize> {
        let rest = &name[from..];
        match self {
            Self::Text(text) => {
                rest.starts_with(text.as_str()).then_some(from + text.len()).into_iter().collect()
            }
            Self::One => rest.chars().next().map(|c| from + c.len_utf8()).into_iter().collect(),
            Self::Any => (from..=name.len()).filter(|end| name.is_char_boundary(*end)).collect(),
            Self::Choice(items) => {
                items.iter().flat_map(|item| item.ends(rest)).map(|end| from + end).collect()
            }
        }
    }
}

impl Item {
    fn ends(&self, rest: &str) -> Vec<usize> {
        match self {
            Self::Text(text) => rest.starts_with(text.as_str()).then_some(text.len()).into_iter().collect(),
            Self::Range { first, last, width } => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let fits = |end: &usize| {
                    let number = &rest[..*end];
                    let plain = width.map_or(*end == 1 || !number.starts_with('0'), |width| *end == width);
                    plain && number.parse().is_ok_and(|number| (*first..=*last).contains(&number))
                };
                (1..=digits).filter(fits).collect()
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong(text.len()));
        }
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let bracket = || PatternError::Bracket(text.to_owned());
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let taken = match first {
                '*' => (Piece::Any, 1),
                '?' => (Piece::One, 1),
                ']' => return Err(bracket()),
                '[' => {
                    let end = rest.find(']').ok_or_else(bracket)?;
                    (Piece::Choice(choice(&rest[1..end])?), end + 1)
                }
                _ => {
                    let end = rest.find(['*', '?', '[', ']']).unwrap_or(rest.len());
                    (Piece::Text(rest[..end].to_owned()), end)
                }
            };
            pieces.push(taken.0);
            rest = &rest[taken.1..];
        }
        Ok(Self { text: text.to_owned(), pieces })
    }
}

fn choice(inside: &str) -> Result<Vec<Item>, PatternError> {
    let wrong = || PatternError::Choice(inside.to_owned());
    let items = inside.split(',').map(str::trim);
    items
        .map(|item| match item.split_once('-') {
            Some((first, last)) => range(first, last).ok_or_else(wrong),
            None if item.is_empty() || item.contains(['*', '?', '[']) => Err(wrong()),
            None => Ok(Item::Text(item.to_owned())),
        })
        .collect()
}

fn range(first: &str, last: &str) -> Option<Item> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    let width = (first.len() > 1 && first.starts_with('0')).then_some(first.len());
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(Item::Range { first, last, width })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matching<'a>(pattern: &str, names: &[&'a str]) -> Vec<&'a str> {
        let pattern: Pattern = pattern.parse().unwrap();
        names.iter().copied().filter(|name| pattern.matches(name)).collect()
    }

    #[test]
    fn a_range_is_of_whole_numbers() {
        let names = ["web1.x", "web5.x", "web6.x", "web10.x", "web01.x", "web.x", "web1x", "xweb1.x"];
        assert_eq!(matching("web[1-5].x", &names), ["web1.x", "web5.x"]);
        assert_eq!(matching("web[1-10].x", &names), ["web1.x", "web5.x", "web6.x", "web10.x"]);
        assert_eq!(matching("n[08-11]", &["n8", "n08", "n10", "n11", "n12", "n010"]), ["n08", "n10", "n11"]);
        assert_eq!(matching("n[0-2]", &["n0", "n1", "n00"]), ["n0", "n1"]);
        assert_eq!(matching("n[1-3]5", &["n15", "n25", "n5", "n155"]), ["n15", "n25"]);
    }

    #[test]
    fn a_list_is_of_texts_and_ranges() {
        assert_eq!(matching("db[a,b]", &["dba", "dbb", "dbc", "db", "dbab"]), ["dba", "dbb"]);
        assert_eq!(matching("s[1-2, 7,x]", &["s1", "s2", "s3", "s7", "sx"]), ["s1", "s2", "s7", "sx"]);
    }

    #[test]
    fn stars_and_question_marks_are_wild() {
        assert_eq!(
            matching("cache-*", &["cache-", "cache-a.b", "cache", "xcache-a"]),
            ["cache-", "cache-a.b"]
        );
        assert_eq!(matching("*", &["", "anything"]), ["", "anything"]);
        assert_eq!(matching("n?", &["n1", "n", "n12", "né"]), ["n1", "né"]);
        assert_eq!(matching("*.db[1-2].*", &["a.db1.x", "a.db3.x", "db1.x"]), ["a.db1.x"]);
        assert_eq!(matching("a.b", &["a.b", "axb"]), ["a.b"], "a dot is a dot");
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
        assert!(matches!("web[1-5".parse::<Pattern>(), Err(PatternError::Bracket(_))));
        assert!(matches!("web1-5]".parse::<Pattern>(), Err(PatternError::Bracket(_))));
        for bad in ["[]", "[a-c]", "[5-1]", "[1-]", "[a,]", "[*]", "[[1]"] {
            assert!(matches!(bad.parse::<Pattern>(), Err(PatternError::Choice(_))), "{bad}");
        }
        assert!(matches!("x".repeat(300).parse::<Pattern>(), Err(PatternError::TooLong(300))));
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let pattern: Pattern = "*a".repeat(100).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(64)));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(pattern in "[a\\[\\]\\-,*?0-9é]{0,20}", name in "[a0-9é]{0,10}") {
            if let Ok(pattern) = pattern.parse::<Pattern>() {
                let _ = pattern.matches(&name);
            }
        }

        #[test]
        fn a_name_matches_itself_and_every_prefix_of_it_with_a_star(name in "[a-z0-9.-]{1,20}", cut in 0usize..20) {
            prop_assert!(name.parse::<Pattern>().unwrap().matches(&name));
            let prefix = &name[..cut.min(name.len())];
            let starred = format!("{prefix}*").parse::<Pattern>().unwrap();
            prop_assert!(starred.matches(&name));
        }
    }
}
