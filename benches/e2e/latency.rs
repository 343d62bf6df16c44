//! Latency at a steady pace, open loop: from the moment a command is due to the moment its completion can be read. A sender that is
//! late counts against the contestant, since an upstream would wait too.

use crate::load;
use crate::support::Site;
use crate::workload::Workload;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Commands at the start that are not counted.
const WARM_UP: Duration = Duration::from_secs(2);
/// Commands a second that may be sent one by one, each in a request of its own: with more of them these would be what is measured.
const SINGLY: u64 = 2000;
/// How long an upstream collects when it sends more.
const LINGER_MS: u32 = 10;
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

/// A command and its answer.
#[derive(Clone, Copy)]
pub struct Answered {
    pub due: Instant,
    pub partition: i32,
    pub after: Duration,
}

impl Latency {
    /// `None` of nothing.
    pub fn of<'a>(answered: impl Iterator<Item = &'a Answered>) -> Option<Self> {
        let mut ms: Vec<f64> = answered.map(|a| a.after.as_secs_f64() * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        let quantile = |q: f64| ms.get((ms.len().saturating_sub(1) as f64 * q) as usize).copied();
        Some(Self { p50_ms: quantile(0.5)?, p99_ms: quantile(0.99)?, max_ms: quantile(1.0)? })
    }
}

/// The latency of commands with numbers from `first` on, without those of a warm-up.
pub fn measure(site: &Site, workload: &Workload, first: u64, rate: u64, seconds: u64) -> Latency {
    let count = (WARM_UP.as_secs() + seconds) * rate;
    let answered = answers(site, workload, first, rate, count);
    Latency::of(answered.iter().skip((WARM_UP.as_secs() * rate) as usize)).unwrap()
}

/// Sends `count` commands with numbers from `first` on, and waits for all their answers.
pub fn answers(site: &Site, workload: &Workload, first: u64, rate: u64, count: u64) -> Vec<Answered> {
    let reader = reader(site);
    let started = Instant::now();
    let due = |i: u64| Duration::from_secs_f64(i as f64 / rate as f64);
    let mut answers = Answers::awaited(workload, first, count);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let producer = load::producer(site, if rate > SINGLY { LINGER_MS } else { 0 });
            for i in 0..count {
                // The pace is the load, and waits for nothing.
                std::thread::sleep(due(i).saturating_sub(started.elapsed()));
                load::send_one(&producer, site, workload, first + i);
                producer.poll(Duration::ZERO);
            }
            producer.flush(PATIENCE).unwrap();
        });
        while answers.missing > 0 {
            assert!(started.elapsed() < due(count) + PATIENCE, "all commands are answered");
            let Some(Ok(message)) = reader.poll(Duration::from_millis(20)) else { continue };
            let number =
                message.payload().and_then(|p| u64::from_str_radix(std::str::from_utf8(&p[NUMBER]).ok()?, 16).ok());
            if let Some(i) = answers.take(number) {
                let (due, partition) = (started + due(i as u64), message.partition());
                let after = due.elapsed();
                answers.answered[i] = Some(Answered { due, partition, after });
            }
        }
    });
    answers.answered.into_iter().flatten().collect()
}

/// What is not answered yet.
struct Answers {
    /// By the order of sending.
    answered: Vec<Option<Answered>>,
    missing: usize,
    /// Repeated commands have the numbers of the first ones: they are told apart by their order.
    by_number: HashMap<u64, VecDeque<usize>>,
    oldest: usize,
}

impl Answers {
    fn awaited(workload: &Workload, first: u64, count: u64) -> Self {
        let mut by_number = HashMap::<u64, VecDeque<usize>>::new();
        (0..count).for_each(|i| by_number.entry(number_of(workload, first + i)).or_default().push_back(i as usize));
        Self { answered: vec![None; count as usize], missing: count as usize, by_number, oldest: 0 }
    }

    /// Which command an answer is to. A copy loop answers in the order of the commands, with no id of its own.
    fn take(&mut self, number: Option<u64>) -> Option<usize> {
        let named = number.and_then(|n| self.by_number.get_mut(&n)?.pop_front());
        while self.answered.get(self.oldest)?.is_some() {
            self.oldest += 1;
        }
        self.missing -= 1;
        Some(named.unwrap_or(self.oldest))
    }
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
