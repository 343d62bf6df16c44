//! Owns what the tests have measured, and the table that a run ends with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// One recovery: seconds until a command sent after the moment that counts was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recovery {
    /// In the first partition that answered.
    pub first: f64,
    /// In the last one.
    pub every: f64,
}

/// What one test says of one fault.
#[derive(Clone, Debug)]
pub struct Row {
    /// The fault, in words.
    pub fault: &'static str,
    /// What the worker does about it.
    pub reaction: &'static str,
    /// The moment from which seconds count.
    pub from: &'static str,
    /// Each time that it was measured.
    pub recoveries: Vec<Recovery>,
    /// How often a process ended with exit code 1 and was started again.
    pub restarts: usize,
}

/// The rows of a run, in the order of the tests' names.
#[derive(Default)]
pub struct Table(Mutex<BTreeMap<String, Row>>);

impl Table {
    /// Adds what a test has found.
    pub fn add(&self, test: &str, row: Row) {
        eprintln!("{test}: {row:?}");
        self.0.lock().unwrap().insert(test.to_string(), row);
    }

    /// As Markdown.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| fault | what the worker does | seconds count from | first answer, s | every partition, s | times | restarts |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for row in self.0.lock().unwrap().values() {
            let (first, every) = (of(row, |r| r.first), of(row, |r| r.every));
            let (fault, reaction, from, times) = (row.fault, row.reaction, row.from, row.recoveries.len());
            text += &format!("| {fault} | {reaction} | {from} | {first} | {every} | {times} | {} |\n", row.restarts);
        }
        text
    }

    /// Writes it beside what cargo built; `None` when there is nothing to write.
    pub fn write(&self) -> Option<PathBuf> {
        if self.0.lock().unwrap().is_empty() {
            return None;
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.md");
        std::fs::write(&path, self.text()).ok().map(|()| path)
    }
}

/// The median, and the worst where there are several.
fn of(row: &Row, which: impl Fn(&Recovery) -> f64) -> String {
    let mut all: Vec<f64> = row.recoveries.iter().map(which).collect();
    all.sort_by(f64::total_cmp);
    match all.as_slice() {
        [] => "–".into(),
        [one] => format!("{one:.1}"),
        [.., worst] => format!("{:.1}, worst {worst:.1}", all[all.len() / 2]),
    }
}
