//! The code's real output, and every example, held against the schemas: what the worker writes is what they say, and what they
//! say of commands is what it accepts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use card_update_worker::domain::{
    AccountType, Answer, CardId, DeadReason, Dt, ErrorCode, Fingerprint, Path as Pointer, Rejection, RequestId,
    StoredAccount, UtcOffset,
};
use card_update_worker::wire::{
    DeadRecord, DecodeRules, Decoded, Decoder, Omit, Outbox, Source, completion, dead_letter, decode_card, encode_card,
    encode_completion,
};
use jsonschema::Validator;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn validator(name: &str) -> Validator {
    let text = std::fs::read(schemas().join(format!("{name}.schema.json"))).unwrap();
    jsonschema::draft202012::new(&serde_json::from_slice(&text).unwrap()).unwrap()
}

fn assert_valid(name: &str, value: &Value) {
    if let Err(error) = validator(name).validate(value) {
        panic!("{name}: {error} at {}", error.instance_path());
    }
}

fn examples(name: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let folder = schemas().join("examples").join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let named = files.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix));
    let read: Vec<_> = named.map(|p| (p.display().to_string(), std::fs::read(&p).unwrap())).collect();
    assert!(!read.is_empty(), "no {prefix} examples of {name}");
    read
}

fn rules() -> DecodeRules {
    DecodeRules {
        account_types: vec![AccountType::new(b"IBAN").unwrap()],
        max_accounts: 100,
        max_payload: 256 * 1024,
        ..DecodeRules::default()
    }
}

fn dt() -> Dt {
    Dt { at_ms: 1_735_687_861_000, offset: UtcOffset::parse(b"+00:30").unwrap() }
}

/// The key that an upstream gives the command.
fn key_of(command: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(command).ok()?;
    Some(value.get("card_id")?.as_str()?.to_ascii_lowercase().into_bytes())
}

#[test]
fn the_worker_accepts_what_the_schema_calls_valid_and_refuses_what_it_calls_invalid() {
    let mut decoder = Decoder::new(rules());
    for (file, command) in examples("command", "valid-") {
        let key = key_of(&command);
        let decoded = decoder.decode(key.as_deref(), Some(&command));
        assert!(matches!(decoded, Decoded::Command(_)), "{file}: {decoded:?}");
    }
    for (file, command) in examples("command", "invalid-") {
        let key = key_of(&command);
        let decoded = decoder.decode(key.as_deref(), Some(&command));
        assert!(!matches!(decoded, Decoded::Command(_)), "{file} was accepted");
    }
}

fn paths(code: ErrorCode) -> Vec<Pointer> {
    match code {
        ErrorCode::UnknownField | ErrorCode::DuplicateField => vec![Pointer::Root, Pointer::Account(3)],
        ErrorCode::MissingField | ErrorCode::InvalidType => {
            vec![Pointer::Field("card_id"), Pointer::AccountField(0, "iban")]
        }
        ErrorCode::InvalidCardId | ErrorCode::KeyMismatch => vec![Pointer::Field("card_id")],
        ErrorCode::TooManyAccounts | ErrorCode::StaleCommand => vec![Pointer::Field("accounts")],
        ErrorCode::InvalidAccountType => vec![Pointer::AccountField(1, "type")],
        ErrorCode::InvalidCurrency => vec![Pointer::AccountField(1, "currency")],
        ErrorCode::InvalidIban => vec![Pointer::AccountField(1, "iban")],
        ErrorCode::RequestIdConflict | ErrorCode::DuplicateRequest => vec![Pointer::Field("request_id")],
    }
}

fn completion_of(result: Result<Fingerprint, Rejection>, card: bool) -> Value {
    let card_id = CardId::parse(ID).filter(|_| card);
    let answer = Answer { request_id: RequestId::parse(ID).unwrap(), card_id, dt: dt(), result, replayed: false };
    let mut out = Vec::new();
    encode_completion(&answer, &mut out);
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn every_completion_that_the_worker_writes_is_valid() {
    assert_valid("completion", &completion_of(Ok(Fingerprint(7)), true));
    for code in ErrorCode::ALL {
        for path in paths(*code) {
            let card = *code != ErrorCode::InvalidCardId;
            assert_valid("completion", &completion_of(Err(Rejection { code: *code, path }), card));
        }
    }
}

fn headers(outbox: &Outbox) -> Value {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let fields: Map<String, Value> = outbox
        .get(0)
        .headers()
        .map(|(name, value)| (text(name), value.map_or(Value::Null, |v| text(v).into())))
        .collect();
    Value::Object(fields)
}

#[test]
fn the_headers_of_completions_and_dead_letters_are_valid() {
    let source = Source { topic: "card-update.commands", partition: 3, offset: 42 };
    for replayed in [false, true] {
        let answer = Answer {
            request_id: RequestId::parse(ID).unwrap(),
            card_id: None,
            dt: dt(),
            result: Ok(Fingerprint(7)),
            replayed,
        };
        let mut outbox = Outbox::default();
        completion(&answer, &source, None, 0, 0, &mut outbox);
        outbox.header("traceparent", Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        outbox.end();
        assert_valid("completion-headers", &headers(&outbox));
    }
    for reason in DeadReason::ALL {
        for omit in [Omit::Nothing, Omit::Value, Omit::AllButTheReason] {
            let record = DeadRecord { source, timestamp_ms: None, key: None, value: Some(b"x") };
            let mut outbox = Outbox::default();
            dead_letter(&record, std::iter::empty(), (*reason, omit), 0, 0, &mut outbox);
            assert_valid("dead-letter-headers", &headers(&outbox));
        }
    }
}

#[test]
fn card_records_are_valid_and_read_back_as_they_were() {
    for (file, record) in examples("card-record", "valid-") {
        let value: Value = serde_json::from_slice(&record).unwrap();
        let key = value["card_id"].as_str().unwrap();
        let mut accounts: Vec<StoredAccount> = Vec::new();
        let card_id =
            decode_card(Some(key.as_bytes()), Some(&record), &mut accounts).unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut written = Vec::new();
        encode_card(&card_id, &accounts, &mut written);
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written, value, "{file}");
        assert_valid("card-record", &written);
    }
}
