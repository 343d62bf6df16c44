//! What a seed decides before a run begins: how many processes and partitions, by which rules, and what may go wrong.
//!
//! A run has only some of the faults: one that has all of them rarely gets far enough for any to matter.

use super::commands::{Random, rules};
use crate::domain::OnDuplicate;
use crate::worker::rules::{BackfillCompletions, Rules};
use std::time::Duration;

/// How often each fault comes: of ten thousand calls, or turns.
#[derive(Debug, Default)]
pub struct Faults {
    // Of calls:
    pub die: u64,
    pub fail: u64,
    pub freeze: u64,
    /// Of commits: the answer is lost, either way, or it fails.
    pub commit: u64,
    // Of turns:
    pub away: u64,
    pub moves: u64,
    pub kill: u64,
    /// A process is told to end.
    pub told: u64,
    pub damage: u64,
    pub disk: u64,
    pub compact: u64,
    pub retention: u64,
    pub trim: u64,
    pub expire: u64,
    pub anew: u64,
    pub truncate: u64,
    pub clock: u64,
}

/// A run.
#[derive(Debug)]
pub struct Plan {
    pub partitions: i32,
    pub processes: usize,
    /// Static members: a process that comes back has its partitions at once.
    pub static_members: bool,
    pub standby: bool,
    pub chunk: usize,
    /// How likely a marker is written in a turn, percent.
    pub markers: u64,
    pub turns: usize,
    /// Cards of a partition.
    pub cards: u64,
    /// Commands sent in a turn, at most.
    pub burst: u64,
    pub rules: Rules,
    pub faults: Faults,
}

impl Plan {
    pub fn of(random: &mut Random) -> Self {
        let processes = 1 + random.below(3) as usize;
        Self {
            partitions: 1 + random.below(3) as i32,
            processes,
            static_members: random.chance(50),
            standby: random.chance(20),
            chunk: 1 + random.below(6) as usize,
            markers: 3 + random.below(90),
            turns: 150 + random.below(250) as usize,
            cards: 2 + random.below(40),
            burst: 1 + random.below(8),
            rules: rules_of(random),
            faults: faults_of(random, processes),
        }
    }
}

fn rules_of(random: &mut Random) -> Rules {
    let on_duplicate = [OnDuplicate::Replay, OnDuplicate::Replay, OnDuplicate::Suppress, OnDuplicate::Error];
    let on_duplicate = on_duplicate[random.below(4) as usize];
    let window_ms = match on_duplicate {
        // What was suppressed leaves no trace: whether it was still remembered could not be told.
        OnDuplicate::Suppress => i64::from(u32::MAX),
        _ if random.chance(40) => 60_000,
        _ => 24 * 3600 * 1000,
    };
    Rules {
        on_duplicate,
        window_ms,
        backfill_completions: match random.chance(25) {
            true => BackfillCompletions::Applied,
            false => BackfillCompletions::All,
        },
        batch_max_records: 1 + random.below(8) as usize,
        // Brokers may be away for longer than the unit tests' limit.
        restore_stall_timeout: Duration::from_secs(300),
        // Half of the seeds let long tails lie.
        checkpoint_max_tail: if random.chance(50) { 2 + random.below(30) } else { 100 + random.below(2000) },
        checkpoint_interval: Duration::from_secs(1 + random.below(60)),
        ..rules()
    }
}

fn faults_of(random: &mut Random, processes: usize) -> Faults {
    let mut some = |percent: u64, most: u64| if random.chance(percent) { 1 + random.below(most) } else { 0 };
    Faults {
        die: some(40, 40),
        fail: some(40, 150),
        freeze: some(50, 80),
        commit: some(60, 3000),
        away: some(30, 100),
        moves: some(60, 600),
        kill: some(50, 300),
        told: some(50, 200),
        damage: some(40, 300),
        disk: some(40, 800),
        compact: some(50, 500),
        retention: some(50, 300),
        trim: some(10, 100),
        expire: some(10, 60),
        anew: some(15, 60),
        // Another process would keep a checkpoint of what the log has lost, and see nothing once the log is as long again.
        truncate: if processes == 1 { some(30, 100) } else { 0 },
        clock: some(30, 200),
    }
}
