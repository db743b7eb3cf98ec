//! Calls of cargo, and what it says about what it built.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The cargo that runs this.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// One thing that cargo built and that can be run.
#[derive(Clone, Debug)]
pub struct Executable {
    pub package: String,
    pub target: String,
    pub kind: String,
    pub is_test: bool,
    pub path: PathBuf,
}

/// One line of `--message-format=json`; other kinds of lines lack the fields.
#[derive(Deserialize)]
struct Artifact {
    package_id: String,
    target: Target,
    profile: ArtifactProfile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct ArtifactProfile {
    test: bool,
}

/// Builds the program as it is shipped and says where it is.
pub fn build_program() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "blxrep", "--bin", "blxrep"]);
    let built = executables(&mut command)?.into_iter().find(|e| e.target == "blxrep" && !e.is_test);
    Ok(built.context("cargo built no program named blxrep")?.path)
}

/// Builds all tests and lists them.
pub fn build_tests() -> Result<Vec<Executable>> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run"]);
    Ok(executables(&mut command)?.into_iter().filter(|e| e.is_test).collect())
}

/// Runs a building command of cargo, with its progress on the terminal.
fn executables(command: &mut Command) -> Result<Vec<Executable>> {
    let command = command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let lines = String::from_utf8_lossy(&output.stdout);
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let runnable = artifacts.filter_map(|artifact| {
        Some(Executable {
            package: artifact.package_id,
            target: artifact.target.name,
            kind: artifact.target.kind.into_iter().next()?,
            is_test: artifact.profile.test,
            path: artifact.executable?,
        })
    });
    Ok(runnable.collect())
}
