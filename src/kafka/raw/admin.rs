//! Descriptions of topics: the one place that tells a topic's id.

use super::c_name;
use super::request::{answer, options};
use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaErrorCode;
use std::ffi::CStr;
use std::time::Duration;

/// A topic as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id as 32 hex digits; all zero where the cluster has none.
    pub id: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// The fewest replicas that a partition has.
    pub replication: i32,
}

/// Describes topics; a missing one is `Err(UnknownTopicOrPartition)` in its place.
pub fn describe_topics(
    rk: *mut rd::rd_kafka_t,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<Result<TopicDescription, RDKafkaErrorCode>>, RDKafkaErrorCode> {
    let c_names: Vec<_> = names.iter().map(|n| c_name(n)).collect();
    let mut pointers: Vec<_> = c_names.iter().map(|n| n.as_ptr()).collect();
    let timeout_ms = timeout.as_millis() as i32;
    // SAFETY: a live client; names outlive the call that copies them; options and collection are destroyed once, the queue with
    // the answer, whose descriptions are copied.
    unsafe {
        let queue = rd::rd_kafka_queue_new(rk);
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let options = options(rk, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout_ms);
        rd::rd_kafka_DescribeTopics(rk, topics, options, queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
        rd::rd_kafka_AdminOptions_destroy(options);
        answer(queue, timeout_ms, read)
    }
}

/// SAFETY: `event` must be the live result of a DescribeTopics request.
unsafe fn read(
    event: *mut rd::rd_kafka_event_t,
) -> Result<Vec<Result<TopicDescription, RDKafkaErrorCode>>, RDKafkaErrorCode> {
    // SAFETY: the caller's promise; everything read belongs to the event.
    unsafe {
        let code = RDKafkaErrorCode::from(rd::rd_kafka_event_error(event));
        if code != RDKafkaErrorCode::NoError {
            return Err(code);
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        Ok((0..count).map(|i| describe(*topics.add(i))).collect())
    }
}

/// SAFETY: `topic` must be a live description.
unsafe fn describe(topic: *const rd::rd_kafka_TopicDescription_t) -> Result<TopicDescription, RDKafkaErrorCode> {
    // SAFETY: the caller's promise.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = RDKafkaErrorCode::from(rd::rd_kafka_error_code(error));
            if code != RDKafkaErrorCode::NoError {
                return Err(code);
            }
        }
        let id = rd::rd_kafka_TopicDescription_topic_id(topic);
        let (high, low) = if id.is_null() {
            (0, 0)
        } else {
            (rd::rd_kafka_Uuid_most_significant_bits(id), rd::rd_kafka_Uuid_least_significant_bits(id))
        };
        let mut partitions = 0;
        let infos = rd::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let replicas = |i: usize| {
            let mut replicas = 0;
            rd::rd_kafka_TopicPartitionInfo_replicas(*infos.add(i), &mut replicas);
            replicas as i32
        };
        Ok(TopicDescription {
            name: CStr::from_ptr(rd::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned(),
            id: format!("{high:016x}{low:016x}"),
            partitions: partitions as i32,
            replication: (0..partitions).map(replicas).min().unwrap_or(0),
        })
    }
}
