//! Why a request was not carried out, as the API says it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of answer an error is. Stable: scripts match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// No such agent, disk, point, action or route.
    NotFound,
    /// Understood and possible, but not allowed here.
    Refused,
    /// Would overwrite something: done only when it is asked again with `yes`.
    Unconfirmed,
    /// The request makes no sense as it stands.
    Invalid,
    /// Tried, and it failed.
    Failed,
    /// Cannot be done now: the agent is not connected, the dispatcher is stopping.
    Unavailable,
}

/// One error. The message names the thing, what was being done to it, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    /// What is to be agreed to, where that may change: goes back with `yes`, as `agreed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ApiError,
}

impl ApiError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), about: None }
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Refused, message)
    }

    /// `message` says what would be overwritten.
    #[must_use]
    pub fn unconfirmed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unconfirmed, message)
    }

    /// The same, with what stands for all that would be overwritten.
    #[must_use]
    pub fn about(self, about: String) -> Self {
        Self { about: Some(about), ..self }
    }

    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Failed, message)
    }

    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }
}

/// What a backend's methods return.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;
