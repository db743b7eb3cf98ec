//! One cut, from the first round to its label: rounds as the plan says, a freeze when it is due, and the operator's
//! hooks around them.
//!
//! ```text
//! pre ── round ── round ── … ── audit ─────────────────────────────────────────── post
//!                          └─ write back, round, freeze hook, FREEZE, round, audit, THAW, thaw hook ─┘
//! ```
//!
//! Whatever ends a cut early drops what it held: a freeze thaws, and the hooks that are owed are run.

use super::freeze::{Freeze, Freezing, Still, device_number};
use super::hooks::{HookRun, Occasion};
use super::link::Sorted;
use super::round::{self, CutError, Held, Hold, Judged, MAX_WIDENINGS, Member, Sealing, on_thread};
use crate::config::hooks::HooksConfig;
use crate::engine::plan::{self, Next, Plan, RoundResult};
use crate::io::freeze::guard::Options;
use crate::model::hook::{HookResult, HookStage};
use crate::model::ids::{ActionId, CutId, DiskIdentity};
use crate::model::point::{Consistency, CutSummary};
use crate::model::policy::{CutRules, Goal};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is kept of a hook's output with every point.
const HOOK_OUTPUT: usize = 4096;

/// What a cut is made with.
#[derive(Clone, Debug)]
pub struct Terms {
    pub cut: CutId,
    pub actions: Vec<ActionId>,
    pub rules: CutRules,
    pub hooks: Arc<HooksConfig>,
    /// Why other disks of the group are not in the cut, in a sentence each.
    pub missing: Vec<String>,
    /// A gap is answered by reading the disk as a whole, into the base that is being made; otherwise it ends the cut.
    pub widens: bool,
}

/// Makes one cut of all members. Returns what to seal each member's point with; every frame has been handed to the
/// links by then.
pub async fn run<S, R>(members: &mut [Member<S, R>], terms: Terms) -> Result<Vec<CutSummary>, CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    let group: Vec<DiskIdentity> = members.iter().map(|m| m.unit.identity.clone()).collect();
    let mut conduct = Conduct::new(&terms, group.clone());
    // A failure is noted, and the policy says what that means.
    let _ = conduct.hook(HookStage::Pre).await?;
    let ended = conduct.rounds(members).await?;
    let sealing = conduct.seal(ended).await?;
    members.iter().map(|m| m.summary(&sealing, &group)).collect()
}

/// The round that ended a cut.
#[derive(Debug)]
struct Ended {
    at: Timestamp,
    frozen: bool,
    verdict: Result<(), String>,
}

/// One round, with what is not sent of it yet.
#[derive(Debug)]
struct Step {
    at: Timestamp,
    result: RoundResult,
    held: Held,
    /// The audits, where they were asked under the freeze.
    judged: Option<Judged>,
}

struct Conduct {
    cut: CutId,
    plan: Plan,
    /// Taken while a thread runs one.
    hooks: Option<HookRun>,
    results: Vec<RoundResult>,
    /// Why the point is not frozen, from the last attempt.
    doubts: Vec<String>,
    notes: Vec<String>,
    missing: Vec<String>,
    widens: bool,
    /// Of all attempts.
    frozen_for: Duration,
    hook_failed: bool,
}

impl Conduct {
    fn new(terms: &Terms, disks: Vec<DiskIdentity>) -> Self {
        let occasion = Occasion { cut: terms.cut, actions: terms.actions.clone(), disks };
        Self {
            cut: terms.cut,
            plan: Plan { rules: terms.rules, can_freeze: terms.rules.goal != Goal::Quiet },
            hooks: Some(HookRun::new(Arc::clone(&terms.hooks), occasion)),
            results: Vec::new(),
            doubts: Vec::new(),
            notes: Vec::new(),
            missing: terms.missing.clone(),
            widens: terms.widens,
            frozen_for: Duration::ZERO,
            hook_failed: false,
        }
    }

    /// Rounds over all members until the cut is proven or given up.
    async fn rounds<S, R>(&mut self, members: &mut [Member<S, R>]) -> Result<Ended, CutError>
    where
        S: Serialize + Send + 'static,
        R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
    {
        let mut widenings = 0;
        loop {
            let step = match self.plan.next(&self.results) {
                Next::Freeze => self.frozen_round(members).await?,
                _ => plain_round(members).await?,
            };
            self.results.push(step.result);
            let judged = match (self.plan.next(&self.results), step.judged) {
                // Whatever the plan says: nothing that was read counts any more.
                (_, Some(widened @ Judged::Widened { .. })) => Some(widened),
                (Next::Round | Next::Freeze, _) => None,
                (Next::Audit, Some(judged)) => Some(judged),
                (Next::Audit, None) => Some(round::audit(members, Ok(())).await?),
                (Next::GiveUp(reason), _) => Some(round::audit(members, Err(reason.to_owned())).await?),
            };
            let verdict = match judged {
                None => None,
                Some(Judged::Stands(verdict)) => Some(verdict),
                Some(Judged::Widened { disk, reason }) if !self.widens => {
                    return Err(CutError::Lost { disk, reason });
                }
                Some(Judged::Widened { disk, reason }) => {
                    widenings += 1;
                    if widenings > MAX_WIDENINGS {
                        return Err(CutError::NeverCovered { disk, reason });
                    }
                    self.results.clear();
                    None
                }
            };
            round::send(members, step.held).await?;
            if let Some(verdict) = verdict {
                return Ok(Ended { at: step.at, frozen: step.result.frozen, verdict });
            }
        }
    }

    /// A round under a freeze; an ordinary one if nothing can be frozen now.
    async fn frozen_round<S, R>(&mut self, members: &mut [Member<S, R>]) -> Result<Step, CutError>
    where
        S: Serialize + Send + 'static,
        R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
    {
        let mut step = match self.begin_freeze(members).await? {
            Ok(still) => self.under_freeze(members, still).await?,
            Err(doubt) => {
                self.doubts = vec![doubt];
                plain_round(members).await?
            }
        };
        step.result.tried = true;
        let _ = self.hook(HookStage::Thaw).await?;
        Ok(step)
    }

    /// Everything that can be done while writers still run, and then the freeze. The inner error says why there is none.
    async fn begin_freeze<S, R>(
        &mut self,
        members: &mut [Member<S, R>],
    ) -> Result<Result<Still, String>, CutError>
    where
        S: Serialize + Send + 'static,
        R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
    {
        let nodes: Vec<PathBuf> = members.iter().map(|m| m.unit.device().into()).collect();
        let freeze = match on_thread((), move || prepare(&nodes)).await? {
            Ok(freeze) => freeze,
            Err(doubt) => {
                self.plan.can_freeze = false;
                return Ok(Err(doubt));
            }
        };
        let freeze = on_thread((), move || {
            freeze.write_back();
            freeze
        })
        .await?;
        // What the page cache held is on the disk now, and is read before anybody has to wait for it.
        let step = plain_round(members).await?;
        self.results.push(step.result);
        round::send(members, step.held).await?;
        if let Err(doubt) = self.hook(HookStage::Freeze).await? {
            self.plan.can_freeze = false;
            return Ok(Err(doubt));
        }
        let budget = self.plan.rules.max_freeze;
        let still = on_thread((), move || freeze.begin(budget)).await?;
        Ok(still.map_err(|e| e.to_string()))
    }

    /// Nothing is written now, no line logged, no message sent: what is needed for that may be frozen as well.
    async fn under_freeze<S, R>(
        &mut self,
        members: &mut [Member<S, R>],
        still: Still,
    ) -> Result<Step, CutError>
    where
        S: Serialize + Send + 'static,
        R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
    {
        let began = Instant::now();
        let formed = round::form(members).await?;
        let left = self.plan.rules.max_freeze.saturating_sub(began.elapsed());
        if !plan::fits_freeze(&self.results, formed.rest, left) {
            self.thaw(still).await?;
            self.doubts.push(format!("{} bytes were left to read, too many for the freeze", formed.rest));
            let (result, held) = round::read(members, &formed, Hold::Some).await?;
            return Ok(Step { at: formed.at, result, held, judged: None });
        }
        let (mut result, held) = round::read(members, &formed, Hold::All).await?;
        let judged = match result.contaminated {
            0 => Some(round::audit(members, Ok(())).await?),
            _ => None,
        };
        self.thaw(still).await?;
        if result.contaminated > 0 {
            let bytes = result.contaminated;
            self.doubts.push(format!("{bytes} bytes were written past the frozen filesystems"));
        }
        result.frozen = self.doubts.is_empty();
        // A freeze that did not hold proves nothing; a gap that was found under it stays found.
        let judged = judged.filter(|judged| result.frozen || matches!(judged, Judged::Widened { .. }));
        Ok(Step { at: formed.at, result, held, judged })
    }

    async fn thaw(&mut self, still: Still) -> Result<(), CutError> {
        match on_thread((), move || still.end()).await? {
            Ok(Freezing { lasted, doubts, notes, .. }) => {
                self.frozen_for += lasted;
                self.doubts = doubts;
                self.notes = notes;
            }
            Err(error) => {
                tracing::error!(%error, "a filesystem may be frozen");
                self.doubts = vec![error.to_string()];
            }
        }
        Ok(())
    }

    /// Runs a hook. The inner error is its failure, which is noted.
    async fn hook(&mut self, stage: HookStage) -> Result<Result<(), String>, CutError> {
        let Some(mut hooks) = self.hooks.take() else { return Ok(Ok(())) };
        let (hooks, result) = on_thread((), move || {
            let result = hooks.run(stage);
            (hooks, result)
        })
        .await?;
        self.hooks = Some(hooks);
        self.hook_failed |= result.is_err();
        Ok(result)
    }

    /// Runs the last hook and settles the label.
    async fn seal(mut self, ended: Ended) -> Result<Sealing, CutError> {
        let hooks = match self.hooks.take() {
            Some(hooks) => on_thread((), move || hooks.finish()).await?,
            None => Vec::new(),
        };
        self.hook_failed |= hooks.iter().any(|result| !result.succeeded());
        let consistency = match &ended.verdict {
            Ok(()) if ended.frozen => Consistency::Frozen,
            Ok(()) => Consistency::Quiet,
            Err(_) => Consistency::Fuzzy,
        };
        let goal = self.plan.rules.goal;
        let met = match goal {
            Goal::Frozen => consistency == Consistency::Frozen,
            Goal::Quiet | Goal::Best => consistency != Consistency::Fuzzy,
        };
        let mut notes = std::mem::take(&mut self.missing);
        notes.append(&mut self.notes);
        notes.extend(ended.verdict.err());
        if !met {
            notes.extend(self.doubts.iter().map(|doubt| format!("not frozen: {doubt}")));
        }
        notes.extend(hooks.iter().filter(|result| !result.succeeded()).map(ToString::to_string));
        if self.plan.rules.skip_unmet && (!met || self.hook_failed) {
            return Err(CutError::Unmet(notes.join("; ")));
        }
        let millis = self.frozen_for.as_micros().div_ceil(1000);
        Ok(Sealing {
            cut: self.cut,
            at: ended.at,
            consistency,
            notes,
            freeze_ms: (millis > 0).then(|| u32::try_from(millis).unwrap_or(u32::MAX)),
            hooks: hooks.into_iter().map(shortened).collect(),
        })
    }
}

async fn plain_round<S, R>(members: &mut [Member<S, R>]) -> Result<Step, CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    let formed = round::form(members).await?;
    let (result, held) = round::read(members, &formed, Hold::Some).await?;
    Ok(Step { at: formed.at, result, held, judged: None })
}

/// A guard for everything on these disks; the error says why a freeze of it would prove nothing.
fn prepare(nodes: &[PathBuf]) -> Result<Freeze, String> {
    let numbers: std::io::Result<Vec<_>> = nodes.iter().map(|node| device_number(node)).collect();
    let numbers = numbers.map_err(|e| format!("a disk cannot be found: {e}"))?;
    let options = Options::usual().map_err(|e| e.to_string())?;
    let freeze = Freeze::prepare(&numbers, &options).map_err(|e| e.to_string())?;
    let obstacles: Vec<String> = freeze.plan.obstacles.iter().map(ToString::to_string).collect();
    if !obstacles.is_empty() {
        return Err(obstacles.join("; "));
    }
    if freeze.plan.targets.is_empty() {
        return Err("no filesystem is mounted from the disks: there is nothing to freeze".to_owned());
    }
    Ok(freeze)
}

fn shortened(mut result: HookResult) -> HookResult {
    if result.output.len() > HOOK_OUTPUT {
        let end = (0..=HOOK_OUTPUT).rev().find(|at| result.output.is_char_boundary(*at));
        result.output.truncate(end.unwrap_or(0));
        result.cut_short = true;
    }
    result
}
