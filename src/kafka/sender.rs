//! Sends records with notes on how far the sender is, in one transaction: after a kill at any moment the notes say exactly
//! what was sent.
//!
//! Notes are the metadata of offsets committed for a group that nobody joins. They hold while the group's offsets do
//! (`offsets.retention.minutes` of the broker, 7 days by default, from the last commit on).

use super::error::{GRANT, fault, is_denied, is_fencing};
use super::settings::{Quiet, REQUEST_TIMEOUT, log_client, watched};
use super::{ClientSettings, Fault, Identity, MemoryRecord, Slot};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one transaction may take, its retries included.
const PATIENCE: Duration = Duration::from_secs(60);
/// How the client writes a record without a timestamp.
const NO_TIMESTAMP: i64 = -1;
const LINGER_MS: &str = "5";
/// Pause between two attempts.
const BACK_OFF: Duration = Duration::from_millis(200);

/// A record to send to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The partition.
    pub partition: i32,
    /// The record; without a timestamp it is sent without one.
    pub record: MemoryRecord,
}

/// A note: the partition that it stands under, a number for people who look at the group's offsets, and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The partition.
    pub partition: i32,
    /// Shown as the group's offset.
    pub number: i64,
    /// The text.
    pub text: String,
}

/// Where a record went, or why it was refused.
type Place = Result<i64, Code>;

/// Collects where records went.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Vec<Option<Place>>>>);

impl ClientContext for Delivered {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_client(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
    }
}

impl ProducerContext for Delivered {
    type DeliveryOpaque = usize;
    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        };
        if let Some(place) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *place = Some(outcome);
        }
    }
}

/// Why a transaction did not commit.
enum Failed {
    /// It can be aborted, and tried again.
    Abortable(String),
    /// Nothing that this process tries helps.
    Fatal(Fault),
}

/// A transactional producer of one topic.
pub struct Sender {
    settings: ClientSettings,
    /// A thread of its own serves the reports: without, an abort may wait for them for ever.
    producer: ThreadedProducer<Delivered>,
    delivered: Delivered,
    topic: String,
    /// The client of the group that notes were last written under.
    group: Option<(String, BaseConsumer<Quiet>)>,
    slot: Slot,
}

impl Sender {
    /// Makes the producer. A former one with this id is fenced, and its open transaction aborted, when this returns.
    pub fn start(settings: &ClientSettings, transactional_id: &str, topic: &str, slot: Slot) -> Result<Self, Fault> {
        let delivered = Delivered::default();
        let identity = Identity { group_instance_id: None, transactional_id: transactional_id.to_owned() };
        let producer: ThreadedProducer<Delivered> = settings
            .producer(&identity)
            .set("statistics.interval.ms", "0")
            // rdkafka's flush waits for the linger; a chunk is handed over in some milliseconds.
            .set("linger.ms", LINGER_MS)
            .set("delivery.report.only.error", "false")
            .create_with_context(delivered.clone())
            .map_err(|e| fault("the producer cannot be made", &e))?;
        watched(&slot, "init_transactions", PATIENCE, || producer.init_transactions(PATIENCE))
            .map_err(|e| fault(&format!("no transaction can be started under {transactional_id}"), &e))?;
        Ok(Self { settings: settings.clone(), producer, delivered, topic: topic.to_owned(), group: None, slot })
    }

    fn group(&mut self, group: &str) -> Result<&BaseConsumer<Quiet>, Fault> {
        let client = match self.group.take() {
            Some((name, client)) if name == group => client,
            _ => client_of(&self.settings, group)?,
        };
        Ok(&self.group.insert((group.to_owned(), client)).1)
    }

    /// Sends records and commits the notes with them; gives the records' offsets. What can be tried again is, within a limit.
    pub fn send(&mut self, records: &[Outgoing], group: &str, topic: &str, notes: &[Note]) -> Result<Vec<i64>, Fault> {
        let group = self.group(group)?.group_metadata().ok_or_else(|| Fault::Fatal("no group".into()))?;
        let mut list = TopicPartitionList::new();
        for note in notes {
            let mut element = list.add_partition(topic, note.partition);
            element.set_offset(Offset::Offset(note.number)).map_err(|e| fault("a note cannot be written", &e))?;
            element.set_metadata(&note.text);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.transact(records, &group, &list) {
                Ok(()) => return self.offsets(),
                Err(Failed::Fatal(fault)) => return Err(fault),
                Err(Failed::Abortable(cause)) => {
                    watched(&self.slot, "abort_transaction", PATIENCE, || self.producer.abort_transaction(PATIENCE))
                        .map_err(|e| fault("a transaction cannot be aborted", &e))?;
                    if Instant::now() > deadline {
                        return Err(Fault::Retry(format!("no transaction succeeds: {cause}")));
                    }
                    tracing::warn!(cause, "a transaction was aborted; it is tried again");
                    std::thread::park_timeout(BACK_OFF);
                }
            }
        }
    }

    fn transact(
        &self,
        records: &[Outgoing],
        group: &ConsumerGroupMetadata,
        notes: &TopicPartitionList,
    ) -> Result<(), Failed> {
        *self.delivered.0.lock().unwrap_or_else(PoisonError::into_inner) = vec![None; records.len()];
        self.producer.begin_transaction().map_err(|e| classify("a transaction cannot begin", &e))?;
        self.carry_out(records, group, notes).map_err(|failed| {
            // A record that the broker refuses is refused again: there is no use in trying.
            self.refused(records).map_or(failed, Failed::Fatal)
        })
    }

    fn carry_out(
        &self,
        records: &[Outgoing],
        group: &ConsumerGroupMetadata,
        notes: &TopicPartitionList,
    ) -> Result<(), Failed> {
        for (index, out) in records.iter().enumerate() {
            self.produce(index, out)?;
        }
        let sent = watched(&self.slot, "send_offsets_to_transaction", REQUEST_TIMEOUT, || {
            self.producer.send_offsets_to_transaction(notes, group, REQUEST_TIMEOUT)
        });
        sent.map_err(|e| classify("notes cannot be written", &e))?;
        let committed =
            watched(&self.slot, "commit_transaction", PATIENCE, || self.producer.commit_transaction(PATIENCE));
        committed.map_err(|e| classify("the transaction cannot be committed", &e))
    }

    fn produce(&self, index: usize, out: &Outgoing) -> Result<(), Failed> {
        let MemoryRecord { key, value, headers, timestamp_ms } = &out.record;
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: value.as_ref() }));
        let mut record: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(&self.topic, index)
            .partition(out.partition)
            .timestamp(timestamp_ms.unwrap_or(NO_TIMESTAMP))
            .headers(headers);
        (record.key, record.payload) = (key.as_deref(), value.as_deref());
        let deadline = Instant::now() + PATIENCE;
        loop {
            record = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => back,
                Err((error, _)) => {
                    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                    if let Some(place) = self.delivered.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)
                    {
                        *place = Some(Err(code));
                    }
                    return Err(classify("a record cannot be sent", &error));
                }
            };
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The first record that the broker refuses for good, named by where it came from.
    fn refused(&self, records: &[Outgoing]) -> Option<Fault> {
        let delivered = self.delivered.0.lock().unwrap_or_else(PoisonError::into_inner);
        let for_good = |code: &Code| {
            [Code::MessageSizeTooLarge, Code::InvalidRecord, Code::InvalidTimestamp, Code::InvalidMessageSize]
                .contains(code)
                || is_denied(*code)
        };
        let mut refused = records.iter().zip(delivered.iter()).filter_map(|(out, place)| {
            let code = place.and_then(Result::err).filter(for_good)?;
            Some((out, code))
        });
        let (out, code) = refused.next()?;
        // The last header says where the record came from; it is this program's own.
        let origin = out.record.headers.last().and_then(|(_, v)| v.as_deref()).map(String::from_utf8_lossy);
        Some(Fault::Fatal(format!(
            "{} refuses the record of {}: {code}; raise the topic's limits, or leave the record out",
            self.topic,
            origin.unwrap_or_default()
        )))
    }

    fn offsets(&self) -> Result<Vec<i64>, Fault> {
        let delivered = self.delivered.0.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = |d: &Option<Place>| d.and_then(Result::ok);
        let all: Option<Vec<i64>> = delivered.iter().map(offset).collect();
        all.ok_or_else(|| Fault::Fatal("a record was committed without a report of its place".into()))
    }
}

/// The notes under a group, by partition of `topic`: `None` where there is none. Waits out an open transaction of the sender.
pub fn read_notes(
    settings: &ClientSettings,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<Option<String>>, Fault> {
    let what = || format!("the notes of {group} cannot be read");
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition(topic, partition);
    }
    let found = client_of(settings, group)?.committed_offsets(asked, REQUEST_TIMEOUT);
    let mut notes = vec![None; partitions as usize];
    for element in found.map_err(|e| fault(&what(), &e))?.elements() {
        element.error().map_err(|e| fault(&what(), &e))?;
        if let (Offset::Offset(_), Some(note)) = (element.offset(), notes.get_mut(element.partition() as usize)) {
            *note = Some(element.metadata().to_owned());
        }
    }
    Ok(notes)
}

fn client_of(settings: &ClientSettings, group: &str) -> Result<BaseConsumer<Quiet>, Fault> {
    let settings = ClientSettings { group_id: group.to_owned(), ..settings.clone() };
    settings.stable_offsets().create_with_context(Quiet).map_err(|e| fault("the consumer cannot be made", &e))
}

/// What a failure inside a transaction demands.
fn classify(what: &str, error: &KafkaError) -> Failed {
    let text = format!("{what}: {error}");
    let code = error.rdkafka_error_code();
    let transaction = if let KafkaError::Transaction(transaction) = error { Some(transaction) } else { None };
    match code {
        Some(code) if is_fencing(code) => {
            Failed::Fatal(Fault::Fenced(format!("{text}: another process has taken over; only one may run at a time")))
        }
        Some(code) if is_denied(code) => Failed::Fatal(Fault::Fatal(format!("{text}; {GRANT}"))),
        _ if transaction.is_some_and(|t| t.txn_requires_abort()) => Failed::Abortable(text),
        // Whether it was committed is not known here: the next start of the same id decides it and reads the notes.
        _ => Failed::Fatal(Fault::Retry(text)),
    }
}
