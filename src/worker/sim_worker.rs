//! A worker over the small Kafka, driven step by step, and what tests ask of its state: commands, folds, dumps.

use super::leases::Leases;
use super::main_loop::{Flow, Loop, LoopParts};
use super::partition::{Cancel, Partition};
use super::restorer::{RestoreJob, RestoredState, Restorer, RestorerParts};
use super::rules::{BackfillCompletions, OnTrimmed, Rules};
use super::sim_cluster::Topic;
use super::sim_log::{SimKafka, SimLog, SimReader};
use super::status::{PartitionState, Status};
use super::{StartAt, Stop};
use crate::domain::{AccountType, CardId, OnDuplicate, RequestId, StoredAccount, UtcOffset};
use crate::kafka::{Input, InputOffsets, MemoryRecord};
use crate::observe::Metrics;
use crate::projection::{BlockCache, LogIdentity, NoStore, Projection, SledStore, Store, StoreError, Writer};
use crate::wire::{
    DecodeRules, FirstCompletion, KeyPolicy, REPLAY_SOURCE, SOURCE, Source, UnknownFields, decode_card,
    decode_first_completion, names,
};
use crossbeam_channel::{Sender, unbounded};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const COMMANDS: &str = "in/live";
pub const BACKFILL: &str = "in/back";
/// The time at which a test begins.
pub const BEGIN_MS: i64 = 1_760_000_000_000;
/// More steps, and more time, than any condition takes.
const STEPS: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(BEGIN_MS) };
}

/// The test's clock.
pub fn now_ms() -> i64 {
    NOW_MS.get()
}
/// Lets time pass.
pub fn pass_ms(ms: i64) {
    NOW_MS.set(NOW_MS.get() + ms);
}

/// Rules under which nothing is done by time alone.
pub fn rules() -> Rules {
    let kind = |text: &str| AccountType::new(text.as_bytes()).unwrap();
    Rules {
        decode: DecodeRules {
            key_policy: KeyPolicy::Strict,
            account_types: (0..40).map(|i| kind(&format!("K{i}"))).collect(),
            unknown_fields: UnknownFields::Reject,
            max_accounts: 1000,
            max_payload: 1 << 20,
        },
        on_duplicate: OnDuplicate::Replay,
        window_ms: 24 * 3600 * 1000,
        utc_offset: UtcOffset::default(),
        backfill_completions: BackfillCompletions::All,
        backfill_max_rate: 0,
        batch_max_records: 100,
        batch_max_bytes: 64 << 20,
        batch_max_delay: Duration::from_secs(10),
        marker_time: Duration::ZERO,
        checkpoint_interval: Duration::from_secs(3600),
        checkpoint_max_tail: 1_000_000,
        drain_timeout: Duration::from_secs(10),
        on_trimmed: OnTrimmed::Fail,
        restore_stall_timeout: Duration::from_secs(20),
        commands_topic: COMMANDS.to_owned(),
        backfill_topic: BACKFILL.to_owned(),
    }
}

pub fn identity() -> LogIdentity {
    LogIdentity { cluster: "sim".into(), cards_topic: "a".into(), completions_topic: "b".into(), partitions: 4 }
}

pub fn no_store() -> Arc<dyn Store> {
    Arc::new(NoStore("a test without a disk".into()))
}

/// The database in a directory.
pub fn sled(path: &Path) -> Arc<dyn Store> {
    Arc::new(SledStore::open(path).unwrap())
}

/// A disk that takes only so many writes: what comes after them never arrives, as after a kill.
pub struct CutStore {
    pub inner: Arc<dyn Store>,
    pub left: AtomicUsize,
}

impl CutStore {
    pub fn is_cut(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
    fn takes(&self) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

impl Store for CutStore {
    fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(partition, key)
    }
    fn put(&self, partition: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.takes() { self.inner.put(partition, key, value) } else { Ok(()) }
    }
    fn remove(&self, partition: i32, key: &[u8]) -> Result<(), StoreError> {
        if self.takes() { self.inner.remove(partition, key) } else { Ok(()) }
    }
    fn drop_partition(&self, partition: i32) -> Result<(), StoreError> {
        self.inner.drop_partition(partition)
    }
    fn partitions(&self) -> Vec<i32> {
        self.inner.partitions()
    }
    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }
}

/// One process with one loop.
pub struct Worker {
    pub kafka: SimKafka,
    pub main: Loop<SimLog>,
    pub restorer: Restorer<SimReader>,
    pub member: usize,
    orders: Sender<RestoreJob>,
    status: Arc<Status>,
    writer_thread: JoinHandle<()>,
}

impl Worker {
    /// Joins the group; the test says which partitions it gets.
    pub fn start(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules) -> Self {
        Self::start_with(kafka, store, rules, usize::MAX)
    }
    /// The same with a reader that gives at most `chunk` records of a log at once.
    pub fn start_with(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules, chunk: usize) -> Self {
        let (rules, status, metrics) =
            (Arc::new(rules), Arc::new(Status::default()), Arc::new(Metrics::new().unwrap()));
        let (writer, writer_thread) = Writer::start().unwrap();
        let (restores, jobs) = unbounded();
        let log = kafka.join();
        let member = log.member;
        let restorer = Restorer::new(RestorerParts {
            reader: kafka.reader(chunk),
            rules: rules.clone(),
            identity: identity(),
            start_at: None,
            standby: false,
            leases: Leases::default(),
            store,
            writer: writer.clone(),
            cache: Arc::new(BlockCache::default()),
            status: status.clone(),
            metrics: metrics.clone(),
            jobs,
            clock: now_ms,
        });
        let orders = restores.clone();
        let (_ask, questions) = crossbeam_channel::bounded(1);
        let status_of_loop = status.clone();
        let parts = LoopParts {
            log,
            rules,
            restores,
            writer,
            status: status_of_loop,
            metrics,
            traces: None,
            questions,
            clock: now_ms,
        };
        Self { kafka: kafka.clone(), main: Loop::new(parts), restorer, member, orders, status, writer_thread }
    }
    /// A worker that has these partitions.
    pub fn with(kafka: &SimKafka, store: Arc<dyn Store>, rules: Rules, partitions: &[i32]) -> Self {
        let worker = Self::start(kafka, store, rules);
        kafka.assign(worker.member, partitions);
        worker
    }

    /// One turn of the loop, and of the restorer where it has something to do.
    pub fn step(&mut self) -> Result<Flow, Stop> {
        let flow = self.main.step()?;
        if self.status.partitions().values().any(|s| s.state == PartitionState::Restoring) {
            // One without work would wait for an order: this one is given up already.
            let (cancel, (reply, _)) = (Cancel::default(), unbounded());
            cancel.cancel();
            self.orders.send(RestoreJob { partition: -1, cancel, reply }).unwrap();
            assert!(self.restorer.step());
        }
        Ok(flow)
    }
    /// So many steps.
    pub fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step().unwrap();
        }
    }
    /// Steps until the condition holds.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        // A deadline and no count of steps: the store's thread runs beside the steps.
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not reached in time");
            if self.step().unwrap() == Flow::Idle {
                std::thread::yield_now();
            }
        }
    }
    /// Steps until the loop says why it ends.
    pub fn until_stopped(&mut self) -> String {
        for _ in 0..STEPS {
            if let Err(stop) = self.step() {
                return stop.0;
            }
        }
        panic!("it does not stop");
    }
    /// Steps until its partitions' inputs are processed.
    pub fn drain(&mut self) {
        self.until("inputs processed", |worker| worker.is_drained());
    }
    pub fn is_drained(&self) -> bool {
        let owned = (0..4).filter(|p| self.kafka.owner(*p) == Some(self.member));
        let ends = |p: i32| InputOffsets {
            live: Some(self.kafka.end(Topic::Commands, p)),
            backfill: Some(self.kafka.end(Topic::Backfill, p)),
        };
        let applied =
            |p: i32| self.runs(p).is_some_and(|r| r.committed == ends(p) && self.kafka.committed(p) == ends(p));
        owned.into_iter().all(applied)
    }
    /// The running partition.
    pub fn runs(&self, partition: i32) -> Option<&super::partition::Running> {
        self.main.partitions.get(&partition).and_then(Partition::running)
    }
    /// Its state.
    pub fn state(&self, partition: i32) -> Dump {
        dump(&self.runs(partition).expect("the partition runs").projection)
    }
    /// Ends at once: what the writer has not written by now is lost.
    pub fn kill(self) {
        drop((self.main, self.restorer));
        self.writer_thread.join().unwrap();
    }
    /// Ends in order.
    pub fn end(self) {
        self.main.end(Duration::from_secs(20)).unwrap();
        drop(self.restorer);
        self.writer_thread.join().unwrap();
    }
}

// --- restores without a loop ---

/// A restore as an operator would start it.
pub fn restore(
    kafka: &SimKafka,
    partition: i32,
    store: Arc<dyn Store>,
    start_at: Option<StartAt>,
    rules: Rules,
) -> Result<RestoredState, String> {
    let (orders, jobs) = unbounded();
    let (writer, writer_thread) = Writer::start().unwrap();
    let mut restorer = Restorer::new(RestorerParts {
        reader: kafka.reader(3),
        rules: Arc::new(rules),
        identity: identity(),
        start_at,
        standby: false,
        leases: Leases::default(),
        store,
        writer,
        cache: Arc::new(BlockCache::default()),
        status: Arc::new(Status::default()),
        metrics: Arc::new(Metrics::new().unwrap()),
        jobs,
        clock: now_ms,
    });
    let (reply, restored) = unbounded();
    orders.send(RestoreJob { partition, cancel: Cancel::default(), reply }).unwrap();
    for _ in 0..STEPS {
        assert!(restorer.step());
        if let Ok(restored) = restored.try_recv() {
            drop(restorer);
            writer_thread.join().unwrap();
            return restored.result.map_err(|stop| stop.0);
        }
    }
    panic!("the restore does not end");
}

// --- commands ---

pub fn request_id(n: u64) -> RequestId {
    RequestId::from_bytes((0xaaaa_u128 << 64 | u128::from(n)).to_be_bytes())
}
pub fn card_id(n: u64) -> CardId {
    CardId::from_bytes((u128::from(n) << 64 | 0xbbbb).to_be_bytes())
}

const CURRENCIES: [&str; 10] = ["USD", "EUR", "GBP", "CHF", "JPY", "SEK", "NOK", "DKK", "PLN", "CZK"];

/// A command that puts accounts, as places and numbers, on a card.
pub fn command(request: u64, card: u64, accounts: &[(usize, u64)]) -> MemoryRecord {
    let account = |(place, number): &(usize, u64)| {
        let (kind, currency) = (place / CURRENCIES.len(), CURRENCIES[place % CURRENCIES.len()]);
        format!(r#"{{"iban":"N{number}","currency":"{currency}","type":"K{kind}"}}"#)
    };
    let accounts: Vec<String> = accounts.iter().map(account).collect();
    let (request, card) = (request_id(request), card_id(card));
    let value = format!(r#"{{"request_id":"{request}","card_id":"{card}","accounts":[{}]}}"#, accounts.join(","));
    MemoryRecord {
        key: Some(card.to_string().into_bytes()),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
        timestamp_ms: Some(now_ms()),
    }
}
/// A record that cannot be answered.
pub fn garbage(bytes: usize) -> MemoryRecord {
    MemoryRecord {
        key: Some(b"k".to_vec()),
        value: Some(vec![b'{'; bytes]),
        headers: Vec::new(),
        timestamp_ms: Some(now_ms()),
    }
}
/// The same with the place that a replay notes.
pub fn replayed(mut record: MemoryRecord, partition: i32, offset: i64) -> MemoryRecord {
    record.headers.push((REPLAY_SOURCE.to_owned(), Some(format!("{COMMANDS}/{partition}/{offset}").into_bytes())));
    record
}

// --- what the logs say ---

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

/// The completions of a partition, in the log's order.
pub fn completions(kafka: &SimKafka, partition: i32) -> Vec<Answer> {
    let answer = |record: &MemoryRecord| {
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
    };
    kafka.records(Topic::Completions, partition).iter().map(|(_, record)| answer(record)).collect()
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

/// What a projection holds.
pub fn dump(projection: &Projection) -> Dump {
    let (mut cards, mut requests) = (BTreeMap::new(), BTreeMap::new());
    projection.for_each_card(|id, accounts| drop(cards.insert(*id, accounts.to_vec())));
    let each = |id: &RequestId, r: crate::domain::Remembered| {
        assert_eq!(requests.insert(*id, (r.fingerprint.0, r.dt.at_ms)), None, "{id} is held twice");
    };
    projection.for_each_request(now_ms(), each).unwrap();
    let ids: Vec<RequestId> = requests.keys().copied().collect();
    for id in ids {
        let found = projection.request(&id, now_ms()).unwrap().map(|r| (r.fingerprint.0, r.dt.at_ms));
        assert_eq!(found, requests.get(&id).copied());
    }
    (cards, requests)
}

/// What a projection must hold: the fold of the two logs.
pub fn fold(kafka: &SimKafka, partition: i32) -> Dump {
    let (mut cards, mut requests) = (BTreeMap::new(), BTreeMap::new());
    let mut accounts = Vec::new();
    for (_, record) in kafka.records(Topic::Cards, partition) {
        let id = decode_card(record.key.as_deref(), record.value.as_deref(), &mut accounts).unwrap();
        cards.insert(id, accounts.clone());
    }
    cards.retain(|_, accounts| !accounts.is_empty());
    for (_, record) in kafka.records(Topic::Completions, partition) {
        let headers = record.headers.iter().map(|(n, v)| (n.as_str(), v.as_deref()));
        let at_ms = record.timestamp_ms.unwrap();
        let first = decode_first_completion(headers, record.value.as_deref(), at_ms).unwrap();
        if let Some(FirstCompletion { request_id, remembered }) =
            first.filter(|_| now_ms() - at_ms <= rules().window_ms)
        {
            requests.insert(request_id, (remembered.fingerprint.0, at_ms));
        }
    }
    (cards, requests)
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

/// A small generator of numbers that look random, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
