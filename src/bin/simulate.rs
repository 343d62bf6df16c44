//! Runs seeds of the simulation: as many as one likes, one that failed again with its log, or each deliberate bug until it is seen.
//!
//! `cargo run --release --features simulation --bin simulate -- --help`

use card_update_worker::mutation::Mutation;
use card_update_worker::worker::simulation::{SEEDS_OF_A_BUG, run};
use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Failed seeds that are shown.
const SHOWN: usize = 10;

/// Runs the real loop, restore, projection and checkpoint on a simulated Kafka and disk
#[derive(Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds
    #[arg(long, default_value_t = SEEDS_OF_A_BUG, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Threads that run them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Run one seed with its faults and the worker's log on standard error
    #[arg(long, value_name = "SEED", conflicts_with = "bugs")]
    trace: Option<u64>,
    /// Run with a deliberate bug, by its name in `src/mutation.rs`
    #[arg(long, conflicts_with = "bugs")]
    bug: Option<String>,
    /// Run each deliberate bug until a seed sees it, and fail when one is not seen
    #[arg(long)]
    bugs: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What a failed seed says is printed once, with its seed.
    if arguments.trace.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let bug = match arguments.bug.as_deref().map(named) {
        Some(None) => {
            eprintln!("no such bug; there are {:?}", Mutation::ALL);
            return ExitCode::from(2);
        }
        found => found.flatten(),
    };
    match arguments.trace {
        Some(seed) => trace(seed, bug),
        None if arguments.bugs => bugs(arguments.seeds),
        None => seeds(&arguments, bug),
    }
}

fn named(name: &str) -> Option<Mutation> {
    Mutation::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
}

fn trace(seed: u64, bug: Option<Mutation>) -> ExitCode {
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr);
    subscriber.without_time().with_ansi(false).init();
    match run(seed, bug) {
        Ok(course) => {
            println!("seed {seed} holds; its course is {course:016x}");
            ExitCode::SUCCESS
        }
        Err(wrong) => failed(seed, &wrong),
    }
}

fn failed(seed: u64, wrong: &str) -> ExitCode {
    println!("seed {seed} FAILED: {wrong}");
    ExitCode::FAILURE
}

/// How a seed is run again.
fn again(seed: u64, bug: Option<Mutation>) -> String {
    let bug = bug.map_or(String::new(), |bug| format!(" --bug {bug:?}"));
    format!("cargo run --release --features simulation --bin simulate -- --trace {seed}{bug}")
}

fn seeds(arguments: &Arguments, bug: Option<Mutation>) -> ExitCode {
    let began = Instant::now();
    let (next, end) = (AtomicU64::new(arguments.from), arguments.from.saturating_add(arguments.seeds));
    let wrong: Mutex<Vec<(u64, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if let Err(what) = run(seed, bug) {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push((seed, what));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} seeds, {} failed, {:.1} s", arguments.seeds, wrong.len(), began.elapsed().as_secs_f32());
    for (seed, what) in wrong.iter().take(SHOWN) {
        failed(*seed, what);
        println!("with its log: {}", again(*seed, bug));
    }
    if let Some(bug) = bug.filter(|_| wrong.is_empty()) {
        println!("the bug {bug:?} was on, and no seed saw it: run more");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bugs(most: u64) -> ExitCode {
    let mut unseen = 0;
    for bug in Mutation::ALL {
        match (0..most).find_map(|seed| Some((seed, run(seed, Some(bug)).err()?))) {
            Some((seed, what)) => {
                let first = what.lines().next().unwrap_or_default();
                println!("{bug:?}: seen by seed {seed}: {first}");
            }
            None => {
                unseen += 1;
                println!("{bug:?}: NOT SEEN within {most} seeds; CI runs {SEEDS_OF_A_BUG}");
            }
        }
    }
    if unseen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
