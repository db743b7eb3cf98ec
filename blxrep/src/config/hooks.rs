//! `hooks:` of the agent's section: programs that are run around a cut.
//!
//! Only the agent's own configuration can name them: nobody at the dispatcher may choose what a server runs.

use super::{ConfigError, quantity};
use crate::model::hook::HookStage;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// Of a hook that says none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// A cut waits for its hooks, and its disks' changes pile up meanwhile.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Words of a command; who needs more writes a script.
const MAX_WORDS: usize = 64;
const MAX_WORD: usize = 4096;

/// The hooks of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksConfig {
    pub pre: Option<HookConfig>,
    pub freeze: Option<HookConfig>,
    pub thaw: Option<HookConfig>,
    pub post: Option<HookConfig>,
}

/// `{command: [/etc/blxrep/hooks/checkpoint, --fast], timeout: 10s}`; no shell reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    pub command: Vec<String>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    timeout: Option<Duration>,
}

impl HookConfig {
    /// After it, the hook is killed.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    fn problem(&self) -> Option<String> {
        let Some(program) = self.command.first() else {
            return Some("`command` names no program".to_owned());
        };
        if !Path::new(program).is_absolute() {
            return Some(format!("`{program}` is no absolute path; no shell looks it up"));
        }
        if self.command.len() > MAX_WORDS || self.command.iter().any(|word| word.len() > MAX_WORD) {
            return Some(format!(
                "more than {MAX_WORDS} words, or one of more than {MAX_WORD} bytes: use a script"
            ));
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return Some("a word with a zero byte cannot be passed to a program".to_owned());
        }
        let timeout = self.timeout();
        (timeout.is_zero() || timeout > MAX_TIMEOUT)
            .then(|| format!("a timeout of {timeout:?} is not between 1 s and {} s", MAX_TIMEOUT.as_secs()))
    }
}

impl HooksConfig {
    #[must_use]
    pub fn of(&self, stage: HookStage) -> Option<&HookConfig> {
        match stage {
            HookStage::Pre => self.pre.as_ref(),
            HookStage::Freeze => self.freeze.as_ref(),
            HookStage::Thaw => self.thaw.as_ref(),
            HookStage::Post => self.post.as_ref(),
        }
    }

    /// Judges what could be read.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let keys = [
            (HookStage::Pre, "agent.hooks.pre"),
            (HookStage::Freeze, "agent.hooks.freeze"),
            (HookStage::Thaw, "agent.hooks.thaw"),
            (HookStage::Post, "agent.hooks.post"),
        ];
        let problem = |(stage, key)| Some((key, self.of(stage)?.problem()?));
        match keys.into_iter().find_map(problem) {
            None => Ok(()),
            Some((key, problem)) => Err(ConfigError::Value { key, problem }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn read(text: &str) -> Result<HooksConfig, ConfigError> {
        let config: HooksConfig = yaml::parse(text, Path::new("config.yaml"))?;
        config.check().map(|()| config)
    }

    #[test]
    fn hooks_are_read() {
        let config =
            read("freeze: {command: [/bin/sync, -f, /srv], timeout: 5s}\npost:\n  command: [/bin/true]\n");
        let config = config.unwrap();
        let freeze = config.of(HookStage::Freeze).unwrap();
        assert_eq!(freeze.command, ["/bin/sync", "-f", "/srv"]);
        assert_eq!(freeze.timeout(), Duration::from_secs(5));
        assert_eq!(config.of(HookStage::Post).unwrap().timeout(), DEFAULT_TIMEOUT);
        assert!(config.of(HookStage::Pre).is_none() && config.of(HookStage::Thaw).is_none());
    }

    #[test]
    fn a_mistake_is_named() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(said("pre: {command: []}"), "agent.hooks.pre: `command` names no program");
        assert!(said("pre: {command: [sync]}").contains("no absolute path"));
        assert!(
            said("thaw: {command: [/bin/true], timeout: 0}").starts_with("agent.hooks.thaw: a timeout of")
        );
        assert!(said("post: {command: [/bin/true], timeout: 1h}").contains("600 s"));
        assert!(said("post: {command: [/bin/true], shell: true}").contains("unknown field `shell`"));
        assert!(said("before: {command: [/bin/true]}").contains("unknown field `before`"));
        assert!(said("pre: {command: [/bin/true, \"a\\0b\"]}").contains("zero byte"));
        assert!(
            said(&format!("pre: {{command: [/bin/true{}]}}", ", a".repeat(MAX_WORDS))).contains("script")
        );
    }
}
