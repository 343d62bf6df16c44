//! Owns the comparison of all topics, the group and the local state with the model: the heart of the broker tests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::Digest;

use super::Site;
use super::client::Record;
use super::model::{Command, Expected, Fold, OnDuplicate};

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
        Check {
            site,
            log,
            on_duplicate: OnDuplicate::Replay,
            utc_offset_minutes: 0,
            states: Vec::new(),
        }
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
    fn answers(
        &self,
        answers: &HashMap<Source, &Record>,
        dead: &HashMap<Source, &Record>,
    ) -> Vec<Fold> {
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
                (_, Some(answer), None)
                    if !matches!(expected, Expected::Dead(_) | Expected::Silence) =>
                {
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
        assert_eq!(
            (answered, died),
            (answers.len(), dead.len()),
            "nothing is answered that was not asked"
        );
        folds
    }

    fn check_answer(
        &self,
        command: &Command,
        expected: &Expected,
        answer: &Record,
        all: &HashMap<Source, &Record>,
    ) {
        let at = (command.partition, command.offset);
        assert_eq!(
            answer.partition, command.partition,
            "{at:?}: the partition of the input"
        );
        assert_eq!(answer.key, command.key, "{at:?}: the key of the input");
        let body = answer.json();
        let replayed = answer.header("idempotent-replayed");
        match expected {
            Expected::Done {
                request_id,
                card_id,
                fingerprint,
            } => {
                let wanted = success(request_id, card_id, &self.dt(answer));
                assert_eq!(body, wanted, "{at:?}");
                assert_eq!(
                    answer.header("request-fingerprint"),
                    Some(fingerprint.as_str()),
                    "{at:?}"
                );
                assert_eq!(replayed, None, "{at:?} is a first answer");
            }
            Expected::Replayed { first, fingerprint } => {
                let first = all
                    .get(&(command.partition, *first))
                    .expect("the first answer");
                assert_eq!(
                    text_of(answer),
                    text_of(first),
                    "{at:?} repeats the first answer byte for byte"
                );
                assert_eq!(
                    answer.header("request-fingerprint"),
                    Some(fingerprint.as_str()),
                    "{at:?}"
                );
                assert_eq!(replayed, Some("true"), "{at:?} is marked as replayed");
            }
            Expected::Refused {
                request_id,
                card_id,
                code,
                path,
            } => {
                let wanted = refusal(
                    request_id,
                    card_id.as_deref(),
                    &self.dt(answer),
                    code,
                    *path,
                    &body,
                );
                assert_eq!(body, wanted, "{at:?}");
                assert_eq!(
                    answer.header("request-fingerprint"),
                    None,
                    "{at:?}: only successes carry it"
                );
                assert_eq!(replayed, None, "{at:?}");
            }
            Expected::Dead(_) | Expected::Silence => unreachable!("not answered by a completion"),
        }
    }

    fn dt(&self, answer: &Record) -> String {
        dt(
            answer.timestamp.expect("a decision time"),
            self.utc_offset_minutes,
        )
    }

    /// The cards topic, folded, is the model's cards.
    fn cards(&self, folds: &[Fold]) {
        let mut found: Vec<BTreeMap<String, Value>> =
            folds.iter().map(|_| BTreeMap::new()).collect();
        for record in self.site.read(&self.site.topics.cards) {
            let key = String::from_utf8(record.key.clone().expect("a key")).expect("a card id");
            found[record.partition as usize].insert(key, record.json());
        }
        for (partition, fold) in folds.iter().enumerate() {
            same_cards(
                &format!("cards topic, partition {partition}"),
                &found[partition],
                &fold.cards,
            );
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
            assert!(
                fits,
                "committed offset of partition {partition}: {committed:?}, processed up to {wanted}"
            );
            let end = self.site.admin.watermarks(topic, partition as i32).1;
            assert!(
                committed.unwrap_or(0) <= end,
                "committed beyond the end of partition {partition}"
            );
        }
    }

    /// What is on disk is what the topics say.
    fn projection(&self, folds: &[Fold]) {
        let dumps: Vec<_> = self
            .states
            .iter()
            .flat_map(|dir| {
                card_update_worker::inspect::dump(dir).expect("a readable state directory")
            })
            .collect();
        for (partition, fold) in folds.iter().enumerate() {
            let mut of_partition: Vec<_> = dumps
                .iter()
                .filter(|d| d.partition == partition as i32)
                .collect();
            of_partition.sort_by_key(|d| (d.cards_position, d.completions_position));
            let Some(dump) = of_partition.pop() else {
                assert!(
                    fold.requests.is_empty(),
                    "partition {partition} has no projection on disk"
                );
                continue;
            };
            same_cards(
                &format!("projection of partition {partition}"),
                &dump.cards,
                &fold.cards,
            );
            let wanted: BTreeMap<&str, &str> = fold
                .requests
                .iter()
                .map(|(id, (print, _))| (id.as_str(), print.as_str()))
                .collect();
            let found: BTreeMap<&str, &str> = dump
                .requests
                .iter()
                .map(|(id, print)| (id.as_str(), print.as_str()))
                .collect();
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
fn by_source<'r>(
    records: &'r [Record],
    topic: &str,
    completions: bool,
) -> HashMap<Source, &'r Record> {
    let mut found = HashMap::new();
    for record in records {
        let source = source_of(record, topic, completions);
        if let Some(other) = found.insert(source, record) {
            panic!(
                "{source:?} is answered twice: at {} and at {}",
                other.offset, record.offset
            );
        }
    }
    found
}

fn source_of(record: &Record, topic: &str, completions: bool) -> Source {
    let (name, partition, offset) = if completions {
        let source = record.header("source").expect("a header source");
        let mut parts = source.rsplitn(3, '/');
        let (offset, partition) = (
            parts.next().expect("an offset"),
            parts.next().expect("a partition"),
        );
        (parts.next().expect("a topic"), partition, offset)
    } else {
        let header = |name| {
            record
                .header(name)
                .unwrap_or_else(|| panic!("one header {name}: {:?}", record.headers))
        };
        (
            header("dlq-topic"),
            header("dlq-partition"),
            header("dlq-offset"),
        )
    };
    assert_eq!(name, topic, "the topic of the answered command");
    (
        partition.parse().expect("a partition"),
        offset.parse().expect("an offset"),
    )
}

/// Within a partition answers come in the order of the commands, and their times never go back.
fn in_order(records: &[Record], topic: &str, completions: bool) {
    let mut last: HashMap<i32, (i64, i64)> = HashMap::new();
    for record in records {
        let (_, offset) = source_of(record, topic, completions);
        let time = record.timestamp.expect("a decision time");
        if let Some((earlier, earlier_time)) = last.insert(record.partition, (offset, time)) {
            assert!(
                earlier < offset,
                "partition {}: {earlier} is answered before {offset}",
                record.partition
            );
            assert!(
                earlier_time <= time,
                "partition {}: decision time goes back",
                record.partition
            );
        }
    }
}

/// INV-5.
fn at_most_one_success(completions: &[Record]) {
    let mut seen = HashSet::new();
    for record in completions
        .iter()
        .filter(|r| r.header("idempotent-replayed").is_none())
    {
        let body = record.json();
        if body["status"] == "ok" {
            let id = body["request_id"].as_str().expect("an id").to_string();
            assert!(
                seen.insert((record.partition, id.clone())),
                "{id} succeeds twice"
            );
        }
    }
}

/// A dead letter is its record as it came, with the `dlq-` headers behind its own.
pub fn check_dead_letter(site: &Site, command: &Command, letter: &Record, reason: &str) {
    let at = (command.partition, command.offset);
    assert_eq!(
        letter.partition, command.partition,
        "{at:?}: the partition of the input"
    );
    assert_eq!(letter.key, command.key, "{at:?}: the key as it came");
    assert_eq!(letter.header("dlq-reason"), Some(reason), "{at:?}");
    assert!(
        letter.header("dlq-message").is_some_and(|m| !m.is_empty()),
        "{at:?}: a message"
    );
    assert_eq!(
        letter.header("dlq-topic"),
        Some(site.topics.commands.as_str()),
        "{at:?}"
    );
    assert_eq!(
        letter.header("dlq-partition"),
        Some(command.partition.to_string().as_str()),
        "{at:?}"
    );
    assert_eq!(
        letter.header("dlq-offset"),
        Some(command.offset.to_string().as_str()),
        "{at:?}"
    );
    if command.timestamp >= 0 {
        let timestamp = command.timestamp.to_string();
        assert_eq!(
            letter.header("dlq-timestamp"),
            Some(timestamp.as_str()),
            "{at:?}"
        );
    }
    let (own, added) = letter.headers.split_at(command.headers.len());
    assert_eq!(
        own, command.headers,
        "{at:?}: the headers as they came, first"
    );
    assert!(
        added.iter().all(|(key, _)| key.starts_with("dlq-")),
        "{at:?}: {added:?}"
    );
    if letter.header("dlq-value-omitted").is_none() {
        assert_eq!(letter.value, command.value, "{at:?}: the value as it came");
        return;
    }
    let value = command
        .value
        .as_deref()
        .expect("only a value that is there can be left out");
    assert!(
        value.len() > 1_000_000,
        "{at:?}: a value of {} bytes was left out",
        value.len()
    );
    assert_eq!(letter.header("dlq-value-omitted"), Some("true"), "{at:?}");
    assert_eq!(
        letter.header("dlq-value-bytes"),
        Some(value.len().to_string().as_str()),
        "{at:?}"
    );
    let sum: String = sha2::Sha256::digest(value)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        letter.header("dlq-value-sha256"),
        Some(sum.as_str()),
        "{at:?}"
    );
    assert!(
        letter.value.as_deref().unwrap_or_default().is_empty(),
        "{at:?}: no value"
    );
}

fn success(request_id: &str, card_id: &str, dt: &str) -> Value {
    serde_json::json!({ "request_id": request_id, "card_id": card_id, "status": "ok", "request_status": "success", "dt": dt })
}

/// The error completion wanted; the message is free but there, the path is free where the contract does not fix it.
fn refusal(
    request_id: &str,
    card_id: Option<&str>,
    dt: &str,
    code: &str,
    path: Option<&str>,
    found: &Value,
) -> Value {
    let message = found
        .pointer("/error/message")
        .and_then(Value::as_str)
        .filter(|m| !m.is_empty());
    let mut error = serde_json::json!({ "code": code, "message": message });
    match (path, found.pointer("/error/path")) {
        (Some(path), _) => error["path"] = path.into(),
        (None, Some(path)) => error["path"] = path.clone(),
        (None, None) => {}
    }
    let mut body = serde_json::json!({ "request_id": request_id, "status": "error", "request_status": "error", "dt": dt, "error": error });
    if let Some(card_id) = card_id {
        body["card_id"] = card_id.into();
    }
    body
}

fn same_cards(what: &str, found: &BTreeMap<String, Value>, wanted: &BTreeMap<String, Value>) {
    for (id, card) in wanted {
        assert_eq!(found.get(id), Some(card), "{what}: card {id}");
    }
    let extra: Vec<_> = found
        .keys()
        .filter(|id| !wanted.contains_key(*id))
        .collect();
    assert!(
        extra.is_empty(),
        "{what}: cards that no command made: {extra:?}"
    );
}

fn in_partition_order(log: &[Command]) -> Vec<&Command> {
    let mut all: Vec<&Command> = log.iter().collect();
    all.sort_by_key(|c| (c.partition, c.offset));
    all
}

fn text_of(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// A time as completions print it: RFC 3339, whole seconds, a numeric offset.
pub fn dt(ms: i64, offset_minutes: i64) -> String {
    let seconds = ms.div_euclid(1000) + offset_minutes * 60;
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let sign = if offset_minutes < 0 { '-' } else { '+' };
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (oh, om) = (offset_minutes.abs() / 60, offset_minutes.abs() % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{sign}{oh:02}:{om:02}")
}

/// Days since 1970-01-01 as a date (the usual era arithmetic).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
