//! Promise: the deployed alerts and the dashboard work on what a real worker exposes: a real Prometheus scrapes it and evaluates the
//! rules, of which two have their times cut down from minutes to seconds.

mod rules;
mod server;

use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use serde_json::Value;

use crate::support::broker::free_port;
use crate::support::client::Producer;
use crate::support::generate::Generator;
use crate::support::http::get;
use crate::support::java::Server;
use crate::support::model::{Command, Meaning};
use crate::support::worker::{Spec, Worker};
use crate::support::{Ctx, Load, Site, wait_until};
use rules::{deployed, scaled, selectors};
use server::Prometheus;

pub use server::program;

const WAIT: Duration = Duration::from_secs(30);
const STALLED: &str = "CardUpdatePartitionStalled";
const LAG_HIGH: &str = "CardUpdateLagHigh";
/// What the alerts compare with, and how long they wait, instead of a minute and two.
const THRESHOLD: u64 = 3;
const FOR: u64 = 2;

fn watched(site: &Site, name: &str) -> (Spec, u16) {
    let port = free_port().expect("a port");
    (site.spec(name).text("http.listen", &format!("127.0.0.1:{port}")), port)
}

fn prometheus(site: &Site, workers: &[u16]) -> Prometheus {
    Prometheus::start(&site.path("prometheus"), &scaled(&[STALLED, LAG_HIGH], THRESHOLD, FOR), workers)
}

/// Waits until nothing is left, and says what is left if that takes too long.
fn wait_none<T: std::fmt::Debug>(what: &str, seconds: u64, mut left: impl FnMut() -> Vec<T>) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}: {left:#?}");
        // Prometheus tells nobody when an alert changes: it is asked, up to the deadline.
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until an alert fires, which it must for partition 0 alone, in words that are whole.
fn wait_fires(prometheus: &Prometheus, alert: &str, mut also: impl FnMut()) {
    wait_until(&format!("{alert} fires"), 60, || {
        also();
        !prometheus.firing(alert).is_empty()
    });
    let firing = prometheus.firing(alert);
    assert!(firing.iter().all(|a| a["labels"]["partition"] == "0"), "{firing:#?}");
    for text in ["summary", "description"] {
        let text = firing[0]["annotations"][text].as_str().expect("an annotation");
        assert!(text.contains("artition 0 ") && !text.contains("error") && !text.contains("no value"), "{text}");
    }
}

/// Waits until neither alert is firing or about to; all the while every rule could be evaluated.
fn wait_clear(prometheus: &Prometheus) {
    wait_until("both alerts are cleared", 60, || [STALLED, LAG_HIGH].iter().all(|a| !prometheus.is_active(a)));
    assert_eq!(prometheus.failures(), [""; 0]);
}

/// A transaction that nobody ends, in the completions of partition 0.
fn hanging_transaction(site: &Site) -> Producer {
    let topic = &site.topics.completions;
    let settings = [("transactional.id", topic.as_str()), ("transaction.timeout.ms", "600000")];
    let mut producer = Producer::with(&site.bootstrap, topic, &settings);
    producer.transactions().init_transactions(WAIT).expect("transactions");
    producer.transactions().begin_transaction().expect("begun");
    producer.send(vec![Command::new(0, None, Some(b"{}"), Meaning::Invisible)]);
    producer
}

/// How many commands take a worker several times as long as an alert waits.
fn backlog(site: &Site, worker: &mut Worker, generator: &mut Generator) -> usize {
    site.send(generator.take(50));
    site.wait_processed(&mut [worker], 60);
    let began = Instant::now();
    site.send(generator.take(300));
    site.wait_processed(&mut [worker], 60);
    let per_second = 300.0 / began.elapsed().as_secs_f64();
    (per_second * 3.0 * (THRESHOLD + FOR) as f64) as usize
}

/// A name, a label or a value that is misspelt in a rule or a panel would never find anything.
pub fn all_that_rules_and_dashboard_ask_for_is_there(ctx: &Ctx) {
    let site = Site::new(ctx, "series", 4);
    let standby = |name| {
        let (spec, port) = watched(&site, name);
        (spec.text("worker.standby", "all"), port)
    };
    let ((a, port_a), (b, port_b)) = (standby("a"), standby("b"));
    let load = Load::start(&site, Generator::new(910, 4, 50), 200);
    let (mut one, mut two) = (a.start(), b.start());
    site.wait_members(2, 60);
    let prometheus = prometheus(&site, &[port_a, port_b]);
    let rules: Value = serde_saphyr::from_str(&deployed("prometheus/rules.yaml")).expect("YAML");
    let dashboard: Value = serde_json::from_str(&deployed("grafana/card-update-worker.json")).expect("JSON");
    for (file, file_name) in [(&rules, "the rules"), (&dashboard, "the dashboard")] {
        let asked = selectors(file);
        assert!(asked.len() > 10, "more than this is asked for by {file_name}: {asked:?}");
        let missing = || asked.iter().filter(|s| prometheus.series(s) == 0).collect();
        wait_none(&format!("what is asked for by {file_name} is there"), 60, missing);
    }
    let recorded = prometheus.rules().into_iter().filter(|r| r["type"] == "recording");
    let recorded: Vec<String> = recorded.map(|r| r["name"].as_str().expect("a name").to_owned()).collect();
    assert!(!recorded.is_empty());
    wait_none("what the worker exposes and what is recorded is there", 60, || {
        let there = prometheus.names();
        exposed(port_a).into_iter().chain(recorded.clone()).filter(|name| !there.contains(name)).collect()
    });
    wait_none("every rule is well", 60, || {
        prometheus.rules().into_iter().filter(|r| r["health"] != "ok").collect::<Vec<_>>()
    });
    two.stop();
    site.wait_members(1, 60);
    wait_until("the other is seen to be down", 60, || prometheus.query("sum(up)").iter().any(|(_, up)| *up == 1.0));
    load.stop();
    site.wait_processed(&mut [&mut one], 60);
    one.stop();
    assert_eq!(prometheus.failures(), [""; 0]);
}

/// The names of all series that a worker exposes.
fn exposed(port: u16) -> Vec<String> {
    let text = get(port, "/metrics").expect("metrics").body;
    let mut names: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect();
    names.dedup();
    for name in ["card_update_kafka_client_rtt_seconds", "card_update_standby_lag_records", "process_open_fds"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    names
}

/// Idle is no stall; a restore behind a transaction that hangs is one, of its partition alone, and waits for no command.
pub fn a_partition_whose_restore_stands_still_pages_until_it_goes_on(ctx: &Ctx) {
    let site = Site::new(ctx, "stalled", 2);
    let (spec, port) = watched(&site, "w");
    let spec = spec.text("restore.stall_timeout", "10m");
    let prometheus = prometheus(&site, &[port]);
    let mut worker = spec.start();
    site.send(Generator::new(911, 2, 20).take(200));
    site.wait_processed(&mut [&mut worker], 60);
    let idle = format!("time() - card_update_partition_last_progress_timestamp_seconds > {}", 2 * (THRESHOLD + FOR));
    wait_until("the partitions are idle", 60, || prometheus.query(&idle).len() == 2);
    assert!(!prometheus.is_active(STALLED), "idle is no stall");
    worker.stop();

    let hanging = hanging_transaction(&site);
    let mut worker = spec.start();
    wait_fires(&prometheus, STALLED, || worker.assert_running());
    assert!(!prometheus.is_active(LAG_HIGH), "nothing waits");
    hanging.transactions().abort_transaction(WAIT).expect("aborted");
    wait_clear(&prometheus);
    worker.stop();
}

/// A broker that answers nobody: commands wait, and the last that is known of them stays.
pub fn a_partition_whose_broker_stands_still_pages_until_it_goes_on(_: &Ctx) {
    let mut broker = Server::start(&[("broker.session.timeout.ms", "120000")]).expect("a broker of its own");
    let ctx = Ctx { bootstrap: broker.bootstrap.clone() };
    let site = Site::new(&ctx, "frozen", 2);
    let (spec, port) = watched(&site, "w");
    let prometheus = prometheus(&site, &[port]);
    let mut worker = spec.set("batch.max_records", "1").start();
    let mut generator = Generator::new(912, 1, 50);
    let backlog = backlog(&site, &mut worker, &mut generator);
    site.send(generator.take(backlog));
    broker.freeze();
    wait_fires(&prometheus, STALLED, || worker.assert_running());
    broker.thaw();
    site.wait_processed(&mut [&mut worker], 120);
    wait_clear(&prometheus);
    worker.stop();
}

/// A worker that is too slow for what comes in: that is no stall, and ends by itself.
pub fn commands_that_wait_too_long_page_until_they_are_answered(ctx: &Ctx) {
    let site = Site::new(ctx, "lag", 2);
    let (spec, port) = watched(&site, "w");
    let prometheus = prometheus(&site, &[port]);
    let mut worker = spec.set("batch.max_records", "1").start();
    let mut generator = Generator::new(913, 1, 50);
    let backlog = backlog(&site, &mut worker, &mut generator);
    let mut sent = site.committed()[0];
    wait_fires(&prometheus, LAG_HIGH, || {
        worker.assert_running();
        // As much as it was given at first still waits, however long an evaluation takes to see it.
        if sent - site.committed()[0] < backlog as i64 {
            sent = site.send(generator.take(backlog)).last().expect("commands").offset + 1;
        }
    });
    assert_eq!(prometheus.firing(STALLED), [Value::Null; 0], "it goes on");
    site.wait_processed(&mut [&mut worker], 120);
    wait_clear(&prometheus);
    worker.stop();
}
