//! One round of a cut, carried out on a group of disks: sweep, read, validate, audit. `conduct` says which rounds
//! there are; the decisions are `engine`'s.

use super::link::{Link, LinkError, Sorted};
use super::sent::Sent;
use super::unit::{AuditOutcome, Lease, Unit};
use crate::engine::compression::Compression;
use crate::engine::cut::{self, OpenPoint, Swept};
use crate::engine::plan::RoundResult;
use crate::io::reader::{self, DELTA_PIECE, HoleNotes, IMAGE_PIECE, ReadFrame, Reader};
use crate::io::source::SourceError;
use crate::model::granules::GranuleSet;
use crate::model::holes::Holes;
use crate::model::hook::HookResult;
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
/// A set of so many bytes is read in the pieces of an image.
const COARSE: u64 = 1 << 40;
/// Times that a gap may be found while a base is made, and answered by reading the disk as a whole again, before the cut
/// is given up: a disk whose writes are never all seen would be read for ever. Also of rescans without a point between.
pub const MAX_WIDENINGS: u32 = 2;

/// Why a cut did not become a point. Nothing is lost: everything that was swept is still pending.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot start the reading threads: {0}")]
    Threads(std::io::Error),
    #[error(
        "{disk}: {read} of {bytes} bytes were read before the reading threads ended: see the agent's log"
    )]
    Short { disk: DiskIdentity, read: u64, bytes: u64 },
    #[error("the audit of {disk} failed: {reason}")]
    Audit { disk: DiskIdentity, reason: String },
    #[error(
        "{disk}: {reason}; the disk was read as a whole {MAX_WIDENINGS} times and writes were missed each time"
    )]
    NeverCovered { disk: DiskIdentity, reason: String },
    #[error(
        "{disk}: {granules} granules of the point were not read as its label says; it is not published, and what \
         changed stays dirty: this is a mistake of the program, please report it"
    )]
    Unread { disk: DiskIdentity, granules: u64 },
    #[error("{disk}: {holes}, and there may be more: the disk is failing, and no point of it is made")]
    Failing { disk: DiskIdentity, holes: String },
    #[error("coverage of {disk} is lost: {reason}")]
    Lost { disk: DiskIdentity, reason: String },
    #[error("the policy wants no such point: {0}")]
    Unmet(String),
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
    /// What could not be read of the point that is being formed.
    pub holes: Holes,
    notes_of_holes: HoleNotes,
    /// Of the point that is being formed.
    pub sent: Sent,
    round: Option<Underway>,
    /// Held from the opening of a point to its acknowledgement.
    pub lease: Option<Lease>,
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
            holes: Holes::new(),
            notes_of_holes: HoleNotes::default(),
            sent: Sent::default(),
            round: None,
            lease: None,
            rounds: Vec::new(),
            notes: Vec::new(),
            compression: Compression::default(),
            compress: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Starts the next point with nothing carried. After a `gap`, what the point has to carry was found by a rescan.
    pub fn reset(&mut self, gap: Option<String>) {
        self.rounds.clear();
        self.notes.clear();
        self.holes = Holes::new();
        self.open = OpenPoint::new();
        (self.sent, self.round) = (Sent::default(), None);
        self.coverage = gap.map_or(Coverage::Proven, Coverage::Unknown);
    }

    /// Sends frames, and learns from what that cost whether to compress the next ones.
    pub async fn send(&mut self, frames: Vec<ReadFrame>, since: Instant) -> Result<(), LinkError> {
        let mut waited = std::time::Duration::ZERO;
        let mut bytes = 0;
        for frame in frames {
            bytes += frame.range.end - frame.range.start;
            self.note(&frame);
            waited += self.link.send(frame).await?.waited;
        }
        let on = self.compression.observe(bytes, waited, since.elapsed());
        self.compress.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// A frame that breaks off with its connection counts as sent: it may have arrived.
    fn note(&mut self, frame: &ReadFrame) {
        let granules = self.unit.granule().touched(frame.range.clone());
        if let Some(round) = &mut self.round {
            round.sent.insert_range(granules.clone());
        }
        if let Some(header) = frame.bytes.first_chunk() {
            let (sent, taken) = self.link.credit();
            self.sent.note(header, granules, sent + frame.bytes.len() as u64, taken);
        }
    }

    /// The connection broke: of the round that was under way, what was sent was read for its cut, and may have arrived;
    /// nothing else was.
    pub async fn break_off(&mut self) -> Result<(), CutError> {
        let Some(round) = self.round.take() else { return Ok(()) };
        if !round.is_validated {
            let unit = Arc::clone(&self.unit);
            let issued =
                on_thread(self.lease.clone(), move || cut::Witnesses::issued(unit.as_ref()).peek()).await?;
            self.open.validate(&round.swept, &round.sent, &issued);
            // As after a pass that was not broken off.
            let (granule, bytes) = (self.unit.granule(), self.unit.bytes());
            round.sent.runs().for_each(|run| self.holes.close(&granule.byte_range(run, bytes)));
            self.find_holes()?;
        }
        self.open.lose(&(&round.set - &round.sent));
        Ok(())
    }

    /// Starts a pass over pieces of the disk.
    pub fn read(
        &self,
        pieces: impl Iterator<Item = Range<u64>> + Send + 'static,
        workers: usize,
        hold: usize,
    ) -> Result<Reader, CutError> {
        let (compress, holes) = (Arc::clone(&self.compress), self.notes_of_holes.clone());
        // What a pass that broke off has noted.
        let _ = holes.take();
        let granule = self.unit.granule();
        let options = reader::Options { workers, granule, compress, hold, holes };
        Reader::start(&self.unit.source, pieces, &options).map_err(CutError::Threads)
    }

    /// Takes in what could not be read since the last call. Those granules are dirty from here on, so that nobody
    /// takes the zeroes that stand for them for content: neither a later attempt nor a later point.
    pub fn find_holes(&mut self) -> Result<(), CutError> {
        let found = self.notes_of_holes.take();
        if found.is_empty() {
            return Ok(());
        }
        tracing::warn!(disk = %self.unit.identity, "{found}");
        self.unit.mark_dirty(&self.unit.granules_of(&found));
        self.holes.add_all(&found);
        match self.holes.fit() {
            true => Ok(()),
            false => {
                let (disk, holes) = (self.unit.identity.clone(), self.holes.to_string());
                Err(CutError::Failing { disk, holes })
            }
        }
    }

    /// What the point carries and was read: clean when it is published.
    #[must_use]
    pub fn read_well(&self) -> GranuleSet {
        self.open.carried() - &self.unit.granules_of(&self.holes)
    }

    /// Reads what the round has to read, sending what is more than the hold; returns what is still held.
    async fn read_set(&mut self, workers: usize, hold: Hold) -> Result<VecDeque<Vec<ReadFrame>>, CutError> {
        let set = &self.round.as_ref().map(|round| round.set.clone()).unwrap_or_default();
        let granule = self.unit.granule();
        let disk_bytes = self.unit.bytes();
        // Small pieces of so much would make millions of extents, to gain nothing.
        let piece = if set.len() * granule.bytes() < COARSE { DELTA_PIECE } else { IMAGE_PIECE };
        let max = u32::try_from(u64::from(piece) / granule.bytes()).unwrap_or(1).max(1);
        let ranges = move |set: &GranuleSet| {
            set.clone().into_pieces(max).map(move |p| granule.byte_range(p, disk_bytes))
        };
        let hold = match hold {
            Hold::Some => workers * 2,
            Hold::All => reader::batches(ranges(set)),
        };
        let mut reader = self.read(ranges(set), workers, hold)?;
        let mut held = VecDeque::with_capacity(hold + 1);
        let mut read = 0;
        loop {
            let since = Instant::now();
            let Some(frames) = reader.next().await else { break };
            let frames = frames?;
            read += frames.iter().map(|frame| frame.range.end - frame.range.start).sum::<u64>();
            held.push_back(frames);
            if held.len() > hold
                && let Some(oldest) = held.pop_front()
            {
                self.send(oldest, since).await?;
            }
        }
        // A thread that died says nothing.
        let bytes = set.runs().map(|run| granule.byte_range(run, disk_bytes)).map(|r| r.end - r.start).sum();
        if read != bytes {
            return Err(CutError::Short { disk: self.unit.identity.clone(), read, bytes });
        }
        // What was a hole before has been tried again.
        set.runs().for_each(|run| self.holes.close(&granule.byte_range(run, disk_bytes)));
        self.find_holes()?;
        Ok(held)
    }

    /// What the point is sealed with, if what was read bears it out.
    pub fn summary(&self, sealing: &Sealing, group: &[DiskIdentity]) -> Result<CutSummary, CutError> {
        let granules = self.open.check(sealing.consistency);
        if granules > 0 {
            return Err(CutError::Unread { disk: self.unit.identity.clone(), granules });
        }
        // An audit that was asked again says the same again.
        let mut notes: Vec<String> = Vec::new();
        for note in self.notes.iter().chain(&sealing.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let mut consistency = sealing.consistency;
        if !self.holes.is_empty() {
            notes.push(format!("{}; without them the point would be {consistency}", self.holes));
            consistency = Consistency::Fuzzy;
        }
        Ok(CutSummary {
            cut: sealing.cut,
            at: sealing.at,
            consistency,
            coverage: self.coverage.clone(),
            notes,
            rounds: self.rounds.clone(),
            freeze_ms: sealing.freeze_ms,
            hooks: sealing.hooks.clone(),
            group: group.to_vec(),
            holes: self.holes.clone(),
        })
    }
}

/// A round of one disk, until the next one begins.
#[derive(Debug)]
struct Underway {
    swept: Swept,
    /// What has to be read.
    set: GranuleSet,
    /// What was handed to the link of that.
    sent: GranuleSet,
    is_validated: bool,
}

/// What all points of a cut have in common.
#[derive(Clone, Debug)]
pub struct Sealing {
    pub cut: CutId,
    pub at: Timestamp,
    pub consistency: Consistency,
    pub notes: Vec<String>,
    pub freeze_ms: Option<u32>,
    pub hooks: Vec<HookResult>,
}

/// What a round keeps in memory until it has been validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The end of it: the reads of a small rest finish without waiting for the network, so the time in which a write
    /// can contaminate it is the time of the reads alone.
    Some,
    /// All of it: the network has no part in how long a freeze lasts.
    All,
}

/// A round that has swept and not yet read.
#[derive(Debug)]
pub struct Formed {
    /// The cut: the instant at which the sweep began.
    pub at: Timestamp,
    began: Instant,
    /// Bytes to read.
    pub rest: u64,
}

/// Steps 1 and 2: sweeps every disk and says what has to be read.
pub async fn form<S, R>(members: &mut [Member<S, R>]) -> Result<Formed, CutError> {
    let (at, began) = (Timestamp::now(), Instant::now());
    let units: Vec<Arc<Unit>> = members.iter().map(|m| Arc::clone(&m.unit)).collect();
    let swept = on_thread(leases(members), move || {
        Unit::sweep(&units.iter().map(AsRef::as_ref).collect::<Vec<&Unit>>())
    })
    .await?;
    let mut rest = 0;
    for (member, swept) in members.iter_mut().zip(swept) {
        let set = member.open.form(&swept);
        rest += set.len() * member.unit.granule().bytes();
        member.round = Some(Underway { swept, set, sent: GranuleSet::new(), is_validated: false });
    }
    Ok(Formed { at, began, rest })
}

/// What was read, by member, and is not sent yet.
pub type Held = Vec<VecDeque<Vec<ReadFrame>>>;

/// Steps 3 and 4: reads, and then looks whether it was overwritten meanwhile.
pub async fn read<S, R>(
    members: &mut [Member<S, R>],
    formed: &Formed,
    hold: Hold,
) -> Result<(RoundResult, Held), CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    let workers = (WORKERS / members.len().max(1)).max(1);
    let reads = members.iter_mut().map(|member| member.read_set(workers, hold));
    let held = futures_util::future::try_join_all(reads).await?;
    // Every read of every disk has finished: only now may the second look be taken.
    let units: Vec<Arc<Unit>> = members.iter().map(|m| Arc::clone(&m.unit)).collect();
    let issued = on_thread(leases(members), move || {
        units.iter().map(|u| cut::Witnesses::issued(u.as_ref()).peek()).collect::<Vec<_>>()
    })
    .await?;
    let took = formed.began.elapsed();
    let mut result = RoundResult { took, ..RoundResult::default() };
    for (member, issued) in members.iter_mut().zip(&issued) {
        let done = validate(member, issued, took);
        result.read += done.bytes;
        result.contaminated += done.contaminated * member.unit.granule().bytes();
    }
    Ok((result, held))
}

/// Hands what was held to the links.
pub async fn send<S, R>(members: &mut [Member<S, R>], held: Held) -> Result<(), CutError>
where
    S: Serialize + Send + 'static,
    R: DeserializeOwned + Sorted + Send + std::fmt::Debug + 'static,
{
    for (member, frames) in members.iter_mut().zip(held) {
        for batch in frames {
            member.send(batch, Instant::now()).await?;
        }
    }
    Ok(())
}

fn validate<S, R>(member: &mut Member<S, R>, issued: &GranuleSet, took: std::time::Duration) -> Round {
    let mut round = Round { micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX), ..Round::default() };
    if let Some(Underway { swept, set, is_validated, .. }) = &mut member.round {
        *is_validated = true;
        round.granules = set.len();
        round.bytes = set.len() * member.unit.granule().bytes();
        round.contaminated = member.open.validate(swept, set, issued).len();
    }
    member.rounds.push(round);
    round
}

/// What the audits say of a cut.
#[derive(Debug)]
pub enum Judged {
    /// The dirty sets are complete. `Ok` if the rounds and every issue witness are proven as well.
    Stands(Result<(), String>),
    /// A disk's was not: its point carries the whole disk now.
    Widened { disk: DiskIdentity, reason: String },
}

/// Asks every disk's audit. A gap widens that disk's point to the whole disk, whatever the rounds said.
pub async fn audit<S, R>(
    members: &mut [Member<S, R>],
    so_far: Result<(), String>,
) -> Result<Judged, CutError> {
    let mut verdict = so_far;
    for member in members.iter_mut() {
        let unit = Arc::clone(&member.unit);
        let outcome = on_thread(member.lease.clone(), move || unit.audit()).await?;
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

fn leases<S, R>(members: &[Member<S, R>]) -> Vec<Option<Lease>> {
    members.iter().map(|member| member.lease.clone()).collect()
}

/// Runs what scans maps or waits for the kernel away from the reactor. It goes on when the caller is dropped; what is
/// `held` stays held until it has ended.
pub async fn on_thread<H: Send + 'static, T: Send + 'static>(
    held: H,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CutError> {
    let work = move || {
        let result = work();
        drop(held);
        result
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| CutError::Stopped("the agent is shutting down"))
}
