//! `blxrep export`: a point as a file, or as a network block device.

use super::error::CliError;
use super::follow::interrupts;
use super::nbd::{Address, Serving, serve};
use super::output::{ask, say};
use super::view::{self, PointView};
use super::{Common, DataDir};
use crate::api::chain::PointChain;
use crate::api::client::Client;
use crate::api::error::ApiError;
use crate::api::text::percent;
use crate::io::signals::Stop;
use crate::io::storage::{Access, DataFile, Storage, StorageError};
use crate::model::contents::NoPart;
use crate::model::part_id::PartId;
use crate::model::units::ByteCount;
use crate::mount::session::send;
use crate::view::copy::{CopyError, Target, copy};
use crate::view::part::{PartError, PartReader};
use clap::{ArgGroup, Args, ValueEnum};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const EXAMPLES: &str = "\
The point is read on this host, as it is; nothing of the store is changed. With --writable, what clients write is kept
in a file without a name and is gone when the export ends.

Examples:
  blxrep export 4f0c --to /srv/web1-sda.qcow2 --format qcow2
  blxrep export 4f0c --nbd unix:/run/web1.sock
  blxrep export 4f0c --nbd 127.0.0.1:10809 --writable
  blxrep export 4f0c --partition 1 --to /srv/web1-boot.img
  blxrep export 4f0c --partition vg0-root --to /srv/web1-root.img";

/// Between two looks at how far a copy is.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Where what is written over a point is kept unless --scratch or TMPDIR says otherwise: /tmp is often memory.
const SCRATCH: &str = "/var/tmp";
/// How much that is at most, unless --scratch-limit says otherwise: a system that boots writes less.
const SCRATCH_LIMIT: &str = "8GiB";

/// Serve a point as a network block device, or copy it to an image file
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, group = ArgGroup::new("where").required(true))]
pub struct ExportArgs {
    /// Id of the point, or its first digits
    point: String,
    /// Serve it here until interrupted: unix:PATH or a loopback HOST:PORT
    #[arg(long, value_name = "ADDRESS", group = "where")]
    nbd: Option<Address>,
    /// Copy it to this file
    #[arg(long, value_name = "FILE", group = "where", conflicts_with_all = ["writable", "scratch", "scratch_limit"])]
    to: Option<PathBuf>,
    /// What the file becomes
    #[arg(long, value_enum, default_value = "raw", conflicts_with = "nbd")]
    format: Format,
    /// Only this partition of the disk, by its number, or this volume, by its name; 0 is the whole disk
    #[arg(long, value_name = "PARTITION", default_value_t = PartId::DISK)]
    partition: PartId,
    /// Let clients write; the point stays as it is
    #[arg(long)]
    writable: bool,
    /// Folder on whose filesystem what clients write is kept [default: $TMPDIR or /var/tmp]
    #[arg(long, value_name = "DIR", requires = "writable")]
    scratch: Option<PathBuf>,
    /// How much clients may write
    #[arg(long, value_name = "SIZE", default_value = SCRATCH_LIMIT, value_parser = size, requires = "writable")]
    scratch_limit: u64,
    /// Replace the file if there is one
    #[arg(long, conflicts_with = "nbd")]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The bytes of the disk, zeroes as holes
    Raw,
    /// An image of QEMU's, without compression
    Qcow2,
}

fn size(text: &str) -> Result<u64, String> {
    crate::config::quantity::bytes(text, 1).ok_or_else(|| format!("`{text}` is no size: write it as `8GiB`"))
}

/// What clients write, and where it is kept.
#[derive(Debug)]
pub struct ScratchPlan {
    pub folder: PathBuf,
    pub limit: u64,
}

pub async fn export(args: ExportArgs) -> Result<(), CliError> {
    let client = args.common.client();
    match (&args.nbd, &args.to) {
        (Some(address), _) => {
            let (chain, part) = open(&client, &args.point, &args.partition).await?;
            let scratch = args.writable.then(|| ScratchPlan {
                folder: args.scratch.clone().unwrap_or_else(scratch_folder),
                limit: args.scratch_limit,
            });
            // From here on a signal ends this in order, so that no socket is left behind.
            let stop = Stop::listen().map_err(CliError::Runtime)?;
            let output = args.common.output();
            serve(&chain, part, address, scratch, stop, |serving| output.result(serving, serving_text)).await
        }
        (None, Some(to)) => {
            let unfinished = unfinished_name(to, args.common.data_dir.path())?;
            let replaces = may_replace(to, args.yes)?;
            let (_, part) = open(&client, &args.point, &args.partition).await?;
            let plan = CopyPlan { to: to.clone(), unfinished, replaces, format: args.format };
            let done = copy_out(part, plan).await?;
            args.common.output().result(&done, |done| {
                format!("{}: {}, of them {} data", done.file, ByteCount(done.bytes), ByteCount(done.data))
            })
        }
        (None, None) => Err(CliError::Usage("say where to export to: --nbd ADDRESS or --to FILE".into())),
    }
}

fn serving_text(serving: &Serving) -> String {
    let how = if serving.writable { "to read and write; what is written is not kept" } else { "read-only" };
    format!("{} serves {}, {how}; Ctrl-C ends it", serving.uri, ByteCount(serving.bytes))
}

/// Serve a point for the dispatcher that started this
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    data_dir: DataDir,
    #[arg(long, default_value_t = PartId::DISK)]
    partition: PartId,
    #[arg(long)]
    writable: bool,
    point: String,
    address: String,
}

/// Everything until standard input ends. The first line of the output says where it serves, or why it does not.
pub async fn serve_for_dispatcher(args: ServeArgs) -> Result<(), CliError> {
    let told =
        |said: std::result::Result<&Serving, ApiError>| send(io::stdout(), &said).map_err(CliError::Output);
    let served = async {
        let mut stop = Stop::listen_with_input().map_err(CliError::Input)?;
        let address: Address = args.address.parse().map_err(CliError::Usage)?;
        let client = Client::new(args.data_dir.path());
        let (chain, part) = tokio::select! {
            opened = open(&client, &args.point, &args.partition) => opened?,
            // Nobody is there to be told. A thread that still reads ends with the process.
            () = stop.requested() => return Ok(()),
        };
        let limit = size(SCRATCH_LIMIT).map_err(CliError::Usage)?;
        let scratch = args.writable.then(|| ScratchPlan { folder: scratch_folder(), limit });
        serve(&chain, part, &address, scratch, stop, |serving| told(Ok(serving))).await
    };
    served.await.or_else(|error| told(Err(error.into())))
}

fn scratch_folder() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from(SCRATCH), PathBuf::from)
}

/// Opens a point, and the part of it that is meant. Cancel-safe: what reads is a thread.
async fn open(client: &Client, point: &str, part: &PartId) -> Result<(PointChain, PartReader), CliError> {
    let PointView { chain, reader } = view::open(client, point).await?;
    let part = part.clone();
    let opened = tokio::task::spawn_blocking(move || PartReader::open(reader, &part));
    let opened = opened.await.map_err(|e| CliError::Failed(e.to_string()))?;
    let part = opened.map_err(|error| match error {
        PartError::View(error) => CliError::Failed(format!("cannot read what is on the disk: {error}")),
        PartError::None(none @ NoPart::Unknown { .. }) => CliError::Usage(format!("the point has {none}")),
        PartError::None(none) => CliError::Refused(format!("the point has {none}")),
    })?;
    Ok((chain, part))
}

/// What came of a copy.
#[derive(Debug, Serialize)]
struct Copied {
    file: String,
    bytes: u64,
    /// Bytes that are not known to be zero.
    data: u64,
}

#[derive(Debug)]
struct CopyPlan {
    to: PathBuf,
    unfinished: PathBuf,
    replaces: bool,
    format: Format,
}

/// The name beside `to` under which the file grows; refuses files within the store.
fn unfinished_name(to: &Path, data_dir: &Path) -> Result<PathBuf, CliError> {
    let refuse = |why: &str| Err(CliError::Refused(format!("cannot export to {}: {why}", to.display())));
    let Some(name) = to.file_name() else { return refuse("it names no file") };
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(folder) = folder.canonicalize() else { return refuse("its folder does not exist") };
    if data_dir.canonicalize().is_ok_and(|store| folder.starts_with(store)) {
        return refuse("it is within the data directory of the dispatcher");
    }
    if folder.starts_with("/dev") && !folder.starts_with("/dev/shm") {
        return refuse("/dev is memory; `blxrep restore` writes to devices");
    }
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(".blxrep.part");
    Ok(folder.join(unfinished))
}

/// Whether there is a file to replace, which a person has agreed to.
fn may_replace(to: &Path, yes: bool) -> Result<bool, CliError> {
    let Ok(found) = std::fs::symlink_metadata(to) else { return Ok(false) };
    if !found.is_file() {
        let what = format!("{} is no file; `blxrep restore` writes to devices", to.display());
        return Err(CliError::Refused(what));
    }
    let what = format!("the file {} exists and would be replaced", to.display());
    match yes || ask(&format!("{what}. Replace it?"))?.unwrap_or(false) {
        true => Ok(true),
        false => Err(CliError::Refused(format!("{what}; give --yes to replace it"))),
    }
}

async fn copy_out(mut part: PartReader, plan: CopyPlan) -> Result<Copied, CliError> {
    let mut interrupts = interrupts()?;
    let total = part.bytes();
    let state = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
    let shared = Arc::clone(&state);
    let mut copying = tokio::task::spawn_blocking(move || write_out(&mut part, &plan, &shared.0, &shared.1));
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.tick().await;
    loop {
        tokio::select! {
            done = &mut copying => {
                return done.map_err(|e| CliError::Failed(e.to_string()))?;
            }
            _ = interrupts.recv() => state.1.store(true, Ordering::Relaxed),
            _ = ticks.tick() => {
                let done = state.0.load(Ordering::Relaxed);
                let part = percent(done, total).map(|p| format!("{p} % ")).unwrap_or_default();
                say(&format!("export: {part}{} of {}", ByteCount(done), ByteCount(total)));
            }
        }
    }
}

fn write_out(
    part: &mut PartReader,
    plan: &CopyPlan,
    done: &AtomicU64,
    cancel: &AtomicBool,
) -> Result<Copied, CliError> {
    let storage = Storage::default();
    let file = create(&storage, plan)?;
    let bytes = part.bytes();
    let written = match plan.format {
        Format::Raw => Target::raw(file, bytes),
        Format::Qcow2 => Ok(Target::qcow2(file, bytes)),
    }
    .and_then(|target| {
        copy(part, target, |at| {
            done.store(at, Ordering::Relaxed);
            !cancel.load(Ordering::Relaxed)
        })
    });
    let data = match written {
        Ok(data) => data,
        Err(error) => {
            // What is there is incomplete whether or not it can be removed; its name says so.
            let _ = storage.remove(&plan.unfinished);
            return Err(match error {
                CopyError::Cancelled => CliError::Interrupted("not exported: nothing is left of it".into()),
                other => CliError::Failed(format!("cannot export to {}: {other}", plan.to.display())),
            });
        }
    };
    let named = match plan.replaces {
        true => storage.rename(&plan.unfinished, &plan.to),
        false => storage.rename_new(&plan.unfinished, &plan.to),
    };
    named
        .and_then(|()| storage.sync_dir(plan.unfinished.parent().unwrap_or(Path::new("."))))
        .map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(Copied { file: plan.to.display().to_string(), bytes, data })
}

fn create(storage: &Storage, plan: &CopyPlan) -> Result<DataFile, CliError> {
    storage.open(&plan.unfinished, Access::Create).map_err(|error: StorageError| match error.source.kind() {
        std::io::ErrorKind::AlreadyExists => CliError::Refused(format!(
            "cannot export to {}: an export to it runs or was interrupted; if none runs, remove {}",
            plan.to.display(),
            plan.unfinished.display()
        )),
        _ => CliError::Failed(error.to_string()),
    })
}
