//! Latency at a steady pace, open loop: from the moment a command is due to the moment its completion can be read. A sender that is
//! late counts against the contestant, since an upstream would wait too.

use crate::load;
use crate::support::Site;
use crate::workload::Workload;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Commands at the start that are not counted.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the command's number stands in a completion: the last twelve hex digits of `{"request_id":"…`.
const NUMBER: std::ops::Range<usize> = 39..51;

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Sends commands with numbers from `first` on, and waits for all their answers.
pub fn measure(site: &Site, workload: &Workload, first: u64, rate: u64, seconds: u64) -> Latency {
    let reader = reader(site);
    let count = (WARM_UP.as_secs() + seconds) * rate;
    let started = Instant::now();
    let due = |i: u64| Duration::from_secs_f64(i as f64 / rate as f64);
    let mut answered: Vec<Option<Duration>> = vec![None; count as usize];
    // Repeated commands have the numbers of the first ones: they are told apart by their order.
    let mut open: Vec<(u64, u64)> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let producer = load::producer(site, 0);
            for i in 0..count {
                // The pace is the load, and waits for nothing.
                std::thread::sleep(due(i).saturating_sub(started.elapsed()));
                load::send_one(&producer, site, workload, first + i);
                producer.poll(Duration::ZERO);
            }
            producer.flush(PATIENCE).unwrap();
        });
        let mut next = 0;
        while answered.iter().any(Option::is_none) {
            assert!(started.elapsed() < due(count) + PATIENCE, "all commands are answered");
            let Some(Ok(message)) = reader.poll(Duration::from_millis(20)) else { continue };
            let at = started.elapsed();
            while next < count && due(next) <= at {
                open.push((number_of(workload, first + next), next));
                next += 1;
            }
            let number =
                message.payload().and_then(|p| u64::from_str_radix(std::str::from_utf8(&p[NUMBER]).ok()?, 16).ok());
            // A copy loop answers in the order of the commands of a partition, with no id of its own.
            let found = open.iter().position(|(n, _)| Some(*n) == number).unwrap_or(0);
            if open.is_empty() {
                continue;
            }
            let (_, i) = open.remove(found);
            answered[i as usize] = Some(at.saturating_sub(due(i)));
        }
    });
    let skipped = (WARM_UP.as_secs() * rate) as usize;
    let mut ms: Vec<f64> = answered[skipped..].iter().flatten().map(|d| d.as_secs_f64() * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    let quantile = |q: f64| ms[((ms.len() - 1) as f64 * q) as usize];
    Latency { p50_ms: quantile(0.5), p99_ms: quantile(0.99), max_ms: quantile(1.0) }
}

fn number_of(workload: &Workload, number: u64) -> u64 {
    if workload.different == 0 { number } else { number % workload.different }
}

/// Reads completions from their ends on, committed ones only.
fn reader(site: &Site) -> BaseConsumer {
    let topic = &site.topics.completions;
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &site.bootstrap)
        .set("group.id", "card-update-e2e-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for (partition, end) in (0..).zip(site.admin.ends(topic, site.partitions)) {
        list.add_partition_offset(topic, partition, Offset::Offset(end)).unwrap();
    }
    reader.assign(&list).unwrap();
    reader
}
