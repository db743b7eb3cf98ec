//! The policy in force for an agent: every key, its value, and whether the file says it.

use super::{nothing, rows_in, split};
use crate::api::policies::{PolicyList, PolicyRow, PolicyValues};
use crate::api::text::Span;
use crate::model::ids::{AgentId, DiskId};
use crate::model::policy::{EffectivePolicy, Goal};
use crate::model::retention::Retention;
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::list::List;
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::{self, Column, left, rest};
use crate::tui::words::{count, grouped};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const COLUMNS: [Column; 4] = [left("KEY", 19, 21), left("VALUE", 8, 16), left("FROM", 7, 7), rest("MEANING")];

const KEYS: [Hint; 2] = [
    hint("Up Down", "scroll", "the row above, below; it is told in full below the list"),
    hint("FROM", "", "`file`: the policy's file says it; `default`: it does not"),
];

/// A key, its value, where that is from, and what it means.
type Row = (&'static str, String, &'static str, &'static str);

#[derive(Debug)]
pub struct Policy {
    agent: AgentId,
    /// One came from this disk.
    disk: Option<DiskId>,
    policies: Option<Box<PolicyList>>,
    failed: Option<String>,
    list: List,
}

impl Policy {
    #[must_use]
    pub fn new(agent: AgentId, disk: Option<DiskId>) -> Self {
        Self { agent, disk, policies: None, failed: None, list: List::default() }
    }

    /// The policy that the agent gets; `None` if none names it.
    fn row(&self) -> Option<&PolicyRow> {
        self.policies.as_ref()?.items.iter().find(|row| row.agents.contains(&self.agent))
    }

    fn rows(&self) -> Vec<Row> {
        match (&self.policies, self.row()) {
            (Some(_), Some(row)) => rows(&row.values, &row.set, row),
            // What an agent gets that no policy names.
            (Some(_), None) => {
                let usual = PolicyValues::new(&EffectivePolicy::default(), &Retention::default(), None);
                values(&usual, &[])
            }
            (None, _) => Vec::new(),
        }
    }

    /// Which policy it is, and whether it protects the disk that one came from.
    fn said(&self, world: &World) -> String {
        let Some(policies) = &self.policies else { return String::new() };
        let trouble =
            policies.trouble.iter().map(|why| format!("! {}: {why}; what was in force stays", policies.dir));
        let said = match self.row() {
            None => format!(
                "No policy of {} names {}: it gets an image only when `blxrep snapshot` asks for it, and these values",
                policies.dir, self.agent
            ),
            Some(row) => {
                let about = if row.description.is_empty() { "" } else { ": " };
                format!("Policy `{}` of {}{about}{}", row.name, row.file, row.description)
            }
        };
        let disk = self.disk.and_then(|disk| world.disk(disk)).map(|disk| {
            let is = match self.row() {
                Some(row) if row.disks_excluded.contains(&disk.id) => "is left out by it",
                Some(_) => "is protected by it",
                None => "is not protected by one",
            };
            format!("{} {is}", disk.device)
        });
        trouble.chain([said]).chain(disk).collect::<Vec<_>>().join("; ")
    }
}

impl Page for Policy {
    fn name(&self) -> &'static str {
        "Policy"
    }

    fn crumb(&self, _: &World) -> String {
        format!("policy of {}", self.agent)
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        vec![Order::Load(Ask::Policies)]
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        let moved = self.list.press(key, self.rows().len(), rows_in(split(world.body()).0));
        if moved { nothing() } else { None }
    }

    fn answer(&mut self, reply: Reply, world: &World) -> Vec<Order> {
        match reply {
            Ok(Answer::Policies(policies)) => (self.policies, self.failed) = (Some(policies), None),
            Ok(_) => {}
            Err(failure) => self.failed = Some(failure.text),
        }
        self.refresh(world)
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.list.select(self.list.at(), self.rows().len(), rows_in(split(world.body()).0));
        Vec::new()
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let (list, below) = split(area);
        let rows = self.rows();
        let Some((key, value, _, meaning)) = rows.get(self.list.at()) else {
            let text = frame::in_place(self.failed.is_none(), self.failed.as_deref(), "");
            return frame::nothing(buffer, list, &text);
        };
        let head = (world.theme, self.list, rows.len());
        let cells = |n: usize| {
            let (key, value, from, meaning) = &rows[n];
            vec![(*key).to_owned(), value.clone(), (*from).to_owned(), (*meaning).to_owned()]
        };
        table::render(head, &COLUMNS, cells, list, buffer);
        frame::detail(world, &format!("{key}: {value} ({meaning}). {}", self.said(world)), below, buffer);
    }
}

fn rows(policy: &PolicyValues, set: &[String], row: &PolicyRow) -> Vec<Row> {
    let mut rows = values(policy, set);
    if set.iter().any(|key| key == "snapshot_retention") {
        rows.push(("snapshot_retention", "see `keep_*`".to_owned(), "file", "days: no span is longer"));
    }
    for target in &row.targets {
        let without = target.disks_excluded.join(", ");
        let without = if without.is_empty() { without } else { format!(" without {without}") };
        rows.push(("targets", format!("{}{without}", target.pattern), "file", "agents that it is for"));
    }
    for key in &row.not_in_force {
        rows.push(("not in force", key.clone(), "file", "for a later version"));
    }
    rows
}

fn values(policy: &PolicyValues, set: &[String]) -> Vec<Row> {
    let from = |key: &str| if set.iter().any(|one| one == key) { "file" } else { "default" };
    let span = |seconds: u64| Span(seconds).to_string();
    let goal = match policy.consistency {
        Goal::Quiet => "quiet",
        Goal::Frozen => "frozen",
        Goal::Best => "best",
    };
    let lists = policy.group_lists.iter().map(|list| format!("[{}]", list.join(", ")));
    let group = if policy.group_lists.is_empty() {
        policy.group.clone()
    } else {
        lists.collect::<Vec<_>>().join(" ")
    };
    let verify = policy.verify_seconds.map_or_else(
        || "never".to_owned(),
        |every| {
            let sample = policy.verify_sample.map_or_else(String::new, |sample| format!(", {sample} of it"));
            format!("every {}{sample}", span(every))
        },
    );
    let limit =
        policy.bandwidth_limit.map_or_else(|| "none".to_owned(), |limit| format!("{}/s", ByteCount(limit)));
    let delete = policy.delete_after_seconds.map_or_else(|| "never".to_owned(), span);
    let row = |key, value: String, meaning| (key, value, from(key), meaning);
    let mut rows = vec![
        row("live_sync_frequency", span(policy.live_sync_seconds), "time between points"),
        row("group", group, "disks whose points are one state"),
        row("consistency", goal.to_owned(), "what points shall be"),
        row("max_freeze_ms", format!("{} ms", policy.max_freeze_ms), "for filesystems, at a time"),
        row("max_rounds", grouped(u64::from(policy.max_rounds)), "of one cut"),
        row("skip_unmet", policy.skip_unmet.to_string(), "no point rather than a lesser one"),
        row("bandwidth_limit", limit, "the agent's own counts if lower"),
        row("keep_all", span(policy.keep_all_seconds), "every point is kept"),
        row("keep_minutely", span(policy.keep_minutely_seconds), "then one of each minute"),
        row("keep_hourly", span(policy.keep_hourly_seconds), "one of each hour"),
        row("keep_daily", span(policy.keep_daily_seconds), "one of each day"),
        row("keep_weekly", span(policy.keep_weekly_seconds), "one of each week"),
        row("keep_points", count(policy.keep_points, "point"), "of one disk, at most"),
        row("delete_after_days", delete, "age at which a point goes"),
        row("verify", verify, "what is stored is read again"),
    ];
    let bounded = set.iter().any(|key| key == "snapshot_retention");
    for row in rows.iter_mut().filter(|row| bounded && row.0 == "keep_weekly") {
        // It is as long as that says, unless it is given.
        row.2 = "file";
    }
    rows
}
