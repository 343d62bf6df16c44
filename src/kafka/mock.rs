//! librdkafka's in-process Kafka, for the demo and tests of the loop's mechanics.
//!
//! It has no isolation, no fencing, no transactional offsets and no topic settings: nothing about exactly-once is proven on it.

use super::{Fault, TopicNames};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// A running mock cluster; ends when dropped.
pub struct MockKafka(MockCluster<'static, DefaultProducerContext>);

impl MockKafka {
    /// Starts one broker on loopback with the five topics.
    pub fn start(topics: &TopicNames, partitions: i32) -> Result<Self, Fault> {
        let failed =
            |e: rdkafka::error::KafkaError| Fault::Fatal(format!("the in-process Kafka cannot be started: {e}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        for topic in topics.all() {
            cluster.create_topic(topic, partitions, 1).map_err(failed)?;
        }
        Ok(Self(cluster))
    }

    /// A member's next heartbeat tells it that the group does not know it.
    #[cfg(test)]
    pub fn forget_member(&self) {
        use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
        self.0.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    }

    /// Where it listens.
    pub fn bootstrap_servers(&self) -> String {
        self.0.bootstrap_servers()
    }
}
