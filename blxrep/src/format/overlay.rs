//! Layers of runs laid over each other: which of them is seen where.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Granules `start..end` of a disk are in the extent at position `at` of layer `layer`, behind the extent's first
/// `skip` granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub start: u32,
    pub end: u32,
    pub skip: u32,
    pub layer: u32,
    pub at: u64,
}

impl Run {
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.end - self.start
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// The part of this run that starts at `start`, which is within it.
    #[must_use]
    pub const fn from(self, start: u32) -> Self {
        Self { start, skip: self.skip + (start - self.start), ..self }
    }
}

/// Orders runs by who wins: a higher layer, and within one what was written later.
#[derive(Debug, PartialEq, Eq)]
struct ByAge(Run);

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.layer, self.0.at, self.0.start).cmp(&(other.0.layer, other.0.at, other.0.start))
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Lays runs over each other that come sorted by their first granule.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Runs that reach to `at` or behind it, and some that no longer do.
    active: BinaryHeap<ByAge>,
    /// Everything before this granule is known.
    at: u32,
    /// What was seen last: what comes next may be joined to it.
    last: Option<Run>,
    /// Runs that are active when those that are over are looked for.
    sweep_at: usize,
}

/// Fewer active runs are not worth a look.
const MIN_SWEEP: usize = 256;

impl Overlay {
    /// Takes the next run; appends what is then known to be seen.
    pub fn lay(&mut self, run: Run, seen: &mut Vec<Run>) {
        if run.is_empty() {
            return;
        }
        self.advance(run.start, seen);
        let age = ByAge(run);
        // What is hidden for all its length never shows; a long run would gather many of those below it.
        if self.active.peek().is_some_and(|top| top.0.end >= run.end && *top > age) {
            return;
        }
        self.active.push(age);
        if self.active.len() > self.sweep_at.max(MIN_SWEEP) {
            let at = self.at;
            self.active.retain(|run| run.0.end > at);
            self.sweep_at = 2 * self.active.len();
        }
    }

    /// Appends the rest.
    pub fn finish(mut self, seen: &mut Vec<Run>) {
        self.advance(u32::MAX, seen);
        seen.extend(self.last);
    }

    fn advance(&mut self, to: u32, seen: &mut Vec<Run>) {
        while self.at < to {
            while self.active.peek().is_some_and(|top| top.0.end <= self.at) {
                self.active.pop();
            }
            let Some(top) = self.active.peek().map(|top| top.0) else {
                self.at = to;
                return;
            };
            let end = top.end.min(to);
            self.see(Run { end, ..top.from(self.at) }, seen);
            self.at = end;
        }
    }

    fn see(&mut self, run: Run, seen: &mut Vec<Run>) {
        match &mut self.last {
            Some(last)
                if last.end == run.start
                    && (last.layer, last.at) == (run.layer, run.at)
                    && last.skip + last.len() == run.skip =>
            {
                last.end = run.end;
            }
            last => seen.extend(last.replace(run)),
        }
    }
}

/// What is seen from above: sorted, disjoint runs, neighbours from the same extent joined.
#[must_use]
pub fn flatten(mut runs: Vec<Run>) -> Vec<Run> {
    runs.retain(|run| !run.is_empty());
    runs.sort_unstable_by_key(|run| run.start);
    if runs.is_sorted_by(|a, b| a.end <= b.start) {
        return runs; // The common case: nothing was sent twice.
    }
    let mut seen = Vec::with_capacity(runs.len());
    let mut overlay = Overlay::default();
    runs.into_iter().for_each(|run| overlay.lay(run, &mut seen));
    overlay.finish(&mut seen);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A byte per granule, painted in the order of age.
    fn paint(runs: &[Run]) -> Vec<Option<(u32, u64, u32)>> {
        let mut canvas = vec![None; 300];
        let mut by_age = runs.to_vec();
        by_age.sort_by_key(|run| (run.layer, run.at));
        for run in by_age {
            for granule in run.start..run.end {
                canvas[granule as usize] = Some((run.layer, run.at, run.skip + granule - run.start));
            }
        }
        canvas
    }

    proptest! {
        #[test]
        fn what_is_seen_is_what_was_painted_last(
            runs in proptest::collection::vec((0u32..250, 0u32..50, 0u32..4, 0u32..3), 0..60)
        ) {
            let runs: Vec<Run> = runs
                .into_iter()
                .enumerate()
                .map(|(i, (start, len, skip, layer))| {
                    Run { start, end: start + len, skip, layer, at: i as u64 * 10 }
                })
                .collect();
            let seen = flatten(runs.clone());
            prop_assert_eq!(paint(&seen), paint(&runs));
            prop_assert!(seen.iter().all(|run| !run.is_empty()));
            prop_assert!(seen.is_sorted_by(|a, b| a.end <= b.start));
            prop_assert!(seen.len() <= 2 * runs.len());
        }
    }

    #[test]
    fn a_run_that_only_looks_cut_stays_one() {
        let below = Run { start: 5, end: 9, skip: 0, layer: 0, at: 1 };
        let above = Run { start: 0, end: 10, skip: 3, layer: 1, at: 0 };
        assert_eq!(flatten(vec![below, above]), vec![above]);
    }
}
