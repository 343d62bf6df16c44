//! Promise: history is sent again without ever touching what is newer, each record once however often the tool is killed, and a
//! dry run says beforehand what will come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Producer, Record};
use crate::support::generate::{Generator, Random};
use crate::support::java::Server;
use crate::support::model::Command;
use crate::support::topics::Admin;
use crate::support::worker::Spec;
use crate::support::{Ctx, Site, now_ms, wait_until};

/// Valid commands of `cards` cards whose times go back within a partition and are shared by neighbours.
fn history(random: &mut Random, partitions: i32, cards: usize, count: usize) -> Vec<Command> {
    let ids: Vec<String> = (0..cards).map(|_| random.uuid()).collect();
    let start = now_ms() - 3_600_000;
    (0..count)
        .map(|i| {
            let card = random.below(cards);
            let iban = random.iban();
            let currency = ["USD", "EUR", "GBP"][random.below(3)];
            let command =
                Command::update(card as i32 % partitions, &random.uuid(), &ids[card], &[("IBAN", currency, &iban)]);
            // Every other command an hour earlier, and pairs in the same millisecond.
            command.at(start + (i / 2) as i64 - if i % 4 < 2 { 0 } else { 3_500_000 })
        })
        .collect()
}

/// The last record of each card.
fn cards(site: &Site) -> BTreeMap<String, Value> {
    let records = site.read(&site.topics.cards);
    records.iter().map(|r| (String::from_utf8(r.key.clone().expect("a key")).expect("text"), r.json())).collect()
}

/// The same without positions, which another log's records do not have.
fn without_positions(cards: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut cards = cards;
    for account in cards.values_mut().flat_map(|card| card["accounts"].as_array_mut().expect("a list")) {
        account.as_object_mut().expect("an object").remove("source_offset");
    }
    cards
}

fn places(records: &[Record], header: &str) -> Vec<String> {
    records.iter().map(|r| r.header(header).expect("the header").to_owned()).collect()
}

/// A worker of another group with outputs of its own on the same commands topic, told that it has read all of it.
fn second_group(site: &Site, other: &Site) -> Spec {
    let ends = site.admin.ends(&site.topics.commands, site.partitions);
    other.admin.commit(&site.topics.commands, &ends);
    other.admin.commit(&other.topics.backfill, &vec![0; site.partitions as usize]);
    other.spec("second").text("topics.commands", &site.topics.commands)
}

/// Whatever the times say: all is answered by the first answer again, and no card is written.
pub fn a_whole_topic_replayed_onto_a_live_projection_changes_nothing(ctx: &Ctx) {
    let site = Site::new(ctx, "whole", 2);
    let mut random = Random(700);
    let mut worker = site.spec("w").start();
    site.send(history(&mut random, 2, 20, 400));
    site.wait_processed(&mut [&mut worker], 60);
    let before = site.read(&site.topics.cards).len();
    let report = site.spec("w").tool(&["replay", "--wait", "--output", "json"]).json(0);
    assert_eq!(report["commands"], 400);
    assert_eq!((&report["complete"], &report["positions_kept"]), (&json!(true), &json!(true)));
    assert_eq!((&report["tally"]["replayed"], &report["tally"]["applied"]), (&json!(400), &json!(0)), "{report}");
    assert_eq!(site.read(&site.topics.cards).len(), before);
    worker.stop();
    assert_eq!(site.spec("w").tool(&["state", "verify"]).code, Some(0));
}

/// The memory has let go of them: then the positions on the cards tell.
pub fn a_replay_beyond_the_window_changes_nothing_that_is_newer(ctx: &Ctx) {
    let site = Site::new(ctx, "beyond", 2);
    let mut random = Random(701);
    let spec = site.spec("w").text("dedup.window", "1s");
    let mut worker = spec.start();
    let sent = site.send(history(&mut random, 2, 20, 300));
    site.wait_processed(&mut [&mut worker], 60);
    let before = cards(&site);
    let newest = site.completions().iter().filter_map(|r| r.timestamp).max().expect("answers");
    wait_until("the window is over", 20, || now_ms() > newest + 1500);
    let dry = spec.tool(&["replay", "--dry-run", "--changes", "-", "--output", "json"]);
    assert!(!dry.out.contains("\"card_id\""), "no card would change: {}", dry.out);
    let report = spec.tool(&["replay", "--wait", "--output", "json"]).json(0);
    assert_eq!(report["tally"]["stale"], sent.len(), "{report}");
    assert_eq!(cards(&site), before);
    worker.stop();
}

/// What the dry run says is what happens, and it writes nothing.
pub fn the_tally_of_a_dry_run_is_that_of_the_replay(ctx: &Ctx) {
    let site = Site::new(ctx, "dry", 3);
    // A group of its own that knows half of the history already.
    let other = Site::new(ctx, "dry-other", 3);
    let mut generator = Generator::new(702, 3, 15);
    site.send(generator.take(1200));
    let half: Vec<i64> = site.admin.ends(&site.topics.commands, 3).iter().map(|end| end / 2).collect();
    let spec = second_group(&site, &other);
    let mut worker = spec.start();
    let to: Vec<String> = half.iter().enumerate().map(|(p, end)| format!("{p}:{end}")).collect();
    spec.tool(&["replay", "--to-offset", &to.join(","), "--wait", "--output", "json"]).json(3);
    let ends = |topics: &[&String]| topics.iter().map(|t| other.admin.ends(t, 3)).collect::<Vec<_>>();
    let topics = [&other.topics.backfill, &other.topics.completions, &other.topics.cards, &other.topics.dead_letters];
    let before = ends(&topics);
    let changes = other.path("changes.ndjson");
    let dry = spec.tool(&["replay", "--dry-run", "--changes", changes.to_str().expect("a path"), "--output", "json"]);
    let dry = dry.json(3);
    assert_eq!(ends(&topics), before, "a dry run writes nothing");
    let known = cards(&other);
    let real = spec.tool(&["replay", "--wait", "--output", "json"]).json(3);
    assert_eq!(dry["tally"], real["tally"]);
    assert_eq!(dry["commands"], real["commands"]);
    for kind in ["applied", "replayed", "conflict"] {
        assert!(real["tally"][kind].as_u64().is_some_and(|n| n > 0), "{kind} occurs: {real}");
    }
    let changed: BTreeSet<String> = fs::read_to_string(&changes)
        .expect("the changes")
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["card_id"].as_str().expect("an id").to_owned())
        .collect();
    let after = cards(&other);
    let really: BTreeSet<String> =
        after.iter().filter(|(id, card)| known.get(*id) != Some(card)).map(|(id, _)| id.clone()).collect();
    assert_eq!(changed, really, "the cards that would change are those that did");
    assert!(!fs::read_to_string(&changes).expect("text").contains("ES79210"), "numbers are masked");
    worker.stop();
}

/// Killed again and again, tool and worker: every record once, in order, and the cards are those of the live group.
pub fn a_fresh_group_fed_by_a_replay_that_is_killed_reaches_the_live_cards(ctx: &Ctx) {
    let (site, other) = (Site::new(ctx, "kills", 2), Site::new(ctx, "kills-other", 2));
    let mut random = Random(703);
    let mut live = site.spec("w").start();
    let sent = site.send(history(&mut random, 2, 50, 20_000));
    site.wait_processed(&mut [&mut live], 120);
    live.stop();
    let spec = second_group(&site, &other);
    let mut worker = spec.start();
    let mut kills = 0;
    let ended = loop {
        let words = ["replay", "--id", "k", "--rate", "9000", "--max-in-flight", "3000", "--wait", "--output", "json"];
        let mut tool = spec.command(&words).stdout(std::process::Stdio::piped()).spawn().expect("the tool starts");
        let limit = Duration::from_millis(300 + random.below(900) as u64);
        let until = std::time::Instant::now() + limit;
        let mut ended = None;
        // After some kills it is left alone.
        while ended.is_none() && (kills >= 8 || std::time::Instant::now() < until) {
            ended = tool.try_wait().expect("a child");
            std::thread::sleep(Duration::from_millis(10));
        }
        if ended.is_some() {
            break tool.wait_with_output().expect("its output");
        }
        tool.kill().expect("a kill");
        tool.wait().expect("its end");
        kills += 1;
        if kills % 3 == 0 {
            worker.kill();
            worker = spec.start();
        }
    };
    assert!(kills >= 3, "it was killed {kills} times");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let report: Value = serde_json::from_slice(&ended.stdout).expect("a report");
    assert_eq!((&report["commands"], &report["tally"]["applied"]), (&json!(20_000), &json!(20_000)), "{report}");
    let answers = other.completions();
    let sources: Vec<String> = places(&answers, "source");
    assert_eq!(sources.iter().collect::<BTreeSet<_>>().len(), sent.len(), "each is answered once");
    assert_eq!(cards(&other), cards(&site), "positions and times included");
    worker.stop();
}

/// Each record of a killed replay stands in the backfill topic once, in the order of its source, with what it came with.
pub fn a_replay_that_is_killed_sends_each_record_once_with_time_headers_and_position(ctx: &Ctx) {
    let site = Site::new(ctx, "once", 2);
    let mut random = Random(704);
    let commands = history(&mut random, 2, 10, 6000);
    let sent = site
        .send(commands.into_iter().map(|c| c.header("traceparent", "00-1").header("replay-source", "x/0/9")).collect());
    let spec = site.spec("w");
    site.admin.commit(&site.topics.commands, &site.admin.ends(&site.topics.commands, 2));
    for _ in 0..6 {
        let words = ["replay", "--id", "once", "--rate", "4000"];
        let mut tool = spec.command(&words).stderr(std::process::Stdio::null()).spawn().expect("the tool starts");
        std::thread::sleep(Duration::from_millis(250 + random.below(500) as u64));
        tool.kill().expect("a kill");
        tool.wait().expect("its end");
    }
    assert_eq!(spec.tool(&["replay", "--id", "once"]).code, Some(0));
    // Once more: there is nothing left to send.
    assert_eq!(spec.tool(&["replay", "--id", "once", "--output", "json"]).json(0)["commands"], 6000);
    let other = spec.tool(&["replay", "--id", "once", "--to-offset", "5"]);
    assert_eq!(other.code, Some(2), "an id belongs to one replay: {other:?}");
    let records = site.read(&site.topics.backfill);
    for partition in 0..2 {
        let of = |p: i32| records.iter().filter(move |r| r.partition == p);
        let wanted: Vec<&Command> = sent.iter().filter(|c| c.partition == partition).collect();
        assert_eq!(of(partition).count(), wanted.len());
        for (record, command) in of(partition).zip(wanted) {
            let source = format!("{}/{partition}/{}", site.topics.commands, command.offset);
            assert_eq!(record.header("replay-source"), Some(source.as_str()), "once, in order, and never another's");
            assert_eq!((record.header("replay-id"), record.header("traceparent")), (Some("once"), Some("00-1")));
            assert_eq!((&record.key, &record.value), (&command.key, &command.value));
            assert_eq!(record.timestamp, Some(command.timestamp));
        }
    }
}

/// By time, by offset, by partition, by card; and what cannot be meant is refused in one line.
pub fn a_range_is_what_was_asked_and_what_is_gone_is_said(ctx: &Ctx) {
    let site = Site::new(ctx, "range", 2);
    let mut random = Random(705);
    let sent = site.send(history(&mut random, 2, 10, 200));
    let spec = site.spec("w");
    // What the workers have not processed yet is not replayed: it would be overtaken.
    spec.tool(&["replay", "--dry-run"]).refused(2, &["workers have processed"]);
    let ends = site.admin.ends(&site.topics.commands, 2);
    site.admin.commit(&site.topics.commands, &[40, ends[1]]);
    assert_eq!(spec.tool(&["replay", "--dry-run", "--output", "json"]).json(0)["commands"], 40 + ends[1]);
    site.admin.commit(&site.topics.commands, &ends);
    let counts = |words: &[&str]| {
        let words = [&["replay", "--dry-run", "--output", "json"], words].concat();
        let ran = spec.tool(&words);
        ran.json(0)["commands"].as_u64().expect("a number")
    };
    let number = |meant: &dyn Fn(&Command) -> bool| sent.iter().filter(|c| meant(c)).count() as u64;
    let middle = sent[100].timestamp;
    let time = rfc3339(middle);
    assert_eq!(
        counts(&["--from", &time]),
        number(&|c| c.timestamp >= middle),
        "record by record, though times go back"
    );
    assert_eq!(counts(&["--to", &time]), number(&|c| c.timestamp < middle));
    assert_eq!(counts(&["--partition", "1"]), number(&|c| c.partition == 1));
    assert_eq!(counts(&["--from-offset", "10", "--to-offset", "30"]), 40);
    assert_eq!(counts(&["--from-offset", "1:10"]), number(&|c| c.partition == 1 && c.offset >= 10));
    let card = String::from_utf8(sent[0].key.clone().expect("a key")).expect("text");
    assert_eq!(counts(&["--card", &card]), number(&|c| c.key == sent[0].key));

    let refused = |code: i32, words: &[&str], says: &[&str]| {
        spec.tool(&[&["replay"], words].concat()).refused(code, says);
    };
    refused(2, &["--from", "yesterday"], &["--from", "2025-01-31T08:00:00+01:00"]);
    refused(2, &["--from", &time, "--to", &time], &["backwards or empty"]);
    refused(2, &["--from-offset", "30", "--to-offset", "10"], &["backwards or empty"]);
    refused(2, &["--from-offset", "1000000"], &["empty"]);
    refused(2, &["--partition", "9"], &["partitions 0 to 1"]);
    refused(2, &["--partition", "1", "--from-offset", "0:5"], &["empty"]);
    refused(2, &["--report", "/no/such/folder/report"], &["/no/such/folder/report"]);
    spec.tool(&["replay", "--card", &random.uuid()]).failed(2, &["none of its records"]);
    refused(2, &["--topic", "no-such-topic"], &["no topic no-such-topic"]);
    refused(2, &["--file", "/no/such/file"], &["/no/such/file"]);
    refused(2, &["--card", "x"], &["no UUID"]);
    refused(2, &["--topic", &site.topics.backfill], &["cannot be the source"]);

    site.admin.trim(&site.topics.commands, 0, 25);
    refused(1, &["--from-offset", "5"], &["partition 0: 20 offsets before offset 25", "--allow-deleted"]);
    let left = spec.tool(&["replay", "--from-offset", "5", "--allow-deleted", "--dry-run", "--output", "json"]);
    assert!(left.err.contains("20 offsets"), "{left:?}");
    assert_eq!(left.json(0)["ranges"][0]["deleted"], 20);
    let oldest = rfc3339(sent.iter().map(|c| c.timestamp).min().expect("some") - 1000);
    refused(1, &["--from", &oldest], &["partition 0: up to 25 records before offset 25"]);
}

/// What was left of an interrupted replay is deleted meanwhile: it says so, and goes on with the rest when that is wanted.
pub fn an_interrupted_replay_that_retention_overtakes_says_what_is_gone(ctx: &Ctx) {
    let site = Site::new(ctx, "overtaken", 1);
    let mut random = Random(709);
    let sent = site.send(history(&mut random, 1, 10, 3000));
    site.admin.commit(&site.topics.commands, &[3000]);
    let spec = site.spec("w");
    let words = ["replay", "--id", "o", "--rate", "1000"];
    let mut tool = spec.command(&words).stderr(std::process::Stdio::null()).spawn().expect("the tool starts");
    wait_until("some are sent", 30, || site.admin.stable_end(&site.topics.backfill, 0) > 100);
    tool.kill().expect("a kill");
    tool.wait().expect("its end");
    let before = site.read(&site.topics.backfill).len() as i64;
    assert!(before < 2900, "it was interrupted: {before}");
    site.admin.trim(&site.topics.commands, 0, before + 50);
    let gone = format!("partition 0: offsets {before} to {} since the last run", before + 49);
    spec.tool(&["replay", "--id", "o"]).failed(1, &[&gone, "--allow-deleted"]);
    assert_eq!(spec.tool(&["replay", "--id", "o", "--allow-deleted"]).code, Some(0));
    assert_eq!(site.read(&site.topics.backfill).len(), sent.len() - 50);
}

fn rfc3339(ms: i64) -> String {
    let seconds = crate::support::expected::dt(ms, 0);
    format!("{}.{:03}+00:00", &seconds[..19], ms.rem_euclid(1000))
}

/// A topic of another cluster, forged positions included: times decide, and cards go where their keys go.
pub fn a_topic_of_another_cluster_is_compared_by_time_and_placed_by_key(ctx: &Ctx) {
    let server = Server::start(&[]).expect("a broker of its own");
    let site = Site::new(ctx, "elsewhere", 4);
    let far = Admin::new(&server.bootstrap, "far");
    let mut plan = site.topics.plans(3).remove(0);
    plan.name = site.topics.commands.clone();
    far.create(&[plan]);
    let mut random = Random(706);
    let forged = format!("{}/0/999999", site.topics.commands);
    let commands: Vec<Command> = history(&mut random, 3, 12, 240)
        .into_iter()
        .enumerate()
        .map(|(i, c)| c.at(1_700_000_000_000 + i as i64).header("replay-source", &forged))
        .collect();
    let sent = Producer::new(&server.bootstrap, &site.topics.commands).send(commands);
    let mut worker = site.spec("w").start();
    let spec = site.spec("w");
    let words = ["replay", "--source-bootstrap", &server.bootstrap, "--wait", "--output", "json"];
    let report = spec.tool(&words).json(0);
    assert_eq!((&report["positions_kept"], &report["tally"]["applied"]), (&json!(false), &json!(240)), "{report}");
    let records = site.read(&site.topics.cards);
    assert!(records.iter().all(|r| r.json()["accounts"][0].get("source_offset").is_none()));
    // librdkafka's own murmur2 partitioner, as a second opinion.
    let keys: BTreeSet<Vec<u8>> = sent.iter().map(|c| c.key.clone().expect("a key")).collect();
    let theirs = site.admin.places_of(&site.topics.dead_letters, &keys);
    for record in &records {
        let key = record.key.clone().expect("a key");
        assert_eq!(record.partition, theirs[&key], "a card is where Java clients put its key");
    }
    // Again, as another replay: nothing is newer than itself.
    let again = spec.tool(&words).json(0);
    assert_eq!(again["tally"]["replayed"], 240, "{again}");
    worker.stop();
}

/// A fresh cluster filled from a file reaches the cards of the one that the file came from.
pub fn a_file_fills_a_cluster_and_its_broken_lines_are_never_skipped(ctx: &Ctx) {
    let (site, other) = (Site::new(ctx, "file", 1), Site::new(ctx, "file-other", 1));
    let mut random = Random(707);
    let commands: Vec<Command> = history(&mut random, 1, 10, 120)
        .into_iter()
        .enumerate()
        .map(|(i, c)| c.at(1_700_000_000_000 + i as i64))
        .collect();
    let mut live = site.spec("w").start();
    let sent = site.send(commands);
    site.wait_processed(&mut [&mut live], 60);
    live.stop();
    let envelope = |c: &Command| {
        let value = String::from_utf8(c.value.clone().expect("a value")).expect("text");
        let key = String::from_utf8(c.key.clone().expect("a key")).expect("text");
        format!("{{\"value\":{value},\"key\":\"{key}\",\"timestamp\":{},\"headers\":{{\"h\":\"1\"}}}}", c.timestamp)
    };
    let mut lines: Vec<String> = sent.iter().map(envelope).collect();
    let good = lines[60].clone();
    lines[60] = "{\"value\":ES7921000813610123456789".into();
    let path = other.path("commands.ndjson");
    fs::write(&path, lines.join("\n")).expect("a file");
    let file = path.to_str().expect("a path").to_owned();

    let spec = other.spec("w");
    let mut worker = spec.start();
    let stopped = spec.tool(&["replay", "--file", &file, "--id", "f"]);
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.err.contains("line 61:") && !stopped.err.contains("ES79"), "{stopped:?}");
    wait_until("what stands before the line is sent", 20, || other.read(&other.topics.backfill).len() == 60);
    let other_lines = lines.iter().rev().cloned().collect::<Vec<_>>().join("\n");
    fs::write(&path, other_lines).expect("a file");
    spec.tool(&["replay", "--file", &file, "--id", "f"]).failed(2, &["first lines differ"]);
    // Mended, gzipped, and gone on with.
    lines[60] = good;
    let mut gzip = flate2::write::GzEncoder::new(fs::File::create(&path).expect("a file"), flate2::Compression::fast());
    gzip.write_all(lines.join("\n").as_bytes()).expect("written");
    gzip.finish().expect("written");
    let words = ["replay", "--file", &file, "--id", "f", "--wait", "--output", "json"];
    let report = spec.tool(&words).json(0);
    assert_eq!((&report["commands"], &report["tally"]["applied"]), (&json!(120), &json!(120)), "{report}");
    // Once more: nothing is left to send, and what was answered is no longer told.
    assert_eq!(spec.tool(&words).json(3)["tally"]["untold"], 120);
    assert_eq!(without_positions(cards(&other)), without_positions(cards(&site)));

    // Set aside, line by line, as they came.
    let broken = ["no json", "{\"card_id\":7}", "{\"request_id\":\"a\"}"];
    let card = random.uuid();
    let fine = format!("{{\"request_id\":\"{}\",\"card_id\":\"{card}\",\"accounts\":[]}}", random.uuid());
    fs::write(&path, [&[fine.as_str()], &broken[..], &[&fine]].concat().join("\n")).expect("a file");
    let rejects = other.path("rejects");
    let words = ["replay", "--file", &file, "--timestamp", "2024-05-01T00:00:00Z", "--wait", "--output", "json"];
    let rejects_of = |words: &[&str]| spec.tool(&[words, &["--rejects", rejects.to_str().expect("a path")]].concat());
    let report = rejects_of(&words).json(3);
    assert_eq!((&report["commands"], &report["set_aside"]), (&json!(2), &json!(3)), "{report}");
    assert_eq!(fs::read_to_string(&rejects).expect("rejects").lines().collect::<Vec<_>>(), broken);
    spec.tool(&["replay", "--file", &file]).failed(1, &["line 1:", "--timestamp"]);
    spec.tool(&["replay", "--file", &file, "--rejects", &file]).refused(2, &["the input itself"]);

    worker.stop();
}

/// Live commands do not wait for a backlog of replayed ones.
pub fn live_commands_are_answered_before_a_backlog_of_backfill(ctx: &Ctx) {
    let site = Site::new(ctx, "first", 1);
    let mut random = Random(708);
    site.send_backfill(history(&mut random, 1, 100, 60_000));
    let mut worker = site.spec("w").set("backfill.max_rate", "2000").start();
    site.wait_members(1, 60);
    let live = site.send(history(&mut random, 1, 10, 500));
    site.wait_processed(&mut [&mut worker], 60);
    let done = site.admin.committed(&site.topics.backfill, 1)[0].unwrap_or(0);
    assert!(done < 60_000, "the backlog is still there: {done}");
    let answered: BTreeSet<String> = places(&site.completions(), "source").into_iter().collect();
    assert!(live.iter().all(|c| answered.contains(&site.source(c))));
    worker.stop();
}
