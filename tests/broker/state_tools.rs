//! Promise: the local state can be looked into whether a worker runs or not, held against the topics, and dropped.

use serde_json::Value;

use crate::support::generate::Random;
use crate::support::model::Command;
use crate::support::{Ctx, Site};

/// The same words either way; account numbers are masked.
pub fn a_card_and_a_request_are_shown_by_a_worker_that_runs_and_by_its_directory(ctx: &Ctx) {
    let site = Site::new(ctx, "look", 2);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let spec = site.spec("w").text("http.listen", &format!("127.0.0.1:{port}"));
    let mut worker = spec.start();
    let mut random = Random(720);
    let (card, request, iban) = (random.uuid(), random.uuid(), random.iban());
    site.send_one(Command::update(1, &request, &card, &[("IBAN", "USD", &iban)]));
    site.wait_processed(&mut [&mut worker], 60);
    let look = || {
        let shown = spec.tool(&["state", "card", &card, "--output", "json"]).json(0);
        let remembered = spec.tool(&["state", "request", &request, "--output", "json"]).json(0);
        let stats = spec.tool(&["state", "stats", "--output", "json"]).json(0);
        let cards: u64 = stats.as_array().expect("a list").iter().map(|p| p["cards"].as_u64().expect("a number")).sum();
        let account = shown["accounts"][0].clone();
        (account, shown["partition"].clone(), remembered["request_status"].clone(), remembered["dt"].clone(), cards)
    };
    let running = look();
    assert_eq!((&running.1, &running.2, running.4), (&Value::from(1), &Value::from("success"), 1));
    assert_eq!(running.0["iban"], format!("ES{}************{}", &iban[2..4], &iban[20..]));
    let text = spec.tool(&["state", "card", &card]);
    assert!(text.out.contains("USD") && !text.out.contains(&iban), "{text:?}");
    spec.tool(&["state", "verify"]).refused(1, &["in use", "stopped"]);
    spec.tool(&["state", "drop", "--yes"]).refused(1, &["in use"]);
    worker.stop();
    assert_eq!(look(), running, "the directory says what the worker said");
    spec.tool(&["state", "card", &request]).refused(1, &["unknown"]);
    spec.tool(&["state", "request", &card]).refused(1, &["remembered"]);
    spec.tool(&["state", "card", "x"]).refused(2, &["UUID"]);
}

/// Whole against the topics: equal, then a request that only the directory knows.
pub fn verify_finds_what_differs_from_the_topics(ctx: &Ctx) {
    let site = Site::new(ctx, "verify", 2);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let mut random = Random(721);
    let update = |random: &mut Random, partition| {
        let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
        Command::update(partition, &request, &card, &[("IBAN", "USD", &iban)])
    };
    site.send((0..200).map(|i| update(&mut random, i % 2)).collect());
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    let verified = spec.tool(&["state", "verify", "--output", "json"]).json(0);
    let counted: u64 =
        verified.as_array().expect("a list").iter().map(|p| p["cards"].as_u64().expect("a number")).sum();
    assert_eq!(counted, 200, "{verified}");
    // What others wrote since then is only a tail to read: no difference.
    let mut other = site.spec("other").start();
    site.send((0..50).map(|i| update(&mut random, i % 2)).collect());
    site.wait_processed(&mut [&mut other], 60);
    other.stop();
    assert_eq!(spec.tool(&["state", "verify"]).code, Some(0));
    // A completion deleted too early is remembered on disk only.
    let first = site.completions().into_iter().find(|r| r.partition == 0).expect("an answer");
    site.admin.trim(&site.topics.completions, 0, first.offset + 1);
    let request = first.json()["request_id"].as_str().expect("an id").to_owned();
    let differs = spec.tool(&["state", "verify", "--output", "json"]).json(3);
    assert_eq!((&differs[0]["different"], &differs[1]["different"]), (&Value::from(1), &Value::from(0)), "{differs}");
    assert!(differs[0]["first"][0].as_str().expect("text").contains(&request), "{differs}");
}

/// Nobody to ask is no yes; dropped, the next start has everything again.
pub fn drop_asks_first_and_the_next_start_restores(ctx: &Ctx) {
    let site = Site::new(ctx, "drop", 1);
    let spec = site.spec("w");
    let mut worker = spec.start();
    let mut random = Random(722);
    let card = random.uuid();
    site.send_one(Command::update(0, &random.uuid(), &card, &[("IBAN", "USD", &random.iban())]));
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    spec.tool(&["state", "drop"]).refused(2, &["--yes"]);
    assert_eq!(spec.tool(&["state", "card", &card]).code, Some(0), "it is still there");
    assert_eq!(spec.tool(&["state", "drop", "--yes", "--output", "json"]).json(0)["dropped"], true);
    assert_eq!(spec.tool(&["state", "drop", "--yes", "--output", "json"]).json(0)["dropped"], false);
    let mut worker = spec.start();
    worker.wait_said("Kafka alone", 60);
    site.wait_members(1, 60);
    worker.stop();
    assert_eq!(spec.tool(&["state", "card", &card]).code, Some(0), "restored");
}
