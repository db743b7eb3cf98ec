//! A restore of files to this host: the stream that comes is written by a thread, below a folder that this agent's own
//! configuration allows.
//!
//! ```text
//! Wire ----> pieces (a queue) ----> Pieces (bytes) ----> decode (held against the grammar) ----> Target | Plan
//!      <---- Standing: bytes taken, files written <----
//! ```
//!
//! A connection that breaks ends the thread, which clears away what is half done. The next connection begins with the
//! first file again: what is there as it should be counts as being there.

use super::place::Place;
use super::restore::{Heard, RestoreError, Wire};
use crate::archive::ArchiveError;
use crate::archive::plan::Plan;
use crate::archive::root::Root;
use crate::archive::stream::decode;
use crate::archive::target::Target;
use crate::archive::watched::Watched;
use crate::model::encoding::Encoding;
use crate::model::restoration::FilesTarget;
use crate::model::restored::Outcome;
use crate::model::units::SECTOR_BYTES;
use crate::wire::frame::{Data, HEADER_BYTES};
use crate::wire::restore::{CREDIT, ToDispatcher};
use bytes::{Buf, Bytes};
use std::io::Read;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Pieces that wait for the thread: as many of the shortest as the credit allows, so the queue is never full.
const PIECES: usize = CREDIT as usize / (HEADER_BYTES + SECTOR_BYTES as usize) + 1;
/// Between two words of progress.
const WORD_EVERY: Duration = Duration::from_secs(1);

/// A dispatcher that hears nothing takes the agent for gone. Comparing one large file, or writing all out at the end,
/// takes longer than it waits.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// A thread that has done nothing for so long never will.
const HUNG: Duration = Duration::from_secs(12 * 3600);

/// A frame.
type Piece = (Data, Bytes);

/// Where the thread is.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    /// Bytes of frames, headers included.
    taken: u64,
    files: u64,
    bytes: u64,
}

/// What the stream consists of, as the dispatcher says.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    pub partitions: u32,
    pub again: bool,
}

/// Takes in the stream and writes the files. Comes back when they are on stable storage, and all that was sent was used.
pub async fn run(
    wire: &mut Wire,
    place: Place,
    target: &FilesTarget,
    announced: Announced,
) -> Result<Outcome, RestoreError> {
    let (queue, pieces) = mpsc::channel(PIECES);
    let (standing, seen) = watch::channel(Standing::default());
    let writer = Writer { place, target: target.clone(), announced, standing };
    let thread = tokio::task::spawn_blocking(move || writer.run(pieces));
    Intake { wire, queue: Some(queue), seen, told: Instant::now(), moved: Instant::now() }.run(thread).await
}

struct Intake<'a> {
    wire: &'a mut Wire,
    /// `None` once all came.
    queue: Option<mpsc::Sender<Piece>>,
    seen: watch::Receiver<Standing>,
    told: Instant,
    /// When the thread did something last that can be seen.
    moved: Instant,
}

impl Intake<'_> {
    async fn run(
        &mut self,
        mut thread: JoinHandle<Result<Outcome, ArchiveError>>,
    ) -> Result<Outcome, RestoreError> {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let broke = loop {
            tokio::select! {
                written = &mut thread => return self.written(written).await,
                Ok(()) = self.seen.changed() => if let Err(error) = self.tell().await {
                    break error;
                },
                _ = alive.tick(), if self.moved.elapsed() < HUNG => if let Err(error) = self.say_progress().await {
                    break error;
                },
                heard = self.wire.receive() => if let Err(error) = heard.and_then(|heard| self.take(heard)) {
                    break error;
                },
            }
        };
        // It clears away what is half done, and gives the target free for the next attempt.
        self.queue = None;
        let _ = thread.await;
        Err(broke)
    }

    fn take(&mut self, heard: Heard) -> Result<(), RestoreError> {
        match heard {
            Heard::Data(data, payload) => {
                let queue = self.queue.as_ref().ok_or(RestoreError::Garbled("data behind their end"))?;
                match queue.try_send((data, payload)) {
                    // A thread that has ended says why itself.
                    Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
                    Err(TrySendError::Full(_)) => Err(RestoreError::Garbled("more data than it was allowed")),
                }
            }
            Heard::End => self.queue.take().map(drop).ok_or(RestoreError::Garbled("a second end")),
            Heard::Said(_) => Err(RestoreError::Garbled("a word while files were under way")),
        }
    }

    async fn tell(&mut self) -> Result<(), RestoreError> {
        self.moved = Instant::now();
        let taken = self.seen.borrow_and_update().taken;
        self.wire.has_taken(taken).await?;
        if self.told.elapsed() >= WORD_EVERY {
            self.say_progress().await?;
        }
        Ok(())
    }

    async fn say_progress(&mut self) -> Result<(), RestoreError> {
        self.told = Instant::now();
        let Standing { files, bytes, .. } = *self.seen.borrow();
        self.wire.say(&ToDispatcher::Progress { files, bytes }).await
    }

    /// The thread has ended. What it wrote counts only if the end of the transfer has come, too.
    async fn written(
        &mut self,
        written: Result<Result<Outcome, ArchiveError>, tokio::task::JoinError>,
    ) -> Result<Outcome, RestoreError> {
        let outcome = written.map_err(|_| RestoreError::Stopping)?.map_err(failed)?;
        while self.queue.is_some() {
            let heard = self.wire.receive().await?;
            if matches!(heard, Heard::Data(..)) {
                return Err(RestoreError::Garbled("data behind the last tree"));
            }
            self.take(heard)?;
        }
        Ok(outcome)
    }
}

/// Whoever sends such a stream, or restores to such a folder, will do no better the next time.
fn failed(error: ArchiveError) -> RestoreError {
    RestoreError::Failed(error.to_string())
}

struct Writer {
    place: Place,
    target: FilesTarget,
    announced: Announced,
    standing: watch::Sender<Standing>,
}

impl Writer {
    fn run(self, pieces: mpsc::Receiver<Piece>) -> Result<Outcome, ArchiveError> {
        let mut pieces = Pieces { queue: pieces, at: 0, piece: Bytes::new(), standing: &self.standing };
        let mut outcome = Outcome::new(self.target.dry_run);
        for _ in 0..self.announced.partitions {
            outcome.add(match self.target.dry_run {
                true => self.plan(&mut pieces)?,
                false => self.write(&mut pieces, &outcome)?,
            });
        }
        match pieces.piece.iter().all(|byte| *byte == 0) && pieces.piece.len() < SECTOR_BYTES as usize {
            true => Ok(outcome),
            false => Err(ArchiveError::Stream("something follows its last tree".to_owned())),
        }
    }

    fn write(&self, pieces: &mut Pieces<'_>, sofar: &Outcome) -> Result<Outcome, ArchiveError> {
        let root = Root::open_within(&self.place.outer, &self.place.way)?;
        let target = Target::new(root, self.target.conflict, self.announced.again)?;
        let (files, bytes) = match sofar {
            Outcome::Restored(report) => (report.files, report.bytes),
            Outcome::Planned(_) => (0, 0),
        };
        let mut watched = Watched::new(target, |target: &Target| {
            let report = target.report();
            self.standing.send_modify(|standing| {
                (standing.files, standing.bytes) = (files + report.files, bytes + report.bytes);
            });
            Ok(())
        });
        decode(pieces, &mut watched)?;
        Ok(Outcome::Restored(watched.sink.into_report()))
    }

    fn plan(&self, pieces: &mut Pieces<'_>) -> Result<Outcome, ArchiveError> {
        let root = Root::find_within(&self.place.outer, &self.place.way)?;
        let mut found = crate::model::restored::Plan::default();
        let mut tell = |step| {
            found.step(step);
            Ok(())
        };
        decode(pieces, &mut Plan::new(root, self.target.conflict, &mut tell))?;
        Ok(Outcome::Planned(found))
    }
}

/// What came, as bytes. They end when the connection does.
struct Pieces<'a> {
    queue: mpsc::Receiver<Piece>,
    /// Where the next piece has to begin.
    at: u64,
    piece: Bytes,
    standing: &'a watch::Sender<Standing>,
}

impl Pieces<'_> {
    fn unpack(&mut self, (data, payload): Piece) -> std::io::Result<()> {
        let garbled = |what: String| std::io::Error::other(format!("the stream of files is garbled: {what}"));
        if data.offset != self.at || data.encoding == Encoding::Zero {
            return Err(garbled(format!("a piece at {} where that at {} comes next", data.offset, self.at)));
        }
        self.at += u64::from(data.raw_length);
        let taken = (HEADER_BYTES + payload.len()) as u64;
        self.piece = match data.encoding {
            Encoding::Raw | Encoding::Zero => payload,
            Encoding::Zstd => {
                let mut raw = vec![0; data.raw_length as usize];
                data.encoding.decode_into(&payload, &mut raw).map_err(|e| garbled(e.to_string()))?;
                raw.into()
            }
        };
        self.standing.send_modify(|standing| standing.taken += taken);
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            let Some(piece) = self.queue.blocking_recv() else { return Ok(0) };
            self.unpack(piece)?;
        }
        let length = out.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}
