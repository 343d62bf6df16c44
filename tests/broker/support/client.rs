//! Owns the tests' own Kafka clients: a producer that sends exactly what it is told and learns the offsets, and whole-topic readers.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::model::Command;

/// The settings every client of the tests has.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("log_level", "2");
    config
}

/// Collects where each record went.
pub struct Delivered(Mutex<Vec<Option<Result<i64, String>>>>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0.lock().unwrap()[index] = Some(outcome);
    }
}

/// Sends commands to one topic, in order, to the partitions they name.
pub struct Producer {
    inner: ThreadedProducer<Delivered>,
    topic: String,
    next: usize,
}

impl Producer {
    /// An idempotent producer with LZ4.
    pub fn new(bootstrap: &str, topic: &str) -> Producer {
        Self::with(bootstrap, topic, &[])
    }

    /// The same with other client settings.
    pub fn with(bootstrap: &str, topic: &str, settings: &[(&str, &str)]) -> Producer {
        let mut config = config(bootstrap);
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "50000000")
            .set("queue.buffering.max.messages", "1000000");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        let inner = config.create_with_context(Delivered(Mutex::new(Vec::new()))).expect("a producer");
        Producer { inner, topic: topic.to_string(), next: 0 }
    }

    /// Sends all, waits for their acknowledgements and fills in the offsets.
    pub fn send(&mut self, mut commands: Vec<Command>) -> Vec<Command> {
        let outcomes = self.deliver(&commands);
        for (command, outcome) in commands.iter_mut().zip(outcomes) {
            command.offset = outcome.expect("the record is stored");
        }
        commands
    }

    /// The same beside a broker that may die: one whose outcome the client does not know keeps the offset -1.
    pub fn send_beside_faults(&mut self, mut commands: Vec<Command>) -> Vec<Command> {
        let outcomes = self.deliver(&commands);
        for (command, outcome) in commands.iter_mut().zip(outcomes) {
            command.offset = outcome.unwrap_or(-1);
        }
        commands
    }

    fn deliver(&mut self, commands: &[Command]) -> Vec<Result<i64, String>> {
        let first = self.next;
        for command in commands {
            self.enqueue(command);
        }
        self.inner.flush(Duration::from_secs(60)).expect("all records end in a delivery report");
        let delivered = self.inner.context().0.lock().unwrap();
        delivered[first..].iter().map(|outcome| outcome.clone().expect("a delivery report")).collect()
    }

    /// For transactions: the librdkafka producer itself.
    pub fn transactions(&self) -> &ThreadedProducer<Delivered> {
        &self.inner
    }

    fn enqueue(&mut self, command: &Command) {
        let index = self.next;
        self.next += 1;
        self.inner.context().0.lock().unwrap().push(None);
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.topic, index).partition(command.partition).timestamp(command.timestamp);
        record.key = command.key.as_deref();
        record.payload = command.value.as_deref();
        if !command.headers.is_empty() {
            record = record.headers(owned_headers(&command.headers));
        }
        loop {
            record = match self.inner.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((error, _)) => panic!("cannot produce: {error}"),
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn owned_headers(headers: &[(String, Option<Vec<u8>>)]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: value.as_ref() }))
}

/// A record as read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Partition number.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Milliseconds since the epoch, if it has a time.
    pub timestamp: Option<i64>,
    /// Key as it is.
    pub key: Option<Vec<u8>>,
    /// Value as it is.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn from(message: &BorrowedMessage<'_>) -> Record {
        let headers =
            message.headers().map(|all| all.iter().map(|h| (h.key.to_string(), h.value.map(<[u8]>::to_vec))).collect());
        Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    /// The text of a header that stands exactly once, else `None`.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        let one = found.next().filter(|_| found.next().is_none())?;
        std::str::from_utf8(one.1.as_deref()?).ok()
    }

    /// Whether this is what was sent, whatever its offset.
    pub fn is(&self, sent: &Command) -> bool {
        let time = (sent.timestamp >= 0).then_some(sent.timestamp);
        let same_time = time.is_none() || time == self.timestamp;
        (self.partition, &self.key, &self.value) == (sent.partition, &sent.key, &sent.value)
            && same_time
            && self.headers == sent.headers
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().expect("a value")).expect("a value that is JSON")
    }
}

/// A read_committed reader of whole partitions, from their start.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
}

impl Reader {
    /// Starts at the beginning of every partition.
    pub fn new(bootstrap: &str, topic: &str, partitions: i32) -> Reader {
        let consumer: BaseConsumer = config(bootstrap)
            .set("group.id", "card-update-tests-reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "50")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("an assignment");
        Reader { consumer, topic: topic.to_string(), partitions }
    }

    /// What arrives within `wait`, at once if something is there.
    pub fn poll(&self, wait: Duration) -> Option<Record> {
        match self.consumer.poll(wait)? {
            Ok(message) => Some(Record::from(&message)),
            Err(KafkaError::PartitionEOF(_)) => None,
            Err(error) if passes(&error) => None,
            Err(error) => panic!("reading {}: {error}", self.topic),
        }
    }

    /// Everything up to the end of every partition.
    pub fn read_to_end(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.each_to_end(|record| records.push(record));
        records.sort_by_key(|r| (r.partition, r.offset));
        records
    }

    /// Everything up to the end of every partition; the end is told by an event, so transaction markers do not matter.
    pub fn each_to_end(&self, mut f: impl FnMut(Record)) {
        let mut ended = vec![false; self.partitions as usize];
        let mut deadline = Instant::now() + Duration::from_secs(60);
        while ended.iter().any(|e| !e) {
            assert!(Instant::now() < deadline, "no end of {} within a minute", self.topic);
            match self.consumer.poll(Duration::from_millis(200)) {
                None => continue,
                Some(Ok(message)) => f(Record::from(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => ended[partition as usize] = true,
                Some(Err(error)) if passes(&error) => continue,
                Some(Err(error)) => panic!("reading {}: {error}", self.topic),
            }
            deadline = Instant::now() + Duration::from_secs(60);
        }
    }
}

/// A broker is away; the client goes on by itself when it is back.
fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut))
}
