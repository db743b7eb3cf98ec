//! Logs: to stderr, chosen by `RUST_LOG`, as text or as JSON lines.

use std::io;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `level` counts where `RUST_LOG` says nothing.
pub fn init(format: LogFormat, level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // A log that lies on a full disk must not end the process: it would complain of that to stderr as well, and a
        // print that fails is a panic.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => {
            let colour = io::IsTerminal::is_terminal(&io::stderr());
            builder.with_target(false).with_ansi(colour).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("blxrep: logging was already set up: {error}");
    }
}
