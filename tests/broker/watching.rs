//! Promise: whoever runs the worker sees what it does: metrics, probes, the read API and traces tell the truth, also while a
//! broker is away, a restore takes long, or a loop is stuck.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use rdkafka::producer::Producer as _;
use serde_json::Value;

use crate::support::broker::free_port;
use crate::support::client::Producer;
use crate::support::generate::Random;
use crate::support::http::{code, get, get_with, metric};
use crate::support::java::Server;
use crate::support::model::{Command, Meaning};
use crate::support::worker::Spec;
use crate::support::{Ctx, Site, wait_until};

const WAIT: Duration = Duration::from_secs(30);
const EXAMPLE: &str = "019ab688-bef2-72c4-6a29-d0e08be76d95";

fn watched(site: &Site) -> (Spec, u16) {
    let port = free_port().expect("a port");
    (site.spec("w").text("http.listen", &format!("127.0.0.1:{port}")), port)
}

fn update(random: &mut Random) -> Command {
    let (request, card, iban) = (random.uuid(), random.uuid(), random.iban());
    Command::update(0, &request, &card, &[("IBAN", "USD", &iban)])
}

fn request_id(command: &Command) -> String {
    text_of(command, "request_id")
}

fn card_id(command: &Command) -> String {
    text_of(command, "card_id")
}

fn text_of(command: &Command, field: &str) -> String {
    let value: Value = serde_json::from_slice(command.value.as_deref().expect("a value")).expect("JSON");
    value[field].as_str().expect("a text").to_string()
}

fn live_lag(port: u16) -> Option<f64> {
    metric(port, "card_update_consumer_lag_records{partition=\"0\",source=\"live\"}")
}

fn transactional(site: &Site, topic: &str) -> Producer {
    let id = format!("{topic}.watching");
    let producer = Producer::with(&site.bootstrap, topic, &[("transactional.id", id.as_str()), ("linger.ms", "0")]);
    producer.transactions().init_transactions(WAIT).expect("transactions");
    producer
}

/// The names of interface.md, without the prefix; those by partition want a partition, which the worker has.
const NAMES: &str = "build_info commands_total rejections_total dead_letters_total command_latency_seconds batch_records \
    batch_duration_seconds transactions_total producer_resets_total consumer_lag_records consumer_lag_seconds partition_state \
    partition_last_progress_timestamp_seconds rebalances_total restore_remaining_records restores_total cards accounts \
    remembered_requests dedup_oldest_timestamp_seconds dedup_window_seconds completions_retention_seconds clock_clamped_total \
    projection_memory_bytes checkpoint_duration_seconds checkpoint_age_seconds checkpoint_bytes_total state_dir_bytes \
    state_dir_free_bytes state_discards_total backfill_remaining_records kafka_client_rtt_seconds kafka_client_queue_records \
    kafka_client_queue_bytes kafka_client_brokers_up kafka_client_errors_total";

/// Every metric is there, says what happened, and names no card.
pub fn every_metric_of_the_contract_is_exposed_and_counts(ctx: &Ctx) {
    let site = Site::new(ctx, "metrics", 1);
    let (spec, port) = watched(&site);
    let mut worker = spec.set("checkpoint.max_tail_records", "2").start();
    let mut random = Random(900);
    let command = update(&mut random);
    let ids = [request_id(&command), card_id(&command)];
    site.send(vec![command.clone(), command, Command::new(0, None, Some(b"{"), Meaning::Dead("malformed_json"))]);
    site.wait_processed(&mut [&mut worker], 60);
    wait_until("the figures have come", 30, || {
        metric(port, "card_update_kafka_client_brokers_up{client=\"consumer\"}") == Some(1.0)
            && metric(port, "card_update_checkpoint_duration_seconds_count").is_some_and(|n| n > 0.0)
    });
    let text = get(port, "/metrics").expect("metrics").body;
    for name in NAMES.split_whitespace() {
        assert!(text.contains(&format!("# TYPE card_update_{name} ")), "{name} is missing");
    }
    for (series, value) in [
        ("commands_total{result=\"applied\",source=\"live\"}", 1.0),
        ("commands_total{result=\"replayed\",source=\"live\"}", 1.0),
        ("commands_total{result=\"stale\",source=\"backfill\"}", 0.0),
        ("dead_letters_total{reason=\"malformed_json\"}", 1.0),
        ("command_latency_seconds_count{source=\"live\"}", 3.0),
        ("partition_state{partition=\"0\",state=\"running\"}", 1.0),
        ("cards", 1.0),
        ("accounts", 1.0),
        ("remembered_requests", 1.0),
        ("dedup_window_seconds", 604_800.0),
        ("consumer_lag_records{partition=\"0\",source=\"live\"}", 0.0),
        ("consumer_lag_seconds{partition=\"0\",source=\"live\"}", 0.0),
    ] {
        assert_eq!(metric(port, &format!("card_update_{series}")), Some(value), "{series}\n{text}");
    }
    let retention = metric(port, "card_update_completions_retention_seconds");
    assert!(retention.is_some_and(|r| r >= 604_800.0), "{retention:?}");
    assert!(metric(port, "card_update_state_dir_bytes").is_some_and(|b| b > 0.0));
    assert!(ids.iter().all(|id| !text.contains(id)), "INV-10: an id stands in the metrics");
    worker.stop();
}

/// The log's end is a transaction marker: nothing waits, and the lag says so.
pub fn lag_is_exactly_0_behind_a_transaction_marker(ctx: &Ctx) {
    let site = Site::new(ctx, "marker", 1);
    let (spec, port) = watched(&site);
    let mut worker = spec.start();
    let (mut random, mut upstream) = (Random(901), transactional(&site, &site.topics.commands));
    for commit in [true, false, true, false] {
        upstream.transactions().begin_transaction().expect("a transaction");
        upstream.send((0..50).map(|_| update(&mut random)).collect());
        let client = upstream.transactions();
        if commit { client.commit_transaction(WAIT) } else { client.abort_transaction(WAIT) }.expect("ended");
    }
    site.wait_answers(100, &mut worker, 60);
    let end = site.admin.watermarks(&site.topics.commands, 0).1;
    wait_until("the end has been asked for", 20, || {
        let shown: Value = serde_json::from_str(&get(port, "/v1/partitions").expect("an answer").body).expect("JSON");
        shown["partitions"][0]["live"]["end_offset"] == end
    });
    wait_until("the lag is 0", 5, || live_lag(port) == Some(0.0));
    worker.stop();
}

/// What waits while a partition is restored is seen, and so is how far the restore is; a scrape answers throughout.
pub fn a_restore_in_progress_is_seen_and_what_waits_behind_it(ctx: &Ctx) {
    let site = Site::new(ctx, "restoring", 1);
    let (spec, port) = watched(&site);
    let mut random = Random(902);
    // An earlier run leaves offsets: it is then known at once what waits.
    let mut worker = spec.start();
    site.send_one(update(&mut random));
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    // A foreign transaction that hangs in the cards topic holds the restore up: committed records lie behind it for all it knows.
    let mut foreign = transactional(&site, &site.topics.cards);
    foreign.transactions().begin_transaction().expect("a transaction");
    foreign.send(vec![update(&mut random)]);
    site.send((0..7).map(|_| update(&mut random)).collect());
    let mut worker = spec.start();
    wait_until("the restore is seen to wait", 30, || {
        metric(port, "card_update_restore_remaining_records{partition=\"0\"}").is_some_and(|n| n >= 1.0)
            && live_lag(port) == Some(7.0)
    });
    assert_eq!(code(port, "/readyz"), Some(503));
    assert_eq!(code(port, "/livez"), Some(200));
    let why = get(port, "/readyz?verbose").expect("an answer").body;
    assert!(why.contains("0 restoring (1 records left)"), "{why}");
    let waited = "card_update_consumer_lag_seconds{partition=\"0\",source=\"live\"}";
    wait_until("the wait grows", 20, || metric(port, waited).is_some_and(|s| s > 2.0));
    foreign.transactions().abort_transaction(WAIT).expect("aborted");
    site.wait_processed(&mut [&mut worker], 60);
    wait_until("it is ready", 20, || code(port, "/readyz") == Some(200) && live_lag(port) == Some(0.0));
    assert_eq!(metric(port, "card_update_restores_total{result=\"checkpoint\"}"), Some(1.0));
    worker.stop();
}

/// Alive without a broker, before the first contact and after; ready again by itself when it is back.
pub fn a_worker_whose_broker_is_away_is_alive_and_not_ready(_: &Ctx) {
    let mut broker = Server::start(&[]).expect("a broker of its own");
    let ctx = Ctx { bootstrap: broker.bootstrap.clone() };
    let site = Site::new(&ctx, "away", 1);
    let (spec, port) = watched(&site);
    broker.freeze();
    let mut worker = spec.start();
    wait_until("probes answer before the first contact", 20, || code(port, "/livez") == Some(200));
    assert_eq!(code(port, "/readyz"), Some(503));
    assert_eq!(code(port, "/metrics"), Some(200));
    broker.thaw();
    wait_until("it is ready", 60, || code(port, "/readyz") == Some(200));
    // Then it is idle: no transaction is under way when the broker stands still. (The client may hang in one, which the watchdog
    // answers; that is another promise.)
    wait_until("its first offsets are committed", 30, || {
        [&site.topics.commands, &site.topics.backfill].iter().all(|t| site.admin.committed(t, 1)[0].is_some())
    });
    broker.freeze();
    wait_until("it is not ready any more", 30, || {
        worker.assert_running();
        get(port, "/readyz?verbose").is_some_and(|a| a.body.contains("[-] broker: heard 1"))
    });
    assert_eq!(code(port, "/readyz"), Some(503));
    assert_eq!(code(port, "/livez"), Some(200));
    worker.wait_said("not ready", 10);
    broker.thaw();
    wait_until("it is ready again", 60, || {
        worker.assert_running();
        code(port, "/readyz") == Some(200)
    });
    worker.stop();
}

/// One thread of the process is stopped: the process must not go on looking alive.
pub fn a_worker_whose_loop_is_stuck_is_not_alive(ctx: &Ctx) {
    let site = Site::new(ctx, "stuck", 1);
    let (spec, port) = watched(&site);
    let mut worker = spec.start();
    wait_until("it is ready", 60, || code(port, "/readyz") == Some(200));
    assert_eq!(code(port, "/livez"), Some(200));
    let stopped = StoppedThread::of(worker.pid(), "loop-0");
    // Its watchdog ends it, or the probe makes the supervisor do so.
    wait_until("it is seen", 60, || worker.exited().is_some() || code(port, "/livez") == Some(503));
    drop(stopped);
    if worker.exited().is_none() {
        worker.kill();
    } else {
        assert_eq!(worker.wait_exit(5), Some(1));
        assert!(worker.said("did not return within its time-out"), "{}", worker.log());
    }
}

/// A thread that a tracer holds still, until dropped.
struct StoppedThread(nix::unistd::Pid);

impl StoppedThread {
    fn of(pid: u32, name: &str) -> StoppedThread {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
        let id = tasks
            .flatten()
            .find(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.trim() == name))
            .and_then(|t| t.file_name().to_string_lossy().parse().ok())
            .expect("the thread");
        let thread = nix::unistd::Pid::from_raw(id);
        nix::sys::ptrace::attach(thread).expect("the thread can be traced");
        StoppedThread(thread)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // The thread may be gone with its process.
        let _ = nix::sys::ptrace::detach(self.0, None);
    }
}

/// Cards and requests can be read, masked; what is unknown or malformed gets a problem document.
pub fn the_read_api_shows_masked_accounts_and_outcomes(ctx: &Ctx) {
    let site = Site::new(ctx, "read-api", 2);
    let (spec, port) = watched(&site);
    let mut worker = spec.threads(2).text("completion.utc_offset", "+00:30").start();
    // A partition that goes from one loop to the other is held by neither for a moment.
    site.wait_members(2, 60);
    wait_until("both partitions are held", 60, || code(port, "/readyz") == Some(200));
    let iban = "ES7921000813610123456789";
    let command = site.send_one(Command::update(1, EXAMPLE, EXAMPLE, &[("IBAN", "USD", iban)]));
    site.wait_processed(&mut [&mut worker], 60);
    let card = get(port, &format!("/v1/cards/{}", EXAMPLE.to_uppercase())).expect("an answer");
    assert_eq!(card.code, 200, "{card:?}");
    let body: Value = serde_json::from_str(&card.body).expect("JSON");
    assert_eq!(body["accounts"][0]["iban"], "ES79************6789");
    assert_eq!((&body["partition"], &body["card_id"]), (&Value::from(1), &Value::from(EXAMPLE)));
    assert_eq!((&body["offset"], &body["staleness"]["lag_records"]), (&Value::from(1), &Value::from(0)));
    assert!(!card.body.contains("2100"), "{}", card.body);
    let request = get(port, &format!("/v1/requests/{EXAMPLE}")).expect("an answer");
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!(body["request_status"], "success");
    assert_eq!(body["dt"], site.answer_to(&command).json()["dt"]);
    for (path, expected) in [
        ("/v1/cards/00000000-0000-4000-8000-000000000000", 404),
        ("/v1/requests/00000000-0000-4000-8000-000000000000", 404),
        ("/v1/cards/x", 400),
    ] {
        let answer = get(port, path).expect("an answer");
        assert_eq!(answer.code, expected, "{answer:?}");
        let problem: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(problem["status"], expected);
        assert!(expected != 404 || problem["partitions"] == serde_json::json!([0, 1]), "{problem}");
    }
    worker.stop();
}

/// Beyond loopback the read API is refused without a token, and answers only with it.
pub fn the_read_api_wants_a_token_beyond_loopback(ctx: &Ctx) {
    let site = Site::new(ctx, "token", 1);
    let port = free_port().expect("a port");
    let spec = site.spec("w").text("http.listen", &format!("0.0.0.0:{port}"));
    let mut worker = spec.start();
    assert_eq!(worker.wait_exit(20), Some(2));
    assert!(worker.said("http.read_api_token_file"), "{}", worker.log());
    let file = site.path("token");
    std::fs::write(&file, "s3cret\n").expect("a file");
    let mut worker = spec.text("http.read_api_token_file", &file.display().to_string()).start();
    wait_until("it is ready", 60, || code(port, "/readyz") == Some(200));
    let path = format!("/v1/cards/{EXAMPLE}");
    assert_eq!(code(port, &path), Some(401));
    let with = |token: &str| get_with(port, &path, &format!("authorization: Bearer {token}\r\n")).map(|a| a.code);
    assert_eq!((with("wrong"), with("s3cret")), (Some(401), Some(404)));
    worker.stop();
}

/// A sampled command's span reaches the collector under its trace; one that is not sampled makes none.
pub fn spans_of_sampled_commands_reach_the_collector(ctx: &Ctx) {
    let site = Site::new(ctx, "spans", 1);
    let collector = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", collector.local_addr().expect("an address"));
    let received = std::thread::spawn(move || first_export(&collector));
    let mut worker = site.spec("w").text("tracing.otlp_endpoint", &url).start();
    let mut random = Random(905);
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let quiet = "00-1bf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let command = update(&mut random).header("traceparent", sampled);
    let id = request_id(&command);
    site.send(vec![update(&mut random).header("traceparent", quiet), command]);
    site.wait_processed(&mut [&mut worker], 60);
    worker.stop();
    let export = received.join().expect("an export");
    let holds = |bytes: &[u8]| export.windows(bytes.len()).any(|w| w == bytes);
    assert!(holds(b"\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c"), "the trace's id");
    assert!(holds(b"POST /v1/traces") && holds(b"messaging.kafka.offset"), "an export of spans");
    assert!(!holds(b"\x1b\xf7\x65\x19\x16\xcd\x43\xdd"), "a trace that was not sampled");
    assert!(!holds(id.as_bytes()), "INV-10");
}

fn first_export(collector: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = collector.accept().expect("an export");
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    let whole = |request: &[u8]| {
        let head = request.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
        let length: usize = text.split("content-length: ").nth(1)?.lines().next()?.trim().parse().ok()?;
        (request.len() >= head + length).then_some(())
    };
    while whole(&request).is_none() {
        let read = stream.read(&mut chunk).expect("an export");
        assert!(read > 0, "the export ended early");
        request.extend_from_slice(&chunk[..read]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("an answer");
    request
}
