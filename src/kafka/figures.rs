//! What the clients of the loops say of themselves (librdkafka's statistics), reduced to a few figures for metrics.
//!
//! It must never keep what grows with partitions or brokers.

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Which of a loop's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientKind {
    /// The group consumer.
    Consumer,
    /// The transactional producer.
    Producer,
}

impl ClientKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Consumer, Self::Producer];

    /// The label's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Producer => "producer",
        }
    }
}

/// Figures of a client as of its last statistics; of several clients, their sums and greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Records that wait in the client.
    pub queue_records: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// The greatest 99th percentile of a broker's round trips in the last interval, seconds.
    pub rtt_seconds: f64,
    /// The fewest brokers that a client is connected to.
    pub brokers_up: u64,
    /// Requests that could not be sent, responses that could not be read, requests that timed out, since the process started.
    pub errors: [u64; 3],
}

impl Gauges {
    /// The label's values of [`Gauges::errors`].
    pub const ERRORS: [&'static str; 3] = ["transmit", "receive", "timeout"];
}

#[derive(Clone, Copy, Default)]
struct Client {
    now: Gauges,
    /// Errors of the clients that stood here before.
    before: [u64; 3],
    heard: bool,
}

type Clients = BTreeMap<(ClientKind, String), Client>;

/// The figures of all loops' clients.
#[derive(Clone, Default)]
pub struct Figures(Arc<Mutex<Clients>>);

/// Where one client's figures go.
#[derive(Clone)]
pub struct ClientFigures {
    figures: Figures,
    key: (ClientKind, String),
}

impl Figures {
    /// A place for one client; `name` tells it from the other loops'.
    pub fn client(&self, kind: ClientKind, name: &str) -> ClientFigures {
        ClientFigures { figures: self.clone(), key: (kind, name.to_owned()) }
    }

    /// The figures of a kind, over all loops.
    pub fn of(&self, kind: ClientKind) -> Gauges {
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Gauges::default();
        let mut fewest = None;
        for client in clients.iter().filter(|((k, _), _)| *k == kind).map(|(_, client)| client) {
            sum.queue_records += client.now.queue_records;
            sum.queue_bytes += client.now.queue_bytes;
            sum.rtt_seconds = sum.rtt_seconds.max(client.now.rtt_seconds);
            for ((total, before), now) in sum.errors.iter_mut().zip(client.before).zip(client.now.errors) {
                *total += before + now;
            }
            if client.heard {
                fewest = Some(fewest.unwrap_or(u64::MAX).min(client.now.brokers_up));
            }
        }
        sum.brokers_up = fewest.unwrap_or(0);
        sum
    }
}

impl ClientFigures {
    /// Takes a client's statistics; what cannot be read changes nothing.
    pub fn take(&self, statistics: &[u8]) {
        let Ok(read) = serde_json::from_slice::<Statistics>(statistics) else {
            tracing::debug!("the client's statistics cannot be read");
            return;
        };
        let mut clients = self.figures.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(self.key.clone()).or_default();
        (client.now, client.heard) = (read.gauges(), true);
    }

    /// The client was replaced: a new one counts from 0.
    pub fn made_anew(&self) {
        let mut clients = self.figures.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(self.key.clone()).or_default();
        client.before.iter_mut().zip(client.now.errors).for_each(|(before, now)| *before += now);
        (client.now, client.heard) = (Gauges::default(), false);
    }
}

/// The part of librdkafka's STATISTICS.md that is shown.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Statistics {
    msg_cnt: u64,
    msg_size: u64,
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Broker {
    nodeid: i64,
    state: String,
    source: String,
    txerrs: u64,
    rxerrs: u64,
    req_timeouts: u64,
    rtt: Window,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Window {
    /// Microseconds.
    p99: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Topic {
    partitions: HashMap<String, Partition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Partition {
    fetchq_cnt: u64,
    fetchq_size: u64,
}

impl Statistics {
    fn gauges(&self) -> Gauges {
        let mut gauges = Gauges { queue_records: self.msg_cnt, queue_bytes: self.msg_size, ..Gauges::default() };
        // A topic's partitions share the loop's one queue, and each tells the length of that.
        for topic in self.topics.values() {
            gauges.queue_records += topic.partitions.values().map(|p| p.fetchq_cnt).max().unwrap_or(0);
            gauges.queue_bytes += topic.partitions.values().map(|p| p.fetchq_size).max().unwrap_or(0);
        }
        for broker in self.brokers.values() {
            gauges.rtt_seconds = gauges.rtt_seconds.max(broker.rtt.p99 as f64 / 1e6);
            // Bootstrap addresses carry no node id, and the coordinators' connections stand for brokers that are counted.
            let counts = broker.nodeid >= 0 && broker.source != "logical";
            gauges.brokers_up += u64::from(counts && broker.state == "UP");
            for (total, errors) in gauges.errors.iter_mut().zip([broker.txerrs, broker.rxerrs, broker.req_timeouts]) {
                *total += errors;
            }
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = br#"{ "name": "x", "msg_cnt": 3, "msg_size": 300, "brokers": {
        "a:9092/1": { "nodeid": 1, "state": "UP", "txerrs": 2, "rxerrs": 0, "req_timeouts": 1, "rtt": { "p99": 1500 } },
        "b:9092/bootstrap": { "nodeid": -1, "state": "UP", "rtt": { "p99": 900 } },
        "GroupCoordinator": { "nodeid": 1, "state": "UP", "source": "logical" },
        "c:9092/2": { "nodeid": 2, "state": "TRY_CONNECT", "txerrs": 5 } },
        "topics": { "t": { "partitions": { "0": { "fetchq_cnt": 4, "fetchq_size": 400 },
            "1": { "fetchq_cnt": 4, "fetchq_size": 400 }, "-1": {} } } } }"#;

    #[test]
    fn statistics_are_summed_over_loops_and_errors_survive_a_new_client() {
        let figures = Figures::default();
        let (one, two) =
            (figures.client(ClientKind::Producer, "loop-0"), figures.client(ClientKind::Producer, "loop-1"));
        one.take(ONE);
        two.take(ONE);
        let sum = figures.of(ClientKind::Producer);
        assert_eq!((sum.queue_records, sum.queue_bytes, sum.brokers_up), (14, 1400, 1));
        assert_eq!((sum.rtt_seconds, sum.errors), (0.0015, [14, 0, 2]));
        one.made_anew();
        assert_eq!(figures.of(ClientKind::Producer).errors, [14, 0, 2]);
        one.take(ONE);
        assert_eq!(figures.of(ClientKind::Producer).errors, [21, 0, 3]);
        one.take(b"not json");
        assert_eq!(figures.of(ClientKind::Producer).errors, [21, 0, 3]);
        assert_eq!(figures.of(ClientKind::Consumer), Gauges::default());
    }
}
