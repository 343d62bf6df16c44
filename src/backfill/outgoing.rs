//! What a record of the source becomes in the backfill topic, pure: its partition, its time, and the headers that say where
//! it came from.
//!
//! A source position is stamped only where it can be compared with those on the cards: the source is this worker's own
//! commands topic and the partition stays. Positions of another log would make a command look newer or older than it is.

use super::lines::card_of;
use crate::kafka::{MemoryRecord, Outgoing, Record};
use crate::wire::{REPLAY_ID, REPLAY_ORIGIN, REPLAY_SOURCE, Source, is_kept, partition_of};

/// The time of a record that has none and no comparable position: older than any card's accounts. Kafka's client takes 0 for
/// "now".
const OLDEST_MS: i64 = 1;

/// A time as it can be sent: Kafka's client takes 0 for "now", and brokers read one before 1970 as none, which is newer than all.
pub fn sendable_ms(timestamp_ms: i64) -> i64 {
    timestamp_ms.max(OLDEST_MS)
}

/// How a record finds its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// This worker's own commands topic: the partition stays, and positions are comparable.
    Own,
    /// Another log with as many partitions: the partition stays.
    Same,
    /// Another number of partitions: by key, as Java clients do.
    ByKey,
}

/// What a replay puts on its commands.
#[derive(Clone, Debug)]
pub struct Stamp {
    id: String,
    origin: String,
    placing: Placing,
    /// Partitions of the backfill topic.
    pub partitions: i32,
}

impl Stamp {
    /// For records of a topic.
    pub fn of_topic(id: &str, topic: &str, placing: Placing, partitions: i32) -> Self {
        Self { id: id.to_owned(), origin: topic.to_owned(), placing, partitions }
    }

    /// For lines of a file.
    pub fn of_file(id: &str, name: &str, partitions: i32) -> Self {
        Self { id: id.to_owned(), origin: name.to_owned(), placing: Placing::ByKey, partitions }
    }

    /// The topic or file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Where a key belongs.
    pub fn partition_of_key(&self, key: &[u8]) -> i32 {
        partition_of(key, self.partitions)
    }

    /// Where a record without a key belongs: with its card, and without one anywhere.
    fn partition_of_card(&self, record: &Record) -> i32 {
        let card = card_of(record.value());
        card.map_or(record.partition % self.partitions, |card| self.partition_of_key(card.to_string().as_bytes()))
    }

    /// A record of the source topic as it is sent.
    pub fn from_topic(&self, record: &Record) -> Outgoing {
        let partition = match (self.placing, record.key()) {
            (Placing::ByKey, Some(key)) => self.partition_of_key(key),
            (Placing::ByKey, None) => self.partition_of_card(record),
            (Placing::Own | Placing::Same, _) => record.partition,
        };
        let mut source = Vec::new();
        Source { topic: &self.origin, partition: record.partition, offset: record.offset }.write(&mut source);
        let (name, oldest) = match self.placing {
            Placing::Own => (REPLAY_SOURCE, None),
            Placing::Same | Placing::ByKey => (REPLAY_ORIGIN, Some(OLDEST_MS)),
        };
        let kept = record.headers().filter(|(name, _)| is_kept(name));
        let mut headers: Vec<_> = kept.map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect();
        headers.push((REPLAY_ID.to_owned(), Some(self.id.clone().into_bytes())));
        headers.push((name.to_owned(), Some(source)));
        let record = MemoryRecord {
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            headers,
            timestamp_ms: record.timestamp_ms().map(sendable_ms).or(oldest),
        };
        Outgoing { partition, record }
    }

    /// A record of a file as it is sent; `line` counts from 1.
    pub fn from_file(&self, mut record: MemoryRecord, line: i64) -> MemoryRecord {
        record.headers.retain(|(name, _)| is_kept(name));
        record.headers.push((REPLAY_ID.to_owned(), Some(self.id.clone().into_bytes())));
        let origin = format!("{}:{line}", self.origin);
        record.headers.push((REPLAY_ORIGIN.to_owned(), Some(origin.into_bytes())));
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Body;

    fn record(timestamp_ms: Option<i64>) -> Record {
        let forged = (REPLAY_SOURCE.to_owned(), Some(b"card-update.commands/2/999".to_vec()));
        let headers = vec![("traceparent".to_owned(), Some(b"t".to_vec())), forged];
        let memory = MemoryRecord { key: Some(b"abc".to_vec()), value: Some(b"v".to_vec()), headers, timestamp_ms };
        Record { partition: 2, offset: 41, body: Body::Memory(Box::new(memory)) }
    }

    fn sent(placing: Placing, partitions: i32, timestamp_ms: Option<i64>) -> (i32, Option<i64>, Vec<(String, String)>) {
        let out = Stamp::of_topic("r1", "t", placing, partitions).from_topic(&record(timestamp_ms));
        let text = |v: &Option<Vec<u8>>| String::from_utf8(v.clone().unwrap()).unwrap();
        let headers = out.record.headers.iter().map(|(n, v)| (n.clone(), text(v))).collect();
        (out.partition, out.record.timestamp_ms, headers)
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_record_of_the_own_topic_keeps_partition_time_and_position() {
        let wanted = pairs(&[("traceparent", "t"), ("replay-id", "r1"), ("replay-source", "t/2/41")]);
        assert_eq!(sent(Placing::Own, 8, Some(77)), (2, Some(77), wanted.clone()));
        assert_eq!(sent(Placing::Own, 8, None), (2, None, wanted.clone()), "its position tells, it needs no time");
        assert_eq!(sent(Placing::Own, 8, Some(0)), (2, Some(1), wanted), "0 would be sent as now");
    }

    #[test]
    fn a_record_of_another_log_carries_no_position_to_compare() {
        let wanted = pairs(&[("traceparent", "t"), ("replay-id", "r1"), ("replay-origin", "t/2/41")]);
        assert_eq!(sent(Placing::Same, 8, Some(77)), (2, Some(77), wanted.clone()));
        assert_eq!(sent(Placing::ByKey, 8, Some(77)), (479_470_107 % 8, Some(77), wanted.clone()));
        assert_eq!(sent(Placing::Same, 8, None), (2, Some(1), wanted), "without a time it is older than all");
    }
}
