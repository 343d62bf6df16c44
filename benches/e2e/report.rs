//! What was measured, as a table and as JSON, and what changed since another run.

use crate::latency::Latency;
use crate::measure::Throughput;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// How much worse a ratio to the floor may be than a saved run's: what two runs of the same program were seen to differ by.
const TOLERANCE: f64 = 1.0 + 1.0 / 6.0;

pub type Measured = (Throughput, Option<Latency>);

/// A workload's contestants.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub workload: String,
    pub about: String,
    /// Fixed contents.
    pub floor: Measured,
    /// The worker's contents.
    pub same: Measured,
    pub worker: Measured,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.worker.0.cpu_s_per_million / self.floor.0.cpu_s_per_million
    }
    fn ratio_of_same(&self) -> f64 {
        self.worker.0.cpu_s_per_million / self.same.0.cpu_s_per_million
    }
}

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    rate: u64,
    rows: Vec<Row>,
}

impl Report {
    pub fn new(rate: u64) -> Self {
        println!(
            "\nCPU seconds per million commands: whole run, second half. Latency in ms at {rate} commands a second.\n"
        );
        println!("| workload | | CPU-s/M | 2nd half | to floor | commands/s | p50 | p99 | peak RSS, MiB |");
        println!("|---|---|---|---|---|---|---|---|---|");
        Self { rate, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        let print = |name: &str, who: &str, (t, latency): &Measured, ratio: String| {
            let ms = |of: fn(&Latency) -> f64| latency.as_ref().map_or("–".to_owned(), |l| format!("{:.1}", of(l)));
            println!(
                "| {name} | {who} | {:.2} | {} | {ratio} | {:.0} | {} | {} | {:.0} |",
                t.cpu_s_per_million,
                t.cpu_s_per_million_second_half.map_or("–".to_owned(), |s| format!("{s:.2}")),
                t.commands_per_second,
                ms(|l| l.p50_ms),
                ms(|l| l.p99_ms),
                t.peak_rss_mib
            );
        };
        print(&row.workload, "floor", &row.floor, String::new());
        print("", "floor, the worker's contents", &row.same, String::new());
        print(&row.about, "worker", &row.worker, format!("{:.2}, {:.2}", row.ratio(), row.ratio_of_same()));
        self.rows.push(row);
    }

    pub fn save(&self, path: &Path) {
        fs::write(path, serde_json::to_vec_pretty(self).unwrap()).unwrap();
        println!("\nsaved: {}", path.display());
    }

    /// Says what changed since a saved run, and whether it is worse.
    pub fn hold_against(&self, saved: &Path) -> ExitCode {
        let saved: Self = serde_json::from_slice(&fs::read(saved).unwrap()).unwrap();
        let mut worse = false;
        println!("\n| workload | CPU to floor, saved | now | |\n|---|---|---|---|");
        for row in &self.rows {
            let Some(former) = saved.rows.iter().find(|r| r.workload == row.workload) else { continue };
            let change = row.ratio() / former.ratio();
            let verdict = if change > TOLERANCE { "worse" } else { "" };
            worse |= change > TOLERANCE;
            println!(
                "| {} | {:.2} | {:.2} | {:+.0} % {verdict} |",
                row.workload,
                former.ratio(),
                row.ratio(),
                (change - 1.0) * 100.0
            );
        }
        if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
