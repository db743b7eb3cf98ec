//! Programs of the operator's that are run around a cut, and what came of them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use utoipa::ToSchema;

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HookStage {
    /// Before the cut.
    Pre,
    /// Right before filesystems are frozen: nothing is frozen yet.
    Freeze,
    /// Right after they are thawed, and always if `Freeze` was run, whatever became of it.
    Thaw,
    /// After the cut, and always if `Pre` was run.
    Post,
}

impl HookStage {
    /// As configurations and environments call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
            Self::Post => "post",
        }
    }
}

impl fmt::Display for HookStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEnd {
    Exited(i32),
    /// Killed by this signal.
    Signalled(i32),
    /// Killed after so long, with everything it had started in its process group.
    TimedOut(Duration),
    NotStarted(String),
}

impl fmt::Display for HookEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "ended with exit code {code}"),
            Self::Signalled(signal) => write!(f, "was killed by signal {signal}"),
            Self::TimedOut(limit) => write!(f, "was killed: it took longer than {limit:?}"),
            Self::NotStarted(reason) => write!(f, "could not be started: {reason}"),
        }
    }
}

/// What came of a hook; kept with the point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookResult {
    pub stage: HookStage,
    /// The executable, without its arguments.
    pub program: String,
    #[schema(value_type = Object)]
    pub end: HookEnd,
    pub millis: u64,
    /// The beginning of what it wrote to standard output and standard error.
    pub output: String,
    /// It wrote more than was kept.
    pub cut_short: bool,
}

impl HookResult {
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.end == HookEnd::Exited(0)
    }
}

/// One sentence, with the end of the output: that is where programs say what went wrong.
impl fmt::Display for HookResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} hook {} {}", self.stage, self.program, self.end)?;
        match self.output.trim_end().lines().next_back() {
            Some(line) if !self.succeeded() => write!(f, " (`{}`)", line.trim()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_the_last_line_of_the_output() {
        let mut result = HookResult {
            stage: HookStage::Freeze,
            program: "/etc/hook".to_owned(),
            end: HookEnd::Exited(3),
            millis: 5,
            output: "connecting\nno such database\n".to_owned(),
            cut_short: false,
        };
        let said = "the freeze hook /etc/hook ended with exit code 3 (`no such database`)";
        assert_eq!(result.to_string(), said);
        assert!(!result.succeeded());
        result.end = HookEnd::Exited(0);
        assert_eq!(result.to_string(), "the freeze hook /etc/hook ended with exit code 0");
        assert!(result.succeeded());
    }
}
