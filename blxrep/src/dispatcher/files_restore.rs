//! The dispatcher's side of a restore of files to an agent: a courier reads the point and writes a stream of bytes, which
//! is passed on in frames.
//!
//! ```text
//! courier (a process) --pipe--> frames, as the credit allows ----> agent
//!         <---- errand; words ---->  (end, or why it ended)
//! ```

use super::Shared;
use super::hub::Note;
use super::restore_link::{RestoreError, RestoreLink};
use crate::io::child;
use crate::model::encoding::Encoding;
use crate::model::ids::ActionId;
use crate::model::restoration::FilesTarget;
use crate::model::restored::Outcome;
use crate::model::units::SECTOR_BYTES;
use crate::mount::courier::{Destination, Errand, Word, courier};
use crate::store::restorations::RestorationRow;
use crate::wire::frame::{Data, HEADER_BYTES};
use crate::wire::restore::{ToAgent, ToDispatcher};
use bytes::{BufMut, BytesMut};
use std::io;
use std::process::Child;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Bytes of the stream in one frame.
const PIECE_BYTES: usize = 512 << 10;

/// Restores of files to agents that are read at the same time, each by a process that mounts the point; others wait.
pub const MAX_COURIERS: usize = 8;

/// Serves until the agent has written all files. Returns what came of it.
pub async fn run(
    link: &mut RestoreLink,
    shared: &Shared,
    row: &RestorationRow,
    target: &FilesTarget,
) -> Result<Outcome, RestoreError> {
    send(link, shared, row, target).await?;
    link.end().await?;
    outcome(link, shared, row.action, target.dry_run).await
}

/// Sends the files. Courier and turn are given back with the end of the stream: what the agent takes to write it holds up
/// no other restore.
async fn send(
    link: &mut RestoreLink,
    shared: &Shared,
    row: &RestorationRow,
    target: &FilesTarget,
) -> Result<(), RestoreError> {
    let _turn = turn(link, shared, row.action).await?;
    let errand = Errand {
        data_dir: shared.store.data_dir().to_owned(),
        point: row.restoration.point.to_string(),
        paths: row.paths.clone(),
        to: Destination::Stream { outline: target.dry_run },
    };
    let mut courier = Courier::start(&errand)
        .map_err(|e| RestoreError::Failed(format!("cannot start a process that reads the files: {e}")))?;
    let partitions = courier.partitions().await?;
    if !target.dry_run {
        touch(shared, row.action).await?;
    }
    link.say(&ToAgent::Files { partitions, again: row.touched }).await?;
    relay(link, shared, row.action, &mut courier.stream).await?;
    courier.end().await
}

/// Waits until one more may be read. The agent, which says nothing before it is told to begin, may leave meanwhile.
async fn turn(
    link: &mut RestoreLink,
    shared: &Shared,
    action: ActionId,
) -> Result<OwnedSemaphorePermit, RestoreError> {
    if let Ok(turn) = Arc::clone(&shared.couriers).try_acquire_owned() {
        return Ok(turn);
    }
    shared.note(Note::RestoreWaits { action, waits: true }).await;
    let turn = tokio::select! {
        biased;
        turn = Arc::clone(&shared.couriers).acquire_owned() => turn.map_err(|_| RestoreError::Stopping),
        said = link.hear() => Err(said.err().unwrap_or(RestoreError::Unexpected("a word before its turn"))),
    }?;
    shared.note(Note::RestoreWaits { action, waits: false }).await;
    Ok(turn)
}

async fn touch(shared: &Shared, action: ActionId) -> Result<(), RestoreError> {
    let (reply, kept) = oneshot::channel();
    shared.note(Note::Touch { action, reply }).await;
    kept.await.map_err(|_| RestoreError::Stopping)?.map_err(RestoreError::Failed)
}

/// Passes the stream on, in whole sectors.
async fn relay(
    link: &mut RestoreLink,
    shared: &Shared,
    action: ActionId,
    stream: &mut pipe::Receiver,
) -> Result<(), RestoreError> {
    let mut at = 0;
    loop {
        let mut message = BytesMut::zeroed(HEADER_BYTES);
        message.reserve(PIECE_BYTES);
        let mut room = (&mut message).limit(PIECE_BYTES);
        while room.has_remaining_mut() && stream.read_buf(&mut room).await.map_err(reading)? > 0 {}
        let bytes = message.len() - HEADER_BYTES;
        if bytes == 0 {
            return Ok(());
        }
        message.resize(HEADER_BYTES + bytes.next_multiple_of(SECTOR_BYTES as usize), 0);
        let raw_length = u32::try_from(message.len() - HEADER_BYTES).unwrap_or(u32::MAX);
        let data = Data { encoding: Encoding::Raw, offset: at, raw_length };
        data.seal(&mut message).map_err(|e| RestoreError::Failed(e.to_string()))?;
        at += u64::from(raw_length);
        link.send(message.freeze()).await?;
        progress(link, shared, action);
    }
}

/// Passes on how far the agent is.
fn progress(link: &mut RestoreLink, shared: &Shared, action: ActionId) {
    if let Some((_files, bytes)) = link.progress.take() {
        shared.progress(action, bytes, 0);
    }
}

/// Waits for the agent to have written all, and takes in what came of it.
async fn outcome(
    link: &mut RestoreLink,
    shared: &Shared,
    action: ActionId,
    dry_run: bool,
) -> Result<Outcome, RestoreError> {
    let mut outcome = Outcome::new(dry_run);
    loop {
        match link.hear().await? {
            ToDispatcher::Progress { files: _, bytes } => shared.progress(action, bytes, 0),
            ToDispatcher::Outcome(piece) => {
                if !outcome.add(piece) {
                    return Err(RestoreError::Unexpected("what came of something else"));
                }
            }
            ToDispatcher::Restored => return Ok(outcome),
            _ => return Err(RestoreError::Unexpected("a word")),
        }
    }
}

fn reading(error: io::Error) -> RestoreError {
    RestoreError::Courier(format!("it cannot be read from: {error}"))
}

/// The process that reads the files. It is killed with this.
struct Courier {
    child: Option<Child>,
    stream: pipe::Receiver,
    words: Lines<BufReader<UnixStream>>,
}

impl Drop for Courier {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child::kill(child);
        }
    }
}

impl Courier {
    fn start(errand: &Errand) -> io::Result<Self> {
        let (mut command, talk) = courier(errand)?;
        talk.set_nonblocking(true)?;
        let words = BufReader::new(UnixStream::from_std(talk)?).lines();
        let (output, input) = io::pipe()?;
        let stream = pipe::Receiver::from_owned_fd(output.into())?;
        let child = Some(command.stdout(input).spawn()?);
        Ok(Self { child, stream, words })
    }

    /// How many partitions the stream is of: it has opened the point, and found what is wanted.
    async fn partitions(&mut self) -> Result<u32, RestoreError> {
        loop {
            match self.word().await? {
                Word::Open { partitions } => return Ok(partitions),
                Word::Note(note) => tracing::warn!(note, "restore of files"),
                _ => return Err(RestoreError::Courier("it says what was not asked for".to_owned())),
            }
        }
    }

    /// The stream has ended: whether that was its end.
    async fn end(&mut self) -> Result<(), RestoreError> {
        loop {
            match self.word().await? {
                Word::Done(_) => return Ok(()),
                Word::Note(note) => tracing::warn!(note, "restore of files"),
                _ => return Err(RestoreError::Courier("it says what was not asked for".to_owned())),
            }
        }
    }

    async fn word(&mut self) -> Result<Word, RestoreError> {
        let line = self.words.next_line().await.map_err(reading)?;
        let line = line.ok_or_else(|| RestoreError::Courier("it ended without a word".to_owned()))?;
        match serde_json::from_str(&line) {
            Ok(Word::Failed(why)) => Err(RestoreError::Failed(why)),
            Ok(word) => Ok(word),
            Err(error) => Err(RestoreError::Courier(format!("it cannot be understood: {error}"))),
        }
    }
}
