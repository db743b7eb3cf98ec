//! What became of files that were restored, or what would become of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Problems, or steps of a plan, that are told one by one.
pub const MAX_TOLD: usize = 1000;
/// Bytes of text in all of them together; what does not fit is only counted.
pub const MAX_TOLD_BYTES: usize = 256 << 10;
/// Entries of one piece of an outcome, so that it fits a message.
pub const PIECE_TEXTS: usize = 6;
/// The longest text of one path or reason; of a longer one only its end is told.
const MAX_TEXT_BYTES: usize = 4096;

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    pub folders: u64,
    pub files: u64,
    /// Further names of files.
    pub links: u64,
    pub symlinks: u64,
    /// Fifos, sockets and devices.
    pub special: u64,
    /// Bytes of data written.
    pub bytes: u64,
    /// Left as they were, because something of that name existed.
    pub skipped: u64,
    /// Found to be there already, just as they should be.
    pub same: u64,
    pub failed: u64,
    /// The first of those that failed or were skipped.
    pub problems: Vec<Problem>,
}

/// What a restore would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The first steps.
    pub steps: Vec<Step>,
    /// Further ones.
    pub more: u64,
    /// Entries that could not be restored, of all.
    pub failed: u64,
}

/// What became of one entry that was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Below the target, to be shown.
    pub path: String,
    pub why: String,
    /// It should have been restored.
    pub failed: bool,
}

/// What would be done with one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Below the target, to be shown.
    pub path: String,
    /// `file`, `folder` and so on.
    pub kind: String,
    /// `create`, `replace`, `rename`, `skip`, `refuse` or `fail`.
    pub action: String,
    pub bytes: u64,
    /// Why not created, where that is so.
    pub why: String,
}

/// What came of a restore of files, real or tried. Several pieces add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Restored(Report),
    Planned(Plan),
}

impl Outcome {
    #[must_use]
    pub fn new(dry_run: bool) -> Self {
        if dry_run { Self::Planned(Plan::default()) } else { Self::Restored(Report::default()) }
    }

    /// Adds a piece. `false` if it is of another kind.
    pub fn add(&mut self, piece: Self) -> bool {
        match (self, piece) {
            (Self::Restored(report), Self::Restored(piece)) => report.add(piece),
            (Self::Planned(plan), Self::Planned(piece)) => plan.add(piece),
            _ => return false,
        }
        true
    }

    /// The same in pieces, each of which has [`PIECE_TEXTS`] entries at most.
    #[must_use]
    pub fn pieces(self) -> Vec<Self> {
        match self {
            Self::Restored(mut counts) => {
                let problems = std::mem::take(&mut counts.problems);
                let told = problems.chunks(PIECE_TEXTS);
                let told = told.map(|some| Report { problems: some.to_vec(), ..Report::default() });
                told.chain([counts]).map(Self::Restored).collect()
            }
            Self::Planned(Plan { steps, more, failed }) => {
                let told = steps.chunks(PIECE_TEXTS);
                let told = told.map(|some| Plan { steps: some.to_vec(), ..Plan::default() });
                told.chain([Plan { steps: Vec::new(), more, failed }]).map(Self::Planned).collect()
            }
        }
    }

    /// Entries that could not be restored.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        match self {
            Self::Restored(report) => report.failed,
            Self::Planned(plan) => plan.failed,
        }
    }
}

impl Report {
    /// Whether all that should be restored was.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.failed == 0
    }

    /// Counts an entry that was not restored.
    pub fn problem(&mut self, path: &str, why: &str, failed: bool) {
        *(if failed { &mut self.failed } else { &mut self.skipped }) += 1;
        self.tell(Problem { path: end_of(path), why: end_of(why), failed });
    }

    /// Tells of one that is counted already.
    pub fn tell(&mut self, problem: Problem) {
        let told: usize = self.problems.iter().map(Problem::bytes).sum();
        if self.problems.len() < MAX_TOLD && told + problem.bytes() <= MAX_TOLD_BYTES {
            self.problems.push(problem);
        }
    }

    /// Adds what became of another part.
    pub fn add(&mut self, part: Self) {
        let Self { folders, files, links, symlinks, special, bytes, skipped, same, failed, problems } = part;
        self.folders = self.folders.saturating_add(folders);
        self.files = self.files.saturating_add(files);
        self.links = self.links.saturating_add(links);
        self.symlinks = self.symlinks.saturating_add(symlinks);
        self.special = self.special.saturating_add(special);
        self.bytes = self.bytes.saturating_add(bytes);
        self.skipped = self.skipped.saturating_add(skipped);
        self.same = self.same.saturating_add(same);
        self.failed = self.failed.saturating_add(failed);
        problems.into_iter().for_each(|problem| self.tell(problem));
    }
}

impl Problem {
    const fn bytes(&self) -> usize {
        self.path.len() + self.why.len()
    }
}

impl Step {
    /// Whether the entry could not be restored.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.action.as_str(), "refuse" | "fail")
    }

    const fn bytes(&self) -> usize {
        self.path.len() + self.why.len() + self.kind.len() + self.action.len()
    }
}

impl Plan {
    /// Adds a step.
    pub fn step(&mut self, step: Step) {
        self.failed += u64::from(step.is_failure());
        self.tell(step);
    }

    /// Adds what would become of another part.
    pub fn add(&mut self, part: Self) {
        self.failed = self.failed.saturating_add(part.failed);
        part.steps.into_iter().for_each(|step| self.tell(step));
        self.more = self.more.saturating_add(part.more);
    }

    fn tell(&mut self, step: Step) {
        let step = Step { path: end_of(&step.path), why: end_of(&step.why), ..step };
        let told: usize = self.steps.iter().map(Step::bytes).sum();
        match self.more == 0 && self.steps.len() < MAX_TOLD && told + step.bytes() <= MAX_TOLD_BYTES {
            true => self.steps.push(step),
            false => self.more += 1,
        }
    }
}

/// A text that is short enough to be told.
fn end_of(text: &str) -> String {
    match text.len().checked_sub(MAX_TEXT_BYTES) {
        None | Some(0) => text.to_owned(),
        Some(surplus) => format!("...{}", &text[text.ceil_char_boundary(surplus + 3)..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(of: impl Iterator<Item = String>) -> Report {
        let mut report = Report { files: 1, ..Report::default() };
        of.for_each(|path| report.problem(&path, "it exists", path.len() % 2 == 0));
        report
    }

    #[test]
    fn problems_are_counted_and_the_first_are_told() {
        let report = report((0..1005).map(|n| n.to_string()));
        assert_eq!((report.failed + report.skipped, report.problems.len()), (1005, MAX_TOLD));
        let mut sum = report.clone();
        sum.add(report);
        assert_eq!((sum.files, sum.failed + sum.skipped, sum.problems.len()), (2, 2010, MAX_TOLD));
        assert!(!sum.is_complete());
        let whole = Outcome::Restored(sum);
        let mut sum = Outcome::new(false);
        assert!(whole.clone().pieces().into_iter().all(|piece| sum.add(piece)));
        assert_eq!(sum, whole);
    }

    #[test]
    fn long_paths_are_told_by_their_ends_and_take_bounded_room() {
        let report = report((0..1000).map(|n| format!("{}{n}", "\u{e9}".repeat(70_000))));
        assert_eq!((report.failed + report.skipped, report.problems.len()), (1000, 63));
        assert!(
            report.problems[7].path.starts_with("...\u{e9}") && report.problems[7].path.ends_with("\u{e9}7")
        );
        assert!(report.problems.iter().all(|problem| problem.path.len() <= MAX_TEXT_BYTES));
    }

    #[test]
    fn a_plan_tells_its_first_steps_and_counts_all() {
        let mut plan = Plan::default();
        for n in 0..1200u32 {
            let action = if n % 2 == 0 { "create" } else { "refuse" };
            let (path, kind, action) = (n.to_string(), "file".to_owned(), action.to_owned());
            plan.step(Step { path, kind, action, bytes: 0, why: String::new() });
        }
        assert_eq!((plan.steps.len(), plan.more, plan.failed), (MAX_TOLD, 200, 600));
        assert_eq!(plan.steps[999].path, "999", "without a gap");
        let whole = Outcome::Planned(plan);
        let mut sum = Outcome::new(true);
        assert!(whole.clone().pieces().into_iter().all(|piece| sum.add(piece)));
        assert!(sum == whole && sum.failed() == 600);
        assert!(!sum.add(Outcome::new(false)), "a report is no plan");
    }
}
