//! Owns the seeded generator of mixed commands: valid ones, duplicates in other spellings, conflicts, every rejection, every dead letter.

use serde_json::{Value, json};

use super::model::{Account, Command, Meaning};

/// A small deterministic source of numbers (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A UUID of any variant.
    pub fn uuid(&mut self) -> String {
        let hex = format!("{:016x}{:016x}", self.next(), self.next());
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// A valid Spanish account number.
    pub fn iban(&mut self) -> String {
        let digits: String = (0..20).map(|_| char::from(b'0' + self.below(10) as u8)).collect();
        format!("ES{:02}{digits}", 98 - remainder(&digits, "142800"))
    }
}

/// The remainder by 97 of digits written one after the other (`E` = 14, `S` = 28, then the check digits).
fn remainder(digits: &str, country_and_check: &str) -> u32 {
    let all = digits.bytes().chain(country_and_check.bytes());
    all.fold(0, |r, d| (r * 10 + u32::from(d - b'0')) % 97)
}

/// The valid request that others are bent from.
pub struct Draft {
    request_id: String,
    card_id: String,
    value: Value,
}

/// A stream of commands over a fixed set of cards per partition.
pub struct Generator {
    /// Its source of numbers.
    pub random: Random,
    cards: Vec<Vec<String>>,
    accepted: Vec<Vec<Command>>,
    rejected: Vec<Vec<Command>>,
}

const CURRENCIES: [&str; 5] = ["USD", "EUR", "GBP", "SLE", "XCG"];

impl Generator {
    /// The same seed gives the same commands.
    pub fn new(seed: u64, partitions: i32, cards_per_partition: usize) -> Generator {
        let mut random = Random(seed);
        let cards = (0..partitions).map(|_| (0..cards_per_partition).map(|_| random.uuid()).collect()).collect();
        let none = || (0..partitions).map(|_| Vec::new()).collect::<Vec<_>>();
        Generator { random, cards, accepted: none(), rejected: none() }
    }

    /// The next `count` commands.
    pub fn take(&mut self, count: usize) -> Vec<Command> {
        (0..count).map(|_| self.next_command()).collect()
    }

    /// The next command.
    pub fn next_command(&mut self) -> Command {
        let partition = self.random.below(self.cards.len());
        match self.random.below(100) {
            0..=68 => self.fresh(partition),
            69..=77 => self.duplicate(partition),
            78..=82 => self.conflict(partition),
            83..=85 => self.corrected(partition),
            86..=94 => {
                let command = rejection(&mut self.random, partition as i32, &self.cards[partition]);
                if self.rejected[partition].len() < 200 {
                    self.rejected[partition].push(command.clone());
                }
                command
            }
            _ => dead_letter(&mut self.random, partition as i32, &self.cards[partition]),
        }
    }

    /// A duplicate of an earlier request of this partition, or a new one when there is none.
    pub fn duplicate(&mut self, partition: usize) -> Command {
        let Some((request, card, accounts)) = self.earlier(partition) else {
            return self.fresh(partition);
        };
        let shout = self.random.below(2) == 0;
        let spelled: Vec<Value> = accounts
            .iter()
            .map(|a| json!({ "type": a.kind, "iban": respell(&a.number, shout), "currency": a.currency }))
            .collect();
        let request_text = if shout { request.to_uppercase() } else { request.clone() };
        let value = json!({ "accounts": spelled, "card_id": card, "request_id": request_text }).to_string();
        let meaning = Meaning::Update { request_id: request, card_id: card.clone(), accounts };
        Command::new(partition as i32, Some(card.as_bytes()), Some(value.as_bytes()), meaning)
    }

    /// An earlier request's id with other accounts.
    pub fn conflict(&mut self, partition: usize) -> Command {
        let Some((request, card, _)) = self.earlier(partition) else {
            return self.fresh(partition);
        };
        let iban = self.random.iban();
        Command::update(partition as i32, &request, &card, &[("IBAN", "CHF", &iban)])
    }

    /// A valid command with the id of one that was rejected before.
    fn corrected(&mut self, partition: usize) -> Command {
        let Some(earlier) = self.rejected[partition].pop() else {
            return self.fresh(partition);
        };
        let Meaning::Reject { request_id, .. } = earlier.meaning else { unreachable!("only rejected ones are kept") };
        self.valid(partition, request_id)
    }

    fn fresh(&mut self, partition: usize) -> Command {
        let request_id = self.random.uuid();
        self.valid(partition, request_id)
    }

    fn valid(&mut self, partition: usize, request_id: String) -> Command {
        let card_id = self.random.pick(&self.cards[partition]).clone();
        let numbers: Vec<(&str, String)> =
            (0..self.random.below(4)).map(|_| (*self.random.pick(&CURRENCIES), self.random.iban())).collect();
        let accounts: Vec<(&str, &str, &str)> = numbers.iter().map(|(c, n)| ("IBAN", *c, n.as_str())).collect();
        let command = Command::update(partition as i32, &request_id, &card_id, &accounts);
        let kept = &mut self.accepted[partition];
        if kept.len() < 2000 {
            kept.push(command.clone());
        } else {
            let place = self.random.below(2000);
            self.accepted[partition][place] = command.clone();
        }
        command
    }

    fn earlier(&mut self, partition: usize) -> Option<(String, String, Vec<Account>)> {
        if self.accepted[partition].is_empty() {
            return None;
        }
        let command = self.random.pick(&self.accepted[partition]);
        let Meaning::Update { request_id, card_id, accounts } = command.meaning.clone() else {
            return None;
        };
        Some((request_id, card_id, accounts))
    }
}

fn respell(number: &str, shout: bool) -> String {
    if shout { number.to_string() } else { format!("{} {}", number[..4].to_lowercase(), &number[4..]) }
}

fn draft(random: &mut Random, cards: &[String]) -> Draft {
    let (request_id, card_id) = (random.uuid(), random.pick(cards).clone());
    let (first, second) = (random.iban(), random.iban());
    let value = json!({ "request_id": request_id, "card_id": card_id, "accounts": [
        { "iban": first, "currency": "USD", "type": "IBAN" }, { "iban": second, "currency": "EUR", "type": "IBAN" }] });
    Draft { request_id, card_id, value }
}

/// One way of many to be rejected.
fn rejection(random: &mut Random, partition: i32, cards: &[String]) -> Command {
    let mut d = draft(random, cards);
    let mut key = d.card_id.clone();
    let mut card_id = Some(d.card_id.clone());
    let mut tail = None;
    let (code, path) = match random.below(15) {
        n @ 0..=6 => value_fault(&mut d.value, n),
        n @ 7..=10 => field_fault(&mut d.value, n),
        11 => {
            put(&mut d.value, "/card_id", json!("card-1"));
            ("invalid_card_id", "/card_id")
        }
        12 => {
            key.push('x');
            ("key_mismatch", "/card_id")
        }
        13 => {
            d.value["accounts"] = Value::Array(vec![d.value["accounts"][0].clone(); 101]);
            ("too_many_accounts", "/accounts")
        }
        _ => {
            tail = Some(",\"accounts\":[]}");
            ("duplicate_field", "")
        }
    };
    if d.value["card_id"] != d.card_id.as_str() {
        card_id = None;
    }
    let mut text = d.value.to_string();
    if let Some(tail) = tail {
        text.pop();
        text.push_str(tail);
    }
    let meaning = Meaning::Reject { request_id: d.request_id, card_id, code, path };
    Command::new(partition, Some(key.as_bytes()), Some(text.as_bytes()), meaning)
}

type Fault = (&'static str, &'static str);

fn value_fault(value: &mut Value, which: usize) -> Fault {
    let (path, to, code) = match which {
        0 => ("/accounts/1/iban", json!("ES7921000813610123456780"), "invalid_iban"),
        1 => ("/accounts/0/currency", json!("HRK"), "invalid_currency"),
        2 => ("/accounts/0/currency", json!("usd"), "invalid_currency"),
        3 => ("/accounts/1/type", json!("PAN"), "invalid_account_type"),
        4 => ("/accounts/0/iban", json!(7), "invalid_type"),
        5 => ("/accounts", json!(null), "invalid_type"),
        _ => ("/accounts/1", json!([]), "invalid_type"),
    };
    put(value, path, to);
    (code, path)
}

fn field_fault(value: &mut Value, which: usize) -> Fault {
    let remove = |object: &mut Value, key| drop(object.as_object_mut().expect("an object").remove(key));
    match which {
        7 => {
            value["limit"] = json!(1);
            ("unknown_field", "")
        }
        8 => {
            value["accounts"][1]["bic"] = json!("X");
            ("unknown_field", "/accounts/1")
        }
        9 => {
            remove(&mut value["accounts"][0], "currency");
            ("missing_field", "/accounts/0/currency")
        }
        _ => {
            remove(value, "card_id");
            ("missing_field", "/card_id")
        }
    }
}

fn put(value: &mut Value, pointer: &str, to: Value) {
    *value.pointer_mut(pointer).expect("a place") = to;
}

/// One way of many to be unanswerable.
fn dead_letter(random: &mut Random, partition: i32, cards: &[String]) -> Command {
    let d = draft(random, cards);
    let text = d.value.to_string();
    let (value, reason): (Option<Vec<u8>>, &str) = match random.below(10) {
        0 => (None, "empty_value"),
        1 => (Some(Vec::new()), "empty_value"),
        2 => (Some(text.as_bytes()[..text.len() - 1].to_vec()), "malformed_json"),
        3 => (Some([text.as_bytes(), b"{}"].concat()), "malformed_json"),
        4 => (Some([&b"{\"request_id\":\"\xff\xfe\""[..], b"}"].concat()), "malformed_json"),
        5 => (Some(b"[1,2]".to_vec()), "not_an_object"),
        6 => (Some(text.replace(&d.request_id, "019ab688bef272c46a29d0e08be76d95").into_bytes()), "invalid_request_id"),
        7 => (Some(b"{\"card_id\":\"x\"}".to_vec()), "invalid_request_id"),
        8 if random.below(40) == 0 => {
            (Some(format!("{}{}", text, " ".repeat(300_000)).into_bytes()), "payload_too_large")
        }
        _ => (
            Some(format!("{{\"request_id\":\"{0}\",\"request_id\":\"{0}\"}}", d.request_id).into_bytes()),
            "invalid_request_id",
        ),
    };
    let key = if random.below(3) == 0 { None } else { Some(d.card_id.into_bytes()) };
    let command = Command::new(partition, key.as_deref(), value.as_deref(), Meaning::Dead(reason));
    command.header("trace", "as it came").header("trace", "")
}

/// What the generator and the model promise each other, without a broker.
pub fn self_test() {
    assert_eq!(remainder("21000813610123456789", "142879"), 1, "the example's account number");
    let (mut one, mut two) = (Generator::new(7, 4, 20), Generator::new(7, 4, 20));
    let mut folds: Vec<super::model::Fold> = (0..4).map(|_| Default::default()).collect();
    let mut seen = std::collections::BTreeMap::new();
    for offset in 0..20_000 {
        let mut command = one.next_command();
        assert_eq!(command.value, two.next_command().value, "a seed fixes the commands");
        command.offset = offset;
        let expected = folds[command.partition as usize].step(&command, super::model::OnDuplicate::Replay);
        let kind = match expected {
            super::model::Expected::Refused { code, .. } => code,
            super::model::Expected::Dead(reason) => reason,
            super::model::Expected::Replayed { .. } => "replayed",
            _ => "done",
        };
        *seen.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 2 + 11 + 5, "every kind occurs: {seen:?}");
}
