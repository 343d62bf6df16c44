//! Offsets that a partition's leader is asked for: its bounds, and the first record of a time.
//!
//! A client without subscription keeps what it has learned of a topic's leaders for `metadata.max.age.ms`, 15 minutes. Where
//! it has learned that a partition had none, in the moment between two leaders, it answers "unknown partition" from memory
//! for as long (`rd_kafka_topic_partition_list_get_leaders`, librdkafka 2.12.1). So what fails is asked once more after a
//! fresh look at the leaders. It must never take a partition for empty.

use super::settings::Quiet;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

/// A leader that has not answered within it may have been replaced meanwhile.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`bounds`] and [`offset_at`] may take: looking for the leader and asking it, twice, and the fresh look between.
pub const OFFSETS_TIMEOUT: Duration = Duration::from_secs(25);

/// First offset of a partition, and its end as the client's isolation level shows it.
pub fn bounds(client: &BaseConsumer<Quiet>, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
    ask(client, topic, || client.fetch_watermarks(topic, partition, LEADER_TIMEOUT))
}

/// The first offset whose record is not older than `at_ms`; `None` when all are.
pub fn offset_at(client: &BaseConsumer<Quiet>, topic: &str, partition: i32, at_ms: i64) -> KafkaResult<Option<i64>> {
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, partition, Offset::Offset(at_ms.max(0)))?;
    let found = ask(client, topic, || {
        let found = client.offsets_for_times(times.clone(), LEADER_TIMEOUT)?;
        found.elements().iter().try_for_each(|element| element.error())?;
        Ok(found)
    })?;
    Ok(found.elements().first().and_then(|element| match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

fn ask<T>(client: &BaseConsumer<Quiet>, topic: &str, mut request: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    request().or_else(|_| {
        client.fetch_metadata(Some(topic), LEADER_TIMEOUT)?;
        request()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;
    use rdkafka::error::RDKafkaErrorCode as Code;
    use rdkafka::mocking::MockCluster;

    const TOPIC: &str = "cards";

    fn client(bootstrap: &str) -> BaseConsumer<Quiet> {
        ClientConfig::new().set("bootstrap.servers", bootstrap).create_with_context(Quiet).unwrap()
    }

    #[test]
    fn a_partition_that_had_no_leader_is_asked_as_soon_as_it_has_one() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(TOPIC, 1, 1).unwrap();
        let client = client(&kafka.bootstrap_servers());
        kafka.partition_leader(TOPIC, 0, None).unwrap();
        let error = bounds(&client, TOPIC, 0).expect_err("it has no leader");
        assert_eq!(error.rdkafka_error_code(), Some(Code::UnknownPartition), "the client's word for it");
        assert!(offset_at(&client, TOPIC, 0, 0).is_err());
        kafka.partition_leader(TOPIC, 0, Some(1)).unwrap();
        assert_eq!(bounds(&client, TOPIC, 0).expect("its bounds"), (0, 0));
        kafka.partition_leader(TOPIC, 0, None).unwrap();
        bounds(&client, TOPIC, 0).expect_err("it has no leader");
        kafka.partition_leader(TOPIC, 0, Some(1)).unwrap();
        assert_eq!(offset_at(&client, TOPIC, 0, 0).expect("the offset of a time"), None);
    }
}
