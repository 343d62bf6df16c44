//! What a worker needs of its cluster and its machine, tried out, and in words what to mend.
//!
//! It must never change what a worker that runs rests on: it joins no group, changes no offset, and its transaction is aborted.

use super::checks::{Finding, plan_topics};
use super::process::FEWEST_FILES;
use super::topics::block_on;
use crate::config::Config;
use crate::kafka::{
    Changelog, Fault, InputOffsets, KafkaReader, ReadStep, Reader as _, TopicsClient, Watchdog, try_transaction,
};
use crate::projection::{StateDir, StateDirError};
use rustix::process::{Resource, getrlimit};
use std::time::{Duration, Instant};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
/// Below this a checkpoint of a million cards and its successor do not fit.
const LEAST_FREE_DISK: u64 = 1024 * MIB;
/// What an empty worker with its clients' buffers takes under load, and some.
const LEAST_MEMORY: u64 = 768 * MIB;
/// Sockets of all clients to some brokers, sled's files, HTTP.
const LEAST_FILES: u64 = 1024;

/// How long the outputs may take to be read to their ends.
const READ_PATIENCE: Duration = Duration::from_secs(15);

/// How a thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// As it should be.
    Well,
    /// The worker runs, but something is weaker than it should be.
    Weak,
    /// The worker does not run like this.
    Broken,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// What.
    pub what: &'static str,
    /// How it was found.
    pub found: Found,
    /// What was found, and what to mend.
    pub says: String,
}

fn examined(what: &'static str, found: Found, says: impl Into<String>) -> Examined {
    Examined { what, found, says: says.into() }
}

/// Looks at everything; what needs the cluster is left out when it does not answer.
pub fn examine(config: &Config) -> Vec<Examined> {
    let mut all = cluster(config);
    all.extend([state_dir(config), disk(config), memory(), files()]);
    all
}

fn cluster(config: &Config) -> Vec<Examined> {
    let client = match TopicsClient::new(&config.kafka) {
        Ok(client) => client,
        Err(fault) => return vec![examined("kafka", Found::Broken, fault.to_string())],
    };
    match client.cluster_id() {
        Ok(id) => {
            let mut all = vec![examined("kafka", Found::Well, format!("cluster {id} answers"))];
            let partitions = topics(config, &client, &mut all);
            if partitions > 0 {
                trial(config, partitions, &mut all);
            }
            all
        }
        Err(fault) => vec![examined("kafka", Found::Broken, fault.to_string())],
    }
}

/// The topics' findings; gives how many partitions they have, 0 when they cannot be used.
fn topics(config: &Config, client: &TopicsClient, all: &mut Vec<Examined>) -> i32 {
    let plan = plan_topics(client, &config.kafka, config.rules.window_ms, config.partitions, -1);
    let plan = match block_on(plan).and_then(|plan| plan) {
        Ok(plan) => plan,
        Err(fault) => {
            all.push(examined("topics", Found::Broken, fault.to_string()));
            return 0;
        }
    };
    all.extend(plan.findings.iter().map(|finding| match finding {
        Finding::Refused(text) => examined("topics", Found::Broken, text),
        Finding::Warning(text) => examined("topics", Found::Weak, text),
    }));
    let refused = plan.findings.iter().any(|f| matches!(f, Finding::Refused(_)));
    let partitions = plan.found.iter().flatten().map(|t| t.partitions).min().unwrap_or(0);
    if plan.findings.is_empty() {
        all.push(examined("topics", Found::Well, format!("five, of {partitions} partitions, as they should be")));
    }
    if refused { 0 } else { partitions }
}

fn trial(config: &Config, partitions: i32, all: &mut Vec<Examined>) {
    let committed = match offsets(config, partitions) {
        Ok(committed) => committed,
        Err(fault) => {
            let says = match &fault {
                Fault::Retry(_) => format!("{fault}; the brokers may not be ready yet, try again"),
                _ => format!("{fault}; grant Read and Describe on group {}", config.kafka.group_id),
            };
            all.push(examined("group", Found::Broken, says));
            return;
        }
    };
    let some = committed.iter().filter(|(_, o)| o.live.is_some()).count();
    all.push(examined("group", Found::Well, format!("offsets are committed for {some} of {partitions} partitions")));
    all.push(match readable(config) {
        Ok(()) => examined("reading", Found::Well, "completions, cards and dead letters can be read"),
        Err(fault) => examined("reading", Found::Broken, fault.to_string()),
    });
    all.push(match try_transaction(&config.kafka, &format!("doctor-{}", Uuid::new_v4()), &committed) {
        Ok(()) => examined(
            "transaction",
            Found::Well,
            "records and offsets were accepted, and aborted; the clock is not ahead",
        ),
        Err(fault) => examined("transaction", Found::Broken, fault.to_string()),
    });
}

/// Reads the first partition of each output at its end: rights are asked for there too.
fn readable(config: &Config) -> Result<(), Fault> {
    let mut reader = KafkaReader::new(&config.kafka, Watchdog::default().slot("doctor"))?;
    let logs = [Changelog::Completions, Changelog::Cards, Changelog::DeadLetters];
    for log in logs {
        let (_, end) = reader.bounds(log, 0)?;
        reader.start(log, 0, end)?;
    }
    let deadline = Instant::now() + READ_PATIENCE;
    let (mut read, mut failed) = (Vec::new(), None);
    while read.len() < logs.len() && failed.is_none() {
        if Instant::now() > deadline {
            return Err(Fault::Retry(format!("the outputs could not be read within {} s", READ_PATIENCE.as_secs())));
        }
        reader.read(Duration::from_millis(100), &mut |step| match step {
            ReadStep::End(log, ..) if !read.contains(&log) => read.push(log),
            ReadStep::Failed(_, _, fault) => failed = Some(fault),
            ReadStep::End(..) | ReadStep::Record(..) => {}
        });
    }
    failed.map_or(Ok(()), Err)
}

fn offsets(config: &Config, partitions: i32) -> Result<Vec<(i32, InputOffsets)>, Fault> {
    let mut reader = KafkaReader::new(&config.kafka, Watchdog::default().slot("doctor"))?;
    reader.committed(&(0..partitions).collect::<Vec<_>>())
}

fn state_dir(config: &Config) -> Examined {
    let path = config.state_dir.display();
    if !config.state_dir.exists() {
        return examined("state_dir", Found::Well, format!("{path} is not there yet; the first start makes it"));
    }
    match StateDir::lock(&config.state_dir) {
        Err(StateDirError::InUse(_)) => {
            examined("state_dir", Found::Well, format!("{path} is held by a worker that runs"))
        }
        Ok(dir) => match dir.why_unusable() {
            None => examined("state_dir", Found::Well, format!("{path} can be written")),
            Some(why) => {
                let says = format!("{why}; a worker would go on from memory and restore everything at each start");
                examined("state_dir", Found::Broken, says)
            }
        },
    }
}

fn disk(config: &Config) -> Examined {
    // Before the first start, the nearest folder that is there tells of the same disk.
    let there = config.state_dir.ancestors().find(|p| p.exists()).unwrap_or(std::path::Path::new("."));
    let usage = match StateDir::free(there) {
        Ok(free) => Ok((StateDir::usage(&config.state_dir).map_or(0, |(bytes, _)| bytes), free)),
        Err(error) => Err(error),
    };
    match usage {
        Err(error) => examined("disk", Found::Weak, format!("{}: {error}", config.state_dir.display())),
        Ok((bytes, free)) => {
            let says = format!("{} MiB used by the state, {} MiB free", bytes / MIB, free / MIB);
            match free < LEAST_FREE_DISK {
                false => examined("disk", Found::Well, says),
                true => {
                    examined("disk", Found::Weak, format!("{says}: make room, at least {} MiB", LEAST_FREE_DISK / MIB))
                }
            }
        }
    }
}

fn memory() -> Examined {
    let Some(available) = available_memory() else {
        return examined("memory", Found::Weak, "what is available cannot be read");
    };
    let says = format!("{} MiB available", available / MIB);
    match available < LEAST_MEMORY {
        false => examined("memory", Found::Well, says),
        true => {
            examined("memory", Found::Weak, format!("{says}: an empty worker under load wants {}", LEAST_MEMORY / MIB))
        }
    }
}

/// What the machine has, or what the control group leaves of it.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let machine = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let left = limit.map(|l| l.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    Some(left.map_or(machine, |left| left.min(machine)))
}

fn files() -> Examined {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let says = format!("{limit} files may be open");
    let raise = || format!("{says}: raise it (ulimit -n, LimitNOFILE) to {LEAST_FILES}");
    match limit {
        LEAST_FILES.. => examined("files", Found::Well, says),
        FEWEST_FILES.. => examined("files", Found::Weak, raise()),
        _ => examined("files", Found::Broken, raise()),
    }
}
