//! How clients are configured. What the guarantees rest on cannot be overridden.

use super::Slot;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::time::Duration;

/// The five topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNames {
    /// Input, live.
    pub commands: String,
    /// Input, replayed history.
    pub backfill: String,
    /// Output, and the log of the dedup memory.
    pub completions: String,
    /// The compacted changelog.
    pub cards: String,
    /// What cannot be answered.
    pub dead_letters: String,
}

impl TopicNames {
    /// All of them: commands, backfill, completions, cards, dead letters.
    pub fn all(&self) -> [&str; 5] {
        [&self.commands, &self.backfill, &self.completions, &self.cards, &self.dead_letters]
    }
}

/// Properties that `kafka.client` may not set: the guarantees rest on them. A trailing `*` stands for any ending.
pub const REFUSED_PROPERTIES: [&str; 12] = [
    "bootstrap.servers",
    "group.id",
    "group.instance.id",
    "transactional.id",
    "enable.idempotence",
    "acks",
    "isolation.level",
    "enable.auto.*",
    "auto.offset.reset",
    "partition.assignment.strategy",
    "delivery.report.only.error",
    "message.max.bytes",
];

/// Further names of refused properties, and aliases that librdkafka knows for them.
pub(super) const REFUSED_ALIASES: [&str; 6] = [
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "request.required.acks",
    "metadata.broker.list",
    "enable.partition.eof",
    "group.protocol",
];

/// What every client needs to know.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `kafka.bootstrap_servers`.
    pub bootstrap_servers: String,
    /// `kafka.group_id`.
    pub group_id: String,
    /// `kafka.client`: some are secrets, and no one need know which.
    pub client: BTreeMap<String, SecretString>,
    /// The topics.
    pub topics: TopicNames,
    /// Largest record batch that all output topics take, bytes.
    pub batch_bytes: usize,
}

/// Who a loop is in the group and to the transaction coordinator.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Static membership, when `worker.instance_id` is set.
    pub group_instance_id: Option<String>,
    /// Stable over restarts: `init_transactions` then aborts what a former life left open.
    pub transactional_id: String,
}

/// The session time-out of the group and the time-out of transactions.
const SESSION_TIMEOUT_MS: &str = "10000";

/// How often a member tells that it lives, and learns that the group is rebalancing: by default (3 s) a second loop waited 6 s for its
/// partitions, two rounds of it.
const HEARTBEAT_MS: &str = "500";

/// How long a request may go unanswered before its connection is given up: the only way in which one is noticed that stays open
/// and carries nothing any more. By default (60 s) each client in turn would wait that long.
const SOCKET_TIMEOUT_MS: &str = "10000";

/// The same for clients that fetch: an answer of 16 MiB must come within it, also over a link of a megabyte a second.
const FETCH_TIMEOUT_MS: &str = "20000";

/// The longest pause before a connection is tried again; by default it grows to 10 s where connections are cut repeatedly.
const RECONNECT_MAX_MS: &str = "1000";

/// How long clients keep a connection that they do not use; the broker's own limit is minutes.
const IDLE_MS: &str = "20000";

/// Records of a partition that a loop's client fetches ahead. Measured: more cost memory and save nothing.
const LOOP_QUEUE: &str = "5000";

/// The same of a client that reads logs for a restore, which takes them in faster.
const READER_QUEUE: &str = "20000";

/// How often clients of loops tell their figures: well within a scrape's usual 15 s.
const STATISTICS_MS: &str = "5000";

impl ClientSettings {
    /// Whether `kafka.client` may set this property.
    pub fn may_set(property: &str) -> bool {
        !REFUSED_PROPERTIES.iter().chain(&REFUSED_ALIASES).any(|refused| match refused.strip_suffix('*') {
            Some(start) => property.starts_with(start),
            None => property == *refused,
        })
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "card-update-worker")
            .set("socket.nagle.disable", "true")
            .set("socket.timeout.ms", SOCKET_TIMEOUT_MS)
            .set("log.connection.close", "false");
        // A longest pause below the first one that is configured would be refused.
        if !self.client.keys().any(|name| name.starts_with("reconnect.backoff")) {
            config.set("reconnect.backoff.max.ms", RECONNECT_MAX_MS);
        }
        for (name, value) in &self.client {
            config.set(name, value.expose_secret());
        }
        config
    }

    /// A client that asks now and then: it keeps no connection that nobody uses, and so does not find it dead when it asks.
    fn asking(&self) -> ClientConfig {
        let mut config = self.base();
        self.default_to(&mut config, "connections.max.idle.ms", IDLE_MS);
        config
    }

    /// A client for requests that belong to no loop.
    pub fn admin(&self) -> ClientConfig {
        self.asking()
    }

    /// A loop's group consumer. read_committed also makes the client ask for stable offsets only.
    pub fn consumer(&self, identity: &Identity) -> ClientConfig {
        let mut config = self.base();
        config
            .set("group.id", &self.group_id)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            // Never on: after an end-of-partition event out of a batch the client's position is one ahead, and the next rebalance
            // of the group makes it go on from there, over a record that nobody has seen.
            .set("enable.partition.eof", "false")
            .set("statistics.interval.ms", STATISTICS_MS);
        if let Some(id) = &identity.group_instance_id {
            config.set("group.instance.id", id);
        }
        self.default_to(&mut config, "heartbeat.interval.ms", HEARTBEAT_MS);
        self.fetching(&mut config, LOOP_QUEUE);
        config
    }

    /// The default back-off starves a fast worker for a second. A partition's part of an answer holds the largest batch that a topic takes by
    /// default: of what is larger a broker sends one partition's only.
    fn fetching(&self, config: &mut ClientConfig, queued_min: &str) {
        for (name, value) in [
            ("queued.min.messages", queued_min),
            ("queued.max.messages.kbytes", "65536"),
            ("fetch.queue.backoff.ms", "2"),
            ("fetch.message.max.bytes", "1048588"),
            ("fetch.max.bytes", "16777216"),
            ("fetch.wait.max.ms", "50"),
            ("socket.timeout.ms", FETCH_TIMEOUT_MS),
        ] {
            self.default_to(config, name, value);
        }
    }

    fn default_to(&self, config: &mut ClientConfig, name: &str, value: &str) {
        if !self.client.contains_key(name) {
            config.set(name, value);
        }
    }

    /// A loop's transactional producer. A commit flushes at once, so a short linger would only cut batches up.
    pub fn producer(&self, identity: &Identity) -> ClientConfig {
        let mut config = self.base();
        config
            .set("transactional.id", &identity.transactional_id)
            .set("transaction.timeout.ms", SESSION_TIMEOUT_MS)
            .set("delivery.report.only.error", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            .set("message.max.bytes", "1000000000")
            .set("batch.size", self.batch_bytes.to_string());
        for (name, value) in [
            ("compression.type", "lz4"),
            ("linger.ms", "1000"),
            ("batch.num.messages", "100000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "1048576"),
            ("retry.backoff.ms", "2"),
            ("retry.backoff.max.ms", "50"),
        ] {
            self.default_to(&mut config, name, value);
        }
        config
    }

    /// Asks for true end offsets.
    pub fn uncommitted(&self) -> ClientConfig {
        let mut config = self.asking();
        config
            .set("group.id", &self.group_id)
            .set("isolation.level", "read_uncommitted")
            .set("enable.auto.commit", "false");
        config
    }

    /// Asks for stable committed offsets without joining the group.
    pub fn stable_offsets(&self) -> ClientConfig {
        let mut config = self.asking();
        config
            .set("group.id", &self.group_id)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false");
        config
    }

    /// Reads changelogs from explicit offsets and says where they end.
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.asking();
        config
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        self.fetching(&mut config, READER_QUEUE);
        config
    }

    /// Produces as an upstream does: the partitioner is that of Java clients.
    pub fn upstream(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("partitioner", "murmur2_random").set("enable.idempotence", "true").set("linger.ms", "5");
        self.default_to(&mut config, "compression.type", "lz4");
        config
    }
}

/// What the client has to say goes to the log; it never holds payloads.
#[derive(Clone, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ConsumerContext for Quiet {}

pub(super) fn log_client(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "Kafka client");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "Kafka client"),
        _ => tracing::debug!(facility, message, "Kafka client"),
    }
}

/// How long calls may take; each is watched for overstaying.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs a watched call.
pub fn watched<T>(slot: &Slot, what: &'static str, timeout: Duration, call: impl FnOnce() -> T) -> T {
    let _guard = slot.enter(what, timeout);
    call()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ClientSettings {
        let topic = |name: &str| name.to_owned();
        ClientSettings {
            bootstrap_servers: "localhost:9092".into(),
            group_id: "g".into(),
            client: BTreeMap::new(),
            topics: TopicNames {
                commands: topic("in"),
                backfill: topic("back"),
                completions: topic("out"),
                cards: topic("cards"),
                dead_letters: topic("dead"),
            },
            batch_bytes: 1,
        }
    }

    #[test]
    fn what_the_guarantees_rest_on_is_set() {
        let identity = Identity { group_instance_id: None, transactional_id: "t".into() };
        let consumer = settings().consumer(&identity);
        for (name, value) in [
            ("enable.partition.eof", "false"),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "error"),
        ] {
            assert_eq!(consumer.get(name), Some(value), "{name}");
        }
        for refused in ["enable.partition.eof", "isolation.level", "acks", "enable.auto.offset.store", "group.protocol"]
        {
            assert!(!ClientSettings::may_set(refused), "{refused}");
        }
    }
}
