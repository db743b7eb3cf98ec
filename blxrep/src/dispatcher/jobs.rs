//! Restores, verifies and consolidations: long work on this host, a thread each, which can be cancelled.

use super::courier;
use super::hub::Note;
use super::upkeep;
use crate::api::backend::{FilesRestore, RestoreRequest};
use crate::api::error::{ApiError, Result};
use crate::api::types::{FilesReport, VerifyProblem, VerifyReport};
use crate::io::priority;
use crate::model::action::ActionState;
use crate::model::ids::ActionId;
use crate::model::point::{Disk, mixture};
use crate::model::retention::Retention;
use crate::model::verification::Scope;
use crate::mount::courier::{Destination, Errand};
use crate::store::catalog::PointFilter;
use crate::store::restore::{Consent, Progress};
use crate::store::sample::Sample;
use crate::store::verify::Finding;
use crate::store::{Store, StoreError};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Restores and verifies that run at the same time: each reads as fast as the store's disks allow.
const MAX_JOBS: usize = 8;
/// Points that a sentence names.
const NAMED_POINTS: usize = 8;

/// How a job ended.
#[derive(Debug)]
pub struct JobEnd {
    pub action: ActionId,
    pub state: ActionState,
    pub reason: String,
    pub report: Option<Report>,
}

/// What a job has found or done, for who asks afterwards.
#[derive(Clone, Debug)]
pub enum Report {
    Verify(VerifyReport),
    Files(FilesReport),
}

impl Report {
    /// How an action with this report has ended.
    pub fn end(&self) -> (ActionState, String) {
        match self {
            Self::Verify(report) if report.problems.is_empty() => (ActionState::Succeeded, String::new()),
            Self::Verify(report) => {
                (ActionState::Failed, format!("{} problems found: see the report", report.problems.len()))
            }
            Self::Files(report) if report.is_failure() => (ActionState::Failed, report.summary()),
            Self::Files(report) => (ActionState::Succeeded, report.summary()),
        }
    }
}

#[derive(Debug)]
struct Job {
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// The jobs that run.
#[derive(Debug)]
pub struct Jobs {
    store: Store,
    notes: mpsc::Sender<Note>,
    running: BTreeMap<ActionId, Job>,
}

impl Jobs {
    pub const fn new(store: Store, notes: mpsc::Sender<Note>) -> Self {
        Self { store, notes, running: BTreeMap::new() }
    }

    /// Refuses what would fail at once: before there is an action.
    pub fn check_restore(&self, request: &RestoreRequest) -> Result<()> {
        self.room()?;
        if !request.to.is_absolute() {
            return Err(ApiError::invalid(format!("{} is no absolute path", request.to.display())));
        }
        self.store.check_whole(request.point, consent(request))?;
        let target = self.store.check_target_of(request.point, request.partition.as_ref(), &request.to)?;
        match target.overwrites {
            Some(what) if !request.yes => {
                let mixture = self.store.point(request.point)?.half_restored.map(mixture);
                Err(ApiError::unconfirmed(mixture.into_iter().chain([what]).collect::<Vec<_>>().join("; ")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses one more than can run.
    pub fn room(&self) -> Result<()> {
        if self.running.len() < MAX_JOBS {
            return Ok(());
        }
        Err(ApiError::refused(format!(
            "{MAX_JOBS} restores, verifies and consolidations are running; wait for one or cancel it"
        )))
    }

    pub fn restore(&mut self, action: ActionId, request: RestoreRequest) {
        self.start(action, move |store, progress| {
            let RestoreRequest { point, partition, to, .. } = &request;
            let report =
                store.restore_part_to_file(*point, partition.as_ref(), to, consent(&request), progress)?;
            tracing::info!(%point, ?partition, to = %to.display(), bytes = report.bytes,
                written = report.written, verified = report.verified, "restored");
            Ok(None)
        });
    }

    /// Restores files to a folder of this host.
    pub fn files(&mut self, action: ActionId, request: FilesRestore) {
        self.start(action, move |store, progress| {
            let FilesRestore { point, paths, target, conflict, dry_run, agent: _ } = request;
            let to = Destination::Folder { target: (&target).into(), policy: conflict, dry_run };
            let errand =
                Errand { data_dir: store.data_dir().to_owned(), point: point.to_string(), paths, to };
            let outcome = courier::restore_here(&errand, progress)?;
            tracing::info!(%point, target, dry_run, failed = outcome.failed(), "restored files");
            Ok(Some(Report::Files(FilesReport { action, agent: None, point, target, outcome })))
        });
    }

    /// `idle`: others use the disks first.
    pub fn verify(&mut self, action: ActionId, scope: Scope, sample: Option<Sample>, idle: bool) {
        self.start(action, move |store, progress| {
            if idle && let Err(error) = priority::set_idle() {
                tracing::debug!(%error, "a verification reads at the usual priority");
            }
            let found = store.verify_part(&scope, sample, progress)?;
            if let Err(error) = store.keep_damages(&found, Timestamp::now()) {
                tracing::error!(%error, "what a verification found cannot be kept with the points");
            }
            let problems = found.findings.iter().map(|f| VerifyProblem {
                point: f.points.first().copied(),
                file: f.file.display().to_string(),
                what: describe(f),
                offset: Some(f.offset),
                sectors: (!f.sectors.is_empty()).then_some([f.sectors.start, f.sectors.end]),
                points: f.points.clone(),
            });
            if found.more > 0 {
                tracing::warn!(more = found.more, "more findings than a report names");
            }
            Ok(Some(Report::Verify(VerifyReport {
                action,
                points: found.checked_points,
                files: found.files,
                bytes: found.bytes,
                of_bytes: found.of_bytes,
                sample: sample.map(|sample| sample.share),
                seed: sample.map(|sample| sample.seed),
                problems: problems.collect(),
                incomplete: incomplete(store, &scope)?,
            })))
        });
    }

    pub fn consolidate(&mut self, action: ActionId, disk: Disk, rules: Retention) {
        self.start(action, move |store, progress| {
            upkeep::consolidate(store, &disk, &rules, progress).map(|()| None)
        });
    }

    fn start(
        &mut self,
        action: ActionId,
        work: impl FnOnce(&Store, Progress<'_>) -> std::result::Result<Option<Report>, StoreError>
        + Send
        + 'static,
    ) {
        let cancel = Arc::new(AtomicBool::new(false));
        let (store, notes, flag) = (self.store.clone(), self.notes.clone(), Arc::clone(&cancel));
        let run = move || {
            let report = |done, total| {
                // The hub may be busy: the next word says it too.
                let _ = notes.try_send(Note::Progress { action, done, total });
            };
            let end = end_of(action, work(&store, Progress { report: &report, cancel: &flag }));
            // The hub has ended only when the dispatcher stops; then the action is found open at the next start.
            let _ = notes.blocking_send(Note::JobEnded(end));
        };
        match std::thread::Builder::new().name("job".to_owned()).spawn(run) {
            Ok(thread) => {
                self.running.insert(action, Job { cancel, thread });
            }
            Err(error) => {
                let reason = format!("cannot start a thread: {error}");
                let end = JobEnd { action, state: ActionState::Failed, reason, report: None };
                let _ = self.notes.try_send(Note::JobEnded(end));
            }
        }
    }

    /// Asks a job to stop; it says so when it has.
    pub fn cancel(&self, action: ActionId) {
        if let Some(job) = self.running.get(&action) {
            job.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// A job has said how it ended.
    pub fn forget(&mut self, action: ActionId) {
        self.running.remove(&action);
    }

    /// Stops all jobs and waits for them: each looks at its flag after every piece.
    pub fn stop(self) {
        for job in self.running.values() {
            job.cancel.store(true, Ordering::Relaxed);
        }
        drop(self.notes);
        for job in self.running.into_values() {
            // A panic in a job has been reported by its thread.
            let _ = job.thread.join();
        }
    }
}

/// What the person has agreed to.
const fn consent(request: &RestoreRequest) -> Consent {
    Consent { overwrite: request.yes, holes: request.allow_holes }
}

/// The points that lack something because it could not be read, in a sentence each. They are stored as they were sent.
fn incomplete(store: &Store, scope: &Scope) -> std::result::Result<Vec<String>, StoreError> {
    let mut points = match scope {
        Scope::Store => store.points(&PointFilter::default())?,
        Scope::Agent(agent) => {
            store.points(&PointFilter { agent: Some(agent.clone()), ..PointFilter::default() })?
        }
        Scope::Point(point) => vec![store.point(*point)?],
    };
    points.retain(|point| !point.summary.holes.is_empty());
    Ok(points.iter().map(|point| format!("point {}: {}", point.id, point.summary.holes)).collect())
}

/// A finding in a sentence.
fn describe(finding: &Finding) -> String {
    let mut text = finding.sentence();
    let named: Vec<String> = finding.points.iter().take(NAMED_POINTS).map(ToString::to_string).collect();
    if !named.is_empty() {
        text.push_str(&format!("; points {}", named.join(", ")));
    }
    match finding.points.len().saturating_sub(NAMED_POINTS) {
        0 => text,
        more => text + &format!(" and {more} more"),
    }
}

fn end_of(action: ActionId, ended: std::result::Result<Option<Report>, StoreError>) -> JobEnd {
    let (state, reason, report) = match ended {
        Ok(Some(report)) => {
            let (state, reason) = report.end();
            (state, reason, Some(report))
        }
        Ok(None) => (ActionState::Succeeded, String::new(), None),
        Err(StoreError::Cancelled) => (ActionState::Cancelled, "cancelled".to_owned(), None),
        Err(error) => (ActionState::Failed, error.to_string(), None),
    };
    JobEnd { action, state, reason, report }
}
