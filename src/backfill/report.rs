//! The report of a replay: what was asked, what was sent, and what came of it; JSON for a file.

use super::range::Span;
use super::tally::ReplayTally;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::Path;

/// A partition's part in the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportSpan {
    /// The partition of the source.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
    /// Offsets of the range that the log no longer had.
    pub deleted: i64,
}

/// What a replay did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its id; it goes on under it.
    pub id: String,
    /// The topic or file.
    pub source: String,
    /// Whether nothing was sent.
    pub dry_run: bool,
    /// Whether the whole source was read.
    pub complete: bool,
    /// Whether source positions were stamped: the source is this worker's own commands topic.
    pub positions_kept: bool,
    /// The ranges; empty for a file.
    pub ranges: Vec<ReportSpan>,
    /// Commands sent, by all runs of this id; of a dry run those decided.
    pub commands: u64,
    /// Records read by this run that were not meant.
    pub passed_over: u64,
    /// Lines that this run has set aside.
    pub set_aside: u64,
    /// What became of the commands, where it was waited for or decided.
    pub tally: Option<ReplayTally>,
    /// When this run began, milliseconds since the epoch.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
}

impl Report {
    /// The spans as the report shows them.
    pub fn ranges(spans: &[Span]) -> Vec<ReportSpan> {
        let shown = |s: &Span| ReportSpan { partition: s.partition, from: s.from, to: s.to, deleted: s.deleted };
        spans.iter().map(shown).collect()
    }

    /// Whether it can be written there, found out before anything is sent.
    pub fn check(path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            return fs::File::options().append(true).open(path).map(drop);
        }
        let temporary = path.with_extension("part");
        fs::write(&temporary, b"")?;
        fs::remove_file(&temporary)
    }

    /// Writes it: into a regular file whole or not at all, into anything else (a pipe, a device) as it is.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            return fs::write(path, text);
        }
        let temporary = path.with_extension("part");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, path)
    }
}
