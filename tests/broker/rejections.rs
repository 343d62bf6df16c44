//! Promise: every error code, with its exact code and path, and the configuration that widens what is accepted.

use serde_json::{Value, json};

use crate::support::compare::Check;
use crate::support::generate::Random;
use crate::support::model::{Account, Command, Meaning};
use crate::support::{Ctx, Site};

const CARD: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";
const IBAN: &str = "ES7921000813610123456789";

/// The body with one account, to be bent; `request_id` is put in by `command`.
fn body(accounts: Value) -> Value {
    json!({ "request_id": "?", "card_id": CARD, "accounts": accounts })
}

fn account(iban: &str, currency: &str, kind: &str) -> Value {
    json!({ "iban": iban, "currency": currency, "type": kind })
}

/// A rejected command; `text` holds `"?"` where the request id goes.
fn rejected(random: &mut Random, text: &str, card: Option<&str>, code: &'static str, path: &'static str) -> Command {
    let request_id = random.uuid();
    let value = text.replacen("\"?\"", &format!("\"{request_id}\""), 1);
    let meaning = Meaning::Reject { request_id, card_id: card.map(str::to_string), code, path };
    Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), meaning)
}

/// What is sent, whether its card id is readable, code, path.
type Row = (String, Option<&'static str>, &'static str, &'static str);

fn row(text: String, code: &'static str, path: &'static str) -> Row {
    (text, Some(CARD), code, path)
}

/// A row whose card id cannot be read.
fn no_card(text: String, code: &'static str, path: &'static str) -> Row {
    (text, None, code, path)
}

/// The body with two accounts and, in the object at `pointer`, `key` set to `value` or taken away.
fn bent(pointer: &str, key: &str, value: Option<Value>) -> String {
    let mut body = body(json!([account(IBAN, "USD", "IBAN"), account(IBAN, "USD", "IBAN")]));
    let object = body.pointer_mut(pointer).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => drop(object.insert(key.into(), value)),
        None => drop(object.remove(key)),
    }
    body.to_string()
}

fn with(pointer: &str, key: &str, value: Value) -> String {
    bent(pointer, key, Some(value))
}

/// Unknown, twice, missing.
fn field_faults() -> Vec<Row> {
    let twice = |inner: &str| format!("{{\"request_id\":\"?\",\"card_id\":\"{CARD}\",{inner}}}");
    let in_account =
        format!("\"accounts\":[{{\"iban\":\"{IBAN}\",\"iban\":\"{IBAN}\",\"currency\":\"USD\",\"type\":\"IBAN\"}}]");
    vec![
        row(with("", "limit", json!(1)), "unknown_field", ""),
        row(with("", "Accounts", json!([])), "unknown_field", ""),
        row(with("/accounts/1", "bic", json!("X")), "unknown_field", "/accounts/1"),
        row(twice("\"accounts\":[],\"accounts\":[]"), "duplicate_field", ""),
        row(twice("\"accounts\":[],\"\\u0061ccounts\":[]"), "duplicate_field", ""),
        no_card(twice(&format!("\"card_id\":\"{CARD}\"")), "duplicate_field", ""),
        row(twice(&in_account), "duplicate_field", "/accounts/0"),
        no_card(bent("", "card_id", None), "missing_field", "/card_id"),
        row(bent("/accounts/0", "iban", None), "missing_field", "/accounts/0/iban"),
        row(bent("/accounts/0", "currency", None), "missing_field", "/accounts/0/currency"),
        row(bent("/accounts/1", "type", None), "missing_field", "/accounts/1/type"),
    ]
}

/// Values of another kind than the contract's.
fn type_faults() -> Vec<Row> {
    vec![
        row(with("", "accounts", json!(null)), "invalid_type", "/accounts"),
        row(with("", "accounts", json!({})), "invalid_type", "/accounts"),
        row(with("", "accounts", json!([5])), "invalid_type", "/accounts/0"),
        no_card(with("", "card_id", json!(17)), "invalid_type", "/card_id"),
        no_card(with("", "card_id", json!(null)), "invalid_type", "/card_id"),
        row(with("/accounts/0", "iban", json!(null)), "invalid_type", "/accounts/0/iban"),
        row(with("/accounts/0", "currency", json!(840)), "invalid_type", "/accounts/0/currency"),
        row(with("/accounts/1", "type", json!(["IBAN"])), "invalid_type", "/accounts/1/type"),
    ]
}

/// Card id, number of accounts, and the accounts one by one.
fn value_faults() -> Vec<Row> {
    let second = |iban: &str, currency: &str, kind: &str| {
        body(json!([account(IBAN, "USD", "IBAN"), account(iban, currency, kind)])).to_string()
    };
    let (kind, currency, iban) = ("/accounts/1/type", "/accounts/1/currency", "/accounts/1/iban");
    let many = vec![account(IBAN, "USD", "IBAN"); 101];
    vec![
        no_card(with("", "card_id", json!("card-1")), "invalid_card_id", "/card_id"),
        no_card(with("", "card_id", json!(CARD.replace('-', ""))), "invalid_card_id", "/card_id"),
        no_card(with("", "card_id", json!(format!("{{{CARD}}}"))), "invalid_card_id", "/card_id"),
        row(with("", "accounts", json!(many)), "too_many_accounts", "/accounts"),
        row(second(IBAN, "USD", "CARD"), "invalid_account_type", kind),
        row(second(IBAN, "USD", "iban"), "invalid_account_type", kind),
        row(second(IBAN, "usd", "IBAN"), "invalid_currency", currency),
        row(second(IBAN, "", "IBAN"), "invalid_currency", currency),
        row(second("ES7921000813610123456788", "USD", "IBAN"), "invalid_iban", iban),
        row(second("ES79 2100\u{a0}0813610123456789", "USD", "IBAN"), "invalid_iban", iban),
        row(second("", "USD", "IBAN"), "invalid_iban", iban),
        row(second("ES792100081361012345678", "USD", "IBAN"), "invalid_iban", iban),
    ]
}

/// Of several faults the first in the contract's order is named.
fn precedence() -> Vec<Row> {
    let text = |inner: &str| format!("{{\"request_id\":\"?\",{inner}}}");
    let two = |one: &str, other: &str| text(&format!("\"card_id\":\"{CARD}\",\"accounts\":[{one},{other}]"));
    let bad = "{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"c\"}";
    let bad_currency = "{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"IBAN\"}";
    let numbers = "{\"iban\":1,\"currency\":1,\"type\":1}";
    let no_type = "{\"iban\":\"a\",\"currency\":\"b\"}";
    let unknown = text("\"accounts\":[{\"x\":1}],\"accounts\":5");
    let doubled = text("\"accounts\":[{\"iban\":\"a\",\"iban\":\"b\"}]");
    vec![
        // Unknown before twice before missing before type, wherever they stand.
        no_card(unknown, "unknown_field", "/accounts/0"),
        no_card(doubled, "duplicate_field", "/accounts/0"),
        no_card(text("\"accounts\":7"), "missing_field", "/card_id"),
        row(two(numbers, no_type), "missing_field", "/accounts/1/type"),
        // Per account: type, currency, number.
        row(two(bad, bad), "invalid_account_type", "/accounts/0/type"),
        row(two(bad_currency, bad), "invalid_currency", "/accounts/0/currency"),
        // Fields before the card id, the card id before the accounts.
        no_card(text("\"card_id\":\"x\",\"accounts\":[1]"), "invalid_type", "/accounts/0"),
        no_card(text(&format!("\"card_id\":\"x\",\"accounts\":[{bad}]")), "invalid_card_id", "/card_id"),
    ]
}

/// Every code of the table, and the currencies that are no longer or not yet.
pub fn every_rejection_has_its_code_and_its_path(ctx: &Ctx) {
    let site = Site::new(ctx, "reject", 1);
    let mut random = Random(11);
    let mut commands = Vec::new();
    for (text, card, code, path) in [field_faults(), type_faults(), value_faults(), precedence()].concat() {
        commands.push(rejected(&mut random, &text, card, code, path));
    }
    for currency in ["HRK", "ANG", "CUC", "SLL", "ZWL", "XXX", "XTS", "DEM", "ABC", "EURO"] {
        let text = body(json!([account(IBAN, currency, "IBAN")])).to_string();
        commands.push(rejected(&mut random, &text, Some(CARD), "invalid_currency", "/accounts/0/currency"));
    }
    for currency in ["SLE", "VED", "XCG", "ZWG", "JPY", "BHD"] {
        commands.push(Command::update(0, &random.uuid(), CARD, &[("IBAN", currency, IBAN)]));
    }
    for key in [None, Some(&b""[..]), Some(b"x"), Some(b"019AB688-BEF2-72C4-6A29-D0E08BE76D95")] {
        let mut command = rejected(&mut random, &body(json!([])).to_string(), Some(CARD), "key_mismatch", "/card_id");
        command.key = key.map(<[u8]>::to_vec);
        commands.push(command);
    }
    let log = site.send(commands);
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    for record in site.completions() {
        let text = String::from_utf8(record.value.expect("a value")).expect("UTF-8");
        assert!(!text.contains("ES79") && !text.contains("HRK"), "a completion never carries a payload value: {text}");
    }
}

/// `key_policy = "trust"`, `unknown_fields = "ignore"`, more account types, another limit.
pub fn what_is_accepted_can_be_widened_by_configuration(ctx: &Ctx) {
    let site = Site::new(ctx, "widened", 1);
    let mut random = Random(12);
    let mut other_key = Command::update(0, &random.uuid(), CARD, &[("IBAN", "USD", IBAN)]);
    other_key.key = Some(b"any key".to_vec());
    let request_id = random.uuid();
    let accounts = vec![Account { kind: "IBAN".into(), currency: "EUR".into(), number: IBAN.into() }];
    let value = format!(
        "{{\"request_id\":\"{request_id}\",\"note\":{{\"a\":[1,{{}}]}},\"note\":2,\"card_id\":\"{CARD}\",\"accounts\":[{{\"x\":null,\"iban\":\"{IBAN}\",\"currency\":\"EUR\",\"type\":\"IBAN\"}}]}}"
    );
    // Without the unknown fields it is the same command.
    let plain = Command::update(0, &request_id, CARD, &[("IBAN", "EUR", IBAN)]);
    let meaning = Meaning::Update { request_id: request_id.clone(), card_id: CARD.into(), accounts };
    let value = value.replace("\"note\":2,", "");
    let unknown = Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), meaning);
    let pan = Command::update(0, &random.uuid(), CARD, &[("PAN", "EUR", "~ any 34 printable characters !..~")]);
    let text = body(json!([account("\u{1}", "EUR", "PAN")])).to_string();
    let bad_pan = rejected(&mut random, &text, Some(CARD), "invalid_iban", "/accounts/0/iban");
    let text = body(Value::Array(vec![account(IBAN, "USD", "IBAN"); 4])).to_string();
    let many = rejected(&mut random, &text, Some(CARD), "too_many_accounts", "/accounts");
    let text = format!("{{\"request_id\":\"?\",\"note\":tru,\"card_id\":\"{CARD}\"}}");
    let mut broken = rejected(&mut random, &text, None, "", "");
    broken.meaning = Meaning::Dead("malformed_json");
    let log = site.send(vec![other_key, unknown, plain, pan, bad_pan, many, broken]);
    let spec = site
        .spec("w")
        .text("ingest.key_policy", "trust")
        .text("ingest.unknown_fields", "ignore")
        .set("ingest.account_types", "[\"IBAN\", \"PAN\"]")
        .set("ingest.max_accounts", "3");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}
