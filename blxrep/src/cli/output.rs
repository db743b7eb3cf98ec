//! Where text goes: results to stdout, everything else to stderr.

use super::error::CliError;
use super::table::Table;
use crate::api::text::printable;
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Width of a terminal that does not say how wide it is.
const DEFAULT_COLUMNS: u16 = 80;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    /// Columns of the terminal that stdout is; `None` where it is none.
    terminal: Option<u16>,
}

impl Output {
    pub fn new(json: bool) -> Self {
        // A terminal that does not know its size says 0.
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let columns = size.map(|size| if size.ws_col == 0 { DEFAULT_COLUMNS } else { size.ws_col });
        Self { json, terminal: columns.filter(|_| io::stdout().is_terminal()) }
    }

    /// The result: `value` with `--json`, else what `text` makes of it.
    pub fn result<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = if self.json {
            serde_json::to_writer_pretty(&mut out, value)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out))
        } else {
            writeln!(out, "{}", text(value).trim_end())
        };
        written.and_then(|()| out.flush()).map_err(CliError::Output)
    }

    /// The same, as a table.
    pub fn table<T: Serialize + ?Sized>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> Table,
    ) -> Result<(), CliError> {
        self.result(value, |value| table(value).render(self.terminal))
    }
}

/// One line to stderr. Where stderr cannot be written there is nobody to tell.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Asks on the terminal. `None` where there is nobody to ask.
pub fn ask(question: &str) -> Result<Option<bool>, CliError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut err = io::stderr();
    write!(err, "{} [y/N] ", printable(question)).and_then(|()| err.flush()).map_err(CliError::Input)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(CliError::Input)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")))
}
