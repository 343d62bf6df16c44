//! Promise: dead letters can be looked at without showing what they hold, mended, and sent again once, behind whatever is newer.

use card_update_worker::wire::partition_of;
use serde_json::Value;

use crate::support::client::Record;
use crate::support::generate::Random;
use crate::support::model::{Command, Meaning};
use crate::support::worker::Spec;
use crate::support::{Ctx, Site, now_ms, wait_until};

const IBAN: &str = "ES7921000813610123456789";

/// A command whose last brace is missing.
fn cut_short(random: &mut Random, card: &str, currency: &str, at: i64) -> Command {
    let mut command = Command::update(0, &random.uuid(), card, &[("IBAN", currency, IBAN)]).at(at);
    command.value.as_mut().expect("a value").pop();
    command.meaning = Meaning::Dead("malformed_json");
    command.header("traceparent", "00-7")
}

fn accounts(site: &Site, card: &str) -> Vec<Value> {
    let of = |r: &Record| r.key.as_deref() == Some(card.as_bytes());
    let last = site.read(&site.topics.cards).into_iter().rfind(of);
    last.map_or(Vec::new(), |r| r.json()["accounts"].as_array().expect("a list").clone())
}

fn letters(spec: &Spec, words: &[&str], code: i32) -> Value {
    spec.tool(&[&["dead-letters"], words, &["--output", "json"]].concat()).json(code)
}

/// The example of the README: look, mend, try, send; twice is once.
pub fn a_mended_dead_letter_is_sent_again_once_and_never_overwrites_newer_accounts(ctx: &Ctx) {
    let site = Site::new(ctx, "redrive", 2);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let mut random = Random(710);
    // Where Java clients put their keys; else a letter without a key could not be placed.
    let mut card_in = |partition| loop {
        let card = random.uuid();
        if partition_of(card.as_bytes(), 2) == partition {
            break card;
        }
    };
    let (old, alone, keyless) = (card_in(0), card_in(0), card_in(1));
    let before = now_ms() - 60_000;
    site.send(vec![
        Command { key: None, ..cut_short(&mut random, &keyless, "USD", before) },
        cut_short(&mut random, &old, "USD", before),
        cut_short(&mut random, &alone, "USD", before),
        // Since then the first card has a newer account.
        Command::update(0, &random.uuid(), &old, &[("IBAN", "USD", &random.iban())]),
        Command { value: Some(b"not to be mended".to_vec()), ..cut_short(&mut random, &alone, "EUR", before) },
    ]);
    site.wait_processed(&mut [&mut worker], 60);
    let newer = accounts(&site, &old);
    let listed = letters(&spec, &["list"], 0);
    assert_eq!(listed.as_array().map(Vec::len), Some(4), "{listed}");

    let edit = ["--edit", "grep '^{' | sed 's/$/}/'"];
    let dry = letters(&spec, &[&["redrive", "--dry-run"][..], &edit].concat(), 3);
    assert_eq!((&dry["sent"], dry["unedited"].as_array().map(Vec::len)), (&Value::from(3), Some(1)), "{dry}");
    assert!(site.read(&site.topics.backfill).is_empty(), "a dry run sends nothing");
    let sent = letters(&spec, &[&["redrive"][..], &edit].concat(), 3);
    assert_eq!((&sent["sent"], &sent["sent_before"]), (&Value::from(3), &Value::from(0)));
    let again = letters(&spec, &[&["redrive"][..], &edit].concat(), 3);
    assert_eq!((&again["sent"], &again["sent_before"]), (&Value::from(0), &Value::from(3)), "{again}");

    wait_until("all are processed", 60, || site.admin.committed(&site.topics.backfill, 2) == [Some(2), Some(1)]);
    let records = site.read(&site.topics.backfill);
    assert_eq!(records.len(), 3);
    let letters_with_key = site.read(&site.topics.dead_letters).into_iter().filter(|l| l.key.is_some());
    for (record, letter) in records.iter().zip(letters_with_key).take(2) {
        let source = format!("{}/{}/{}", site.topics.dead_letters, letter.partition, letter.offset);
        assert_eq!(record.header("redrive-source"), Some(source.as_str()));
        assert_eq!((record.timestamp, record.partition, &record.key), (Some(before), 0, &letter.key));
        assert_eq!(record.header("traceparent"), Some("00-7"), "the original's headers");
        assert!(record.headers.iter().all(|(name, _)| !name.starts_with("dlq-")));
    }
    assert_eq!(accounts(&site, &old), newer, "a mended old command does not overwrite newer data");
    assert_eq!((records[2].partition, records[2].key.as_deref()), (1, Some(keyless.as_bytes())), "placed by its card");
    assert_eq!(accounts(&site, &keyless)[0]["iban"], IBAN);
    let mended = accounts(&site, &alone);
    assert_eq!((&mended[0]["iban"], &mended[0]["updated_at"]), (&Value::from(IBAN), &Value::from(before)));
    worker.stop();
}

/// By reason, time, place; contents only on request, and never those of a list.
pub fn dead_letters_are_found_by_reason_time_and_place_and_shown_masked(ctx: &Ctx) {
    let site = Site::new(ctx, "letters", 2);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let mut random = Random(711);
    let card = random.uuid();
    let empty = Command { value: None, partition: 1, ..cut_short(&mut random, &card, "USD", now_ms()) };
    site.send(vec![cut_short(&mut random, &card, "USD", now_ms()), empty]);
    site.wait_processed(&mut [&mut worker], 60);
    let reasons = |words: &[&str]| -> Vec<String> {
        let listed = letters(&spec, &[&["list"], words].concat(), 0);
        listed.as_array().expect("a list").iter().map(|l| l["reason"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(reasons(&[]), ["malformed_json", "empty_value"]);
    assert_eq!(reasons(&["--reason", "empty_value"]), ["empty_value"]);
    assert_eq!(reasons(&["--partition", "0"]), ["malformed_json"]);
    assert_eq!(reasons(&["--to", "2020-01-01T00:00:00Z"]), Vec::<String>::new());
    assert_eq!(reasons(&["--from", "2020-01-01T00:00:00Z"]).len(), 2);
    let shown = |words: &[&str]| spec.tool(&[&["dead-letters", "show", "--at", "0/0"], words].concat());
    for masked in [shown(&[]), shown(&["--output", "json"]), spec.tool(&["dead-letters", "list"])] {
        assert_eq!(masked.code, Some(0));
        assert!(!masked.out.contains("ES79") && !masked.out.contains(&card), "{}", masked.out);
    }
    assert!(shown(&[]).out.contains("\"iban\":\"xx00"), "the structure is shown: {}", shown(&[]).out);
    assert!(shown(&["--reveal"]).out.contains(IBAN));
    let tool = |words: &[&str]| spec.tool(&[&["dead-letters"], words].concat());
    tool(&["show", "--at", "0/77"]).refused(1, &["no such dead letter"]);
    tool(&["list", "--partition", "7"]).refused(2, &["partitions 0 to 1"]);
    tool(&["list", "--from", "monday"]).refused(2, &["--from"]);
    tool(&["show", "--at", "7"]).refused(2, &["PARTITION/OFFSET"]);
    tool(&["redrive", "--to-topic", "no-such-topic"]).refused(2, &["no topic no-such-topic"]);
    // To the live topic only with a warning, and nothing is sent there by a dry run.
    let warned = tool(&["redrive", "--to-topic", &site.topics.commands, "--dry-run"]);
    assert!(warned.err.contains("never stale"), "{warned:?}");
    worker.stop();
}
