//! Offsets that a partition's leader is asked for: its bounds, and the first record of a time.
//!
//! A client without subscription keeps what it has learned of a topic's leaders for `metadata.max.age.ms`, 15 minutes. Where
//! it has learned that a partition had none, in the moment between two leaders, it answers "unknown partition" from memory
//! for as long (`rd_kafka_topic_partition_list_get_leaders`, librdkafka 2.12.1). So what fails is asked once more after a
//! fresh look at the leaders.
//!
//! It must never take a partition for empty. `rd_kafka_query_watermark_offsets`, made for bounds, may: it asks for start and end
//! at once, and an answer to the second forgets that the first has failed. They are asked one after the other, as times are.

use super::settings::Quiet;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

/// A leader that has not answered within it may have been replaced meanwhile.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`bounds`] and [`offset_at`] may take: start and end, twice, and the fresh look between; and some room.
pub const OFFSETS_TIMEOUT: Duration = Duration::from_secs(30);

/// First offset of a partition, and its end as the client's isolation level shows it.
pub fn bounds(client: &BaseConsumer<Quiet>, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
    with_leader(client, topic, || {
        let known = |found: Option<i64>| found.ok_or(KafkaError::OffsetFetch(Code::BadMessage));
        let start = known(ask(client, topic, partition, Offset::Beginning)?)?;
        Ok((start, known(ask(client, topic, partition, Offset::End)?)?))
    })
}

/// The first offset whose record is not older than `at_ms`; `None` when all are.
pub fn offset_at(client: &BaseConsumer<Quiet>, topic: &str, partition: i32, at_ms: i64) -> KafkaResult<Option<i64>> {
    with_leader(client, topic, || ask(client, topic, partition, Offset::Offset(at_ms.max(0))))
}

/// The offset of a time in milliseconds since the epoch, of the start or of the end; `None` where no record is as new.
fn ask(client: &BaseConsumer<Quiet>, topic: &str, partition: i32, place: Offset) -> KafkaResult<Option<i64>> {
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(topic, partition, place)?;
    let found = client.offsets_for_times(places, LEADER_TIMEOUT)?;
    let elements = found.elements();
    let element = elements.first().ok_or(KafkaError::OffsetFetch(Code::BadMessage))?;
    element.error()?;
    match element.offset() {
        Offset::Offset(offset) => Ok(Some(offset)),
        Offset::End => Ok(None),
        _ => Err(KafkaError::OffsetFetch(Code::BadMessage)),
    }
}

fn with_leader<T>(client: &BaseConsumer<Quiet>, topic: &str, request: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    request().or_else(|_| {
        client.fetch_metadata(Some(topic), LEADER_TIMEOUT)?;
        request()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

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

    #[test]
    fn a_partition_with_records_is_never_taken_for_empty() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(TOPIC, 1, 1).unwrap();
        let bootstrap = kafka.bootstrap_servers();
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
        producer.send(BaseRecord::<(), _>::to(TOPIC).payload("a card")).ok().unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
        let client = client(&bootstrap);
        let (fails, goes) =
            (RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
        for errors in [[fails, goes], [goes, fails]].into_iter().cycle().take(100) {
            kafka.request_errors(RDKafkaApiKey::ListOffsets, &errors);
            assert_eq!(bounds(&client, TOPIC, 0).expect("its bounds, asked once more"), (0, 1));
        }
    }
}
