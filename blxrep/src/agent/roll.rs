//! The disks of this host: which there are, which are offered, and which are tracked.

use super::settings::Settings;
use super::unit::Unit;
use crate::io::host::{self, HostError, HostOptions, Inventory};
use crate::io::random;
use crate::io::source::DiskSource;
use crate::io::tracker::{Attach, DiskSpec, Tracker, TrackerError};
use crate::model::host::Footprint;
use crate::model::ids::{DiskIdentity, Epoch};
use crate::model::selection::{Candidate, select};
use crate::wire::config::Offer;
use crate::wire::hello::{Accepted, KeptDisk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Everything the agent knows of its disks. The tracker is shared with the threads that it blocks.
#[derive(Debug)]
pub struct Roll {
    tracker: Arc<Mutex<Tracker>>,
    host: HostOptions,
    /// Disks are read at idle I/O priority.
    idle_io: bool,
    /// Disks that were named; all that are offered by default if there are none.
    named: Vec<PathBuf>,
    boot_id: [u8; 16],
    boot_id_text: String,
    /// Disks below the data directory of a dispatcher on this machine.
    kept: Vec<KeptDisk>,
    offered: Vec<Candidate>,
    units: BTreeMap<DiskIdentity, Arc<Unit>>,
    /// One per disk for the life of the agent, as the maps are.
    leases: BTreeMap<DiskIdentity, Arc<tokio::sync::Mutex<()>>>,
}

/// Why a disk cannot be protected.
#[derive(Debug, thiserror::Error)]
enum RollError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    #[error(transparent)]
    Source(#[from] crate::io::source::SourceError),
    #[error("{0} is not among the disks of this agent: name it with --disk, or in the configuration")]
    Unknown(DiskIdentity),
    #[error("{0}")]
    Problem(String),
}

impl Roll {
    /// Adopts or loads the tracking programs. Named disks that do not exist, or cannot be protected, are an error
    /// here and now; what is wrong with the others is told when they are offered.
    pub fn open(settings: &Settings) -> anyhow::Result<Self> {
        if !settings.disks.is_empty() {
            let (_, chosen) = look(&settings.host, &settings.disks)?;
            if let Some(problem) = chosen.into_iter().find_map(|candidate| candidate.problem) {
                anyhow::bail!(problem);
            }
        }
        let tracker = Tracker::open(settings.tracker.clone())?;
        Ok(Self {
            tracker: Arc::new(Mutex::new(tracker)),
            host: settings.host.clone(),
            idle_io: settings.idle_io,
            named: settings.disks.clone(),
            boot_id: settings.dialer.boot_id,
            boot_id_text: settings.boot_id_text.clone(),
            kept: Vec::new(),
            offered: Vec::new(),
            units: BTreeMap::new(),
            leases: BTreeMap::new(),
        })
    }

    /// Looks at the host and says what can be protected. Disks that hold the dispatcher's own data are left out.
    pub async fn inventory(&mut self, dispatcher: Accepted) -> (Footprint, Vec<Offer>) {
        self.kept = if dispatcher.boot_id == self.boot_id { dispatcher.kept } else { Vec::new() };
        let inventory = self.look_again().await;
        for candidate in &self.offered {
            match &candidate.problem {
                Some(problem) => tracing::warn!(device = %candidate.disk.device, %problem, "not protected"),
                None => tracing::info!(device = %candidate.disk.device, "offered"),
            }
        }
        inventory
    }

    /// Whether the pins are where they belong. Cheap.
    pub async fn is_pinned(&self) -> bool {
        let tracker = Arc::clone(&self.tracker);
        let looked = tokio::task::spawn_blocking(move || {
            // While a disk is being attached, nobody has to know.
            tracker.try_lock().map_or(true, |tracker| tracker.is_pinned())
        });
        looked.await.unwrap_or(true)
    }

    /// Attaches the hooks anew if somebody removed their pins. Every disk is then tracked anew when it is asked for.
    async fn look_at_pins(&mut self) {
        let tracker = Arc::clone(&self.tracker);
        let looked = tokio::task::spawn_blocking(move || {
            let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
            (!tracker.is_pinned()).then(|| tracker.renew())
        });
        match looked.await {
            Ok(Some(Ok(()))) => {
                tracing::error!("the pins were removed: everything is attached and pinned anew");
                self.units.values().for_each(|unit| unit.retire());
                self.units.clear();
            }
            Ok(Some(Err(error))) => {
                tracing::error!(%error, "the pins were removed, and nothing can be attached anew; it is tried again");
            }
            Ok(None) | Err(_) => {}
        }
    }

    /// Looks at the host, which may have changed, and at the pins.
    pub async fn look_again(&mut self) -> (Footprint, Vec<Offer>) {
        self.look_at_pins().await;
        let (options, named) = (self.host.clone(), self.named.clone());
        let footprint = match tokio::task::spawn_blocking(move || look(&options, &named)).await {
            Ok(Ok((inventory, chosen))) => {
                self.offered = chosen.into_iter().map(|candidate| self.without_feedback(candidate)).collect();
                inventory.footprint
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot describe this host");
                Footprint::default()
            }
            // The agent is stopping.
            Err(_) => Footprint::default(),
        };
        (footprint, self.offered.iter().filter_map(offer).collect())
    }

    /// Whether a tracked disk is still the one that tracking began with.
    pub fn is_current(&self, disk: &DiskIdentity) -> bool {
        self.units.get(disk).is_some_and(|unit| self.still_fits(unit))
    }

    /// On the dispatcher's own machine, a disk that its data directory lies on would feed its own changes back.
    fn without_feedback(&self, mut candidate: Candidate) -> Candidate {
        let disk = &candidate.disk;
        if self.kept.iter().any(|k| (k.major, k.minor) == (disk.major, disk.minor)) {
            candidate.problem = Some(format!(
                "{} holds the data directory of this very dispatcher: each point stored there would be a change to \
                 store; move the data directory to another disk, or protect this disk from another dispatcher",
                disk.device
            ));
        }
        candidate
    }

    /// The tracked disk; tracking begins if it has not.
    pub async fn unit(&mut self, disk: &DiskIdentity) -> Result<Arc<Unit>, String> {
        if let Some(unit) = self.units.get(disk).filter(|unit| self.still_fits(unit)) {
            return Ok(Arc::clone(unit));
        }
        let spec = match self.spec(disk) {
            Ok(spec) => spec,
            Err(error) => {
                // Nobody takes what is left of it for the disk when that is back.
                self.units.remove(disk).inspect(|former| former.retire());
                return Err(error.to_string());
            }
        };
        let (tracker, idle_io) = (Arc::clone(&self.tracker), self.idle_io);
        let lease = Arc::clone(self.leases.entry(disk.clone()).or_default());
        // Nobody sweeps maps that are made anew.
        let held = Arc::clone(&lease).lock_owned().await;
        let begun = tokio::task::spawn_blocking(move || {
            let _held = held;
            begin(&tracker, &spec, lease, idle_io)
        })
        .await;
        let unit = begun.map_err(|_| "the agent is stopping".to_owned())?.map_err(|e| e.to_string())?;
        let unit = Arc::new(unit);
        if let Some(former) = self.units.insert(disk.clone(), Arc::clone(&unit)) {
            former.retire();
        }
        Ok(unit)
    }

    /// Numbers of the disks below the data directory of a dispatcher on this machine.
    pub fn kept(&self) -> Vec<(u32, u32)> {
        self.kept.iter().map(|disk| (disk.major, disk.minor)).collect()
    }

    /// Disks that are tracked.
    pub fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.values()
    }

    /// Stops tracking a disk: nobody wants its changes any more.
    pub async fn release(&mut self, disk: DiskIdentity) {
        if let Some(former) = self.units.remove(&disk) {
            former.retire();
        }
        let tracker = Arc::clone(&self.tracker);
        let released = tokio::task::spawn_blocking(move || {
            tracker.lock().unwrap_or_else(PoisonError::into_inner).untrack(&disk)
        });
        if let Ok(Err(error)) = released.await {
            tracing::warn!(%error, "cannot stop tracking");
        }
    }

    /// Whether the disk is still the one that tracking began with: one that was resized, or that went away and came back
    /// under the same name, must be tracked anew.
    fn still_fits(&self, unit: &Unit) -> bool {
        let of_unit = |c: &&Candidate| c.disk.identity.as_ref() == Some(&unit.identity);
        self.offered.iter().find(of_unit).is_some_and(|c| unit.sits_in(&c.disk))
    }

    fn spec(&self, identity: &DiskIdentity) -> Result<DiskSpec, RollError> {
        let of_identity = |c: &&Candidate| c.disk.identity.as_ref() == Some(identity);
        let candidate =
            self.offered.iter().find(of_identity).ok_or_else(|| RollError::Unknown(identity.clone()))?;
        if let Some(problem) = &candidate.problem {
            return Err(RollError::Problem(problem.clone()));
        }
        let disk = &candidate.disk;
        Ok(DiskSpec {
            node: PathBuf::from(&disk.device),
            major: disk.major,
            minor: disk.minor,
            sysfs: PathBuf::from(format!("/sys/dev/block/{}:{}", disk.major, disk.minor)),
            bytes: disk.bytes,
            identity: identity.clone(),
            boot_id: self.boot_id_text.clone(),
            diskseq: disk.diskseq,
        })
    }
}

fn look(options: &HostOptions, named: &[PathBuf]) -> Result<(Inventory, Vec<Candidate>), HostError> {
    let inventory = host::inventory(options)?;
    let mut numbers = Vec::new();
    for path in named {
        // Links may lead elsewhere since the start.
        let device = host::resolve(path)?;
        numbers.push((device.major, device.minor));
    }
    let chosen = select(&inventory.candidates, &numbers);
    Ok((inventory, chosen))
}

fn offer(candidate: &Candidate) -> Option<Offer> {
    let disk = &candidate.disk;
    // Without an identity there is nothing to call it by; the log has said why.
    let identity = disk.identity.clone()?;
    let (device, bytes, problem) = (disk.device.clone(), disk.bytes, candidate.problem.clone());
    Some(Offer { identity, device, bytes, problem })
}

fn begin(
    tracker: &Mutex<Tracker>,
    spec: &DiskSpec,
    lease: Arc<tokio::sync::Mutex<()>>,
    idle_io: bool,
) -> Result<Unit, RollError> {
    let source = DiskSource::open(Path::new(&spec.node), idle_io)?;
    let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
    let (tracked, attach) = tracker.track(spec, Epoch(random::wide_id()))?;
    let device = spec.node.display().to_string();
    match attach {
        Attach::Adopted => tracing::info!(%device, "tracking goes on where it was"),
        Attach::TakenOver { version } => {
            tracing::info!(%device, from = version, "tracking goes on where it was, with new programs");
        }
        Attach::Fresh { reason } => tracing::info!(%device, %reason, "tracking begins anew"),
    }
    Ok(Unit::new(spec.identity.clone(), device, source, tracked, lease))
}
