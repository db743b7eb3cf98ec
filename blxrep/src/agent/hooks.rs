//! The hooks around a cut: run in their order, and never left half done.
//!
//! What `pre` and `freeze` may have begun, `post` and `thaw` end: these two are owed from the moment their counterpart
//! was tried, whatever became of it. They are run by [`HookRun::finish`], or, if a cut breaks off, by a thread that
//! dropping the run starts.

use crate::config::hooks::HooksConfig;
use crate::io::executable::{self, Call, End};
use crate::model::hook::{HookEnd, HookResult, HookStage};
use crate::model::ids::{ActionId, CutId, DiskIdentity};
use std::sync::Arc;

/// A cut, as hooks are told of it.
#[derive(Clone, Debug)]
pub struct Occasion {
    pub cut: CutId,
    /// The actions that the cut serves.
    pub actions: Vec<ActionId>,
    pub disks: Vec<DiskIdentity>,
}

impl Occasion {
    /// What a hook finds in its environment. Lists are one a line: an identity may have blanks in it.
    fn environment(&self, stage: HookStage) -> [(&'static str, String); 4] {
        let lines = |words: Vec<String>| words.join("\n");
        [
            ("BLXREP_STAGE", stage.name().to_owned()),
            ("BLXREP_CUT", self.cut.to_string()),
            ("BLXREP_ACTION", lines(self.actions.iter().map(ToString::to_string).collect())),
            ("BLXREP_DISKS", lines(self.disks.iter().map(ToString::to_string).collect())),
        ]
    }
}

/// The hooks of one cut.
#[derive(Debug)]
pub struct HookRun {
    hooks: Arc<HooksConfig>,
    occasion: Occasion,
    /// The last is due first.
    owed: Vec<HookStage>,
    results: Vec<HookResult>,
}

impl HookRun {
    #[must_use]
    pub fn new(hooks: Arc<HooksConfig>, occasion: Occasion) -> Self {
        Self { hooks, occasion, owed: Vec::new(), results: Vec::new() }
    }

    /// Runs the hook of a stage, if there is one. Blocks until it has ended, at most for its timeout. The error is a
    /// sentence for the point's notes.
    pub fn run(&mut self, stage: HookStage) -> Result<(), String> {
        match stage {
            HookStage::Pre => self.owe(HookStage::Post),
            HookStage::Freeze => self.owe(HookStage::Thaw),
            HookStage::Thaw | HookStage::Post => self.owed.retain(|owed| *owed != stage),
        }
        let Some(hook) = self.hooks.of(stage) else { return Ok(()) };
        let environment = self.occasion.environment(stage);
        let (command, timeout) = (hook.command.as_slice(), hook.timeout());
        let ran = executable::run(Call { command, environment: &environment, timeout });
        let result = HookResult {
            stage,
            program: command.first().cloned().unwrap_or_default(),
            end: match ran.end {
                End::Exited(code) => HookEnd::Exited(code),
                End::Signalled(signal) => HookEnd::Signalled(signal),
                End::TimedOut => HookEnd::TimedOut(timeout),
                End::NotStarted(error) => HookEnd::NotStarted(error.to_string()),
            },
            millis: u64::try_from(ran.took.as_millis()).unwrap_or(u64::MAX),
            output: String::from_utf8_lossy(&ran.output).into_owned(),
            cut_short: ran.cut_short,
        };
        let outcome = if result.succeeded() { Ok(()) } else { Err(result.to_string()) };
        self.results.push(result);
        outcome
    }

    /// Runs what is still owed, and hands over what came of everything.
    #[must_use]
    pub fn finish(mut self) -> Vec<HookResult> {
        while let Some(stage) = self.owed.pop() {
            // Its failure is among the results.
            let _ = self.run(stage);
        }
        std::mem::take(&mut self.results)
    }

    fn owe(&mut self, stage: HookStage) {
        if !self.owed.contains(&stage) {
            self.owed.push(stage);
        }
    }
}

impl Drop for HookRun {
    fn drop(&mut self) {
        self.owed.retain(|stage| self.hooks.of(*stage).is_some());
        if self.owed.is_empty() {
            return;
        }
        let rest = Self {
            hooks: Arc::clone(&self.hooks),
            occasion: self.occasion.clone(),
            owed: std::mem::take(&mut self.owed),
            results: Vec::new(),
        };
        // A cut may be dropped where nothing may block.
        let thread = std::thread::Builder::new().name("hooks".to_owned());
        let started = thread.spawn(move || {
            for result in rest.finish() {
                tracing::warn!(%result, "a cut broke off, and its hook was run");
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "a cut broke off, and no thread can be started to run its hooks");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    /// Every hook writes its stage to a log; `freeze` ends with the given code.
    struct Ground {
        folder: tempfile::TempDir,
        hooks: Arc<HooksConfig>,
    }

    impl Ground {
        fn new(freeze: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("log");
            let hook = |stage: &str, script: &str| {
                let script = format!("echo $BLXREP_STAGE >> {}; {script}", log.display());
                format!("{stage}: {{command: [/bin/sh, -c, \"{script}\"], timeout: 20s}}\n")
            };
            let text = ["pre", "thaw", "post"].map(|stage| hook(stage, "echo fine")).concat();
            let text = text + &hook("freeze", freeze);
            let hooks = Arc::new(yaml::parse(&text, Path::new("hooks.yaml")).unwrap());
            Self { folder, hooks }
        }

        fn run(&self) -> HookRun {
            let disks = vec![DiskIdentity::Named("data".into()), DiskIdentity::Serial("QEMU 1".into())];
            let occasion = Occasion { cut: CutId(7), actions: vec![ActionId(9)], disks };
            HookRun::new(Arc::clone(&self.hooks), occasion)
        }

        fn log(&self) -> String {
            let path: PathBuf = self.folder.path().join("log");
            fs::read_to_string(path).unwrap_or_default()
        }
    }

    fn stages(results: &[HookResult]) -> Vec<&str> {
        results.iter().map(|result| result.stage.name()).collect()
    }

    #[test]
    fn all_hooks_are_run_in_order_and_told_of_the_cut() {
        let ground = Ground::new("echo $BLXREP_CUT $BLXREP_ACTION; echo \\\"$BLXREP_DISKS\\\"");
        let mut run = ground.run();
        for stage in [HookStage::Pre, HookStage::Freeze, HookStage::Thaw, HookStage::Post] {
            run.run(stage).unwrap();
        }
        let results = run.finish();
        assert_eq!(stages(&results), ["pre", "freeze", "thaw", "post"]);
        assert_eq!(ground.log(), "pre\nfreeze\nthaw\npost\n");
        assert_eq!(results[1].output, format!("{} {}\nname:data\nserial:QEMU 1\n", CutId(7), ActionId(9)));
        assert!(results.iter().all(HookResult::succeeded));
    }

    #[test]
    fn a_freeze_hook_that_fails_is_followed_by_thaw_and_post() {
        let ground = Ground::new("echo locked by somebody; exit 3");
        let mut run = ground.run();
        run.run(HookStage::Pre).unwrap();
        let said = run.run(HookStage::Freeze).unwrap_err();
        assert_eq!(said, "the freeze hook /bin/sh ended with exit code 3 (`locked by somebody`)");
        assert_eq!(stages(&run.finish()), ["pre", "freeze", "thaw", "post"]);
        assert_eq!(ground.log(), "pre\nfreeze\nthaw\npost\n");
    }

    #[test]
    fn a_cut_that_breaks_off_still_thaws() {
        let ground = Ground::new("true");
        let mut run = ground.run();
        run.run(HookStage::Pre).unwrap();
        run.run(HookStage::Freeze).unwrap();
        drop(run);
        let all = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            ground.log() == "pre\nfreeze\nthaw\npost\n"
        });
        assert!(all, "{}", ground.log());
    }

    #[test]
    fn nothing_is_run_that_nobody_named() {
        let ground = Ground::new("true");
        let occasion = ground.run().occasion.clone();
        let mut run = HookRun::new(Arc::default(), occasion);
        run.run(HookStage::Pre).unwrap();
        run.run(HookStage::Freeze).unwrap();
        assert!(run.finish().is_empty());
        // Not even of those that were named, before the first stage.
        assert!(ground.run().finish().is_empty());
        assert_eq!(ground.log(), "");
    }
}
