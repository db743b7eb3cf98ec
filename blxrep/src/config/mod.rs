//! What people write: the configuration, policies, the secret.
//!
//! Every key is known, every value is judged, and a mistake is told with file, line, column and the line's text.

pub mod file;
pub mod hooks;
pub mod pattern;
pub mod policy;
pub mod quantity;
pub mod restore;
pub mod secret;
pub mod yaml;

use std::io;
use std::path::PathBuf;

/// Why a file of the operator's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{}:{line}:{column}: {message} (at `{at}`)", path.display())]
    Yaml { path: PathBuf, line: u64, column: u64, at: String, message: String },
    #[error("{key} is not given: set it in the configuration, or use `{option}`")]
    Missing { key: &'static str, option: &'static str },
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: String },
    #[error("{} holds more than {limit} policies", path.display())]
    TooMany { path: PathBuf, limit: usize },
}
