//! Rows for people: a drawn table on a terminal, aligned plain text elsewhere.

use crate::api::text::printable;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, presets};

/// Spaces between the columns of plain text.
const GAP: &str = "  ";

/// A line under the header and nothing else: rows can be selected and pasted.
const LINES: TableStyle = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Sentences: wrapped where the terminal is narrow.
    Text,
    /// Names and ids: never broken, so that they can be copied.
    Word,
    /// Figures: never broken, set to the right.
    Number,
}

/// Headers and rows of the same length.
#[derive(Debug)]
pub struct Table {
    headers: Vec<(&'static str, Column)>,
    rows: Vec<Vec<String>>,
    /// Said instead of an empty table.
    empty: &'static str,
}

impl Table {
    pub fn new(empty: &'static str, headers: &[(&'static str, Column)]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new(), empty }
    }

    /// Cells are made harmless for the terminal here; an empty one is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| {
            if text.is_empty() { "-".to_owned() } else { printable(&text) }
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    pub fn render(&self, terminal: bool) -> String {
        match (self.rows.is_empty(), terminal) {
            (true, true) => self.empty.to_owned(),
            (false, true) => self.drawn(),
            (_, false) => self.plain(),
        }
    }

    fn drawn(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(LINES).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(self.headers.iter().map(|(name, _)| *name));
        for ((_, holds), column) in self.headers.iter().zip(table.column_iter_mut()) {
            if *holds == Column::Number {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if *holds != Column::Text {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.add_rows(&self.rows);
        table.to_string()
    }

    fn plain(&self) -> String {
        let headers: Vec<String> = self.headers.iter().map(|(name, _)| (*name).to_owned()).collect();
        let lines = || std::iter::once(&headers).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..headers.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(&self.headers).zip(&widths);
            let cells: Vec<String> = cells
                .map(|((cell, (_, holds)), width)| match holds {
                    Column::Text | Column::Word => format!("{cell:<width$}"),
                    Column::Number => format!("{cell:>width$}"),
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
        let mut table = Table::new("nothing here", &[("NAME", Column::Word), ("SIZE", Column::Number)]);
        rows.iter().for_each(|row| table.row(row.map(str::to_owned)));
        table
    }

    #[test]
    fn plain_text_is_aligned_and_has_no_trailing_spaces() {
        let text = table(&[["a", "1"], ["longer", ""], ["x\u{1b}[31m", "12345"]]).render(false);
        assert_eq!(text, "NAME     SIZE\na           1\nlonger      -\nx [31m  12345\n");
    }

    #[test]
    fn an_empty_table_keeps_its_header_for_scripts_and_speaks_to_people() {
        assert_eq!(table(&[]).render(false), "NAME  SIZE\n");
        assert_eq!(table(&[]).render(true), "nothing here");
    }

    #[test]
    fn a_terminal_gets_lines() {
        let text = table(&[["a", "1"]]).render(true);
        assert!(text.contains('─') && text.contains("NAME"), "{text}");
    }
}
