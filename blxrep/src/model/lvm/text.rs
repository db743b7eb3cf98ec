//! The language of LVM's metadata: sections of names and values.
//!
//! ```text
//! vg0 {
//!     seqno = 7                    # a comment
//!     status = ["READ", "WRITE"]
//! }
//! ```

/// Sections within sections. LVM's own texts have four.
const MAX_DEPTH: usize = 8;
/// Names and values of a text.
const MAX_NODES: usize = 200_000;

/// What stands behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Names and what stands behind them, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub Vec<(String, Value)>);

impl Section {
    /// All of a text. `None` if it is not in this language.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // What follows the text in its buffer may be a NUL.
        let text = std::str::from_utf8(text).ok()?.trim_end_matches('\0');
        let mut parser = Parser { rest: text, nodes: MAX_NODES };
        let section = parser.section(0)?;
        parser.blank();
        parser.rest.is_empty().then_some(section)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        if let Value::Number(number) = self.get(name)? { Some(*number) } else { None }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        if let Value::Text(text) = self.get(name)? { Some(text) } else { None }
    }

    pub fn list(&self, name: &str) -> Option<&[Value]> {
        if let Value::List(list) = self.get(name)? { Some(list) } else { None }
    }

    pub fn section(&self, name: &str) -> Option<&Self> {
        if let Value::Section(section) = self.get(name)? { Some(section) } else { None }
    }

    /// The sections in it, with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// How many more may come.
    nodes: usize,
}

impl<'a> Parser<'a> {
    /// Up to its closing brace, or to the end of the text.
    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut section = Section::default();
        loop {
            self.blank();
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Some(section);
            }
            let name = self.name()?.to_owned();
            let value = if self.take('{') {
                let inner = (depth < MAX_DEPTH).then(|| self.section(depth + 1))??;
                self.take('}').then_some(Value::Section(inner))?
            } else {
                self.take('=').then(|| self.value())??
            };
            section.0.push((name, value));
        }
    }

    fn value(&mut self) -> Option<Value> {
        if !self.take('[') {
            return self.single();
        }
        let mut list = Vec::new();
        while !self.take(']') {
            if !list.is_empty() && !self.take(',') {
                return None;
            }
            list.push(self.single()?);
        }
        Some(Value::List(list))
    }

    fn single(&mut self) -> Option<Value> {
        self.count()?;
        if self.take('"') {
            return self.quoted().map(Value::Text);
        }
        let word = self.word(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'))?;
        // A number that is none here (negative, with a point) stands for nothing that is asked for.
        Some(word.parse().map_or_else(|_| Value::Text(word.to_owned()), Value::Number))
    }

    /// Up to the closing quote.
    fn quoted(&mut self) -> Option<String> {
        let (mut text, mut escaped) = (String::new(), false);
        for (at, c) in self.rest.char_indices() {
            match c {
                '\\' if !escaped => escaped = true,
                '"' if !escaped => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                _ => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        None
    }

    fn name(&mut self) -> Option<&'a str> {
        self.count()?;
        self.word(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'+' | b'-' | b'/'))
    }

    fn count(&mut self) -> Option<()> {
        self.nodes = self.nodes.checked_sub(1)?;
        Some(())
    }

    fn word(&mut self, is_in: impl Fn(u8) -> bool) -> Option<&'a str> {
        self.blank();
        let end = self.rest.bytes().position(|b| !is_in(b)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn take(&mut self, c: char) -> bool {
        self.blank();
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Passes over blanks and comments.
    fn blank(&mut self) {
        loop {
            self.rest = self.rest.trim_ascii_start();
            let Some(comment) = self.rest.strip_prefix('#') else { return };
            self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_values_and_comments_are_read() {
        let text = b"vg {\nseqno = 7 # seven\nstatus=[\"READ\" , \"W\\\"\\\\\"]\nflags = []\nlv/1 { a = -1 }\n}\nend = \"\"\0";
        let section = Section::parse(text).unwrap();
        let vg = section.section("vg").unwrap();
        assert_eq!((vg.number("seqno"), vg.text("seqno")), (Some(7), None));
        let status = [Value::Text("READ".into()), Value::Text("W\"\\".into())];
        assert_eq!((vg.list("status"), vg.list("flags")), (Some(&status[..]), Some(&[][..])));
        assert_eq!(vg.section("lv/1").unwrap().number("a"), None);
        assert_eq!((section.text("end"), section.sections().count()), (Some(""), 1));
    }

    #[test]
    fn what_is_not_the_language_is_refused() {
        for bad in [
            "a",
            "a =",
            "a {",
            "}",
            "a = [",
            "a = [1",
            "a = [1 2]",
            "a = [,]",
            "a = \"x",
            "a = \"x\\\"",
            "= 1",
            "a { b = 1 } }",
            "a = {}",
            "é = 1",
        ] {
            assert_eq!(Section::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Section::parse(b"a = \"\xff\""), None);
        let deep = |n: usize| "a {".repeat(n) + &"}".repeat(n);
        assert!(Section::parse(deep(MAX_DEPTH).as_bytes()).is_some());
        assert_eq!(Section::parse(deep(MAX_DEPTH + 1).as_bytes()), None);
        assert_eq!(Section::parse("a = [".repeat(100_000).as_bytes()), None);
        assert_eq!(Section::parse("a=1 ".repeat(MAX_NODES).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "[a-b=\\[\\]{}\",#\\\\0-9 \n-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Section::parse(text.as_bytes());
            let _ = Section::parse(&bytes);
        }
    }
}
