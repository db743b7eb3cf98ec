//! Everything that is known of one thing, to be scrolled through.

use super::{nothing, rows_in};
use crate::api::browse::{FileRow, PartitionRow};
use crate::api::error::ErrorCode;
use crate::api::text::{Clock, Span, percent, printable, seconds_between};
use crate::api::types::{ActionRow, AgentDetail, DiskRow, FilesReport, PointRow, VerifyReport};
use crate::model::action::ActionKind;
use crate::model::ids::{AgentId, DiskId};
use crate::model::point::mixture;
use crate::model::restored::{Outcome, Report as Restored};
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::list::List;
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::table::line;
use crate::tui::words::{NONE, action_state, bar, bytes, consistency, count, coverage, disk_state, span};
use crate::tui::wrap::wrap;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Columns of what a line is about.
const LABEL: u16 = 16;

const KEYS: [Hint; 1] = [hint("Up Down", "scroll", "scroll")];

/// What a sheet is about.
#[derive(Clone, Debug)]
pub enum Topic {
    Agent(AgentId, Option<Box<AgentDetail>>),
    Disk(DiskId),
    Point(Box<PointRow>),
    /// As it was seen last, and what came of it.
    Action(Box<ActionRow>, Option<Report>),
    Partition(Box<PartitionRow>),
    File(Box<FileRow>),
    Usage,
}

/// What came of an action.
#[derive(Clone, Debug)]
pub enum Report {
    Verified(Box<VerifyReport>),
    Restored(Box<FilesReport>),
}

impl Topic {
    #[must_use]
    pub fn agent(id: AgentId) -> Self {
        Self::Agent(id, None)
    }
}

/// What a line is about, and what it says.
type Lines = Vec<(&'static str, String)>;

#[derive(Debug)]
pub struct Sheet {
    topic: Topic,
    failed: Option<String>,
    /// What came of the action was asked for.
    asked: bool,
    list: List,
}

impl Sheet {
    #[must_use]
    pub fn new(topic: Topic) -> Self {
        Self { topic, failed: None, asked: false, list: List::default() }
    }

    fn lines(&self, world: &World) -> Lines {
        let mut lines = match &self.topic {
            Topic::Agent(id, detail) => agent(id, detail.as_deref(), world),
            Topic::Disk(id) => world.disk(*id).map(|row| disk(row, world)).unwrap_or_default(),
            Topic::Point(row) => point(row),
            Topic::Action(row, report) => {
                let mut lines = action(world.action(row.id).unwrap_or(row), world);
                match report {
                    Some(Report::Verified(report)) => lines.extend(verified(report)),
                    Some(Report::Restored(report)) => lines.extend(restored(report)),
                    None => {}
                }
                lines
            }
            Topic::Partition(row) => partition(row),
            Topic::File(row) => file(row),
            Topic::Usage => usage(world),
        };
        lines.extend(self.failed.iter().map(|why| ("", format!("! {why}"))));
        lines
    }

    /// The lines as they fit a width.
    fn text(&self, world: &World, width: u16) -> Vec<String> {
        let label = usize::from(LABEL);
        let mut text = Vec::new();
        for (about, said) in self.lines(world) {
            let pieces = wrap(&printable(&said), width.saturating_sub(LABEL + 2));
            for (n, piece) in pieces.iter().enumerate() {
                text.push(format!(" {:<label$}{piece}", if n == 0 { about } else { "" }));
            }
            if pieces.is_empty() {
                text.push(String::new());
            }
        }
        text
    }

    fn scroll(&mut self, key: Option<Key>, world: &World) -> bool {
        let body = world.body();
        let lines = self.text(world, body.width).len();
        let height = rows_in(body) + 1;
        // What is selected is the last line that is seen, so that every key moves the sheet.
        let at = self.list.at().max(height.saturating_sub(1));
        match key {
            Some(Key::Home | Key::Char('g')) => self.list.select(0, lines, height),
            Some(Key::Up | Key::Char('k')) => self.list.select(self.list.top(), lines, height),
            _ => self.list.select(at, lines, height),
        }
        key.is_some_and(|key| self.list.press(key, lines, height))
    }
}

impl Page for Sheet {
    fn name(&self) -> &'static str {
        if matches!(self.topic, Topic::Usage) { "Store" } else { "Details" }
    }

    fn crumb(&self, world: &World) -> String {
        match &self.topic {
            Topic::Agent(id, _) => format!("{id}: details"),
            Topic::Disk(id) => {
                format!(
                    "{}: details",
                    world.disk(*id).map_or_else(|| id.to_string(), |row| row.device.clone())
                )
            }
            Topic::Point(row) => format!("{}: details", super::points::short(row.id)),
            Topic::Action(row, _) => format!("{} {}", row.kind, row.id),
            Topic::Partition(row) => format!("{}: details", row.partition.described()),
            Topic::File(row) => format!("{}: details", row.name),
            Topic::Usage => "store".to_owned(),
        }
    }

    fn keys(&self) -> &'static [Hint] {
        &KEYS
    }

    fn load(&mut self, _: &World) -> Vec<Order> {
        match &self.topic {
            Topic::Agent(id, _) => vec![Order::Load(Ask::Agent(id.clone()))],
            _ => Vec::new(),
        }
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        if self.scroll(Some(key), world) { nothing() } else { None }
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        match (&mut self.topic, reply) {
            (Topic::Agent(_, detail), Ok(Answer::Agent(found))) => *detail = Some(found),
            (Topic::Action(_, report), Ok(Answer::Report(found))) => *report = Some(Report::Verified(found)),
            (Topic::Action(_, report), Ok(Answer::Restored(found))) => {
                *report = Some(Report::Restored(found))
            }
            // A restore of a disk has none.
            (Topic::Action(..), Err(failure)) if failure.code == Some(ErrorCode::NotFound) => {}
            (_, Err(failure)) => self.failed = Some(failure.text),
            _ => {}
        }
        Vec::new()
    }

    fn refresh(&mut self, world: &World) -> Vec<Order> {
        self.scroll(None, world);
        let Topic::Action(row, _) = &mut self.topic else { return Vec::new() };
        if let Some(now) = world.action(row.id) {
            row.clone_from(&Box::new(now.clone()));
        }
        if !row.state.is_final() || std::mem::replace(&mut self.asked, true) {
            return Vec::new();
        }
        match row.kind {
            ActionKind::Verify => vec![Order::Load(Ask::Report(row.id))],
            ActionKind::Restore => vec![Order::Load(Ask::Restored(row.id))],
            _ => Vec::new(),
        }
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let lines = self.text(world, area.width);
        if lines.is_empty() {
            return frame::nothing(buffer, area, "It is gone.");
        }
        for (y, text) in (area.y..area.bottom()).zip(lines.iter().skip(self.list.top())) {
            line(buffer, Rect { y, ..area }, text, world.theme.row(text));
        }
    }
}

fn agent(id: &AgentId, detail: Option<&AgentDetail>, world: &World) -> Lines {
    let mut lines: Lines = vec![("agent", id.to_string())];
    if let Some(row) = world.agent(id) {
        lines.push(("state", if row.online { "● online" } else { "! offline" }.to_owned()));
        let seen = |t| format!("{}, {} ago", Clock(t), Span(seconds_between(t, world.now)));
        lines.push(("seen", row.last_seen.map_or("never".to_owned(), seen)));
        lines.push(("address", row.address.clone().unwrap_or_else(|| NONE.to_owned())));
        lines.push(("host", row.hostname.clone()));
        lines.push(("system", format!("{}, kernel {}", row.distribution, row.kernel)));
        lines.push(("machine", format!("{} CPUs, {}", row.cpus, ByteCount(row.memory))));
    }
    let Some(detail) = detail else { return lines };
    let Some(host) = &detail.footprint else {
        lines.push((
            "",
            "Its host is not known: it has not connected since the dispatcher was started.".to_owned(),
        ));
        return lines;
    };
    for interface in &host.interfaces {
        lines.push((
            "interface",
            format!("{} {} {}", interface.name, interface.mac, interface.addresses.join(" ")),
        ));
    }
    for disk in &host.disks {
        let identity = disk.identity.as_ref().map_or_else(|| "no identity".to_owned(), ToString::to_string);
        lines.push(("", String::new()));
        lines.push(("disk", format!("{} {} {} {identity}", disk.device, ByteCount(disk.bytes), disk.model)));
        for part in &disk.partitions {
            let size = ByteCount(part.sectors.saturating_mul(crate::model::units::SECTOR_BYTES));
            let holds = part.filesystem.as_ref().map_or_else(String::new, |fs| {
                let places: Vec<&str> = fs.mount_points.iter().map(String::as_str).collect();
                format!(" {} {} {}", fs.kind, fs.label, places.join(" "))
            });
            lines.push(("partition", format!("{} {size}{holds} {}", part.number, part.name)));
        }
    }
    lines
}

fn disk(row: &DiskRow, world: &World) -> Lines {
    let mut lines: Lines = vec![
        ("agent", row.agent.to_string()),
        ("device", row.device.clone()),
        ("identity", row.identity.clone()),
        ("id", row.id.to_string()),
        ("size", ByteCount(row.bytes).to_string()),
        ("state", disk_state(row.state).to_owned()),
    ];
    lines.extend(row.problem.iter().map(|problem| ("problem", format!("! {problem}"))));
    lines.extend([
        ("coverage", coverage(&row.coverage)),
        ("lag", span(row.newest_cut.map(|cut| seconds_between(cut, world.now)))),
        ("backlog", bytes(row.backlog)),
        ("points", row.points.to_string()),
        ("newest point", row.newest_point.map_or_else(|| NONE.to_owned(), |id| id.to_string())),
        ("newest cut", row.newest_cut.map_or_else(|| NONE.to_owned(), |cut| Clock(cut).to_string())),
    ]);
    lines.extend(row.notes.iter().map(|note| ("note", note.clone())));
    lines
}

fn point(row: &PointRow) -> Lines {
    let mut lines: Lines = vec![
        ("point", row.id.to_string()),
        ("cut", Clock(row.cut).to_string()),
        ("label", consistency(row.consistency).to_owned()),
        ("coverage", coverage(&row.coverage)),
        ("disk", format!("{} {} {} {}", row.agent, row.device, row.identity, ByteCount(row.disk_bytes))),
        ("kind", format!("{}, number {} of generation {}", row.kind, row.sequence, row.generation)),
        ("parent", row.parent.map_or_else(|| NONE.to_owned(), |id| id.to_string())),
        ("published", Clock(row.published).to_string()),
        ("changed", format!("{} of the disk", ByteCount(row.bytes))),
        ("stored", ByteCount(row.stored).to_string()),
        ("freeze", row.freeze_ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms"))),
        ("read again", count(row.contaminated, "granule")),
        ("cut id", row.cut_id.to_string()),
        ("cut with", if row.group.is_empty() { "no other disk".to_owned() } else { row.group.join(", ") }),
    ];
    lines.extend(row.notes.iter().map(|note| ("note", note.clone())));
    lines.extend(row.damage.iter().map(|damage| ("damage", format!("! {damage}"))));
    lines.extend(row.half_restored.map(|restore| ("restore", format!("! {}", mixture(restore)))));
    lines.extend(row.holes.sectors().map(|hole| {
        let many = count(hole.end.saturating_sub(hole.start), "sector");
        ("hole", format!("! {many} from sector {} could not be read", hole.start))
    }));
    lines.push(("rounds", row.rounds.to_string()));
    for (n, round) in row.each_round.iter().enumerate() {
        let millis = round.micros / 1_000;
        let again = count(round.contaminated, "granule");
        lines.push((
            "",
            format!("{}: {} in {millis} ms, {again} to be read again", n + 1, ByteCount(round.bytes)),
        ));
    }
    for hook in &row.hooks {
        let mark = if hook.succeeded() { "" } else { "! " };
        lines.push((
            "hook",
            format!("{mark}{} {} {} in {} ms", hook.stage, hook.program, hook.end, hook.millis),
        ));
        if !hook.output.is_empty() {
            lines.push(("", hook.output.clone()));
        }
    }
    lines
}

fn action(row: &ActionRow, world: &World) -> Lines {
    let done = ByteCount(row.done);
    let progress = match percent(row.done, row.total) {
        Some(percent) => {
            format!("{} {percent} % {done} of {}", bar(row.done, row.total, 40), ByteCount(row.total))
        }
        None => done.to_string(),
    };
    let mut lines: Lines = vec![
        ("action", row.id.to_string()),
        ("kind", row.kind.to_string()),
        ("state", action_state(row.state).to_owned()),
    ];
    if !row.reason.is_empty() {
        lines.push(("reason", row.reason.clone()));
    }
    lines.extend([
        ("agent", row.agent.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string)),
        ("device", row.device.clone().unwrap_or_else(|| NONE.to_owned())),
        ("progress", progress),
        ("rate", super::actions::pace(row, world).unwrap_or_else(|| NONE.to_owned())),
        ("begun", Clock(row.created).to_string()),
        ("updated", Clock(row.updated).to_string()),
    ]);
    lines
}

fn verified(report: &VerifyReport) -> Lines {
    let read = format!(
        "{}, {}, {} of {}",
        count(report.points, "point"),
        count(report.files, "file"),
        ByteCount(report.bytes),
        ByteCount(report.of_bytes)
    );
    let mut lines: Lines = vec![("verified", read)];
    if report.problems.is_empty() {
        lines.push(("", "● everything is as it was stored".to_owned()));
    }
    for problem in &report.problems {
        lines.push(("problem", format!("! {}: {}", problem.file, problem.what)));
        let points: Vec<String> = problem.points.iter().map(ToString::to_string).collect();
        if !points.is_empty() {
            lines.push(("", format!("points that depend on it: {}", points.join(", "))));
        }
    }
    lines.extend(report.incomplete.iter().map(|what| ("incomplete", what.clone())));
    lines
}

fn restored(report: &FilesReport) -> Lines {
    let place =
        report.agent.as_ref().map_or_else(|| "the dispatcher's host".to_owned(), |id| format!("agent {id}"));
    let mut lines: Lines = vec![("target", format!("{} on {place}", report.target))];
    match &report.outcome {
        Outcome::Restored(done) => {
            let Restored { folders, files, links, symlinks, special, bytes, skipped, same, failed, .. } =
                done;
            let written =
                format!("{} ({}), {}", count(*files, "file"), ByteCount(*bytes), count(*folders, "folder"));
            lines.push(("restored", written));
            lines.push((
                "",
                format!("{links} further names, {symlinks} symbolic links, {special} special files"),
            ));
            lines.push(("not written", format!("{skipped} skipped, {same} already there, {failed} failed")));
            lines.extend(done.problems.iter().map(|problem| {
                let what = if problem.failed { "! failed" } else { "skipped" };
                ("", format!("{what}: {}: {}", problem.path, problem.why))
            }));
        }
        Outcome::Planned(plan) => {
            lines.push(("dry run", "nothing was written".to_owned()));
            lines.extend(
                plan.steps.iter().map(|step| ("", format!("{} {} {}", step.action, step.kind, step.path))),
            );
        }
    }
    lines
}

fn partition(row: &PartitionRow) -> Lines {
    let known = |text: &str| if text.is_empty() { NONE.to_owned() } else { text.to_owned() };
    let mut lines: Lines = vec![
        ("partition", row.partition.to_string()),
        ("holds", known(&row.kind)),
        ("size", ByteCount(row.bytes).to_string()),
        ("from byte", row.start.to_string()),
        ("label", known(&row.label)),
        ("uuid", known(&row.uuid)),
        ("name", known(&row.name)),
        ("type", known(&row.type_code)),
    ];
    lines
        .push(("files", if row.browsable { "● can be shown".to_owned() } else { format!("- {}", row.note) }));
    lines
}

fn file(row: &FileRow) -> Lines {
    let mut lines: Lines = vec![
        ("path", format!("{}:{}", row.partition, row.path)),
        ("kind", row.kind.word().to_owned()),
        ("size", format!("{} ({} bytes)", ByteCount(row.bytes), row.bytes)),
        ("modified", row.modified.clone()),
        ("mode", row.mode.clone()),
        ("owner", format!("user {}, group {}", row.uid, row.gid)),
    ];
    lines.extend(row.target.iter().map(|target| ("leads to", target.clone())));
    lines
}

fn usage(world: &World) -> Lines {
    let Some(data) = &world.data else { return Vec::new() };
    let status = &data.status;
    let per_day = |bytes| format!("{} a day", ByteCount(bytes));
    let days = |days: u64| count(days, "day");
    let unknown = || "not known yet".to_owned();
    let mut lines: Lines = vec![
        ("store", status.data_dir.clone()),
        ("id", status.store.to_string()),
        ("points", format!("{} of {}", count(status.points, "point"), count(status.disks, "disk"))),
        ("stored", status.stored_bytes.map_or_else(unknown, |bytes| ByteCount(bytes).to_string())),
        ("free", status.free_bytes.map_or_else(unknown, |bytes| ByteCount(bytes).to_string())),
        ("used", used(status.stored_bytes, status.free_bytes)),
        ("growth", status.growth_bytes_per_day.map_or_else(unknown, per_day)),
        ("full in", status.days_to_full.map_or_else(|| "not at this growth".to_owned(), days)),
        ("", String::new()),
        ("dispatcher", format!("version {}, {}", status.version, status.listen)),
        ("up", Span(seconds_between(status.started, data.at)).to_string()),
        ("socket", world.socket.clone()),
        ("told", if world.told { "as it happens" } else { "only when asked, every 2 s" }.to_owned()),
        ("", String::new()),
    ];
    for disk in &data.disks {
        lines.push(("disk", format!("{} {} {}", disk.agent, disk.device, count(disk.points, "point"))));
    }
    lines
}

fn used(stored: Option<u64>, free: Option<u64>) -> String {
    let Some((stored, free)) = stored.zip(free) else { return NONE.to_owned() };
    let all = stored.saturating_add(free);
    let share = percent(stored, all).map_or_else(String::new, |percent| format!(" {percent} %"));
    format!("{}{share}", bar(stored, all, 40))
}
