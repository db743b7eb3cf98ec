//! A mounted disk with something that writes to it, under protection.

use crate::support::disk::{Disk, LoopDisk};
use crate::support::load::Load;
use crate::support::mount::{Filesystem, Mount};
use crate::support::process::Process;
use crate::support::site::{AgentHome, PointRow, Site, SyncRow};
use crate::{MIB, PATIENCE, load_time, program, summarize};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant, SystemTime};

/// xfs wants 300 MiB at least.
const BYTES: u64 = 384 * MIB;
/// What a freeze may take on a machine that is busy with other tests: only the label depends on it.
pub const RULES: &str = "max_freeze_ms: 5000\n";
/// More points than this (and than those that have a label) without one are a failure.
const MAX_MISSED: usize = 40;

/// A mounted disk that nobody protects yet. The fields are in the order in which they have to go.
pub struct Volume {
    pub mount: Mount,
    pub disk: LoopDisk,
    pub site: Site,
}

impl Volume {
    pub fn new(filesystem: Filesystem, rules: &str) -> Result<Self> {
        let site = Site::new(program(), "1h")?;
        site.add_to_policy(rules)?;
        let disk = LoopDisk::new(BYTES)?;
        filesystem.make(disk.path())?;
        let mount = Mount::new(filesystem.name(), disk.path(), "defaults")?;
        Ok(Self { mount, disk, site })
    }

    /// Writes of every kind, but few enough that what is left of them fits into a freeze.
    pub fn busy(&self) -> Result<Load> {
        Load::gentle(self.mount.path(), &self.site.logs())
    }

    /// Protects the disk while `load` writes to it, and waits for the base.
    pub fn protect<L>(self, load: L, hooks: &str) -> Result<Ward<L>> {
        let dispatcher = self.site.dispatcher()?;
        let home = self.site.agent("ward", &[(&self.disk, "disk")])?;
        home.add_to_config(hooks)?;
        let agent = home.start(&self.site, &[])?;
        self.site.wait_for_points("ward", 1, 1, PATIENCE)?;
        Ok(Ward { load, agent, _dispatcher: dispatcher, _home: home, volume: self })
    }
}

/// A protected volume and what writes to it. The fields are in the order in which they have to go.
pub struct Ward<L> {
    pub load: L,
    agent: Process,
    _dispatcher: Process,
    /// Its pins are what keeps the disk tracked.
    _home: AgentHome,
    pub volume: Volume,
}

/// Points that were asked for with one label.
#[derive(Debug, Default)]
pub struct Series {
    /// Those that are a state the disk had, in whatever way.
    pub proven: Vec<PointRow>,
    pub fuzzy: usize,
}

impl<L> Ward<L> {
    pub fn site(&self) -> &Site {
        &self.volume.site
    }

    /// A sync, and the row of the point that it made.
    pub fn sync(&self, consistency: &str) -> Result<PointRow> {
        let rows: Vec<SyncRow> =
            self.site().cli(&["sync", "ward", "--wait", "--consistency", consistency])?.parse()?;
        let point = rows[0].point.clone().with_context(|| format!("{rows:?}\n{}", self.agent.tail()))?;
        let points = self.site().points("ward")?;
        points.into_iter().find(|row| row.id == point).context("the point is not listed")
    }

    /// Syncs for half the time of a load, and until at least so many points have the label. Each that is proven, in
    /// this way or another, is judged, with the time at which it was asked for and as a disk of its own.
    pub fn series(
        &self,
        label: &str,
        least: usize,
        judge: impl Fn(&PointRow, SystemTime, &LoopDisk) -> Result<()>,
    ) -> Result<Series> {
        let (mut series, mut labelled, end) = (Series::default(), 0, Instant::now() + load_time()? / 2);
        while labelled < least || Instant::now() < end {
            let asked = SystemTime::now();
            let point = self.sync(label)?;
            if point.consistency != label {
                ensure!(!point.notes.is_empty(), "it does not say why it is not {label}: {point:?}");
                let missed = series.fuzzy + series.proven.len() - labelled;
                ensure!(missed < MAX_MISSED + labelled, "hardly any point is {label}: {point:?}");
            }
            if point.consistency == "fuzzy" {
                series.fuzzy += 1;
                continue;
            }
            labelled += usize::from(point.consistency == label);
            let copy = LoopDisk::over(self.site().restore(&point.id)?)?;
            judge(&point, asked, &copy).with_context(|| format!("{point:?}"))?;
            series.proven.push(point);
        }
        Ok(series)
    }

    /// Stops the load, unmounts, and looks at all points that were made.
    pub fn end(self, stop: impl FnOnce(L) -> Result<()>) -> Result<()> {
        stop(self.load)?;
        let Volume { mount, disk, site } = self.volume;
        mount.unmount()?;
        summarize(&site.points("ward")?)?;
        site.done();
        // The agent has it open.
        drop(self.agent);
        drop(disk);
        Ok(())
    }
}

impl Series {
    /// How long the freezes took, shortest first.
    pub fn freezes(&self) -> Result<Vec<Duration>> {
        let frozen = self.proven.iter().filter(|point| point.consistency == "frozen");
        let millis: Option<Vec<_>> = frozen.map(|point| point.freeze_ms).collect();
        let mut millis = millis.context("a frozen point says how long that took")?;
        millis.sort_unstable();
        Ok(millis.into_iter().map(Duration::from_millis).collect())
    }
}
