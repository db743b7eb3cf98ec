//! A PostgreSQL cluster of our own: never the system's, on no TCP port, stopped at the end.

use super::fixture::{run, sh, wait_for};
use super::process::Process;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where Debian keeps each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Recovery and shutdown take a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it stops it without a checkpoint.
#[derive(Debug)]
pub struct Cluster {
    server: Process,
    /// Its socket is in here, outside of the disk that its data is on.
    sockets: tempfile::TempDir,
}

impl Cluster {
    /// Makes a cluster in a new folder and starts it.
    pub fn create(data: &Path, logs: &Path) -> Result<Self> {
        own(data)?;
        // Synced, so that a point that is made from now on has it.
        let options = ["--auth=trust", "--locale=C", "--encoding=UTF8"];
        run(as_postgres("initdb")?.args(options).arg("--pgdata").arg(data))?;
        Self::start(data, logs)
    }

    /// Starts a server on a cluster that is there, and waits until it has recovered.
    pub fn start(data: &Path, logs: &Path) -> Result<Self> {
        let sockets = tempfile::tempdir()?;
        own(sockets.path())?;
        let mut command = as_postgres("postgres")?;
        command.arg("-D").arg(data).arg("-k").arg(sockets.path());
        for setting in ["listen_addresses=", "shared_buffers=16MB", "max_connections=20", "max_wal_size=64MB"]
        {
            command.args(["-c", setting]);
        }
        let name = format!("postgres-{}", sockets.path().file_name().unwrap_or_default().to_string_lossy());
        let server = Process::spawn(&name, &mut command, logs)?;
        let mut cluster = Self { server, sockets };
        let answers = wait_for("PostgreSQL answering", PATIENCE, || {
            let ended = !cluster.server.is_running()?;
            if ended { Ok(Some(false)) } else { cluster.sql("SELECT 1").map(|_| Some(true)) }
        });
        ensure!(answers.with_context(|| cluster.server.tail())?, "it has ended\n{}", cluster.server.tail());
        Ok(cluster)
    }

    /// A client that reads SQL, prints bare rows, and ends at the first error.
    pub fn client(&self) -> Command {
        let mut command = Command::new("psql");
        command.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]);
        command.args(self.address());
        command
    }

    /// What a client has to be told to get here.
    pub fn address(&self) -> [String; 3] {
        let host = format!("--host={}", self.sockets.path().display());
        [host, "--username=postgres".to_owned(), "-dpostgres".to_owned()]
    }

    pub fn sql(&self, text: &str) -> Result<String> {
        run(self.client().args(["--command", text])).with_context(|| self.server.tail())
    }

    /// Tables against their indexes, and the structure of both.
    pub fn check(&self) -> Result<()> {
        let mut command = Command::new(newest()?.join("pg_amcheck"));
        let options = ["--heapallindexed", "--parent-check", "--install-missing"];
        run(command.args(options).args(self.address())).map(drop)
    }

    /// A regular end, with a checkpoint.
    pub fn stop(mut self) -> Result<()> {
        self.server.signal(Signal::INT)?;
        self.server.succeed(PATIENCE)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGKILL would leave its shared memory behind.
        let ended = self.server.signal(Signal::QUIT).and_then(|()| self.server.wait(PATIENCE));
        if let Err(error) = ended {
            eprintln!("PostgreSQL: {error:#}");
        }
    }
}

/// The newest version that is installed.
fn newest() -> Result<PathBuf> {
    let versions = fs::read_dir(VERSIONS)
        .with_context(|| format!("{VERSIONS}: reading (is the package postgresql installed?)"))?;
    let of = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path()));
    let newest =
        versions.flatten().filter_map(of).filter(|(_, path)| path.join("bin/postgres").exists()).max();
    Ok(newest.with_context(|| format!("{VERSIONS}: no version with a server"))?.1.join("bin"))
}

/// The server refuses to be run by root.
fn as_postgres(program: &str) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(newest()?.join(program));
    Ok(command)
}

/// A folder that only the server may use, made if it is not there.
fn own(folder: &Path) -> Result<()> {
    let folder = folder.to_string_lossy();
    sh("install", &["-d", "-o", "postgres", "-g", "postgres", "-m", "0700", &folder]).map(drop)
}
