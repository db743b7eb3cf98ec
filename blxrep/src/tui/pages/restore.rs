//! Restores, step by step: where to and how, what would be done, and only then the doing.
//!
//! ```text
//! form -> checking -> plan -> [typed confirmation] -> begun (the page of its action)
//!   ^________|_________|____________|   Esc goes back
//! ```

use super::form::{Choice, Field, Form};
use super::{Picked, Sheet, Topic, nothing};
use crate::api::browse::PartitionRow;
use crate::api::error::ErrorCode;
use crate::api::types::{PointRow, RestoreBody};
use crate::model::ids::AgentId;
use crate::model::part_id::PartId;
use crate::model::point::mixture;
use crate::model::restoration::Conflict;
use crate::model::restored::{Outcome, Plan};
use crate::model::units::ByteCount;
use crate::tui::ask::{Answer, Ask, Reply};
use crate::tui::frame;
use crate::tui::key::{Hint, Key, hint};
use crate::tui::list::List;
use crate::tui::model::World;
use crate::tui::page::{Order, Page};
use crate::tui::prompt::{Prompt, Typed};
use crate::tui::table::{heading, line};
use crate::tui::words::{count, moment};
use crate::tui::wrap::wrap;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const FORM_KEYS: [Hint; 3] = [
    hint("Up Down", "field", "the field above, below"),
    hint("<- ->", "choose", "the choice before, after; moves in a text"),
    hint("Enter", "check", "ask what would be done; nothing is written"),
];
const PLAN_KEYS: [Hint; 3] = [
    hint("Enter", "restore", "do it"),
    hint("Up Down", "scroll", "scroll"),
    hint("Esc", "change", "go back and change something"),
];
const WAIT_KEYS: [Hint; 1] = [hint("Esc", "stop asking", "go back; nothing was written")];

/// Sentences of a plan are broken to fit every terminal.
const PLAN_WIDTH: u16 = 76;

/// Where to, the first field of every form.
const WHERE: usize = 0;
/// Path, the second.
const PATH: usize = 1;
/// A word that nobody types by accident, where files would be replaced.
const OVERWRITE: &str = "overwrite";

/// What of a point is restored.
#[derive(Clone, Debug)]
pub enum What {
    Files(Picked),
    Partition(Box<PartitionRow>),
    Disk,
}

#[derive(Debug)]
enum Stage {
    Form,
    /// The dispatcher was asked what would be done.
    Checking,
    /// What would be done.
    Plan {
        lines: Vec<String>,
        list: List,
        replaces: bool,
    },
    /// Something would be gone afterwards: `why` says what, and a word has to be typed.
    Confirm {
        why: String,
        word: String,
        /// What the dispatcher is told that was agreed to, where that may change meanwhile.
        about: Option<String>,
        prompt: Prompt,
    },
    /// The dispatcher was told to do it.
    Beginning,
}

#[derive(Debug)]
pub struct Restore {
    point: PointRow,
    what: What,
    /// Agents in the order of the choice.
    agents: Vec<AgentId>,
    form: Form,
    stage: Stage,
    failed: Option<String>,
}

impl Restore {
    #[must_use]
    pub fn new(point: PointRow, what: What, world: &World) -> Self {
        let agents: Vec<AgentId> = world.agents().iter().map(|row| row.id.clone()).collect();
        let form = form(&what, &point, world);
        let mut page = Self { point, what, agents, form, stage: Stage::Form, failed: None };
        page.fit();
        page
    }

    /// The agent that is chosen; `None` for the dispatcher.
    fn agent(&self) -> Option<String> {
        let at = self.form.choice(WHERE).checked_sub(1)?;
        self.agents.get(at).map(ToString::to_string)
    }

    fn is_on_agent(&self) -> bool {
        self.agent().is_some()
    }

    fn body(&self, dry_run: bool) -> RestoreBody {
        let (agent, path) = (self.agent(), self.form.text(PATH).to_owned());
        let body = RestoreBody { point: self.point.id.to_string(), agent, dry_run, ..RestoreBody::default() };
        if let What::Files(picked) = &self.what {
            let conflict = match self.form.choice(FILES_CONFLICT) {
                0 => Conflict::Skip,
                1 => Conflict::Rename,
                _ => Conflict::Overwrite,
            };
            return RestoreBody { paths: picked.paths(), target: Some(path), conflict, ..body };
        }
        let partition = if let What::Partition(row) = &self.what { Some(&row.partition) } else { None };
        let partition = partition.filter(|id| **id != PartId::DISK).cloned();
        let allow_holes = self.form.choice(HOLES) == 1;
        let body = RestoreBody { partition, allow_holes, ..body };
        if !self.is_on_agent() {
            return RestoreBody { to: Some(path), dry_run: false, ..body };
        }
        let (full, no_undo) = (self.form.choice(FULL) == 1, self.form.choice(UNDO) == 1);
        RestoreBody { device: Some(path), full, no_undo, ..body }
    }

    /// Asks what would be done. Of a restore to the dispatcher's host it is known: it is asked before it overwrites.
    fn check(&mut self) -> Vec<Order> {
        self.failed = None;
        if !self.form.text(PATH).starts_with('/') {
            self.failed = Some("A path begins with `/`.".to_owned());
            return Vec::new();
        }
        match (&self.what, self.is_on_agent()) {
            (What::Files(_), _) => {
                self.stage = Stage::Checking;
                vec![Order::Load(Ask::TryFiles(Box::new(self.body(true))))]
            }
            (_, true) => {
                self.stage = Stage::Checking;
                vec![Order::Load(Ask::Restore(Box::new(self.body(true))))]
            }
            (_, false) => {
                let lines = self.summary();
                self.stage = Stage::Plan { lines, list: List::default(), replaces: false };
                Vec::new()
            }
        }
    }

    /// `agreed` is what a person has seen and typed the word for.
    fn begin(&mut self, yes: bool, agreed: Option<String>) -> Vec<Order> {
        self.stage = Stage::Beginning;
        // Files are replaced as their `conflict` says.
        let yes = yes && !matches!(self.what, What::Files(_));
        vec![Order::Load(Ask::Restore(Box::new(RestoreBody { yes, agreed, ..self.body(false) })))]
    }

    /// What is restored, and where to.
    fn summary(&self) -> Vec<String> {
        let place =
            self.agent().map_or_else(|| "the dispatcher's host".to_owned(), |agent| format!("agent {agent}"));
        let bytes = match &self.what {
            What::Files(_) => None,
            What::Partition(row) => Some(row.bytes),
            What::Disk => Some(self.point.disk_bytes),
        };
        let size = bytes.map_or_else(String::new, |bytes| format!(", {}", ByteCount(bytes)));
        let mut lines = vec![
            format!("{}{size}", self.named()),
            format!("as it was at {} ({})", moment(self.point.cut), self.point.id),
            format!("to {} on {place}", self.form.text(PATH)),
        ];
        if !self.point.holes.is_empty() {
            lines.push(format!(
                "! {} of the point could not be read",
                count(self.point.holes.count(), "sector")
            ));
        }
        let mixture = self.point.half_restored.map(|restore| format!("! {}", mixture(restore)));
        lines.extend(mixture.iter().flat_map(|text| wrap(text, PLAN_WIDTH)));
        lines.extend(self.point.damage.first().map(|damage| format!("! the point is damaged: {damage}")));
        if !self.is_on_agent() && bytes.is_some() {
            lines.push(String::new());
            lines.push("What is there is not overwritten before you are asked.".to_owned());
        }
        lines
    }

    fn named(&self) -> String {
        let disk = format!("{} of {}", self.point.device, self.point.agent);
        match &self.what {
            What::Files(picked) => {
                let shown = picked.shown();
                if let [one] = &shown[..] { one.clone() } else { format!("{} files or folders", shown.len()) }
            }
            What::Partition(row) if row.partition != PartId::DISK => {
                format!("{} of {disk}", row.partition.described())
            }
            What::Partition(_) | What::Disk => format!("the whole disk {disk}"),
        }
    }

    fn checked(&mut self, reply: Reply) {
        match reply {
            Ok(Answer::Restored(report)) => {
                let (steps, replaces) = steps(&report.outcome);
                let lines = self.summary().into_iter().chain([String::new()]).chain(steps).collect();
                self.stage = Stage::Plan { lines, list: List::default(), replaces };
            }
            // A dry run of a disk: an action that has ended, with what was found as its reason.
            Ok(Answer::Action(action)) => {
                let found = action.reason.split("; ").map(str::to_owned);
                let found = found.flat_map(|text| wrap(&text, PLAN_WIDTH));
                let lines = self.summary().into_iter().chain([String::new()]).chain(found).collect();
                self.stage = Stage::Plan { lines, list: List::default(), replaces: false };
            }
            Ok(_) => {}
            Err(failure) => (self.stage, self.failed) = (Stage::Form, Some(failure.text)),
        }
    }

    fn begun(&mut self, reply: Reply) -> Vec<Order> {
        match reply {
            Ok(Answer::Action(action)) => {
                vec![Order::Replace(Box::new(Sheet::new(Topic::Action(Box::new(action), None))))]
            }
            Err(failure) if failure.code == Some(ErrorCode::Unconfirmed) => {
                self.confirm(failure.text, self.form.text(PATH).to_owned(), failure.about);
                Vec::new()
            }
            Err(failure) => {
                (self.stage, self.failed) = (Stage::Form, Some(failure.text));
                Vec::new()
            }
            Ok(_) => Vec::new(),
        }
    }

    fn confirm(&mut self, why: String, word: String, about: Option<String>) {
        let prompt = Prompt::new("Type it", "Enter does it, Esc does not", "");
        self.stage = Stage::Confirm { why, word, about, prompt };
    }

    /// What does not apply to this place or point is not asked for.
    fn fit(&mut self) {
        let (on_agent, holes) = (self.is_on_agent(), !self.point.holes.is_empty());
        if !matches!(self.what, What::Files(_)) {
            self.form.show(|field| match field {
                FULL | UNDO => on_agent,
                HOLES => holes,
                _ => true,
            });
        }
    }

    fn press_form(&mut self, key: Key) -> Option<Vec<Order>> {
        match key {
            Key::Enter => Some(self.check()),
            // Not left to the keys of every page: those are not asked while somebody types.
            Key::Esc => Some(vec![Order::Back]),
            key => {
                if self.form.press(key) {
                    self.fit();
                    return nothing();
                }
                // In a text every letter is meant as one.
                if self.form.is_text() { nothing() } else { None }
            }
        }
    }
}

/// Fields of a form for files, behind where and path.
const FILES_CONFLICT: usize = 2;
/// Fields of a form for disks and partitions.
const FULL: usize = 2;
const UNDO: usize = 3;
const HOLES: usize = 4;

fn form(what: &What, point: &PointRow, world: &World) -> Form {
    let agent = |row: &crate::api::types::AgentRow| {
        format!("agent {}{}", row.id, if row.online { "" } else { " (offline)" })
    };
    let places = ["this dispatcher".to_owned()].into_iter().chain(world.agents().iter().map(agent)).collect();
    let place = Field::choice("to", Choice::new(places));
    let choice = |label, choices: &[&str]| {
        Field::choice(label, Choice::new(choices.iter().map(|c| (*c).to_owned()).collect()))
    };
    if let What::Files(_) = what {
        let target = format!("/var/tmp/restored-{}", super::points::short(point.id));
        return Form::new(vec![
            place,
            Field::text("folder", &target, "made if it does not exist; paths are kept below it"),
            choice("if one exists", &["it stays", "restored as NAME.restored", "it is replaced"]),
        ]);
    }
    Form::new(vec![
        place,
        Field::text("file or device", "", "a new file, as /srv/disk.img, or a whole device"),
        choice("write", &["only what differs", "everything"]),
        choice("undo point", &["made first, if the target is kept in sync", "none"]),
        choice("unread sectors", &["refuse", "write zeroes for them"]),
    ])
}

/// The plan of a restore of files in lines, and whether anything would be replaced.
fn steps(outcome: &Outcome) -> (Vec<String>, bool) {
    let Outcome::Planned(Plan { steps, more, failed }) = outcome else { return (Vec::new(), false) };
    let number = |action: &str| steps.iter().filter(|step| step.action == action).count();
    let tally: Vec<String> = ["create", "replace", "rename", "skip", "refuse", "fail"]
        .into_iter()
        .filter(|action| number(action) > 0)
        .map(|action| format!("{action} {}", number(action)))
        .collect();
    let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
    let mut lines = vec![if tally.is_empty() {
        "Nothing would be done.".to_owned()
    } else {
        format!("{}; {}", tally.join(", "), ByteCount(bytes))
    }];
    if *failed > 0 {
        lines.push(format!("! {failed} could not be restored"));
    }
    for step in steps {
        let mark = if matches!(step.action.as_str(), "refuse" | "fail") { "! " } else { "" };
        let size = if step.kind == "file" { ByteCount(step.bytes).to_string() } else { String::new() };
        lines.push(format!("{mark}{:<8} {:<8} {size:>10}  {}", step.action, step.kind, step.path));
        if !step.why.is_empty() {
            lines.extend(wrap(&step.why, PLAN_WIDTH - 9).iter().map(|why| format!("         {why}")));
        }
    }
    if *more > 0 {
        lines.push(format!("and {}", count(*more, "further step")));
    }
    (lines, number("replace") > 0 || *more > 0)
}

impl Page for Restore {
    fn name(&self) -> &'static str {
        "Restore"
    }

    fn crumb(&self, _: &World) -> String {
        format!("restore {}", self.named())
    }

    fn keys(&self) -> &'static [Hint] {
        match self.stage {
            Stage::Form => &FORM_KEYS,
            Stage::Plan { .. } => &PLAN_KEYS,
            Stage::Checking | Stage::Confirm { .. } | Stage::Beginning => &WAIT_KEYS,
        }
    }

    fn press(&mut self, key: Key, world: &World) -> Option<Vec<Order>> {
        let height = usize::from(world.body().height.saturating_sub(1));
        match &mut self.stage {
            Stage::Form => return self.press_form(key),
            // What was told to be done is being done: its answer is waited for.
            Stage::Beginning => {}
            Stage::Checking if key == Key::Esc => self.stage = Stage::Form,
            // Everything else would leave what is being asked for.
            Stage::Checking => {}
            Stage::Plan { replaces, .. } if key == Key::Enter => {
                if !*replaces || self.form.choice(FILES_CONFLICT) != 2 || !matches!(self.what, What::Files(_))
                {
                    return Some(self.begin(false, None));
                }
                let why = "Files that exist would be replaced, and what they hold now would be gone.";
                self.confirm(why.to_owned(), OVERWRITE.to_owned(), None);
            }
            Stage::Plan { .. } if key == Key::Esc => self.stage = Stage::Form,
            Stage::Plan { lines, list, .. } => {
                return if list.press(key, lines.len(), height) { nothing() } else { None };
            }
            Stage::Confirm { word, about, prompt, .. } => match prompt.press(key) {
                Typed::Left => self.stage = Stage::Form,
                Typed::Done if prompt.text() == word => {
                    let agreed = about.take();
                    return Some(self.begin(true, agreed));
                }
                Typed::Done => {
                    let why = format!("that is not `{word}`");
                    prompt.complain(why);
                }
                Typed::On => {}
            },
        }
        nothing()
    }

    fn answer(&mut self, reply: Reply, _: &World) -> Vec<Order> {
        match self.stage {
            Stage::Checking => self.checked(reply),
            Stage::Beginning => return self.begun(reply),
            Stage::Form | Stage::Plan { .. } | Stage::Confirm { .. } => {}
        }
        Vec::new()
    }

    fn prompt(&self) -> Option<&Prompt> {
        if let Stage::Confirm { prompt, .. } = &self.stage { Some(prompt) } else { None }
    }

    fn is_typing(&self) -> bool {
        self.prompt().is_some() || (matches!(self.stage, Stage::Form) && self.form.is_text())
    }

    fn draw(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let title = match &self.stage {
            Stage::Form => "Restore: where to, and how",
            Stage::Checking => "Restore: asking what would be done",
            Stage::Plan { .. } => "Restore: this would be done",
            Stage::Confirm { .. } => "Restore: something would be gone afterwards",
            Stage::Beginning => "Restore: it is being begun",
        };
        heading(buffer, area, title, world.theme);
        let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        let lines: Vec<String> = match &self.stage {
            Stage::Form => return self.draw_form(world, body, buffer),
            Stage::Checking | Stage::Beginning => self.summary(),
            Stage::Plan { lines, list, .. } => lines[list.top().min(lines.len())..].to_vec(),
            Stage::Confirm { why, word, .. } => {
                wrap(&format!("! {why}\n\nTo do it, type `{word}` below."), area.width.saturating_sub(2))
            }
        };
        for (y, text) in (body.y..body.bottom()).zip(lines) {
            line(buffer, Rect { y, ..body }, &format!(" {text}"), world.theme.row(&text));
        }
    }
}

impl Restore {
    fn draw_form(&self, world: &World, area: Rect, buffer: &mut Buffer) {
        let named = format!(" {}, as it was at {}", self.named(), moment(self.point.cut));
        line(buffer, area, &named, world.theme.strong());
        let fields = Rect { y: area.y + 2, height: area.height.saturating_sub(2), ..area };
        let used = self.form.draw(world.theme, fields, buffer);
        let below = Rect { y: fields.y + used + 1, height: fields.height.saturating_sub(used + 1), ..area };
        if let Some(why) = &self.failed {
            return frame::detail(world, &format!("! {why}"), below, buffer);
        }
        let text = if self.is_on_agent() {
            "What may be written there is said by the agent's own configuration: its section `restore`. A refusal names \
             the line that allows it. Nothing is written before you have seen what would be done."
        } else {
            "Nothing is written before you have seen what would be done."
        };
        frame::detail(world, text, below, buffer);
    }
}
