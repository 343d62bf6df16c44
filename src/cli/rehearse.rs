//! The dry run of a replay: the source read to its end, each command decided against a snapshot of the cards.

use super::Failure;
use super::progress::Progress;
use crate::backfill::{Ended, Prepared, ReplayTally, set_aside};
use crate::config::Config;
use crate::domain::{DeadReason, ErrorCode, StoredAccount};
use crate::kafka::{Body, Input, KafkaReader, Outgoing, Record, Watchdog};
use crate::observe::masked_account;
use crate::projection::LogIdentity;
use crate::worker::{ChangedCard, CommandResult, Rehearsal, SnapshotParts, Tally, now_ms};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Commands decided at once.
const CHUNK: usize = 5000;

/// What a dry run found.
pub struct Rehearsed {
    /// What would become of the commands.
    pub tally: ReplayTally,
    /// How many were decided.
    pub commands: u64,
    /// Records that were not meant.
    pub passed_over: u64,
    /// Lines set aside.
    pub set_aside: u64,
    /// How it ended.
    pub ended: Ended,
}

pub fn rehearse(
    config: &Config,
    prepared: Prepared,
    (changes, mut rejects): (Option<&Path>, Option<Box<dyn Write>>),
    stop: &AtomicBool,
) -> Result<Rehearsed, Failure> {
    let mut rehearsal = snapshot(config, prepared.partitions, changes.is_some())?;
    let mut source = prepared.source;
    let lanes = source.lanes();
    source.start(&lanes, None)?;
    let mut bar = Progress::new("commands decided");
    let (mut commands, mut passed_over, mut aside) = (0, 0, 0);
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let ended = loop {
        if stop.load(Ordering::Acquire) {
            break Ended::Interrupted;
        }
        let chunk = source.next(CHUNK)?;
        commands += chunk.commands.len() as u64;
        passed_over += chunk.passed_over;
        aside += set_aside(&chunk.broken, &mut rejects)?;
        let records = chunk.commands.into_iter().map(|out| as_read(out, &mut next)).collect();
        rehearsal.decide(records, now_ms())?;
        bar.at("deciding", commands, None);
        match chunk.stopped_at {
            Some(broken) => break Ended::Broken(broken),
            None if chunk.ended => break Ended::Sent,
            None => {}
        }
    };
    drop(bar);
    if let Some(path) = changes {
        write_changes(path, &rehearsal).map_err(|e| Failure::usage(format!("--changes {}: {e}", path.display())))?;
    }
    Ok(Rehearsed { tally: figures(rehearsal.tally()), commands, passed_over, set_aside: aside, ended })
}

/// The cards and remembered requests as the topics have them now.
fn snapshot(config: &Config, partitions: i32, remember_changes: bool) -> Result<Rehearsal, Failure> {
    let mut reader = KafkaReader::new(&config.kafka, Watchdog::default().slot("dry-run"))?;
    let identity = LogIdentity::default();
    let mut bar = Progress::new("partitions");
    let mut states = BTreeMap::new();
    for partition in 0..partitions {
        let mut parts =
            SnapshotParts { reader: &mut reader, rules: &config.rules, identity: &identity, now_ms: now_ms() };
        states.insert(partition, parts.of_logs(partition, None)?.projection);
        bar.at("reading the cards", partition as u64 + 1, Some(partitions as u64));
    }
    Ok(Rehearsal::new(Arc::new(config.rules.clone()), states, remember_changes))
}

fn as_read(out: Outgoing, next: &mut BTreeMap<i32, i64>) -> Record {
    let offset = next.entry(out.partition).or_default();
    *offset += 1;
    Record { partition: out.partition, offset: *offset - 1, body: Body::Memory(Box::new(out.record)) }
}

/// The loop's figures under the names of a replay's.
fn figures(tally: &Tally) -> ReplayTally {
    let of = |result: CommandResult| tally.results[Input::Backfill as usize][result as usize];
    let named = |code: &&ErrorCode| CommandResult::of(**code) == CommandResult::Rejected;
    let counted = |counts: &[u64], at: usize| Some(counts[at]).filter(|count| *count > 0);
    ReplayTally {
        applied: of(CommandResult::Applied),
        replayed: of(CommandResult::Replayed),
        duplicate: of(CommandResult::Duplicate),
        conflict: of(CommandResult::Conflict),
        stale: of(CommandResult::Stale),
        suppressed: of(CommandResult::Suppressed),
        untold: 0,
        rejected: ErrorCode::ALL
            .iter()
            .filter(named)
            .filter_map(|code| Some((code.name().to_owned(), counted(&tally.rejections, *code as usize)?)))
            .collect(),
        dead: DeadReason::ALL
            .iter()
            .filter_map(|reason| Some((reason.name().to_owned(), counted(&tally.dead, *reason as usize)?)))
            .collect(),
    }
}

fn write_changes(path: &Path, rehearsal: &Rehearsal) -> std::io::Result<()> {
    let out: Box<dyn Write> =
        if path == Path::new("-") { Box::new(std::io::stdout()) } else { Box::new(File::create(path)?) };
    let mut out = BufWriter::new(out);
    for changed in rehearsal.changed() {
        writeln!(out, "{}", difference(&changed))?;
    }
    out.flush()
}

/// What a card would lose and gain; numbers masked.
fn difference(changed: &ChangedCard) -> Value {
    let only_in = |these: &[StoredAccount], those: &[StoredAccount]| -> Vec<Value> {
        these.iter().filter(|account| !those.contains(account)).map(masked_account).collect()
    };
    json!({
        "card_id": changed.card_id.to_string(),
        "partition": changed.partition,
        "removed": only_in(&changed.before, &changed.after),
        "added": only_in(&changed.after, &changed.before),
    })
}
