//! Keys, as pages understand them.

use std::fmt;

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// What a text would hold: letters, digits, signs, the blank.
    Char(char),
    Enter,
    Esc,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Backspace,
    Delete,
    /// Together with the control key.
    Control(char),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Char(' ') => f.write_str("Space"),
            Self::Char(c) => write!(f, "{c}"),
            Self::Control(c) => write!(f, "Ctrl-{}", c.to_ascii_uppercase()),
            key => write!(f, "{key:?}"),
        }
    }
}

/// A key, or a few, and what they do on a page: for its key line and its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub keys: &'static str,
    /// A word or two for the key line; empty for what only the help tells.
    pub short: &'static str,
    /// A sentence for the help.
    pub long: &'static str,
}

/// A hint.
#[must_use]
pub const fn hint(keys: &'static str, short: &'static str, long: &'static str) -> Hint {
    Hint { keys, short, long }
}
