//! Policy files: who is protected, how often, how long it is kept.
//!
//! Every `*.yaml` and `*.yml` of the policy directory is one policy, in the order of the file names. An agent gets
//! the first whose targets match it. What is written today and comes into force in a later version is checked all
//! the same, so that a mistake in it does not lie in wait.

use super::pattern::Pattern;
use super::{ConfigError, quantity, yaml};
use crate::model::ids::AgentId;
use crate::model::percent::Percent;
use crate::model::policy::{
    CutRules, DEFAULT_LIVE_SYNC, EffectivePolicy, FREEZE_CAP, Goal, Grouping, MIN_LIVE_SYNC, VerifyRule,
};
use crate::model::retention::Retention;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Policies of one directory.
const MAX_POLICIES: usize = 256;
/// The longest interval between points; above it nobody would call it live.
const MAX_LIVE_SYNC: Duration = Duration::from_secs(31 * 86_400);

/// The shortest time between verifications: all the time.
const MIN_VERIFY: Duration = Duration::from_secs(1);
/// More rounds than this only put a load on a disk that will not hold still.
const MAX_ROUNDS: u32 = 1000;

/// How often a full image is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotFrequency {
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

/// A time of day, as `12:00` or `12:00:30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

/// `all`, `each`, or lists of disks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "`all`, `each`, or lists of disks such as `[[/dev/sdb, /dev/sdc]]`")]
enum GroupField {
    Word(GroupWord),
    Lists(Vec<Vec<String>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GroupWord {
    All,
    Each,
}

/// How often what is stored is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyField {
    #[serde(deserialize_with = "quantity::whole_duration_field")]
    every: Duration,
    sample: Option<Percent>,
}

/// Agents that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub pattern: Pattern,
    #[serde(default)]
    pub disks_excluded: Vec<String>,
}

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub live_sync_frequency: Option<Duration>,
    /// Bytes per second; 0 is no limit.
    #[serde(default, deserialize_with = "quantity::rate_field")]
    pub bandwidth_limit: Option<u64>,
    pub consistency: Option<Goal>,
    /// Milliseconds.
    pub max_freeze_ms: Option<u64>,
    pub max_rounds: Option<u32>,
    /// Whether a point that is not what was asked for is left out, instead of published with its true label.
    pub skip_unmet: Option<bool>,
    group: Option<GroupField>,
    verify: Option<VerifyField>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub keep_all: Option<Duration>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub keep_minutely: Option<Duration>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub keep_hourly: Option<Duration>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub keep_daily: Option<Duration>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub keep_weekly: Option<Duration>,
    /// Points of one disk.
    pub keep_points: Option<u32>,
    #[serde(default, deserialize_with = "quantity::duration_field")]
    pub archive_interval: Option<Duration>,
    pub snapshot_frequency: Option<SnapshotFrequency>,
    #[serde(default, deserialize_with = "time_field")]
    pub snapshot_time: Option<TimeOfDay>,
    /// Days.
    pub snapshot_retention: Option<u32>,
    pub transition_after_days: Option<u32>,
    pub delete_after_days: Option<u32>,
    #[serde(default)]
    pub targets: Vec<Target>,
}

impl Policy {
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        yaml::parse::<Self>(text, path)?.checked()
    }

    /// What no single value shows.
    fn checked(self) -> Result<Self, ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        let named = |problem: &str| format!("{problem} (policy `{}`)", self.name);
        if self.live_sync_frequency.is_some_and(|every| !(MIN_LIVE_SYNC..=MAX_LIVE_SYNC).contains(&every)) {
            return wrong("live_sync_frequency", named("it is not between 1s and 31d"));
        }
        let cap = u64::try_from(FREEZE_CAP.as_millis()).unwrap_or(u64::MAX);
        if self.max_freeze_ms.is_some_and(|ms| !(1..=cap).contains(&ms)) {
            return wrong("max_freeze_ms", named("it is not between 1 and 5000"));
        }
        if self.max_rounds.is_some_and(|rounds| !(1..=MAX_ROUNDS).contains(&rounds)) {
            return wrong("max_rounds", named("it is not between 1 and 1000"));
        }
        if self.keep_points == Some(0) {
            return wrong("keep_points", named("it is 0; 1 keeps the newest point alone"));
        }
        if self.verify.is_some_and(|verify| verify.every < MIN_VERIFY) {
            return wrong("verify.every", named("it is less than 1s"));
        }
        if self.targets.is_empty() {
            return wrong(
                "targets",
                named("there are none: no agent would get it; use `- pattern: \"*\"` for all"),
            );
        }
        let (kept, deleted) = (self.transition_after_days, self.delete_after_days);
        if let (Some(kept), Some(deleted)) = (kept, deleted)
            && deleted < kept
        {
            return wrong("delete_after_days", named("it is less than transition_after_days"));
        }
        Ok(self)
    }

    fn cut_rules(&self) -> CutRules {
        let usual = CutRules::default();
        CutRules {
            goal: self.consistency.unwrap_or(usual.goal),
            max_freeze: self.max_freeze_ms.map_or(usual.max_freeze, Duration::from_millis),
            max_rounds: self.max_rounds.unwrap_or(usual.max_rounds),
            skip_unmet: self.skip_unmet.unwrap_or(usual.skip_unmet),
        }
    }

    /// What it asks of an agent that this target names; disks are left out as the target says.
    #[must_use]
    pub fn in_force(&self, target: &Target) -> EffectivePolicy {
        EffectivePolicy {
            name: self.name.clone(),
            live_sync: self.live_sync_frequency.unwrap_or(DEFAULT_LIVE_SYNC),
            bandwidth_limit: self.bandwidth_limit.filter(|limit| *limit > 0),
            disks_excluded: target.disks_excluded.clone(),
            cut: self.cut_rules(),
            group: self.grouping(),
        }
    }

    /// How long points are kept. `snapshot_retention` is the age at which the last of the spans ends.
    #[must_use]
    pub fn retention(&self) -> Retention {
        let usual = Retention::default();
        let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
        let end = self.snapshot_retention.map(days);
        let span = |set: Option<Duration>, usual: Duration| {
            let span = set.unwrap_or(usual);
            end.map_or(span, |end| span.min(end))
        };
        Retention {
            all: span(self.keep_all, usual.all),
            minutely: span(self.keep_minutely, usual.minutely),
            hourly: span(self.keep_hourly, usual.hourly),
            daily: span(self.keep_daily, usual.daily),
            weekly: span(self.keep_weekly, end.unwrap_or(usual.weekly)),
            delete_after: self.delete_after_days.map(days),
            max_points: self
                .keep_points
                .map_or(usual.max_points, |points| usize::try_from(points).unwrap_or(usize::MAX)),
        }
    }

    /// How often what is stored is verified.
    #[must_use]
    pub fn verify_rule(&self) -> Option<VerifyRule> {
        self.verify.map(|verify| VerifyRule { every: verify.every, sample: verify.sample })
    }

    fn grouping(&self) -> Grouping {
        match &self.group {
            None | Some(GroupField::Word(GroupWord::All)) => Grouping::All,
            Some(GroupField::Word(GroupWord::Each)) => Grouping::Each,
            Some(GroupField::Lists(lists)) => Grouping::Lists(lists.clone()),
        }
    }

    /// The target that an agent matches.
    #[must_use]
    pub fn target(&self, agent: &AgentId) -> Option<&Target> {
        self.targets.iter().find(|target| target.pattern.matches(agent.as_str()))
    }

    /// Keys that are set and come into force in a later version.
    #[must_use]
    pub fn not_in_force(&self) -> Vec<&'static str> {
        let keys = [
            ("archive_interval", self.archive_interval.is_some()),
            ("snapshot_frequency", self.snapshot_frequency.is_some()),
            ("snapshot_time", self.snapshot_time.is_some()),
            ("transition_after_days", self.transition_after_days.is_some()),
        ];
        keys.into_iter().filter_map(|(key, set)| set.then_some(key)).collect()
    }

    /// Keys that are set and in force; the others have their defaults.
    #[must_use]
    pub fn set(&self) -> Vec<&'static str> {
        let keys = [
            ("live_sync_frequency", self.live_sync_frequency.is_some()),
            ("bandwidth_limit", self.bandwidth_limit.is_some()),
            ("consistency", self.consistency.is_some()),
            ("max_freeze_ms", self.max_freeze_ms.is_some()),
            ("max_rounds", self.max_rounds.is_some()),
            ("skip_unmet", self.skip_unmet.is_some()),
            ("group", self.group.is_some()),
            ("verify", self.verify.is_some()),
            ("keep_all", self.keep_all.is_some()),
            ("keep_minutely", self.keep_minutely.is_some()),
            ("keep_hourly", self.keep_hourly.is_some()),
            ("keep_daily", self.keep_daily.is_some()),
            ("keep_weekly", self.keep_weekly.is_some()),
            ("keep_points", self.keep_points.is_some()),
            ("snapshot_retention", self.snapshot_retention.is_some()),
            ("delete_after_days", self.delete_after_days.is_some()),
        ];
        keys.into_iter().filter_map(|(key, set)| set.then_some(key)).collect()
    }
}

/// All policies, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    files: Vec<(PathBuf, Policy)>,
}

/// What one agent gets, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub policy: EffectivePolicy,
    /// How long points of the agent are kept; the agent need not know.
    pub retention: Retention,
    /// What the dispatcher does with what it has stored.
    pub verify: Option<VerifyRule>,
    /// A sentence each, for the log.
    pub notes: Vec<String>,
}

impl Policies {
    /// Whether nobody is protected by a policy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Every policy and its file, in the order in which they are asked.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Policy)> {
        self.files.iter().map(|(path, policy)| (path.as_path(), policy))
    }

    /// Reads every policy of a directory. A directory that does not exist holds none.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: dir.to_owned(), source };
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            listed => listed.map_err(failed)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                paths.push(path);
            }
            if paths.len() > MAX_POLICIES {
                return Err(ConfigError::TooMany { path: dir.to_owned(), limit: MAX_POLICIES });
            }
        }
        paths.sort();
        let read = |path: PathBuf| {
            let policy = yaml::read::<Policy>(&path)?.checked().map_err(|error| in_file(error, &path))?;
            Ok((path, policy))
        };
        Ok(Self { files: paths.into_iter().map(read).collect::<Result<_, ConfigError>>()? })
    }

    /// What is in force for an agent: the first policy by file name that names it; `None` if none does.
    #[must_use]
    pub fn for_agent(&self, agent: &AgentId) -> Option<Chosen> {
        let mut matching =
            self.files.iter().filter_map(|(path, policy)| Some((path, policy, policy.target(agent)?)));
        let (path, policy, target) = matching.next()?;
        let mut notes: Vec<String> = matching
            .map(|(other, _, _)| {
                format!(
                    "agent {agent} gets {} and not {}, which comes later",
                    path.display(),
                    other.display()
                )
            })
            .collect();
        let later = policy.not_in_force();
        if !later.is_empty() {
            notes.push(format!("{}: not in force yet: {}", path.display(), later.join(", ")));
        }
        let retention = policy.retention();
        let verify = policy.verify_rule();
        Some(Chosen { policy: policy.in_force(target), retention, verify, notes })
    }
}

/// Adds the file to what [`Policy::checked`] found.
fn in_file(error: ConfigError, path: &Path) -> ConfigError {
    match error {
        ConfigError::Value { key, problem } => {
            ConfigError::Value { key, problem: format!("{problem} in {}", path.display()) }
        }
        other => other,
    }
}

fn time_field<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<TimeOfDay>, D::Error> {
    let text = String::deserialize(d)?;
    let expected = "a time of day such as \"12:00\" or \"23:30:15\"";
    let wrong = || serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), &expected);
    time_of_day(&text).ok_or_else(wrong).map(Some)
}

fn time_of_day(text: &str) -> Option<TimeOfDay> {
    let mut parts = text.split(':').map(|part| part.parse::<u8>().ok());
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let valid = hour < 24 && minute < 60 && second < 60 && parts.next().is_none();
    valid.then_some(TimeOfDay { hour, minute, second })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy file as they are in use with existing installations.
    const EXISTING: &str = "\
name: \"default-backup-policy\"
description: \"Backup policy for all servers\"
archive_interval: 48h
snapshot_frequency: \"daily\"
snapshot_time: \"12:00\"
bandwidth_limit: 100
snapshot_retention: 30
live_sync_frequency: 2m
transition_after_days: 30
delete_after_days: 90

targets:
  # Range pattern
  - pattern: \"web[1-5].example.com\"
    disks_excluded:
      - \"/dev/xvdz\"
  - pattern: \"db[a,b]\"
";

    fn parse(text: &str) -> Result<Policy, ConfigError> {
        Policy::parse(text, Path::new("p.yaml"))
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn an_existing_file_keeps_working() {
        let dir = directory(&[("default.yaml", EXISTING)]);
        let policies = Policies::load(dir.path()).unwrap();
        let chosen = policies.for_agent(&"web3.example.com".parse().unwrap()).unwrap();
        let expected = EffectivePolicy {
            name: "default-backup-policy".to_owned(),
            live_sync: Duration::from_secs(120),
            bandwidth_limit: Some(100_000_000),
            disks_excluded: vec!["/dev/xvdz".to_owned()],
            cut: CutRules::default(),
            group: Grouping::All,
        };
        assert_eq!(chosen.policy, expected);
        let [note] = &chosen.notes[..] else { panic!("{:?}", chosen.notes) };
        assert!(note.ends_with(
            "default.yaml: not in force yet: archive_interval, snapshot_frequency, snapshot_time, \
             transition_after_days"
        ));
        let day = Duration::from_secs(86_400);
        let expected = Retention { weekly: 30 * day, delete_after: Some(90 * day), ..Retention::default() };
        assert_eq!(chosen.retention, expected);
        let (_, policy) = policies.files().next().unwrap();
        let set = ["live_sync_frequency", "bandwidth_limit", "snapshot_retention", "delete_after_days"];
        assert_eq!(policy.set(), set);
        let chosen = policies.for_agent(&"dbb".parse().unwrap()).unwrap();
        assert_eq!(chosen.policy.disks_excluded, [""; 0]);
    }

    #[test]
    fn the_sample_is_right() {
        let sample = parse(include_str!("../../../dist/policies/default.yaml")).unwrap();
        assert_eq!(sample.live_sync_frequency, Some(DEFAULT_LIVE_SYNC));
        assert_eq!(sample.not_in_force(), [""; 0]);
        assert_eq!(sample.cut_rules(), CutRules::default());
        assert_eq!(sample.retention(), Retention::default());
    }

    #[test]
    fn how_long_points_are_kept_is_read() {
        let with = |lines: &str| parse(&format!("name: a\ntargets: [{{pattern: \"*\"}}]\n{lines}\n"));
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let kept =
            with("keep_all: 1h\nkeep_minutely: 0\nkeep_hourly: 7d\nkeep_points: 12").unwrap().retention();
        let expected = Retention {
            all: hours(1),
            minutely: Duration::ZERO,
            hourly: hours(7 * 24),
            max_points: 12,
            ..Retention::default()
        };
        assert_eq!(kept, expected);
        let kept = with("snapshot_retention: 1").unwrap().retention();
        assert_eq!((kept.hourly, kept.daily, kept.weekly), (hours(24), hours(24), hours(24)));
        assert_eq!(with("snapshot_retention: 1000").unwrap().retention().weekly, hours(24_000));
        assert!(with("keep_points: 0").is_err());
        assert!(with("keep_daily: often").is_err());
    }

    #[test]
    fn the_first_file_by_name_wins_and_the_others_are_named() {
        let policy = |name: &str, every: &str| {
            format!("name: {name}\nlive_sync_frequency: {every}\ntargets:\n  - pattern: \"*\"\n")
        };
        let dir = directory(&[
            ("20-b.yaml", &policy("b", "20")),
            ("10-a.yml", &policy("a", "10s")),
            ("30-c.txt", "not: a policy"),
        ]);
        let chosen = Policies::load(dir.path()).unwrap().for_agent(&"x".parse().unwrap()).unwrap();
        assert_eq!((chosen.policy.name.as_str(), chosen.policy.live_sync), ("a", Duration::from_secs(10)));
        assert!(chosen.notes[0].contains("10-a.yml and not ") && chosen.notes[0].contains("20-b.yaml"));
    }

    #[test]
    fn an_agent_that_no_policy_names_gets_none() {
        let dir = directory(&[("a.yaml", EXISTING)]);
        assert_eq!(Policies::load(dir.path()).unwrap().for_agent(&"other".parse().unwrap()), None);
        assert_eq!(Policies::load(Path::new("/nonexistent")).unwrap(), Policies::default());
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        let with = |line: &str| format!("name: a\ntargets: [{{pattern: \"*\"}}]\n{line}\n");
        assert!(told(&with("live_sync: 5m")).starts_with("p.yaml:3:1: unknown field `live_sync`"));
        assert!(told(&with("live_sync_frequency: often")).contains("(at `live_sync_frequency: often`)"));
        assert!(told(&with("live_sync_frequency: 0")).contains("not between 1s and 31d (policy `a`)"));
        assert!(told(&with("snapshot_time: \"25:00\"")).contains("a time of day"));
        assert!(told(&with("snapshot_frequency: often")).contains("(at `snapshot_frequency: often`)"));
        assert!(told(&with("transition_after_days: 9\ndelete_after_days: 8")).contains("less than"));
        assert!(told("name: a\ntargets: []\n").contains("there are none"));
        assert!(told("name: a\ntargets:\n  - pattern: \"web[a-c]\"\n").starts_with("p.yaml:3:14: "));
        assert!(told("targets: [{pattern: a}]\n").contains("name"));
        let dir = directory(&[("bad.yaml", "name: a\ntargets: []\n")]);
        assert!(Policies::load(dir.path()).unwrap_err().to_string().contains("bad.yaml"));
    }

    #[test]
    fn how_cuts_are_made_is_read_and_bounded() {
        let with = |line: &str| parse(&format!("name: a\ntargets: [{{pattern: \"*\"}}]\n{line}\n"));
        let rules = with("consistency: frozen\nmax_freeze_ms: 250\nmax_rounds: 5\nskip_unmet: true").unwrap();
        let expected = CutRules {
            goal: Goal::Frozen,
            max_freeze: Duration::from_millis(250),
            max_rounds: 5,
            skip_unmet: true,
        };
        assert_eq!(rules.cut_rules(), expected);
        assert_eq!(with("").unwrap().cut_rules(), CutRules::default());
        assert_eq!(with("group: each").unwrap().grouping(), Grouping::Each);
        let lists = with("group: [[/dev/sdb, log], [sdd]]").unwrap().grouping();
        assert_eq!(lists, Grouping::Lists(vec![vec!["/dev/sdb".into(), "log".into()], vec!["sdd".into()]]));
        let told = with("group: some").unwrap_err().to_string();
        assert!(told.contains("`each`, or lists of disks"), "{told}");
        for bad in [
            "consistency: solid",
            "max_freeze_ms: 0",
            "max_freeze_ms: 5001",
            "max_rounds: 0",
            "max_rounds: 1001",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn verifications_are_scheduled_strictly() {
        let with = |line: &str| parse(&format!("name: a\ntargets: [{{pattern: \"*\"}}]\n{line}\n"));
        let rule = |line: &str| with(line).unwrap().verify_rule();
        let week = Duration::from_secs(7 * 86_400);
        let share = "10%".parse().ok();
        assert_eq!(rule("verify: {every: 7d, sample: 10%}"), Some(VerifyRule { every: week, sample: share }));
        assert_eq!(rule("verify: {every: 604800}"), Some(VerifyRule { every: week, sample: None }));
        assert_eq!(rule(""), None);
        let told = |line: &str| with(line).unwrap_err().to_string();
        assert!(told("verify: {every: 0s}").contains("it is less than 1s (policy `a`)"));
        assert!(told("verify: {every: 7d, sample: 10}").contains("10"));
        assert!(told("verify: {every: 7d, sample: 0%}").contains("`0%` is no share"));
        assert!(told("verify: {sample: 10%}").contains("every"));
        assert!(told("verify: {every: 7d, how: well}").contains("unknown field `how`"));
        assert!(told("verify: weekly").contains("verify"));
    }

    #[test]
    fn times_of_day_are_checked() {
        assert_eq!(time_of_day("23:59:58"), Some(TimeOfDay { hour: 23, minute: 59, second: 58 }));
        for bad in ["", "12", "24:00", "12:60", "12:00:60", "12:00:00:00", "-1:00", "12:"] {
            assert_eq!(time_of_day(bad), None, "{bad}");
        }
    }
}
