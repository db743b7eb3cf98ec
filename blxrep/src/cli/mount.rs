//! The commands that mount points on this host: mount, umount, mounts, and the server behind them.

use super::error::CliError;
use super::table::{Table, number, text, word};
use super::{Common, DataDir, view};
use crate::api::client::Client;
use crate::api::mounts::{MountRow, MountState};
use crate::api::text::printable;
use crate::model::contents::{Access, Part};
use crate::model::part_id::PartId;
use crate::model::units::ByteCount;
use crate::mount::place;
use crate::mount::serve::{self, Control, Job};
use crate::mount::session::{Session, Word};
use crate::mount::{MountError, files};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MOUNT_EXAMPLES: &str = "\
DIR then shows `disk.img`, `partitions/<p>.img` and, for every filesystem that this kernel knows, its files under
`files/<p>`. <p> is a partition's number (0 where the disk has none) or a volume's name, as `vg0-root`. All of it is
read-only; a journal that has to be replayed first is replayed into a temporary file, so nothing in the store changes.
Only root can look into DIR.

Examples:
  mkdir /mnt/p && blxrep mount 4f0c /mnt/p
  cp -a /mnt/p/files/1/etc/nginx /root/
  blxrep umount /mnt/p";

/// Show a point's disk, partitions and files under a folder of this host
#[derive(Debug, Args)]
#[command(after_long_help = MOUNT_EXAMPLES)]
pub struct MountArgs {
    /// Id of the point, or its first digits
    point: String,
    /// An empty folder
    dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Undo `mount`, also after its server has died
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The folder that the point is mounted on
    dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// List the points that are mounted on this host
#[derive(Debug, Args)]
pub struct MountsArgs {
    #[command(flatten)]
    common: Common,
}

/// Serve one mounted point; started by `mount`
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    data_dir: DataDir,
    point: String,
    dir: PathBuf,
}

/// A point that was just mounted.
#[derive(Debug, Serialize)]
struct Mounted {
    point: String,
    directory: String,
    bytes: u64,
    parts: Vec<PartRow>,
    /// What could not be read of the disk's own tables.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PartRow {
    partition: PartId,
    start: u64,
    bytes: u64,
    kind: String,
    label: String,
    name: String,
    /// Where its files are.
    files: Option<String>,
    /// Why there are none, or what one should know about them.
    note: String,
}

pub fn mount(args: &MountArgs) -> Result<(), CliError> {
    let dir = empty_folder(&args.dir, args.common.data_dir.path())?;
    let session = Session::start(args.common.data_dir.path(), &args.point, &dir)?;
    let mut parts = Vec::new();
    for part in &session.ready.parts {
        parts.push(show(&dir, part));
    }
    let row = Mounted {
        point: session.ready.point.clone(),
        directory: dir.to_string_lossy().into_owned(),
        bytes: session.ready.disk_bytes,
        problems: session.ready.problems.clone(),
        parts,
    };
    session.keep()?;
    args.common.output().result(&row, mounted_text)
}

fn show(dir: &Path, part: &Part) -> PartRow {
    let (files, note) = match &part.access {
        Access::Never(why) => (None, why.clone()),
        Access::Mount(how) => match files::show(dir, part, how) {
            Ok(shown) => (Some(shown.folder.to_string_lossy().into_owned()), shown.note),
            Err(why) => (None, why),
        },
    };
    PartRow {
        partition: part.id.clone(),
        start: part.extents.find(0).map_or(0, |place| place.start),
        bytes: part.bytes,
        kind: part.kind.clone(),
        label: part.label.clone(),
        name: part.name.clone(),
        files,
        note,
    }
}

/// The folder to mount on, as the kernel will name it.
fn empty_folder(dir: &Path, data_dir: &Path) -> Result<PathBuf, MountError> {
    let failed = |source| MountError::Path { action: "mount on", path: dir.to_owned(), source };
    let refused = |why: &str| Err(MountError::Refused(format!("cannot mount on {}: {why}", dir.display())));
    let folder = dir.canonicalize().map_err(failed)?;
    if place::find(&folder).is_ok() {
        return refused("a point is mounted there already; `blxrep umount` it or choose another folder");
    }
    if data_dir.canonicalize().is_ok_and(|data| folder.starts_with(data)) {
        return refused("it is within the data directory of the dispatcher");
    }
    if folder.read_dir().map_err(failed)?.next().is_some() {
        return refused("it is not empty; its files would be hidden");
    }
    Ok(folder)
}

pub fn umount(args: &UmountArgs) -> Result<(), CliError> {
    let place = place::find(&args.dir)?;
    let known = MountRow::of(&place);
    place.unmount()?;
    let row = MountRow { state: MountState::Unmounted, ..known };
    args.common.output().result(&row, |row| format!("unmounted point {} from {}", row.point, row.directory))
}

pub fn mounts(args: &MountsArgs) -> Result<(), CliError> {
    let rows: Vec<MountRow> = place::all()?.iter().map(MountRow::of).collect();
    args.common.output().table(&rows, |rows| mounts_table(rows))
}

fn mounts_table(rows: &[MountRow]) -> Table {
    let headers = [word("POINT"), word("DIRECTORY"), number("PROCESS"), word("STATE"), text("FILES")];
    let mut table = Table::new("No point is mounted.", &headers);
    for row in rows {
        table.row([
            row.point.clone(),
            row.directory.clone(),
            row.process.to_string(),
            row.state.word().to_owned(),
            row.files.join(" "),
        ]);
    }
    table
}

fn mounted_text(row: &Mounted) -> String {
    let mut lines = vec![format!("point {} is mounted on {}", row.point, row.directory)];
    for part in &row.parts {
        let what = part.partition.described();
        let kind = if part.kind.is_empty() { "unknown" } else { &part.kind };
        let label = if part.label.is_empty() { String::new() } else { format!(" \"{}\"", part.label) };
        let place = part.files.as_deref().unwrap_or("no files");
        let note = if part.note.is_empty() { String::new() } else { format!(": {}", part.note) };
        lines.push(format!("{what}: {kind}{label}, {}: {place}{note}", ByteCount(part.bytes)));
    }
    lines.extend(row.problems.iter().map(|problem| format!("could not be read: {problem}")));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

/// Everything until the point is unmounted. What goes wrong is told to the command that waits at the other end.
pub async fn serve(args: ServeArgs) -> Result<(), CliError> {
    let not_from_mount = |e| CliError::Usage(format!("this is started by `blxrep mount`, not by hand: {e}"));
    let mut control = Control::take().map_err(not_from_mount)?;
    match open(&args).await {
        Ok(job) => serve::serve(control, job),
        Err(error) => control.say(&Word::Failed(error.to_string())),
    }
    Ok(())
}

async fn open(args: &ServeArgs) -> Result<Job, CliError> {
    let client = Client::new(args.data_dir.path());
    let view = view::open(&client, &args.point).await?;
    let chain = view.chain.files(client.data_dir()).map_err(|e| CliError::Failed(e.to_string()))?;
    Ok(Job {
        point: view.chain.point.to_string(),
        reader: view.reader,
        chain,
        at: SystemTime::now(),
        dir: args.dir.clone(),
    })
}
