//! Wrong input gets a clear answer; nothing crashes and nothing is lost.

use crate::support::disk::LoopDisk;
use crate::support::fixture::is_root;
use crate::support::mount::Mount;
use crate::support::process::Process;
use crate::support::site::{DONE, FAILED, NOT_FOUND, Site};
use crate::support::stamper::Random;
use crate::{MIB, PATIENCE, program, require_root};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Wrong usage.
const USAGE: i32 = 2;
/// A process that refuses to start does so within this time.
const REFUSAL: Duration = Duration::from_secs(20);
const ENDPOINTS: [&str; 4] = ["/ws/config", "/ws/snapshot", "/ws/live", "/ws/restore"];

/// Runs a command that must end with an error that says one of `words`.
fn refused(name: &str, command: &mut Command, site: &Site, words: &[&str]) -> Result<()> {
    let mut process = Process::spawn(name, command, &site.logs())?;
    let status = process.wait(REFUSAL)?;
    let said = process.output().to_lowercase();
    ensure!(
        !status.success() && status.code().is_some(),
        "{name}: {status}\n{}",
        process.tail()
    );
    ensure!(!said.contains("panicked"), "{name}: a panic\n{}", process.tail());
    ensure!(
        words.iter().any(|w| said.contains(w)),
        "{name}: should say one of {words:?}\n{}",
        process.tail()
    );
    Ok(())
}

#[test]
fn commands_that_name_nothing() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let socket = site.path("data").join("control.sock");
    site.cli(&["agents"])?
        .expect(FAILED, &[&*socket.to_string_lossy()])?;
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
    for command in [
        &["restore"][..],
        &["no-such-command"],
        &["points", "--no-such-flag"],
    ] {
        site.cli(command)?.expect(USAGE, &[])?;
    }
    ensure!(site.cli(&["agents"])?.parse::<Vec<Value>>()?.is_empty());
    ensure!(
        dispatcher.terminate(REFUSAL)?.success(),
        "not a clean end\n{}",
        dispatcher.tail()
    );
    site.done();
    Ok(())
}

#[test]
fn data_directories_that_cannot_be_used() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let _dispatcher = site.dispatcher()?;
    let data = site.path("data");
    let in_use = &mut site.dispatcher_command(&data, "127.0.0.1:0");
    refused("second", in_use, &site, &[&data.to_string_lossy().to_lowercase()])?;
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
    refused(
        "open",
        &mut site.dispatcher_command(&site.path("data"), "0.0.0.0:0"),
        &site,
        &["loopback"],
    )?;
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
    fs::write(
        site.path("policies/all.yaml"),
        "name: all\nlive_sinc_frequency: 2s\ntargets: []\n",
    )?;
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
    let mut agent = home.start(&site, &[])?;
    agent.wait_for_output(&["secret", "credential"], PATIENCE)?;
    agent.kill()?;
    let known: Vec<Value> = site.cli(&["agents"])?.parse()?;
    ensure!(
        known.is_empty(),
        "an agent with a wrong secret is known: {known:?}"
    );
    ensure!(
        !agent.output().contains("not the secret"),
        "the secret is in the log"
    );

    home.secret = right;
    refused(
        "absent",
        &mut home.command(&site, &["--disk", "/dev/nothing"])?,
        &site,
        &["/dev/nothing"],
    )?;
    ensure!(dispatcher.is_running()?);
    site.done();
    Ok(())
}

/// A connection that was made a WebSocket, or the answer that it was not.
fn upgrade(address: &str, path: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        answer.push(byte[0]);
    }
    Ok((stream, String::from_utf8_lossy(&answer).into_owned()))
}

/// A masked binary WebSocket message (the mask is zero) that claims `length` bytes and carries `payload`.
fn message(length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Whether the peer ends the connection; what it says before does not matter.
fn is_closed(stream: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(error).context("the dispatcher left the connection open for 20 s")
        }
        _ => Ok(()),
    }
}

#[test]
fn garbage_on_every_endpoint() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let mut dispatcher = site.dispatcher()?;
    let address = site.address()?;
    let mut random = Random(7);
    let garbage: Vec<u8> = (0..5000).map(|_| random.next() as u8).collect();
    let before = dispatcher.usage()?.peak_rss;
    for path in ENDPOINTS {
        let longer = message(garbage.len() as u64, &garbage);
        let empty = message(0, &[]);
        let huge = message(4 << 30, &garbage);
        for bytes in [&garbage, &longer, &empty, &huge] {
            let (mut stream, answer) = upgrade(&address, path)?;
            ensure!(answer.starts_with("HTTP/1.1 101"), "{path}: {answer}");
            // The peer may close before it has read all of it.
            drop(stream.write_all(bytes));
            is_closed(&mut stream).context(path)?;
        }
    }
    let (_, answer) = upgrade(&address, "/ws/none")?;
    ensure!(answer.starts_with("HTTP/1.1 404"), "an unknown path: {answer}");
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    drop(stream.write_all(&garbage));
    is_closed(&mut stream).context("garbage instead of HTTP")?;
    ensure!(dispatcher.is_running()?, "{}", dispatcher.tail());
    ensure!(!dispatcher.output().contains("panicked"), "{}", dispatcher.tail());
    let grown = dispatcher.usage()?.peak_rss.saturating_sub(before);
    ensure!(
        grown < 64 * MIB,
        "garbage made the dispatcher grow by {grown} bytes"
    );
    site.cli(&["agents"])?.expect(DONE, &[])?;
    site.done();
    Ok(())
}
