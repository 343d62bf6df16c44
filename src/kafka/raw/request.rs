//! What the client's administrative requests have in common: options with a time-out, and the wait for the one event that answers.

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaErrorCode;

/// How long after a request's own time-out its answer is still waited for, milliseconds: the time-out is an answer too.
const ARRIVAL_MS: i32 = 1000;

/// Options of a request with a time-out. The caller destroys them.
///
/// SAFETY: `rk` must be a live client.
pub unsafe fn options(
    rk: *mut rd::rd_kafka_t,
    request: rd::rd_kafka_admin_op_t,
    timeout_ms: i32,
) -> *mut rd::rd_kafka_AdminOptions_t {
    let mut why = [0; 128];
    // SAFETY: the caller's promise; the text's length is passed on.
    unsafe {
        let options = rd::rd_kafka_AdminOptions_new(rk, request);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why.as_mut_ptr(), why.len());
        options
    }
}

/// Waits for the answer on a request's queue, which is destroyed, and reads it.
///
/// SAFETY: `queue` must be the caller's own, and `read` must take the event of its request for no longer than the call.
pub unsafe fn answer<T>(
    queue: *mut rd::rd_kafka_queue_t,
    timeout_ms: i32,
    read: unsafe fn(*mut rd::rd_kafka_event_t) -> Result<T, RDKafkaErrorCode>,
) -> Result<T, RDKafkaErrorCode> {
    // SAFETY: the caller's promise; the event is destroyed once, after it was read, and so is the queue.
    unsafe {
        let event = rd::rd_kafka_queue_poll(queue, timeout_ms + ARRIVAL_MS);
        let answer = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { read(event) };
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
        answer
    }
}
