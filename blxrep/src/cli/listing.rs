//! Results that come one by one, as many as there are: lines, or one JSON array.

use super::error::CliError;
use crate::api::text::printable;
use serde::Serialize;
use std::io::{self, BufWriter, StdoutLock, Write};

#[derive(Debug)]
pub struct Listing {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    count: u64,
}

impl Listing {
    pub fn new(json: bool) -> Self {
        Self { out: BufWriter::new(io::stdout().lock()), json, count: 0 }
    }

    /// One more: `item` with `--json`, else the line.
    pub fn item(&mut self, item: &impl Serialize, line: impl FnOnce() -> String) -> Result<(), CliError> {
        let first = self.count == 0;
        self.count += 1;
        let written = if self.json {
            self.out
                .write_all(if first { b"[\n" } else { b",\n" })
                .and_then(|()| serde_json::to_writer(&mut self.out, item).map_err(io::Error::from))
        } else {
            writeln!(self.out, "{}", printable(&line()))
        };
        written.map_err(CliError::Output)
    }

    /// The end; without it the JSON is not whole. `empty` is said where there was nothing.
    pub fn end(mut self, empty: &str) -> Result<(), CliError> {
        let written = match (self.json, self.count) {
            (true, 0) => writeln!(self.out, "[]"),
            (true, _) => writeln!(self.out, "\n]"),
            (false, 0) => writeln!(self.out, "{empty}"),
            (false, _) => Ok(()),
        };
        written.and_then(|()| self.out.flush()).map_err(CliError::Output)
    }
}
