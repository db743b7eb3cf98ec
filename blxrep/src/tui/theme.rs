//! How things are set off from each other: by words, symbols and attributes, and by colour only on top of those. Pure.

use ratatui::style::{Color, Modifier, Style};

/// Whether colours may be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    /// The top and the bottom line.
    #[must_use]
    pub fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The selected row.
    #[must_use]
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Headers, and what is only good to know.
    #[must_use]
    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    #[must_use]
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    #[must_use]
    pub fn plain(self) -> Style {
        Style::new()
    }

    /// Where the next letter goes, on a field that is reversed.
    #[must_use]
    pub fn cursor(self) -> Style {
        Style::new().remove_modifier(Modifier::REVERSED).add_modifier(Modifier::UNDERLINED)
    }

    /// What a person should look at. Its text begins with `!`.
    #[must_use]
    pub fn trouble(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        // Yellow is told from white and from blue by everybody.
        if self.colour { style.fg(Color::Yellow) } else { style }
    }

    /// A row of a list, by its text: troubles stand out.
    #[must_use]
    pub fn row(self, text: &str) -> Style {
        if text.contains("! ") { self.trouble() } else { Style::new() }
    }
}
