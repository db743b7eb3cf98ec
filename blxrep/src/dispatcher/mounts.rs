//! Mounts as the API makes them: with the program's own commands, as a person would type them.
//!
//! A command is a process of its own, so a filesystem that hangs while it is mounted holds up nothing else; one that is
//! killed before its end leaves nothing behind.

use crate::api::error::{ApiError, Result};
use crate::api::mounts::MountRow;
use crate::cli::exit;
use crate::model::ids::PointId;
use crate::mount::place;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Mounting may have to replay journals.
const PATIENCE: Duration = Duration::from_secs(25);

/// What of the result of `blxrep mount` is of interest.
#[derive(Debug, Deserialize)]
struct Mounted {
    /// As the kernel names it.
    directory: String,
}

/// Mounted points of this host.
#[derive(Clone, Debug)]
pub struct Mounts {
    data_dir: PathBuf,
    /// One at a time: whatever hangs in the kernel, it is one thread or one process.
    turn: Arc<Semaphore>,
}

impl Mounts {
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, turn: Arc::new(Semaphore::new(1)) }
    }

    pub async fn list(&self) -> Result<Vec<MountRow>> {
        let turn = self.turn().await?;
        let look = tokio::task::spawn_blocking(move || {
            let rows = place::all().map(|places| places.iter().map(MountRow::of).collect::<Vec<_>>());
            drop(turn);
            rows
        });
        let done = timeout(PATIENCE, look).await.map_err(|_| slow())?;
        Ok(done.map_err(|_| ApiError::unavailable("the dispatcher is stopping"))??)
    }

    pub async fn mount(&self, point: PointId, directory: &Path) -> Result<MountRow> {
        let mounted: Mounted = self.run(&["mount".as_ref(), point.to_string().as_ref(), directory]).await?;
        let found = self.list().await?.into_iter().find(|row| row.directory == mounted.directory);
        found.ok_or_else(|| {
            ApiError::failed(format!(
                "the mount on {} has ended again; `dmesg` may say why",
                mounted.directory
            ))
        })
    }

    pub async fn unmount(&self, directory: &Path) -> Result<MountRow> {
        self.run(&["umount".as_ref(), directory]).await
    }

    async fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let turn = timeout(PATIENCE, Arc::clone(&self.turn).acquire_owned()).await.map_err(|_| slow())?;
        turn.map_err(|_| slow())
    }

    /// Runs a command of this program to its end, and reads its result.
    async fn run<T: DeserializeOwned>(&self, args: &[&Path]) -> Result<T> {
        let _turn = self.turn().await?;
        let failed = |e: std::io::Error| ApiError::failed(format!("cannot start a process to mount: {e}"));
        let data_dir = std::path::absolute(&self.data_dir).map_err(failed)?;
        let command = Command::new("/proc/self/exe")
            .args(args)
            .arg("--data-dir")
            .arg(data_dir)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let ended = timeout(PATIENCE, command).await.map_err(|_| slow())?.map_err(failed)?;
        let said = String::from_utf8_lossy(&ended.stderr);
        let said = said.lines().last().unwrap_or_default();
        let said = said.strip_prefix("blxrep: ").unwrap_or(said);
        match ended.status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(0) => serde_json::from_slice(&ended.stdout)
                .map_err(|e| ApiError::failed(format!("the process that mounts said what cannot be: {e}"))),
            Some(exit::USAGE) => Err(ApiError::invalid(said)),
            Some(exit::NOT_FOUND) => Err(ApiError::not_found(said)),
            Some(exit::REFUSED) => Err(ApiError::refused(said)),
            _ => Err(ApiError::failed(said)),
        }
    }
}

fn slow() -> ApiError {
    ApiError::unavailable("the kernel takes long over a mount; see `dmesg`, and ask again")
}
