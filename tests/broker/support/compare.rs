//! Owns the comparison of all topics, the group and the local state with the model: the heart of the broker tests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Site;
use super::client::Record;
use super::expected::{check_dead_letter, dt, refusal, success};
use super::model::{Command, Expected, Fold, OnDuplicate};
use serde_json::Value;

/// One comparison, set up and then run.
pub struct Check<'a> {
    site: &'a Site,
    log: &'a [Command],
    on_duplicate: OnDuplicate,
    utc_offset_minutes: i64,
    states: Vec<PathBuf>,
}

/// Where a record came from: partition and offset in the commands topic.
type Source = (i32, i64);

impl<'a> Check<'a> {
    /// Everything that was ever sent to the live input, in the order of sending.
    pub fn new(site: &'a Site, log: &'a [Command]) -> Check<'a> {
        Check { site, log, on_duplicate: OnDuplicate::Replay, utc_offset_minutes: 0, states: Vec::new() }
    }

    /// `dedup.on_duplicate` of the worker.
    pub fn on_duplicate(mut self, mode: OnDuplicate) -> Check<'a> {
        self.on_duplicate = mode;
        self
    }

    /// `completion.utc_offset` of the worker.
    pub fn utc_offset_minutes(mut self, minutes: i64) -> Check<'a> {
        self.utc_offset_minutes = minutes;
        self
    }

    /// The state directory of a worker that was stopped cleanly; of several, each partition must be whole in one.
    pub fn state(mut self, dir: &Path) -> Check<'a> {
        self.states.push(dir.to_path_buf());
        self
    }

    /// Reads everything and compares; panics with the first difference.
    pub fn run(&self) {
        let completions = self.site.completions();
        let dead_letters = self.site.read(&self.site.topics.dead_letters);
        let answers = by_source(&completions, &self.site.topics.commands, true);
        let dead = by_source(&dead_letters, &self.site.topics.commands, false);
        let folds = self.answers(&answers, &dead);
        in_order(&completions, &self.site.topics.commands, true);
        in_order(&dead_letters, &self.site.topics.commands, false);
        at_most_one_success(&completions);
        self.cards(&folds);
        self.committed();
        if !self.states.is_empty() {
            self.projection(&folds);
        }
    }

    /// Each command has exactly the answer the model gives it; nothing else is there.
    fn answers(&self, answers: &HashMap<Source, &Record>, dead: &HashMap<Source, &Record>) -> Vec<Fold> {
        let mut folds: Vec<Fold> = (0..self.site.partitions).map(|_| Fold::default()).collect();
        let (mut answered, mut died) = (0, 0);
        for command in in_partition_order(self.log) {
            let at = (command.partition, command.offset);
            let expected = folds[command.partition as usize].step(command, self.on_duplicate);
            let (answer, letter) = (answers.get(&at).copied(), dead.get(&at).copied());
            match (&expected, answer, letter) {
                (Expected::Silence, None, None) => {}
                (Expected::Dead(reason), None, Some(letter)) => {
                    died += 1;
                    check_dead_letter(self.site, command, letter, reason);
                }
                (_, Some(answer), None) if !matches!(expected, Expected::Dead(_) | Expected::Silence) => {
                    answered += 1;
                    self.check_answer(command, &expected, answer, answers);
                }
                _ => panic!(
                    "{at:?} must become {expected:?}; completion: {:?}, dead letter: {:?}",
                    answer.map(text_of),
                    letter.map(|l| l.header("dlq-reason"))
                ),
            }
        }
        assert_eq!((answered, died), (answers.len(), dead.len()), "nothing is answered that was not asked");
        folds
    }

    fn check_answer(&self, command: &Command, expected: &Expected, answer: &Record, all: &HashMap<Source, &Record>) {
        let at = (command.partition, command.offset);
        assert_eq!(answer.partition, command.partition, "{at:?}: the partition of the input");
        assert_eq!(answer.key, command.key, "{at:?}: the key of the input");
        let body = answer.json();
        let replayed = answer.header("idempotent-replayed");
        let print = answer.header("request-fingerprint");
        match expected {
            Expected::Done { request_id, card_id, fingerprint } => {
                let wanted = success(request_id, card_id, &self.dt(answer));
                assert_eq!(body, wanted, "{at:?}");
                assert_eq!(print, Some(fingerprint.as_str()), "{at:?}");
                assert_eq!(replayed, None, "{at:?} is a first answer");
            }
            Expected::Replayed { first, fingerprint } => {
                let first = all.get(&(command.partition, *first)).expect("the first answer");
                assert_eq!(text_of(answer), text_of(first), "{at:?} repeats the first answer byte for byte");
                assert_eq!(print, Some(fingerprint.as_str()), "{at:?}");
                assert_eq!(replayed, Some("true"), "{at:?} is marked as replayed");
            }
            Expected::Refused { request_id, card_id, code, path } => {
                let wanted = refusal(request_id, card_id.as_deref(), &self.dt(answer), code, *path, &body);
                assert_eq!(body, wanted, "{at:?}");
                assert_eq!(print, None, "{at:?}: only successes carry it");
                assert_eq!(replayed, None, "{at:?}");
            }
            Expected::Dead(_) | Expected::Silence => unreachable!("not answered by a completion"),
        }
    }

    fn dt(&self, answer: &Record) -> String {
        dt(answer.timestamp.expect("a decision time"), self.utc_offset_minutes)
    }

    /// The cards topic, folded, is the model's cards; and each of its records is what the card was after some command, in order.
    fn cards(&self, folds: &[Fold]) {
        let mut found: Vec<BTreeMap<String, Value>> = folds.iter().map(|_| BTreeMap::new()).collect();
        for record in self.site.read(&self.site.topics.cards) {
            let at = (record.partition, record.offset);
            let key = String::from_utf8(record.key.clone().expect("a key")).expect("a card id");
            let card = record.json();
            let after = last_command(&card);
            let wanted = folds[record.partition as usize].history.get(&(key.clone(), after));
            assert_eq!(Some(&card), wanted, "card record {at:?} is the card after command {after}");
            if let Some(earlier) = found[record.partition as usize].insert(key, card) {
                assert!(last_command(&earlier) < after, "card record {at:?} goes back");
            }
        }
        for (partition, fold) in folds.iter().enumerate() {
            let what = format!("cards topic, partition {partition}");
            same_cards(&what, &found[partition], &fold.cards);
        }
    }

    /// The group stands at the end of the input.
    fn committed(&self) {
        let topic = &self.site.topics.commands;
        let mut wanted = vec![0; self.site.partitions as usize];
        for command in self.log {
            let end = &mut wanted[command.partition as usize];
            *end = (*end).max(command.offset + 1);
        }
        let committed = self.site.admin.committed(topic, self.site.partitions);
        for (partition, (committed, wanted)) in committed.iter().zip(&wanted).enumerate() {
            let fits = committed.unwrap_or(0) >= *wanted;
            assert!(fits, "committed offset of partition {partition}: {committed:?}, processed up to {wanted}");
            let end = self.site.admin.watermarks(topic, partition as i32).1;
            assert!(committed.unwrap_or(0) <= end, "committed beyond the end of partition {partition}");
        }
    }

    /// What is on disk is what the topics say.
    fn projection(&self, folds: &[Fold]) {
        let dumps: Vec<_> = self
            .states
            .iter()
            .flat_map(|dir| card_update_worker::inspect::dump(dir).expect("a readable state directory"))
            .collect();
        for (partition, fold) in folds.iter().enumerate() {
            let mut of_partition: Vec<_> = dumps.iter().filter(|d| d.partition == partition as i32).collect();
            of_partition.sort_by_key(|d| (d.cards_position, d.completions_position));
            let Some(dump) = of_partition.pop() else {
                assert!(fold.requests.is_empty(), "partition {partition} has no projection on disk");
                continue;
            };
            same_cards(&format!("projection of partition {partition}"), &dump.cards, &fold.cards);
            let wanted: BTreeMap<&str, &str> =
                fold.requests.iter().map(|(id, (print, _))| (id.as_str(), print.as_str())).collect();
            let found: BTreeMap<&str, &str> =
                dump.requests.iter().map(|(id, print)| (id.as_str(), print.as_str())).collect();
            assert!(
                found == wanted,
                "remembered requests of partition {partition}: {} of {}",
                found.len(),
                wanted.len()
            );
        }
    }
}

/// Records by the position they answer; two for one position are a broken promise (INV-4).
fn by_source<'r>(records: &'r [Record], topic: &str, completions: bool) -> HashMap<Source, &'r Record> {
    let mut found = HashMap::new();
    for record in records {
        let source = source_of(record, topic, completions);
        if let Some(other) = found.insert(source, record) {
            panic!("{source:?} is answered twice: at {} and at {}", other.offset, record.offset);
        }
    }
    found
}

fn source_of(record: &Record, topic: &str, completions: bool) -> Source {
    let (name, partition, offset) = if completions {
        let source = record.header("source").expect("a header source");
        let mut parts = source.rsplitn(3, '/');
        let (offset, partition) = (parts.next().expect("an offset"), parts.next().expect("a partition"));
        (parts.next().expect("a topic"), partition, offset)
    } else {
        let header = |name| record.header(name).unwrap_or_else(|| panic!("one header {name}: {:?}", record.headers));
        (header("dlq-topic"), header("dlq-partition"), header("dlq-offset"))
    };
    assert_eq!(name, topic, "the topic of the answered command");
    (partition.parse().expect("a partition"), offset.parse().expect("an offset"))
}

/// Within a partition answers come in the order of the commands, and their times never go back.
fn in_order(records: &[Record], topic: &str, completions: bool) {
    let mut last: HashMap<i32, (i64, i64)> = HashMap::new();
    for record in records {
        let (_, offset) = source_of(record, topic, completions);
        let time = record.timestamp.expect("a decision time");
        if let Some((earlier, earlier_time)) = last.insert(record.partition, (offset, time)) {
            assert!(earlier < offset, "partition {}: {earlier} is answered before {offset}", record.partition);
            assert!(earlier_time <= time, "partition {}: decision time goes back", record.partition);
        }
    }
}

/// INV-5.
fn at_most_one_success(completions: &[Record]) {
    let mut seen = HashSet::new();
    for record in completions.iter().filter(|r| r.header("idempotent-replayed").is_none()) {
        let body = record.json();
        if body["status"] == "ok" {
            let id = body["request_id"].as_str().expect("an id").to_string();
            assert!(seen.insert((record.partition, id.clone())), "{id} succeeds twice");
        }
    }
}

/// The offset of the command that wrote this card last.
fn last_command(card: &Value) -> i64 {
    let accounts = card["accounts"].as_array().expect("a list");
    accounts.iter().filter_map(|a| a["source_offset"].as_i64()).max().expect("a source offset")
}

fn same_cards(what: &str, found: &BTreeMap<String, Value>, wanted: &BTreeMap<String, Value>) {
    for (id, card) in wanted {
        assert_eq!(found.get(id), Some(card), "{what}: card {id}");
    }
    let extra: Vec<_> = found.keys().filter(|id| !wanted.contains_key(*id)).collect();
    assert!(extra.is_empty(), "{what}: cards that no command made: {extra:?}");
}

fn in_partition_order(log: &[Command]) -> Vec<&Command> {
    let mut all: Vec<&Command> = log.iter().collect();
    all.sort_by_key(|c| (c.partition, c.offset));
    all
}

fn text_of(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}
