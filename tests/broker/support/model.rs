//! Owns the model: what the contract says becomes of a sequence of commands, in a few dozen lines and on plain JSON values.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

/// An account of a request, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `type`.
    pub kind: String,
    /// `currency`.
    pub currency: String,
    /// `iban`.
    pub number: String,
}

/// What a record means to the contract, known to whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Unanswerable, with the reason.
    Dead(&'static str),
    /// Answerable and rejected.
    Reject { request_id: String, card_id: Option<String>, code: &'static str, path: &'static str },
    /// Valid, with normalised contents.
    Update { request_id: String, card_id: String, accounts: Vec<Account> },
    /// Never to be seen by the worker (aborted, or trimmed away).
    Invisible,
}

/// A record of the commands topic.
#[derive(Clone, Debug)]
pub struct Command {
    /// Partition number.
    pub partition: i32,
    /// Offset; -1 until it is sent.
    pub offset: i64,
    /// Milliseconds since the epoch; -1 for none.
    pub timestamp: i64,
    /// Record key.
    pub key: Option<Vec<u8>>,
    /// Record value.
    pub value: Option<Vec<u8>>,
    /// Record headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// What it means.
    pub meaning: Meaning,
}

impl Command {
    /// A record stamped now.
    pub fn new(partition: i32, key: Option<&[u8]>, value: Option<&[u8]>, meaning: Meaning) -> Command {
        Command {
            partition,
            offset: -1,
            timestamp: super::now_ms(),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: Vec::new(),
            meaning,
        }
    }

    /// A valid command in its plain form; accounts as (type, currency, number).
    pub fn update(partition: i32, request_id: &str, card_id: &str, accounts: &[(&str, &str, &str)]) -> Command {
        let list: Vec<Value> =
            accounts.iter().map(|(t, c, n)| json!({ "iban": n, "currency": c, "type": t })).collect();
        let value = json!({ "request_id": request_id, "card_id": card_id, "accounts": list }).to_string();
        let accounts = accounts
            .iter()
            .map(|(t, c, n)| Account { kind: t.to_string(), currency: c.to_string(), number: n.to_string() })
            .collect();
        let (request_id, card_id) = (request_id.to_string(), card_id.to_string());
        let key = card_id.clone();
        let meaning = Meaning::Update { request_id, card_id, accounts };
        Command::new(partition, Some(key.as_bytes()), Some(value.as_bytes()), meaning)
    }

    /// The same with another timestamp.
    pub fn at(mut self, timestamp: i64) -> Command {
        self.timestamp = timestamp;
        self
    }

    /// The same with one more header.
    pub fn header(mut self, key: &str, value: &str) -> Command {
        self.headers.push((key.to_string(), Some(value.as_bytes().to_vec())));
        self
    }
}

/// `dedup.on_duplicate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The first answer again.
    Replay,
    /// No answer.
    Suppress,
    /// `duplicate_request`.
    Error,
}

/// What must become of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A first success.
    Done { request_id: String, card_id: String, fingerprint: String },
    /// The success at this offset again, byte for byte.
    Replayed { first: i64, fingerprint: String },
    /// An error; the path where the contract fixes it.
    Refused { request_id: String, card_id: Option<String>, code: &'static str, path: Option<&'static str> },
    /// A dead letter.
    Dead(&'static str),
    /// Nothing.
    Silence,
}

/// One partition's fold of its commands.
#[derive(Default)]
pub struct Fold {
    /// Cards as their records must read, by id.
    pub cards: BTreeMap<String, Value>,
    /// Remembered requests with their fingerprint and the offset of the first success.
    pub requests: HashMap<String, (String, i64)>,
    /// What each card was after each command that changed it, by card and offset.
    pub history: HashMap<(String, i64), Value>,
}

impl Fold {
    /// Takes the next command of the partition.
    pub fn step(&mut self, command: &Command, on_duplicate: OnDuplicate) -> Expected {
        let (request_id, card_id, accounts) = match &command.meaning {
            Meaning::Invisible => return Expected::Silence,
            Meaning::Dead(reason) => return Expected::Dead(reason),
            Meaning::Reject { request_id, card_id, code, path } => {
                let (request_id, card_id) = (request_id.clone(), card_id.clone());
                return Expected::Refused { request_id, card_id, code, path: Some(path) };
            }
            Meaning::Update { request_id, card_id, accounts } => (request_id, card_id, accounts),
        };
        let refused = |code| Expected::Refused {
            request_id: request_id.clone(),
            card_id: Some(card_id.clone()),
            code,
            path: None,
        };
        let fingerprint = fingerprint(card_id, accounts);
        match self.requests.get(request_id) {
            Some((known, _)) if *known != fingerprint => return refused("request_id_conflict"),
            Some((_, first)) => {
                return match on_duplicate {
                    OnDuplicate::Replay => Expected::Replayed { first: *first, fingerprint },
                    OnDuplicate::Suppress => Expected::Silence,
                    OnDuplicate::Error => refused("duplicate_request"),
                };
            }
            None => self.requests.insert(request_id.clone(), (fingerprint.clone(), command.offset)),
        };
        self.patch(command, request_id, card_id, accounts);
        Expected::Done { request_id: request_id.clone(), card_id: card_id.clone(), fingerprint }
    }

    fn patch(&mut self, command: &Command, request_id: &str, card_id: &str, accounts: &[Account]) {
        if accounts.is_empty() {
            return;
        }
        let fresh = || json!({ "card_id": card_id, "accounts": [] });
        let card = self.cards.entry(card_id.to_string()).or_insert_with(fresh);
        let stored = card["accounts"].as_array_mut().expect("a list");
        for a in accounts {
            stored.retain(|s| s["type"] != a.kind.as_str() || s["currency"] != a.currency.as_str());
            stored.push(json!({
                "iban": a.number, "currency": a.currency, "type": a.kind, "request_id": request_id,
                "updated_at": command.timestamp, "source_offset": command.offset,
            }));
        }
        self.history.insert((card_id.to_string(), command.offset), card.clone());
    }
}

/// The header `request-fingerprint` of a command with this meaning.
pub fn fingerprint(card_id: &str, accounts: &[Account]) -> String {
    let hex: String = card_id.chars().filter(|c| *c != '-').collect();
    let id = u128::from_str_radix(&hex, 16).expect("a UUID").to_be_bytes();
    let mut bytes = id.to_vec();
    for a in accounts {
        for (part, end) in [(&a.kind, 0x1f), (&a.currency, 0x1f), (&a.number, 0x1e)] {
            bytes.extend_from_slice(part.as_bytes());
            bytes.push(end);
        }
    }
    format!("1-{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes))
}
