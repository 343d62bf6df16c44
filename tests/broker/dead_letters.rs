//! Promise: what cannot be answered goes to the dead letters as it came, bad input of every kind gets its answer, nothing stops.

use crate::support::client::Producer;
use crate::support::compare::Check;
use crate::support::expected::check_dead_letter;
use crate::support::generate::Random;
use crate::support::model::{Command, Meaning};
use crate::support::{Ctx, Site};

const CARD: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";
const IBAN: &str = "ES7921000813610123456789";

fn dead(value: Option<&[u8]>, reason: &'static str) -> Command {
    Command::new(0, Some(CARD.as_bytes()), value, Meaning::Dead(reason))
}

fn good(random: &mut Random) -> Command {
    Command::update(0, &random.uuid(), CARD, &[("IBAN", "USD", IBAN)])
}

/// Runs the commands, each followed by a good one, and compares.
fn run_and_compare(ctx: &Ctx, name: &str, commands: Vec<Command>) {
    let site = Site::new(ctx, name, 1);
    let mut random = Random(21);
    let mixed = commands.into_iter().flat_map(|c| [c, good(&mut random)]).collect();
    let log = site.send(mixed);
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 90);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
}

/// Each reason of the closed set.
pub fn every_dead_letter_is_the_record_as_it_came_with_its_reason(ctx: &Ctx) {
    let id = Random(22).uuid();
    let too_large = format!("{{\"request_id\":\"{id}\"}}{}", " ".repeat(262_144));
    let rows: Vec<(Option<Vec<u8>>, &'static str)> = vec![
        (None, "empty_value"),
        (Some(vec![]), "empty_value"),
        (Some(too_large.into_bytes()), "payload_too_large"),
        (Some(b"{".to_vec()), "malformed_json"),
        (Some(b" ".to_vec()), "malformed_json"),
        (Some(b"[]".to_vec()), "not_an_object"),
        (Some(b"\"text\"".to_vec()), "not_an_object"),
        (Some(b"null".to_vec()), "not_an_object"),
        (Some(b"12".to_vec()), "not_an_object"),
        (Some(b"{}".to_vec()), "invalid_request_id"),
        (Some(b"{\"request_id\":null}".to_vec()), "invalid_request_id"),
        (Some(b"{\"request_id\":12}".to_vec()), "invalid_request_id"),
        (Some(b"{\"request_id\":\"\"}".to_vec()), "invalid_request_id"),
        (Some(format!("{{\"request_id\":\"{}\"}}", id.replace('-', "")).into_bytes()), "invalid_request_id"),
        (Some(format!("{{\"request_id\":\"{{{id}}}\"}}").into_bytes()), "invalid_request_id"),
        (Some(format!("{{\"request_id\":\"urn:uuid:{id}\"}}").into_bytes()), "invalid_request_id"),
        (Some(format!("{{\"request_id\":\"{id}\",\"request_id\":\"{id}\"}}").into_bytes()), "invalid_request_id"),
        (Some(format!("{{\"request_id\":\"{id}\",\"request\\u005fid\":1}}").into_bytes()), "invalid_request_id"),
    ];
    let mut commands: Vec<Command> = rows.iter().map(|(value, reason)| dead(value.as_deref(), reason)).collect();
    for (n, command) in commands.iter_mut().enumerate() {
        command.key = [None, Some(vec![]), Some(vec![0, 0xff, n as u8]), Some(CARD.into())][n % 4].clone();
        command.headers = vec![
            ("binary".into(), Some(vec![0, 0xff, 0x80])),
            ("twice".into(), Some(b"1".to_vec())),
            ("twice".into(), Some(b"2".to_vec())),
            ("null".into(), None),
            ("empty".into(), Some(vec![])),
            ("dlq-note".into(), Some(b"not ours".to_vec())),
        ];
        command.timestamp -= 3_600_000 * n as i64;
    }
    run_and_compare(ctx, "dead", commands);
}

/// Values that break parsers.
pub fn bad_input_of_every_kind_is_answered_and_stops_nothing(ctx: &Ctx) {
    let id = Random(23).uuid();
    let valid = format!("{{\"request_id\":\"{id}\",\"card_id\":\"{CARD}\"}}");
    let with = |more: &str| format!("{{\"request_id\":\"{id}\",\"card_id\":\"{CARD}\",{more}}}").into_bytes();
    let malformed: Vec<Vec<u8>> = vec![
        [b"\xef\xbb\xbf", valid.as_bytes()].concat(),
        b"\xff\xfe{\x00}\x00".to_vec(),
        "[".repeat(100_000).into_bytes(),
        format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes(),
        format!("{{\"a\":{}", "{\"a\":".repeat(40_000)).into_bytes(),
        with("\"x\":\"\\ud800\""),
        with("\"x\":\"\\udc00\\ud800\""),
        with("\"\\ud800\":1"),
        with("\"x\":\"\u{1}\""),
        [&with("\"x\":\"")[..], b"\x00\"}"].concat(),
        b"\x00".to_vec(),
        [valid.as_bytes(), b"\x00"].concat(),
        [valid.as_bytes(), valid.as_bytes()].concat(),
        [valid.as_bytes(), b","].concat(),
        with("\"x\":1e999"),
        with("\"x\":-1e999"),
        with("\"x\":01"),
        with("\"x\":+1"),
        with("\"x\":.5"),
        with("\"x\":NaN"),
        with("\"x\":Infinity"),
        with("\"x\":'a'"),
        with("\"x\":1,"),
        with("\"x\":\"\\x41\""),
        [&with("\"x\":\"")[..20], b"\xc3\x28"].concat(),
        format!("{valid}//").into_bytes(),
        valid.replace(':', "=").into_bytes(),
        with(&format!("\"x\":{}{}", "[".repeat(16), "]".repeat(16))),
    ];
    let mut commands: Vec<Command> = malformed.iter().map(|v| dead(Some(v), "malformed_json")).collect();
    commands.extend(odd_but_answerable());
    run_and_compare(ctx, "bad", commands);
}

/// Input on the other side of each limit.
fn odd_but_answerable() -> Vec<Command> {
    let mut random = Random(24);
    let mut reject = |more: &str, code: &'static str, path: &'static str| {
        let request_id = random.uuid();
        let value = format!("{{\"request_id\":\"{request_id}\",\"card_id\":\"{CARD}\",{more}}}");
        let meaning = Meaning::Reject { request_id, card_id: Some(CARD.into()), code, path };
        Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), meaning)
    };
    let mut commands = vec![
        // Sixteen levels with the root are allowed.
        reject(&format!("\"x\":{}{}", "[".repeat(15), "]".repeat(15)), "unknown_field", ""),
        reject("\"x\":1e308", "unknown_field", ""),
        reject("\"x\":18446744073709551616", "unknown_field", ""),
        reject("\"x\":\"\\u0000\"", "unknown_field", ""),
        reject("\"x\":\"\\ud83d\\ude00\"", "unknown_field", ""),
        reject("\"\":1", "unknown_field", ""),
        reject("\"accounts\":\"[]\"", "invalid_type", "/accounts"),
        reject("\"accounts\":true", "invalid_type", "/accounts"),
        reject(
            "\"accounts\":[{\"iban\":\"ES79\\u00002100\",\"currency\":\"USD\",\"type\":\"IBAN\"}]",
            "invalid_iban",
            "/accounts/0/iban",
        ),
    ];
    // Exactly the limit is not above it.
    let mut exact = good(&mut Random(28));
    let mut value = exact.value.take().expect("a value");
    value.resize(262_144, b' ');
    exact.value = Some(value);
    commands.push(exact);
    let mut keyless = reject("\"accounts\":[]", "key_mismatch", "/card_id");
    keyless.key = None;
    commands.push(keyless);
    commands
}

/// A record whose producer gave it no time: the decision time stands in.
pub fn a_command_without_a_timestamp_is_stamped_with_the_decision_time(ctx: &Ctx) {
    let site = Site::new(ctx, "no-time", 1);
    let mut random = Random(25);
    let command = site.send_one(good(&mut random).at(-1));
    let letter = site.send_one(dead(Some(b"{"), "malformed_json").at(-1));
    let stored = site.read(&site.topics.commands);
    assert!(stored[0].timestamp.is_none_or(|t| t < 0), "the broker kept it without a time: {stored:?}");
    let mut worker = site.spec("w").start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    let answer = site.answer_to(&command);
    assert_eq!(answer.json()["status"], "ok");
    let cards = site.read(&site.topics.cards);
    assert_eq!(cards[0].json()["accounts"][0]["updated_at"].as_i64(), answer.timestamp);
    let dead = site.read(&site.topics.dead_letters);
    assert_eq!(dead.len(), 1);
    check_dead_letter(&site, &letter, &dead[0], "malformed_json");
}

/// Five megabytes that Zstandard makes small and LZ4 does not: larger than the dead-letter topic takes.
pub fn a_record_too_large_for_the_dead_letter_topic_goes_there_without_its_value(ctx: &Ctx) {
    let site = Site::new(ctx, "zstd", 1);
    let mut random = Random(26);
    // Repeats at a distance that only the larger window of Zstandard sees.
    let block: Vec<u8> = (0..25_000).flat_map(|_| random.next().to_le_bytes()).collect();
    let value = block.repeat(25);
    assert_eq!(value.len(), 5_000_000);
    let zstd = [("compression.type", "zstd"), ("compression.level", "3")];
    let mut producer = Producer::with(&site.bootstrap, &site.topics.commands, &zstd);
    let mut log = producer.send(vec![good(&mut random)]);
    log.extend(producer.send(vec![dead(Some(&value), "payload_too_large").header("own", "kept")]));
    log.extend(producer.send(vec![good(&mut random), dead(Some(b"{"), "malformed_json")]));
    let spec = site.spec("w");
    let mut worker = spec.start();
    site.wait_processed(&mut [&mut worker], 90);
    worker.stop();
    Check::new(&site, &log).state(&spec.state_dir).run();
    let letters = site.read(&site.topics.dead_letters);
    assert_eq!(letters[0].header("dlq-value-omitted"), Some("true"), "the broker cannot have taken the value");
}

/// INV-10: nothing of a payload is printed, at the most talkative level.
pub fn inv_10_no_payload_value_is_ever_logged(ctx: &Ctx) {
    let site = Site::new(ctx, "quiet", 1);
    let mut random = Random(27);
    let iban = random.iban();
    let mut commands = vec![
        Command::update(0, &random.uuid(), CARD, &[("IBAN", "USD", &iban)]),
        dead(Some(format!("{{\"request_id\":\"{iban}\"}}").as_bytes()), "invalid_request_id"),
        dead(Some(format!("{{\"iban\":\"{iban}\"").as_bytes()), "malformed_json"),
        dead(Some(format!("\"{iban}\"").as_bytes()), "not_an_object"),
    ];
    for text in [
        format!("\"accounts\":[{{\"iban\":\"{iban}1\",\"currency\":\"USD\",\"type\":\"IBAN\"}}]"),
        format!("\"accounts\":[{{\"iban\":\"{iban}\",\"currency\":\"{iban}\",\"type\":\"IBAN\"}}]"),
        format!("\"accounts\":[{{\"iban\":\"{iban}\",\"currency\":\"USD\",\"type\":\"{iban}\"}}]"),
        format!("\"{iban}\":1"),
        format!("\"accounts\":\"{iban}\""),
    ] {
        let value = format!("{{\"request_id\":\"{}\",\"card_id\":\"{CARD}\",{text}}}", random.uuid());
        commands.push(Command::new(0, Some(CARD.as_bytes()), Some(value.as_bytes()), Meaning::Invisible));
    }
    let count = commands.len();
    site.send(commands);
    let mut worker = site.spec("w").text("log.level", "trace").start();
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    assert!(!worker.log().is_empty(), "there is something to look at");
    assert!(!worker.log().contains(&iban[4..]), "an account number was printed:\n{}", worker.log());
    let (answers, letters) = (site.completions(), site.read(&site.topics.dead_letters));
    assert_eq!(answers.len() + letters.len(), count);
    for record in answers {
        let text = String::from_utf8(record.value.expect("a value")).expect("UTF-8");
        assert!(!text.contains(&iban[4..]), "a completion carries an account number: {text}");
    }
    for letter in letters {
        let message = letter.header("dlq-message").expect("a message");
        assert!(!message.contains(&iban[4..]), "a dead letter's message carries a payload value: {message}");
    }
}
