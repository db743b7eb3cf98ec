//! The agent: tracks the disks of its host and sends what the dispatcher asks for.
//!
//! ```text
//!            ToAgent                    Command                 frames
//! session ------------> this loop ----------------> cutter ----------------> /ws/live, one per disk
//!    ^                    |    ^ \                    |
//!    | ToDispatcher       |    |  \ spawns            | Event
//!    +--------------------+    |   +--> image ------------------------------> /ws/snapshot, one per disk
//!                              |         | ends         |
//!                              +---------+--------------+
//! ```
//!
//! The loop owns all state; tasks own their connection and tell how they ended.

mod compare;
mod conduct;
mod conversation;
mod cutter;
mod device_restore;
mod dialer;
mod files_restore;
pub mod freeze;
pub mod hooks;
mod image;
mod link;
mod live;
mod orders;
mod pace;
mod place;
mod preflight;
mod rescan;
mod restore;
mod roll;
mod round;
mod sent;
mod session;
mod settings;
mod slot;
mod unit;
mod verify_source;
mod watch;

use crate::cli::start::AgentArgs;
use crate::config::hooks::HooksConfig;
use crate::config::restore::Authority;
use crate::engine::backoff::Backoff;
use crate::io::host::HostOptions;
use crate::io::random;
use crate::io::signals::Stop;
use crate::model::action::ActionState;
use crate::model::host::Footprint;
use crate::model::ids::{ActionId, CutId, DiskIdentity, PointId};
use crate::model::point::Coverage;
use crate::model::policy::{CutRules, EffectivePolicy};
use crate::model::restoration::{Preflight, Restoration};
use crate::wire::config::{Control, DiskStatus, Offer, ToAgent, ToDispatcher};
use anyhow::Context;
use compare::CompareError;
use conduct::Terms;
use cutter::{Command, Cutter, Event};
use dialer::Dialer;
use image::ImageError;
use orders::{Answer, Ended, Order, Orders};
use pace::Pace;
use preflight::Judge;
use restore::Means;
use roll::Roll;
use session::Heard;
use settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use unit::Unit;

/// Messages between the tasks; each side takes them at once.
const QUEUE: usize = 64;
/// Events of the cutter. More than all that a full queue of commands and the syncs that wait can cause, so that the
/// cutter never waits for this loop while this loop waits for the cutter.
const EVENTS: usize = 4 * QUEUE;
/// How long session and cutter may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How often the state of the protected disks is told.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// How often the host is looked at for disks that came, went or grew.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Targets of restores that are looked at at the same time, a thread each.
const MAX_LOOKS: usize = 16;

/// Runs the agent until it is told to stop.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    // Folders within each other are open all at once while files are restored to them.
    crate::io::limits::raise_open_files();
    let settings = Settings::load(args)?;
    thaw_leftovers().await;
    let roll = Roll::open(&settings).context("cannot start to track disks")?;
    let mut stop = Stop::listen().context("cannot listen for signals")?;
    tracing::info!(agent = %settings.dialer.agent, dispatcher = %settings.dialer.address, "agent started");
    let allowed = &settings.authority.allowed;
    tracing::info!(devices = ?allowed.devices, paths = ?allowed.paths, "what restores to this server may touch");
    Agent::start(settings, roll).work(&mut stop).await;
    tracing::info!("agent stopped; changes go on being tracked");
    Ok(())
}

/// A predecessor that crashed may have left filesystems frozen. Disks are tracked even if that cannot be mended.
async fn thaw_leftovers() {
    let thawed = tokio::task::spawn_blocking(|| freeze::thaw_leftovers(None)).await;
    if let Ok(Err(error)) = thawed {
        tracing::error!(%error, "a predecessor may have left filesystems frozen");
    }
}

/// A full image that is being made, or waits for its next attempt.
#[derive(Debug)]
struct Image {
    action: ActionId,
    task: AbortHandle,
    backoff: Backoff,
    /// The dispatcher has what it is for: if the attempt fails, there is no other.
    is_over: bool,
}

/// How an attempt at an image ended.
type ImageEnd = (DiskIdentity, ActionId, Result<PointId, ImageError>);

/// Continuous protection of a disk, as it was asked for.
#[derive(Clone, Copy, Debug)]
struct Live {
    action: ActionId,
    paused: bool,
}

struct Agent {
    dialer: Dialer,
    pace: Pace,
    /// Limit of the agent's own configuration: a policy can only lower it.
    own_limit: Option<u64>,
    /// Reads in flight of an image.
    readers: usize,
    /// How points are made, by the policy in force.
    rules: CutRules,
    hooks: Arc<HooksConfig>,
    roll: Roll,
    images: BTreeMap<DiskIdentity, Image>,
    attempts: JoinSet<ImageEnd>,
    /// Comparisons of disks with their newest points that a person asked for.
    checks: JoinSet<(ActionId, Result<(), CompareError>)>,
    lives: BTreeMap<DiskIdentity, Live>,
    /// Who may be overwritten here.
    authority: Arc<Authority>,
    host: HostOptions,
    orders: Orders,
    restoring: JoinSet<(ActionId, Ended)>,
    /// Looks at targets of restores.
    looks: JoinSet<(u64, Result<Preflight, String>)>,
    /// What the dispatcher was told last.
    offers: Vec<Offer>,
    outbound: mpsc::Sender<ToDispatcher>,
    heard: mpsc::Receiver<Heard>,
    cutter: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    /// Session and cutter; they end when their queues do.
    tasks: JoinSet<()>,
}

impl Agent {
    fn start(settings: Settings, roll: Roll) -> Self {
        let pace = Pace::new(settings.bandwidth_limit);
        let (outbound, to_send) = mpsc::channel(QUEUE);
        let (hear, heard) = mpsc::channel(QUEUE);
        let (cutter, commands) = mpsc::channel(QUEUE);
        let (tell, events) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(session::run(settings.dialer.clone(), hear, to_send));
        tasks.spawn(
            Cutter::new(
                settings.dialer.clone(),
                pace.clone(),
                settings.read_threads,
                Arc::clone(&settings.hooks),
                tell,
            )
            .run(commands),
        );
        Self {
            dialer: settings.dialer,
            pace,
            own_limit: settings.bandwidth_limit,
            readers: settings.read_threads,
            rules: CutRules::default(),
            hooks: settings.hooks,
            roll,
            images: BTreeMap::new(),
            attempts: JoinSet::new(),
            checks: JoinSet::new(),
            lives: BTreeMap::new(),
            authority: settings.authority,
            host: settings.host,
            orders: Orders::default(),
            restoring: JoinSet::new(),
            looks: JoinSet::new(),
            offers: Vec::new(),
            outbound,
            heard,
            cutter,
            events,
            tasks,
        }
    }

    async fn work(mut self, stop: &mut Stop) {
        let mut status = tokio::time::interval(STATUS_EVERY);
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        loop {
            tokio::select! {
                () = stop.requested() => break,
                heard = self.heard.recv() => match heard {
                    Some(heard) => self.hear(heard).await,
                    None => break,
                },
                event = self.events.recv() => match event {
                    Some(event) => self.tell(event).await,
                    None => break,
                },
                Some(ended) = self.attempts.join_next() => if let Ok(ended) = ended {
                    self.attempt_ended(ended).await;
                },
                Some(ended) = self.checks.join_next() => if let Ok((action, ended)) = ended {
                    self.check_ended(action, ended).await;
                },
                Some(ended) = self.restoring.join_next() => if let Ok((action, ended)) = ended {
                    self.restore_ended(action, ended).await;
                },
                Some(looked) = self.looks.join_next() => if let Ok((request, verdict)) = looked {
                    self.say(ToDispatcher::Preflighted { request, verdict }).await;
                },
                _ = status.tick() => {
                    self.report_status().await;
                    if !self.roll.is_pinned().await {
                        self.look_again().await;
                    }
                }
                _ = look.tick() => self.look_again().await,
            }
        }
        self.attempts.shutdown().await;
        self.checks.shutdown().await;
        self.looks.shutdown().await;
        self.restoring.shutdown().await;
        // Session and cutter end when nobody can tell them anything any more; the session says goodbye first.
        drop((self.outbound, self.cutter, self.heard, self.events));
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_PATIENCE, ended).await;
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Connected(accepted) => {
                self.command(Command::Resume).await;
                let inventory = self.roll.inventory(accepted).await;
                self.say_inventory(inventory).await;
            }
            Heard::Lost => {}
            Heard::Message(message) => self.obey(message).await,
        }
    }

    async fn obey(&mut self, message: ToAgent) {
        match message {
            ToAgent::Policy(policy) => self.apply(&policy).await,
            ToAgent::Snapshot { action, disk } => self.image(action, disk).await,
            ToAgent::Live { action, disk, paused } => self.protect(action, disk, paused).await,
            ToAgent::Sync { request, disk, goal } => {
                self.command(Command::Sync { request, disk, goal }).await;
            }
            ToAgent::Control { action, control } => self.control(action, control).await,
            ToAgent::VerifySource { action, disk } => self.verify_source(action, disk).await,
            ToAgent::Ping(n) => self.say(ToDispatcher::Pong(n)).await,
            ToAgent::Preflight { request, restoration } => self.preflight(request, restoration).await,
            ToAgent::Restore { action, restoration, touched } => {
                self.restore(Order { action, restoration, touched }).await;
            }
        }
    }

    async fn apply(&mut self, policy: &EffectivePolicy) {
        let limit = match (policy.bandwidth_limit, self.own_limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        tracing::info!(policy = %policy.name, every = ?policy.live_sync, ?limit, cut = ?policy.cut, "policy in force");
        self.pace.set_rate(limit);
        self.rules = policy.cut;
        let (every, rules, grouping) = (policy.live_sync, policy.cut, policy.group.clone());
        self.command(Command::Rules { every, rules, grouping }).await;
    }

    async fn image(&mut self, action: ActionId, disk: DiskIdentity) {
        if let Some(image) = self.images.get(&disk) {
            if image.action == action {
                return;
            }
            image.task.abort();
        }
        self.lives.remove(&disk);
        self.command(Command::Release(disk.clone())).await;
        self.attempt(action, disk, Backoff::default(), Duration::ZERO).await;
    }

    /// Starts the next attempt at an image after `delay`.
    async fn attempt(&mut self, action: ActionId, disk: DiskIdentity, backoff: Backoff, delay: Duration) {
        let unit = self.roll.unit(&disk).await.map_err(ImageError::Untracked);
        let (dialer, pace, name) = (self.dialer.clone(), self.pace.clone(), disk.clone());
        let readers = self.readers;
        let terms = Terms {
            cut: CutId(random::id()),
            actions: vec![action],
            rules: self.rules,
            hooks: Arc::clone(&self.hooks),
            missing: Vec::new(),
            widens: true,
        };
        let task = self.attempts.spawn(async move {
            tokio::time::sleep(delay).await;
            let ended = match unit {
                Ok(unit) => image::attempt(unit, &dialer, pace, readers, action, terms).await,
                Err(error) => Err(error),
            };
            (name, action, ended)
        });
        self.images.insert(disk, Image { action, task, backoff, is_over: false });
        if delay.is_zero() {
            self.state(action, ActionState::Running, String::new()).await;
        }
    }

    async fn attempt_ended(&mut self, (disk, action, ended): ImageEnd) {
        let Some(mut image) = self.images.remove(&disk).filter(|i| i.action == action) else { return };
        match ended {
            // The dispatcher published it: it says what comes next.
            Ok(point) => tracing::info!(%disk, %point, "the base is published"),
            Err(error) if image.is_over => {
                tracing::info!(%disk, %error, "the base was published, and this agent did not hear of it");
            }
            Err(error) => {
                let delay = image.backoff.next(random::id());
                tracing::warn!(%disk, %error, "the image broke off; it goes on where it is durable");
                self.state(action, ActionState::Running, format!("trying again: {error}")).await;
                self.attempt(action, disk, image.backoff, delay).await;
            }
        }
    }

    async fn protect(&mut self, action: ActionId, disk: DiskIdentity, paused: bool) {
        if let Some(image) = self.images.get_mut(&disk) {
            image.is_over = true;
        }
        if self.lives.contains_key(&disk) && !self.roll.is_current(&disk) {
            // Its cut or rescan ends first: what is made anew waits for its lease.
            self.command(Command::Release(disk.clone())).await;
        }
        match self.roll.unit(&disk).await {
            Ok(unit) => {
                self.lives.insert(disk, Live { action, paused });
                self.command(Command::Protect { unit, action, paused }).await;
                let state = if paused { ActionState::Paused } else { ActionState::Running };
                self.state(action, state, String::new()).await;
            }
            // It stays on the list of what is looked at again.
            Err(reason) => {
                tracing::warn!(%disk, %reason, "the disk cannot be tracked; it is tried again");
                self.lives.insert(disk, Live { action, paused });
                self.state(action, ActionState::Running, format!("trying again: {reason}")).await;
            }
        }
    }

    /// Compares a disk with its newest point, beside everything else.
    async fn verify_source(&mut self, action: ActionId, disk: DiskIdentity) {
        let (dialer, pace, readers) = (self.dialer.clone(), self.pace.clone(), self.readers);
        let unit = match self.lives.contains_key(&disk) {
            true => self.roll.unit(&disk).await,
            false => Err("the disk is not kept in sync: what changed on it is not known".to_owned()),
        };
        match unit {
            Ok(unit) => {
                self.checks.spawn(async move {
                    (action, verify_source::run(unit, dialer, pace, readers, action).await)
                });
            }
            Err(reason) => self.state(action, ActionState::Failed, reason).await,
        }
    }

    async fn check_ended(&mut self, action: ActionId, ended: Result<(), CompareError>) {
        match ended {
            // The dispatcher knows.
            Ok(()) | Err(CompareError::Held(_)) => {}
            Err(error) => self.state(action, ActionState::Failed, error.to_string()).await,
        }
    }

    /// What restores are made with, as things stand.
    fn means(&self) -> Means {
        let protected = self.lives.keys().chain(self.images.keys()).cloned().collect();
        let (authority, host) = (Arc::clone(&self.authority), self.host.clone());
        let judge = Judge { authority, host, protected, kept: self.roll.kept() };
        let (dialer, pace) = (self.dialer.clone(), self.pace.clone());
        Means { dialer, pace, readers: self.readers, judge, outbound: self.outbound.clone() }
    }

    /// Looks at the target of a restore.
    async fn preflight(&mut self, request: u64, restoration: Restoration) {
        if self.looks.len() >= MAX_LOOKS {
            let verdict = Err(format!("{MAX_LOOKS} targets are being looked at already: try again"));
            return self.say(ToDispatcher::Preflighted { request, verdict }).await;
        }
        let means = self.means();
        self.looks.spawn(async move { (request, means.preflight(restoration).await) });
    }

    /// Restores, or takes note that it is to begin anew if it is being held.
    async fn restore(&mut self, order: Order) {
        let action = order.action;
        match self.orders.take(order) {
            Answer::Begin(order) => self.begin_restore(order),
            Answer::Noted => {}
            Answer::TooMany => {
                let reason =
                    "the agent restores too much at once: wait for a restore, or cancel one".to_owned();
                self.state(action, ActionState::Failed, reason).await;
            }
        }
    }

    fn begin_restore(&mut self, order: Order) {
        let means = self.means();
        self.restoring.spawn(async move { (order.action, means.restore(order).await) });
    }

    async fn restore_ended(&mut self, action: ActionId, ended: Ended) {
        if let Some(again) = self.orders.ended(action, &ended) {
            self.begin_restore(again);
        }
        // Otherwise the dispatcher knows.
        if let Ended::Failed(reason) = ended {
            tracing::error!(%action, %reason, "the restore has failed");
            self.state(action, ActionState::Failed, reason).await;
        }
        // What is on the disk may be another disk now.
        self.look_again().await;
    }

    async fn control(&mut self, action: ActionId, control: Control) {
        let imaged = self.images.iter().find(|(_, i)| i.action == action).map(|(d, _)| d.clone());
        let live = self.lives.iter().find(|(_, live)| live.action == action).map(|(d, _)| d.clone());
        match (control, imaged, live) {
            (Control::Pause | Control::Cancel | Control::Release, Some(disk), _) => {
                if let Some(image) = self.images.remove(&disk) {
                    image.task.abort();
                }
                self.ended(action, control).await;
            }
            (Control::Pause, None, Some(disk)) => self.protect(action, disk, true).await,
            (Control::Resume, None, Some(disk)) => self.protect(action, disk, false).await,
            (Control::Cancel | Control::Release, None, Some(disk)) => {
                self.lives.remove(&disk);
                self.command(Command::Release(disk.clone())).await;
                self.roll.release(disk).await;
                self.ended(action, control).await;
            }
            // An image is resumed by `Snapshot`. What is not known here may be a rescan: it asks the dispatcher again.
            (Control::Resume, ..) => self.command(Command::Resume).await,
            (Control::Pause | Control::Cancel | Control::Release, None, None) => {
                self.ended(action, control).await;
            }
        }
    }

    async fn tell(&mut self, event: Event) {
        match event {
            Event::Synced { request, outcomes } => self.say(ToDispatcher::Synced { request, outcomes }).await,
            Event::Failed { actions, reason } => {
                for action in actions {
                    self.state(action, ActionState::Running, format!("trying again: {reason}")).await;
                }
                self.look_again().await;
            }
            Event::Recovered { actions } => {
                for action in actions {
                    self.state(action, ActionState::Running, String::new()).await;
                }
            }
        }
    }

    async fn say_inventory(&mut self, (footprint, offers): (Footprint, Vec<Offer>)) {
        self.offers.clone_from(&offers);
        self.say(ToDispatcher::Inventory { footprint, offers }).await;
    }

    /// Disks come, go, are resized, and appear at other nodes: the dispatcher is told, and those that are protected are
    /// tracked as what they are now.
    async fn look_again(&mut self) {
        let (footprint, offers) = self.roll.look_again().await;
        if offers != self.offers {
            self.say_inventory((footprint, offers)).await;
        }
        for (disk, Live { action, paused }) in self.lives.clone() {
            if !self.roll.is_current(&disk) {
                self.protect(action, disk, paused).await;
            }
        }
    }

    async fn report_status(&mut self) {
        let status: Vec<DiskStatus> = self.roll.units().map(|unit| unit_status(unit)).collect();
        if !status.is_empty() {
            self.say(ToDispatcher::Status(status)).await;
        }
    }

    /// Says that an order was carried out.
    async fn ended(&self, action: ActionId, control: Control) {
        let (state, reason) = match control {
            Control::Pause => (ActionState::Paused, ""),
            Control::Cancel => (ActionState::Cancelled, ""),
            Control::Release => (ActionState::Queued, "the policy leaves the disk out"),
            Control::Resume => (ActionState::Running, ""),
        };
        self.state(action, state, reason.to_owned()).await;
    }

    async fn state(&self, action: ActionId, state: ActionState, reason: String) {
        self.say(ToDispatcher::Action { action, state, reason }).await;
    }

    async fn say(&self, message: ToDispatcher) {
        // Fails only when the session task has ended, and then the loop ends too.
        let _ = self.outbound.send(message).await;
    }

    async fn command(&self, command: Command) {
        // Fails only when the cutter has ended, and then the loop ends too.
        let _ = self.cutter.send(command).await;
    }
}

fn unit_status(unit: &Unit) -> DiskStatus {
    DiskStatus {
        identity: unit.identity.clone(),
        coverage: unit.gap().map_or(Coverage::Proven, Coverage::Unknown),
        notes: unit.notes().into_iter().chain(unit.hole_note()).collect(),
    }
}
