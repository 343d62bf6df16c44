//! What the logs and a projection say, and what they must say: answers, dumps, folds.

use super::cluster::Topic;
use super::commands::{BACKFILL, COMMANDS, now_ms, rules};
use super::kafka::SimKafka;
use super::process::{Worker, restore};
use super::store::no_store;
use crate::domain::{CardId, RequestId, StoredAccount};
use crate::kafka::{Input, MemoryRecord};
use crate::projection::Projection;
use crate::wire::{FirstCompletion, SOURCE, Source, decode_card, decode_first_completion, names};
use std::collections::{BTreeMap, BTreeSet};

/// An answer in the completions or dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub input: Input,
    pub offset: i64,
    pub dead: bool,
    pub ok: bool,
    pub replayed: bool,
    /// The error's code or the dead letter's reason.
    pub why: String,
    /// The completion's request.
    pub request: String,
    pub record: MemoryRecord,
}

fn header<'r>(record: &'r MemoryRecord, name: &str) -> Option<&'r str> {
    let found = record.headers.iter().rfind(|(n, _)| n == name)?;
    std::str::from_utf8(found.1.as_deref()?).ok()
}

fn input_of(topic: &str) -> Input {
    match topic {
        COMMANDS => Input::Live,
        BACKFILL => Input::Backfill,
        other => panic!("answers {other}"),
    }
}

/// What a completion says.
pub fn completion(partition: i32, record: &MemoryRecord) -> Answer {
    let source = Source::parse(header(record, SOURCE).unwrap().as_bytes()).unwrap();
    assert_eq!(source.partition, partition);
    let body: serde_json::Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
    Answer {
        input: input_of(source.topic),
        offset: source.offset,
        dead: false,
        ok: body["status"] == "ok",
        replayed: header(record, names::IDEMPOTENT_REPLAYED).is_some(),
        why: body["error"]["code"].as_str().unwrap_or_default().to_owned(),
        request: body["request_id"].as_str().unwrap().to_owned(),
        record: record.clone(),
    }
}

/// The completions of a partition, in the log's order.
pub fn completions(kafka: &SimKafka, partition: i32) -> Vec<Answer> {
    let records = kafka.records(Topic::Completions, partition);
    records.iter().map(|(_, record)| completion(partition, record)).collect()
}

/// The dead letters of a partition, in the log's order.
pub fn dead_letters(kafka: &SimKafka, partition: i32) -> Vec<Answer> {
    let answer = |record: &MemoryRecord| {
        assert_eq!(header(record, "dlq-partition"), Some(partition.to_string().as_str()));
        Answer {
            input: input_of(header(record, "dlq-topic").unwrap()),
            offset: header(record, "dlq-offset").unwrap().parse().unwrap(),
            dead: true,
            ok: false,
            replayed: false,
            why: header(record, "dlq-reason").unwrap().to_owned(),
            request: String::new(),
            record: record.clone(),
        }
    };
    kafka.records(Topic::DeadLetters, partition).iter().map(|(_, record)| answer(record)).collect()
}

/// A state that can be compared.
pub type Dump = (BTreeMap<CardId, Vec<StoredAccount>>, BTreeMap<RequestId, (u128, i64)>);

/// What a projection holds, by the time that its next decision would have.
pub fn dump(projection: &Projection) -> Dump {
    let (mut cards, mut requests) = (BTreeMap::new(), BTreeMap::new());
    let at_ms = projection.decision_time_ms(now_ms());
    projection.for_each_card(|id, accounts| drop(cards.insert(*id, accounts.to_vec())));
    let each = |id: &RequestId, r: crate::domain::Remembered| {
        assert_eq!(requests.insert(*id, (r.fingerprint.0, r.dt.at_ms)), None, "{id} is held twice");
    };
    projection.for_each_request(at_ms, each).unwrap();
    let ids: Vec<RequestId> = requests.keys().copied().collect();
    for id in ids {
        let found = projection.request(&id, at_ms).unwrap().map(|r| (r.fingerprint.0, r.dt.at_ms));
        assert_eq!(found, requests.get(&id).copied());
    }
    (cards, requests)
}

/// What a projection must hold: the fold of the two logs, over a window.
pub fn fold_over(kafka: &SimKafka, partition: i32, window_ms: i64) -> Dump {
    let (mut cards, mut requests) = (BTreeMap::new(), BTreeMap::new());
    let mut accounts = Vec::new();
    for (_, record) in kafka.records(Topic::Cards, partition) {
        let id = decode_card(record.key.as_deref(), record.value.as_deref(), &mut accounts).unwrap();
        cards.insert(id, accounts.clone());
    }
    cards.retain(|_, accounts| !accounts.is_empty());
    let mut decided_ms = now_ms();
    for (_, record) in kafka.records(Topic::Completions, partition) {
        let headers = record.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref()));
        let at_ms = record.timestamp_ms.unwrap();
        decided_ms = decided_ms.max(at_ms);
        let first = decode_first_completion(headers, record.value.as_deref(), at_ms).unwrap();
        if let Some(FirstCompletion { request_id, remembered }) = first {
            requests.insert(request_id, (remembered.fingerprint.0, at_ms));
        }
    }
    requests.retain(|_, (_, at_ms)| decided_ms - *at_ms <= window_ms);
    (cards, requests)
}

/// INV-1: a projection remembers no request that is not committed as it remembers it.
pub fn assert_committed(kafka: &SimKafka, partition: i32, projection: &Projection) {
    let first = |record: std::rc::Rc<MemoryRecord>| {
        let headers = record.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref()));
        let first = decode_first_completion(headers, record.value.as_deref(), record.timestamp_ms.unwrap()).unwrap()?;
        Some((first.request_id, first.remembered.dt.at_ms))
    };
    let committed: BTreeSet<_> = kafka.decided(Topic::Completions, partition).into_iter().filter_map(first).collect();
    let each = |id: &RequestId, r: crate::domain::Remembered| {
        assert!(committed.contains(&(*id, r.dt.at_ms)), "partition {partition}: {id} is remembered and not committed");
    };
    projection.for_each_request(projection.decision_time_ms(now_ms()), each).unwrap();
}

/// The same by the rules of the unit tests.
pub fn fold(kafka: &SimKafka, partition: i32) -> Dump {
    fold_over(kafka, partition, rules().window_ms)
}

/// INV-4 and INV-5 over all that a partition's logs hold: each processed record has one answer, no other has any, and no
/// request was applied twice.
pub fn assert_answered_once(kafka: &SimKafka, partition: i32) {
    let mut answers = completions(kafka, partition);
    answers.extend(dead_letters(kafka, partition));
    let committed = kafka.committed(partition);
    for (input, next) in [(Input::Live, committed.live), (Input::Backfill, committed.backfill)] {
        let mut offsets: Vec<i64> = answers.iter().filter(|a| a.input == input).map(|a| a.offset).collect();
        offsets.sort_unstable();
        let processed: Vec<i64> = (0..next.unwrap_or(0)).collect();
        assert_eq!(offsets, processed, "partition {partition}, {input:?}: one answer to each record before {next:?}");
    }
    let mut applied = BTreeMap::new();
    for answer in answers.iter().filter(|a| a.ok && !a.replayed) {
        let former = applied.insert(answer.request.clone(), answer.offset);
        assert_eq!(former, None, "{} is ok twice", answer.request);
    }
}

/// INV-3: the worker's state is the fold of the logs, and so is a restore from the logs alone.
pub fn assert_is_fold(worker: &Worker, partition: i32) {
    let expected = fold(&worker.kafka, partition);
    assert_eq!(worker.state(partition), expected, "partition {partition}: the running state");
    let fresh = restore(&worker.kafka, partition, no_store(), None, rules()).unwrap();
    assert_eq!(dump(&fresh.projection), expected, "partition {partition}: a restore from the logs alone");
}
