//! The ends of many logs in one request a broker; rdkafka has a request for each partition only.

use super::c_name;
use super::request::{answer, options};
use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaErrorCode;
use std::ffi::CStr;
use std::time::Duration;

/// A partition of a topic.
pub type LogPlace<'n> = (&'n str, i32);

/// The ends of logs: topic, partition and next offset; partitions whose leader did not answer are left out.
pub fn list_ends(
    rk: *mut rd::rd_kafka_t,
    logs: &[LogPlace<'_>],
    read_committed: bool,
    timeout: Duration,
) -> Result<Vec<(String, i32, i64)>, RDKafkaErrorCode> {
    let isolation = match read_committed {
        true => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        false => rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
    };
    let timeout_ms = timeout.as_millis() as i32;
    // SAFETY: a live client; the queue is this call's own, and what the answer says is copied.
    unsafe { answer(ask(rk, logs, isolation, timeout_ms), timeout_ms, read) }
}

/// Makes the threads of the logs' leaders look what is to be fetched: a request that nobody waits for.
///
/// librdkafka pauses all partitions while the group's event is unanswered, and takes the pause back without waking those threads,
/// which sleep up to a second when they have nothing to fetch (2.12: `rd_kafka_toppar_pause_resume`, `rd_kafka_broker_consumer_serve`).
pub fn wake_fetching(rk: *mut rd::rd_kafka_t, logs: &[LogPlace<'_>]) {
    let isolation = rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED;
    // SAFETY: a live client; the request has its own hold on the queue, whose destruction makes the client drop the answer.
    unsafe { rd::rd_kafka_queue_destroy(ask(rk, logs, isolation, WAKING_TIMEOUT_MS)) }
}

/// How long the client keeps a request whose answer nobody wants.
const WAKING_TIMEOUT_MS: i32 = 1000;

/// Asks for ends; the answer comes as an event of the queue, which is the caller's.
///
/// SAFETY: `rk` must be a live client.
unsafe fn ask(
    rk: *mut rd::rd_kafka_t,
    logs: &[LogPlace<'_>],
    isolation: rd::rd_kafka_IsolationLevel_t,
    timeout_ms: i32,
) -> *mut rd::rd_kafka_queue_t {
    // SAFETY: the caller's promise; list and options are destroyed once, after the request has copied them; an error object is
    // owned by the caller and destroyed.
    unsafe {
        let list = rd::rd_kafka_topic_partition_list_new(logs.len() as i32);
        for (topic, partition) in logs {
            let element = rd::rd_kafka_topic_partition_list_add(list, c_name(topic).as_ptr(), *partition);
            (*element).offset = rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64;
        }
        let options = options(rk, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout_ms);
        let refused = rd::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
        if !refused.is_null() {
            rd::rd_kafka_error_destroy(refused);
        }
        let queue = rd::rd_kafka_queue_new(rk);
        rd::rd_kafka_ListOffsets(rk, list, options, queue);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_topic_partition_list_destroy(list);
        queue
    }
}

/// SAFETY: `event` must be the live result of a ListOffsets request.
unsafe fn read(event: *mut rd::rd_kafka_event_t) -> Result<Vec<(String, i32, i64)>, RDKafkaErrorCode> {
    // SAFETY: the caller's promise; everything read belongs to the event.
    unsafe {
        let code = RDKafkaErrorCode::from(rd::rd_kafka_event_error(event));
        if code != RDKafkaErrorCode::NoError {
            return Err(code);
        }
        let result = rd::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let mut ends = Vec::with_capacity(count);
        for i in 0..count {
            let place = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
            if RDKafkaErrorCode::from(place.err) == RDKafkaErrorCode::NoError {
                let topic = CStr::from_ptr(place.topic).to_string_lossy().into_owned();
                ends.push((topic, place.partition, place.offset));
            }
        }
        Ok(ends)
    }
}
