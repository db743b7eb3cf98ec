//! What a monitoring system asks for: gauges in the text format of OpenMetrics, which Prometheus reads.
//!
//! Made from the same rows as every other answer, anew for each request: a disk that is gone leaves no series behind.

use super::backend::{Backend, Filter};
use super::error::{ApiError, Result};
use super::types::{ActionRow, AgentRow, DiskRow, DispatcherStatus, PointRow};
use crate::model::point::Coverage;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

/// What an answer is, in the words of HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// Everything that the metrics are made from.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub status: DispatcherStatus,
    pub agents: Vec<AgentRow>,
    pub disks: Vec<DiskRow>,
    /// The newest point of each disk that has one.
    pub newest: Vec<PointRow>,
    /// Those that have not ended.
    pub open_actions: Vec<ActionRow>,
}

impl Scrape {
    /// Asks a backend.
    pub async fn take<B: Backend>(backend: &B) -> Result<Self> {
        let disks = backend.disks(None).await?;
        let mut newest = Vec::new();
        for disk in &disks {
            let filter = Filter { disk: Some(disk.id), ..Filter::default() };
            newest.extend(backend.newest_points(filter, 1).await?);
        }
        let mut open_actions = backend.actions(Filter::default()).await?;
        open_actions.retain(|action| !action.state.is_final());
        let (status, agents) = (backend.status().await?, backend.agents().await?);
        Ok(Self { status, agents, disks, newest, open_actions })
    }

    /// The text of the answer.
    pub fn text(&self) -> Result<String> {
        let mut registry = Registry::with_prefix("blxrep");
        self.house(&mut registry);
        self.disks(&mut registry);
        self.points(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)
            .map_err(|error| ApiError::failed(format!("the metrics cannot be written: {error}")))?;
        Ok(text)
    }

    fn house(&self, registry: &mut Registry) {
        let status = &self.status;
        gauge(
            registry,
            "info",
            "Version of the dispatcher",
            [(vec![("version", status.version.clone())], 1.0)],
        );
        let plain = |value: u64| [(Labels::new(), number(value))];
        gauge(registry, "uptime_seconds", "Since the dispatcher started", plain(status.uptime_seconds));
        gauge(registry, "points", "Recovery points in the store", plain(status.points));
        let free = status.free_bytes.map(|bytes| (Labels::new(), number(bytes)));
        gauge(registry, "store_free_bytes", "Free on the filesystem of the data directory", free);
        let online = self.agents.iter().map(|a| (vec![("agent", a.id.to_string())], flag(a.online)));
        gauge(registry, "agent_online", "Whether the agent is connected", online);
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for action in &self.open_actions {
            *counts.entry((action.kind.to_string(), action.state.to_string())).or_default() += 1;
        }
        let counts =
            counts.into_iter().map(|((kind, state), n)| (vec![("kind", kind), ("state", state)], number(n)));
        gauge(registry, "actions", "Actions that have not ended", counts);
    }

    fn disks(&self, registry: &mut Registry) {
        let mut each = |name, help, value: fn(&DiskRow) -> Option<f64>| {
            let values = self.disks.iter().filter_map(|disk| Some((of_disk(disk), value(disk)?)));
            gauge(registry, name, help, values);
        };
        each("disk_bytes", "Size of the disk", |d| Some(number(d.bytes)));
        each("disk_points", "Recovery points of the disk", |d| Some(number(d.points)));
        each("disk_lag_seconds", "Age of the newest point", |d| d.lag_seconds.map(number));
        each("disk_backlog_bytes", "Dirty and not yet published", |d| d.backlog.map(number));
        each("disk_coverage_proven", "Whether every change since the newest point is known", |d| {
            Some(flag(d.coverage == Coverage::Proven))
        });
        let state = |d: &DiskRow| {
            let mut labels = of_disk(d);
            labels.push(("state", d.state.to_string()));
            (labels, 1.0)
        };
        gauge(registry, "disk_state", "1 for the state that the disk is in", self.disks.iter().map(state));
    }

    fn points(&self, registry: &mut Registry) {
        let mut each = |name, help, value: fn(&PointRow) -> Option<f64>| {
            let values = self.newest.iter().filter_map(|point| Some((of_point(point), value(point)?)));
            gauge(registry, name, help, values);
        };
        each("newest_point_bytes", "Of the disk, carried by the newest point", |p| Some(number(p.bytes)));
        each("newest_point_stored_bytes", "Taken by its files", |p| Some(number(p.stored)));
        each("newest_point_rounds", "Rounds of its cut", |p| Some(f64::from(p.rounds)));
        each("newest_point_freeze_seconds", "Time that filesystems were frozen for it", |p| {
            p.freeze_ms.map(|millis| f64::from(millis) / 1000.0)
        });
        let label = |p: &PointRow| {
            let mut labels = of_point(p);
            labels.push(("consistency", p.consistency.to_string()));
            (labels, 1.0)
        };
        let help = "1 for the label of the newest point";
        gauge(registry, "newest_point_consistency", help, self.newest.iter().map(label));
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
    let family = Gauges::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

/// A name may be the device's of another disk tomorrow: the identity stays.
fn disk_labels(agent: &impl ToString, identity: &str, device: &str) -> Labels {
    vec![("agent", agent.to_string()), ("disk", identity.to_owned()), ("device", device.to_owned())]
}

fn of_disk(disk: &DiskRow) -> Labels {
    disk_labels(&disk.agent, &disk.identity, &disk.device)
}

fn of_point(point: &PointRow) -> Labels {
    disk_labels(&point.agent, &point.identity, &point.device)
}

/// Gauges are floating-point numbers: exact up to 8 PiB.
#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}
