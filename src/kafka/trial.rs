//! A transaction that does all that the worker's transactions do and is aborted: it shows missing rights and a wrong clock.
//!
//! While it is open, readers of partition 0 and restores of it wait, as behind any transaction: some milliseconds, or its time-out
//! when the process is killed in between.
//!
//! It must never change anything: its records are invisible to readers of committed records, its offsets the committed ones
//! where there are any, and nothing of it is ever committed.

use super::error::fault;
use super::settings::{Quiet, REQUEST_TIMEOUT, log_client};
use super::{ClientSettings, Fault, Identity, InputOffsets};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the trial may hold readers up when this process is killed in the middle of it.
const TRIAL_TIMEOUT_MS: &str = "3000";

/// Topics that refused a record, and why.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<(String, Code)>>>);

impl ClientContext for Refusals {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((message.topic().to_owned(), code));
        }
    }
}

/// Runs the trial under a transactional id of its own with the group's prefix; `committed` are the group's offsets as they are.
pub fn try_transaction(settings: &ClientSettings, name: &str, committed: &[(i32, InputOffsets)]) -> Result<(), Fault> {
    let transactional_id = format!("{}-{name}", settings.group_id);
    let identity = Identity { group_instance_id: None, transactional_id };
    let refusals = Refusals::default();
    let producer: BaseProducer<Refusals> = settings
        .producer(&identity)
        .set("transaction.timeout.ms", TRIAL_TIMEOUT_MS)
        .create_with_context(refusals.clone())
        .map_err(|e| fault("the producer cannot be made", &e))?;
    producer.init_transactions(REQUEST_TIMEOUT).map_err(|e| {
        fault(&format!("no transaction can be started under {}-*; grant Write on that prefix", settings.group_id), &e)
    })?;
    producer.begin_transaction().map_err(|e| fault("a transaction cannot begin", &e))?;
    let tried = produce(settings, &producer, &refusals).and_then(|()| offsets(settings, &producer, committed));
    let aborted = producer.abort_transaction(REQUEST_TIMEOUT).map_err(|e| fault("the trial cannot be aborted", &e));
    match (tried, aborted) {
        (Err(tried), Err(aborted)) => Err(Fault::Fatal(format!("{tried}; besides, {aborted}"))),
        (tried, aborted) => tried.and(aborted),
    }
}

fn produce(settings: &ClientSettings, producer: &BaseProducer<Refusals>, refusals: &Refusals) -> Result<(), Fault> {
    let topics = &settings.topics;
    for topic in [&topics.completions, &topics.cards, &topics.dead_letters] {
        let record: BaseRecord<'_, str, [u8]> = BaseRecord::to(topic).partition(0).key("doctor");
        producer.send(record).map_err(|(e, _)| fault(&format!("{topic} cannot be written"), &e))?;
    }
    let flushed = producer.flush(REQUEST_TIMEOUT);
    producer.poll(Duration::ZERO);
    let refused = std::mem::take(&mut *refusals.0.lock().unwrap_or_else(PoisonError::into_inner));
    match refused.first() {
        Some((_, Code::InvalidTimestamp)) => Err(Fault::Fatal(
            "the broker refuses this machine's time: its clock is ahead of the broker's; mend the clock".into(),
        )),
        Some((topic, code)) => Err(Fault::Fatal(format!("{topic} cannot be written: {code}; grant Write on it"))),
        None => flushed.map_err(|e| fault("the output topics cannot be written", &e)),
    }
}

fn offsets(
    settings: &ClientSettings,
    producer: &BaseProducer<Refusals>,
    committed: &[(i32, InputOffsets)],
) -> Result<(), Fault> {
    let mut list = TopicPartitionList::new();
    // One partition tells of the right to all.
    for (partition, offsets) in committed.iter().take(1) {
        let topics = &settings.topics;
        for (topic, offset) in [(&topics.commands, offsets.live), (&topics.backfill, offsets.backfill)] {
            list.add_partition_offset(topic, *partition, Offset::Offset(offset.unwrap_or(0)))
                .map_err(|e| fault("an offset cannot be used", &e))?;
        }
    }
    // The group is not joined: that would take partitions from the workers.
    let consumer: BaseConsumer<Quiet> =
        settings.stable_offsets().create_with_context(Quiet).map_err(|e| fault("the consumer cannot be made", &e))?;
    let group = consumer.group_metadata().ok_or_else(|| Fault::Fatal("the group has no name".into()))?;
    producer
        .send_offsets_to_transaction(&list, &group, REQUEST_TIMEOUT)
        .map_err(|e| fault("offsets cannot be committed; grant Read on the group and on both inputs", &e))
}
