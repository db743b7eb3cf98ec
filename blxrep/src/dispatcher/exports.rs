//! Points as network block devices, as the API serves them: a process of this program each, which ends when its standard
//! input does. It therefore never outlives the dispatcher, however that ends.

use crate::api::backend::ExportRequest;
use crate::api::error::{ApiError, Result};
use crate::api::exports::{ExportRow, ExportState};
use crate::cli::nbd::{COMMAND, Serving};
use jiff::Timestamp;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Processes at a time: each holds the files of its point open, and up to 32 clients.
const MAX_EXPORTS: usize = 16;
/// Opening a point reads its indexes.
const PATIENCE: Duration = Duration::from_secs(25);
/// Its clients are sent away, which waits for reads that are under way.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// What it says once it serves, or why it does not.
const MAX_WORD: u64 = 64 << 10;

/// What is being served.
#[derive(Debug)]
pub struct Exports {
    data_dir: PathBuf,
    running: Mutex<Vec<Running>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Running {
    row: ExportRow,
    child: Child,
    _place: OwnedSemaphorePermit,
}

impl Exports {
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, running: Mutex::default(), places: Arc::new(Semaphore::new(MAX_EXPORTS)) }
    }

    /// Forgets those that have ended by themselves.
    fn with<T>(&self, look: impl FnOnce(&mut Vec<Running>) -> T) -> T {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain_mut(|export| matches!(export.child.try_wait(), Ok(None)));
        look(&mut running)
    }

    pub fn list(&self) -> Vec<ExportRow> {
        self.with(|running| running.iter().map(|export| export.row.clone()).collect())
    }

    /// Returns when clients can connect.
    pub async fn start(&self, request: ExportRequest) -> Result<ExportRow> {
        // Whose process has ended has a place no longer.
        self.list();
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            ApiError::unavailable(format!("{MAX_EXPORTS} points are served already; stop one of them first"))
        })?;
        let mut opening = Opening(Some(self.spawn(&request).map_err(not_started)?));
        let slow = || ApiError::unavailable("the point takes long to be opened; ask again");
        let serving = timeout(PATIENCE, opening.word()).await.map_err(|_| slow())??;
        let child = opening.0.take().ok_or_else(silent)?;
        let row = ExportRow {
            point: request.point.to_string(),
            partition: request.partition.clone(),
            uri: serving.uri,
            bytes: serving.bytes,
            writable: serving.writable,
            process: child.id().unwrap_or_default(),
            since: Timestamp::now(),
            state: ExportState::Served,
        };
        let export = Running { row: row.clone(), child, _place: place };
        self.with(|running| running.push(export));
        Ok(row)
    }

    /// What it logs goes where the dispatcher's own log goes.
    fn spawn(&self, request: &ExportRequest) -> io::Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg("--data-dir").arg(std::path::absolute(&self.data_dir)?);
        command.arg("--partition").arg(request.partition.to_string());
        if request.writable {
            command.arg("--writable");
        }
        command.arg(request.point.to_string()).arg(&request.address);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    }

    /// Sends its clients away.
    pub async fn stop(&self, uri: &str) -> Result<ExportRow> {
        let found = self.with(|running| {
            let at = running.iter().position(|export| export.row.uri == uri)?;
            Some(running.swap_remove(at))
        });
        let mut export = found.ok_or_else(|| {
            ApiError::not_found(format!("no point is served at {uri}; `blxrep exports` lists those that are"))
        })?;
        drop(export.child.stdin.take());
        if timeout(END_PATIENCE, export.child.wait()).await.is_err() {
            // The runtime waits for its end.
            let _ = export.child.start_kill();
        }
        Ok(ExportRow { state: ExportState::Stopped, ..export.row })
    }
}

/// A process that has not said yet that it serves. It is killed with this: whoever asked has gone, or waits no longer. Once
/// it serves, it is taken out, and ends in order with its input, so that no socket is left behind.
#[derive(Debug)]
struct Opening(Option<Child>);

impl Opening {
    /// The first line: where it serves, or why it does not.
    async fn word(&mut self) -> Result<Serving> {
        let output = self.0.as_mut().and_then(|child| child.stdout.take());
        let mut from = BufReader::new(output.ok_or_else(silent)?.take(MAX_WORD));
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line).await.map_err(not_started)?;
        serde_json::from_slice::<Result<Serving>>(&line).map_err(|_| silent())?
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // The runtime waits for its end.
            let _ = child.start_kill();
        }
    }
}

fn silent() -> ApiError {
    ApiError::failed("the process that serves the point ended without a word; the log may say why")
}

fn not_started(error: io::Error) -> ApiError {
    ApiError::failed(format!("cannot start a process to serve the point: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::PointId;
    use crate::model::part_id::PartId;

    #[tokio::test]
    async fn a_process_that_nobody_waits_for_any_more_is_killed() {
        let mut command = Command::new("sleep");
        let child = command.arg("600").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let process = PathBuf::from(format!("/proc/{}", child.id().unwrap()));
        let mut opening = Opening(Some(child));
        assert!(timeout(Duration::from_millis(50), opening.word()).await.is_err(), "it says nothing");
        assert!(process.exists());
        drop(opening);
        let gone = async {
            // The runtime takes it off the list of processes when it hears of its end.
            while process.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), gone).await.unwrap();
    }

    /// The test's own program knows no such command: it ends without a word.
    #[tokio::test]
    async fn a_process_that_does_not_serve_is_an_error_and_takes_no_place() {
        let exports = Exports::new("/nonexistent".into());
        let request = ExportRequest {
            point: PointId(1),
            address: "unix:/x".to_owned(),
            partition: PartId::DISK,
            writable: false,
        };
        for _ in 0..2 * MAX_EXPORTS {
            let error = exports.start(request.clone()).await.unwrap_err();
            assert!(error.message.contains("without a word"), "{error}");
        }
        assert_eq!(exports.list(), []);
        assert!(exports.stop("nbd+unix:///?socket=/x").await.unwrap_err().message.contains("blxrep exports"));
    }
}
