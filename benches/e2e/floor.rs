//! The floor: what a transactional copy costs over the worker's own thin layer over librdkafka. Nothing is read, nothing is kept, no
//! failure is borne. Each command becomes one completion and one card record of fixed contents, or a completion and as many card
//! records as a worker has written, with its contents: text that is always the same costs hardly anything to compress and to send.

use crate::sample::Sample;
use crate::support::Site;
use card_update_worker::kafka::{
    ClientSettings, CommitError, Ends, Figures, GroupEvent, GroupLog, Identity, Input, InputOffsets, Log, Record,
    TopicNames, Watchdog,
};
use card_update_worker::wire::{OutTopic, Outbox, Source};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

/// The word that makes this program the floor.
pub const COMMAND: &str = "floor-of-the-same-run";
/// Records of a transaction.
const BATCH: usize = 10_000;
const COMPLETION: &str = r#"{"request_id":"00000000-0000-4000-8000-000000000000","card_id":"00000000-0000-4000-8000-000000000000","status":"ok","request_status":"success","dt":"2025-01-01T05:01:01+05:00"}"#;
const CARD: &str = r#"{"card_id":"00000000-0000-4000-8000-000000000000","accounts":[{"iban":"ES7921000813610123456789","currency":"USD","type":"IBAN","request_id":"00000000-0000-4000-8000-000000000000","updated_at":1735689600000}]}"#;
const FINGERPRINT: &[u8] = b"1-00000000000000000000000000000000";

/// What it writes when nobody says what.
fn fixed() -> Sample {
    Sample { completions: vec![COMPLETION.into()], cards: vec![CARD.into()], cards_per_command: 1.0 }
}

/// The command that starts it; with a file it writes what that holds.
pub fn command(site: &Site, threads: u32, sample: Option<&Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let t = &site.topics;
    command.arg(COMMAND).args([&site.bootstrap, &site.group, &threads.to_string()]);
    command.args([&t.commands, &t.backfill, &t.completions, &t.cards, &t.dead_letters]);
    command.arg(sample.unwrap_or(Path::new("")));
    command
}

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [bootstrap_servers, group_id, threads, commands, backfill, completions, cards, dead_letters, sample] =
        <[String; 9]>::try_from(arguments).unwrap();
    let sample = if sample.is_empty() { fixed() } else { Sample::read(Path::new(&sample)) };
    let topics = TopicNames { commands, backfill, completions, cards, dead_letters };
    let settings =
        ClientSettings { bootstrap_servers, group_id, client: BTreeMap::new(), topics, batch_bytes: 1_000_000 };
    std::thread::scope(|scope| {
        for number in 0..threads.parse().unwrap() {
            let (settings, sample) = (&settings, &sample);
            scope.spawn(move || copy(settings, number, sample));
        }
    });
    ExitCode::SUCCESS
}

fn copy(settings: &ClientSettings, number: u32, sample: &Sample) {
    let slot = Watchdog::default().loop_slot("floor");
    let identity = Identity { group_instance_id: None, transactional_id: format!("{}-{number}", settings.group_id) };
    let ends = Ends::start(settings, slot.clone()).unwrap();
    let mut log = GroupLog::join(settings, &identity, ends, slot, &Figures::default()).unwrap();
    let (mut batch, mut written) = (Vec::<(Input, Record)>::new(), 0);
    loop {
        follow_group(&mut log, &mut batch);
        fill(&mut log, &mut batch);
        if batch.is_empty() {
            continue;
        }
        let (outbox, offsets) = outputs(&settings.topics.commands, &batch, (sample, written));
        match log.transact(&Arc::new(outbox), &offsets) {
            Ok(_) => {
                written += batch.len();
                batch.clear();
            }
            // The group is rebalancing: what is still this loop's when it has settled is copied then.
            Err(CommitError::NotOwner(_) | CommitError::Aborted(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn follow_group(log: &mut GroupLog, batch: &mut Vec<(Input, Record)>) {
    for event in log.events().unwrap() {
        match event {
            GroupEvent::Assigned(partitions) if !partitions.is_empty() => {
                for (partition, offsets) in log.committed(&partitions).unwrap() {
                    log.start(partition, offsets.live.unwrap_or(0), offsets.backfill.unwrap_or(0)).unwrap();
                }
            }
            GroupEvent::Assigned(_) => {}
            GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) => {
                batch.retain(|(_, record)| !partitions.contains(&record.partition));
                log.stop(&partitions).unwrap();
            }
        }
    }
}

fn fill(log: &mut GroupLog, batch: &mut Vec<(Input, Record)>) {
    let mut wait = Duration::from_millis(50);
    while batch.len() < BATCH {
        let before = batch.len();
        log.fetch(Input::Live, BATCH - before, wait, batch).unwrap();
        if batch.len() == before {
            return;
        }
        wait = Duration::ZERO;
    }
}

fn outputs(
    topic: &str,
    batch: &[(Input, Record)],
    (sample, written): (&Sample, usize),
) -> (Outbox, Vec<(i32, InputOffsets)>) {
    let (mut outbox, mut next) = (Outbox::default(), BTreeMap::new());
    for (index, (_, record)) in batch.iter().enumerate() {
        let source = Source { topic, partition: record.partition, offset: record.offset };
        let at_ms = record.timestamp_ms().unwrap_or(0);
        outbox.begin(OutTopic::Completions, record.partition, at_ms, index);
        outbox.key(record.key());
        outbox.header_with("source", |v| source.write(v));
        outbox.header("request-fingerprint", Some(FINGERPRINT));
        outbox.value_with(|v| v.extend_from_slice(sample.completion(written + index)));
        outbox.end();
        if let Some(card) = sample.card(written + index) {
            outbox.begin(OutTopic::Cards, record.partition, at_ms, index);
            outbox.key(record.key());
            outbox.value_with(|v| v.extend_from_slice(card));
            outbox.end();
        }
        next.insert(record.partition, record.offset + 1);
    }
    let offsets = next.into_iter().map(|(p, live)| (p, InputOffsets { live: Some(live), backfill: None })).collect();
    (outbox, offsets)
}
