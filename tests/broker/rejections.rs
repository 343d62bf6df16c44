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
fn rejected(
    random: &mut Random,
    text: &str,
    card: Option<&str>,
    code: &'static str,
    path: &'static str,
) -> Command {
    let request_id = random.uuid();
    let value = text.replacen("\"?\"", &format!("\"{request_id}\""), 1);
    let meaning = Meaning::Reject {
        request_id,
        card_id: card.map(str::to_string),
        code,
        path,
    };
    Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), meaning)
}

/// All in one table: what is sent, code, path.
fn table() -> Vec<(String, Option<&'static str>, &'static str, &'static str)> {
    let good = || account(IBAN, "USD", "IBAN");
    let with = |pointer: &str, key: &str, value: Value| {
        let mut b = body(json!([good(), good()]));
        b.pointer_mut(pointer)
            .expect("a place")
            .as_object_mut()
            .expect("an object")
            .insert(key.into(), value);
        b.to_string()
    };
    let without = |pointer: &str, key: &str| {
        let mut b = body(json!([good(), good()]));
        b.pointer_mut(pointer)
            .expect("a place")
            .as_object_mut()
            .expect("an object")
            .remove(key);
        b.to_string()
    };
    let twice = |inner: &str| format!("{{\"request_id\":\"?\",\"card_id\":\"{CARD}\",{inner}}}");
    let card = Some(CARD);
    vec![
        (with("", "limit", json!(1)), card, "unknown_field", ""),
        (with("", "Accounts", json!([])), card, "unknown_field", ""),
        (
            with("/accounts/1", "bic", json!("X")),
            card,
            "unknown_field",
            "/accounts/1",
        ),
        (
            twice("\"accounts\":[],\"accounts\":[]"),
            card,
            "duplicate_field",
            "",
        ),
        (
            twice("\"accounts\":[],\"\\u0061ccounts\":[]"),
            card,
            "duplicate_field",
            "",
        ),
        (
            twice(&format!("\"card_id\":\"{CARD}\"")),
            None,
            "duplicate_field",
            "",
        ),
        (
            twice(&format!(
                "\"accounts\":[{{\"iban\":\"{IBAN}\",\"iban\":\"{IBAN}\",\"currency\":\"USD\",\"type\":\"IBAN\"}}]"
            )),
            card,
            "duplicate_field",
            "/accounts/0",
        ),
        (without("", "card_id"), None, "missing_field", "/card_id"),
        (
            without("/accounts/0", "iban"),
            card,
            "missing_field",
            "/accounts/0/iban",
        ),
        (
            without("/accounts/0", "currency"),
            card,
            "missing_field",
            "/accounts/0/currency",
        ),
        (
            without("/accounts/1", "type"),
            card,
            "missing_field",
            "/accounts/1/type",
        ),
        (
            with("", "accounts", json!(null)),
            card,
            "invalid_type",
            "/accounts",
        ),
        (
            with("", "accounts", json!({})),
            card,
            "invalid_type",
            "/accounts",
        ),
        (
            with("", "accounts", json!([good(), 5])),
            card,
            "invalid_type",
            "/accounts/1",
        ),
        (
            with("", "card_id", json!(17)),
            None,
            "invalid_type",
            "/card_id",
        ),
        (
            with("", "card_id", json!(null)),
            None,
            "invalid_type",
            "/card_id",
        ),
        (
            with("/accounts/0", "iban", json!(null)),
            card,
            "invalid_type",
            "/accounts/0/iban",
        ),
        (
            with("/accounts/0", "currency", json!(840)),
            card,
            "invalid_type",
            "/accounts/0/currency",
        ),
        (
            with("/accounts/1", "type", json!(["IBAN"])),
            card,
            "invalid_type",
            "/accounts/1/type",
        ),
        (
            with("", "card_id", json!("card-1")),
            None,
            "invalid_card_id",
            "/card_id",
        ),
        (
            with("", "card_id", json!(CARD.replace('-', ""))),
            None,
            "invalid_card_id",
            "/card_id",
        ),
        (
            with("", "card_id", json!(format!("{{{CARD}}}"))),
            None,
            "invalid_card_id",
            "/card_id",
        ),
        (
            body(Value::Array(vec![good(); 101])).to_string(),
            card,
            "too_many_accounts",
            "/accounts",
        ),
        (
            body(json!([good(), account(IBAN, "USD", "CARD")])).to_string(),
            card,
            "invalid_account_type",
            "/accounts/1/type",
        ),
        (
            body(json!([account(IBAN, "USD", "iban")])).to_string(),
            card,
            "invalid_account_type",
            "/accounts/0/type",
        ),
        (
            body(json!([account(IBAN, "usd", "IBAN")])).to_string(),
            card,
            "invalid_currency",
            "/accounts/0/currency",
        ),
        (
            body(json!([account(IBAN, "", "IBAN")])).to_string(),
            card,
            "invalid_currency",
            "/accounts/0/currency",
        ),
        (
            body(json!([
                good(),
                account("ES7921000813610123456788", "USD", "IBAN")
            ]))
            .to_string(),
            card,
            "invalid_iban",
            "/accounts/1/iban",
        ),
        (
            body(json!([account(
                "ES79 2100\u{a0}0813610123456789",
                "USD",
                "IBAN"
            )]))
            .to_string(),
            card,
            "invalid_iban",
            "/accounts/0/iban",
        ),
        (
            body(json!([account("", "USD", "IBAN")])).to_string(),
            card,
            "invalid_iban",
            "/accounts/0/iban",
        ),
        (
            body(json!([account("ES792100081361012345678", "USD", "IBAN")])).to_string(),
            card,
            "invalid_iban",
            "/accounts/0/iban",
        ),
    ]
}

/// Of several faults the first in the contract's order is named.
fn precedence() -> Vec<(String, Option<&'static str>, &'static str, &'static str)> {
    let card = Some(CARD);
    let two = |one: &str, two: &str| {
        format!("{{\"request_id\":\"?\",\"card_id\":\"{CARD}\",\"accounts\":[{one},{two}]}}")
    };
    vec![
        // Unknown before twice before missing before type, wherever they stand.
        ("{\"request_id\":\"?\",\"accounts\":[{\"x\":1}],\"accounts\":5}".into(), None, "unknown_field", "/accounts/0"),
        ("{\"request_id\":\"?\",\"accounts\":[{\"iban\":\"a\",\"iban\":\"b\"}]}".into(), None, "duplicate_field", "/accounts/0"),
        ("{\"request_id\":\"?\",\"accounts\":7}".into(), None, "missing_field", "/card_id"),
        (two("{\"iban\":1,\"currency\":1,\"type\":1}", "{\"iban\":\"a\",\"currency\":\"b\"}"), card, "missing_field", "/accounts/1/type"),
        // Per account: type, currency, number.
        (two("{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"c\"}", "{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"c\"}"), card, "invalid_account_type", "/accounts/0/type"),
        (two("{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"IBAN\"}", "{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"c\"}"), card, "invalid_currency", "/accounts/0/currency"),
        // Fields before the card id, the card id before the accounts.
        ("{\"request_id\":\"?\",\"card_id\":\"x\",\"accounts\":[{\"iban\":\"a\",\"currency\":\"b\",\"type\":\"c\"}]}".into(), None, "invalid_card_id", "/card_id"),
        ("{\"request_id\":\"?\",\"card_id\":\"x\",\"accounts\":[1]}".into(), None, "invalid_type", "/accounts/0"),
    ]
}

/// Every code of the table, and the currencies that are no longer or not yet.
pub fn every_rejection_has_its_code_and_its_path(ctx: &Ctx) {
    let site = Site::new(ctx, "reject", 1);
    let mut random = Random(11);
    let mut commands = Vec::new();
    for (text, card, code, path) in table().into_iter().chain(precedence()) {
        commands.push(rejected(&mut random, &text, card, code, path));
    }
    for currency in [
        "HRK", "ANG", "CUC", "SLL", "ZWL", "XXX", "XTS", "DEM", "ABC", "EURO",
    ] {
        let text = body(json!([account(IBAN, currency, "IBAN")])).to_string();
        commands.push(rejected(
            &mut random,
            &text,
            Some(CARD),
            "invalid_currency",
            "/accounts/0/currency",
        ));
    }
    for currency in ["SLE", "VED", "XCG", "ZWG", "JPY", "BHD"] {
        commands.push(Command::update(
            0,
            &random.uuid(),
            CARD,
            &[("IBAN", currency, IBAN)],
        ));
    }
    for key in [
        None,
        Some(&b""[..]),
        Some(b"x"),
        Some(b"019AB688-BEF2-72C4-6A29-D0E08BE76D95"),
    ] {
        let mut command = rejected(
            &mut random,
            &body(json!([])).to_string(),
            Some(CARD),
            "key_mismatch",
            "/card_id",
        );
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
        assert!(
            !text.contains("ES79") && !text.contains("HRK"),
            "a completion never carries a payload value: {text}"
        );
    }
}

/// `key_policy = "trust"`, `unknown_fields = "ignore"`, more account types, another limit.
pub fn what_is_accepted_can_be_widened_by_configuration(ctx: &Ctx) {
    let site = Site::new(ctx, "widened", 1);
    let mut random = Random(12);
    let mut other_key = Command::update(0, &random.uuid(), CARD, &[("IBAN", "USD", IBAN)]);
    other_key.key = Some(b"any key".to_vec());
    let request_id = random.uuid();
    let accounts = vec![Account {
        kind: "IBAN".into(),
        currency: "EUR".into(),
        number: IBAN.into(),
    }];
    let value = format!(
        "{{\"request_id\":\"{request_id}\",\"note\":{{\"a\":[1,{{}}]}},\"note\":2,\"card_id\":\"{CARD}\",\"accounts\":[{{\"x\":null,\"iban\":\"{IBAN}\",\"currency\":\"EUR\",\"type\":\"IBAN\"}}]}}"
    );
    // Without the unknown fields it is the same command.
    let plain = Command::update(0, &request_id, CARD, &[("IBAN", "EUR", IBAN)]);
    let meaning = Meaning::Update {
        request_id: request_id.clone(),
        card_id: CARD.into(),
        accounts,
    };
    let value = value.replace("\"note\":2,", "");
    let unknown = Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), meaning);
    let pan = Command::update(
        0,
        &random.uuid(),
        CARD,
        &[("PAN", "EUR", "~ any 34 printable characters !..~")],
    );
    let text = body(json!([account("\u{1}", "EUR", "PAN")])).to_string();
    let bad_pan = rejected(
        &mut random,
        &text,
        Some(CARD),
        "invalid_iban",
        "/accounts/0/iban",
    );
    let text = body(Value::Array(vec![account(IBAN, "USD", "IBAN"); 4])).to_string();
    let many = rejected(
        &mut random,
        &text,
        Some(CARD),
        "too_many_accounts",
        "/accounts",
    );
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
