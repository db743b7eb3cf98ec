//! Wrong input gets a clear answer; nothing crashes and nothing is lost.

use crate::support::disk::LoopDisk;
use crate::support::fixture::is_root;
use crate::support::mount::Mount;
use crate::support::process::Process;
use crate::support::site::{DONE, FAILED, NOT_FOUND, Site};
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Wrong usage.
const USAGE: i32 = 2;
/// A process that refuses to start does so within this time.
const REFUSAL: Duration = Duration::from_secs(20);

/// Runs a command that must end with an error that says one of `words`.
fn refused(name: &str, command: &mut Command, site: &Site, words: &[&str]) -> Result<()> {
    let mut process = Process::spawn(name, command, &site.logs())?;
    let status = process.wait(REFUSAL)?;
    let said = process.output().to_lowercase();
    ensure!(!status.success() && status.code().is_some(), "{name}: {status}\n{}", process.tail());
    ensure!(!said.contains("panicked"), "{name}: a panic\n{}", process.tail());
    ensure!(
        words.iter().any(|w| said.contains(&w.to_lowercase())),
        "{name}: should say one of {words:?}\n{}",
        process.tail()
    );
    Ok(())
}

#[test]
fn commands_that_name_nothing() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let socket = site.path("data").join("control.sock");
    site.cli(&["agents"])?.expect(FAILED, &[&*socket.to_string_lossy()])?;
    let mut dispatcher = site.dispatcher()?;
    let target = site.path("restored/x").to_string_lossy().into_owned();
    for command in [
        &["snapshot", "nobody", "/dev/nothing"][..],
        &["sync", "nobody", "--wait"],
        &["restore", "ffffffffffffffff", "--to", &target, "--yes"],
        &["verify", "ffffffffffffffff"],
        &["pause", "ffffffffffffffff"],
        &["resume", "ffffffffffffffff"],
        &["cancel", "ffffffffffffffff"],
    ] {
        site.cli(command)?.expect(NOT_FOUND, &[command[1]])?;
    }
    for command in [&["restore"][..], &["no-such-command"], &["points", "--no-such-flag"]] {
        site.cli(command)?.expect(USAGE, &[])?;
    }
    ensure!(site.agents()?.is_empty());
    ensure!(dispatcher.terminate(REFUSAL)?.success(), "not a clean end\n{}", dispatcher.tail());
    site.done();
    Ok(())
}

#[test]
fn data_directories_that_cannot_be_used() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let _dispatcher = site.dispatcher()?;
    let data = site.path("data");
    let in_use = &mut site.dispatcher_command(&data, "127.0.0.1:0");
    refused("second", in_use, &site, &[&data.to_string_lossy()])?;
    site.cli(&["agents"])?.expect(DONE, &[])?;
    let file = site.path("secret");
    refused(
        "file",
        &mut site.dispatcher_command(&file, "127.0.0.1:0"),
        &site,
        &["not a directory", "secret"],
    )?;
    let (locked, _mount) = if is_root() {
        let mount = Mount::new("tmpfs", Path::new("tmpfs"), "ro")?;
        (mount.path().to_owned(), Some(mount))
    } else {
        let folder = site.path("locked");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555))?;
        (folder, None)
    };
    refused(
        "read-only",
        &mut site.dispatcher_command(&locked, "127.0.0.1:0"),
        &site,
        &["read-only", "permission denied", "not writable"],
    )?;
    site.done();
    Ok(())
}

#[test]
fn an_address_that_is_not_loopback() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    refused("open", &mut site.dispatcher_command(&site.path("data"), "0.0.0.0:0"), &site, &["loopback"])?;
    site.done();
    Ok(())
}

#[test]
fn a_secret_that_others_can_read() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o644))?;
    let mut command = site.dispatcher_command(&site.path("data"), "127.0.0.1:0");
    refused("readable", &mut command, &site, &["chmod 600"])?;
    site.done();
    Ok(())
}

#[test]
fn a_policy_with_a_key_that_nobody_knows() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    fs::write(site.path("policies/all.yaml"), "name: all\nlive_sinc_frequency: 2s\ntargets: []\n")?;
    let mut command = site.dispatcher_command(&site.path("data"), "127.0.0.1:0");
    refused("policy", &mut command, &site, &["live_sinc_frequency"])?;
    site.done();
    Ok(())
}

#[test]
fn a_wrong_secret_and_a_disk_that_is_not_there() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let mut dispatcher = site.dispatcher()?;
    let disk = LoopDisk::new(16 * MIB)?;
    let mut home = site.agent("stranger", &[(&disk, "disk")])?;
    fs::write(site.path("other"), "not the secret of this site\n")?;
    fs::set_permissions(site.path("other"), fs::Permissions::from_mode(0o600))?;
    let right = std::mem::replace(&mut home.secret, site.path("other"));
    let mut agent = home.launch(&site, &[])?;
    agent.wait_for_output(&["secret", "credential"], PATIENCE)?;
    agent.kill()?;
    let known = site.agents()?;
    ensure!(known.is_empty(), "an agent with a wrong secret is known: {known:?}");
    ensure!(!agent.output().contains("not the secret"), "the secret is in the log");

    home.secret = right;
    refused("absent", &mut home.command(&site, &["--disk", "/dev/nothing"])?, &site, &["/dev/nothing"])?;
    ensure!(dispatcher.is_running()?);
    site.done();
    Ok(())
}
