//! Two disks with partitions, protected: a GPT with ext4, xfs, btrfs and swap, and an MBR with logical partitions.

use crate::everything;
use crate::support::disk::{Disk, LoopDisk, Slice};
use crate::support::fixture::{run, sh, unique};
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::site::{AgentHome, Site};
use crate::{MIB, PATIENCE, program};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

const AGENT: &str = "files";

/// One partition with files.
pub struct Volume {
    /// Of the disk with this position.
    pub disk: usize,
    pub number: u32,
    pub filesystem: Filesystem,
    /// Bytes of the disk.
    pub range: Range<u64>,
    pub slice: Slice,
}

impl Volume {
    /// Mounts the filesystem, with these options.
    pub fn mount(&self, options: &str) -> Result<Mount> {
        Mount::new(self.filesystem.name(), self.slice.path(), options)
    }
}

/// The fields are in the order in which they have to go.
pub struct Scene {
    agent: Option<Process>,
    dispatcher: Process,
    home: AgentHome,
    pub volumes: Vec<Volume>,
    pub disks: Vec<LoopDisk>,
    pub site: Site,
}

/// Partition numbers, first and size in MiB, and filesystems of each disk.
type Plan = (u64, &'static str, &'static [(u32, u64, u64, Filesystem)]);
const PLANS: [Plan; 2] = [
    (
        520,
        "label: gpt\nstart=2048, size=131072\nstart=133120, size=655360\nstart=788480, size=229376\n\
         start=1017856, size=16384, type=S\n",
        &[(1, 1, 64, Filesystem::Ext4), (2, 65, 320, Filesystem::Xfs), (3, 385, 112, Filesystem::Btrfs)],
    ),
    (
        130,
        "label: dos\nstart=2048, size=131072\nstart=133120, size=131072, type=5\nstart=135168, size=126976\n",
        &[(1, 1, 64, Filesystem::Ext4), (5, 66, 62, Filesystem::Ext4)],
    ),
];

impl Scene {
    /// Protected disks whose filesystems are empty; each has a base.
    pub fn new() -> Result<Self> {
        Self::with(|_| Ok(()))
    }

    /// The same, where `fill` did something to each filesystem before the base was made.
    pub fn with(fill: impl Fn(&Volume) -> Result<()>) -> Result<Self> {
        let site = Site::new(program(), "1h")?;
        let mut disks = Vec::new();
        let mut volumes = Vec::new();
        for (index, (size, table, parts)) in PLANS.iter().enumerate() {
            let disk = LoopDisk::new(size * MIB)?;
            partition(&disk, table)?;
            for (number, start, bytes, filesystem) in *parts {
                let slice = Slice::of(&disk, start * MIB, bytes * MIB)?;
                filesystem.make(slice.path())?;
                let range = start * MIB..(start + bytes) * MIB;
                let volume = Volume { disk: index, number: *number, filesystem: *filesystem, range, slice };
                fill(&volume)?;
                volumes.push(volume);
            }
            disks.push(disk);
        }
        let swap = Slice::of(&disks[0], 497 * MIB, 8 * MIB)?;
        sh("mkswap", &[&swap.name()])?;
        drop(swap);
        let dispatcher = site.dispatcher()?;
        let home = site.agent(AGENT, &[(&disks[0], "gpt"), (&disks[1], "mbr")])?;
        let agent = Some(home.start(&site, &[])?);
        site.wait_for_points(AGENT, 2, 1, PATIENCE)?;
        Ok(Self { agent, dispatcher, home, volumes, disks, site })
    }

    /// Mounts every filesystem, with these options.
    pub fn mount(&self, options: &str) -> Result<Vec<Mount>> {
        self.volumes.iter().map(|volume| volume.mount(options)).collect()
    }

    /// A point of each disk, now, in the order of the disks.
    pub fn sync(&self) -> Result<Vec<String>> {
        let rows = self.site.sync(AGENT)?;
        self.of_disks(|name| rows.iter().find(|row| row.device == name)?.point.clone())
    }

    /// The first point of each disk, in the order of the disks.
    pub fn bases(&self) -> Result<Vec<String>> {
        let points = self.site.points(AGENT)?;
        let base = |name: &str| points.iter().find(|p| p.kind == "base" && p.device == name);
        self.of_disks(|name| Some(base(name)?.id.clone()))
    }

    fn of_disks(&self, point: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        self.disks.iter().map(|disk| point(&disk.name()).context("a disk without a point")).collect()
    }

    /// Runs a command of the program against this dispatcher.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).arg("--data-dir").arg(self.site.path("data"));
        command
    }

    /// A fresh folder of the site.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.site.path(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// The disks get no more points.
    pub fn stop_agent(&mut self) {
        drop(self.agent.take());
    }

    /// Starts the agent anew, with more lines in its section of the configuration.
    pub fn restart_agent(&mut self, lines: &str) -> Result<()> {
        self.stop_agent();
        self.home.add_to_config(lines)?;
        self.agent = Some(self.home.start(&self.site, &[])?);
        Ok(())
    }

    /// Nothing of it may be left then.
    pub fn stop_dispatcher(&mut self) -> Result<()> {
        self.dispatcher.terminate(PATIENCE).map(drop)
    }

    /// Digests of all that the dispatcher has stored.
    pub fn stored(&self) -> Result<BTreeMap<PathBuf, blake3::Hash>> {
        let mut found = BTreeMap::new();
        for folder in ["snapshot", "incremental", "quarantine"] {
            hash(&self.site.path("data").join(folder), &mut found)?;
        }
        ensure!(found.len() >= 4, "less stored than there must be: {found:?}");
        Ok(found)
    }

    /// The tree with everything on every filesystem, which is mounted.
    pub fn fill(&self, mounts: &[Mount]) -> Result<()> {
        mounts.iter().try_for_each(|mount| everything::make(mount.path()))
    }

    pub fn done(mut self) {
        self.site.done();
        self.stop_agent();
        drop(self.home.pins().clear());
    }
}

fn partition(disk: &LoopDisk, table: &str) -> Result<()> {
    let file = std::env::temp_dir().join(unique() + ".sfdisk");
    fs::write(&file, table)?;
    let script = "sfdisk --quiet --no-reread --no-tell-kernel \"$0\" < \"$1\"";
    let result = run(Command::new("sh").args(["-c", script]).arg(disk.path()).arg(&file));
    fs::remove_file(&file)?;
    result.map(drop)
}

fn hash(folder: &Path, found: &mut BTreeMap<PathBuf, blake3::Hash>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            hash(&path, found)?;
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(fs::File::open(&path)?)?;
            found.insert(path, hasher.finalize());
        }
    }
    Ok(())
}
