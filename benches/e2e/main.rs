//! The worker as a process on a real broker, beside a bare copy loop on the same load: `cargo bench --bench e2e [-- WORKLOAD…]`.
//!
//! A benchmark, not a test: it says what it measured and judges nothing, save where it is held `--against` a saved run. CPU is the
//! figure to trust on a shared machine, and its ratio to the floor of the same run before all.

// All of this is a program that measures: what cannot be made is its own failure.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod events;
mod floor;
mod latency;
mod load;
mod measure;
mod report;
mod sample;
#[path = "../../tests/broker/support/mod.rs"]
#[allow(dead_code, reason = "the broker tests use all of it")]
mod support;
mod workload;

use clap::Parser;
use measure::Contestant;
use report::{Measured, Report, Row};
use sample::Sample;
use std::path::PathBuf;
use std::process::ExitCode;
use support::broker::Broker;
use support::{Ctx, Site};
use workload::{WORKLOADS, Workload};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures the worker and the floor on one broker.
#[derive(Parser)]
struct Arguments {
    /// Workloads by name; all but `many` by default.
    workloads: Vec<String>,
    /// Commands of each workload; `many` has ten million.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Loops of both contestants.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Partitions, in place of each workload's own.
    #[arg(long)]
    partitions: Option<i32>,
    /// Commands a second while latency is measured; 0: it is not.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Seconds for which latency is measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the run is saved as JSON.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/e2e.json"))]
    save: PathBuf,
    /// A saved run to be held against: exit code 1 when a ratio to the floor is worse by more than a sixth.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Only this: what a second process that comes and goes does to the answers, by partition.
    #[arg(long)]
    events: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(floor::COMMAND) {
        return floor::main();
    }
    let arguments = Arguments::parse();
    let broker = Broker::find().unwrap();
    println!(
        "broker: {} Kafka {}; {} commands, {} loops",
        broker.how, broker.version, arguments.count, arguments.threads
    );
    let ctx = Ctx { bootstrap: broker.bootstrap.clone() };
    warm_up(&ctx, &arguments);
    if arguments.events {
        events::run(&ctx, arguments.count, arguments.rate);
        return ExitCode::SUCCESS;
    }
    let chosen = |w: &&Workload| match arguments.workloads.as_slice() {
        [] => w.name != "many",
        names => names.iter().any(|n| n == w.name),
    };
    let mut report = Report::new(arguments.rate);
    for workload in WORKLOADS.iter().filter(chosen) {
        report.add(run(&ctx, workload, &arguments));
    }
    report.save(&arguments.save);
    arguments.against.map_or(ExitCode::SUCCESS, |saved| report.hold_against(&saved))
}

/// Commands before the first that is measured.
const WARM_UP: u64 = 1_000_000;

/// A cold broker would charge the first workload for its own start.
fn warm_up(ctx: &Ctx, arguments: &Arguments) {
    let site = Site::new(ctx, "warm", 8);
    load::send(&site, &WORKLOADS[0], WARM_UP);
    let mut floor = Contestant::Floor.start(&site, arguments.threads);
    measure::throughput(&site, &mut floor, WARM_UP);
}

/// All contestants on the same load, each with topics of its own.
fn run(ctx: &Ctx, workload: &Workload, arguments: &Arguments) -> Row {
    let (floor, _) = contest(ctx, workload, arguments, Contestant::Floor);
    let (worker, site) = contest(ctx, workload, arguments, Contestant::Worker);
    let sample = Sample::take(&site, count_of(workload, arguments));
    let (same, _) = contest(ctx, workload, arguments, Contestant::FloorOf(&sample));
    Row { workload: workload.name.to_owned(), about: workload.about.to_owned(), floor, same, worker }
}

fn contest(ctx: &Ctx, workload: &Workload, arguments: &Arguments, contestant: Contestant<'_>) -> (Measured, Site) {
    let count = count_of(workload, arguments);
    let site = Site::new(ctx, workload.name, arguments.partitions.unwrap_or(workload.partitions));
    load::send(&site, workload, count);
    let mut running = contestant.start(&site, arguments.threads);
    let throughput = measure::throughput(&site, &mut running, count);
    // A copy of large records fills more than one request a partition, of which the second waits: its latency says nothing.
    let timed = arguments.rate > 0 && !matches!(contestant, Contestant::FloorOf(_));
    let latency = timed.then(|| latency::measure(&site, workload, count, arguments.rate, arguments.seconds));
    ((throughput, latency), site)
}

fn count_of(workload: &Workload, arguments: &Arguments) -> u64 {
    workload.count.unwrap_or(arguments.count)
}
