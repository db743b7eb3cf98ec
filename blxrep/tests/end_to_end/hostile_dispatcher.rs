//! A dispatcher that is not to be trusted sends files: nothing of it gets out of the folder that the agent allows.

use crate::support::fixture::sh;
use crate::support::site::Site;
use crate::{program, require_root};
use anyhow::{Context, Result, bail, ensure};
use blxrep::archive::stream::MAGIC;
use blxrep::io::channel::{Connection, Incoming, Listener};
use blxrep::model::encoding::Encoding;
use blxrep::model::ids::{ActionId, PointId, StoreId};
use blxrep::model::restoration::{Conflict, FilesTarget, Restoration, Target};
use blxrep::wire::frame::{Data, HEADER_BYTES};
use blxrep::wire::hello::{Accepted, Channel};
use blxrep::wire::{config, restore};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// The agent connects and answers within this time.
const PATIENCE: Duration = Duration::from_secs(30);

const FOLDER: u8 = 1;
const FILE: u8 = 2;
const LINK: u8 = 3;
const SYMLINK: u8 = 4;

/// A stream of files by hand: what the program's own code would refuse to build is what must be sent.
struct Stream {
    bytes: Vec<u8>,
    position: u64,
    entries: u64,
    data: u64,
}

impl Stream {
    fn new() -> Self {
        Self { bytes: MAGIC.to_vec(), position: 0, entries: 0, data: 0 }
    }

    fn record(mut self, kind: u8, payload: &[u8]) -> Self {
        let crc = crc32c::crc32c(&self.position.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &[kind]);
        let crc = crc32c::crc32c_append(crc, &(payload.len() as u64).to_le_bytes());
        let crc = crc32c::crc32c_append(crc, payload);
        self.bytes.push(kind);
        self.bytes.extend((payload.len() as u32).to_le_bytes());
        self.bytes.extend(crc.to_le_bytes());
        self.bytes.extend(payload);
        self.position += 1;
        self
    }

    fn entry(mut self, kind: u8, name: &[u8], tail: &[u8]) -> Self {
        let mut payload = vec![kind];
        payload.extend([0; 8]);
        payload.extend(0o755u32.to_le_bytes());
        payload.extend([0; 8 + 12 + 12]);
        payload.extend((name.len() as u16).to_le_bytes());
        payload.extend([name, tail, &[0, 0]].concat());
        self.entries += 1;
        self.record(1, &payload)
    }

    fn folder(self, name: &[u8]) -> Self {
        self.entry(FOLDER, name, &[1])
    }

    fn symlink(self, name: &[u8], target: &Path) -> Self {
        let target = target.as_os_str().as_encoded_bytes();
        self.entry(SYMLINK, name, &[&(target.len() as u16).to_le_bytes(), target].concat())
    }

    fn file(self, name: &[u8]) -> Self {
        let mut file = self.entry(FILE, name, &4u64.to_le_bytes());
        file.data += 4;
        file.record(2, &[&[0; 8][..], b"evil"].concat()).record(3, &[])
    }

    fn end(self) -> Vec<u8> {
        let end = [self.entries.to_le_bytes(), self.data.to_le_bytes()].concat();
        self.record(6, &end).bytes
    }
}

/// What the agent said of one restore: `None` is that it has done it.
type Verdict = Option<String>;

type Config = Connection<config::ToAgent, config::ToDispatcher>;

/// A dispatcher that lets everybody in.
struct Hostile {
    listener: Listener,
    config: Config,
    action: u64,
}

impl Hostile {
    async fn wait_for_agent(listener: Listener) -> Result<Self> {
        let config = accept(&listener, Channel::Config).await?;
        Ok(Self { listener, config, action: 0 })
    }

    /// Has the agent restore this.
    async fn send(&mut self, folder: &Path, conflict: Conflict, stream: &[u8]) -> Result<Verdict> {
        self.action += 1;
        let action = ActionId(self.action);
        let folder = folder.to_string_lossy().into_owned();
        let target = Target::Files(FilesTarget { folder, conflict, dry_run: false });
        let restoration = Restoration { point: PointId(1), target, agreed: None };
        self.config
            .sender
            .send_control(&config::ToAgent::Restore { action, restoration, touched: false })
            .await?;
        let (refused, done) = (told(&mut self.config, action), carry(&self.listener, stream));
        tokio::select! {
            refused = refused => refused.map(Some),
            done = done => done,
        }
    }
}

/// That the action has failed, on the config connection.
async fn told(config: &mut Config, failed: ActionId) -> Result<String> {
    loop {
        match timeout(PATIENCE, config.receiver.recv()).await.context("no word of the agent")?? {
            Incoming::Control(config::ToDispatcher::Action { action, reason, .. }) if action == failed => {
                return Ok(reason);
            }
            Incoming::Closed { reason } => bail!("the agent left: {reason}"),
            _ => {}
        }
    }
}

async fn accept<S, R>(listener: &Listener, channel: Channel) -> Result<Connection<S, R>>
where
    S: serde::Serialize,
    R: serde::de::DeserializeOwned,
{
    loop {
        let pending = listener.accept().await?.hello().await?;
        let session = pending.hello.session;
        if pending.hello.channel == channel {
            let accepted =
                Accepted { version: 1, boot_id: [2; 16], store: StoreId(5), session, kept: Vec::new() };
            return Ok(pending.accept(accepted).await?);
        }
    }
}

/// Serves one connection for files.
async fn carry(listener: &Listener, stream: &[u8]) -> Result<Verdict> {
    type Link = Connection<restore::ToAgent, restore::ToDispatcher>;
    let mut link: Link = accept(listener, Channel::Restore).await?;
    link.sender.send_control(&restore::ToAgent::Files { partitions: 1, again: false }).await?;
    let mut stream = stream.to_vec();
    stream.resize(stream.len().next_multiple_of(512), 0);
    for (at, piece) in (0u64..).step_by(4096).zip(stream.chunks(4096)) {
        let mut message = vec![0; HEADER_BYTES];
        message.extend(piece);
        let raw_length = u32::try_from(piece.len())?;
        Data { encoding: Encoding::Raw, offset: at, raw_length }.seal(&mut message)?;
        link.sender.send_data(message.into()).await?;
    }
    link.sender.send_end().await?;
    loop {
        match timeout(PATIENCE, link.receiver.recv()).await.context("no word of the agent")?? {
            Incoming::Control(restore::ToDispatcher::Failed { reason }) => return Ok(Some(reason)),
            Incoming::Control(restore::ToDispatcher::Restored) => {
                link.sender.send_control(&restore::ToAgent::Noted).await?;
                return Ok(None);
            }
            Incoming::Closed { reason } => bail!("the agent left: {reason}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn nothing_gets_out_of_the_folder_that_is_allowed() -> Result<()> {
    require_root!();
    let site = Site::new(program(), "1h")?;
    let (allowed, outside) = (site.path("allowed"), site.path("outside"));
    fs::create_dir_all(allowed.join("sub"))?;
    fs::create_dir(&outside)?;
    symlink(&outside, allowed.join("planted"))?;
    let listener = Listener::bind("127.0.0.1:0".parse()?).await?;
    let mut home = site.agent("victim", &[])?;
    home.add_to_config(&format!("    []\n  restore: {{paths: [{}]}}\n", allowed.display()))?;
    home.connect_to(listener.local_addr()?.to_string());
    let mut agent = home.launch(&site, &[])?;
    let hostile = timeout(PATIENCE, Hostile::wait_for_agent(listener)).await;
    let mut hostile = hostile.with_context(|| agent.tail())??;
    for target in
        [&outside, &allowed.join("../outside"), &allowed.join("planted"), &allowed.join("planted/x")]
    {
        let stream = Stream::new().file(b"evil").end();
        let said = hostile.send(target, Conflict::Overwrite, &stream).await?.context("it was not refused")?;
        ensure!(said.contains("not among what restores may write to"), "{said}");
    }
    forbidden_names(&mut hostile, &allowed).await?;
    links(&mut hostile, &allowed, &outside).await?;
    ensure!(fs::read_dir(&outside)?.next().is_none(), "something got out");
    let found =
        sh("find", &[&site.path("").to_string_lossy(), "-name", "*evil*", "-not", "-path", "*/allowed/*"])?;
    ensure!(found.is_empty(), "something got out: {found}");
    ensure!(agent.is_running()? && !agent.output().contains("panicked"), "{}", agent.tail());
    site.done();
    drop(home.pins().clear());
    Ok(())
}

async fn forbidden_names(hostile: &mut Hostile, allowed: &Path) -> Result<()> {
    let long = [b'n'; 256];
    let names: [&[u8]; 9] =
        [b"..", b".", b"", b"../evil", b"/evil", b"sub/evil", b"evil\0", b"..\0", long.as_slice()];
    for name in names {
        for stream in [Stream::new().file(name), Stream::new().folder(name).file(b"evil").record(4, &[])] {
            let said = hostile.send(allowed, Conflict::Overwrite, &stream.end()).await?;
            let said = said.with_context(|| format!("{name:?} was taken"))?;
            ensure!(said.contains("the stream of files cannot be used"), "{name:?}: {said}");
        }
    }
    // Strange, and right.
    let names = [b"\xff\xfe evil".as_slice(), b"-evil", &[b'n'; 255]];
    let stream = names.into_iter().fold(Stream::new(), |stream, name| stream.file(name));
    ensure!(hostile.send(allowed, Conflict::Skip, &stream.end()).await?.is_none());
    for broken in [&b"garbage"[..], &[], &MAGIC, &Stream::new().record(4, &[]).end()] {
        ensure!(hostile.send(allowed, Conflict::Skip, broken).await?.is_some(), "{broken:?}");
    }
    Ok(())
}

/// Links that are there, and links that come in the stream itself.
async fn links(hostile: &mut Hostile, allowed: &Path, outside: &Path) -> Result<()> {
    for conflict in [Conflict::Skip, Conflict::Rename, Conflict::Overwrite] {
        let through = |stream: Stream, name: &[u8]| stream.folder(name).file(b"evil").record(4, &[]).end();
        let planted = through(Stream::new(), b"planted");
        hostile.send(allowed, conflict, &planted).await?;
        let own = through(Stream::new().symlink(b"own", outside), b"own");
        hostile.send(allowed, conflict, &own).await?;
        let over = Stream::new().symlink(b"file", &outside.join("evil")).file(b"file").end();
        hostile.send(allowed, conflict, &over).await?;
        let hard = Stream::new().entry(LINK, b"hard", &7u64.to_le_bytes()).end();
        ensure!(hostile.send(allowed, conflict, &hard).await?.is_some(), "a link to nothing was taken");
        ensure!(fs::read_dir(outside)?.next().is_none(), "{conflict:?}: something got out");
    }
    Ok(())
}
