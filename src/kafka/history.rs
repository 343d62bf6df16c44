//! Reading ranges of any topic, committed records only, without a group: what is replayed, and the answers to it.

use super::error::{GRANT, fault, is_denied};
use super::offsets::{bounds, offset_at};
use super::raw::{RawReader, ReadEvent};
use super::settings::{Quiet, REQUEST_TIMEOUT};
use super::{ClientSettings, Fault, Record};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::time::Duration;

/// What the reading of a topic met.
pub enum HistoryStep {
    /// A committed record.
    Record(Record),
    /// The end of a partition as of now: the next offset, over whatever holds no record for this reader.
    End(i32, i64),
}

/// A reader of one topic.
pub struct History {
    topic: String,
    reader: RawReader<Quiet>,
    partitions: i32,
}

impl History {
    /// Opens a topic; `None` when there is no such topic.
    pub fn open(settings: &ClientSettings, topic: &str) -> Result<Option<Self>, Fault> {
        let make = || settings.reader().create_with_context::<Quiet, BaseConsumer<Quiet>>(Quiet);
        let consumer = make().map_err(|e| fault("a reader cannot be made", &e))?;
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|e| fault("no broker answers", &e))?;
        let partitions =
            metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len() as i32);
        if partitions == 0 {
            return Ok(None);
        }
        let reader = RawReader::new(consumer, &[topic]).ok_or_else(|| Fault::Fatal("no memory for a reader".into()))?;
        Ok(Some(Self { topic: topic.to_owned(), reader, partitions }))
    }

    /// How many partitions the topic has.
    pub const fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// First offset of a partition, and the offset after its last committed record.
    pub fn bounds(&self, partition: i32) -> Result<(i64, i64), Fault> {
        bounds(self.reader.consumer(), &self.topic, partition)
            .map_err(|e| fault(&format!("the bounds of {} partition {partition}", self.topic), &e))
    }

    /// The first offset whose record is not older than `at_ms`; `None` when all are.
    pub fn offset_at(&self, partition: i32, at_ms: i64) -> Result<Option<i64>, Fault> {
        offset_at(self.reader.consumer(), &self.topic, partition, at_ms)
            .map_err(|e| fault(&format!("an offset of {} by time", self.topic), &e))
    }

    /// Starts to read a partition.
    pub fn start(&self, partition: i32, offset: i64) -> Result<(), Fault> {
        if self.reader.start(0, partition, offset) {
            return Ok(());
        }
        Err(Fault::Retry(format!("{} partition {partition} cannot be read", self.topic)))
    }

    /// Ends reading a partition.
    pub fn stop(&self, partition: i32) {
        self.reader.stop(0, partition);
    }

    /// Up to `most` ≥ 1 steps, waiting up to `wait` for the first; the first fault after them.
    pub fn read(&mut self, wait: Duration, most: usize, mut each: impl FnMut(HistoryStep)) -> Result<(), Fault> {
        let topic = &self.topic;
        let mut failed = None;
        self.reader.take(wait.as_millis() as i32, most, |ReadEvent { message, .. }| {
            let partition = message.partition();
            match message.error() {
                None => each(HistoryStep::Record(Record::new(message))),
                Some(Code::PartitionEOF) => each(HistoryStep::End(partition, message.offset())),
                Some(code) => failed = failed.take().or_else(|| read_fault(topic, partition, code)),
            }
        });
        failed.map_or(Ok(()), Err)
    }
}

/// What an error in a topic's stream demands; `None` where the client goes on by itself.
fn read_fault(topic: &str, partition: i32, code: Code) -> Option<Fault> {
    match code {
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Some(Fault::Fatal(format!(
            "{topic} partition {partition}: records were deleted while they were read (retention is overtaking); {code}"
        ))),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Some(Fault::Fatal(format!("{topic} partition {partition} is gone: {code}")))
        }
        _ if is_denied(code) => Some(Fault::Fatal(format!(
            "{topic} partition {partition} cannot be read: {code}; grant Read on it; {GRANT}"
        ))),
        _ => {
            tracing::debug!(partition, %code, "a partition cannot be fetched for now");
            None
        }
    }
}
