//! What the parts of a command's way cost, each alone: `cargo bench --bench micro [NAME]`. Instructions, which do not depend on the
//! machine's load: `valgrind --tool=callgrind --toggle-collect='*::NAME*' target/release/deps/micro-… --bench NAME`.

// All of this is a program that measures: what cannot be made is its own failure.
#![allow(clippy::unwrap_used, missing_docs)]

use card_update_worker::domain::{
    Account, AccountNumber, AccountType, Answer, CardId, Command, Currency, Dt, Fingerprint, OnDuplicate, Origin,
    Remembered, RequestId, StoredAccount, UtcOffset, decide,
};
use card_update_worker::kafka::{Body, Input, MemoryRecord, Record};
use card_update_worker::projection::{
    BlockCache, Lease, LogIdentity, Positions, Projection, Step, StepBytes, Store, StoreError, Tree, Writer, Writing,
};
use card_update_worker::wire::{
    DecodeRules, Decoded, Decoder, KeyPolicy, Outbox, Source, UnknownFields, completion, decode_card,
    decode_first_completion, encode_card,
};
use card_update_worker::worker::{BackfillCompletions, OnTrimmed, Rules, Stager};
use divan::{Bencher, black_box, counter::ItemsCount};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn main() {
    divan::main();
}

const NOW_MS: i64 = 1_760_000_000_000;
const WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;
/// Cards and requests of a partition of middling size.
const MANY: u64 = 200_000;
/// Commands of a full batch.
const BATCH: u64 = 1000;
const IBAN: &str = "ES7921000813610123456789";

/// Numbers that look random and are the same at each run.
fn scattered(n: u64) -> u128 {
    let mix = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    u128::from(mix(n)) << 64 | u128::from(mix(n ^ 0x5555))
}
fn card_id(n: u64) -> CardId {
    CardId::from_bytes(scattered(n).to_be_bytes())
}
fn request_id(n: u64) -> RequestId {
    RequestId::from_bytes(scattered(n + (1 << 40)).to_be_bytes())
}

fn account(n: u64) -> Account {
    let currencies = ["USD", "EUR", "GBP"];
    Account {
        kind: AccountType::new(b"IBAN").unwrap(),
        currency: Currency::parse(currencies[n as usize % 3]).unwrap(),
        number: AccountNumber::stored(IBAN.as_bytes()).unwrap(),
    }
}
fn stored(n: u64) -> Vec<StoredAccount> {
    let one = |i| StoredAccount {
        account: account(n + i),
        request_id: request_id(n),
        updated_at_ms: NOW_MS,
        source_offset: Some(n as i64),
    };
    vec![one(0), one(1)]
}
fn now() -> Dt {
    Dt { at_ms: NOW_MS, offset: UtcOffset::default() }
}
fn remembered(n: u64) -> Remembered {
    Remembered { fingerprint: Fingerprint(scattered(n)), dt: now() }
}

fn decode_rules() -> DecodeRules {
    DecodeRules {
        key_policy: KeyPolicy::Strict,
        account_types: vec![AccountType::new(b"IBAN").unwrap()],
        unknown_fields: UnknownFields::Reject,
        max_accounts: 100,
        max_payload: 1 << 20,
    }
}
fn rules() -> Rules {
    Rules {
        decode: decode_rules(),
        on_duplicate: OnDuplicate::Replay,
        window_ms: WINDOW_MS,
        utc_offset: UtcOffset::default(),
        backfill_completions: BackfillCompletions::All,
        backfill_max_rate: 0,
        batch_max_records: BATCH as usize,
        batch_max_bytes: 16 << 20,
        batch_max_delay: Duration::from_millis(20),
        marker_time: Duration::ZERO,
        checkpoint_interval: Duration::from_secs(60),
        checkpoint_max_tail: 1_000_000,
        drain_timeout: Duration::from_secs(20),
        on_trimmed: OnTrimmed::Fail,
        restore_stall_timeout: Duration::from_secs(20),
        commands_topic: "card-update.commands".to_owned(),
        backfill_topic: "card-update.backfill".to_owned(),
    }
}

fn key(card: u64) -> Vec<u8> {
    card_id(card).to_string().into_bytes()
}
fn command(n: u64, accounts: u64) -> MemoryRecord {
    let account =
        |i: u64| format!(r#"{{"iban":"{IBAN}","currency":"{}","type":"IBAN"}}"#, ["USD", "EUR", "GBP"][i as usize % 3]);
    let accounts: Vec<String> = (0..accounts).map(|i| account(n + i)).collect();
    let (request, card) = (request_id(n), card_id(n % MANY));
    let value = format!(r#"{{"request_id":"{request}","card_id":"{card}","accounts":[{}]}}"#, accounts.join(","));
    MemoryRecord {
        key: Some(key(n % MANY)),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
        timestamp_ms: Some(NOW_MS),
    }
}
fn batch(first: u64, accounts: u64) -> Vec<(Input, Record)> {
    let record = |n: u64| Record { partition: 0, offset: n as i64, body: Body::Memory(Box::new(command(n, accounts))) };
    (first..first + BATCH).map(|n| (Input::Live, record(n))).collect()
}

// --- wire and domain ---

#[divan::bench(args = [1, 2, 20])]
fn decode(bencher: Bencher<'_, '_>, accounts: u64) {
    let (record, mut decoder) = (command(7, accounts), Decoder::new(decode_rules()));
    bencher.bench_local(|| {
        let decoded = decoder.decode(black_box(record.key.as_deref()), black_box(record.value.as_deref()));
        assert!(matches!(decoded, Decoded::Command(_)));
    });
}

#[divan::bench]
fn decide_new(bencher: Bencher<'_, '_>) {
    let accounts = [account(0)];
    let command = Command { request_id: request_id(1), card_id: card_id(1), accounts: &accounts };
    let origin = Origin::Live { offset: 1, timestamp_ms: NOW_MS };
    let (card, mut scratch) = (stored(1), Vec::new());
    let mut patched = card.clone();
    bencher.bench_local(|| {
        patched.clone_from(&card);
        let fingerprint = Fingerprint::of(&command.card_id, command.accounts, &mut scratch);
        decide(black_box(&command), fingerprint, &origin, None, OnDuplicate::Replay, now(), &mut patched)
    });
}

#[divan::bench]
fn encode_completion_and_card(bencher: Bencher<'_, '_>) {
    let source = Source { topic: "card-update.commands", partition: 0, offset: 77 };
    let (key, accounts, mut outbox, mut value) = (key(1), stored(1), Outbox::default(), Vec::new());
    let result = Ok(Fingerprint(7));
    let answer = Answer { request_id: request_id(1), card_id: Some(card_id(1)), dt: now(), result, replayed: false };
    bencher.bench_local(|| {
        outbox.clear();
        completion(black_box(&answer), &source, Some(&key), NOW_MS, 0, &mut outbox);
        outbox.end();
        value.clear();
        encode_card(&card_id(1), black_box(&accounts), &mut value);
    });
}

#[divan::bench]
fn decode_card_record(bencher: Bencher<'_, '_>) {
    let (key, mut value, mut accounts) = (key(1), Vec::new(), Vec::new());
    encode_card(&card_id(1), &stored(1), &mut value);
    bencher.bench_local(|| decode_card(Some(black_box(&key)), Some(black_box(&value)), &mut accounts).unwrap());
}

#[divan::bench]
fn decode_completion(bencher: Bencher<'_, '_>) {
    let source = Source { topic: "card-update.commands", partition: 0, offset: 77 };
    let (mut outbox, result) = (Outbox::default(), Ok(Fingerprint(7)));
    let answer = Answer { request_id: request_id(1), card_id: Some(card_id(1)), dt: now(), result, replayed: false };
    completion(&answer, &source, None, NOW_MS, 0, &mut outbox);
    outbox.end();
    let record = outbox.get(0);
    let header =
        |(name, value): (&[u8], Option<&[u8]>)| (String::from_utf8(name.to_vec()).unwrap(), value.map(<[u8]>::to_vec));
    let headers: Vec<_> = record.headers().map(header).collect();
    let value = record.value.map(<[u8]>::to_vec);
    bencher.bench_local(|| {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        decode_first_completion(headers, black_box(value.as_deref()), NOW_MS).unwrap().unwrap()
    });
}

// --- the projection ---

/// A disk in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Store for Memory {
    fn get(&self, _: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }
    fn put(&self, _: i32, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0.lock().unwrap().insert(key.to_vec(), value.to_vec());
        Ok(())
    }
    fn remove(&self, _: i32, key: &[u8]) -> Result<(), StoreError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
    fn drop_partition(&self, _: i32) -> Result<(), StoreError> {
        self.0.lock().unwrap().clear();
        Ok(())
    }
    fn partitions(&self) -> Vec<i32> {
        vec![0]
    }
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

fn open(store: &Arc<Memory>) -> Projection {
    let tree = Tree::new(0, store.clone(), Arc::new(BlockCache::default()));
    Projection::open(tree, LogIdentity::default(), WINDOW_MS).unwrap().projection
}

fn filled(store: &Arc<Memory>) -> Projection {
    let mut projection = open(store);
    (0..MANY).for_each(|n| projection.put_card(&card_id(n), &stored(n)));
    (0..MANY).for_each(|n| projection.put_request(&request_id(n), remembered(n)));
    projection
}

/// A whole round, its writes included.
fn round(projection: &mut Projection, writer: &Writer, writing: &mut Writing) {
    projection.begin_round(Positions { cards: 1, completions: 1 });
    while projection.checkpoint_step(writer, &Lease::default(), &mut StepBytes::default()) != Step::Done {
        while writing.step() {}
    }
}

#[divan::bench]
fn look_up_a_card(bencher: Bencher<'_, '_>) {
    let (projection, mut n, mut card) = (filled(&Arc::default()), 0, Vec::new());
    bencher.bench_local(|| {
        n = (n + 7919) % MANY;
        assert!(projection.card(&card_id(n), &mut card));
    });
}

#[divan::bench]
fn look_up_a_new_request(bencher: Bencher<'_, '_>) {
    let (projection, mut n) = (filled(&Arc::default()), MANY);
    bencher.bench_local(|| {
        n += 1;
        projection.request(&request_id(n), NOW_MS).unwrap()
    });
}

#[divan::bench]
fn look_up_a_repeated_request(bencher: Bencher<'_, '_>) {
    let (projection, mut n) = (filled(&Arc::default()), 0);
    bencher.bench_local(|| {
        n = (n + 7919) % MANY;
        assert!(projection.request(&request_id(n), NOW_MS).unwrap().is_some());
    });
}

#[divan::bench]
fn apply_a_card_and_a_request(bencher: Bencher<'_, '_>) {
    let (mut projection, mut n, accounts) = (filled(&Arc::default()), MANY, stored(3));
    bencher.bench_local(|| {
        n += 1;
        projection.put_card(&card_id(n * 7919 % MANY), &accounts);
        projection.put_request(&request_id(n), remembered(n));
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn a_round_with_every_block_dirty(bencher: Bencher<'_, '_>) {
    let (writer, mut writing) = Writer::queue();
    let mut projection = filled(&Arc::default());
    round(&mut projection, &writer, &mut writing);
    let per_round = bencher.counter(ItemsCount::new(MANY));
    per_round.bench_local(|| {
        (0..MANY).step_by(16).for_each(|n| projection.put_card(&card_id(n), &stored(n)));
        round(&mut projection, &writer, &mut writing);
    });
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn open_a_checkpoint(bencher: Bencher<'_, '_>) {
    let (store, (writer, mut writing)) = (Arc::default(), Writer::queue());
    let mut projection = filled(&store);
    (0..6).for_each(|_| round(&mut projection, &writer, &mut writing));
    bencher.counter(ItemsCount::new(MANY)).bench_local(|| assert_eq!(open(&store).stats().cards, MANY as usize));
}

// --- the whole way, without Kafka ---

#[divan::bench(args = [1, 2, 20])]
fn decode_decide_and_stage_a_batch(bencher: Bencher<'_, '_>, accounts: u64) {
    let (projection, mut stager) = (filled(&Arc::default()), Stager::new(Arc::new(rules())));
    let (records, refused) = (batch(MANY, accounts), HashMap::new());
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let staged = stager.stage(&records, |_| Some(&projection), (&refused, BATCH as usize), NOW_MS);
        assert!(staged.is_ok());
    });
}
