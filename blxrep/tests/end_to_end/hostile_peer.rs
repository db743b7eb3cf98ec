//! Peers that speak nonsense, or another time's protocol: the dispatcher answers or hangs up, and goes on serving.
//!
//! Everything here is laid out by hand: these bytes are fixed for ever, and what the program's own code would refuse
//! to build is what must be sent.

use crate::support::process::Process;
use crate::support::site::{DONE, Site};
use crate::support::stamper::Random;
use crate::{MIB, program};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Every endpoint, with its number in a hello.
const ENDPOINTS: [(&str, u8); 4] =
    [("/ws/config", 1), ("/ws/snapshot", 2), ("/ws/live", 3), ("/ws/restore", 4)];
/// The dispatcher hangs up on a peer that makes no sense within this time.
const HANG_UP: Duration = Duration::from_secs(20);

/// A connection that was made a WebSocket, and the HTTP answer that said so or not.
fn upgrade(address: &str, path: &str) -> Result<(TcpStream, String)> {
    let mut stream = connect(address)?;
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

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(HANG_UP))?;
    stream.set_write_timeout(Some(HANG_UP))?;
    Ok(stream)
}

/// A binary WebSocket message that claims `length` bytes and carries `payload`. The mask is zero.
fn message(length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn whole(payload: &[u8]) -> Vec<u8> {
    message(payload.len() as u64, payload)
}

/// Everything that the peer still says before it ends the connection, which it must.
fn last_words(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut words = Vec::new();
    match stream.read_to_end(&mut words) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(error).with_context(|| format!("the connection was still open after {HANG_UP:?}"))
        }
        // A reset ends it as well.
        _ => Ok(words),
    }
}

/// The hello of an agent that knows the secret and offers these versions.
fn hello(site: &Site, channel: u8, versions: [u16; 2]) -> Result<Vec<u8>> {
    let secret = fs::read(site.path("secret"))?;
    let (agent, secret) = (b"stranger", secret.trim_ascii_end());
    let length = 48 + agent.len() + secret.len() + 4;
    let mut bytes = b"blxrepC\n".to_vec();
    bytes.extend(u32::try_from(length)?.to_le_bytes());
    bytes.extend(versions[0].to_le_bytes());
    bytes.extend(versions[1].to_le_bytes());
    bytes.extend([1, channel, 0, 0]);
    bytes.extend([7; 8]);
    bytes.extend([9; 16]);
    bytes.extend(u16::try_from(agent.len())?.to_le_bytes());
    bytes.extend(u16::try_from(secret.len())?.to_le_bytes());
    bytes.extend(agent);
    bytes.extend(secret);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    Ok(bytes)
}

/// The header of a frame of one kind that claims `length` bytes.
fn frame(kind: u8, length: u32) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([0; 8]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The dispatcher lives, did not panic, did not grow, and answers.
fn unharmed(site: &Site, dispatcher: &mut Process, memory_before: u64) -> Result<()> {
    ensure!(dispatcher.is_running()?, "{}", dispatcher.tail());
    ensure!(!dispatcher.output().contains("panicked"), "{}", dispatcher.tail());
    let grown = dispatcher.usage()?.peak_rss.saturating_sub(memory_before);
    ensure!(grown < 64 * MIB, "the dispatcher grew by {grown} bytes");
    site.cli(&["agents"])?.expect(DONE, &[])
}

#[test]
fn garbage_on_every_endpoint() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let mut dispatcher = site.dispatcher()?;
    let address = site.address()?;
    let memory = dispatcher.usage()?.peak_rss;
    let mut random = Random(7);
    let garbage: Vec<u8> = (0..5000).map(|_| random.next().to_le_bytes()[0]).collect();
    for (path, _) in ENDPOINTS {
        for bytes in [garbage.clone(), whole(&garbage), whole(&[]), message(4 << 30, &garbage)] {
            let (mut stream, answer) = upgrade(&address, path)?;
            ensure!(answer.starts_with("HTTP/1.1 101"), "{path}: {answer}");
            // The peer may hang up before it has read all of it.
            drop(stream.write_all(&bytes));
            drop(stream.shutdown(Shutdown::Write));
            last_words(&mut stream).context(path)?;
        }
    }
    let (_, answer) = upgrade(&address, "/ws/none")?;
    ensure!(answer.starts_with("HTTP/1.1 404"), "an unknown path: {answer}");
    let mut stream = connect(&address)?;
    drop(stream.write_all(&garbage));
    last_words(&mut stream).context("garbage instead of HTTP")?;
    unharmed(&site, &mut dispatcher, memory)?;
    site.done();
    Ok(())
}

/// The answer names the versions of both sides.
#[test]
fn a_version_from_the_future() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let mut dispatcher = site.dispatcher()?;
    let memory = dispatcher.usage()?.peak_rss;
    for (path, channel) in ENDPOINTS {
        let (mut stream, _) = upgrade(&site.address()?, path)?;
        stream.write_all(&whole(&hello(&site, channel, [900, 901])?))?;
        let words = last_words(&mut stream).context(path)?;
        let text = String::from_utf8_lossy(&words);
        ensure!(
            text.contains("protocol 900 to 901"),
            "{path}: the answer does not name the versions: {text:?}"
        );
    }
    unharmed(&site, &mut dispatcher, memory)?;
    site.done();
    Ok(())
}

/// Frames after an accepted hello that claim 4 GiB (less a sector), of every kind.
#[test]
fn a_frame_that_claims_4_gib() -> Result<()> {
    let site = Site::new(program(), "1h")?;
    let mut dispatcher = site.dispatcher()?;
    let memory = dispatcher.usage()?.peak_rss;
    for (path, channel) in ENDPOINTS {
        for kind in 1..=4 {
            let (mut stream, _) = upgrade(&site.address()?, path)?;
            stream.write_all(&whole(&hello(&site, channel, [1, u16::MAX])?))?;
            drop(stream.write_all(&whole(&frame(kind, u32::MAX - 511))));
            last_words(&mut stream).with_context(|| format!("{path}, kind {kind}"))?;
        }
    }
    unharmed(&site, &mut dispatcher, memory)?;
    site.done();
    Ok(())
}
