//! Logs: text for a person at a terminal, JSON otherwise; one line when a state changes, none per record, never a payload.
//!
//! Warnings that repeat are limited by their place in the code; the last ones are kept for the status page.

use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines of one place in the code within [`EVERY`], beyond which they are left out.
const MOST: u32 = 10;
const EVERY: Duration = Duration::from_secs(30);
/// How many warnings and errors the status page shows.
const KEPT: usize = 20;

/// How log lines are written (`log.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}

/// Starts logging to standard error. A second call changes nothing.
pub fn init(format: LogFormat, level: LevelFilter) {
    let terminal = std::io::stderr().is_terminal();
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt::format().with_target(false);
    let registry = tracing_subscriber::registry().with(level).with(Recent);
    // An error means that logging was started before.
    let _ = if json {
        let lines = Limited::new(lines.json().flatten_event(true), json);
        let fields = tracing_subscriber::fmt::format::JsonFields::new();
        let layer = tracing_subscriber::fmt::layer().event_format(lines).fmt_fields(fields);
        registry.with(layer.with_writer(std::io::stderr)).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer().with_ansi(colour).event_format(Limited::new(lines, json));
        registry.with(layer.with_writer(std::io::stderr)).try_init()
    };
}

/// Leaves out warnings of one place in the code beyond a number in a time, and says how many.
struct Limited<F> {
    lines: F,
    json: bool,
    budgets: Mutex<HashMap<Identifier, Budget>>,
}

struct Budget {
    since: Instant,
    lines: u32,
}

impl<F> Limited<F> {
    fn new(lines: F, json: bool) -> Self {
        Self { lines, json, budgets: Mutex::default() }
    }

    /// `None` to leave a line out; else how many were left out before it.
    fn pass(&self, place: Identifier, now: Instant) -> Option<u32> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = budgets.entry(place).or_insert(Budget { since: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(budget.since) >= EVERY {
            left_out = budget.lines.saturating_sub(MOST);
            *budget = Budget { since: now, lines: 0 };
        }
        budget.lines += 1;
        (budget.lines <= MOST).then_some(left_out)
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        // Errors say what nobody may miss, and each has a cause of its own.
        if *event.metadata().level() == Level::WARN {
            match self.pass(event.metadata().callsite(), Instant::now()) {
                None => return Ok(()),
                Some(0) => {}
                Some(n) if self.json => writeln!(
                    out,
                    "{{\"level\":\"WARN\",\"message\":\"lines like the next one were left out\",\"lines\":{n}}}"
                )?,
                Some(n) => writeln!(out, "({n} lines like the next one were left out)")?,
            }
        }
        self.lines.format_event(ctx, out, event)
    }
}

/// A warning or an error as the status page shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// When it last occurred, milliseconds since the epoch.
    pub at_ms: i64,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// The line.
    pub text: String,
    /// How often it occurred in a row.
    pub times: u64,
}

static LINES: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());

/// The last warnings and errors of the process, the newest first.
pub fn recent() -> Vec<Line> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

/// Keeps the last warnings and errors.
struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        keep(Line { at_ms, level: event.metadata().level().as_str(), text: text.whole(), times: 1 });
    }
}

fn keep(line: Line) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    match lines.iter().position(|l| l.level == line.level && l.text == line.text) {
        Some(at) => {
            if let Some(former) = lines.remove(at) {
                lines.push_front(Line { times: former.times + 1, ..line });
            }
        }
        None => lines.push_front(line),
    }
    lines.truncate(KEPT);
}

/// An event's message and fields as one line.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(mut self) -> String {
        self.message.push_str(&self.fields);
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Callsite as _;

    #[test]
    fn lines_that_repeat_are_limited_and_counted() {
        let limited = Limited::new((), false);
        let place = || {
            tracing::callsite!(name: "x", kind: tracing::metadata::Kind::EVENT, fields: message).metadata().callsite()
        };
        let (now, one) = (Instant::now(), place());
        let passed = (0..100).filter(|_| limited.pass(one.clone(), now).is_some()).count();
        assert_eq!(passed, MOST as usize);
        assert_eq!(limited.pass(one.clone(), now + EVERY), Some(100 - MOST));
        assert_eq!(limited.pass(one, now + EVERY), Some(0));
    }

    #[test]
    fn the_last_lines_are_kept_once_each() {
        let line = |text: &str| Line { at_ms: 1, level: "WARN", text: text.into(), times: 1 };
        (0..50).for_each(|i| keep(line(&format!("line {i}"))));
        keep(line("line 40"));
        let kept = recent();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept[0].text.as_str(), kept[0].times), ("line 40", 2));
    }
}
