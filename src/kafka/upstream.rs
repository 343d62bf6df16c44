//! The other side of the worker: producing commands as an upstream does, and reading completions.

use super::error::fault;
use super::offsets::bounds;
use super::raw::{RawReader, ReadEvent};
use super::settings::{Quiet, REQUEST_TIMEOUT};
use super::{ClientSettings, Fault, Record};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts what was delivered.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<(u64, Option<String>)>>);

impl rdkafka::ClientContext for Deliveries {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        super::settings::log_client(level, facility, message);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => seen.0 += 1,
            Err((error, _)) => seen.1 = Some(error.to_string()),
        }
    }
}

/// A producer of commands.
pub struct Upstream {
    producer: BaseProducer<Deliveries>,
    deliveries: Deliveries,
    topic: String,
}

/// How long a full queue or a flush may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Upstream {
    /// A producer to a topic.
    pub fn new(settings: &ClientSettings, topic: &str) -> Result<Self, Fault> {
        let deliveries = Deliveries::default();
        let producer = settings.upstream().create_with_context(deliveries.clone());
        let producer = producer.map_err(|e| fault("the producer cannot be made", &e))?;
        Ok(Self { producer, deliveries, topic: topic.to_owned() })
    }

    /// Queues a record; it is sent behind the caller's back until [`Upstream::flush`].
    pub fn send(&self, key: Option<&[u8]>, value: &[u8], headers: &[(&str, &str)]) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        let owned = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_bytes()) }));
        let mut record: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(&self.topic).payload(value).headers(owned);
        if let Some(key) = key {
            record = record.key(key);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, back)) if Instant::now() > deadline => {
                    drop(back);
                    return Err(fault("a command cannot be sent", &error));
                }
                Err((_, back)) => record = back,
            }
            self.producer.poll(Duration::from_millis(10));
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Waits until everything is delivered; gives how many were.
    pub fn flush(&self) -> Result<u64, Fault> {
        self.producer.flush(PATIENCE).map_err(|e| fault("commands were not delivered", &e))?;
        let seen = self.deliveries.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &seen.1 {
            Some(error) => Err(Fault::Fatal(format!("a command was not delivered: {error}"))),
            None => Ok(seen.0),
        }
    }
}

/// Reads what is committed to some topics from now on (or from their start).
pub struct CompletionReader {
    reader: RawReader<Quiet>,
}

/// A record that was read, and the number of its topic.
pub struct Received {
    /// Its topic in the order given.
    pub topic: usize,
    /// The record.
    pub record: Record,
}

impl CompletionReader {
    /// Starts at the topics' ends, or their starts.
    pub fn new(settings: &ClientSettings, topics: &[&str], from_start: bool) -> Result<Self, Fault> {
        let make = || settings.reader().create_with_context::<Quiet, BaseConsumer<Quiet>>(Quiet);
        let consumer = make().map_err(|e| fault("a reader cannot be made", &e))?;
        let reader = RawReader::new(consumer, topics).ok_or_else(|| Fault::Fatal("no memory for a reader".into()))?;
        let mut starts = Vec::new();
        for (number, topic) in topics.iter().enumerate() {
            let metadata = reader.consumer().fetch_metadata(Some(topic), REQUEST_TIMEOUT);
            let metadata = metadata.map_err(|e| fault("no broker answers", &e))?;
            for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
                let bounds = bounds(reader.consumer(), topic, partition.id());
                let (start, end) = bounds.map_err(|e| fault("a topic's end cannot be read", &e))?;
                starts.push((number, partition.id(), if from_start { start } else { end }));
            }
        }
        // On a slow link what is read would hold up an answer that is still asked for.
        for (number, partition, offset) in starts {
            reader.start(number, partition, offset);
        }
        Ok(Self { reader })
    }

    /// What has come, waiting up to `wait` for the first.
    pub fn read(&mut self, wait: Duration, mut each: impl FnMut(Received)) {
        self.reader.take(wait.as_millis() as i32, 1000, |ReadEvent { topic, message }| {
            if message.error().is_none() {
                each(Received { topic, record: Record::new(message) });
            }
        });
    }
}
