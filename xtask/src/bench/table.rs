//! The table that a bench prints: what was measured, what it is compared with, and the target.

use std::fmt;

/// One figure.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub value: String,
    /// Beside the reference of the same run; empty if it stands alone.
    pub ratio: String,
    pub target: String,
}

/// All figures, in the order in which they were measured.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a figure and prints it at once: a bench takes minutes.
    pub fn add(&mut self, what: &str, value: String, ratio: String, target: &str) {
        println!("{what}: {value} {ratio}");
        self.rows.push(Row { what: what.to_owned(), value, ratio, target: target.to_owned() });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |cell: fn(&Row) -> &str| self.rows.iter().map(|r| cell(r).chars().count()).max().unwrap_or(0);
        let (what, value, ratio) = (width(|r| &r.what), width(|r| &r.value), width(|r| &r.ratio).max(5));
        writeln!(f, "{:what$}  {:>value$}  {:>ratio$}  target", "", "measured", "ratio")?;
        for row in &self.rows {
            let line =
                format!("{:what$}  {:>value$}  {:>ratio$}  {}", row.what, row.value, row.ratio, row.target);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
