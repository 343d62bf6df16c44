//! Topics as they are: ids, partitions and settings; and making the ones that are missing.

use super::error::fault;
use super::raw::{describe_topics, list_ends};
use super::settings::{Quiet, REQUEST_TIMEOUT, log_client};
use super::{ClientSettings, Fault};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use super::raw::{LogPlace, TopicDescription};

/// What to look at when nobody answers.
const NO_BROKER: &str = "no broker answers; check kafka.bootstrap_servers and kafka.client (TLS, SASL)";

/// A partition without a leader holds the question up: it is asked again soon.
const ENDS_TIMEOUT: Duration = Duration::from_secs(4);

/// A topic's settings by name.
pub type TopicSettings = BTreeMap<String, String>;

/// A topic to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; −1 for the broker's default.
    pub replication: i32,
    /// Settings beside the broker's defaults.
    pub settings: TopicSettings,
}

/// What may be wrong with a broker's certificate.
const CERTIFICATE: &str =
    " (the certificate has expired, is for another name, or is not of an authority in ssl.ca.location)";

/// How long a client is listened to for why it has no connection.
const LISTEN: Duration = Duration::from_secs(3);

/// Keeps what a client says of why it has no connection.
#[derive(Clone, Default)]
struct Listening(Arc<Mutex<Option<String>>>);

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down follows from each one's own reason.
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl ConsumerContext for Listening {}

/// Why no broker answers, in the client's words. A question that nobody answers does not tell, and an administrator's client
/// shows its errors to nobody: one that is polled does.
fn why_not(settings: &ClientSettings) -> Option<String> {
    let heard = Listening::default();
    let client: BaseConsumer<Listening> = settings.uncommitted().create_with_context(heard.clone()).ok()?;
    let deadline = Instant::now() + LISTEN;
    while Instant::now() < deadline {
        client.poll(Duration::from_millis(100));
        let reason = heard.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if reason.is_some() {
            return reason;
        }
    }
    None
}

/// A client for questions about topics.
pub struct TopicsClient {
    admin: AdminClient<Quiet>,
    settings: ClientSettings,
}

impl TopicsClient {
    /// Makes the client; it connects when first asked.
    pub fn new(settings: &ClientSettings) -> Result<Self, Fault> {
        let admin = settings.admin().create_with_context(Quiet).map_err(|e| fault("the client cannot be made", &e))?;
        Ok(Self { admin, settings: settings.clone() })
    }

    /// The cluster's id; an error when no broker answers.
    pub fn cluster_id(&self) -> Result<String, Fault> {
        let client = self.admin.inner();
        client.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|e| fault(&self.no_broker(), &e))?;
        client.fetch_cluster_id(REQUEST_TIMEOUT).ok_or_else(|| Fault::Retry("the cluster does not tell its id".into()))
    }

    /// That nobody answers, with the client's own reason where it gives one.
    fn no_broker(&self) -> String {
        let Some(reason) = why_not(&self.settings) else { return NO_BROKER.to_owned() };
        // The client tells no more of a certificate than this.
        let hint = if reason.contains("certificate verify failed") { CERTIFICATE } else { "" };
        format!("{NO_BROKER}; {reason}{hint}")
    }

    /// Describes topics in the order given; a missing one is `None`.
    pub fn describe(&self, names: &[&str]) -> Result<Vec<Option<TopicDescription>>, Fault> {
        let described = describe_topics(self.admin.inner().native_ptr(), names, REQUEST_TIMEOUT)
            .map_err(|code| Fault::Retry(format!("{NO_BROKER}: {code}")))?;
        let mut topics: BTreeMap<String, TopicDescription> = BTreeMap::new();
        for topic in described {
            match topic {
                Ok(topic) => drop(topics.insert(topic.name.clone(), topic)),
                Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {}
                Err(code @ Code::TopicAuthorizationFailed) => {
                    return Err(Fault::Fatal(format!(
                        "a topic may not be described: {code}; grant DESCRIBE on the five topics"
                    )));
                }
                Err(code) => return Err(Fault::Retry(format!("a topic cannot be described: {code}"))),
            }
        }
        Ok(names.iter().map(|name| topics.remove(*name)).collect())
    }

    /// The ends of logs, as a client of this isolation level sees them, in one request a broker; what a log's leader does not
    /// say is left out.
    pub fn ends(&self, logs: &[LogPlace<'_>], read_committed: bool) -> Result<Vec<(String, i32, i64)>, Fault> {
        if logs.is_empty() {
            return Ok(Vec::new());
        }
        list_ends(self.admin.inner().native_ptr(), logs, read_committed, ENDS_TIMEOUT)
            .map_err(|code| Fault::Retry(format!("the ends of the logs cannot be read: {code}")))
    }

    /// The settings of topics, in the order given.
    pub async fn settings(&self, names: &[&str]) -> Result<Vec<TopicSettings>, Fault> {
        // The broker takes a question about nothing for a mistake.
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let found = self.admin.describe_configs(&resources, &options).await;
        let found = found.map_err(|e| fault("the topics' settings cannot be read", &e))?;
        found
            .into_iter()
            .map(|resource| {
                let resource =
                    resource.map_err(|code| Fault::Fatal(format!("a topic's settings cannot be read: {code}")))?;
                // rdkafka does not tell an error of one topic: it comes as no settings at all, which no topic has.
                if resource.entries.is_empty() {
                    return Err(Fault::Fatal(
                        "a topic's settings cannot be read: grant DescribeConfigs on the five topics".into(),
                    ));
                }
                Ok(resource.entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect())
            })
            .collect()
    }

    /// Deletes the records of a topic's partitions before these offsets.
    pub async fn trim(&self, topic: &str, before: &[(i32, i64)]) -> Result<(), Fault> {
        if before.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for (partition, offset) in before {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|e| fault("an offset cannot be used", &e))?;
        }
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let trimmed = self.admin.delete_records(&list, &options).await;
        let trimmed = trimmed.map_err(|e| fault(&format!("{topic} cannot be trimmed"), &e))?;
        let mut errors = trimmed.elements().into_iter().filter_map(|e| e.error().err());
        errors.next().map_or(Ok(()), |e| Err(fault(&format!("{topic} cannot be trimmed"), &e)))
    }

    /// How long the brokers keep the offsets of a group that nobody is in, milliseconds; `None` when they do not say.
    pub async fn offsets_retention_ms(&self) -> Option<i64> {
        let metadata = self.admin.inner().fetch_metadata(None, REQUEST_TIMEOUT).ok()?;
        let broker = metadata.brokers().first()?.id();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let found = self.admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &options).await.ok()?;
        let entries = found.into_iter().next()?.ok()?.entries;
        let value = entries.into_iter().find(|e| e.name == "offsets.retention.minutes")?.value?;
        value.parse::<i64>().ok().map(|minutes| minutes * 60_000)
    }

    /// Makes topics.
    pub async fn create(&self, topics: &[NewTopicSpec]) -> Result<(), Fault> {
        let new: Vec<_> = topics
            .iter()
            .map(|spec| {
                let replication = TopicReplication::Fixed(spec.replication);
                let new = NewTopic::new(&spec.name, spec.partitions, replication);
                spec.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
        let made = self.admin.create_topics(&new, &options).await;
        for result in made.map_err(|e| fault("topics cannot be made", &e))? {
            result.map_err(|(name, code)| Fault::Fatal(format!("topic {name} cannot be made: {code}")))?;
        }
        Ok(())
    }
}
