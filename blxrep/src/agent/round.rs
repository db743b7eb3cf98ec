//! The rounds of a cut, carried out: sweep, read, validate, audit, for a group of disks that share the cut.
//!
//! The decisions are `engine::cut`'s. A round holds the last frames it read in memory until it has been validated:
//! the reads of a small rest finish without waiting for the network, so the time in which a write can contaminate
//! it is the time of the reads alone.

use super::link::{Link, LinkError, Sorted};
use super::unit::{AuditOutcome, Unit};
use crate::engine::compression::Compression;
use crate::engine::cut::{self, Next, OpenPoint, Plan, RoundResult, Swept};
use crate::io::reader::{self, DELTA_PIECE, ReadFrame, Reader};
use crate::io::source::SourceError;
use crate::model::granules::GranuleSet;
use crate::model::ids::{CutId, DiskIdentity};
use crate::model::point::{Consistency, Coverage, CutSummary, Round};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Reads in flight, shared out among the disks of a cut.
const WORKERS: usize = 4;
/// Times that a gap may be found and answered by reading a disk as a whole before the cut is given up: a disk whose
/// writes are never all seen would be read for ever.
const MAX_WIDENINGS: u32 = 2;

/// Why a cut did not become a point. Nothing is lost: everything that was swept is still pending.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot start the reading threads: {0}")]
    Threads(std::io::Error),
    #[error("the audit of {disk} failed: {reason}")]
    Audit { disk: DiskIdentity, reason: String },
    #[error(
        "{disk}: {reason}; the disk was read as a whole {MAX_WIDENINGS} times and writes were missed each time"
    )]
    NeverCovered { disk: DiskIdentity, reason: String },
    #[error("{0}")]
    Stopped(&'static str),
}

/// One disk of a cut that is under way.
#[derive(Debug)]
pub struct Member<S, R> {
    pub unit: Arc<Unit>,
    pub link: Link<S, R>,
    pub open: OpenPoint,
    pub coverage: Coverage,
    rounds: Vec<Round>,
    notes: Vec<String>,
    compression: Compression,
    compress: Arc<AtomicBool>,
}

impl<S, R> Member<S, R>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    pub fn new(unit: Arc<Unit>, link: Link<S, R>) -> Self {
        Self {
            unit,
            link,
            open: OpenPoint::new(),
            coverage: Coverage::Proven,
            rounds: Vec::new(),
            notes: Vec::new(),
            compression: Compression::default(),
            compress: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Starts the next point with nothing carried.
    pub fn reset(&mut self, whole: Option<String>) {
        self.rounds.clear();
        self.notes.clear();
        (self.open, self.coverage) = match whole {
            None => (OpenPoint::new(), Coverage::Proven),
            Some(reason) => (OpenPoint::whole(self.unit.granules()), Coverage::Unknown(reason)),
        };
    }

    /// Sends frames, and learns from what that cost whether to compress the next ones.
    pub async fn send(&mut self, frames: Vec<ReadFrame>, since: Instant) -> Result<(), LinkError> {
        let mut waited = std::time::Duration::ZERO;
        let mut bytes = 0;
        for frame in frames {
            bytes += frame.range.end - frame.range.start;
            waited += self.link.send(frame).await?.waited;
        }
        let on = self.compression.observe(bytes, waited, since.elapsed());
        self.compress.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Starts a pass over pieces of the disk.
    pub fn read(
        &self,
        pieces: impl Iterator<Item = Range<u64>> + Send + 'static,
        workers: usize,
    ) -> Result<Reader, CutError> {
        let options = reader::Options { workers, compress: Arc::clone(&self.compress) };
        Reader::start(&self.unit.source, pieces, &options).map_err(CutError::Threads)
    }

    /// Reads a set, sending what does not fit into the hold; returns what is still held.
    async fn read_round(
        &mut self,
        set: &GranuleSet,
        workers: usize,
    ) -> Result<VecDeque<Vec<ReadFrame>>, CutError> {
        let granule = self.unit.granule();
        let bytes = self.unit.bytes();
        let max = u32::try_from(u64::from(DELTA_PIECE) / granule.bytes()).unwrap_or(1).max(1);
        let pieces: Vec<Range<u32>> = set.pieces(max).collect();
        let ranges = pieces.into_iter().map(move |piece| granule.byte_range(piece, bytes));
        let mut reader = self.read(ranges, workers)?;
        let hold = reader::hold_batches(workers);
        let mut held = VecDeque::with_capacity(hold + 1);
        loop {
            let since = Instant::now();
            let Some(frames) = reader.next().await else { return Ok(held) };
            held.push_back(frames?);
            if held.len() > hold
                && let Some(oldest) = held.pop_front()
            {
                self.send(oldest, since).await?;
            }
        }
    }

    fn summary(
        &self,
        cut: CutId,
        at: Timestamp,
        verdict: &Result<(), String>,
        group: &[DiskIdentity],
    ) -> CutSummary {
        let mut notes = self.notes.clone();
        let consistency = match verdict {
            Ok(()) => Consistency::Quiet,
            Err(reason) => {
                notes.push(reason.clone());
                Consistency::Fuzzy
            }
        };
        CutSummary {
            cut,
            at,
            consistency,
            coverage: self.coverage.clone(),
            notes,
            rounds: self.rounds.clone(),
            freeze_ms: None,
            group: group.to_vec(),
        }
    }
}

/// Rounds over all members until the cut is proven or given up. Returns what to seal each member's point with;
/// every frame has been handed to the links by then.
pub async fn run<S, R>(
    members: &mut [Member<S, R>],
    cut: CutId,
    plan: &Plan,
) -> Result<Vec<CutSummary>, CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    let mut results: Vec<RoundResult> = Vec::new();
    let mut widenings = 0;
    loop {
        let at = Timestamp::now();
        let (result, held) = round(members).await?;
        results.push(result);
        let verdict = match plan.next(&results) {
            Next::Round => None,
            Next::GiveUp(reason) => Some(Err(reason.to_owned())),
            Next::Audit => Some(Ok(())),
        };
        let verdict = match verdict {
            None => None,
            Some(so_far) => match audit(members, so_far).await? {
                Judged::Stands(verdict) => Some(verdict),
                Judged::Widened { disk, reason } => {
                    widenings += 1;
                    if widenings > MAX_WIDENINGS {
                        return Err(CutError::NeverCovered { disk, reason });
                    }
                    results.clear();
                    None
                }
            },
        };
        for (member, frames) in members.iter_mut().zip(held) {
            for batch in frames {
                member.send(batch, Instant::now()).await?;
            }
        }
        if let Some(verdict) = verdict {
            let group: Vec<DiskIdentity> = members.iter().map(|m| m.unit.identity.clone()).collect();
            return Ok(members.iter().map(|m| m.summary(cut, at, &verdict, &group)).collect());
        }
    }
}

type Held = Vec<VecDeque<Vec<ReadFrame>>>;

/// One round: sweep, form, read, validate.
async fn round<S, R>(members: &mut [Member<S, R>]) -> Result<(RoundResult, Held), CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    let began = Instant::now();
    let units: Vec<Arc<Unit>> = members.iter().map(|m| Arc::clone(&m.unit)).collect();
    let swept =
        on_thread(move || cut::sweep(&units.iter().map(AsRef::as_ref).collect::<Vec<&Unit>>())).await?;
    let sets: Vec<GranuleSet> = members.iter_mut().zip(&swept).map(|(m, s)| m.open.form(s)).collect();
    let workers = (WORKERS / members.len().max(1)).max(1);
    let reads = members.iter_mut().zip(&sets).map(|(member, set)| member.read_round(set, workers));
    let held = futures_util::future::try_join_all(reads).await?;
    // Every read of every disk has finished: only now may the second look be taken.
    let units: Vec<Arc<Unit>> = members.iter().map(|m| Arc::clone(&m.unit)).collect();
    let issued = on_thread(move || {
        units.iter().map(|u| cut::Witnesses::issued(u.as_ref()).peek()).collect::<Vec<_>>()
    })
    .await?;
    let took = began.elapsed();
    let mut result = RoundResult { read: 0, contaminated: 0, took };
    for (index, member) in members.iter_mut().enumerate() {
        let done = validate(member, &swept[index], &sets[index], &issued[index], took);
        result.read += done.granules;
        result.contaminated += done.contaminated;
    }
    Ok((result, held))
}

fn validate<S, R>(
    member: &mut Member<S, R>,
    swept: &Swept,
    read: &GranuleSet,
    issued: &GranuleSet,
    took: std::time::Duration,
) -> Round {
    let contaminated = member.open.validate(swept, read, issued).len();
    let round = Round {
        granules: read.len(),
        bytes: read.len() * member.unit.granule().bytes(),
        contaminated,
        micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    member.rounds.push(round);
    round
}

enum Judged {
    Stands(Result<(), String>),
    Widened { disk: DiskIdentity, reason: String },
}

/// Asks every disk's audit. A gap widens that disk's point to the whole disk, whatever the rounds said.
async fn audit<S, R>(members: &mut [Member<S, R>], so_far: Result<(), String>) -> Result<Judged, CutError> {
    let mut verdict = so_far;
    for member in members.iter_mut() {
        let unit = Arc::clone(&member.unit);
        let outcome = on_thread(move || unit.audit()).await?;
        let disk = member.unit.identity.clone();
        match outcome.map_err(|reason| CutError::Audit { disk: disk.clone(), reason })? {
            AuditOutcome::Proven(notes) => member.notes.extend(notes),
            AuditOutcome::Unproven(reason) => verdict = verdict.and(Err(format!("{disk}: {reason}"))),
            AuditOutcome::Gap(reason) => {
                member.open.widen(member.unit.granules());
                member.coverage = Coverage::Unknown(reason.clone());
                return Ok(Judged::Widened { disk, reason });
            }
        }
    }
    Ok(Judged::Stands(verdict))
}

/// Runs what scans maps or waits for the kernel away from the reactor.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CutError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CutError::Stopped("the agent is shutting down"))
}
