//! `carry-files`: files of a point on their way, in a process of its own.

use super::error::CliError;
use super::restore_files::{absolute, more_descriptors, parts, wanted};
use crate::archive::conflict::Policy;
use crate::archive::plan::Plan;
use crate::archive::root::Root;
use crate::archive::selection::Selection;
use crate::archive::stream::Encoder;
use crate::archive::target::Target;
use crate::archive::walk::walk;
use crate::archive::watched::Watched;
use crate::archive::{ArchiveError, Sink};
use crate::model::contents::Part;
use crate::model::restored::{self, Outcome, Report};
use crate::mount::courier::{Destination, Dispatcher, Errand, Word};
use crate::mount::private::{Private, PrivatePoint};
use rustix::fd::{AsFd, OwnedFd};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Small records of the stream are written together.
const BUFFER_BYTES: usize = 256 << 10;
/// Between two words of progress.
const WORD_EVERY: Duration = Duration::from_millis(500);

/// Does one errand, and says how it went to whoever asked for it.
pub fn run() -> Result<(), CliError> {
    let by_hand = |why| CliError::Usage(format!("this is started by a dispatcher, not by hand: {why}"));
    let mut dispatcher = Dispatcher::take().map_err(by_hand)?;
    let Some(errand) = dispatcher.errand() else { return Ok(()) };
    let stop = dispatcher.waiter().and_then(watch).map_err(by_hand)?;
    let done = Courier { dispatcher: &dispatcher, stop: &stop }.carry(errand);
    dispatcher.say(&match done {
        Ok(outcome) => Word::Done(outcome),
        Err(error) => Word::Failed(error.to_string()),
    });
    Ok(())
}

/// What is set once the dispatcher has hung up.
fn watch(mut dispatcher: UnixStream) -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        // It has said all it has to say.
        let _ = dispatcher.read(&mut [0]);
        flag.store(true, Ordering::Relaxed);
    })?;
    Ok(stop)
}

struct Courier<'a> {
    dispatcher: &'a Dispatcher,
    stop: &'a AtomicBool,
}

impl Courier<'_> {
    fn carry(&self, errand: Errand) -> Result<Option<Outcome>, CliError> {
        let paths: Vec<OsString> = errand.paths.into_iter().map(OsString::from_vec).collect();
        let wanted = wanted(&paths)?;
        more_descriptors();
        let mut private = Private::enter()?;
        let point = private.open(&errand.data_dir, &errand.point)?;
        let parts = parts(&point, wanted)?;
        let partitions = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        self.dispatcher.say(&Word::Open { partitions });
        match errand.to {
            Destination::Stream { outline } => self.stream(&point, &parts, outline).map(|()| None),
            Destination::Folder { target, policy, dry_run } => {
                let target = absolute(&target, &errand.data_dir)?;
                Ok(Some(match dry_run {
                    true => Outcome::Planned(self.plan(&point, &parts, &target, policy)?),
                    false => Outcome::Restored(self.restore(&point, &parts, &target, policy)?),
                }))
            }
        }
    }

    fn root(&self, point: &PrivatePoint, part: &Part) -> Result<OwnedFd, CliError> {
        let (root, note) = point.root(part)?;
        if !note.is_empty() {
            self.dispatcher.say(&Word::Note(note));
        }
        Ok(root)
    }

    /// Walks, unless the dispatcher hangs up.
    fn walk<S: Sink>(
        &self,
        root: &OwnedFd,
        wanted: &Selection,
        sink: S,
        mut look: impl FnMut(&S),
    ) -> Result<S, ArchiveError> {
        let mut watched = Watched::new(sink, |sink: &S| {
            look(sink);
            if self.stop.load(Ordering::Relaxed) { Err(ArchiveError::Interrupted) } else { Ok(()) }
        });
        walk(root.as_fd(), wanted, &mut watched)?;
        Ok(watched.sink)
    }

    fn stream(
        &self,
        point: &PrivatePoint,
        parts: &[(Part, Selection)],
        outline: bool,
    ) -> Result<(), CliError> {
        // Not through the standard library's buffer, which looks for lines.
        let out = io::stdout().as_fd().try_clone_to_owned().map_err(CliError::Output)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::from(out));
        for (part, selection) in parts {
            let root = self.root(point, part)?;
            let encoder = if outline { Encoder::outline(&mut out)? } else { Encoder::new(&mut out)? };
            self.walk(&root, selection, encoder, |_| {})?;
        }
        Ok(())
    }

    fn restore(
        &self,
        point: &PrivatePoint,
        parts: &[(Part, Selection)],
        dir: &Path,
        policy: Policy,
    ) -> Result<Report, CliError> {
        let mut sum = Report::default();
        let mut told = Instant::now();
        for (part, selection) in parts {
            let root = self.root(point, part)?;
            let target = Target::new(Root::open(dir)?, policy, false)?;
            let (files, bytes) = (sum.files, sum.bytes);
            let target = self.walk(&root, selection, target, |target| {
                if told.elapsed() >= WORD_EVERY {
                    told = Instant::now();
                    let report = target.report();
                    let (files, bytes) = (files + report.files, bytes + report.bytes);
                    self.dispatcher.say(&Word::Progress { files, bytes });
                }
            })?;
            sum.add(target.into_report());
        }
        Ok(sum)
    }

    fn plan(
        &self,
        point: &PrivatePoint,
        parts: &[(Part, Selection)],
        dir: &Path,
        policy: Policy,
    ) -> Result<restored::Plan, CliError> {
        let mut found = restored::Plan::default();
        for (part, selection) in parts {
            let root = self.root(point, part)?;
            let mut tell = |step| {
                found.step(step);
                Ok(())
            };
            self.walk(&root, selection, Plan::new(Root::find(dir)?, policy, &mut tell), |_| {})?;
        }
        Ok(found)
    }
}
