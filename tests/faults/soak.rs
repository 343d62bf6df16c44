//! Promise: under load and faults for as long as one likes, memory and disk stay flat, and every command has one answer.
//! `SOAK_MINUTES=60 SOAK_RATE=200 cargo test --test faults soak` prints memory, disk, lag and latency over time.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::drive::{PATIENCE, Supervised};
use crate::proxy::Proxy;
use crate::rig::Rig;
use crate::support::broker::free_port;
use crate::support::client::{Producer, Reader};
use crate::support::generate::Random;
use crate::support::model::Command;
use crate::support::worker::Spec;
use crate::support::{Site, files_below, http, wait_until};

const PARTITIONS: i32 = 4;
const CARDS: usize = 2000;
/// Requests are forgotten after this, so that what is remembered stops growing early in the run.
const WINDOW: &str = "3m";
/// One sample in this time.
const EVERY: Duration = Duration::from_secs(5);
/// Between two faults, at most.
const CALM_MS: usize = 60_000;
/// How wide the plot is.
const COLUMNS: usize = 60;
/// From this many samples on, flat can be told from growing: ten minutes.
const ENOUGH: usize = 120;

/// One look at the worker that is never killed.
#[derive(Clone, Copy, Default)]
struct Sample {
    memory_mib: f64,
    disk_mib: f64,
    lag: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Two workers, one of them behind a proxy and never killed; the other is killed and stopped.
pub fn memory_and_disk_stay_flat_and_each_command_has_one_answer(rig: &Rig) {
    let (minutes, rate) = (number("SOAK_MINUTES", 1), number("SOAK_RATE", 200));
    let (port, proxy) = (free_port().expect("a port"), rig.proxy());
    let site = Site::new(&rig.ctx, "soak", PARTITIONS);
    let mut crew = [
        Supervised::start(
            spec(&site, "a")
                .text("kafka.bootstrap_servers", &proxy.address)
                .text("http.listen", &format!("127.0.0.1:{port}")),
        ),
        Supervised::start(spec(&site, "b")),
    ];
    let load = Sender::start(&site, rig.seed, rate);
    let mut answers = Answers::new(&site);
    let (mut samples, mut random) = (Vec::new(), Random(rig.seed ^ 77));
    let (begin, mut buckets) = (Instant::now(), BTreeMap::new());
    let (mut fault_at, mut faults) = (begin + Duration::from_secs(10), 0);
    while begin.elapsed() < Duration::from_secs(60 * minutes) {
        crew.iter_mut().for_each(Supervised::tend);
        if Instant::now() >= fault_at {
            fault(&mut crew, &proxy, &mut random);
            faults += 1;
            fault_at = Instant::now() + Duration::from_millis(random.below(CALM_MS) as u64);
        }
        answers.take_for(EVERY);
        samples.extend(sample(&mut crew[0], port, &mut buckets));
    }
    let sent = load.stop();
    settle(&site, &mut crew, &mut answers);
    assert_eq!(answers.each_answered_once(), sent, "answers");
    for one in &mut crew {
        one.worker.stop();
    }
    let verified = crew[0].spec.tool(&["state", "verify"]);
    assert_eq!(verified.code, Some(0), "the state is what the topics say: {verified:?}");
    let ends: usize = crew.iter().map(|one| one.ends.len()).sum();
    report(&samples, sent, faults, ends);
    let wanted = 60 * minutes as usize / EVERY.as_secs() as usize;
    assert!(samples.len() * 5 >= wanted * 4, "it was looked at {} times of {wanted}", samples.len());
    assert_eq!(crew[0].ends.len(), 0, "the worker whose memory is measured is one process");
    assert_flat(&samples);
}

fn spec(site: &Site, name: &str) -> Spec {
    site.spec(name)
        .instance(&format!("{}-{name}", site.group))
        .text("dedup.window", WINDOW)
        .set("checkpoint.max_tail_records", "5000")
        .text("checkpoint.interval", "10s")
}

/// One of: connections cut, everything late for a while, the other worker killed, or stopped for longer than its session.
fn fault(crew: &mut [Supervised; 2], proxy: &Proxy, random: &mut Random) {
    match random.below(4) {
        0 => {
            proxy.cut();
        }
        1 => {
            proxy.delay(Duration::from_millis(random.below(150) as u64));
            // The fault's duration.
            std::thread::sleep(Duration::from_secs(4));
            proxy.delay(Duration::ZERO);
        }
        2 => crew[1].replace(),
        _ => {
            crew[1].worker.freeze();
            // The fault's duration.
            std::thread::sleep(Duration::from_secs(12));
            crew[1].worker.thaw();
        }
    }
}

fn settle(site: &Site, crew: &mut [Supervised; 2], answers: &mut Answers) {
    let ends = site.admin.ends(&site.topics.commands, PARTITIONS);
    wait_until("everything is processed", PATIENCE, || {
        crew.iter_mut().for_each(Supervised::tend);
        answers.take_for(Duration::from_millis(50));
        site.committed().iter().zip(&ends).all(|(committed, end)| committed >= end)
    });
    wait_until("every answer is read", PATIENCE, || {
        answers.take_for(Duration::from_millis(50));
        answers.next.iter().zip(&ends).all(|(next, end)| next >= end)
    });
}

// --- the load ---

/// Sends at a fixed rate and keeps nothing but a number.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<i64>,
}

impl Sender {
    fn start(site: &Site, seed: u64, rate: u64) -> Sender {
        let mut producer = Producer::new(&site.bootstrap, &site.topics.commands);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut random = Random(seed);
            let cards: Vec<String> = (0..CARDS).map(|_| random.uuid()).collect();
            let (begin, mut sent) = (Instant::now(), 0);
            while !seen.load(Ordering::Relaxed) {
                let due = (begin.elapsed().as_millis() as u64 * rate / 1000) as i64 - sent;
                sent += due.max(0);
                producer.send((0..due).map(|_| command(&mut random, &cards)).collect());
                std::thread::sleep(Duration::from_millis(20));
            }
            sent
        });
        Sender { stop, thread }
    }

    fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load ran to its end")
    }
}

fn command(random: &mut Random, cards: &[String]) -> Command {
    let at = random.below(cards.len());
    let (request, iban, currency) = (random.uuid(), random.iban(), *random.pick(&["USD", "EUR", "GBP"]));
    Command::update(at as i32 % PARTITIONS, &request, &cards[at], &[("IBAN", currency, &iban)])
}

// --- the answers ---

/// Reads completions as they come and holds their sources against the inputs' offsets, with nothing to remember: a partition's
/// commands are answered in their order.
struct Answers {
    reader: Reader,
    topic: String,
    next: Vec<i64>,
}

impl Answers {
    fn new(site: &Site) -> Answers {
        let reader = Reader::new(&site.bootstrap, &site.topics.completions, PARTITIONS);
        Answers { reader, topic: site.topics.commands.clone(), next: vec![0; PARTITIONS as usize] }
    }

    fn take_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let Some(record) = self.reader.poll(Duration::from_millis(20)) else { continue };
            let body = record.value.as_deref().unwrap_or_default();
            assert!(body.windows(13).any(|w| w == br#""status":"ok""#), "every command is valid and new");
            let source = record.header("source").expect("a source");
            let mut parts = source.rsplit('/');
            let (offset, partition) = (parts.next(), parts.next());
            let (offset, partition) = (offset.and_then(|t| t.parse().ok()), partition.and_then(|t| t.parse().ok()));
            let (offset, partition): (i64, usize) = (offset.expect("an offset"), partition.expect("a partition"));
            assert!(source.starts_with(&self.topic), "{source}");
            assert_eq!(
                offset, self.next[partition],
                "partition {partition}: answered twice, not at all, or out of order"
            );
            self.next[partition] += 1;
        }
    }

    fn each_answered_once(&self) -> i64 {
        self.next.iter().sum()
    }
}

// --- what is looked at ---

fn sample(one: &mut Supervised, port: u16, buckets: &mut BTreeMap<u64, f64>) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{}/status", one.worker.pid())).ok()?;
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = rss.trim().trim_end_matches(" kB").parse().ok()?;
    let disk: u64 = files_below(&one.spec.state_dir).iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let text = http::get(port, "/metrics")?.body;
    let lag = values(&text, "card_update_consumer_lag_records{").map(|(_, v)| v).fold(0.0, f64::max);
    let [p50_ms, p99_ms] = latency(&text, buckets);
    Some(Sample { memory_mib: kib / 1024.0, disk_mib: disk as f64 / 1_048_576.0, lag, p50_ms, p99_ms })
}

fn values<'t>(text: &'t str, series: &'t str) -> impl Iterator<Item = (&'t str, f64)> {
    let of = |line: &'t str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name, value.parse().ok()?))
    };
    text.lines().filter(move |l| l.starts_with(series)).filter_map(of)
}

/// Upper bounds of the quantiles of what was committed since the last look.
fn latency(text: &str, former: &mut BTreeMap<u64, f64>) -> [f64; 2] {
    let mut since = BTreeMap::new();
    for (name, count) in values(text, "card_update_command_latency_seconds_bucket{") {
        let bound = name.split("le=\"").nth(1).and_then(|t| t.split('"').next()).and_then(|t| t.parse::<f64>().ok());
        let Some(bound) = bound.filter(|b| b.is_finite() && name.contains("live")) else { continue };
        let micros = (bound * 1e6) as u64;
        // A worker that was started again counts from 0.
        let before = former.insert(micros, count).unwrap_or(0.0);
        since.insert(micros, if count >= before { count - before } else { count });
    }
    let all = since.last_key_value().map_or(0.0, |(_, count)| *count);
    [0.5, 0.99].map(|q| since.iter().find(|(_, n)| **n >= q * all).map_or(0.0, |(micros, _)| *micros as f64 / 1000.0))
}

// --- the report ---

fn report(samples: &[Sample], sent: i64, faults: usize, ends: usize) {
    let minutes = samples.len() as f64 * EVERY.as_secs_f64() / 60.0;
    println!(
        "soak: {sent} commands, each answered once; {faults} faults, {ends} restarts; {minutes:.0} minutes of samples"
    );
    for (name, of) in SERIES {
        let all: Vec<f64> = samples.iter().map(of).collect();
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| sorted.get((q * (sorted.len().max(1) - 1) as f64) as usize).copied().unwrap_or_default();
        println!("{name:>12} {} median {:.1}, most {:.1}", plot(&all), at(0.5), at(1.0));
    }
    let rows = samples.iter().map(|s| SERIES.map(|(_, of)| format!("{:.1}", of(s))).join(","));
    let text = [SERIES.map(|(name, _)| name).join(",")].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.csv");
    fs::write(&path, text + "\n").expect("the samples are written");
    println!("one line in {} s: {}", EVERY.as_secs(), path.display());
}

type Series = (&'static str, fn(&Sample) -> f64);

const SERIES: [Series; 5] = [
    ("memory MiB", |s| s.memory_mib),
    ("disk MiB", |s| s.disk_mib),
    ("lag records", |s| s.lag),
    ("p50 ms", |s| s.p50_ms),
    ("p99 ms", |s| s.p99_ms),
];

/// A line of bars, the highest of each column, 0 at the bottom.
fn plot(all: &[f64]) -> String {
    let most = all.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let columns = all.chunks(all.len().div_ceil(COLUMNS).max(1));
    let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    columns.map(|c| c.iter().copied().fold(0.0, f64::max)).map(|v| bars[(v / most * 7.0).round() as usize]).collect()
}

/// The last quarter is hardly above the second: what grows without end would be.
fn assert_flat(samples: &[Sample]) {
    if samples.len() < ENOUGH {
        println!("too short to tell flat from growing: nothing is held against it");
        return;
    }
    let quarter = samples.len() / 4;
    for (name, of) in &SERIES[..2] {
        let mean = |part: &[Sample]| part.iter().map(of).sum::<f64>() / part.len() as f64;
        let (early, late) = (mean(&samples[quarter..2 * quarter]), mean(&samples[3 * quarter..]));
        assert!(late <= 1.25 * early + 8.0, "{name} grows: {early:.1}, then {late:.1}");
    }
}
