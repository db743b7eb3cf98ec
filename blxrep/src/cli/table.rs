//! Rows for people: a drawn table on a terminal, aligned plain text elsewhere.

use crate::api::text::printable;
use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, Width, presets,
};

/// Spaces between the columns of plain text.
const GAP: &str = "  ";

/// A line under the header and nothing else: rows can be selected and pasted.
const LINES: TableStyle = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// Sentences are not wrapped to less than this.
const MIN_SENTENCE: u16 = 14;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// Sentences: wrapped where the terminal is narrow.
    Text,
    /// Names and ids: never broken, so that they can be copied.
    Word,
    /// Figures: never broken, set to the right.
    Number,
}

/// A column: its header, what it holds, and whether a narrow terminal goes without it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    header: &'static str,
    holds: Holds,
    optional: bool,
}

/// A column of sentences, wrapped where the terminal is narrow.
pub const fn text(header: &'static str) -> Column {
    Column { header, holds: Holds::Text, optional: false }
}

/// A column of names or ids, never broken.
pub const fn word(header: &'static str) -> Column {
    Column { header, holds: Holds::Word, optional: false }
}

/// A column of figures, never broken.
pub const fn number(header: &'static str) -> Column {
    Column { header, holds: Holds::Number, optional: false }
}

/// The same, left out where the terminal is too narrow; the last one first.
pub const fn optional(column: Column) -> Column {
    Column { optional: true, ..column }
}

/// Columns, and rows of as many cells.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// Said instead of an empty table.
    empty: &'static str,
}

impl Table {
    pub fn new(empty: &'static str, columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), empty }
    }

    /// As many cells as there are columns. They are made harmless for the terminal here; an empty one is shown as
    /// `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| {
            if text.is_empty() { "-".to_owned() } else { printable(&text) }
        };
        let row: Vec<String> = cells.into_iter().map(cell).collect();
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// `terminal` is the width of the terminal that it is for, if it is for one.
    pub fn render(&self, terminal: Option<u16>) -> String {
        match terminal {
            None => self.plain(),
            Some(_) if self.rows.is_empty() => self.empty.to_owned(),
            Some(width) => self.drawn(width),
        }
    }

    fn drawn(&self, width: u16) -> String {
        let shown = self.fitting(usize::from(width));
        let mut table = comfy_table::Table::new();
        table.load_style(LINES).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        table.set_header(shown.iter().map(|i| self.columns[*i].header));
        table
            .add_rows(self.rows.iter().map(|row| shown.iter().map(|i| row[*i].as_str()).collect::<Vec<_>>()));
        for (i, column) in shown.iter().zip(table.column_iter_mut()) {
            // With the space that comfy-table puts between columns, this is `GAP`.
            column.set_padding((0, 1));
            column.set_constraint(match self.columns[*i].holds {
                Holds::Text => ColumnConstraint::LowerBoundary(Width::Fixed(MIN_SENTENCE)),
                Holds::Word | Holds::Number => ColumnConstraint::ContentWidth,
            });
            if self.columns[*i].holds == Holds::Number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// Which columns fit into `width`, with sentences wrapped as much as may be.
    fn fitting(&self, width: usize) -> Vec<usize> {
        let least = |i: &usize| match self.columns[*i].holds {
            Holds::Text => self.width(*i).min(usize::from(MIN_SENTENCE)) + GAP.len(),
            Holds::Word | Holds::Number => self.width(*i) + GAP.len(),
        };
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        while shown.iter().map(least).sum::<usize>() > width {
            let Some(last) = shown.iter().rposition(|i| self.columns[*i].optional) else { break };
            shown.remove(last);
        }
        shown
    }

    /// Characters of a column's widest cell.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(self.columns[column].header.len())
    }

    fn plain(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|column| column.header.to_owned()).collect();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let mut text = String::new();
        for line in std::iter::once(&header).chain(&self.rows) {
            let cells = line.iter().zip(&self.columns).zip(&widths);
            let cells: Vec<String> = cells
                .map(|((cell, column), width)| match column.holds {
                    Holds::Text | Holds::Word => format!("{cell:<width$}"),
                    Holds::Number => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 2]]) -> Table {
        let mut table = Table::new("nothing here", &[word("NAME"), number("SIZE")]);
        rows.iter().for_each(|row| table.row(row.map(str::to_owned)));
        table
    }

    #[test]
    fn plain_text_is_aligned_and_has_no_trailing_spaces() {
        let text = table(&[["a", "1"], ["longer", ""], ["x\u{1b}[31m", "12345"]]).render(None);
        assert_eq!(text, "NAME     SIZE\na           1\nlonger      -\nx [31m  12345\n");
    }

    #[test]
    fn an_empty_table_keeps_its_header_for_scripts_and_speaks_to_people() {
        assert_eq!(table(&[]).render(None), "NAME  SIZE\n");
        assert_eq!(table(&[]).render(Some(80)), "nothing here");
    }

    #[test]
    fn a_terminal_gets_what_fits() {
        let columns =
            [word("ID"), text("WHY"), optional(word("FIRST")), number("SIZE"), optional(word("LAST"))];
        let mut table = Table::new("", &columns);
        table.row(["0123456789abcdef", &"because ".repeat(9), "first", "1", "last"].map(str::to_owned));
        let widest = |text: &str| text.lines().map(|line| line.chars().count()).max();
        let wide = table.render(Some(200));
        assert!(wide.contains('─') && wide.contains("FIRST") && wide.contains("LAST"), "{wide}");
        assert_eq!(wide.lines().count(), 3, "{wide}");
        for (columns, first, last) in [(53, true, true), (52, true, false), (46, false, false)] {
            let text = table.render(Some(columns));
            assert_eq!((text.contains("FIRST"), text.contains("LAST")), (first, last), "{columns}\n{text}");
            assert!(text.contains("0123456789abcdef"), "an id is never broken: {columns}\n{text}");
            assert!(widest(&text) <= Some(columns.into()), "{columns}\n{text}");
        }
    }
}
