//! What a restore asks of Kafka: stable offsets, true ends, and the changelogs, committed records only.
//!
//! Three clients, since the isolation level belongs to the client: a read_committed one would give the last stable offset
//! for the end, which can lag behind committed data.

use super::error::{GRANT, fault, is_denied};
use super::group::committed;
use super::offsets::{OFFSETS_TIMEOUT, bounds, offset_at};
use super::raw::{RawReader, ReadEvent};
use super::settings::{Quiet, REQUEST_TIMEOUT, watched};
use super::{Changelog, ClientSettings, Fault, Input, InputOffsets, ReadStep, Reader, Record, Slot};
use rdkafka::consumer::BaseConsumer;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::time::Duration;

/// Records taken at once.
const BATCH: usize = 4096;

/// The reader over real clients.
pub struct KafkaReader {
    settings: ClientSettings,
    stable: BaseConsumer<Quiet>,
    ends: BaseConsumer<Quiet>,
    reader: RawReader<Quiet>,
    slot: Slot,
}

/// Which log a topic's number stands for.
const LOGS: [Changelog; 3] = [Changelog::Cards, Changelog::Completions, Changelog::DeadLetters];

impl KafkaReader {
    /// Makes the clients; they connect when first asked.
    pub fn new(settings: &ClientSettings, slot: Slot) -> Result<Self, Fault> {
        let make = |config: rdkafka::ClientConfig| {
            config
                .create_with_context::<Quiet, BaseConsumer<Quiet>>(Quiet)
                .map_err(|e| fault("a reader cannot be made", &e))
        };
        let topics = &settings.topics;
        let names = [topics.cards.as_str(), &topics.completions, &topics.dead_letters];
        let reader = RawReader::new(make(settings.reader())?, &names);
        Ok(Self {
            stable: make(settings.stable_offsets())?,
            ends: make(settings.uncommitted())?,
            reader: reader.ok_or_else(|| Fault::Fatal("no memory for a reader".into()))?,
            settings: settings.clone(),
            slot,
        })
    }

    fn name(&self, log: Changelog) -> &str {
        match log {
            Changelog::Cards => &self.settings.topics.cards,
            Changelog::Completions => &self.settings.topics.completions,
            Changelog::DeadLetters => &self.settings.topics.dead_letters,
        }
    }

    fn bounds_of(&self, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
        watched(&self.slot, "offsets::bounds", OFFSETS_TIMEOUT, || bounds(&self.ends, topic, partition))
            .map_err(|e| fault(&format!("the bounds of {topic} partition {partition}"), &e))
    }
}

impl Reader for KafkaReader {
    fn committed(&mut self, partitions: &[i32]) -> Result<Vec<(i32, InputOffsets)>, Fault> {
        committed(&self.stable, &self.settings, &self.slot, partitions)
    }

    fn input_bounds(&mut self, input: Input, partition: i32) -> Result<(i64, i64), Fault> {
        let topic = match input {
            Input::Live => &self.settings.topics.commands,
            Input::Backfill => &self.settings.topics.backfill,
        };
        self.bounds_of(topic, partition)
    }

    fn bounds(&mut self, log: Changelog, partition: i32) -> Result<(i64, i64), Fault> {
        self.bounds_of(self.name(log), partition)
    }

    fn offset_at(&mut self, log: Changelog, partition: i32, at_ms: i64) -> Result<Option<i64>, Fault> {
        let ask = || offset_at(&self.ends, self.name(log), partition, at_ms);
        watched(&self.slot, "offsets::offset_at", OFFSETS_TIMEOUT, ask)
            .map_err(|e| fault("an offset by time cannot be read", &e))
    }

    fn start(&mut self, log: Changelog, partition: i32, offset: i64) -> Result<(), Fault> {
        let started = watched(&self.slot, "consume_start", REQUEST_TIMEOUT, || {
            self.reader.start(log as usize, partition, offset)
        });
        let text = || Fault::Retry(format!("{} partition {partition} cannot be read", self.name(log)));
        if started { Ok(()) } else { Err(text()) }
    }

    fn stop(&mut self, log: Changelog, partition: i32) {
        watched(&self.slot, "consume_stop", REQUEST_TIMEOUT, || self.reader.stop(log as usize, partition));
    }

    fn read(&mut self, wait: Duration, each: &mut dyn FnMut(ReadStep)) {
        let _guard = self.slot.enter("consume_batch_queue", wait);
        let topics = &self.settings.topics;
        let names = [&topics.cards, &topics.completions, &topics.dead_letters];
        self.reader.take(wait.as_millis() as i32, BATCH, |ReadEvent { topic, message }| {
            let (log, partition) = (LOGS[topic], message.partition());
            each(match message.error() {
                None => ReadStep::Record(log, Record::new(message)),
                Some(Code::PartitionEOF) => ReadStep::End(log, partition, message.offset()),
                Some(code @ (Code::AutoOffsetReset | Code::OffsetOutOfRange)) => {
                    let cause = format!("{} partition {partition} was trimmed while it was read: {code}", names[topic]);
                    ReadStep::Failed(log, partition, Fault::Restore { partition, cause })
                }
                Some(code) if is_denied(code) => {
                    let cause = format!(
                        "{} partition {partition} cannot be read: {code}; grant Read on it; {GRANT}",
                        names[topic]
                    );
                    ReadStep::Failed(log, partition, Fault::Fatal(cause))
                }
                Some(code) => {
                    let cause = format!("{} partition {partition}: {code}", names[topic]);
                    ReadStep::Failed(log, partition, Fault::Retry(cause))
                }
            });
        });
    }

    fn last_stable_offset(&mut self, log: Changelog, partition: i32) -> Option<i64> {
        let ask = || bounds(self.reader.consumer(), self.name(log), partition);
        watched(&self.slot, "offsets::bounds", OFFSETS_TIMEOUT, ask).ok().map(|(_, end)| end)
    }
}
