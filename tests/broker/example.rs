//! Promise: the API's example goes through end to end, with the headers, the card record and the time the contract prints.

use serde_json::json;

use crate::support::compare::Check;
use crate::support::expected::dt;
use crate::support::model::Command;
use crate::support::{Ctx, Site};

const ID: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

/// The example as the API's page prints it, byte for byte.
const EXAMPLE: &str = r#"{
    "request_id": "019ab688-bef2-72c4-6a29-d0e08be76d95",
    "card_id": "019ab688-bef2-72c4-6a29-d0e08be76d95",
    "accounts": [
        { "iban": "ES7921000813610123456789", "currency": "USD", "type": "IBAN" }
    ]
}"#;

/// The example, its completion, its card record.
pub fn the_example_of_the_api_succeeds(ctx: &Ctx) {
    let site = Site::new(ctx, "example", 2);
    let mut command = Command::update(1, ID, ID, &[("IBAN", "USD", "ES7921000813610123456789")]);
    command.value = Some(EXAMPLE.as_bytes().to_vec());
    let command = command
        .header("correlation-id", "c-1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let command = site.send_one(command.header("tracestate", "a=1").header("other", "stays behind"));
    let spec = site.spec("w").text("completion.utc_offset", "+00:30");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();

    let answer = site.answer_to(&command);
    let time = answer.timestamp.expect("a decision time");
    let body = answer.json();
    let wanted =
        json!({ "request_id": ID, "card_id": ID, "status": "ok", "request_status": "success", "dt": dt(time, 30) });
    assert_eq!(body, wanted);
    assert!(body["dt"].as_str().expect("text").ends_with("+00:30"));
    assert_eq!(answer.key.as_deref(), Some(ID.as_bytes()));
    assert_eq!(answer.header("correlation-id"), Some("c-1"));
    assert_eq!(answer.header("traceparent"), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    assert_eq!(answer.header("tracestate"), Some("a=1"));
    assert_eq!(answer.header("other"), None, "only the headers named are passed through");
    assert!(answer.header("request-fingerprint").is_some_and(|f| f.len() == 34 && f.starts_with("1-")));

    let cards = site.read(&site.topics.cards);
    assert_eq!(cards.len(), 1);
    let account = json!({ "iban": "ES7921000813610123456789", "currency": "USD", "type": "IBAN",
        "request_id": ID, "updated_at": command.timestamp, "source_offset": command.offset });
    assert_eq!(cards[0].json(), json!({ "card_id": ID, "accounts": [account] }));
    assert_eq!(cards[0].partition, 1);
    assert_eq!(cards[0].timestamp, Some(time), "card records are stamped with the decision time");
    Check::new(&site, &[command]).utc_offset_minutes(30).state(&spec.state_dir).run();
}

/// A later `utc_offset` changes new answers, never a repeated one.
pub fn a_replayed_answer_keeps_its_bytes_after_the_offset_was_reconfigured(ctx: &Ctx) {
    let site = Site::new(ctx, "offset", 1);
    let command = Command::update(0, ID, ID, &[("IBAN", "USD", "ES7921000813610123456789")]);
    let first = site.send_one(command.clone());
    let mut worker = site.spec("w").text("completion.utc_offset", "-09:30").start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    let again = site.send_one(command);
    let mut worker = site.spec("w").text("completion.utc_offset", "+05:00").start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    let (first, again) = (site.answer_to(&first), site.answer_to(&again));
    assert!(first.json()["dt"].as_str().expect("text").ends_with("-09:30"));
    assert_eq!(first.value, again.value);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}
