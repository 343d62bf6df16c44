//! Logs: text for a person at a terminal, JSON otherwise; one line when a state changes, none per record.

use std::io::IsTerminal as _;
use tracing::level_filters::LevelFilter;

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
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    // An error means that logging was started before.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.with_ansi(colour).try_init() };
}
