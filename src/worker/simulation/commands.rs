//! What the simulation sends, by which rules, and when: ids, commands, and the time of day.

use crate::domain::{Account, AccountNumber, AccountType, CardId, Currency, OnDuplicate, RequestId, UtcOffset};
use crate::kafka::MemoryRecord;
use crate::wire::{DecodeRules, KeyPolicy, REPLAY_SOURCE, UnknownFields};
use crate::worker::rules::{BackfillCompletions, OnTrimmed, Rules};
use std::cell::Cell;
use std::time::Duration;

pub const COMMANDS: &str = "in/live";
pub const BACKFILL: &str = "in/back";
/// The time at which a test begins.
pub const BEGIN_MS: i64 = 1_760_000_000_000;

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(BEGIN_MS) };
    static SKEW_MS: Cell<i64> = const { Cell::new(0) };
}

/// The clock of the process whose turn it is.
pub fn now_ms() -> i64 {
    NOW_MS.get() + SKEW_MS.get()
}
/// The clock that is right.
pub fn true_ms() -> i64 {
    NOW_MS.get()
}
/// Lets time pass.
pub fn pass_ms(ms: i64) {
    NOW_MS.set(NOW_MS.get() + ms);
}
/// By how much the clock of the process whose turn it is differs; gives what it was.
pub fn skew_ms(ms: i64) -> i64 {
    SKEW_MS.replace(ms)
}
/// The time begins anew.
pub fn begin_time() {
    NOW_MS.set(BEGIN_MS);
    SKEW_MS.set(0);
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

pub fn request_id(n: u64) -> RequestId {
    RequestId::from_bytes((0xaaaa_u128 << 64 | u128::from(n)).to_be_bytes())
}
pub fn card_id(n: u64) -> CardId {
    CardId::from_bytes((u128::from(n) << 64 | 0xbbbb).to_be_bytes())
}

const CURRENCIES: [&str; 10] = ["USD", "EUR", "GBP", "CHF", "JPY", "SEK", "NOK", "DKK", "PLN", "CZK"];

/// An account as a card has it, by place and number.
pub fn account_of(place: usize, number: u64) -> Account {
    Account {
        kind: AccountType::new(format!("K{}", place / CURRENCIES.len()).as_bytes()).unwrap(),
        currency: Currency::parse(CURRENCIES[place % CURRENCIES.len()]).unwrap(),
        number: AccountNumber::stored(format!("N{number}").as_bytes()).unwrap(),
    }
}

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

/// A small generator of numbers that look random, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }
    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
