//! The one binary: parse, log, run, and say how it went.

use blxrep::cli::{self, Cli};
use blxrep::observe;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::from_command_line() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    observe::init(cli.log_format(), cli.log_level());
    cli::exit_code(cli.run())
}
