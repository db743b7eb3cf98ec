//! Progress of an action on stderr: a bar on a terminal, a line every two seconds elsewhere.

use super::output::say;
use crate::api::text::{Span, percent, printable};
use crate::api::types::ActionRow;
use crate::model::action::ActionState;
use crate::model::units::ByteCount;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines where no bar can be drawn: few enough for a log, often enough to see that it lives.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Between two steps of a spinner: it turns without flickering.
const SPIN_EVERY: Duration = Duration::from_millis(200);
/// Template of a bar; its message carries state, rate and time left.
const BAR: &str = "{prefix} {wide_bar} {percent:>3} % {msg}";
/// The same while the total is not known.
const SPINNER: &str = "{spinner} {prefix} {msg}";

/// What is shown of one action.
#[derive(Debug)]
pub struct Progress {
    label: String,
    pace: Pace,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Bar(ProgressBar),
    Lines { last: Option<(Instant, ActionState)> },
}

impl Progress {
    pub fn of(action: &ActionRow, now: Instant) -> Self {
        let label = printable(&match &action.device {
            Some(device) => format!("{} {device}", action.kind),
            None => action.kind.to_string(),
        });
        let sink = if std::io::stderr().is_terminal() {
            let bar = new_bar();
            bar.set_prefix(label.clone());
            Sink::Bar(bar)
        } else {
            Sink::Lines { last: None }
        };
        Self { label, pace: Pace { since: now, done: action.done }, sink }
    }

    pub fn show(&mut self, action: &ActionRow, now: Instant) {
        let figures = self.figures(action, now);
        match &mut self.sink {
            Sink::Bar(bar) => {
                let template = if action.total > 0 { BAR } else { SPINNER };
                // Both templates are constants; were one wrong, the default bar would be drawn.
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_length(action.total);
                bar.set_position(action.done);
                bar.set_message(figures);
                bar.tick();
            }
            Sink::Lines { last } => {
                let due = last.is_none_or(|(at, state)| state != action.state || now - at >= LINE_EVERY);
                if due {
                    *last = Some((now, action.state));
                    let percent =
                        percent(action.done, action.total).map(|p| format!(" {p} %")).unwrap_or_default();
                    say(&format!("{}:{percent} {figures}", self.label));
                }
            }
        }
    }

    /// Takes the bar away; the result is printed in its place.
    pub fn clear(&self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }

    /// `1.2 GiB of 4.0 GiB, 200.0 MiB/s, 14 s left`, or why nothing moves.
    fn figures(&self, action: &ActionRow, now: Instant) -> String {
        if action.state != ActionState::Running {
            let reason =
                if action.reason.is_empty() { String::new() } else { format!(": {}", action.reason) };
            return printable(&format!("{}{reason}", action.state));
        }
        let mut text = ByteCount(action.done).to_string();
        if action.total > 0 {
            text = format!("{text} of {}", ByteCount(action.total));
        }
        let Some(rate) = self.pace.rate(action.done, now) else {
            return text;
        };
        text = format!("{text}, {}/s", ByteCount(rate));
        match action.total.saturating_sub(action.done).checked_div(rate) {
            Some(left) if action.total > 0 => format!("{text}, {} left", Span(left)),
            _ => text,
        }
    }
}

/// Shows that something without figures is being waited for, until it ends.
pub async fn waiting<T>(label: &str, what: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let spinner = std::io::stderr().is_terminal().then(new_bar);
    let mut ticks = tokio::time::interval(if spinner.is_some() { SPIN_EVERY } else { LINE_EVERY });
    // The first tick comes at once, when there is nothing to tell yet.
    ticks.tick().await;
    tokio::pin!(what);
    loop {
        tokio::select! {
            done = &mut what => return done,
            _ = ticks.tick() => {
                let line = format!("{label}: waiting for {}", Span(began.elapsed().as_secs()));
                match &spinner {
                    Some(bar) => {
                        bar.set_style(ProgressStyle::default_spinner());
                        bar.set_message(printable(&line));
                        bar.tick();
                    }
                    None => say(&line),
                }
            }
        }
    }
}

/// A bar on stderr that goes away when it is dropped.
fn new_bar() -> ProgressBar {
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_finish(ProgressFinish::AndClear)
}

/// Average speed since the action was first seen: what was done before that was not done at this speed.
#[derive(Debug)]
struct Pace {
    since: Instant,
    done: u64,
}

impl Pace {
    /// Bytes per second; `None` before there is a full second to judge by.
    fn rate(&self, done: u64, now: Instant) -> Option<u64> {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).ok()?;
        let moved = u128::from(done.saturating_sub(self.done));
        if millis < 1_000 { None } else { u64::try_from(moved * 1_000 / u128::from(millis)).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_only_what_was_seen() {
        let since = Instant::now();
        let pace = Pace { since, done: 1_000_000 };
        assert_eq!(pace.rate(2_000_000, since + Duration::from_millis(999)), None);
        assert_eq!(pace.rate(3_000_000, since + Duration::from_secs(4)), Some(500_000));
        assert_eq!(pace.rate(500_000, since + Duration::from_secs(4)), Some(0), "begun again from the start");
    }
}
