//! A courier that restores files to this host, and what it tells. See [`crate::mount::courier`].

use crate::io::child;
use crate::model::restored::Outcome;
use crate::mount::courier::{Errand, Talk, Word, courier};
use crate::mount::session::receive;
use crate::store::StoreError;
use crate::store::restore::Progress;
use std::io::{self, BufReader, ErrorKind, Read};
use std::net::Shutdown;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether the restore was cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a courier may take to clear away what is half done; then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has files restored to a folder of this host.
pub fn restore_here(errand: &Errand, progress: Progress<'_>) -> Result<Outcome, StoreError> {
    let starting = |e: io::Error| StoreError::Refused(format!("cannot start a process for the files: {e}"));
    let (mut command, talk) = courier(errand).map_err(starting)?;
    talk.set_read_timeout(Some(LOOK_EVERY)).map_err(starting)?;
    let _courier = Courier(Some(command.stdout(Stdio::null()).spawn().map_err(starting)?));
    // It holds the other end of the conversation, whose end must be heard.
    drop(command);
    let mut words = BufReader::new(Patient { talk, cancel: progress.cancel, hung_up: None });
    loop {
        match receive(&mut words) {
            Some(Word::Open { .. }) => {}
            Some(Word::Note(note)) => tracing::warn!(point = errand.point, note, "restore of files"),
            Some(Word::Progress { files: _, bytes }) => (progress.report)(bytes, 0),
            Some(Word::Done(Some(outcome))) => return Ok(outcome),
            _ if progress.cancel.load(Ordering::Relaxed) => return Err(StoreError::Cancelled),
            Some(Word::Failed(why)) => return Err(StoreError::Refused(why)),
            Some(Word::Done(None)) | None => {
                let why = "the process that restores the files ended without a word; `dmesg` may say why";
                return Err(StoreError::Refused(why.to_owned()));
            }
        }
    }
}

/// A child that does not outlive its use.
#[derive(Debug)]
struct Courier(Option<Child>);

impl Drop for Courier {
    fn drop(&mut self) {
        if let Some(mut courier) = self.0.take()
            && !child::ends_within(&mut courier, PATIENCE)
        {
            child::kill(courier);
        }
    }
}

/// The conversation, from which the dispatcher hangs up when the restore is cancelled.
struct Patient<'a> {
    talk: Talk,
    cancel: &'a AtomicBool,
    hung_up: Option<Instant>,
}

impl Read for Patient<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.hung_up.is_none() && self.cancel.load(Ordering::Relaxed) {
                self.hung_up = Some(Instant::now());
                self.talk.shutdown(Shutdown::Write)?;
            }
            match self.talk.read(out) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                read => return read,
            }
            if self.hung_up.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}
