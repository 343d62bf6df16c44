//! The contract in a few lines, and the answers of a partition held against it in the order of the log.

use super::cluster::Topic;
use super::commands::{account_of, card_id, garbage, request_id};
use super::kafka::SimKafka;
use super::said::{Answer, completion, dead_letters, fold_over};
use crate::domain::{CardId, OnDuplicate, StoredAccount};
use crate::kafka::Input;
use crate::worker::rules::{BackfillCompletions, Rules};
use std::collections::{BTreeMap, BTreeSet};

/// What was sent, known without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It cannot be answered; so many bytes.
    Garbage(usize),
    /// It names a currency that there is not.
    Invalid { request: u64, card: u64 },
    /// A command: its accounts as places and numbers, its time, and its place in the commands topic where it is a replay.
    Command { request: u64, card: u64, accounts: Vec<(usize, u64)>, at_ms: i64, replay_of: Option<i64> },
}

/// What must become of a command.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Ok,
    /// The first answer again, byte for byte.
    Replayed(String),
    Error(&'static str),
    Suppressed,
    Dead,
}

type Meaning = (u64, Vec<(usize, u64)>);

struct Account {
    place: usize,
    number: u64,
    request: u64,
    at_ms: i64,
    offset: Option<i64>,
}

/// One partition by the contract.
#[derive(Default)]
pub struct Model {
    /// Commands by input and offset, also those that the log has lost.
    pub sent: [Vec<Sent>; 2],
    /// Commands that may have been deleted before they were processed.
    pub gone: BTreeSet<(usize, i64)>,
    /// Kafka has lost records that it had acknowledged: what was answered is not known any more.
    pub unpromised: bool,
    cards: BTreeMap<u64, Vec<Account>>,
    /// Meaning, decision time and the first answer.
    remembered: BTreeMap<u64, (Meaning, i64, Vec<u8>)>,
    /// Offset of the completions that were looked at.
    read_to: i64,
    next: [i64; 2],
    decided_ms: i64,
    /// Offsets without a completion, and whether they may have been suppressed.
    skipped: BTreeMap<(usize, i64), bool>,
}

impl Model {
    /// Holds the completions that have come since the last look against the contract.
    pub fn follow(&mut self, kafka: &SimKafka, partition: i32, rules: &Rules) {
        for (offset, record) in kafka.records_from(Topic::Completions, partition, self.read_to) {
            self.read_to = offset + 1;
            if !self.unpromised {
                let at_ms = record.timestamp_ms.unwrap();
                self.answer(partition, &completion(partition, &record), at_ms, rules);
            }
        }
    }

    fn answer(&mut self, partition: i32, answer: &Answer, at_ms: i64, rules: &Rules) {
        let (input, offset) = (answer.input, answer.offset);
        assert!(at_ms >= self.decided_ms, "decision time goes back from {} to {at_ms}", self.decided_ms);
        self.decided_ms = at_ms;
        let next = self.next[input as usize];
        assert!(
            offset >= next,
            "partition {partition}, {input:?} offset {offset} is answered again or too late: {next} is next"
        );
        (next..offset).for_each(|skipped| self.skip(input, skipped, rules));
        self.next[input as usize] = offset + 1;
        self.skipped.remove(&(input as usize, offset));
        let body = answer.record.value.clone().unwrap();
        check_content(&self.sent[input as usize][offset as usize], answer, at_ms);
        let due = self.decide(input, offset, at_ms, &body, rules);
        let given = match (answer.ok, answer.replayed) {
            (true, false) => Due::Ok,
            (true, true) => Due::Replayed(String::from_utf8(body).unwrap()),
            _ => Due::Error(ERRORS.into_iter().find(|code| **code == answer.why).unwrap_or("another")),
        };
        let sent = &self.sent[input as usize][offset as usize];
        assert!(
            given == due,
            "partition {partition}, {input:?} offset {offset}: given {given:?}, due {due:?} for {sent:?}"
        );
    }

    /// No completion for a command: a dead letter, a suppression, or lost by the log.
    fn skip(&mut self, input: Input, offset: i64, rules: &Rules) {
        let suppressed = match &self.sent[input as usize][offset as usize] {
            Sent::Command { request, card, accounts, .. } => {
                let known = self.remembered.get(request);
                let repeated = known.is_some_and(|(meaning, ..)| *meaning == (*card, accounts.clone()));
                let applied = rules.backfill_completions == BackfillCompletions::Applied && input == Input::Backfill;
                (repeated && rules.on_duplicate == OnDuplicate::Suppress) || applied
            }
            _ => false,
        };
        self.skipped.insert((input as usize, offset), suppressed);
    }

    fn decide(&mut self, input: Input, offset: i64, now_ms: i64, body: &[u8], rules: &Rules) -> Due {
        let sent = self.sent[input as usize][offset as usize].clone();
        let Sent::Command { request, card, accounts, at_ms, replay_of } = sent else {
            return if matches!(sent, Sent::Garbage(_)) { Due::Dead } else { Due::Error("invalid_currency") };
        };
        let applied_only = input == Input::Backfill && rules.backfill_completions == BackfillCompletions::Applied;
        let meaning = (card, accounts.clone());
        match self.remembered.get(&request).filter(|(_, first_ms, _)| now_ms - first_ms <= rules.window_ms) {
            Some((first, ..)) if *first != meaning => return Due::Error("request_id_conflict"),
            Some(_) if applied_only && rules.on_duplicate == OnDuplicate::Replay => return Due::Suppressed,
            Some((_, _, body)) => match rules.on_duplicate {
                OnDuplicate::Replay => return Due::Replayed(String::from_utf8(body.clone()).unwrap()),
                OnDuplicate::Suppress => return Due::Suppressed,
                OnDuplicate::Error => return Due::Error("duplicate_request"),
            },
            None => {}
        }
        let position = if input == Input::Live { Some(offset) } else { replay_of };
        let card = self.cards.entry(card).or_default();
        let fresh = |(place, _): &&(usize, u64)| {
            input == Input::Live || !card.iter().any(|a| a.place == *place && a.outdates(position, at_ms))
        };
        let fresh: Vec<_> = accounts.iter().filter(fresh).copied().collect();
        if fresh.is_empty() && !accounts.is_empty() {
            return if applied_only { Due::Suppressed } else { Due::Error("stale_command") };
        }
        for (place, number) in fresh {
            card.retain(|a| a.place != place);
            card.push(Account { place, number, request, at_ms, offset: position });
        }
        self.remembered.insert(request, (meaning, now_ms, body.to_vec()));
        Due::Ok
    }

    /// INV-4, INV-5 and the cards, when all that was sent is processed.
    pub fn check(&mut self, kafka: &SimKafka, partition: i32, rules: &Rules) {
        self.follow(kafka, partition, rules);
        if self.unpromised {
            return;
        }
        let mut dead = BTreeSet::new();
        let mut last = [-1; 2];
        for letter in dead_letters(kafka, partition) {
            let at = (letter.input as usize, letter.offset);
            assert!(letter.offset > last[at.0], "{at:?} is a dead letter again or too late");
            last[at.0] = letter.offset;
            let Sent::Garbage(bytes) = self.sent[at.0][at.1 as usize] else { panic!("{at:?} is a dead letter") };
            let expected = garbage(bytes);
            assert_eq!((&letter.record.key, &letter.record.value), (&expected.key, &expected.value), "{at:?}");
            dead.insert(at);
        }
        // Not yet passed over for good: what was suppressed is decided anew when the committed offsets are lost.
        for input in [Input::Live, Input::Backfill] {
            let sent = self.sent[input as usize].len() as i64;
            (self.next[input as usize]..sent).for_each(|skipped| self.skip(input, skipped, rules));
        }
        for (at, suppressed) in &self.skipped {
            let explained = *suppressed || dead.contains(at) || self.gone.contains(at);
            assert!(explained, "partition {partition}, {at:?} has no answer: {:?}", self.sent[at.0][at.1 as usize]);
        }
        for at in &dead {
            assert!(self.skipped.contains_key(at), "{at:?} has a completion and a dead letter");
        }
        let (cards, _) = fold_over(kafka, partition, rules.window_ms);
        assert_eq!(cards, self.cards(), "partition {partition}: the cards, by the answers in their order");
    }

    fn cards(&self) -> BTreeMap<CardId, Vec<StoredAccount>> {
        let stored = |a: &Account| StoredAccount {
            account: account_of(a.place, a.number),
            request_id: request_id(a.request),
            updated_at_ms: a.at_ms,
            source_offset: a.offset,
        };
        let known = self.cards.iter().filter(|(_, accounts)| !accounts.is_empty());
        known.map(|(card, accounts)| (card_id(*card), accounts.iter().map(stored).collect())).collect()
    }
}

/// What a completion says of whom and when; a replayed one is held against the first, byte for byte, elsewhere.
fn check_content(sent: &Sent, answer: &Answer, at_ms: i64) {
    let (Sent::Invalid { request, card } | Sent::Command { request, card, .. }) = sent else {
        panic!("a completion for what cannot be answered");
    };
    let body: serde_json::Value = serde_json::from_slice(answer.record.value.as_ref().unwrap()).unwrap();
    let (request, card) = (request_id(*request).to_string(), card_id(*card).to_string());
    assert_eq!((body["request_id"].as_str(), body["card_id"].as_str()), (Some(&*request), Some(&*card)));
    assert_eq!(answer.record.key.as_deref(), Some(card.as_bytes()), "the key is the input's");
    let whole = if answer.ok { "success" } else { "error" };
    assert_eq!(body["request_status"].as_str(), Some(whole));
    if !answer.replayed {
        let at = jiff::Timestamp::from_millisecond(at_ms).unwrap().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        assert_eq!(body["dt"].as_str(), Some(&*at), "the time of the decision");
    }
}

const ERRORS: [&str; 4] = ["invalid_currency", "request_id_conflict", "duplicate_request", "stale_command"];

impl Account {
    fn outdates(&self, replayed: Option<i64>, at_ms: i64) -> bool {
        match (self.offset, replayed) {
            (Some(stored), Some(replayed)) => stored >= replayed,
            (stored, _) => self.at_ms > at_ms || (self.at_ms == at_ms && stored.is_some()),
        }
    }
}
