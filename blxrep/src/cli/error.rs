//! How a command that did not succeed ends: what is said, and the exit code.

use crate::api::client::ClientError;
use crate::api::error::{ApiError, ErrorCode};
use crate::archive::ArchiveError;
use crate::config::ConfigError;
use crate::mount::MountError;
use exit::{FAILED, INTERRUPTED, NOT_FOUND, REFUSED, USAGE};
use std::io;
use std::process::ExitCode;

/// Exit codes of what did not succeed.
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const NOT_FOUND: u8 = 3;
    pub const REFUSED: u8 = 4;
    /// What shells use for SIGINT.
    pub const INTERRUPTED: u8 = 130;
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The agent or the dispatcher could not start, or ended badly.
    #[error("{0:#}")]
    Role(anyhow::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Interrupted(String),
    #[error("cannot write the result: {0}")]
    Output(io::Error),
    #[error("cannot read the answer: {0}")]
    Input(io::Error),
    #[error("cannot use the terminal: {0}")]
    Terminal(io::Error),
    #[error("cannot start the runtime: {0}")]
    Runtime(io::Error),
}

impl CliError {
    fn code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Api(ApiError { code, .. })) => match code {
                ErrorCode::NotFound => NOT_FOUND,
                ErrorCode::Refused | ErrorCode::Unconfirmed => REFUSED,
                ErrorCode::Invalid => USAGE,
                ErrorCode::Failed | ErrorCode::Unavailable => FAILED,
            },
            Self::Client(ClientError::NotAllowed(_)) | Self::Refused(_) => REFUSED,
            Self::Mount(MountError::NotFound(_)) => NOT_FOUND,
            Self::Mount(MountError::Refused(_) | MountError::NotRoot) => REFUSED,
            Self::Archive(ArchiveError::Refused(_)) => REFUSED,
            Self::Role(error) if is_misuse(error) => USAGE,
            Self::Usage(_) => USAGE,
            Self::Interrupted(_) => INTERRUPTED,
            Self::Client(_)
            | Self::Archive(_)
            | Self::Mount(_)
            | Self::Role(_)
            | Self::Failed(_)
            | Self::Output(_)
            | Self::Input(_)
            | Self::Terminal(_)
            | Self::Runtime(_) => FAILED,
        }
    }

    /// `blxrep points | head` has what it wanted.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// As the dispatcher passes on what a process of its own says.
impl From<CliError> for ApiError {
    fn from(error: CliError) -> Self {
        let (code, said) = (error.code(), error.to_string());
        match (error, code) {
            (CliError::Client(ClientError::Api(error)), _) => error,
            (_, USAGE) => Self::invalid(said),
            (_, NOT_FOUND) => Self::not_found(said),
            (_, REFUSED) => Self::refused(said),
            _ => Self::failed(said),
        }
    }
}

/// Whether a role did not start because of what was typed or is in the configuration.
fn is_misuse(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ConfigError>().is_some_and(|error| !matches!(error, ConfigError::Read { .. }))
}

/// Says on stderr what went wrong, if anything did, and turns it into the process's exit code.
#[must_use]
pub fn exit_code(result: Result<(), CliError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            super::output::say(&format!("blxrep: {error}"));
            ExitCode::from(error.code())
        }
    }
}
